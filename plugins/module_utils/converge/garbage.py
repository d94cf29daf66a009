# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images, kernels and zone bases that nothing uses any more, and deleting them.

The last few stay, because going back to one must not need the network: a directory's time of change says when a zone last started
with it. An unused zone base is deleted at once, for no declaration can name it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.image import images
from ansible_collections.ringfence.zones.plugins.module_utils.kernel import kernels
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.zone import runtime
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import Definition


class Unused(NamedTuple):
    """A directory of the store that nothing refers to; ``kind`` is ``image``, ``kernel`` or ``zone base``."""

    kind: str
    directory: Path

    def __str__(self) -> str:
        return f"{self.kind} sha256:{self.directory.name}"


def unused(store: Store, definitions: Iterable[Definition], keep: int) -> list[Unused]:
    """What can be deleted.

    :param definitions: those of every zone of the host.
    :param keep: how many unused images, and how many unused kernels, stay; the last used ones.
    """
    of_zones = list(definitions)
    used_kernels = {definition.kernel for definition in of_zones} | kernels.named(store)
    used_bases = {definition.runtime for definition in of_zones}
    current = runtime.find_current(store)
    if current:
        used_bases.add(current.digest)
    found = [Unused("image", path) for path in _without(images.present(store), {one.image for one in of_zones}, store.images, keep)]
    found += [Unused("kernel", path) for path in _without(kernels.stored(store), used_kernels, store.kernels, keep)]
    found += [Unused("zone base", path) for path in _without(runtime.stored(store), used_bases, store.runtime, 0)]
    return found


def mark_used(*directories: Path) -> None:
    """Remember that a zone starts with these now."""
    for directory in directories:
        os.utime(directory)


def delete(store: Store, directory: Path) -> None:
    """Delete a directory, and the loop device that zones shared. It leaves the store at once as a whole, whenever a run is killed."""
    for device in _loop_devices(directory):
        run(["losetup", "--detach", device])
    with store.workspace() as workspace:
        os.rename(directory, workspace / directory.name)


def delete_layers(store: Store, wanted: Collection[str]) -> None:
    """Delete the kept layers that no image in the store has, but for the ``wanted`` ones. No zone uses them, so this changes nothing."""
    used = set(wanted)
    for digest in images.present(store):
        with contextlib.suppress(RingfenceError):
            used.update(images.load(store, digest).layers)
    for path in store.layers.glob("*/*"):
        if f"{path.parent.name}:{path.name}" not in used:
            path.unlink()


def _without(digests: Collection[str], used: Collection[str], parent: Path, keep: int) -> list[Path]:
    directories = [parent / digest.removeprefix("sha256:") for digest in digests if digest not in used]
    return sorted(directories, key=lambda path: (path.stat().st_mtime, path.name), reverse=True)[keep:]


def _loop_devices(directory: Path) -> list[str]:
    listed = run(["losetup", "--list", "--noheadings", "--raw", "--output", "NAME,BACK-FILE"]).decode()
    rows = (line.partition(" ")[::2] for line in listed.splitlines())
    return [device for device, file in rows if file.startswith(f"{directory}/")]
