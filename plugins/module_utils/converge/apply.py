# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carry out one step on one zone. A change with which a running zone does not come up again is taken back."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Collection, Mapping

from ansible_collections.ringfence.zones.plugins.module_utils.bundle import installed
from ansible_collections.ringfence.zones.plugins.module_utils.converge import garbage, refusals
from ansible_collections.ringfence.zones.plugins.module_utils.converge.plan import CREATE, LIVE, RECREATE, REMOVE, RESTART, Step
from ansible_collections.ringfence.zones.plugins.module_utils.errors import FAULTS, RingfenceError, TakenBack
from ansible_collections.ringfence.zones.plugins.module_utils.image import build, images, references, registry
from ansible_collections.ringfence.zones.plugins.module_utils.image.images import Image
from ansible_collections.ringfence.zones.plugins.module_utils.kernel import kernels
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.kernels import Kernel
from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Zone
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.zone import channel, make, runtime
from ansible_collections.ringfence.zones.plugins.module_utils.zone import files as zone_files
from ansible_collections.ringfence.zones.plugins.module_utils.zone.console import console_tail
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import Definition, domain_xml, starts_with_host, weight
from ansible_collections.ringfence.zones.plugins.module_utils.zone.hypervisor import Hypervisor
from ansible_collections.ringfence.zones.plugins.module_utils.zone.observed import Observed, differs_in_memory
from ansible_collections.ringfence.zones.plugins.module_utils.zone.oci_runtime import health
from ansible_collections.ringfence.zones.plugins.module_utils.zone.runtime import Runtime

_ENDED = "it ended while it was being changed; the next run brings it to what is declared"


@dataclasses.dataclass(frozen=True)
class _Parts:
    """What a definition refers to in the store."""

    image: Image
    kernel: Kernel
    base: Runtime


class Apply:
    """What the steps of one run have in common. ``start_timeout``: seconds within which a zone has to run, and to be healthy.

    The ``start_period`` of its health check comes on top.
    """

    def __init__(self, store: Store, hypervisor: Hypervisor, secrets: Mapping[str, str], start_timeout: float) -> None:
        self.store = store
        self.hypervisor = hypervisor
        self.secrets = secrets
        self.start_timeout = start_timeout
        self._whole: set[str] = set()
        """The digests of images that were found undamaged, or fetched, in this run."""

    def prepare(self, definition: Definition, resolved: registry.Resolved | None) -> None:
        """Have what a zone will be started with, before anything that runs is touched.

        :param resolved: its image, if it was looked up in this run.
        :raises RingfenceError: when it cannot be had, or does not make a zone.
        """
        self._prepare_image(definition, resolved)
        base = runtime.load(self.store, definition.runtime)
        make.check_image(definition, images.load(self.store, definition.image), base)

    def _prepare_image(self, definition: Definition, resolved: registry.Resolved | None) -> None:
        """Fetch an image that the store has not, or has damaged."""
        digest = definition.image
        if digest in self._whole:
            return
        if not images.is_whole(self.store, digest):
            damaged = images.directory(self.store, digest)
            recorded = references.recorded(definition.zone.image, digest)
            resolved = resolved or installed.resolve(self.store, recorded)
            if resolved.digest != digest:
                raise RingfenceError(
                    f"image {definition.zone.image} was {digest}, which is missing or damaged in {damaged}, and is {resolved.digest} now; "
                    "declare the one to run by its digest"
                )
            if damaged.exists():
                garbage.delete(self.store, damaged)
            build.prepare(self.store, resolved)
        self._whole.add(digest)

    def carry_out(self, step: Step, observed: Observed | None) -> None:
        """Bring one zone to what the plan says.

        :param observed: the zone as it is now; if it runs, it comes back so when the change fails.
        :raises TakenBack: when the change failed and the zone runs as before.
        :raises RingfenceError: when it failed.
        """
        definition = step.definition
        before = observed.definition if observed and observed.active else None
        if step.action in (REMOVE, RECREATE, RESTART):
            self.stop(step, observed)
        if step.action == REMOVE:
            self.hypervisor.undefine(step.name)
            zone_files.remove(self.store, step.name)
        elif definition and observed and before and step.action == LIVE:
            self._change_running(step, definition, before, hosts_unsure=observed.hosts_unsure)
        elif definition:
            try:
                parts = self._parts(definition)
                make.write(self.store, definition, parts.kernel, parts.image, parts.base, self.secrets)
                make.make_writable(self.store, definition, fresh=step.action in (CREATE, RECREATE))
                self._start(definition, parts)
            except FAULTS as error:
                if before is None:
                    raise
                self._take_back(step, before, str(error))
            refusals.forget(self.store, step.name)
            zone_files.tidy(self.store, definition)

    def stop(self, step: Step, observed: Observed | None) -> None:
        """Stop the zone of a step, if it runs."""
        # As it was when the zone was started; its init ends the container after that time.
        grace = (step.before or {}).get("stop_grace_period", Zone.stop_grace_period)
        if observed and observed.domain_id is not None:
            zone_files.note_stop(self.store, step.name, observed.domain_id)
        self.hypervisor.stop(step.name, grace + zone_files.POWER_OFF)

    def resume(self, definition: Definition) -> None:
        """Start a zone again that has been stopped, as it was."""
        self._start(definition, self._parts(definition))
        zone_files.tidy(self.store, definition)

    def _change_running(self, step: Step, definition: Definition, before: Definition, *, hosts_unsure: bool) -> None:
        """Bring a running zone to its definition, and define it so.

        :param hosts_unsure: write its ``/etc/hosts`` in any case.
        :raises TakenBack: when the zone does not follow.
        """
        parts = self._parts(definition)
        number = self.hypervisor.domain_id(definition.zone.name)
        renamed = definition.peers != before.peers
        if renamed or hosts_unsure:
            self._write_hosts(definition, number)
        try:
            self._resize(step, definition)
        except TakenBack as error:
            if renamed:
                try:
                    self._write_hosts(before, number)
                except RingfenceError as second:
                    raise RingfenceError(f"{error}; but its /etc/hosts could not be brought back: {second}") from second
            zone_files.tidy(self.store, before)
            raise
        if renamed:  # The names are in its initrd too.
            make.write(self.store, definition, parts.kernel, parts.image, parts.base, self.secrets)
        self._define(definition, parts)
        if renamed and self.hypervisor.domain_id(definition.zone.name) != number:
            # libvirt may be starting it from the definition before, whose initrd has to stay for that.
            raise RingfenceError(_ENDED)
        zone_files.tidy(self.store, definition)

    def _write_hosts(self, definition: Definition, number: int | None) -> None:
        """Give a running zone the names of its peers, before that is defined: a run that is killed is repeated.

        :param number: Xen's number of the zone; another one by then is not this one, and begins with what was defined.
        :raises TakenBack: when the zone does not take them.
        """
        name = definition.zone.name
        if number is None:
            raise RingfenceError(_ENDED)
        zone_files.note_hosts(self.store, name)
        try:
            channel.write_hosts(name, number, make.hosts(definition), timeout=self.start_timeout)
        except RingfenceError as error:
            if self.hypervisor.domain_id(name) != number:
                raise RingfenceError(_ENDED) from error
            raise TakenBack(
                f"{error}; the next run tries again, and `zonectl stop {name}` before it has the zone started so; "
                "until then its /etc/hosts may be incomplete"
            ) from error

    def _resize(self, step: Step, definition: Definition) -> None:
        """Bring what a running zone has of its host to what is declared, before that is defined: a run that is killed is repeated.

        :raises TakenBack: when the zone does not follow.
        """
        name, before, after = step.name, step.before or {}, step.after or {}
        setters: dict[str, Callable[[int], None]] = {
            "memory": lambda size: self.hypervisor.set_memory(name, size),
            "cpus": lambda count: self.hypervisor.set_cpus(name, count),
            "cpu_shares": lambda shares: self.hypervisor.set_weight(name, weight(shares)),
        }
        differing = [key for key in setters if before.get(key) != after.get(key)]
        if "cpu_shares" in differing:
            zone_files.note_shares(self.store, name, after["cpu_shares"])
        try:
            for key in differing:
                setters[key](after[key])
            if {"memory", "cpus"} & set(differing):
                self._await_size(definition.zone, differing)
        except RingfenceError as error:
            if self.hypervisor.domain_id(name) is None:
                return  # It has ended by itself in between, and will be started with what is defined.
            try:
                for key in differing:
                    setters[key](before[key])
            except RingfenceError as second:
                raise RingfenceError(f"{error}; and it could not be brought back to what it was: {second}") from second
            raise TakenBack(f"{error}; the zone runs as before") from error

    def _await_size(self, zone: Zone, differing: Collection[str]) -> None:
        """Return when the kernel of a zone has given back or taken what it was asked to; nothing forces it to."""
        deadline = time.monotonic() + self.start_timeout
        while True:
            running = self.hypervisor.running(zone.name)
            if running is None:
                return
            waits = []
            if "memory" in differing and differs_in_memory(zone, running):
                waits.append(f"memory: it has {running.memory} MiB instead of {zone.memory} MiB")
            if "cpus" in differing and (online := self.hypervisor.online_cpus(zone.name)) != zone.cpus:
                waits.append(f"cpus: it uses {online} instead of {zone.cpus}")
            if not waits:
                return
            if time.monotonic() > deadline:
                hint = f"stop it with `zonectl stop {zone.name}`, and it will be started so"
                raise RingfenceError(f"{'; '.join(waits)} after {self.start_timeout:g} s; {hint}")
            time.sleep(0.2)

    def _parts(self, definition: Definition) -> _Parts:
        return _Parts(
            images.load(self.store, definition.image),
            kernels.load(self.store, definition.kernel),
            runtime.load(self.store, definition.runtime),
        )

    def _define(self, definition: Definition, parts: _Parts) -> None:
        files = zone_files.files(self.store, definition, parts.kernel.directory, parts.image.path, parts.base.base)
        xml = domain_xml(definition, files, self.hypervisor.uuid(definition.zone.name))
        self.hypervisor.define(xml, autostart=starts_with_host(definition.zone))

    def _start(self, definition: Definition, parts: _Parts) -> None:
        garbage.mark_used(parts.image.path.parent, parts.kernel.directory)
        self._define(definition, parts)
        zone_files.forget_record(self.store, definition)
        self.hypervisor.start(definition.zone.name)
        self.await_start(definition)

    def _take_back(self, step: Step, before: Definition, error: str) -> None:
        """Start the zone as it was; what failed is written down, so that it is not tried again and again."""
        try:
            self.resume(before)
        except FAULTS as second:
            raise RingfenceError(f"{error}; and it could not be brought back to what it was: {second}") from second
        if step.definition:
            refusals.remember(self.store, step.definition, error)
        raise TakenBack(f"{error}; the zone runs as before")

    def await_start(self, definition: Definition) -> None:
        """Return when the container has been started, and is healthy if it is checked; a zone that ended already has run."""
        try:
            self._watch(definition)
        except RingfenceError as error:
            name = definition.zone.name
            # Else the next run would find it running, and call it converged.
            self.hypervisor.end(name)
            raise RingfenceError(f"{error}; the last lines of its console: {console_tail(name)}") from None

    def _watch(self, definition: Definition) -> None:
        seconds = self.start_timeout + self._start_period(definition)
        deadline = time.monotonic() + seconds
        record = None
        polls = itertools.count()
        while time.monotonic() < deadline:
            # To ask libvirt takes much longer than to read the record, and it has other zones to start; so it is asked once a second.
            # Before the record is read: what has ended may have written it before.
            ended = next(polls) % 5 == 0 and self.hypervisor.domain_id(definition.zone.name) is None
            record = zone_files.read_record(self.store, definition)
            if record and record.state == "failed":
                raise RingfenceError("its init gave up")
            if record and record.health == "unhealthy":
                raise RingfenceError("its health check fails")
            if record and record.health != "starting":
                return
            # A job that ends well needs no check; what is started anew by its restart policy is still to become healthy.
            if record and record.state in ("exited", "stopped"):
                if record.exit_status != 0:
                    raise RingfenceError(f"its container ended with exit status {record.exit_status} before it was healthy")
                return
            if ended:
                raise RingfenceError("it ended before its container started")
            time.sleep(0.2)
        raise RingfenceError(f"its container did not {'become healthy' if record else 'start'} within {seconds:g} s")

    def _start_period(self, definition: Definition) -> float:
        """Seconds in which its health check may fail without a consequence: so long it may take on top of what any zone may."""
        check = health(definition.zone, make.described(images.load(self.store, definition.image)))
        return check.start_period if check else 0
