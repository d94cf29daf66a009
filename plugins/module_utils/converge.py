# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One call converges a host: declared, validated, observed, planned, applied. Check mode is the same path and stops before the last."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils import images, kernels, network, registry, runtime, zone_files
from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.domain import Definition, domain_xml, starts_with_host
from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration, RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.host import listening_ports, routes_others
from ansible_collections.ringfence.zones.plugins.module_utils.hypervisor import Hypervisor, booted_into_xen
from ansible_collections.ringfence.zones.plugins.module_utils.kernels import Kernel
from ansible_collections.ringfence.zones.plugins.module_utils.plan import (
    CREATE,
    KEEP,
    LIVE,
    RECREATE,
    REMOVE,
    RESTART,
    Observed,
    Step,
    fields,
    plan,
)
from ansible_collections.ringfence.zones.plugins.module_utils.spec import Zone, parse_zones
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store, write_atomically

_RULES = "network.nft"
"""The file in the store that the unit ringfence-network loads at boot."""

_OVERHEAD = 8
"""MiB that Xen itself takes for one small domain: page tables, the domain's structures, shadow or HAP memory."""


@dataclasses.dataclass
class Report:
    """What a converge did, or would do: one result for each zone, the plan in words, and what failed."""

    zones: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    undeclared: list[str] = dataclasses.field(default_factory=list)
    before: dict[str, Any] = dataclasses.field(default_factory=dict)
    after: dict[str, Any] = dataclasses.field(default_factory=dict)
    failures: list[str] = dataclasses.field(default_factory=list)
    rules_changed: bool = False

    @property
    def changed(self) -> bool:
        """Whether anything on the host was, or would be, changed."""
        return self.rules_changed or any(zone["changed"] for zone in self.zones)


def converge(store: Store, declared: list[dict[str, Any]], *, prune: bool, check: bool, start_timeout: float) -> Report:
    """Bring a host's zones to what is declared.

    :param prune: remove zones of ours that are not declared; else they are only reported.
    :param start_timeout: seconds within which the container of a started zone must run.
    :raises RingfenceError: when nothing was changed; what fails later is told in the report's ``failures``.
    """
    zones = parse_zones(declared)
    if check and not booted_into_xen():
        return _preview(zones)
    if check:
        return _Converge(store, Hypervisor(), start_timeout).run(zones, prune=prune, check=True)
    with store.lock():
        return _Converge(store, Hypervisor(), start_timeout).run(zones, prune=prune, check=False)


def _preview(zones: Sequence[Zone]) -> Report:
    """What will happen on a host that has no Xen yet: nothing runs there, so every declared zone will be created."""
    report = Report()
    for zone in zones:
        creates = zone.state == "present"
        action, reason = (CREATE, "this host is not booted into Xen yet") if creates else (KEEP, "does not exist")
        report.zones.append({"name": zone.name, "action": action, "reasons": [reason], "changed": creates, "failed": False})
        if creates:
            report.before[zone.name], report.after[zone.name] = None, {"name": zone.name, "image": zone.image}
    return report


class _Converge:
    """The state of one call."""

    def __init__(self, store: Store, hypervisor: Hypervisor, start_timeout: float) -> None:
        self.store = store
        self.hypervisor = hypervisor
        self.start_timeout = start_timeout
        self.resolved: dict[str, registry.Resolved] = {}
        self.kernels: dict[str, Kernel] = {}

    def run(self, zones: list[Zone], *, prune: bool, check: bool) -> Report:
        observed, foreign = self.hypervisor.observe()
        observed = {name: dataclasses.replace(zone, whole=zone_files.whole(self.store, name)) for name, zone in observed.items()}
        wanted = [zone for zone in zones if zone.state == "present"]
        undeclared = sorted(set(observed) - {zone.name for zone in zones})
        removed = [zone.name for zone in zones if zone.state == "absent"] + (undeclared if prune else [])
        definitions = self._definitions(wanted, observed, foreign, removed)
        steps = plan(definitions, removed, observed)
        self._check_memory(steps, observed)
        report = Report(undeclared=[] if prune else undeclared)
        for step in steps:
            if step.changes:
                report.before[step.name], report.after[step.name] = step.before, step.after
        if check:
            report.zones = [self._result(step) for step in steps]
            report.rules_changed = not self._has_rules(_rules(steps, observed))
        else:
            self._apply(steps, observed, report)
        return report

    # What is declared, with every name resolved; nothing is changed.

    def _definitions(
        self, zones: Sequence[Zone], observed: Mapping[str, Observed], foreign: Collection[str], removed: Collection[str]
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
                definitions.append(Definition(zone, digest, kernel.digest, self._mode(zone, kernel), base, indices[zone.name]))
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

    # Apply.

    def _apply(self, steps: Sequence[Step], observed: Mapping[str, Observed], report: Report) -> None:
        prepared = {step.name: self._prepare(step, report) for step in steps}
        report.zones = [{**self._result(step, failed=True), "changed": False} for step in steps if not prepared[step.name]]
        steps = [step for step in steps if prepared[step.name]]
        rules = _rules(steps, observed)
        report.rules_changed = not self._has_rules(rules)
        if report.rules_changed:
            self._load_rules(rules)
        for step in steps:
            try:
                self._apply_step(step)
                report.zones.append(self._result(step))
            except (RingfenceError, OSError) as error:
                report.failures.append(f"zone {step.name}: {step.action}: {error}")
                report.zones.append(self._result(step, failed=True))
        report.zones.sort(key=lambda zone: str(zone["name"]))
        for name in self._leftovers({step.name for step in steps if step.definition} | set(observed)):
            zone_files.remove(self.store, name)

    def _prepare(self, step: Step, report: Report) -> bool:
        """Fetch what a step needs before anything that runs is touched."""
        definition = step.definition
        if definition is None or step.action in (KEEP, LIVE):
            return True
        try:
            if definition.image not in images.present(self.store):
                resolved = self.resolved.get(definition.zone.image) or registry.resolve(definition.zone.image)
                images.prepare(self.store, resolved)
            zone_files.container(definition.zone, images.load(self.store, definition.image))
            return True
        except RingfenceError as error:
            report.failures.append(f"zone {step.name}: {step.action}: {error}")
            return False

    def _has_rules(self, rules: str) -> bool:
        """Whether these rules are loaded, and kept for the next boot of the host."""
        kept = self.store.root / _RULES
        return kept.exists() and kept.read_text(encoding="utf-8") == rules and _table_loaded()

    def _load_rules(self, rules: str) -> None:
        # Kept only if they load.
        run(["nft", "-f", "-"], stdin=rules.encode())
        write_atomically(self.store.root / _RULES, rules.encode())

    def _apply_step(self, step: Step) -> None:
        if step.action == KEEP:
            return
        if step.action in (REMOVE, RECREATE, RESTART):
            self.hypervisor.stop(step.name, zone_files.STOP_GRACE + 5)
        if step.action == REMOVE:
            self.hypervisor.undefine(step.name)
            zone_files.remove(self.store, step.name)
            return
        definition = step.definition
        if definition is None:
            return
        if step.action in (CREATE, RECREATE):
            zone_files.discard_writable(self.store, step.name)
        image = images.load(self.store, definition.image)
        base = runtime.load(self.store, definition.runtime)
        kernel = self.kernels[step.name]
        if step.action != LIVE:
            zone_files.write(self.store, definition, kernel, image, base)
        files = zone_files.files(self.store, definition, kernel.directory, image.path, base.base)
        xml = domain_xml(definition, files, self.hypervisor.uuid(step.name))
        self.hypervisor.define(xml, autostart=starts_with_host(definition.zone))
        if step.action != LIVE:
            zone_files.forget_record(self.store, step.name)
            self.hypervisor.start(step.name)
            self._await_start(step.name)

    def _await_start(self, name: str) -> None:
        """Return when the container has been started; a zone that ended already has run."""
        deadline = time.monotonic() + self.start_timeout
        while time.monotonic() < deadline:
            record = zone_files.read_record(self.store, name)
            if record and record.state == "failed":
                raise RingfenceError(f"its init gave up; the last lines of its console: {_console_tail(name)}")
            if record:
                return
            time.sleep(0.2)
        raise RingfenceError(
            f"its container did not start within {self.start_timeout:g} s; the last lines of its console: {_console_tail(name)}"
        )

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
            result.update(fields(definition))
            result.update(
                kernel_release=self.kernels[step.name].release,
                address=network.address(definition.index),
                domain_id=self.hypervisor.domain_id(step.name),
            )
            result["environment"] = sorted(definition.zone.environment)
        return result


def _rules(steps: Sequence[Step], observed: Mapping[str, Observed]) -> str:
    """The network rules of a host on which these steps have been taken."""
    definitions = {name: zone.definition for name, zone in observed.items() if zone.definition}
    for step in steps:
        if step.action == REMOVE:
            definitions.pop(step.name, None)
        elif step.definition:
            definitions[step.name] = step.definition
    published = {definition.index: definition.zone.ports for definition in definitions.values()}
    return network.ruleset(published, routes_others=routes_others())


def _table_loaded() -> bool:
    try:
        run(["nft", "list", "table", "inet", "ringfence"])
    except RingfenceError:
        return False
    return True


def _console_tail(name: str) -> str:
    """The last lines of a zone's console; what the zone wrote is shown with every control character escaped."""
    try:
        with open(Path("/var/log/xen/console") / f"guest-{name}.log", "rb") as log:
            log.seek(max(0, log.seek(0, 2) - 1000))
            lines = log.read(1000).decode("utf-8", "replace").splitlines()
    except OSError:
        return "none was logged"
    return " | ".join(ascii(line.strip())[1:-1] for line in lines[-8:] if line.strip()) or "empty"
