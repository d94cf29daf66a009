# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which steps lead from what a host runs to what is declared. Pure.

The order of the steps is that in which they are applied: first what ends, then what begins.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import FIELDS, Zone, depths_of
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import Definition
from ansible_collections.ringfence.zones.plugins.module_utils.zone.observed import Observed, Running, differs_in_memory
from ansible_collections.ringfence.zones.plugins.module_utils.zone.volumes import Change

REMOVE = "remove"
CREATE = "create"
RECREATE = "recreate"
RESTART = "restart"
START = "start"
LIVE = "live"
KEEP = "keep"

_ORDER = (REMOVE, RECREATE, RESTART, CREATE, START, LIVE, KEEP)


class Step(NamedTuple):
    """What happens to one zone, and why: ``reasons`` are lines such as ``memory 128 → 256``."""

    name: str
    action: str
    reasons: tuple[str, ...] = ()
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    definition: Definition | None = None
    wave: tuple[int, int, int] = (0, 0, 0)
    """Its place in the order of the plan; steps with the same one do not wait for each other."""
    pending: tuple[str, ...] = ()
    """What the next restart will bring, and is no reason for one."""

    @property
    def changes(self) -> bool:
        """Whether the host is changed by it."""
        return self.action != KEEP


def plan(
    declared: Sequence[Definition],
    removed: Collection[str],
    observed: Mapping[str, Observed],
    grown: Mapping[str, Change],
    *,
    adopt_runtime: bool = False,
) -> list[Step]:
    """The steps for a host.

    :param declared: what shall run.
    :param removed: names that shall not exist.
    :param observed: every zone of ours that the host has, by name.
    :param grown: the volumes that get larger, or have got so, by name; a zone sees it when it starts anew.
    :param adopt_runtime: restart zones on an older zone base; else a newer one is no reason to.
    """
    steps = [_step(definition, observed.get(definition.zone.name), grown, adopt_runtime) for definition in declared]
    for name in removed:
        zone = observed.get(name)
        if zone:
            before: Mapping[str, Any] = zone.definition.fields if zone.definition else {"name": name}
            steps.append(Step(name, REMOVE, ("shall not exist",), before=before))
        else:
            steps.append(Step(name, KEEP))
    # What goes ends before that on which it depends; what stays or comes begins after it.
    ends = depths_of({name: zone.definition.zone.depends_on for name, zone in observed.items() if zone.definition})
    having = owners(observed)
    begins = depths_of({definition.zone.name: definition.zone.depends_on for definition in declared})
    # A zone gets a volume after the step of the one that has it, unless that one has to come later: then it is stopped before.
    givers = {definition.zone.name: set(volumes_of_others(definition, having).values()) for definition in declared}
    if any(givers.values()):
        depths = depths_of({one.zone.name: {*one.zone.depends_on, *givers[one.zone.name]} for one in declared})
        begins = depths if len(depths) == len(declared) else begins

    def wave(step: Step) -> tuple[int, int, int]:
        if step.action == REMOVE:
            return (0, -ends.get(step.name, 0), 0)
        # What gives memory back comes before what takes it, and a zone that gives a volume away before that which gets it.
        shrinks = _shrinks(step)
        if step.action == LIVE and shrinks:
            return (1, 0, 0)  # It runs on, so nothing that depends on it, or on which it depends, is touched.
        again = 3 if volumes_of_others(step.definition, having) else 1 if shrinks else 2
        return (1, begins.get(step.name, 0), again if step.action in (RECREATE, RESTART) else 4)

    steps = [step._replace(wave=wave(step)) for step in steps]
    return sorted(steps, key=lambda step: (step.wave, _ORDER.index(step.action), step.name))


def waves(steps: Sequence[Step]) -> list[list[Step]]:
    """A plan's steps in groups: one group after the other, and the steps of a group side by side."""
    return [list(together) for _wave, together in itertools.groupby(steps, lambda step: step.wave)]


def owners(observed: Mapping[str, Observed]) -> dict[str, list[str]]:
    """The names of the zones that have each volume."""
    having: dict[str, list[str]] = {}
    for name, zone in observed.items():
        for mount in zone.definition.zone.volumes if zone.definition else ():
            having.setdefault(mount.volume, []).append(name)
    return having


def volumes_of_others(definition: Definition | None, having: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The volumes that a zone shall have and another one has, with the name of that other zone.

    :param having: what :func:`owners` found.
    """
    if definition is None:
        return {}
    wanted, own = definition.zone.volumes, definition.zone.name
    return {mount.volume: name for mount in wanted for name in having.get(mount.volume, ()) if name != own}


def released(steps: Sequence[Step], having: Mapping[str, Sequence[str]]) -> list[Step]:
    """The steps whose zones have to stop before any step is taken: a zone that gets a volume of theirs does not come after them."""
    waves_of = {step.name: step.wave for step in steps}
    givers = {name for step in steps for name in volumes_of_others(step.definition, having).values() if waves_of.get(name, ()) >= step.wave}
    return [step for step in steps if step.name in givers]


def _shrinks(step: Step) -> bool:
    """Whether a zone that runs gives memory back."""
    return bool(step.before and step.after and step.after["memory"] < step.before.get("memory", 0))


def _step(definition: Definition, observed: Observed | None, grown: Mapping[str, Change], adopt_runtime: bool) -> Step:
    name, after = definition.zone.name, definition.fields
    if observed is None:
        return Step(name, CREATE, ("does not exist",), None, after, definition)
    if observed.definition is None:
        return Step(name, RECREATE, ("its metadata cannot be read",), {"name": name}, after, definition)
    before = {**observed.definition.fields, **_drifted(definition.zone, observed)}
    reasons = {key: _reason(key, before[key], after[key]) for key in after if before[key] != after[key]}
    # The peers are no field of the declaration, but follow from those of other zones, for which this one is not restarted.
    actions = {LIVE if key == "peers" else _cost(key, definition.zone, observed.running) for key in reasons}
    renewed = sorted(name for name, print_ in definition.secrets.items() if observed.definition.secrets.get(name) not in (None, print_))
    if renewed:
        actions.add(RESTART)
    larger = [grown[mount.volume] for mount in definition.zone.volumes if mount.volume in grown]
    if larger:
        actions.add(RESTART)
    outdated = definition.runtime != observed.definition.runtime
    if outdated and adopt_runtime:
        actions.add(RESTART)
        reasons["runtime"] = _reason("runtime", observed.definition.runtime, definition.runtime)
    told = (*reasons.values(), *(f"secret {name} has changed" for name in renewed))
    told = (*told, *(f"volume {change.name} {change.before} → {change.after} MiB" for change in larger))
    if observed.stopping is not None and observed.stopping == observed.domain_id:
        actions.add(RESTART)
        told = (*told, "an earlier run has asked it to stop")
    for key in ("image", "kernel", "virtualization"):
        # Else it would go on under a name for what it has that is not declared any more, and that is looked up anew each time.
        if key not in reasons and getattr(definition.zone, key) != getattr(observed.definition.zone, key):
            actions.add(LIVE)
            told = (*told, f"{key} is declared as {getattr(definition.zone, key) or 'the default'} now")
    if observed.hosts_unsure:
        actions.add(LIVE)
        told = (*told, "an earlier run may have written its /etc/hosts")
    if not observed.whole:
        return Step(name, RECREATE, (*told, "files of it are missing"), before, after, definition)
    action = next((action for action in (RECREATE, RESTART) if action in actions), None)
    if action:
        return Step(name, action, told, before, after, definition)
    if not observed.active:
        return Step(name, START, (*told, "is not running"), before, after, definition)
    # It keeps the base that it was started with.
    pending = (f"restart to adopt runtime {_shown(definition.runtime)}",) if outdated else ()
    if outdated:
        definition = dataclasses.replace(definition, runtime=observed.definition.runtime)
    return Step(name, LIVE if actions else KEEP, told, before, after, definition, pending=pending)


def _drifted(declared: Zone, observed: Observed) -> dict[str, int]:
    """What a running zone has, where that is not what it was last defined to have: a run was killed, or somebody else has changed it."""
    if observed.definition is None or observed.running is None:
        return {}
    defined, running = observed.definition.zone, observed.running
    drifted = {}
    if defined.memory == declared.memory and differs_in_memory(declared, running):
        drifted["memory"] = running.memory
    if defined.cpus == declared.cpus != running.cpus:
        drifted["cpus"] = running.cpus
    for shares in observed.shares:
        if defined.cpu_shares == declared.cpu_shares != shares:
            drifted["cpu_shares"] = shares
    return drifted


def _cost(key: str, declared: Zone, running: Running | None) -> str:
    """The action that brings a field to what is declared."""
    if FIELDS[key].change != "resize":
        return FIELDS[key].change
    if running is None:
        return RESTART
    if key == "cpus":
        return LIVE if declared.cpus <= running.most_cpus else RESTART
    # A kernel's own tables are made for the memory that it boots with, and stay: below the half, too little would be left beside them.
    return LIVE if running.most_memory <= 2 * declared.memory and declared.memory <= running.most_memory else RESTART


def _reason(key: str, before: Any, after: Any) -> str:
    if key == "environment":  # The values are often secrets.
        return f"{key} {', '.join(name for name in sorted({**before, **after}) if before.get(name) != after.get(name))}"
    return f"{key} {_shown(before)} → {_shown(after)}"


def _shown(value: Any) -> str:
    text = str(value)
    if text.startswith("sha256:"):
        return text[:19] + "…"
    return text if len(text) <= 60 else text[:57] + "..."
