# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One call converges a host: declared, validated, observed, planned, applied. Check mode is the same path and stops before the last."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ansible_collections.ringfence.zones.plugins.module_utils.converge import garbage, limits, refusals
from ansible_collections.ringfence.zones.plugins.module_utils.converge.plan import (
    CREATE,
    KEEP,
    LIVE,
    REMOVE,
    Step,
    owners,
    plan,
    released,
    volumes_of_others,
    waves,
)
from ansible_collections.ringfence.zones.plugins.module_utils.errors import FAULTS, InvalidDeclaration, NotBegun, RingfenceError, TakenBack
from ansible_collections.ringfence.zones.plugins.module_utils.host import listening_ports
from ansible_collections.ringfence.zones.plugins.module_utils.image import images
from ansible_collections.ringfence.zones.plugins.module_utils.kernel import kernels
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.kernels import Kernel
from ansible_collections.ringfence.zones.plugins.module_utils.spec import env_files
from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Publishers, Volume, Zone, parse_declaration
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.zone import files, firewall, network, runtime, volumes
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import Definition, shown
from ansible_collections.ringfence.zones.plugins.module_utils.zone.hypervisor import LIBVIRT_ERROR, Hypervisor, booted_into_xen
from ansible_collections.ringfence.zones.plugins.module_utils.zone.observed import Observed, differs_in_size

if TYPE_CHECKING:
    from ansible_collections.ringfence.zones.plugins.module_utils.converge.apply import Apply
    from ansible_collections.ringfence.zones.plugins.module_utils.image import registry

_SIDE_BY_SIDE = 4
"""Zones that are changed at the same time, at most, and no more than this system has CPUs.

More than half of a start is work of libvirt, its hotplug scripts and udev on this system's own CPUs, of which Xen may have more: without
one for each, starts take longer together than one by one, and late enough to miss their deadline.
"""


@dataclasses.dataclass(frozen=True)
class Policy:
    """How a converge goes about it."""

    prune: bool = False
    """Remove zones of ours that are not declared; else they are only reported."""
    retry: bool = False
    """Try again what was taken back before."""
    adopt_runtime: bool = False
    """Restart zones that run on an older zone base than new ones get."""
    keep_unused: int = 3
    """Images, and kernels, that no zone uses and that stay all the same."""
    start_timeout: float = 120
    """Seconds within which the container of a started zone must run, and be healthy if it is checked."""


@dataclasses.dataclass(frozen=True)
class Planned:
    """What zones will find on their host, where what brings it there was run in check mode too."""

    runtime: str | None
    """The digest of the zone base; ``None`` if the host lacks what it is made of."""
    kernels: Sequence[Mapping[str, Any]]
    """As :func:`kernels.expected` takes them."""


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
    deleted: list[str] = dataclasses.field(default_factory=list)
    """What no zone used any more: images, kernels and zone bases."""

    @property
    def changed(self) -> bool:
        """Whether anything on the host was, or would be, changed."""
        return self.rules_changed or bool(self.deleted) or any(part["changed"] for part in (*self.zones, *self.volumes))

    @property
    def plan(self) -> str:
        """Each change in a line, with what it is for: many have other causes than a field of the declaration."""
        lines = [f"{zone['name']}: {zone['action']}: {', '.join(zone['reasons'])}" for zone in self.zones if zone["changed"]]
        lines += [f"volume {volume['name']}: {volume['action']}" for volume in self.volumes if volume["changed"]]
        lines += ["rules of the network: load"] if self.rules_changed else []
        lines += [f"{unused}: delete, no zone uses it" for unused in self.deleted]
        return "".join(f"{line}\n" for line in lines)

    @property
    def warnings(self) -> list[str]:
        """What stays as it is although it is not what is declared."""
        waiting: dict[str, list[str]] = {}
        for zone in self.zones:
            for what in zone.get("pending", ()):
                waiting.setdefault(what, []).append(str(zone["name"]))
        told = [f"{what}: {', '.join(names)}; they run on, adopt_runtime restarts them" for what, names in waiting.items()]
        if self.undeclared:
            told.append(f"not declared, and left alone: {', '.join(self.undeclared)}; prune removes zones that are not declared")
        return told


def converge(
    store: Store,
    declared: list[dict[str, Any]],
    declared_volumes: dict[str, Any],
    secrets: dict[str, Any],
    policy: Policy,
    *,
    check: bool,
    planned: Planned | None = None,
) -> Report:
    """Bring a host's zones and volumes to what is declared.

    :param secrets: contents by name.
    :param planned: only with ``check``.
    :raises RingfenceError: when nothing was changed; what fails later is told in the report's ``failures``.
    """
    if not policy.start_timeout > 0:  # Nor is NaN.
        raise InvalidDeclaration([f"start_timeout: {policy.start_timeout:g} is not accepted; accepted: more than 0 seconds"])
    zones, declared_sizes = parse_declaration(declared, declared_volumes, secrets)
    zones = env_files.merged(zones)
    if check:
        store.refuse_links()
        lacks = "is not booted into Xen" if not booted_into_xen() else "has no libvirt" if planned and LIBVIRT_ERROR else ""
        if lacks:
            return _preview(store, zones, declared_sizes, lacks)
        return _Converge(store, Hypervisor(), secrets, policy, planned).run(zones, declared_sizes, check=True)
    with store.lock():
        return _Converge(store, Hypervisor(), secrets, policy).run(zones, declared_sizes, check=False)


def _preview(store: Store, zones: Sequence[Zone], declared: Sequence[Volume], lacks: str) -> Report:
    """What will happen on a host that lacks Xen or libvirt yet: nothing runs there, so every declared zone will be created."""
    report = Report()
    _tell_volumes(volumes.changes(declared, volumes.existing(store)), report)
    for zone in zones:
        creates = zone.state == "present"
        action, reason = (CREATE, f"this host {lacks} yet") if creates else (KEEP, "does not exist")
        report.zones.append({"name": zone.name, "action": action, "reasons": [reason], "changed": creates, "failed": False})
        if creates:
            report.before[zone.name], report.after[zone.name] = None, {"name": zone.name, "image": zone.image}
    return report


class _Converge:
    """The state of one call."""

    def __init__(
        self, store: Store, hypervisor: Hypervisor, secrets: Mapping[str, str], policy: Policy, planned: Planned | None = None
    ) -> None:
        self.store = store
        self.hypervisor = hypervisor
        self.secrets = secrets
        self.policy = policy
        self.planned = planned
        self.resolved: dict[str, registry.Resolved] = {}
        self.image_is_present = functools.cache(functools.partial(images.is_present, store))
        self.kernels: dict[str, Kernel] = {}
        self.domains: dict[str, int | None] = {}
        self.owners: dict[str, list[str]] = {}
        self.released: set[str] = set()
        """The zones that were stopped before their step, for another one to get a volume of theirs."""
        self.unmade_volumes: set[str] = set()
        self.staying: dict[str, Definition] = {}
        """What the zones are that run and that no step starts."""

    @functools.cached_property
    def apply(self) -> Apply:
        """What takes steps. It is loaded with the first one: most converges take none, and half of the library is only for that."""
        from ansible_collections.ringfence.zones.plugins.module_utils.converge.apply import Apply  # noqa: PLC0415

        return Apply(self.store, self.hypervisor, self.secrets, self.policy.start_timeout)

    def run(self, zones: list[Zone], declared: list[Volume], *, check: bool) -> Report:
        observed, foreign = self.hypervisor.observe()
        self.domains = {name: zone.domain_id for name, zone in observed.items()}
        for name, zone in observed.items():
            if zone.definition:
                observed[name] = zone._replace(**files.look(self.store, zone.definition)._asdict())
        wanted = [zone for zone in zones if zone.state == "present"]
        for declared_zone in wanted:
            name = declared_zone.name
            running = observed[name].running if name in observed else None
            if running and differs_in_size(declared_zone, running):
                observed[name] = observed[name]._replace(running=self.hypervisor.running(name))
        undeclared = sorted(set(observed) - {zone.name for zone in zones})
        removed = [zone.name for zone in zones if zone.state == "absent"] + (undeclared if self.policy.prune else [])
        definitions = self._definitions(wanted, observed, foreign, removed, check=check)
        sizes = volumes.changes(declared, volumes.existing(self.store))
        grown = {**volumes.outgrown(self.store), **{change.name: change for change in sizes if change.action == volumes.GROW}}
        steps = plan(definitions, removed, observed, grown, adopt_runtime=self.policy.adopt_runtime)
        report = Report(undeclared=[] if self.policy.prune else undeclared)
        self.staying = {step.name: step.definition for step in steps if step.definition and step.action in (KEEP, LIVE)}
        self.owners = owners(observed)
        if not self.policy.retry:
            steps = self._without(steps, report, lambda step, _failed: refusals.reason(self.store, step))
            steps = self._without(steps, report, self._obstacle)
        problems = limits.memory(steps, observed, self.hypervisor.free_memory)
        problems += limits.owners(sizes, zones, observed, removed, self.store)
        if problems:
            raise InvalidDeclaration(problems)
        volumes.check_space(self.store, sizes)
        _tell_volumes(sizes, report)
        for step in steps:
            if step.changes:
                report.before[step.name], report.after[step.name] = (shown(side) if side else None for side in (step.before, step.after))
        if check:
            report.zones = sorted([*report.zones, *(self._result(step) for step in steps)], key=lambda zone: str(zone["name"]))
            report.rules_changed = not firewall.is_loaded(self.store, _rules(steps, observed))
        else:
            self._apply(steps, sizes, observed, report)
        report.deleted = self._tidy_store(steps, observed, report, check=check)
        if not check:
            self._tidy_layers(report)
        return report

    def _without(self, steps: Sequence[Step], report: Report, fault: Callable[[Step, Collection[str]], str | None]) -> list[Step]:
        """The steps without those that have a fault; each of them is a failure of this run too, and nothing is done for it.

        :param fault: what keeps a step from being begun, or ``None``, when the named zones have failed before it.
        """
        failed = {str(zone["name"]) for zone in report.zones}
        for step in steps:
            if (why := fault(step, failed)) is not None:
                failed.add(step.name)
                report.failures.append(f"zone {step.name}: {step.action}: {why}")
                report.zones.append({**self._result(step, failed=True), "changed": False})
        return [step for step in steps if step.name not in failed]

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
        known, standard = kernels.expected(self.store, self.planned.kernels if self.planned else ())
        base = self._base() if zones else ""
        taken = {name: zone.definition.index for name, zone in observed.items() if zone.definition}
        settled = {*removed, *(zone.name for zone in zones)}
        unknown = sorted(name for name, zone in observed.items() if not zone.definition and name not in settled)
        if unknown and any(zone.name not in taken for zone in zones):
            # Its address is in its metadata too, and must not be given to another.
            problems.append(
                f"zones {', '.join(unknown)}: their metadata cannot be read, so no zone can be created beside them; use the version of the "
                "collection that has written it, or declare them or remove them (state: absent)"
            )
        indices = network.allocate((zone.name for zone in zones), taken)
        peers: dict[str, dict[str, str]] = {zone.name: {} for zone in zones}
        for zone in zones:
            for traffic in zone.networks.ingress:
                peers.get(traffic.peer, {})[zone.name] = network.address(indices[zone.name])
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
            problems += limits.devices(zone, kernel, known)
            try:
                before = observed[zone.name].definition if zone.name in observed else None
                digest = self._image_digest(zone, before)
                prints = {secret.source: files.fingerprint(self.store, self.secrets[secret.source], check=check) for secret in zone.secrets}
                mode = self._mode(zone, kernel)
                definitions.append(Definition(zone, digest, kernel.digest, mode, base, indices[zone.name], peers[zone.name], prints))
            except RingfenceError as error:
                problems.append(f"zone {zone.name}: {error}")
        problems += limits.ports(zones, observed, removed, listening_ports)
        if problems:
            raise InvalidDeclaration(problems)
        return definitions

    def _base(self) -> str:
        """The digest of the zone base that zones which start get; empty in check mode if it is not known yet."""
        return self.planned.runtime or "" if self.planned else runtime.current(self.store).digest

    def _image_digest(self, zone: Zone, before: Definition | None) -> str:
        """The digest of a zone's image. A reference that is as before is not looked up again: Compose's pull policy ``missing``."""
        if before is not None and before.zone.image == zone.image and self.image_is_present(before.image):
            return before.image
        found = images.find(self.store, zone.image)
        if found:
            return found.digest
        if zone.image not in self.resolved:
            # As with apply: what looks images up is only for those that the store has not.
            from ansible_collections.ringfence.zones.plugins.module_utils.bundle import installed  # noqa: PLC0415

            self.resolved[zone.image] = installed.resolve(self.store, zone.image)
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

    # Apply.

    def _apply(self, steps: Sequence[Step], sizes: Sequence[volumes.Change], observed: Mapping[str, Observed], report: Report) -> None:
        steps = self._without(steps, report, lambda step, _failed: self._prepare(step))
        steps = self._without(steps, report, self._obstacle)
        report.rules_changed = self._load_rules(steps, observed)
        self._apply_volumes([change for change in sizes if change.action in (volumes.CREATE, volumes.GROW)], report)
        failed = {str(zone["name"]) for zone in report.zones}
        taken_back: list[Step] = []
        for step in released(steps, self.owners):
            with contextlib.suppress(RingfenceError):  # Its own step comes to the same error, and tells it.
                self.apply.stop(step, observed[step.name])
            self.released.add(step.name)
        for together in waves(steps):
            errors = _side_by_side(lambda step: self._carry_out(step, observed, frozenset(failed)), together)
            for step, error in zip(together, errors, strict=True):
                result = self._result(step, failed=error is not None)
                report.zones.append({**result, "changed": False} if isinstance(error, NotBegun) else result)
                if error is not None:
                    failed.add(step.name)
                    report.failures.append(f"zone {step.name}: {step.action}: {error}")
                if isinstance(error, TakenBack):
                    taken_back.append(step)
        if taken_back:
            try:
                self._load_rules([step for step in steps if step not in taken_back], observed)
            except RingfenceError as error:
                report.failures.append(str(error))
        # Last: until now a zone that is going may have had it.
        self._apply_volumes([change for change in sizes if change.action == volumes.REMOVE], report, failed)
        report.zones.sort(key=lambda zone: str(zone["name"]))
        for name in self._leftovers({step.name for step in steps if step.definition} | set(observed)):
            files.remove(self.store, name)

    def _carry_out(self, step: Step, observed: Mapping[str, Observed], failed: Collection[str]) -> Exception | None:
        """Take one step, and return why it failed.

        :param failed: the zones that are not as declared; what needs one of them, or a volume that it has, is not begun.
        """
        now = observed.get(step.name)
        try:
            if why := self._obstacle(step, failed):
                if step.name in self.released and now and now.active and now.definition:
                    self.apply.resume(now.definition)
                return NotBegun(why)
            if step.changes:
                self.apply.carry_out(step, now)
            elif now:
                self._complete(now)
        except FAULTS as error:
            return error
        return None

    def _obstacle(self, step: Step, failed: Collection[str]) -> str | None:
        """Why a step cannot be begun after what has failed before it."""
        if step.definition is None or step.action == KEEP:
            return None
        zone = step.definition.zone
        missing = sorted(set(failed) & set(zone.depends_on))
        if missing:
            return f"not done, because it depends on {', '.join(missing)}"
        for other, condition in zone.depends_on.items():
            staying = self.staying.get(other) if condition == "service_healthy" else None
            record = files.read_record(self.store, staying) if staying else None
            if record and record.health == "unhealthy":
                return f"not done, because it depends on the health of {other}, whose check fails"
        for volume, owner in volumes_of_others(step.definition, self.owners).items():
            if owner in failed:
                return f"not done, because zone {owner}, which has failed, has volume {volume}"
        unmade = sorted(self.unmade_volumes & {mount.volume for mount in zone.volumes})
        return f"not done, because volume {', '.join(unmade)} is not as declared" if unmade else None

    def _complete(self, zone: Observed) -> None:
        """Do for a zone that stays what an earlier run left undone because it was killed."""
        if zone.active and zone.definition:
            record = files.read_record(self.store, zone.definition)
            # The note of its stop stays until its step is done.
            watched = zone.stopping is not None and record and record.health in ("starting", "unhealthy")
            if record is None or watched:
                self.apply.await_start(zone.definition)
        for path in zone.stale:
            os.unlink(path)

    def _load_rules(self, steps: Sequence[Step], observed: Mapping[str, Observed]) -> bool:
        """Load the rules of a host on which these steps have been taken; whether others were loaded."""
        rules = _rules(steps, observed)
        differ = not firewall.is_loaded(self.store, rules)
        if differ:
            firewall.load(self.store, rules)
        return differ

    def _apply_volumes(self, sizes: Sequence[volumes.Change], report: Report, failed: Collection[str] = ()) -> None:
        """Create, grow or delete volumes, but for those that a zone has which failed to change."""
        for change in sizes:
            try:
                having = sorted(set(failed) & set(self.owners.get(change.name, ())))
                if having:
                    raise RingfenceError(f"not done, because zone {', '.join(having)}, which has failed, has it")
                volumes.apply(self.store, change)
            except FAULTS as error:
                size = f" to {change.after} MiB" if change.after else ""
                report.failures.append(f"volume {change.name}: {change.action}{size}: {error}")
                self.unmade_volumes.add(change.name)
        for result in report.volumes:
            if result["name"] in self.unmade_volumes:
                result["changed"] = False

    def _prepare(self, step: Step) -> str | None:
        """Fetch what a step needs before anything that runs is touched, and return why that failed."""
        definition = step.definition
        if definition is None or step.action in (KEEP, LIVE):
            return None
        try:
            self.apply.prepare(definition, self.resolved.get(definition.zone.image))
        except (RingfenceError, OSError) as error:
            return str(error)
        return None

    def _tidy_store(self, steps: Sequence[Step], observed: Mapping[str, Observed], report: Report, *, check: bool) -> list[str]:
        """Delete what no zone uses any more, and return what it was."""
        if any(zone.definition is None for zone in observed.values()):
            return []  # Nobody knows what that zone uses.
        failed = {str(zone["name"]) for zone in report.zones if zone["failed"]}
        definitions = [*_definitions_after(steps, observed).values()]
        definitions += [zone.definition for name, zone in observed.items() if name in failed and zone.definition]
        unused = garbage.unused(self.store, definitions, self.policy.keep_unused)
        for entry in () if check else unused:
            try:
                garbage.delete(self.store, entry.directory)
            except (RingfenceError, OSError) as error:
                report.failures.append(f"{entry}: cannot be deleted: {error}")
        return [str(entry) for entry in unused]

    def _tidy_layers(self, report: Report) -> None:
        """Delete the layers of images that have gone. Those of one that could not be fetched whole stay: the next run goes on there."""
        looked_up = {digest for image in self.resolved.values() for digest in image.layers}
        try:
            garbage.delete_layers(self.store, looked_up)
        except OSError as error:
            report.failures.append(f"layers of images: cannot be deleted: {error}")

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
            "pending": list(step.pending),
        }
        if definition:
            result.update(shown(step.after or {}))
            result.update(
                kernel_release=self.kernels[step.name].release,
                address=network.address(definition.index),
                address6=network.address6(definition.index),
                domain_id=self.domains.get(step.name) if step.action in (KEEP, LIVE) else self._domain_id(step.name),
            )
        return result

    def _domain_id(self, name: str) -> int | None:
        """Not known if libvirt has gone, which the failure of a step tells."""
        try:
            return self.hypervisor.domain_id(name)
        except RingfenceError:
            return None


def _side_by_side(take: Callable[[Step], Exception | None], steps: Sequence[Step]) -> list[Exception | None]:
    """Take the steps of one wave, and return what each failed with. Threads cost more than to look after zones that stay."""
    if not any(step.changes for step in steps):
        return [take(step) for step in steps]
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - it brings logging and queues

    with ThreadPoolExecutor(min(_SIDE_BY_SIDE, os.cpu_count() or 1)) as pool:
        return list(pool.map(take, steps))


def _tell_volumes(sizes: Sequence[volumes.Change], report: Report) -> None:
    for change in sizes:
        report.volumes.append(change.result)
        if change.action != volumes.KEEP:
            name = f"volume {change.name}"
            report.before[name], report.after[name] = ({"size": size} if size else None for size in (change.before, change.after))


def _rules(steps: Sequence[Step], observed: Mapping[str, Observed]) -> str:
    """The rules of a host on which these steps have been taken.

    A zone whose change was not made may still publish a port that another one is declared to have: that one gets it.
    """
    definitions = _definitions_after(steps, observed)
    declared = {step.name for step in steps}
    publishers = Publishers()
    for name in sorted(definitions, key=lambda name: name not in declared):
        zone = definitions[name].zone
        ports = tuple(port for port in zone.ports if not publishers.claim(port, name))
        if ports != zone.ports:
            definitions[name] = dataclasses.replace(definitions[name], zone=dataclasses.replace(zone, ports=ports))
    return firewall.rules(definitions.values())


def _definitions_after(steps: Sequence[Step], observed: Mapping[str, Observed]) -> dict[str, Definition]:
    """The zones of a host on which these steps have been taken."""
    definitions = {name: zone.definition for name, zone in observed.items() if zone.definition}
    for step in steps:
        if step.action == REMOVE:
            definitions.pop(step.name, None)
        elif step.definition:
            definitions[step.name] = step.definition
    return definitions
