# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compressed data of any of the formats in which kernels and modules are published."""

from __future__ import annotations

import bz2
import lzma
import subprocess
import tempfile
import zlib
from collections.abc import Callable

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError

MAX_SIZE = 256 << 20
"""Bytes that data may unpack to. Debian's largest kernel has a quarter of it."""


def decompress(data: bytes) -> bytes:
    """Decompress ``data``, whose format is told by its first bytes; what follows the stream is ignored where Python does the work.

    zstd and LZ4, which Python 3.11 lacks, are left to the programs of those names, and must not be followed by anything.

    :raises RingfenceError: for an unknown format, data that is damaged or truncated, and more than ``MAX_SIZE``.
    """
    for magic, reader in _READERS:
        if data.startswith(magic):
            plain = reader(data)
            if len(plain) > MAX_SIZE:
                raise RingfenceError(f"the data unpacks to more than {MAX_SIZE} bytes, which no kernel or module needs")
            return plain
    names = "gzip, xz, lzma, bzip2, zstd and LZ4"
    raise RingfenceError(f"unknown compression (first bytes {data[:6].hex(' ') or 'none'}); known are {names}")


def _gzip(data: bytes) -> bytes:
    return _whole(zlib.decompressobj(wbits=31), data, "gzip")


def _xz(data: bytes) -> bytes:
    return _whole(lzma.LZMADecompressor(), data, "xz")


def _bzip2(data: bytes) -> bytes:
    return _whole(bz2.BZ2Decompressor(), data, "bzip2")


def _zstd(data: bytes) -> bytes:
    return _by_program("zstd", data)


def _lz4(data: bytes) -> bytes:
    return _by_program("lz4", data)


def _whole(decompressor: zlib._Decompress | lzma.LZMADecompressor | bz2.BZ2Decompressor, data: bytes, name: str) -> bytes:
    try:
        plain = decompressor.decompress(data, MAX_SIZE + 1)
    except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
        raise RingfenceError(f"the {name} data is damaged: {error}") from error
    if not decompressor.eof and len(plain) <= MAX_SIZE:
        raise RingfenceError(f"the {name} data is truncated after {len(data)} bytes")
    return plain


def _by_program(program: str, data: bytes) -> bytes:
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as errors:
        source.write(data)
        source.seek(0)
        try:
            process = subprocess.Popen([program, "-dc"], stdin=source, stdout=subprocess.PIPE, stderr=errors)
        except FileNotFoundError as error:
            raise RingfenceError(f"the data is compressed with {program}, which is not installed; install the package {program}") from error
        with process:
            plain = process.stdout.read(MAX_SIZE + 1) if process.stdout else b""
            if len(plain) > MAX_SIZE:
                process.kill()
                return plain
        errors.seek(0)
        if process.returncode != 0:
            raise RingfenceError(f"the {program} data is damaged: {errors.read().decode('utf-8', 'replace').strip()[-500:]}")
    return plain


_READERS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b", _gzip),
    (b"\xfd7zXZ\0", _xz),
    (b"\x5d\0\0", _xz),
    (b"BZh", _bzip2),
    (b"\x28\xb5\x2f\xfd", _zstd),
    (b"\x02\x21\x4c\x18", _lz4),
)
