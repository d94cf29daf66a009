# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One call converges a host: declared, validated, observed, planned, applied. Check mode is the same path and stops before the last."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils import (
    firewall,
    images,
    kernels,
    network,
    registry,
    runtime,
    volumes,
    zone_files,
)
from ansible_collections.ringfence.zones.plugins.module_utils.apply import Apply, TakenBack
from ansible_collections.ringfence.zones.plugins.module_utils.domain import Definition
from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration, RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.host import listening_ports
from ansible_collections.ringfence.zones.plugins.module_utils.hypervisor import Hypervisor, booted_into_xen
from ansible_collections.ringfence.zones.plugins.module_utils.kernels import Kernel
from ansible_collections.ringfence.zones.plugins.module_utils.plan import (
    CREATE,
    KEEP,
    LIVE,
    REMOVE,
    Observed,
    Step,
    fields,
    plan,
    shown,
)
from ansible_collections.ringfence.zones.plugins.module_utils.spec import Volume, Zone, parse_declaration
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store

_OVERHEAD = 8
"""MiB that Xen itself takes for one small domain: page tables, the domain's structures, shadow or HAP memory."""


@dataclasses.dataclass
class Report:
    """What a converge did, or would do: one result for each zone, the plan in words, and what failed."""

    zones: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    volumes: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    undeclared: list[str] = dataclasses.field(default_factory=list)
    before: dict[str, Any] = dataclasses.field(default_factory=dict)
    after: dict[str, Any] = dataclasses.field(default_factory=dict)
    failures: list[str] = dataclasses.field(default_factory=list)
    rules_changed: bool = False

    @property
    def changed(self) -> bool:
        """Whether anything on the host was, or would be, changed."""
        return self.rules_changed or any(part["changed"] for part in (*self.zones, *self.volumes))


def converge(
    store: Store,
    declared: list[dict[str, Any]],
    declared_volumes: dict[str, Any],
    secrets: dict[str, Any],
    *,
    prune: bool,
    check: bool,
    start_timeout: float,
    retry: bool,
) -> Report:
    """Bring a host's zones and volumes to what is declared.

    :param secrets: contents by name.
    :param prune: remove zones of ours that are not declared; else they are only reported.
    :param start_timeout: seconds within which the container of a started zone must run, and be healthy if it is checked.
    :param retry: try again what was taken back before.
    :raises RingfenceError: when nothing was changed; what fails later is told in the report's ``failures``.
    """
    zones, declared_sizes = parse_declaration(declared, declared_volumes, secrets)
    if check and not booted_into_xen():
        return _preview(store, zones, declared_sizes)
    if check:
        return _Converge(store, Hypervisor(), secrets, start_timeout).run(zones, declared_sizes, prune=prune, check=True, retry=retry)
    with store.lock():
        return _Converge(store, Hypervisor(), secrets, start_timeout).run(zones, declared_sizes, prune=prune, check=False, retry=retry)


def _preview(store: Store, zones: Sequence[Zone], declared: Sequence[Volume]) -> Report:
    """What will happen on a host that has no Xen yet: nothing runs there, so every declared zone will be created."""
    report = Report()
    _tell_volumes(volumes.changes(declared, volumes.existing(store)), report)
    for zone in zones:
        creates = zone.state == "present"
        action, reason = (CREATE, "this host is not booted into Xen yet") if creates else (KEEP, "does not exist")
        report.zones.append({"name": zone.name, "action": action, "reasons": [reason], "changed": creates, "failed": False})
        if creates:
            report.before[zone.name], report.after[zone.name] = None, {"name": zone.name, "image": zone.image}
    return report


class _Converge:
    """The state of one call."""

    def __init__(self, store: Store, hypervisor: Hypervisor, secrets: Mapping[str, str], start_timeout: float) -> None:
        self.store = store
        self.hypervisor = hypervisor
        self.secrets = secrets
        self.apply = Apply(store, hypervisor, secrets, start_timeout)
        self.resolved: dict[str, registry.Resolved] = {}
        self.kernels: dict[str, Kernel] = {}

    def run(self, zones: list[Zone], declared: list[Volume], *, prune: bool, check: bool, retry: bool) -> Report:
        observed, foreign = self.hypervisor.observe()
        observed = {name: dataclasses.replace(zone, whole=zone_files.whole(self.store, name)) for name, zone in observed.items()}
        wanted = [zone for zone in zones if zone.state == "present"]
        undeclared = sorted(set(observed) - {zone.name for zone in zones})
        removed = [zone.name for zone in zones if zone.state == "absent"] + (undeclared if prune else [])
        definitions = self._definitions(wanted, observed, foreign, removed, check=check)
        sizes = volumes.changes(declared, volumes.existing(self.store))
        steps = plan(definitions, removed, observed, {change.name: change for change in sizes if change.action == volumes.GROW})
        self._check_memory(steps, observed)
        self._check_volumes(sizes, zones, observed, removed)
        report = Report(undeclared=[] if prune else undeclared)
        if not retry:
            steps = self._without_refused(steps, report)
        _tell_volumes(sizes, report)
        for step in steps:
            if step.changes:
                report.before[step.name], report.after[step.name] = (shown(side) if side else None for side in (step.before, step.after))
        if check:
            report.zones = sorted([*report.zones, *(self._result(step) for step in steps)], key=lambda zone: str(zone["name"]))
            report.rules_changed = not firewall.is_loaded(self.store, firewall.rules(_definitions_after(steps, observed).values()))
        else:
            self._apply(steps, sizes, observed, report)
        return report

    def _without_refused(self, steps: Sequence[Step], report: Report) -> list[Step]:
        """The steps without those that were taken back before; each of them is a failure of this run too."""
        kept = []
        for step in steps:
            refusal = self.apply.refusal(step)
            if refusal:
                report.failures.append(f"zone {step.name}: {step.action}: {refusal}")
                report.zones.append({**self._result(step, failed=True), "changed": False})
            else:
                kept.append(step)
        return kept

    # What is declared, with every name resolved; nothing is changed.

    def _definitions(
        self,
        zones: Sequence[Zone],
        observed: Mapping[str, Observed],
        foreign: Collection[str],
        removed: Collection[str],
        *,
        check: bool,
    ) -> list[Definition]:
        problems: list[str] = []
        known = kernels.deployed(self.store)
        standard = kernels.default(self.store)
        base = runtime.current(self.store).digest if zones else ""
        taken = {name: zone.definition.index for name, zone in observed.items() if zone.definition}
        indices = network.allocate((zone.name for zone in zones), taken)
        definitions = []
        for zone in zones:
            if zone.name in foreign:
                problems.append(
                    f"zone {zone.name}: name: a domain of this name exists that is not a zone and is left alone; choose another"
                )
                continue
            kernel = known.get(zone.kernel) if zone.kernel else standard
            if kernel is None:
                accepted = f"accepted: {', '.join(sorted(known))}" if known else "none is deployed; deploy one with ringfence.zones.kernels"
                problems.append(f"zone {zone.name}: kernel: {zone.kernel or 'the default'!r} is not deployed on this host; {accepted}")
                continue
            self.kernels[zone.name] = kernel
            try:
                before = observed[zone.name].definition if zone.name in observed else None
                digest = self._image_digest(zone, before)
                peers = {
                    other.name: network.address(indices[other.name])
                    for other in zones
                    if any(traffic.peer == zone.name for traffic in other.networks.ingress)
                }
                prints = {
                    secret.source: zone_files.fingerprint(self.store, self.secrets[secret.source], check=check) for secret in zone.secrets
                }
                mode = self._mode(zone, kernel)
                definitions.append(Definition(zone, digest, kernel.digest, mode, base, indices[zone.name], peers, prints))
            except RingfenceError as error:
                problems.append(f"zone {zone.name}: {error}")
        problems += self._port_problems(zones, observed, removed)
        if problems:
            raise InvalidDeclaration(problems)
        return definitions

    def _image_digest(self, zone: Zone, before: Definition | None) -> str:
        """The digest of a zone's image. A reference that is as before is not looked up again: Compose's pull policy ``missing``."""
        if before is not None and before.zone.image == zone.image and before.image in images.present(self.store):
            return before.image
        found = images.find(self.store, zone.image)
        if found:
            return found.digest
        if zone.image not in self.resolved:
            self.resolved[zone.image] = registry.resolve(zone.image)
        return self.resolved[zone.image].digest

    def _mode(self, zone: Zone, kernel: Kernel) -> str:
        wanted = ("pvh", "pv") if zone.virtualization == "auto" else (zone.virtualization,)
        possible = [mode for mode in wanted if mode in kernel.modes and mode in self.hypervisor.modes()]
        if not possible:
            raise RingfenceError(
                f"virtualization: {zone.virtualization} is not possible; kernel {kernel.name} can {', '.join(kernel.modes)}, "
                f"this host can {', '.join(self.hypervisor.modes())}"
            )
        return possible[0]

    def _port_problems(self, zones: Sequence[Zone], observed: Mapping[str, Observed], removed: Collection[str]) -> list[str]:
        declared = {zone.name for zone in zones} | set(removed)
        others = {
            (port.host, port.protocol): name
            for name, zone in observed.items()
            if name not in declared and zone.definition
            for port in zone.definition.zone.ports
        }
        problems = []
        used = listening_ports() if any(zone.ports for zone in zones) else set()
        for zone in zones:
            for port in zone.ports:
                key = (port.host, port.protocol)
                user = f"zone {others[key]} publishes" if key in others else "a program of the host listens on" if key in used else None
                if user:
                    problems.append(f"zone {zone.name}: ports: {port} is not accepted; {user} {port.host}/{port.protocol}; choose another")
        return problems

    def _check_memory(self, steps: Sequence[Step], observed: Mapping[str, Observed]) -> None:
        """Refuse a plan whose zones do not fit into what Xen has free, counting what its steps give back."""
        needed = given_back = 0
        for step in steps:
            before = observed.get(step.name)
            if step.action not in (KEEP, LIVE) and before and before.active and before.definition:
                given_back += before.definition.zone.memory + _OVERHEAD
            if step.definition and step.action not in (KEEP, LIVE):
                needed += step.definition.zone.memory + _OVERHEAD
        if not needed:
            return
        free = self.hypervisor.free_memory() + given_back
        if needed > free:
            starting = [
                f"{step.name} {step.definition.zone.memory}MiB" for step in steps if step.definition and step.action not in (KEEP, LIVE)
            ]
            raise InvalidDeclaration(
                [
                    f"memory: the zones to start ({', '.join(starting)}) need {needed} MiB with Xen's overhead, "
                    f"and this host has {free} MiB free; declare less"
                ]
            )

    def _check_volumes(
        self, sizes: Sequence[volumes.Change], zones: Sequence[Zone], observed: Mapping[str, Observed], removed: Collection[str]
    ) -> None:
        """Refuse a plan that takes a volume from a zone that is not declared, or that the host's disk has no room for."""
        wanted = {mount.volume: zone.name for zone in zones for mount in zone.volumes}
        problems = []
        for name, zone in observed.items():
            if name in removed or not zone.definition or name in {zone.name for zone in zones}:
                continue
            for mount in zone.definition.zone.volumes:
                if mount.volume in wanted:
                    user = f"zone {wanted[mount.volume]}: volumes: {mount.volume} is not accepted"
                    problems.append(f"{user}; zone {name}, which is not declared, has it")
                elif any(change.name == mount.volume and change.action != volumes.KEEP for change in sizes):
                    problems.append(f"volume {mount.volume}: zone {name}, which is not declared, has it; declare or remove that zone")
        if problems:
            raise InvalidDeclaration(problems)
        volumes.check_space(self.store, sizes)

    # Apply.

    def _apply(self, steps: Sequence[Step], sizes: Sequence[volumes.Change], observed: Mapping[str, Observed], report: Report) -> None:
        prepared = {step.name: self._prepare(step, report) for step in steps}
        report.zones += [{**self._result(step, failed=True), "changed": False} for step in steps if not prepared[step.name]]
        steps = [step for step in steps if prepared[step.name]]
        report.rules_changed = self._load_rules(steps, observed)
        self._apply_volumes([change for change in sizes if change.action in (volumes.CREATE, volumes.GROW)], report)
        failed = {str(zone["name"]) for zone in report.zones}
        taken_back: list[Step] = []
        for step in steps:
            missing = sorted(failed & set(step.definition.zone.depends_on)) if step.definition and step.action != KEEP else []
            ran = observed.get(step.name)
            try:
                if missing:
                    raise RingfenceError(f"not done, because it depends on {', '.join(missing)}")
                self.apply.carry_out(step, ran.definition if ran and ran.active else None)
                report.zones.append(self._result(step))
            except (RingfenceError, OSError) as error:
                failed.add(step.name)
                report.failures.append(f"zone {step.name}: {step.action}: {error}")
                report.zones.append(self._result(step, failed=True))
                if isinstance(error, TakenBack):
                    taken_back.append(step)
        if taken_back:
            self._load_rules([step for step in steps if step not in taken_back], observed)
        # Last: until now a zone that is going may have had it.
        self._apply_volumes([change for change in sizes if change.action == volumes.REMOVE], report)
        report.zones.sort(key=lambda zone: str(zone["name"]))
        for name in self._leftovers({step.name for step in steps if step.definition} | set(observed)):
            zone_files.remove(self.store, name)

    def _load_rules(self, steps: Sequence[Step], observed: Mapping[str, Observed]) -> bool:
        """Load the rules of a host on which these steps have been taken; whether others were loaded."""
        rules = firewall.rules(_definitions_after(steps, observed).values())
        differ = not firewall.is_loaded(self.store, rules)
        if differ:
            firewall.load(self.store, rules)
        return differ

    def _apply_volumes(self, sizes: Sequence[volumes.Change], report: Report) -> None:
        for change in sizes:
            try:
                volumes.apply(self.store, change)
            except RingfenceError as error:
                report.failures.append(str(error))

    def _prepare(self, step: Step, report: Report) -> bool:
        """Fetch what a step needs before anything that runs is touched."""
        definition = step.definition
        if definition is None or step.action in (KEEP, LIVE):
            return True
        try:
            if definition.image not in images.present(self.store):
                resolved = self.resolved.get(definition.zone.image) or registry.resolve(definition.zone.image)
                images.prepare(self.store, resolved)
            base = runtime.load(self.store, definition.runtime)
            zone_files.container(definition.zone, images.load(self.store, definition.image), base)
            return True
        except RingfenceError as error:
            report.failures.append(f"zone {step.name}: {step.action}: {error}")
            return False

    def _leftovers(self, known: Collection[str]) -> list[str]:
        """Directories of zones that no domain belongs to: a run was killed before it defined the domain, or after it undefined it."""
        if not self.store.zones.is_dir():
            return []
        return sorted(path.name for path in self.store.zones.iterdir() if path.name not in known)

    def _result(self, step: Step, *, failed: bool = False) -> dict[str, Any]:
        definition = step.definition
        result: dict[str, Any] = {
            "name": step.name,
            "action": step.action,
            "reasons": list(step.reasons),
            "changed": step.changes,
            "failed": failed,
        }
        if definition:
            result.update(shown(fields(definition)))
            result.update(
                kernel_release=self.kernels[step.name].release,
                address=network.address(definition.index),
                domain_id=self.hypervisor.domain_id(step.name),
            )
        return result


def _tell_volumes(sizes: Sequence[volumes.Change], report: Report) -> None:
    for change in sizes:
        report.volumes.append(change.result)
        if change.action != volumes.KEEP:
            name = f"volume {change.name}"
            report.before[name], report.after[name] = ({"size": size} if size else None for size in (change.before, change.after))


def _definitions_after(steps: Sequence[Step], observed: Mapping[str, Observed]) -> dict[str, Definition]:
    """The zones of a host on which these steps have been taken."""
    definitions = {name: zone.definition for name, zone in observed.items() if zone.definition}
    for step in steps:
        if step.action == REMOVE:
            definitions.pop(step.name, None)
        elif step.definition:
            definitions[step.name] = step.definition
    return definitions
