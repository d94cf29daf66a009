# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at a live host for a verification. Reads only, whatever is there and whatever answers: what cannot be read is told as such."""

from __future__ import annotations

import platform
import re
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ansible_collections.ringfence.zones.plugins.module_utils import host_files
from ansible_collections.ringfence.zones.plugins.module_utils.boot import decisions
from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.compression import decompress
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.host import os_release, xl_info
from ansible_collections.ringfence.zones.plugins.module_utils.image import images
from ansible_collections.ringfence.zones.plugins.module_utils.kernel import kernels
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.verify import advisories, surface
from ansible_collections.ringfence.zones.plugins.module_utils.verify.facts import (
    Domain,
    Facts,
    Link,
    Loop,
    Process,
    Secret,
    parse_asked,
    parse_domains,
    parse_neighbours,
    parse_rules,
    secrets_in,
)
from ansible_collections.ringfence.zones.plugins.module_utils.verify.xenstore import read_nodes
from ansible_collections.ringfence.zones.plugins.module_utils.zone import files as zone_files
from ansible_collections.ringfence.zones.plugins.module_utils.zone import firewall, runtime
from ansible_collections.ringfence.zones.plugins.module_utils.zone.hypervisor import Hypervisor, booted_into_xen

_T = TypeVar("_T")

_PATIENCE = 20.0
"""Seconds that a program, or libvirt, has for its answer."""

_ATTEMPTS = 2
"""How often the host is looked at while zones start and end in between."""

_XEN_LIBRARY = Path("/var/lib/xen")
_SWITCHES = ("ipv4/conf/{}/proxy_arp", "ipv4/conf/{}/route_localnet", "ipv6/conf/{}/accept_ra", "ipv6/conf/{}/proxy_ndp")
"""What the kernel must not do on a zone's link."""

_PACKAGES = re.compile(
    r"xen-hypervisor-\d.*|xen-utils-\d.*|libvirt-daemon(-driver-xen)?|linux-image-\d.*|skopeo|crun|nftables|dropbear-bin|busybox-static"
)
_OF_XEN = (
    *("xen", "xen_domains", "xen_log", "domains", "nodes", "quota", "processes", "links", "neighbours", "rules", "wanted_rules", "loops"),
    *("kept_as_wanted", "udev_rules", "console_logs", "zone_directories", "store_faults", "secrets", "steady"),
    *("xen_named", "xen_booted", "surface"),
)
"""Attributes of the facts that mean nothing on a host without Xen."""

_FAULTS = (RingfenceError, OSError, ArithmeticError, AttributeError, LookupError, SyntaxError, TypeError, ValueError)
"""What reading a host can end in, for whatever it may hold. A parser of XML ends in a SyntaxError."""


def observe(store: Store, options: decisions.Options) -> Facts:
    """Everything that a verification judges. Never fails: what could not be read is in the facts' ``unread``."""
    for attempt in range(_ATTEMPTS):
        facts = Facts(str(store.root), options)
        reader = _Reader(facts, store)
        reader.read()
        if facts.steady or attempt == _ATTEMPTS - 1:
            break
    return facts


class _Reader:
    """Fills the facts, one source after the other."""

    def __init__(self, facts: Facts, store: Store) -> None:
        self.facts = facts
        self.store = store

    def read(self) -> None:
        facts = self.facts
        facts.in_xen = booted_into_xen()
        if facts.in_xen:
            self._take("xen", xl_info)
            self._take("xen_domains", _xen_domains)
            self._take("domains", self._domains)
            self._take("nodes", lambda: read_nodes(_PATIENCE))
            self._take("quota", lambda: _text("/etc/xen/oxenstored.conf"))
            self._take("processes", _processes)
            self._take("links", _links)
            self._take("neighbours", lambda: parse_neighbours(run(["ip", "-json", "neighbour", "show"], timeout=_PATIENCE)))
            self._rules()
            self._take("loops", self._loops)
            self._take("udev_rules", lambda: _text("/etc/udev/rules.d/60-loop-ringfence.rules"))
            self._take("console_logs", _console_logs)
            self._take("zone_directories", lambda: _names(self.store.zones))
            self._take("unfinished", lambda: [str(self.store.tmp / name) for name in _names(self.store.tmp)])
            self._take("store_faults", self._store)
            self._take("secrets", self._secrets)
            self._take("xen_log", _xen_log)
            self._take("steady", self._steady)
        else:
            facts.unread.update(dict.fromkeys(_OF_XEN, "this host is not booted into Xen (see /proc/xen/capabilities)"))
        if "xen" in facts.unread and facts.in_xen:
            facts.unread["running"] = facts.unread["xen"]
        else:
            linux = _text("/proc/cmdline").strip()
            facts.running = decisions.Running(facts.in_xen, facts.xen.get("xen_commandline", ""), linux)
            self._take("outdated", lambda: _outdated(facts.options, linux))
        facts.rotation_enabled = Path("/etc/systemd/system/timers.target.wants/ringfence-console-logs.timer").is_symlink()
        facts.rotation_age = _age("/run/ringfence-console-logs.state")
        facts.uptime = float((_text("/proc/uptime").split() or ["0"])[0])
        self._take("vulnerabilities", _vulnerabilities)
        self._take("versions", self._versions)
        if facts.in_xen:
            self._take("xen_named", lambda: _advisories_named(facts.versions))
            self._take("xen_booted", lambda: surface.booted(_xen_image(facts.versions), facts.xen.get("build_id", "")))
            self._take("surface", lambda: surface.measure(platform.release(), _xen_image(facts.versions), facts.processes))

    def _take(self, name: str, read: Callable[[], Any]) -> None:
        try:
            setattr(self.facts, name, read())
        except _FAULTS as error:
            self.facts.unread[name] = f"{name.replace('_', ' ')}: cannot be read: {error or type(error).__name__}"

    def _domains(self) -> list[Domain]:
        return _in_time("libvirt", lambda: _describe(Hypervisor()))

    def _rules(self) -> None:
        facts = self.facts
        self._take("rules", firewall.listed)
        if "domains" in facts.unread:
            facts.unread["wanted_rules"] = facts.unread["domains"]
            return
        definitions = [zone.definition for zone in facts.zones if zone.definition]
        self._take("wanted_rules", lambda: _whole(firewall.as_listed(firewall.rules(definitions))))
        self._take("kept_as_wanted", lambda: firewall.kept(self.store) == firewall.rules(definitions))

    def _loops(self) -> list[Loop]:
        known = _text("/run/blkid/blkid.tab").splitlines()
        links: dict[str, list[str]] = {}
        for link in Path("/dev/disk").glob("by-*/*"):
            links.setdefault(link.resolve().name, []).append(str(link))
        found = []
        for device in sorted(Path("/sys/block").glob("loop*")):
            file = _text(device / "loop/backing_file").strip()
            if file.startswith(f"{self.store.root}/"):
                known_of = traces(device) + links.get(device.name, []) + [line for line in known if f"/dev/{device.name}<" in line]
                found.append(Loop(device.name, file, _text(device / "ro").strip() == "1", tuple(known_of)))
        return found

    def _store(self) -> list[str]:
        """What is wrong with the images, kernels and zone bases of the zones; those that are right are told in ``store_files``."""
        definitions = [zone.definition for zone in self.facts.zones if zone.definition]
        wanted: list[tuple[str, str, Callable[[Store, str], list[Path]]]] = []
        wanted += [("image", digest, _image_files) for digest in sorted({one.image for one in definitions})]
        wanted += [("kernel", digest, _kernel_files) for digest in sorted({one.kernel for one in definitions})]
        wanted += [("zone base", digest, _runtime_files) for digest in sorted({one.runtime for one in definitions})]
        faults = []
        for kind, digest, files in wanted:
            label = f"{kind} {digest}"
            try:
                found = [_owner_fault(path) for path in files(self.store, digest)]
            except _FAULTS as error:
                faults.append(f"{label}: {error}")
                continue
            faults += [f"{label}: {fault}" for fault in found if fault]
            self.facts.store_files.append(label)
        return faults

    def _secrets(self) -> list[Secret]:
        found = []
        for zone in self.facts.zones:
            definition = zone.definition
            if definition and definition.zone.secrets:
                contents = secrets_in(zone_files.initrd(self.store, definition).read_bytes())
                found += [Secret(zone.name, secret.source, contents[number]) for number, secret in enumerate(definition.zone.secrets)]
        return found

    def _steady(self) -> bool:
        """Whether nobody was at work on the host's zones while it was looked at.

        :raises RingfenceError: telling who was, so that what depends on it counts as not read.
        """
        holder = _holder(self.store.root / "lock")
        if holder:
            self.facts.steady = False
            raise RingfenceError(f"a converge of this host is running (process {holder}); verify again when it has ended")
        if "xen_domains" not in self.facts.unread and set(_xen_domains()) != set(self.facts.xen_domains):
            self.facts.steady = False
            raise RingfenceError("zones started or ended meanwhile; verify again")
        return True

    def _versions(self) -> dict[str, Any]:
        definitions = [zone.definition for zone in self.facts.zones if zone.definition]
        return {
            "distribution": os_release().get("PRETTY_NAME", ""),
            "xen": self.facts.xen.get("xen_version", ""),
            "xen_parameters": self.facts.xen.get("xen_commandline", ""),
            "xen_capabilities": self.facts.xen.get("virt_caps", ""),
            "kernel": f"{platform.release()} {platform.version()}",
            "kernel_parameters": _text("/proc/cmdline").strip(),
            "microcode": _first(r"^microcode\s*:\s*(\S+)", _text("/proc/cpuinfo")),
            "cpu": _first(r"^model name\s*:\s*(.+)$", _text("/proc/cpuinfo")),
            "runtime": self._part("runtime", lambda: runtime.current_digest(self.store)),
            "kernels": self._part("kernels", self._kernels),
            "images": [
                {"digest": digest, "reference": reference}
                for digest, reference in sorted({(str(one.image), str(one.zone.image)) for one in definitions})
            ],
            "packages": _packages(_text("/var/lib/dpkg/status")),
        }

    def _part(self, name: str, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except _FAULTS as error:
            self.facts.unread[f"versions.{name}"] = f"{name}: cannot be read: {error or type(error).__name__}"
            return None

    def _kernels(self) -> list[dict[str, str]]:
        deployed = sorted(kernels.deployed(self.store).items())
        return [{"name": name, "digest": kernel.digest, "release": kernel.release} for name, kernel in deployed]


def _in_time(who: str, call: Callable[[], _T]) -> _T:
    """The result of a call that may never end, because it waits in another library for an answer.

    :raises RingfenceError: when it has none in time.
    """
    results: list[_T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except _FAULTS as error:
            failures.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if failures:
        raise RingfenceError(str(failures[0]))
    if not results:
        raise RingfenceError(f"{who} does not answer within {_PATIENCE:g} s")
    return results[0]


def _describe(hypervisor: Hypervisor) -> list[Domain]:
    zones, _foreign = hypervisor.observe()
    found = []
    for domain in hypervisor.describe():
        zone = zones.get(domain.name)
        ET.fromstring(domain.xml)  # Whoever reads it later relies on it.
        asked = frozenset[str]()
        if domain.number is not None:
            configuration = _XEN_LIBRARY / f"userdata-d.{domain.number}.{domain.uuid}.libxl-json"
            asked = parse_asked(configuration.read_bytes()) if configuration.exists() else asked
        definition = zone.definition if zone else None
        found.append(Domain(domain.name, domain.uuid, domain.number, domain.xml, domain.autostart, zone is not None, definition, asked))
    return found


def _whole(listing: str) -> str:
    """What nft lists of a table; two listings that are both not understood would be found equal."""
    if "chain forward" not in parse_rules(listing):
        raise ValueError(f"nft writes {listing[:120]!r}")
    return listing


def _output(argv: Sequence[str]) -> str:
    return run(argv, timeout=_PATIENCE).decode("utf-8", "replace")


def _text(path: str | Path) -> str:
    """The content of a file; nothing if there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1] if found else ""


def _age(path: str) -> float | None:
    try:
        return max(0.0, time.time() - Path(path).stat().st_mtime)
    except OSError:
        return None


def _xen_domains() -> dict[int, str]:
    return parse_domains(_output(["xl", "list"]))


def _processes() -> list[Process]:
    found = []
    for directory in Path("/proc").iterdir():
        if not directory.name.isdecimal():
            continue
        try:
            arguments = (directory / "cmdline").read_bytes()
        except OSError:
            continue  # It has ended meanwhile.
        try:
            program = str((directory / "exe").readlink())
        except OSError:
            program = ""  # A thread of the kernel.
        first = arguments.partition(b"\0")[0].decode("utf-8", "replace")
        names = tuple(name for name in (program, first, _text(directory / "comm").strip()) if name)
        found.append(Process(int(directory.name), names, arguments.replace(b"\0", b" ")))
    return found


def _links() -> dict[str, Link]:
    addresses: dict[str, list[str]] = {}
    for row in map(str.split, _text("/proc/net/if_inet6").splitlines()):
        addresses.setdefault(row[5], []).append(row[0])
    found = {}
    for directory in Path("/sys/class/net").iterdir():
        name = directory.name
        if not re.fullmatch(r"rz\d+|vif\d+\.\d+(-emu)?", name):
            continue
        master = directory / "master"
        settings = {path: _text(f"/proc/sys/net/{path}").strip() for path in (switch.format(name) for switch in _SWITCHES)}
        found[name] = Link(
            _text(directory / "address").strip().lower(),
            master.resolve().name if master.exists() else "",
            tuple(addresses.get(name, ())),
            {path: value for path, value in settings.items() if value},
        )
    return found


def traces(device: Path) -> list[str]:
    """What udev and the kernel know of a loop device beyond that it is one."""
    number = _text(device / "dev").strip()
    traces = [line for line in _text(f"/run/udev/data/b{number}").splitlines() if re.match(r"E:ID_(FS|PART)_", line)]
    traces += [f"partition {path.name}" for path in device.glob(f"{device.name}p*")]
    traces += [f"used by {path.name}" for path in device.glob("holders/*")]
    return traces + (["the kernel looks for partitions"] if _text(device / "loop/partscan").strip() == "1" else [])


def _console_logs() -> dict[str, int]:
    return {path.name: path.stat().st_size for path in Path("/var/log/xen/console").glob("*")}


def _outdated(options: decisions.Options, linux: str) -> list[str]:
    # The deadline of a trial is no part of a host's hardening, and not known here.
    files = [file for file in decisions.host_files(options, linux) if not file.path.endswith(decisions.TRIAL_TIMER)]
    return sorted(host_files.outdated(files))


def _vulnerabilities() -> dict[str, str]:
    return {path.name: _text(path).strip() for path in sorted(Path("/sys/devices/system/cpu/vulnerabilities").glob("*"))}


def _xen_log() -> list[str]:
    told = re.compile(r"speculat|mitigat|vulnerab|flask|xsm|XPTI|PV L1TF|microcode|SMT|scrub", re.IGNORECASE)
    return [line for line in _output(["xl", "dmesg"]).splitlines() if told.search(line)]


def _packages(status: str) -> dict[str, str]:
    """The versions of installed packages that matter here, of dpkg's database."""
    found = {}
    for entry in status.split("\n\n"):
        name = _first(r"^Package: (.+)$", entry)
        if _PACKAGES.fullmatch(name) and "\nStatus: install ok installed" in f"\n{entry}":
            found[name] = _first(r"^Version: (.+)$", entry)
    return dict(sorted(found.items()))


def _xen_image(versions: dict[str, Any]) -> str:
    """The name of the running Xen in /boot, without its ending."""
    return _xen_package(versions).replace("xen-hypervisor-", "xen-")


def _xen_package(versions: dict[str, Any]) -> str:
    """The name of the running Xen's package."""
    package, _version = advisories.xen_package(versions)
    if not package:
        raise RingfenceError("no package xen-hypervisor of the running Xen's version is installed")
    return package


def _advisories_named(versions: dict[str, Any]) -> frozenset[int]:
    package = _xen_package(versions)
    try:
        data = Path(f"/usr/share/doc/{package}/changelog.Debian.gz").read_bytes()
    except FileNotFoundError:  # A minimal installation leaves documentation out: then the package's version tells.
        return frozenset()
    return advisories.fixed_by(decompress(data).decode("utf-8", "replace"))


def _holder(lock: Path) -> int | None:
    """The process that holds the store's lock, by the kernel's table: to try it could turn away a converge that is just starting."""
    try:
        inode = lock.stat().st_ino
    except OSError:
        return None
    found = re.search(rf"^\d+: FLOCK\s+\S+\s+WRITE (\d+) [0-9a-f]+:[0-9a-f]+:{inode} ", _text("/proc/locks"), re.MULTILINE)
    return int(found[1]) if found else None


def _image_files(store: Store, digest: str) -> list[Path]:
    return [images.load(store, digest).path]


def _kernel_files(store: Store, digest: str) -> list[Path]:
    kernel = kernels.load(store, digest)
    return [kernel.vmlinux, *(kernel.directory / "modules" / file for file in kernel.load_order(kernel.modules))]


def _runtime_files(store: Store, digest: str) -> list[Path]:
    base = runtime.load(store, digest)
    return [base.base, base.boot, base.busybox, base.seccomp]


def _owner_fault(path: Path) -> str | None:
    """Why a file of the store could be changed by others than root; raises if it is not there."""
    status = path.stat()
    if status.st_uid != 0:
        return f"{path} belongs to the user {status.st_uid}"
    return f"{path} can be written by others than root" if status.st_mode & 0o022 else None
