# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Send what is not one's own, listen for what others sent so, and connect to what is not declared."""

from __future__ import annotations

import socket
import struct
import time
from ipaddress import ip_address

_ALL, _IPV4, _ARP, _IPV6 = 0x0003, 0x0800, 0x0806, 0x86DD
_BROADCAST, _MULTICAST = b"\xff" * 6, b"\x33\x33\x00\x00\x00\x01"
_TCP, _UDP, _ICMP6 = 6, 17, 58
_SYN = 0x02
HONEST = "a packet with its own address"


def attack(
    send: dict[str, str] | None = None,
    listen: str = "",
    seconds: float = 0,
    token: str = "",
    connect: list[list[object]] | None = None,
) -> list[list[object]]:
    """Send first, then listen on an interface, and connect.

    :param send: ``interface``, and the addresses ``own``, ``peer``, ``gateway``, ``peer6`` and the ``port`` that the peer has open.
    :param token: what marks the packets.
    :param connect: label, address and port of each.
    """
    told: list[list[object]] = []
    listener = _raw(listen) if listen else None
    if send:
        sender = _raw(send["interface"])
        with open(f"/sys/class/net/{send['interface']}/address", encoding="ascii") as handle:
            mac = bytes.fromhex(handle.read().strip().replace(":", ""))
        for _again in range(2):
            for number, (label, frame) in enumerate(frames(send, mac, token).items()):
                sender.send(frame.ljust(60, b"\0") + f"{token}{number:02}".encode())
                told += [[f"sent {label}", None, str(number)]] if not _again else []
    if listener:
        heard = _hear(listener, token, seconds)
        # The names in the order of their numbers; addresses do not matter for them.
        labels = list(frames({"own": "0.0.0.1", "peer": "0.0.0.2", "gateway": "0.0.0.3", "peer6": "::2", "port": "1"}, bytes(6)))
        told += [[label, number in heard, "it arrives" if number in heard else "it does not arrive"] for number, label in enumerate(labels)]
    for target, address, port in connect or []:
        told.append([str(target), *_connect(str(address), int(str(port)))])
    return told


def frames(to: dict[str, str], mac: bytes, token: str = "") -> dict[str, bytes]:
    """What is sent, by label. What is routed carries its mark within: a router cuts off what follows a packet."""
    port = int(to["port"])
    own, peer, gateway, peer6 = (ip_address(to[name]).packed for name in ("own", "peer", "gateway", "peer6"))
    foreign, foreign6 = ip_address("203.0.113.9").packed, ip_address("2001:db8::9").packed
    link = mac + mac
    everyone = ip_address("ff02::1").packed
    announced = ip_address("fe80::9").packed
    claim = struct.pack("!HHBBH", 1, _IPV4, 6, 4, 2) + mac + peer + mac + peer
    advertised = b"\x88\0\0\0\x20\0\0\0" + peer6 + b"\x02\x01" + mac
    router = b"\x86\0\0\0\x40\0\x07\x08" + bytes(8) + b"\x01\x01" + mac

    def mark(number: int) -> bytes:
        return f"{token}{number:02}".encode()

    return {
        HONEST: link + _packet4(own, peer, _TCP, _syn(own, peer, port, mark(0))),
        "a packet with the host's address": link + _packet4(gateway, peer, _TCP, _syn(gateway, peer, port, mark(1))),
        "a packet with a foreign address": link + _packet4(foreign, peer, _TCP, _syn(foreign, peer, port, mark(2))),
        "a packet with the peer's own address": link + _packet4(peer, peer, _TCP, _syn(peer, peer, port, mark(3))),
        "an IPv6 packet with a foreign address": link + _packet6(foreign6, peer6, _TCP, _syn(foreign6, peer6, port, mark(4))),
        "a foreign address from a foreign card": mac
        + b"\x02\0\0\0\0\x09"
        + _packet4(foreign, peer, _TCP, _syn(foreign, peer, port, mark(5))),
        "an ARP reply that claims the peer's address": _BROADCAST + mac + struct.pack("!H", _ARP) + claim,
        "a neighbour's advertisement of the peer's address": _MULTICAST + mac + _packet6(peer6, everyone, _ICMP6, advertised),
        "a router's announcement": _MULTICAST + mac + _packet6(announced, everyone, _ICMP6, router),
        "a DHCP offer": _BROADCAST
        + mac
        + _packet4(own, b"\xff" * 4, _UDP, struct.pack("!HHHH", 67, 68, 248, 0) + b"\x02\x01\x06".ljust(240, b"\0")),
    }


def _raw(interface: str) -> socket.socket:
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
    raw.bind((interface, _ALL))
    return raw


def _hear(listener: socket.socket, token: str, seconds: float) -> set[int]:
    heard, deadline = set(), time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        listener.settimeout(left)
        try:
            frame, peer = listener.recvfrom(2048)
        except TimeoutError:
            break
        _before, found, number = frame.partition(token.encode())
        if found and number[:2].isdigit() and peer[2] != socket.PACKET_OUTGOING:
            heard.add(int(number[:2]))
    return heard


def _connect(address: str, port: int) -> tuple[bool, str]:
    try:
        with socket.create_connection((address, port), timeout=4):
            return True, f"{address} port {port} answers"
    except OSError as error:
        return False, f"{address} port {port}: {error.strerror or 'no answer'}"


def _sum(data: bytes) -> int:
    """The checksum of the internet protocols."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _checked(source: bytes, target: bytes, protocol: int, data: bytes, at: int) -> bytes:
    padded = data + bytes(len(data) % 2)
    pseudo = source + target + struct.pack("!IBBH", len(data), 0, 0, protocol)
    return data[:at] + struct.pack("!H", _sum(pseudo + padded)) + data[at + 2 :]


def _syn(source: bytes, target: bytes, port: int, mark: bytes) -> bytes:
    header = struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 5 << 4, _SYN, 1024, 0, 0)
    return _checked(source, target, _TCP, header + mark, 16)


def _packet4(source: bytes, target: bytes, protocol: int, data: bytes) -> bytes:
    def header(checksum: int) -> bytes:
        return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), 1, 0, 64, protocol, checksum) + source + target

    return struct.pack("!H", _IPV4) + header(_sum(header(0))) + data


def _packet6(source: bytes, target: bytes, protocol: int, data: bytes) -> bytes:
    if protocol == _ICMP6:
        data = _checked(source, target, protocol, data, 2)
    return struct.pack("!HIHBB", _IPV6, 6 << 28, len(data), protocol, 255) + source + target + data
