# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an operator sees of a failure: one exception type, and the kinds of it that several files tell apart."""

from __future__ import annotations

import errno


def printable(text: str) -> str:
    """Text with every character escaped that is not printable: what a terminal acts upon, and what changes how text is read."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


class RingfenceError(Exception):
    """A failure told in one message: object, field, value, what is accepted, what to do, and the cause.

    Of the message, which may hold what images, zones and programs say, all but line feeds is made printable.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_printable_lines(message))


class InvalidDeclaration(RingfenceError):
    """What the operator declared cannot be accepted. Nothing was changed.

    ``problems`` holds every fault found, so that one run reports all of them.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = [_printable_lines(problem) for problem in problems]
        super().__init__("; ".join(self.problems))


class TakenBack(RingfenceError):
    """A change that failed; the zone runs as it did before."""


class NotBegun(TakenBack):
    """A change that was left alone because of another one that failed."""


FAILURES = (RingfenceError, OSError)
"""What modules and the command catch and tell: errors of ours, and what the host's system refuses, such as to write on a full disk."""

FAULTS = (*FAILURES, ValueError)
"""What the change of one zone fails with. An image may have what no check has thought of, and no zone stays down for that."""

_ADVICE = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "on a host this must run as root (become: true)"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room and run again"),
}


def told(error: Exception) -> str:
    """The message of one of :data:`FAILURES`."""
    advice = _ADVICE.get(error.errno or 0) if isinstance(error, OSError) else None
    return f"{error}; {advice}" if advice else str(error)
