# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the host's kernel, or another zone's, behind one's own: by the number that it drew when it booted, and by its command line."""

from __future__ import annotations

from pathlib import Path


def attack(others: dict[str, list[str]]) -> list[list[object]]:
    """Compare.

    :param others: by name the boot number and the command line of other kernels.
    """
    own = [Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip(), Path("/proc/cmdline").read_text("utf-8").strip()]
    told: list[list[object]] = []
    for name, theirs in others.items():
        what = ("the boot number", "the command line")
        told += [[f"find {what[at]} of {name}", own[at] == theirs[at], own[at]] for at in range(len(theirs))]
    return [*told, ["boot", None, own[0]]]
