# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The device nodes that a container can be given: those of its zone's own kernel, which has no hardware behind them. Pure.

Source of the numbers: Linux's Documentation/admin-guide/devices.txt; the modes are those of udev's rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Node(NamedTuple):
    """A character device; ``module`` is what the kernel needs for it, ``None`` if every kernel has it."""

    major: int
    minor: int
    mode: int
    module: str | None = None


NODES: Mapping[str, Node] = {
    "/dev/fuse": Node(10, 229, 0o666, "fuse"),
    "/dev/kmsg": Node(1, 11, 0o644),
    "/dev/net/tun": Node(10, 200, 0o666, "tun"),
}


def modules(sources: Iterable[str]) -> list[str]:
    """The modules that a kernel needs for these of ``NODES``."""
    return [module for source in sources if (module := NODES[source].module)]
