# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an operator sees of a failure: one exception type, and the kinds of it that several files tell apart."""

from __future__ import annotations


class RingfenceError(Exception):
    """A failure told in one message: object, field, value, what is accepted, what to do, and the cause."""


class InvalidDeclaration(RingfenceError):
    """What the operator declared cannot be accepted. Nothing was changed.

    ``problems`` holds every fault found, so that one run reports all of them.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


class TakenBack(RingfenceError):
    """A change that failed; the zone runs as it did before."""


class NotBegun(TakenBack):
    """A change that was left alone because of another one that failed."""
