# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What zones print on their consoles: the end of it for an error, and the lines of it for a terminal."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError, printable

_KEPT_OF_CONSOLE = 16384
"""Bytes of a domain's console in which its last lines, and a crash, are looked for."""

_LONGEST_TOLD = 160
"""Characters of a line in an error."""

_MOST_CAUSES = 4
_CRASH = re.compile(r"BUG: |\[#\d+\]|RIP: |Kernel panic")
"""What is in the lines with which Linux tells of a crash; ``[#1]`` is where it names a fault of the CPU (arch/x86/kernel/dumpstack.c)."""

_END_OF_CRASH = "Rebooting in "
"""What Linux says last after a panic, as ``panic=1`` of its command line is an order to (kernel/panic.c)."""

_STEP = 1 << 16
"""Bytes of a log that are read at once."""

_LONGEST = 1 << 16
"""Bytes of a line without an end after which it is shown: a zone may never end one."""

_POLL = 0.5

_END_OF_KERNEL = b"\r"
"""With what a line of a zone's kernel, boot or init ends before its line feed; the zone's init makes it a line feed in what the container
prints (OCRNL, termios(3))."""

_BEGIN_OF_KERNEL = re.compile(rb"\[ *\d+\.\d{6}\] |ringfence: ")
"""With what such a line begins (Linux with printk.time, Debian's default), also behind what a container did not end with a line feed."""


def console_log(name: str) -> Path:
    """Where xenconsoled writes what a domain prints on its console."""
    return Path("/var/log/xen/console") / f"guest-{name}.log"


def halves(log: Path) -> tuple[Path, Path]:
    """A log, and what was it before its last rotation; either may be missing.

    After a rotation there is no new one until the domain prints, and never if it has ended.
    """
    return log, log.with_name(f"{log.name}.1")


def console_end(name: str, size: int) -> bytes:
    """The last bytes of a domain's console, at most ``size``.

    :raises OSError: when none was logged.
    """
    now, before = halves(console_log(name))
    with open(now if now.exists() else before, "rb") as log:
        log.seek(max(0, log.seek(0, 2) - size))
        return log.read(size)


def console_tail(name: str, lines: int = 8) -> str:
    """The last lines of a domain's console, after those with which its kernel says why it crashed; control characters are escaped."""
    try:
        told = console_end(name, _KEPT_OF_CONSOLE)
    except OSError:
        return "none was logged"
    return tail(told, lines)


def tail(console: bytes, lines: int) -> str:
    """What :func:`console_tail` tells of what a domain wrote."""
    told = [ascii(line.strip())[1:-1][:_LONGEST_TOLD] for line in console.decode("utf-8", "replace").splitlines() if line.strip()]
    last = told[-lines:]
    # The log goes on when a domain is started anew.
    began = max((number for number, line in enumerate(told[:-1], 1) if _END_OF_CRASH in line), default=0)
    # What it crashed at comes first, and then dozens of lines with registers and calls.
    causes = [line for line in told[began : -len(last)] if _CRASH.search(line)][:_MOST_CAUSES]
    return " | ".join([*causes, *(["..."] if causes else []), *last]) or "empty"


def lines_of(log: Path, last: int, *, follow: bool, of_kernel: bool | None = None) -> Iterator[str]:
    """The last lines of a log that a zone wrote, fit for a terminal, its rotated half included; with ``follow`` also those that come.

    :param of_kernel: only the kernel's lines, or only the container's; ``None`` for all. A container cannot print what counts as the
        kernel's, but a zone whose kernel is not its own any more can.
    """

    def wanted(chunks: Iterable[bytes]) -> Iterable[bytes]:
        lines = _split(chunks)
        return lines if of_kernel is None else filter(None, (_part(line, of_kernel=of_kernel) for line in lines))

    with contextlib.ExitStack() as opened:
        handles = []
        for path in halves(log):
            with contextlib.suppress(FileNotFoundError):
                handles.append(opened.enter_context(path.open("rb")))
        if not handles:
            raise RingfenceError(f"there is no log yet at {log}")
        so_far = itertools.chain.from_iterable(map(_chunks, reversed(handles)))
        yield from map(_line, collections.deque(wanted(so_far), last))
        if follow:
            yield from map(_line, wanted(_appended(log, handles[0])))


def _chunks(handle: BinaryIO) -> Iterator[bytes]:
    while chunk := handle.read(_STEP):
        yield chunk


def _split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines, without their ends; one that is too long in parts."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
        if len(rest) > _LONGEST:
            yield rest
            rest = b""
    if rest:
        yield rest


def _part(line: bytes, *, of_kernel: bool) -> bytes:
    """What of a line the kernel, or the container, has printed."""
    begins = [found.start() for found in _BEGIN_OF_KERNEL.finditer(line)]
    border = len(line) if not line.endswith(_END_OF_KERNEL) else begins[-1] if begins else 0
    return line[border:] if of_kernel else line[:border]


def _appended(log: Path, handle: BinaryIO) -> Iterator[bytes]:
    """What comes in a log after what was read of it, then in the logs that come in its place."""
    try:
        while True:
            # Looked at before the rest is read: nobody writes to a renamed log any more once there is a new one.
            replaced = _is_another(log, handle)
            yield from _chunks(handle)
            if not replaced:
                time.sleep(_POLL)
                continue
            with contextlib.suppress(FileNotFoundError):
                newest = log.open("rb")
                handle.close()
                handle = newest
    finally:
        handle.close()


def _is_another(log: Path, handle: BinaryIO) -> bool:
    try:
        return not os.path.samestat(log.stat(), os.fstat(handle.fileno()))
    except FileNotFoundError:
        # It was renamed, and is what Xen's console daemon writes to until it makes a new one.
        return False


def _line(line: bytes) -> str:
    return printable(line.decode("utf-8", "replace").rstrip("\r"))
