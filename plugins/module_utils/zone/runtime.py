# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The zone bases in the store of a host: the small read-only systems that zones boot into.

A zone that runs an older base keeps it until it is started anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store

BOOT = "boot"
CURRENT = "current.json"


class Runtime(NamedTuple):
    """A zone base in the store. ``base`` is its file system file, of the type ``filesystem``; ``boot`` and ``busybox`` go into initrds."""

    digest: str
    filesystem: str
    directory: Path

    @property
    def base(self) -> Path:
        """The file system that every zone of this runtime shares."""
        return self.directory / "base.img"

    @property
    def boot(self) -> Path:
        """The first program of a zone."""
        return self.directory / BOOT

    @property
    def seccomp(self) -> Path:
        """The profile of system calls for containers, as :mod:`seccomp` takes it."""
        return self.directory / "seccomp.json"

    @property
    def busybox(self) -> Path:
        """The static shell and tools that ``boot`` needs before the base is mounted."""
        return self.directory / "busybox"


def stored(store: Store) -> set[str]:
    """The digests of all zone bases in the store."""
    return {f"sha256:{path.parent.name}" for path in store.runtime.glob("*/runtime.json")}


def find_current(store: Store) -> Runtime | None:
    """The runtime that new zones get, ``None`` if the host has none yet."""
    try:
        return load(store, json.loads((store.runtime / CURRENT).read_bytes())["digest"])
    except FileNotFoundError:
        return None


def current_digest(store: Store) -> str | None:
    """The digest of the runtime that new zones get, ``None`` if the host has none yet."""
    found = find_current(store)
    return found.digest if found else None


def current(store: Store) -> Runtime:
    """The runtime that new zones get.

    :raises RingfenceError: when the host has none yet.
    """
    found = find_current(store)
    if found is None:
        raise RingfenceError("this host has no zone runtime; apply the role ringfence.zones.runtime first")
    return found


def load(store: Store, digest: str) -> Runtime:
    """The runtime with this digest."""
    entry = store.runtime / digest.removeprefix("sha256:")
    return Runtime(directory=entry, **json.loads((entry / "runtime.json").read_bytes()))
