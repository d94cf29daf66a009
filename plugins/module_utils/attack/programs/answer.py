# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answer in the place of the zone's ssh server, with what no ssh server says. The kernel starts this, outside the container."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time

DIRECTORY = 9
"""The descriptor of the directory with the socket at which the zone's ssh server is asked."""

_SECONDS = 5
_TERMINAL = b"\x1b[2J\x1b]0;owned\x07"
_CHUNK = 16384
_ANSWERS = (
    _TERMINAL * (_CHUNK // len(_TERMINAL)),
    (_TERMINAL + b"\r\n") * (_CHUNK // len(_TERMINAL) // 2),
    b"SSH-2.0-x\r\n" + bytes(range(256)) * 64,
    b"SSH-2.0-x\r\n\xff\xff\xff\xff" + b"A" * _CHUNK,
    b"",
)
"""A first line without an end, lines without an end, noise, a packet of 4 GiB, and silence."""


def main() -> None:
    """Answer whoever connects, each in another way, in a process that goes on for ever."""
    os.fchdir(DIRECTORY)
    with contextlib.suppress(OSError):
        os.unlink("channel")
    server = socket.socket(socket.AF_UNIX)
    server.bind("channel")
    server.listen()
    if os.fork():
        return
    os.setsid()
    for answer in itertools.cycle(_ANSWERS):
        connection, _peer = server.accept()
        deadline = time.monotonic() + _SECONDS
        with connection, contextlib.suppress(OSError):
            connection.settimeout(_SECONDS)
            while time.monotonic() < deadline:
                if not answer:
                    time.sleep(_SECONDS)
                connection.sendall(answer)


if __name__ == "__main__":
    main()
