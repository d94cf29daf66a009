"""Ends a process only after making sure that it is the one that was started."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path


def runs_with(pid: int, word: str) -> bool:
    """Whether process ``pid`` exists and ``word`` is one of its arguments."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return word.encode() in arguments


def read_pid(pid_file: Path) -> int | None:
    """The process id in ``pid_file``, or ``None`` when there is none."""
    try:
        pid = int(pid_file.read_text())
    except (OSError, ValueError):
        return None
    return pid if pid > 0 else None


@contextlib.contextmanager
def _held(pid: int, word: str) -> Iterator[int | None]:
    """A descriptor that stands for the verified process, so that a reused pid cannot be hit; ``None`` when it is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield descriptor if runs_with(pid, word) else None
    finally:
        os.close(descriptor)


def wait_end(pid: int, word: str, seconds: float) -> bool:
    """Wait until the process that has ``word`` among its arguments is gone; ``False`` when it is still there after ``seconds``."""
    with _held(pid, word) as descriptor:
        return descriptor is None or bool(select.select([descriptor], [], [], seconds)[0])


def kill(pid: int, word: str) -> None:
    """Kill process ``pid`` at once if ``word`` is one of its arguments, and wait until it is gone."""
    with _held(pid, word) as descriptor:
        if descriptor is not None:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            select.select([descriptor], [], [], 30)
