# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every node of xenstore, by its own protocol. Reads only.

``xenstore-ls`` waits for each answer before it asks again, three times for each of a zone's 300 nodes; and between two requests of one
connection the daemon looks at each domain. Many requests on many connections take a quarter of that time.

Source of the protocol: Xen's public header io/xs_wire.h, and docs/misc/xenstore.txt.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import ExitStack

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.verify.facts import Node

SOCKET = "/run/xenstored/socket"

_DIRECTORY, _READ, _GET_PERMISSIONS, _ERROR = 1, 2, 3, 16
_HEADER = struct.Struct("=4I")
_LONGEST = 4096
"""Bytes of an answer; what is longer is none of the daemon's."""

_CONNECTIONS = 16
_AT_ONCE = 64
"""Nodes that are asked for before an answer is waited for: their requests and answers fit into the buffers of the connections."""

_ACCESS = re.compile(r"[nrwb]\d+")


def read_nodes(patience: float) -> list[Node]:
    """The nodes, those above before those below. One that is gone before it was read is left out.

    :param patience: seconds that all of it may take.
    :raises RingfenceError: when a node cannot be read: one that is passed over would be judged as harmless.
    :raises OSError: when the daemon does not answer.
    """
    nodes: list[Node] = []
    with ExitStack() as stack:
        asked = _Daemon(stack, time.monotonic() + patience)
        level = ["/"]
        while level:
            below: list[str] = []
            for place in range(0, len(level), _AT_ONCE):
                paths = level[place : place + _AT_ONCE]
                answers = iter(asked.answers([(kind, path) for path in paths for kind in (_DIRECTORY, _READ, _GET_PERMISSIONS)]))
                for path, listed, value, access in zip(paths, answers, answers, answers, strict=False):
                    if listed is None or value is None or access is None:
                        continue
                    nodes.append(Node(path, value, tuple(_access(path, entry) for entry in _texts(access))))
                    below += [f"{path.rstrip('/')}/{name}" for name in _texts(listed)]
            level = below
    return nodes


class _Daemon:
    """Connections to the daemon, which are closed with ``stack``."""

    def __init__(self, stack: ExitStack, deadline: float) -> None:
        self._deadline = deadline
        self._sockets = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _number in range(_CONNECTIONS)]
        self._answers = [stack.enter_context(connection.makefile("rb")) for connection in self._sockets]
        for connection in self._sockets:
            self._connect(connection)

    def _connect(self, connection: socket.socket) -> None:
        while True:
            connection.settimeout(self._left())
            try:
                return connection.connect(SOCKET)
            except BlockingIOError:  # The daemon lets few wait for it at a time.
                time.sleep(0.01)

    def answers(self, requests: Sequence[tuple[int, str]]) -> list[bytes | None]:
        """The answers in the order of the requests, each a kind and a path; ``None`` where there is no such node."""
        for place, connection in enumerate(self._sockets):
            connection.settimeout(self._left())
            connection.sendall(b"".join(_request(*request) for request in requests[place::_CONNECTIONS]))
        return [self._answer(number % _CONNECTIONS, path) for number, (_kind, path) in enumerate(requests)]

    def _answer(self, place: int, path: str) -> bytes | None:
        kind, _number, _transaction, length = _HEADER.unpack(self._whole(place, _HEADER.size))
        content = self._whole(place, min(length, _LONGEST))
        if kind != _ERROR and length <= _LONGEST:
            return content
        error = content.rstrip(b"\0").decode("ascii", "replace")
        if error == "ENOENT":
            return None
        raise RingfenceError(f"xenstore's answer for {path} is {error if kind == _ERROR else f'{length} bytes long'}")

    def _whole(self, place: int, size: int) -> bytes:
        content = self._answers[place].read(size)
        if len(content) < size:
            raise RingfenceError("xenstore's daemon closed the connection")
        return content

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("xenstore's daemon did not answer in time")
        return left


def _request(kind: int, path: str) -> bytes:
    payload = path.encode("ascii") + b"\0"
    return _HEADER.pack(kind, 0, 0, len(payload)) + payload


def _texts(content: bytes) -> list[str]:
    return [text.decode("ascii") for text in content.split(b"\0") if text]


def _access(path: str, entry: str) -> tuple[str, int]:
    if not _ACCESS.fullmatch(entry):
        raise RingfenceError(f"xenstore's permissions of {path} are {entry!r}")
    return entry[0], int(entry[1:])
