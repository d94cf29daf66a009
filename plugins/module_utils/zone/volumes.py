# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Named volumes of a host: a file each, which is the disk of one zone. Created, grown, never shrunk, deleted only when declared absent.

The host makes the file system of a new volume, and never reads one again: what is in it is the zone's word. The zone itself grows the
file system to the size of its disk when it starts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ansible_collections.ringfence.zones.plugins.module_utils import disk_space
from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration
from ansible_collections.ringfence.zones.plugins.module_utils.spec.fields import MIB
from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Volume
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store

CREATE = "create"
GROW = "grow"
REMOVE = "remove"
KEEP = "keep"

_MKFS = ("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1,nodiscard")


class Change(NamedTuple):
    """What happens to one volume; ``before`` and ``after`` are sizes in MiB, ``None`` where there is no such volume."""

    name: str
    action: str
    before: int | None
    after: int | None

    @property
    def result(self) -> dict[str, Any]:
        """For the module's caller."""
        return {"name": self.name, "action": self.action, "size": self.after, "changed": self.action != KEEP}


def path(store: Store, name: str) -> Path:
    """The file of a volume."""
    return store.volumes / f"{name}.img"


def existing(store: Store) -> dict[str, int]:
    """The volumes that the host has, with their sizes in MiB."""
    return {file.stem: file.stat().st_size // MIB for file in store.volumes.glob("*.img")}


def outgrown(store: Store, block_devices: Path = Path("/sys/block")) -> dict[str, Change]:
    """The volumes that are larger than the disk that their zone has, by name: a run was killed before it started the zone anew."""
    found = {}
    for backing in block_devices.glob("loop*/loop/backing_file"):
        try:
            file = Path(backing.read_text(encoding="utf-8", errors="replace").rstrip("\n"))
            if file.parent != store.volumes:
                continue
            disk, size = int((backing.parents[1] / "size").read_text()) * 512 // MIB, file.stat().st_size // MIB
        except OSError:
            continue  # It has been detached in between, or its file is deleted.
        if disk < size:
            found[file.stem] = Change(file.stem, GROW, disk, size)
    return found


def changes(declared: Sequence[Volume], before: Mapping[str, int]) -> list[Change]:
    """What leads from the volumes that there are to those that are declared. A volume that is not declared stays as it is.

    :raises InvalidDeclaration: for a volume that would have to shrink.
    """
    planned = []
    problems = []
    for volume in sorted(declared, key=lambda volume: volume.name):
        size = before.get(volume.name)
        if volume.state == "absent":
            planned.append(Change(volume.name, KEEP if size is None else REMOVE, size, None))
        elif size is None:
            planned.append(Change(volume.name, CREATE, None, volume.size))
        elif size > volume.size:
            problems.append(f"volume {volume.name}: size: {volume.size}MiB is not accepted; it has {size} MiB, and a volume never shrinks")
        else:
            planned.append(Change(volume.name, KEEP if size == volume.size else GROW, size, volume.size))
    if problems:
        raise InvalidDeclaration(problems)
    return planned


def check_space(store: Store, planned: Sequence[Change]) -> None:
    """Refuse volumes that the host's disk has no room for; they take their whole size from the beginning.

    :raises InvalidDeclaration: naming them.
    """
    growing = [change for change in planned if change.action in (CREATE, GROW)]
    needed = sum((change.after or 0) - (change.before or 0) for change in growing)
    free = disk_space.free(store.root) // MIB
    if needed > free:
        names = ", ".join(f"{change.name} {change.after} MiB" for change in growing)
        raise InvalidDeclaration([f"volumes: {names}: they need {needed} MiB more, and {store.root} has {free} MiB free; declare less"])


def apply(store: Store, change: Change) -> None:
    """Create, grow or delete one volume.

    :raises OSError: when the disk has no room left.
    :raises RingfenceError: when mkfs.ext4 fails.
    """
    target = path(store, change.name)
    if change.action == REMOVE:
        target.unlink(missing_ok=True)
    elif change.action == CREATE and change.after:
        store.volumes.mkdir(mode=0o700, parents=True, exist_ok=True)
        with store.workspace() as workspace:
            new = workspace / target.name
            with open(new, "xb") as handle:
                os.fchmod(handle.fileno(), 0o600)
                os.posix_fallocate(handle.fileno(), 0, change.after * MIB)
                run([*_MKFS, str(new)])
                os.fsync(handle.fileno())
            os.rename(new, target)
    elif change.action == GROW and change.after:
        with open(target, "r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, change.after * MIB)
            os.fsync(handle.fileno())
