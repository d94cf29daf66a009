# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask xenstore for what is another's, by the device that the kernel's own drivers use, and fill it.

Source of the protocol: Xen's public headers, io/xs_wire.h, and docs/misc/xenstore.txt.
"""

from __future__ import annotations

import os
import struct

_DEVICE = "/attack/dev/xen/xenbus"
_READ, _WRITE, _REMOVE, _SET_PERMISSIONS, _ERROR = 2, 11, 13, 14, 16
_OPERATIONS = {"read": _READ, "write": _WRITE, "open": _SET_PERMISSIONS, "remove": _REMOVE, "list": 1}
_HEADER = struct.Struct("<IIII")


def attack(requests: list[list[str]], nodes: int, below: str) -> list[list[object]]:
    """Make requests, and then more nodes than a quota lets through.

    :param requests: operation, path, value, label.
    :param nodes: how many nodes to make; they are removed afterwards.
    :param below: the path below which they are made.
    """
    told: list[list[object]] = []
    descriptor = os.open(_DEVICE, os.O_RDWR)
    try:
        for operation, path, value, label in requests:
            answer = _ask(descriptor, _OPERATIONS[operation], f"{path}\0{value}".encode())
            told.append([label, answer is None, answer or "it was done"])
        made, refused = 0, None
        while made < nodes and refused is None:
            refused = _ask(descriptor, _WRITE, f"{below}/{made}\0x".encode())
            made += refused is None
        told.append(["fill xenstore", refused is None, f"{refused or 'no refusal'} after {made} nodes"])
        _ask(descriptor, _REMOVE, f"{below}\0".encode())
    finally:
        os.close(descriptor)
    return told


def _ask(descriptor: int, operation: int, payload: bytes) -> str | None:
    """Send one request and return the error that came, ``None`` if it was carried out."""
    os.write(descriptor, _HEADER.pack(operation, 1, 0, len(payload)) + payload)
    answer = b""
    while len(answer) < _HEADER.size:
        answer += os.read(descriptor, _HEADER.size - len(answer))
    kind, _number, _transaction, length = _HEADER.unpack(answer)
    content = b""
    while len(content) < length:
        content += os.read(descriptor, length - len(content))
    return content.rstrip(b"\0").decode("ascii", "replace") if kind == _ERROR else None
