# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the containers of the attacking zones do: answer on the ports that are given, so that others see whether they are reached."""

from __future__ import annotations

import selectors
import socket
import sys


def main() -> None:
    """Greet whoever connects, for ever."""
    with selectors.DefaultSelector() as selector:
        for port in map(int, sys.argv[1:]):
            server = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
            selector.register(server, selectors.EVENT_READ)
        while True:
            for ready, _events in selector.select():
                connection, _peer = ready.fileobj.accept()  # type: ignore[union-attr]
                with connection:
                    connection.sendall(b"here\n")


if __name__ == "__main__":
    main()
