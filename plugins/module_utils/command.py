# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs a program of the host and turns its failure into an error that carries the cause."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError

_KEPT_OF_OUTPUT = 2000
"""Characters of a failed program's last output that go into the error."""


class CommandFailed(RingfenceError):
    """A program could not be started, exited non-zero, or took longer than it may."""

    def __init__(self, message: str, output: str = "") -> None:
        self.output = output
        super().__init__(message)

    @property
    def is_full_disk(self) -> bool:
        """Whether the program said that a disk is full."""
        return "No space left" in self.output


def run(argv: Sequence[str], *, stdin: bytes | None = None, timeout: float = 600) -> bytes:
    """Run ``argv`` without a shell and return its standard output.

    :param stdin: what the program reads; nothing if ``None``.
    :param timeout: seconds after which the program is killed.
    :raises CommandFailed: with the last lines of standard error.
    """
    import subprocess  # noqa: PLC0415 - a converge that changes nothing, and a listing, run no program

    try:
        done = subprocess.run(
            list(argv),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    except FileNotFoundError as error:
        raise CommandFailed(f"{argv[0]}: program not found on this host; install the package that carries it") from error
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"{argv[0]}: no end after {timeout:.0f} s: {' '.join(argv)}") from error
    if done.returncode != 0:
        output = (done.stderr or done.stdout).decode("utf-8", "replace").strip()[-_KEPT_OF_OUTPUT:]
        raise CommandFailed(f"{argv[0]} failed with exit status {done.returncode}: {output or 'no output'}", output)
    return done.stdout
