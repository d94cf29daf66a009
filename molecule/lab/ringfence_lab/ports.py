"""TCP ports of this machine's loopback."""

from __future__ import annotations

import socket

from ringfence_lab.errors import LabError

LOOPBACK = "127.0.0.1"


def is_free(port: int) -> bool:
    """Whether a program could listen on ``port`` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def choose(preferred: int | None) -> int:
    """``preferred`` if it is free, else any free port."""
    if preferred is not None and is_free(preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def require_free(port: int) -> None:
    """Check that ``port`` can be forwarded.

    :raises LabError: when something listens on it, or an ordinary user may not.
    """
    if not is_free(port):
        raise LabError(
            f"port {port} of {LOOPBACK} cannot be used: a program listens on it (ss -ltnp 'sport = :{port}' shows which),"
            " or it is below 1024 and needs root; end that program or give --forward another port"
        )
