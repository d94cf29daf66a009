# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fill memory with a pattern, and look for a pattern in all memory that the kernel has, free pages among it.

Pages that nobody has used since they were given to the kernel hold what they held before. What the kernel maps of its memory is in
``kcore``, an ELF file whose segments are ranges of addresses.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import time

_KCORE = "/attack/proc/kcore"
_PAGE = 4096
_CHUNK = 1 << 20
_SPARED = 24 << 20
"""Bytes of free memory that are not filled."""

_LOAD = 1
_NOWHERE = (1 << 64) - 1
_LARGEST = 1 << 40
"""Bytes of a segment beyond which it cannot be memory."""

_HELD = 600
"""Seconds that memory is kept; the zone ends before."""


def attack(fill: str = "", free: str = "", scan: str = "") -> list[list[object]]:
    """Let a process fill memory that keeps it, or one that ends at once, or look for a pattern.

    :param fill: the name of the pattern to fill with and keep.
    :param free: the name of the pattern to fill with in another process.
    :param scan: the name of the pattern to look for.
    """
    if fill:
        _keep(fill)
        return [["fill memory", None, "it is filled"]]
    if free:
        child = os.fork()
        if child == 0:
            _filled(free, _available() // 2)
            os._exit(0)
        os.waitpid(child, 0)
    looked, found = _scan(scan or free)
    label = "find what another kernel had in this memory" if scan else "find what a program of this kernel had in this memory"
    told = f"{found} pages with its pattern in {looked >> 20} MiB"
    return [[label, found > 0 if looked else None, told]]


def _keep(name: str) -> None:
    ready, filled = os.pipe()
    if os.fork() == 0:
        os.setsid()
        for stream in range(3):
            os.close(stream)
        memory = _filled(name, _available())
        os.write(filled, b"x")
        time.sleep(_HELD)
        memory.close()
        os._exit(0)
    os.close(filled)
    os.read(ready, 1)


def _pattern(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _available() -> int:
    with open("/proc/meminfo", encoding="ascii") as lines:
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    return max(free - _SPARED, _CHUNK) // _PAGE * _PAGE


def _filled(name: str, size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size)
    block = _pattern(name) * (_CHUNK // 32)
    for offset in range(0, size, _CHUNK):
        memory[offset : min(offset + _CHUNK, size)] = block[: min(_CHUNK, size - offset)]
    return memory


def _scan(name: str) -> tuple[int, int]:
    """How many bytes could be read, and how many whole pages hold the pattern. This process itself never holds a page of it."""
    pattern, looked, found = _pattern(name), 0, 0
    chunk = bytearray(_CHUNK)
    with open(_KCORE, "rb", buffering=0) as core:
        for offset, size in _segments(core.read(1 << 16)):
            start = 0
            while start < size:
                core.seek(offset + start)
                try:
                    got = core.readinto(memoryview(chunk)[: size - start]) or 0
                except OSError:
                    got = 0
                looked += got
                found += _pages(chunk, got, pattern)
                start += got or _CHUNK
    return looked, found


def _pages(chunk: bytearray, size: int, pattern: bytes) -> int:
    """How many pages begin and end with the pattern."""
    found, at = 0, chunk.find(pattern, 0, size)
    while at >= 0:
        page = at // _PAGE * _PAGE
        begins, ends = chunk[page : page + 128] == pattern * 4, chunk[page + _PAGE - 32 : page + _PAGE] == pattern
        found += begins and ends
        at = chunk.find(pattern, page + _PAGE, size)
    return found


def _segments(head: bytes) -> list[tuple[int, int]]:
    """Offset and size in the file of each segment that is memory, by the headers of an ELF file: other ranges have no physical address."""
    (table,) = struct.unpack_from("<Q", head, 32)
    size, count = struct.unpack_from("<HH", head, 54)
    segments = [struct.unpack_from("<IIQQQQ", head, table + number * size) for number in range(count)]
    return [
        (offset, length)
        for kind, _flags, offset, _virtual, physical, length in segments
        if kind == _LOAD and physical != _NOWHERE and length < _LARGEST
    ]
