# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write a pattern all over disks, or look for one that was written so; and try to write to disks that others read."""

from __future__ import annotations

import hashlib
import os

_PAGE = 4096
_STRIDE = 1 << 20


def attack(
    name: str = "", disks: list[str] | None = None, *, write: bool = False, shared: list[str] | None = None, own: str = ""
) -> list[list[object]]:
    """Write, and look.

    :param name: of the pattern.
    :param disks: whose every megabyte is looked at.
    :param write: write the pattern first.
    :param shared: disks that are tried to be written to, where ``own`` can be.
    """
    told: list[list[object]] = []
    for disk in disks or []:
        if write:
            _write(disk, name)
        looked, found = _look(disk, name)
        label = f"find on {os.path.basename(disk)} what another zone wrote there"
        told.append([label, found > 0, f"{found} of {looked} pages hold it"])
    told += [[f"write to {os.path.basename(disk)}, which others read", *_rewrite(disk)] for disk in shared or []]
    return [*told, ["own", *_rewrite(own)]] if own else told


def pattern(name: str) -> bytes:
    """A page that nobody else writes."""
    return hashlib.sha512(name.encode()).digest() * (_PAGE // 64)


def _write(disk: str, name: str) -> None:
    page = pattern(name)
    descriptor = os.open(disk, os.O_WRONLY)
    try:
        for offset in range(0, os.lseek(descriptor, 0, os.SEEK_END) - _PAGE, _STRIDE):
            os.pwrite(descriptor, page, offset + _PAGE)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _look(disk: str, name: str) -> tuple[int, int]:
    page, looked, found = pattern(name), 0, 0
    descriptor = os.open(disk, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        for offset in range(0, os.lseek(descriptor, 0, os.SEEK_END) - _PAGE, _STRIDE):
            looked += 1
            found += os.pread(descriptor, _PAGE, offset + _PAGE) == page
    finally:
        os.close(descriptor)
    return looked, found


def _rewrite(disk: str) -> tuple[bool, str]:
    """Write what is there already, so that nothing is harmed."""
    try:
        descriptor = os.open(disk, os.O_RDWR | os.O_SYNC)
        try:
            os.pwrite(descriptor, os.pread(descriptor, _PAGE, 0), 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        return False, os.strerror(error.errno or 0)
    return True, "it was written"
