# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way into a zone: ssh over vchan, a ring of memory shared with the host. No network is involved, and no QEMU.

Xen itself vouches for both ends, because the ring belongs to two domain numbers, and a zone makes it for domain 0 only. So there is no
key: ssh checks none of the zone, and the zone asks for none. What comes back is the zone's, and hostile until bounded: at most
``limit`` bytes of each stream are kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import selectors
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError

CONTAINER = "app"
"""Name under which a zone's init runs the container."""

_STARTED = b"+"
"""What the zone prints before it runs the command. Without it, ssh's exit status 255 could not be told from the command's."""
_SETTINGS = "/run/ringfence/settings"
"""What the host wrote down for the zone's init, as shell assignments."""

_HOSTS = "/run/ringfence/etc/hosts"
"""What the container finds as its ``/etc/hosts``: the file itself is mounted there, so it is written to and not replaced."""

_CONNECT_TIMEOUT = 30
"""Seconds until ssh gives up a zone that does not greet it. What waits for a channel in use is not woken when that becomes free: Xen's
program looks again only when a domain ends, or the channel is made anew. So it has to be begun again."""

_RETRY_PAUSE = 0.5
_SSH_FAILED = 255

SSH_ALIVE = ("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4")
"""How ssh finds that a zone has died: Xen tells the other end of the channel nothing."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command in a zone returned. ``truncated`` if it printed more than was kept."""

    exit_status: int
    stdout: bytes
    stderr: bytes
    truncated: bool


def find_program(name: str) -> Path | None:
    """A program of the host."""
    # Debian keeps the programs of a Xen release in a directory of its own; what is in PATH is a shell script that finds them.
    of_xen = sorted(Path("/usr/lib").glob(f"xen-*/bin/{name}"), reverse=True)
    on_path = shutil.which(name)
    return of_xen[0] if of_xen else Path(on_path) if on_path else None


def proxy(domain_id: int) -> list[str]:
    """The command that carries one connection to a zone's ssh server over its standard input and output.

    :raises RingfenceError: when Xen's program for it is not installed.
    """
    name = "vchan-socket-proxy"
    found = find_program(name)
    if not found:
        raise RingfenceError(f"{name} is not installed on this host (package xen-utils); apply the role ringfence.zones.host")
    return [str(found), "--mode=client", str(domain_id), f"/local/domain/{domain_id}/data/vchan", "-"]


def execute(zone: str, domain_id: int, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60, limit: int = 1 << 20) -> Answer:
    """Run ``argv`` in the zone's container.

    :param timeout: seconds for all of it, connecting included: a zone serves one connection at a time.
    :param limit: bytes of each stream that are kept.
    :raises RingfenceError: when the zone does not answer, or the command does not end in time.
    """
    return _execute(zone, domain_id, _entering(argv), argv[0], stdin, timeout, limit)


def write_hosts(zone: str, domain_id: int, content: str, *, timeout: float) -> None:
    """Give the container of a running zone another ``/etc/hosts``.

    :param timeout: seconds for all of it.
    :raises RingfenceError: when the zone does not answer, or does not take it.
    """
    # What does not arrive, or has no room, leaves the old content.
    remote = f"cat >{_HOSTS}.new && cat {_HOSTS}.new >{_HOSTS} && rm {_HOSTS}.new"
    answer = _execute(zone, domain_id, remote, "what writes its /etc/hosts", content.encode(), timeout, 1 << 10)
    if answer.exit_status != 0:
        raise RingfenceError(f"zone {zone}: its /etc/hosts cannot be written: {_said(answer)}")


def _execute(zone: str, domain_id: int, remote: str, what: str, stdin: bytes, timeout: float, limit: int) -> Answer:
    """Run a command of the zone's shell; ``what`` names it in an error. Until it has begun, it is tried again."""
    deadline = time.monotonic() + timeout
    while True:
        answer = _execute_once(zone, domain_id, remote, what, stdin, deadline, limit)
        if answer.stdout.startswith(_STARTED):
            return dataclasses.replace(answer, stdout=answer.stdout.removeprefix(_STARTED))
        if time.monotonic() + _RETRY_PAUSE >= deadline:
            raise RingfenceError(f"zone {zone}: its channel did not answer within {timeout:g} s: {_said(answer)}")
        time.sleep(_RETRY_PAUSE)


def _said(answer: Answer) -> str:
    return ascii(answer.stderr.decode("utf-8", "replace").strip()[-200:])[1:-1] or "no message"


def _execute_once(zone: str, domain_id: int, remote: str, what: str, stdin: bytes, deadline: float, limit: int) -> Answer:
    # ssh ends its proxy by SIGHUP, which is ignored below nohup; the proxy would stay, and the zone serves nobody else then.
    command = ["env", "--default-signal=HUP", *_ssh(zone, domain_id, "-T", f"printf {_STARTED.decode()}; {remote}")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True) as process:
        try:
            kept, truncated = _communicate(process, stdin, deadline, (limit + len(_STARTED), limit))
            # A zone may end both streams and keep the connection.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0, deadline - time.monotonic()))
        finally:
            ended = process.poll() is not None
            if not ended:
                # With its proxy, which would stay, and the zone serves nobody else while it is there.
                os.killpg(process.pid, signal.SIGKILL)
    if not ended and kept[0].startswith(_STARTED):
        # Its arguments may be secret, and the message ends in logs.
        raise RingfenceError(f"zone {zone}: {what} did not end in time, and was given up; it may still run there")
    return Answer(process.returncode, kept[0], kept[1], truncated)


def attach(zone: str, domain_id: int, argv: Sequence[str], *, stdin: bool, tty: bool) -> int:
    """Run ``argv`` in the zone's container with this process's own standard streams, and return its exit status.

    :param stdin: whether it gets standard input; else it has none.
    :param tty: whether it gets a terminal. What it prints reaches the caller's terminal as it is.
    :raises RingfenceError: when the zone does not answer.
    """
    remote = _entering(argv, *(["--tty"] if tty else []))
    command = _ssh(zone, domain_id, "-tt" if tty else "-T", remote)
    status = subprocess.run(command, stdin=None if stdin or tty else subprocess.DEVNULL, check=False).returncode
    if status == _SSH_FAILED:
        raise RingfenceError(f"zone {zone}: its channel does not answer, or serves another command; try again")
    return status


def _entering(argv: Sequence[str], *options: str) -> str:
    """The zone's shell command that runs ``argv`` in the container's working directory, as Docker does; crun alone would take ``/``."""
    return f'. {_SETTINGS}; exec crun exec --cwd "$WORKING_DIR" {shlex.join([*options, CONTAINER, *argv])}'


def _ssh(zone: str, domain_id: int, terminal: str, remote: str) -> list[str]:
    return [
        "ssh", terminal, "-q", "-F", "none",
        "-o", "BatchMode=yes", "-o", "PreferredAuthentications=none", "-o", f"ConnectTimeout={_CONNECT_TIMEOUT}", *SSH_ALIVE,
        "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
        "-o", f"ProxyCommand={shlex.join(proxy(domain_id))}",
        f"root@{zone}", remote,
    ]  # fmt: skip


def _communicate(process: subprocess.Popen[bytes], stdin: bytes, deadline: float, limits: tuple[int, int]) -> tuple[list[bytes], bool]:
    """Feed and drain a process until it ends or the deadline comes.

    At most ``limits`` bytes of its output and of its errors are kept, and the rest is read away.
    """
    kept, truncated, unsent = [bytearray(), bytearray()], False, memoryview(stdin)
    with selectors.DefaultSelector() as selector:
        for number, stream in enumerate((process.stdout, process.stderr)):
            selector.register(stream, selectors.EVENT_READ, number)  # type: ignore[arg-type]
        writer = process.stdin
        if writer is not None:
            selector.register(writer, selectors.EVENT_WRITE)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                break
            for ready, _events in selector.select(left):
                if ready.data is None and writer is not None:
                    try:
                        # A pipe that is ready takes this much; more could block.
                        unsent = unsent[writer.raw.write(unsent[: select.PIPE_BUF]) :] if unsent else unsent  # type: ignore[attr-defined]
                    except BrokenPipeError:
                        unsent = unsent[:0]
                    if not unsent:
                        selector.unregister(writer)
                        writer.close()
                    continue
                chunk = ready.fileobj.read1(65536)  # type: ignore[union-attr]
                if not chunk:
                    selector.unregister(ready.fileobj)
                    continue
                room = limits[ready.data] - len(kept[ready.data])
                truncated = truncated or len(chunk) > room
                kept[ready.data] += chunk[: max(room, 0)]
    return [bytes(stream) for stream in kept], truncated
