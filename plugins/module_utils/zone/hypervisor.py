# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The only file that talks to libvirt: what runs on this host, and the few things that are done to it."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ansible_collections.ringfence.zones.plugins.module_utils import debian
from ansible_collections.ringfence.zones.plugins.module_utils.command import CommandFailed, run
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import NAMESPACE, parse_metadata
from ansible_collections.ringfence.zones.plugins.module_utils.zone.observed import Observed, Running

try:
    import libvirt

    LIBVIRT_ERROR = None
except ImportError as import_error:
    LIBVIRT_ERROR = import_error

URI = "xen:///system"
_LIBXL_LOG = Path("/var/log/libvirt/libxl/libxl-driver.log")
_KEPT_OF_LOG = 1500
"""Bytes of libxl's log that go into an error."""


def booted_into_xen() -> bool:
    """Whether this system is the control domain of a Xen host now."""
    try:
        return "control_d" in Path("/proc/xen/capabilities").read_text(encoding="ascii")
    except OSError:
        return False


class Described(NamedTuple):
    """A domain in libvirt's words. ``number`` is Xen's while it runs; ``autostart`` whether it starts with the host."""

    name: str
    uuid: str
    number: int | None
    xml: str
    autostart: bool


class Hypervisor:
    """One connection to libvirt. Domains without our metadata are foreign, and never touched."""

    def __init__(self, uri: str = URI) -> None:
        """:raises RingfenceError: when there is no libvirt, or it does not drive Xen."""
        self._modes: tuple[str, ...] | None = None
        if LIBVIRT_ERROR:
            raise RingfenceError(debian.missing_python_package("libvirt"))
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        if uri == URI and not booted_into_xen():
            raise RingfenceError("this host is not booted into Xen (see /proc/xen/capabilities); apply the role ringfence.zones.host")
        try:
            self._connection = libvirt.open(uri)
        except libvirt.libvirtError as error:
            raise RingfenceError(
                f"libvirt does not answer at {uri}: {error.get_error_message()}; see `systemctl status libvirtd` and start it"
            ) from error

    def observe(self, *, most: bool = False) -> tuple[dict[str, Observed], set[str]]:
        """The zones of ours by name, and the names of all other domains.

        :param most: ask also for the most that each can have until it is started anew, which is two calls more for each.
        """
        zones: dict[str, Observed] = {}
        foreign: set[str] = set()
        for domain in self._try("list the domains", self._connection.listAllDomains):
            name = domain.name()
            if domain.ID() == 0:  # The host itself; libvirt has no answer when asked for its metadata.
                foreign.add(name)
                continue
            try:
                # As it was last defined: a change that restarts nothing is not in what runs.
                text = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
                element = ET.fromstring(text)
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    continue  # It was not defined, only running, and has ended in between.
                # Without our metadata, or not defined at all, only running.
                if error.get_error_code() not in (libvirt.VIR_ERR_NO_DOMAIN_METADATA, libvirt.VIR_ERR_OPERATION_INVALID):
                    raise RingfenceError(
                        f"libvirt does not say whether the domain {name} is a zone: {error.get_error_message()}"
                    ) from error
                foreign.add(name)
                continue
            try:
                definition = parse_metadata(element.text or "")
            except ValueError:
                definition = None
            # Known from the list: to ask for it would be a call for each domain.
            number = domain.ID() if domain.ID() != -1 else None
            crashed = number is None and self._has_crashed(domain)
            running = self._has_now(domain, most=most) if number is not None else None
            zones[name] = Observed(definition, number, crashed=crashed, running=running)
        return zones, foreign

    def describe(self) -> list[Described]:
        """Every domain but the host itself, as it runs, or as it is defined if it does not run."""
        try:
            return [
                Described(domain.name(), domain.UUIDString(), domain.ID() if domain.ID() != -1 else None, domain.XMLDesc(), _starts(domain))
                for domain in self._connection.listAllDomains()
                if domain.ID() != 0
            ]
        except libvirt.libvirtError as error:
            raise RingfenceError(f"libvirt does not describe its domains: {error.get_error_message()}") from error

    def modes(self) -> tuple[str, ...]:
        """The kinds of guest that this host can run, of ``pv`` and ``pvh``."""
        if self._modes is None:
            capabilities = ET.fromstring(self._try("say what this host can run", self._connection.getCapabilities))
            machines = {machine.text for machine in capabilities.iterfind("guest/arch/machine")}
            self._modes = tuple(mode for mode in ("pv", "pvh") if f"xen{mode}" in machines)
        return self._modes

    def free_memory(self) -> int:
        """MiB that the hypervisor can give to new domains."""
        return int(self._connection.getFreeMemory() // (1024 * 1024))

    def domain_id(self, name: str) -> int | None:
        """Xen's number of a running domain, ``None`` if it does not run."""
        domain = self._domain(name)
        return domain.ID() if domain is not None and domain.ID() != -1 else None

    def zone_domain_id(self, name: str) -> int:
        """Xen's number of a running zone of ours.

        :raises RingfenceError: when there is no such zone, or it does not run.
        """
        zones, _foreign = self.observe()
        if name not in zones:
            raise RingfenceError(f"zone {name}: not on this host; its zones are: {', '.join(sorted(zones)) or 'none'}")
        number = zones[name].domain_id
        if number is None:
            raise RingfenceError(f"zone {name}: does not run; start it by converging it")
        return number

    def cpu_seconds(self) -> dict[str, float]:
        """The time of a CPU that each running domain has used, by name."""
        seconds = {}
        for domain in self._try("list the domains", lambda: self._connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)):
            with contextlib.suppress(libvirt.libvirtError):  # It has ended in between.
                seconds[domain.name()] = domain.info()[4] / 1e9
        return seconds

    def running(self, name: str) -> Running | None:
        """What a running domain has of the host; ``None`` if it does not run."""
        domain = self._domain(name)
        return self._has_now(domain, most=True) if domain is not None and domain.ID() != -1 else None

    def set_memory(self, name: str, memory: int) -> None:
        """Ask a running domain to have that many MiB, at most those that it was started with."""
        domain = self._domain(name)
        self._try(f"set the memory of zone {name}", lambda: domain.setMemoryFlags(memory * 1024, libvirt.VIR_DOMAIN_AFFECT_LIVE))

    def set_cpus(self, name: str, cpus: int) -> None:
        """Ask a running domain to use that many virtual CPUs, at most those that it was started with."""
        domain = self._domain(name)
        self._try(f"set the CPUs of zone {name}", lambda: domain.setVcpusFlags(cpus, libvirt.VIR_DOMAIN_AFFECT_LIVE))

    def set_weight(self, name: str, weight: int) -> None:
        """Set the weight of a running domain in Xen's scheduler. By ``xl``: libvirt refuses all schedulers but ``credit``."""
        domain = self._domain(name)
        scheduler, _parameters = self._try("name Xen's scheduler", domain.schedulerType)
        run(["xl", f"sched-{scheduler}", "-d", str(domain.ID()), "-w", str(weight)])

    def online_cpus(self, name: str) -> int:
        """How many virtual CPUs the kernel of a running domain uses. By ``xl``: libvirt tells how many it was asked to use."""
        listed = run(["xl", "vcpu-list", str(self._domain(name).ID())]).decode()
        states = [line.split()[4] for line in listed.splitlines()[1:]]
        return sum(state != "--p" for state in states)

    def uuid(self, name: str) -> str | None:
        """The UUID under which libvirt knows a domain."""
        domain = self._domain(name)
        return domain.UUIDString() if domain is not None else None

    def define(self, xml: str, *, autostart: bool) -> None:
        """Define a domain, or replace the definition of the one with the same name and UUID."""
        domain = self._try("define the zone", lambda: self._connection.defineXML(xml))
        self._set_autostart(domain, autostart)

    def set_autostart(self, name: str, autostart: bool) -> None:
        """Let a defined domain start with the host, or not."""
        self._set_autostart(self._domain(name), autostart)

    def _set_autostart(self, domain: Any, autostart: bool) -> None:
        self._try("set the zone's autostart", lambda: domain.setAutostart(int(autostart)))

    def start(self, name: str) -> None:
        """Start a defined domain, and return when the tool stack has built it; one that runs already is ended first.

        It was found not running, but libvirt starts a domain that has crashed anew, and may have begun that from an earlier definition.
        """
        domain = self._domain(name)
        try:
            self._try(f"start zone {name}", domain.create)
        except RingfenceError:
            if self._is_active(domain):
                self.end(name)
            # When libvirt cannot build a domain to its end, for example on a full disk, it may leave one behind that it does not know.
            elif _in_xen(name):
                run(["xl", "destroy", name])
            else:
                raise
            self._try(f"start zone {name}", domain.create)

    def run_transient(self, name: str, xml: str) -> None:
        """Start a domain that is nowhere defined, so that nothing of it is left when it ends; one of this name is ended first."""
        self.end(name)
        if _in_xen(name):  # As in start(): libvirt does not know it.
            run(["xl", "destroy", name])
        self._try(f"start {name}", lambda: self._connection.createXML(xml))

    def stop(self, name: str, grace: float) -> None:
        """Ask a running domain to shut down, and end it when it has not after ``grace`` seconds."""
        domain = self._domain(name)
        if domain is None or not self._is_active(domain):
            return
        deadline = time.monotonic() + grace
        try:
            domain.shutdown()
            while domain.isActive() and time.monotonic() < deadline:
                time.sleep(0.2)
        except libvirt.libvirtError:
            pass  # It does not listen (a kernel that is not up, or has crashed): ended below.
        self.end(name)

    def end(self, name: str) -> None:
        """End a running domain at once."""
        domain = self._domain(name)
        if domain is None or not self._is_active(domain):
            return
        try:
            self._try(f"end zone {name}", domain.destroy)
        except RingfenceError:
            if self._is_active(domain):  # Else it has ended by itself in between.
                raise

    def undefine(self, name: str) -> None:
        """Forget a domain that does not run. Its files are not touched."""
        domain = self._domain(name)
        if domain is not None:
            self._try(f"undefine zone {name}", domain.undefine)
        # A kernel may have rebooted when it was asked to end, and libvirt forgets a domain that it is just starting anew.
        if _in_xen(name):
            run(["xl", "destroy", name])

    def _is_active(self, domain: Any) -> bool:
        return bool(self._try(f"say whether zone {domain.name()} runs", domain.isActive))

    def _has_crashed(self, domain: Any) -> bool:
        """Whether a domain that does not run has ended in a panic."""
        state = self._try(f"say why zone {domain.name()} does not run", domain.state)
        return bool(state == [libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED])

    def _has_now(self, domain: Any, *, most: bool) -> Running | None:
        """What a running domain has, and if asked for the most that it can have; ``None`` if it has ended in between."""
        try:
            _state, _allowed, memory, cpus, _time = domain.info()
            has = Running(round(memory / 1024), round(memory / 1024), cpus, cpus)
            if not most:
                return has
            cpus = domain.vcpusFlags(libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_VCPU_MAXIMUM)
            # As it was started with; what Xen allows it now, which is in its info, follows each change.
            return dataclasses.replace(has, most_memory=domain.maxMemory() // 1024, most_cpus=cpus)
        except libvirt.libvirtError as error:
            if not self._is_active(domain):
                return None
            raise RingfenceError(f"libvirt does not say what zone {domain.name()} has: {error.get_error_message()}") from error

    def _domain(self, name: str) -> Any:
        try:
            return self._connection.lookupByName(name)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise RingfenceError(f"libvirt does not answer for zone {name}: {error.get_error_message()}") from error

    def _try(self, what: str, call: Callable[[], Any]) -> Any:
        before = _LIBXL_LOG.stat().st_size if _LIBXL_LOG.exists() else 0
        try:
            return call()
        except libvirt.libvirtError as error:
            raise RingfenceError(f"libvirt cannot {what}: {error.get_error_message()}{_libxl_says(before)}") from error


def _in_xen(name: str) -> bool:
    """Whether Xen has a domain of this name, known to libvirt or not."""
    try:
        run(["xl", "domid", name])
    except CommandFailed:
        return False
    return True


def _libxl_says(since: int) -> str:
    """What libxl logged since; libvirt's own message never holds the cause."""
    try:
        with open(_LIBXL_LOG, "rb") as log:
            log.seek(max(since, log.seek(0, 2) - _KEPT_OF_LOG))
            lines = log.read(_KEPT_OF_LOG).decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    # libvirt has libxl log its errors only; other lines are of an earlier one that was cut off.
    told = [line.split("libxl: ", 1)[1].strip() for line in lines if "libxl: " in line]
    # libxl calls it "No such file or directory", and means memory.
    hint = "; its kernel and initrd may need more memory than is declared" if any("xc_dom_build_image" in line for line in told) else ""
    return f"; libxl: {' | '.join(told)}{hint}" if told else ""


def _starts(domain: Any) -> bool:
    """Whether a domain starts with the host; one that is not defined, only running, does not."""
    return bool(domain.isPersistent() and domain.autostart())
