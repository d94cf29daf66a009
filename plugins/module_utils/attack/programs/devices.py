# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make nodes for the host's block devices, and read what is behind them. And what a careless host would read on a zone's own disk."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

_NODE = Path("/attack/node")
_SECTOR = 512


def attack(disks: list[list[object]]) -> list[list[object]]:
    """Look for the host's disks.

    :param disks: name, major, minor, and a digest of the first sectors of each.
    """
    told: list[list[object]] = []
    for name, major, minor, digest in disks:
        _NODE.unlink(missing_ok=True)
        os.mknod(_NODE, stat.S_IFBLK | 0o600, os.makedev(int(str(major)), int(str(minor))))
        try:
            same = sectors(_NODE) == digest
            told.append([f"read the host's disk {name}", same, "its first sectors" if same else "another disk has this number"])
        except OSError as error:
            told.append([f"read the host's disk {name}", False, os.strerror(error.errno or 0)])
    _NODE.unlink(missing_ok=True)
    return told


def sectors(device: Path) -> str:
    """A digest of the first sectors of a block device."""
    with open(device, "rb") as handle:
        return hashlib.sha256(handle.read(8 * _SECTOR)).hexdigest()


def labels() -> bytes:
    """The first two sectors of a disk with a table of one partition, whose second one is the label of an LVM volume."""
    partition = b"\x00\x00\x01\x00\x83\xfe\xff\xff" + (2048).to_bytes(4, "little") + (4096).to_bytes(4, "little")
    table = bytes(440) + b"RING\0\0" + partition + bytes(48) + b"\x55\xaa"
    volume = b"LABELONE" + (1).to_bytes(8, "little") + bytes(4) + (32).to_bytes(4, "little") + b"LVM2 001"
    return table + volume.ljust(_SECTOR, b"\0")
