# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of the host that decisions need, read from its kernel and from Xen."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.command import run

# linux/netfilter/nf_tables.h and nfnetlink.h: the subsystem of nftables is the upper byte of a message's type.
_NETLINK_NETFILTER, _NLM_F_REQUEST = 12, 1
_NEW_TABLE, _GET_TABLE = 0x0A00, 0x0A01
_NFTA_TABLE_NAME, _NFTA_TABLE_FLAGS, _DORMANT = 1, 2, 1
_FAMILIES = {"inet": 1, "arp": 3}

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_LISTEN = "0A"
_UNCONNECTED = "07"


def os_release() -> dict[str, str]:
    """The fields of ``/etc/os-release``; none if the machine has no such file."""
    try:
        text = Path("/etc/os-release").read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    return {key: value.strip('"') for key, separator, value in (line.partition("=") for line in text.splitlines()) if separator}


def boot_id() -> str:
    """What names this boot of the machine, whatever its clock says."""
    return _BOOT_ID.read_text(encoding="ascii").strip()


def listening_ports() -> set[tuple[int, str]]:
    """Ports on which a program of the host listens, as (number, ``tcp`` or ``udp``)."""
    ports = set()
    for protocol, state in (("tcp", _LISTEN), ("udp", _UNCONNECTED)):
        for suffix in ("", "6"):
            path = Path("/proc/net") / f"{protocol}{suffix}"
            if path.exists():
                ports |= {(number, protocol) for number in _local_ports(path.read_text(encoding="ascii"), state)}
    return ports


def has_table(family: str, name: str) -> bool:
    """Whether nftables has this table, and not switched off (``flags dormant``).

    Asked of the kernel itself: nft would read all that is in its tables.
    """
    attribute = name.encode() + b"\0"
    length = len(attribute) + 4
    body = struct.pack("=BBHHH", _FAMILIES[family], 0, 0, length, _NFTA_TABLE_NAME) + attribute + bytes(-length % 4)
    message = struct.pack("=IHHII", len(body) + 16, _GET_TABLE, _NLM_F_REQUEST, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as kernel:
        kernel.settimeout(10)
        kernel.send(message)
        answer = kernel.recv(4096)
    (kind,) = struct.unpack_from("=H", answer, 4)
    return bool(kind == _NEW_TABLE and not _flags(answer) & _DORMANT)


def _flags(answer: bytes) -> int:
    """The flags of a table in the kernel's answer: attributes, each with its length and padded to 4 bytes, after two headers."""
    (end,), at = struct.unpack_from("=I", answer), 20
    while at < end:
        length, attribute = struct.unpack_from("=HH", answer, at)
        if attribute == _NFTA_TABLE_FLAGS:
            return int.from_bytes(answer[at + 4 : at + length], "big")
        at += length + -length % 4
    return 0


def xl_info() -> dict[str, str]:
    """What ``xl info`` says of the Xen host that this system controls, by its names."""
    lines = run(["xl", "info"], timeout=60).decode("utf-8", "replace").splitlines()
    return {key.strip(): value.strip() for key, separator, value in (line.partition(":") for line in lines) if separator}


def _local_ports(table: str, state: str) -> set[int]:
    """The local ports in one of /proc/net's socket tables (proc(5)), of sockets in ``state``."""
    rows = (line.split() for line in table.splitlines()[1:])
    return {int(row[1].rsplit(":", 1)[1], 16) for row in rows if len(row) > 3 and row[3] == state}
