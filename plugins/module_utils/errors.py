# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one exception type an operator sees."""

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
