# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Share memory and an event channel with the host, or take what another zone shares with it.

Source of the structures: Linux's include/uapi/xen/gntdev.h, gntalloc.h and evtchn.h.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time

_PAGE = 4096
_DEVICES = "/attack/dev/xen"
_MAP_GRANT, _ALLOCATE = 0x184700, 0x184705
_BIND_INTERDOMAIN, _BIND_UNBOUND = 0x84501, 0x44502
_WRITABLE = 1
_HELD = 900
"""Seconds; the zone ends before."""


def attack(
    share: str = "", domain: int = 0, references: list[int] | None = None, ports: list[int] | None = None, token: str = ""
) -> list[list[object]]:
    """Share with domain 0 and keep it so in a process of its own, or take what another domain shares.

    :param share: what to write into the shared page; else take.
    :param domain: whose references and ports are tried. The host, for which they are, must not try all: others of its programs wait there.
    :param token: what the shared page holds.
    """
    return _share(share) if share else [*_take_memory(domain, references or [], token), *_take_ports(domain, ports or [])]


def _share(content: str) -> list[list[object]]:
    memory = os.open(f"{_DEVICES}/gntalloc", os.O_RDWR)
    request = bytearray(struct.pack("<HHIQI4x", 0, _WRITABLE, 1, 0, 0))
    fcntl.ioctl(memory, _ALLOCATE, request)
    _domain, _flags, _count, index, reference = struct.unpack("<HHIQI4x", request)
    page = mmap.mmap(memory, _PAGE, offset=index)
    page[: len(content)] = content.encode()
    events = os.open(f"{_DEVICES}/evtchn", os.O_RDWR)
    port = fcntl.ioctl(events, _BIND_UNBOUND, bytearray(struct.pack("<I", 0)))
    if os.fork() == 0:
        # Holds both until the zone ends, and no stream by which somebody would wait for it.
        os.setsid()
        for stream in range(3):
            os.close(stream)
        time.sleep(_HELD)
        os._exit(0)
    return [["reference", None, str(reference)], ["port", None, str(port)]]


def _take_memory(domain: int, references: list[int], token: str) -> list[list[object]]:
    device = os.open(f"{_DEVICES}/gntdev", os.O_RDWR)
    found, said = None, "none was given"
    for reference in references:
        request = bytearray(struct.pack("<IIQII", 1, 0, 0, domain, reference))
        try:
            fcntl.ioctl(device, _MAP_GRANT, request)
            with mmap.mmap(device, _PAGE, offset=struct.unpack("<IIQII", request)[2]) as page:
                if page[: len(token)] == token.encode():
                    found = reference
                    break
        except OSError as error:
            said = os.strerror(error.errno or 0)
    os.close(device)
    told = f"reference {found}" if found is not None else f"{len(references)} references: {said}"
    return [["map memory that is shared with the host", found is not None, told]]


def _take_ports(domain: int, ports: list[int]) -> list[list[object]]:
    device = os.open(f"{_DEVICES}/evtchn", os.O_RDWR)
    bound, said = [], "none was given"
    for port in ports:
        try:
            fcntl.ioctl(device, _BIND_INTERDOMAIN, bytearray(struct.pack("<II", domain, port)))
            bound.append(str(port))
        except OSError as error:
            said = os.strerror(error.errno or 0)
    os.close(device)
    told = f"ports {', '.join(bound)}" if bound else f"{len(ports)} ports: {said}"
    return [["bind an event channel that waits for the host", bool(bound), told]]
