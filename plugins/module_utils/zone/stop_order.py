# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""In which order the zones of a host end when it shuts down, and how long they have. ``stop-zones`` does it."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Zone, depths_of
from ansible_collections.ringfence.zones.plugins.module_utils.zone import files
from ansible_collections.ringfence.zones.plugins.module_utils.zone.hypervisor import Hypervisor


def main() -> None:
    """Print a line for each group of running zones: the seconds that they have, and their names. One group ends after the other."""
    observed, _foreign = Hypervisor().observe()
    running = [zone.definition.zone if zone.definition else Zone(name) for name, zone in observed.items() if zone.active]
    for seconds, names in groups(running):
        sys.stdout.write(f"{seconds} {' '.join(names)}\n")


def groups(zones: Iterable[Zone]) -> list[tuple[int, list[str]]]:
    """The groups of :func:`main`: a zone ends before those on which it depends."""
    by_name = {zone.name: zone for zone in zones}
    depths = depths_of({name: zone.depends_on for name, zone in by_name.items()})
    found = []
    for depth in sorted(set(depths.values()), reverse=True):
        names = sorted(name for name in by_name if depths[name] == depth)
        found.append((max(by_name[name].stop_grace_period for name in names) + files.POWER_OFF, names))
    return found
