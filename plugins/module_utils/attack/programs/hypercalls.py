# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the hypervisor for what only the host may have, by the kernel's device for hypercalls.

Source of the numbers and structures: Xen's public headers domctl.h, sysctl.h, platform.h, memory.h; Linux's uapi/xen/privcmd.h.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct

_DEVICE = "/attack/dev/xen/privcmd"
_HYPERCALL, _MAP_FOREIGN = 0x305000, 0x205004
_PLATFORM, _MEMORY, _VERSION, _SYSCTL, _DOMCTL = 7, 12, 17, 35, 36
_WRONG_VERSION = 13
"""EACCES: the interface has another version, which the hypervisor says before it looks who asks."""

_VERSIONS = {_SYSCTL: range(0x10, 0x30), _DOMCTL: range(0x10, 0x30), _PLATFORM: range(0x03000000, 0x03000008)}


def attack(domain: int, frame: int) -> list[list[object]]:
    """Ask.

    :param domain: another zone.
    :param frame: of that zone's memory, as the tool stack tells it.
    """
    if not os.path.exists(_DEVICE):
        return [["reach the hypervisor", None, "this kernel has no device for hypercalls, and takes no driver for it"]]
    device = os.open(_DEVICE, os.O_RDWR)
    pages = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
    buffer = ctypes.addressof(ctypes.c_char.from_buffer(pages))

    def call(number: int, first: int, content: bytes) -> int:
        pages[: len(content)] = content
        arguments = [buffer, 0] if number in (_PLATFORM, _SYSCTL, _DOMCTL) else [first, buffer]
        return fcntl.ioctl(device, _HYPERCALL, bytearray(struct.pack("<6Q", number, *arguments, 0, 0, 0)))

    def versioned(number: int, command: int, rest: bytes) -> int:
        for version in _VERSIONS[number]:
            try:
                return call(number, 0, struct.pack("<II", command, version) + rest.ljust(256, b"\0"))
            except OSError as error:
                if error.errno != _WRONG_VERSION:
                    raise
        raise OSError(_WRONG_VERSION, "no version of the interface is accepted")

    def foreign() -> int:
        target = mmap.mmap(device, mmap.PAGESIZE, flags=mmap.MAP_SHARED)
        address = ctypes.addressof(ctypes.c_char.from_buffer(target))
        frames, errors = ctypes.c_uint64(frame), ctypes.c_int32(0)
        request = struct.pack("<IHxxQQQ", 1, domain, address, ctypes.addressof(frames), ctypes.addressof(errors))
        fcntl.ioctl(device, _MAP_FOREIGN, bytearray(request))
        if errors.value:
            raise OSError(-errors.value, os.strerror(-errors.value))
        return 0

    whom = struct.pack("<Q", domain)
    asked = {
        "ask about another zone (domctl)": lambda: versioned(_DOMCTL, 5, whom),
        "pause another zone (domctl)": lambda: versioned(_DOMCTL, 3, whom) or versioned(_DOMCTL, 4, whom),
        "ask about the machine (sysctl)": lambda: versioned(_SYSCTL, 3, b""),
        "ask about the processor (platform_op)": lambda: versioned(_PLATFORM, 55, b""),
        "ask for another zone's memory size (memory_op)": lambda: call(_MEMORY, 3, whom),
        "map another zone's memory": foreign,
    }
    try:
        call(_VERSION, 0, b"")
    except OSError as error:
        return [["reach the hypervisor", None, f"this kernel passes no hypercall on: {os.strerror(error.errno or 0)}"]]
    told: list[list[object]] = [["reach the hypervisor", True, "it tells its version"]]
    for label, ask in asked.items():
        try:
            told.append([label, True, f"it answers {ask()}"])
        except OSError as error:
            told.append([label, False, os.strerror(error.errno or 0)])
    return told
