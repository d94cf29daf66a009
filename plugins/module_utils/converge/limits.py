# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What zones take from their host and from each other: ports, devices, memory, volumes. Pure; each function returns the problems."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from ansible_collections.ringfence.zones.plugins.module_utils.converge.plan import KEEP, LIVE, Step
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.kernels import Kernel
from ansible_collections.ringfence.zones.plugins.module_utils.spec.devices import NODES
from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Publishers, Zone
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.zone import volumes
from ansible_collections.ringfence.zones.plugins.module_utils.zone.observed import Observed

_OVERHEAD = 8
"""MiB that Xen itself takes for one small domain: page tables, the domain's structures, shadow or HAP memory."""


def ports(
    zones: Sequence[Zone], observed: Mapping[str, Observed], removed: Collection[str], used: Callable[[], Collection[tuple[int, str]]]
) -> list[str]:
    """Published ports that another zone, which stays, or a program of the host has.

    :param used: (port, protocol) of those on which the host listens; asked only if a zone publishes one that it does not have yet.
    """
    declared = {zone.name for zone in zones} | set(removed)
    publishers = Publishers()
    for name, other in observed.items():
        for port in other.definition.zone.ports if name not in declared and other.definition else ():
            publishers.claim(port, name)
    had = {name: zone.definition.zone.ports for name, zone in observed.items() if zone.definition}
    new = {zone.name: set(zone.ports) - set(had.get(zone.name, ())) for zone in zones}
    listening = used() if any(new.values()) else ()
    problems = []
    for zone in zones:
        for port in zone.ports:
            user = publishers.claim(port, zone.name)
            if not user and port in new[zone.name] and (port.host, port.protocol) in listening:
                user = f"a program of the host listens on {port.host}/{port.protocol}"
            if user:
                problems.append(f"zone {zone.name}: ports: {port} is not accepted; {user}; choose another")
    return problems


def devices(zone: Zone, kernel: Kernel, known: Mapping[str, Kernel]) -> list[str]:
    """What of a zone's devices its kernel has no driver for."""
    problems = []
    for device in zone.devices:
        module = NODES[device.source].module
        if module is None or module in kernel.modules:
            continue
        having = [name for name, other in sorted(known.items()) if module in other.modules]
        accepted = f"it is in {', '.join(having)}" if having else "deploy one that has it"
        problem = f"zone {zone.name}: devices: {device.source} is not possible; kernel {kernel.name} has no {module}"
        problems.append(f"{problem}, neither built in nor as a module; {accepted}")
    return problems


def memory(steps: Sequence[Step], observed: Mapping[str, Observed], free_memory: Callable[[], int]) -> list[str]:
    """Zones that do not fit into what Xen has free, counting what the steps give back.

    :param free_memory: MiB; asked only if something starts or gets more.
    """
    starting = {step.name: step.definition.zone.memory for step in steps if step.definition and step.action not in (KEEP, LIVE)}
    resized = {step.name: _growth(step, observed) for step in steps if step.action == LIVE}
    growing = {name: growth for name, growth in resized.items() if growth > 0}
    if not starting and not growing:
        return []
    ending = (observed[step.name] for step in steps if step.action not in (KEEP, LIVE) and step.name in observed)
    given_back = sum(_memory(zone) + _OVERHEAD for zone in ending if zone.active)
    given_back -= sum(growth for growth in resized.values() if growth < 0)
    needed, free = sum((*starting.values(), *growing.values())) + _OVERHEAD * len(starting), free_memory() + given_back
    if needed <= free:
        return []
    told = ", ".join(
        [*(f"{name} {size}MiB" for name, size in starting.items()), *(f"{name} {size}MiB more" for name, size in growing.items())]
    )
    zones = f"the zones to {'start or enlarge' if growing else 'start'} ({told})"
    return [f"memory: {zones} need {needed} MiB with Xen's overhead, and this host has {free} MiB free; declare less"]


def _memory(zone: Observed) -> int:
    return zone.running.memory if zone.running else zone.definition.zone.memory if zone.definition else 0


def _growth(step: Step, observed: Mapping[str, Observed]) -> int:
    """MiB that a zone gets while it runs; less than zero is what it gives back."""
    return step.definition.zone.memory - _memory(observed[step.name]) if step.definition else 0


def owners(
    sizes: Sequence[volumes.Change],
    zones: Sequence[Zone],
    observed: Mapping[str, Observed],
    removed: Collection[str],
    store: Store,
) -> list[str]:
    """Volumes that would be taken from a zone that is not declared, and stays; and those that a zone has and the host has not."""
    wanted = {mount.volume: zone.name for zone in zones for mount in zone.volumes}
    problems = [
        f"volume {change.name}: its file is missing, and zone {name} has it: mount or restore {volumes.path(store, change.name)}, "
        "or remove that zone (state: absent) before the volume is made anew, empty"
        for change in sizes
        for name, zone in observed.items()
        if change.action == volumes.CREATE and name not in removed and zone.definition
        if change.name in {mount.volume for mount in zone.definition.zone.volumes}
    ]
    for name, zone in observed.items():
        if name in removed or not zone.definition or name in {zone.name for zone in zones}:
            continue
        for mount in zone.definition.zone.volumes:
            if mount.volume in wanted:
                user = f"zone {wanted[mount.volume]}: volumes: {mount.volume} is not accepted"
                problems.append(f"{user}; zone {name}, which is not declared, has it")
            elif any(change.name == mount.volume and change.action != volumes.KEEP for change in sizes):
                problems.append(f"volume {mount.volume}: zone {name}, which is not declared, has it; declare or remove that zone")
    return problems
