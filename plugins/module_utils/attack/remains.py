# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look for what one zone has left in memory and on disks that the next one is given, and what that is."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct

from ansible_collections.ringfence.zones.plugins.module_utils.attack.programs import disk
from ansible_collections.ringfence.zones.plugins.module_utils.attack.result import Attempt
from ansible_collections.ringfence.zones.plugins.module_utils.attack.zones import NAMES, VOLUME, Zones, escaping
from ansible_collections.ringfence.zones.plugins.module_utils.zone import volumes

_MEMORY, _DISK = 11, 12
_DISKS = ["/attack/dev/xvdc", "/attack/dev/xvdd"]
_PAGES_OF_A_MIB = 256

# Source: Xen's public headers memory.h and domctl.h; Linux's uapi/xen/privcmd.h.
_HYPERCALL, _MEMORY_OP, _DOMCTL = 0x305000, 12, 36
_LAST_FRAME, _FRAMES_OF = 2, 61
_OF_ANOTHER = 0xF
_WRONG_VERSION = 13
_VERSIONS = range(0x10, 0x30)
_AT_ONCE = 1024
_MOST_FRAMES = 1 << 24
"""Of the machine's memory that is asked for: 64 GiB take seconds."""


def frames(zones: Zones, name: str) -> set[int]:
    """The frames of the machine's memory that a zone has; none if they cannot be told, as of PVH zones, which have numbers of their own."""
    if zones.definitions[name].mode != "pv":
        return set()
    device = os.open("/dev/xen/privcmd", os.O_RDWR)
    pages = mmap.mmap(-1, 3 * mmap.PAGESIZE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
    buffer, size = ctypes.addressof(ctypes.c_char.from_buffer(pages)), _AT_ONCE * 8

    def call(number: int, first: int, second: int = 0) -> int:
        return fcntl.ioctl(device, _HYPERCALL, bytearray(struct.pack("<6Q", number, first, second, 0, 0, 0)))

    def ask(version: int, begin: int) -> tuple[int, ...]:
        pages[:size] = struct.pack(f"<{_AT_ONCE}Q", *range(begin, begin + _AT_ONCE))
        asked = struct.pack("<IIQQQ", _FRAMES_OF, version, zones.numbers[name], _AT_ONCE, buffer)
        pages[size : size + len(asked)] = asked
        call(_DOMCTL, buffer + size)
        return struct.unpack_from(f"<{_AT_ONCE}Q", pages)

    def accepted(version: int) -> bool:
        try:
            ask(version, 0)
        except OSError as error:
            if error.errno != _WRONG_VERSION:
                raise
            return False
        return True

    try:
        version = next(filter(accepted, _VERSIONS))
        last = min(call(_MEMORY_OP, _LAST_FRAME), _MOST_FRAMES)
        return {
            begin + number
            for begin in range(0, last + 1, _AT_ONCE)
            for number, kind in enumerate(ask(version, begin))
            if kind >> 28 != _OF_ANOTHER
        }
    except (OSError, StopIteration):
        return set()
    finally:
        os.close(device)


def in_memory(zones: Zones, before: set[int], token: str) -> list[Attempt]:
    """Look for the pattern with which a zone had filled its memory, in the zone that began after it had died.

    :param before: the frames that the zone had which died.
    """
    name = NAMES[0]
    given = len(before & frames(zones, name)) // _PAGES_OF_A_MIB
    escape = escaping(token)
    said = zones.inside(name, [escape, ("memory", {"scan": f"{token}-before"})])["memory"]
    control = next(iter(zones.inside(name, [("memory", {"free": f"{token}-now"})])["memory"].values()), (None, "it did not look"))
    return [
        Attempt(_MEMORY, f"{name}: {label}", found if given else None, f"{told}; {given} MiB were the other's before", *control)
        for label, (found, told) in said.items()
    ]


def on_disks(zones: Zones, token: str) -> list[Attempt]:
    """Write to all disks of a zone, remove it and its volume, make both anew, and look."""
    name = NAMES[1]
    escape = escaping(token)
    written = zones.inside(name, [escape, ("disk", {"name": token, "disks": _DISKS, "write": True})])["disk"]
    on_host = disk.pattern(token) in volumes.path(zones.store, VOLUME).read_bytes()
    zones.renew(name)
    said = zones.inside(name, [escape, ("disk", {"name": token, "disks": _DISKS})])["disk"]
    attempts = []
    for label, (found, told) in said.items():
        control, control_told = written.get(label, (None, "it was not written"))
        attempts.append(Attempt(_DISK, f"{name}: {label}", found, told, control and on_host, f"before it was removed: {control_told}"))
    return attempts
