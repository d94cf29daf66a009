# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A zone as its host has it. Pure."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Zone
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import Definition

_MEMORY_SLACK = 4
"""MiB by which what Xen counts for a zone may differ from what it was told to have."""


@dataclasses.dataclass(frozen=True)
class Running:
    """What a zone has of its host now, memory in MiB and virtual CPUs, and the most that it can have until it is started anew.

    Where nobody has asked for the most, it is what the zone has.
    """

    memory: int
    most_memory: int
    cpus: int
    most_cpus: int


class Observed(NamedTuple):
    """A zone as the host has it.

    ``definition`` is ``None`` if its metadata cannot be read; ``domain_id`` is Xen's number of it while it runs; ``whole`` if all of its
    files are there; ``crashed`` if it does not run because its kernel panicked. ``running`` is ``None`` if it does not run. ``stale``
    are paths of files that are its, and that its definition does not use; ``shares`` is every ``cpu_shares`` that a run which was killed
    may have given it, ``stopping`` the number with which such a run may have asked it to stop, and ``hosts_unsure`` whether such a run
    may have written its ``/etc/hosts``.
    """

    definition: Definition | None
    domain_id: int | None = None
    whole: bool = True
    crashed: bool = False
    running: Running | None = None
    stale: tuple[str, ...] = ()
    shares: tuple[int, ...] = ()
    stopping: int | None = None
    hosts_unsure: bool = False

    @property
    def active(self) -> bool:
        """Whether it runs."""
        return self.domain_id is not None


def differs_in_memory(zone: Zone, running: Running) -> bool:
    """Whether a running zone has another memory than is declared."""
    return abs(running.memory - zone.memory) > _MEMORY_SLACK


def differs_in_size(zone: Zone, running: Running) -> bool:
    """Whether a running zone has another size than is declared."""
    return differs_in_memory(zone, running) or running.cpus != zone.cpus
