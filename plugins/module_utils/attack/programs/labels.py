# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write a partition table and a label of LVM to the zone's own disk, for a host that would look at it."""

from __future__ import annotations

import os


def attack(disk: str, sectors: str) -> list[list[object]]:
    """Write the hexadecimal sectors; the file system of the disk begins after them."""
    descriptor = os.open(disk, os.O_WRONLY | os.O_SYNC)
    try:
        os.write(descriptor, bytes.fromhex(sectors))
    finally:
        os.close(descriptor)
    return [["write labels", None, disk]]
