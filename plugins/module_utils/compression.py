# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compressed data of any of the formats in which kernels and modules are published."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable

from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError


def decompress(data: bytes) -> bytes:
    """Decompress ``data``, whose format is told by its first bytes; what follows the stream is ignored where Python does the work.

    zstd and LZ4, which Python 3.11 lacks, are left to the programs of those names, and must not be followed by anything.

    :raises RingfenceError: for an unknown format, or damaged or truncated data.
    """
    for magic, reader in _READERS:
        if data.startswith(magic):
            return reader(data)
    names = "gzip, xz, lzma, bzip2, zstd and LZ4"
    raise RingfenceError(f"unknown compression (first bytes {data[:6].hex(' ') or 'none'}); known are {names}")


def _gzip(data: bytes) -> bytes:
    return _whole(zlib.decompressobj(wbits=31), data, "gzip")


def _xz(data: bytes) -> bytes:
    return _whole(lzma.LZMADecompressor(), data, "xz")


def _bzip2(data: bytes) -> bytes:
    return _whole(bz2.BZ2Decompressor(), data, "bzip2")


def _zstd(data: bytes) -> bytes:
    return run(["zstd", "-dc"], stdin=data)


def _lz4(data: bytes) -> bytes:
    return run(["lz4", "-dc"], stdin=data)


def _whole(decompressor: zlib._Decompress | lzma.LZMADecompressor | bz2.BZ2Decompressor, data: bytes, name: str) -> bytes:
    try:
        plain = decompressor.decompress(data)
    except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
        raise RingfenceError(f"the {name} data is damaged: {error}") from error
    if not decompressor.eof:
        raise RingfenceError(f"the {name} data is truncated after {len(data)} bytes")
    return plain


_READERS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b", _gzip),
    (b"\xfd7zXZ\0", _xz),
    (b"\x5d\0\0", _xz),
    (b"BZh", _bzip2),
    (b"\x28\xb5\x2f\xfd", _zstd),
    (b"\x02\x21\x4c\x18", _lz4),
)
