"""A host without Xen, registry and network: what the tests of converging build on."""

from __future__ import annotations

import hashlib
import json
import stat
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.converge import converge, garbage
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.image import build, images, references, registry
from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Zone
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.zone import channel, firewall, seccomp_filter
from ansible_collections.ringfence.zones.plugins.module_utils.zone import make as zone_make
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import NAMESPACE, parse_metadata
from ansible_collections.ringfence.zones.plugins.module_utils.zone.observed import Observed, Running

NEEDS = ("xen_blkfront", "xen_netfront", "xen_gntalloc", "xen_gntdev", "xen_evtchn", "erofs", "squashfs", "overlay", "ext4")
PROFILE = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []}],
    "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}],
}
RECORD = b"ringfence-record-1 state=%s exit=%s restarts=0 health=none oom=0 crashes=0\n"


CONTENT = f"sha256:{hashlib.sha256(b'files').hexdigest()}"


def digest(digit: str) -> str:
    """A digest of one repeated digit."""
    return f"sha256:{digit * 64}"


def reference(digit: str) -> str:
    """A reference by digest to the image with that digest."""
    return f"registry.example/image@{digest(digit)}"


def add_kernels(store: Store, **modes: tuple[str, ...]) -> None:
    """Deploy kernels by name; the first is the default, and their digests are of a, b, c, … They have tun as a module, fuse built in."""
    names: dict[str, Any] = {"default": next(iter(modes), None), "kernels": {}}
    for digit, (name, possible) in zip("abcdef", modes.items(), strict=False):
        directory = store.kernels / (digit * 64)
        (directory / "modules").mkdir(parents=True, exist_ok=True)
        (directory / "modules" / "xen-netfront.ko").write_bytes(f"module of {name}".encode())
        modules: dict[str, list[str]] = {need: [] for need in NEEDS}
        modules |= {"fuse": [], "tun": ["tun.ko"]}
        modules["xen_netfront"] = ["xen-netfront.ko"]
        modules["xen_gntdev"] = ["xen-netfront.ko", "gntdev.ko"]
        (directory / "modules" / "gntdev.ko").write_bytes(b"gntdev")
        (directory / "modules" / "tun.ko").write_bytes(b"tun")
        document = {
            "digest": digest(digit),
            "release": f"6.12-{name}",
            "modes": possible,
            "modules": modules,
            "files": {},
        }
        (directory / "kernel.json").write_text(json.dumps(document))
        names["kernels"][name] = {"image": f"registry.example/{name}", "digest": digest(digit)}
    (store.kernels / "names.json").write_text(json.dumps(names))


def add_runtime(store: Store, digit: str) -> None:
    """Make a zone base the current one."""
    directory = store.runtime / (digit * 64)
    directory.mkdir(parents=True)
    for name in ("boot", "busybox", "base.img"):
        (directory / name).write_text(f"#!{name} {digit}")
        (directory / name).chmod(0o755)
    (directory / "seccomp.json").write_text(json.dumps(PROFILE))
    (directory / "runtime.json").write_text(json.dumps({"digest": digest(digit), "filesystem": "erofs"}))
    (store.runtime / "current.json").write_text(json.dumps({"digest": digest(digit)}))


def add_image(store: Store, of: str, config: Any, layers: Sequence[str] = ()) -> None:
    """Put an image into the store, with the digests of its layers."""
    directory = store.images / of.removeprefix("sha256:")
    directory.mkdir(parents=True)
    (directory / "rootfs.img").write_bytes(b"files")
    described = {"digest": of, "named_digest": of, "reference": "image", "filesystem": "erofs", "passwd": "", "group": ""}
    sizes = {"compressed": 5, "unpacked": 5, "filesystem": 5}
    made = {"config": {"config": config}, "sizes": sizes, "content": CONTENT, "layers": layers}
    (directory / "image.json").write_text(json.dumps({**described, **made}))


def add_layers(store: Store, *digests: str) -> None:
    """Have the store keep these layers."""
    for one in digests:
        path = store.layers / one.replace(":", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"layer")


@dataclass
class Domain:
    """A domain as libvirt keeps it."""

    xml: str
    autostart: bool = False
    number: int | None = None
    running: Running | None = None
    """While it runs."""


@dataclass
class Hypervisor:
    """Stands for ``hypervisor.Hypervisor``: remembers domains and, in ``calls``, what was done to them."""

    store: Store
    domains: dict[str, Domain] = field(default_factory=dict)
    foreign: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    possible: tuple[str, ...] = ("pv", "pvh")
    free: int = 1024
    unstartable: set[str] = field(default_factory=set)
    stubborn: set[str] = field(default_factory=set)
    """Zones whose kernels neither give memory back nor switch CPUs off."""
    said: dict[str, bytes] = field(default_factory=dict)
    """The record that a zone writes when it starts, if not that it runs."""

    def observe(self, *, most: bool = False) -> tuple[dict[str, Observed], set[str]]:
        zones = {}
        for name, domain in self.domains.items():
            text = ET.fromstring(domain.xml).findtext(f"metadata/{{{NAMESPACE}}}zone") or ""
            try:
                definition = parse_metadata(text)
            except ValueError:
                definition = None
            running = self.running(name)
            if running and not most:
                running = replace(running, most_memory=running.memory, most_cpus=running.cpus)
            zones[name] = Observed(definition, domain.number, running=running)
        return zones, self.foreign

    def modes(self) -> tuple[str, ...]:
        return self.possible

    def free_memory(self) -> int:
        return self.free

    def domain_id(self, name: str) -> int | None:
        return self.domains[name].number if name in self.domains else None

    def running(self, name: str) -> Running | None:
        return self.domains[name].running if self.domain_id(name) is not None else None

    def set_memory(self, name: str, memory: int) -> None:
        self.calls.append(f"memory {name} {memory}")
        self._resize(name, memory=memory)

    def set_cpus(self, name: str, cpus: int) -> None:
        self.calls.append(f"cpus {name} {cpus}")
        self._resize(name, cpus=cpus)

    def _resize(self, name: str, **size: int) -> None:
        running = self.running(name)
        if running is None:
            raise RingfenceError("domain is not running")
        if name not in self.stubborn:
            self.domains[name].running = replace(running, **size)

    def set_weight(self, name: str, weight: int) -> None:
        self.calls.append(f"weight {name} {weight}")

    def online_cpus(self, name: str) -> int:
        running = self.running(name)
        return running.cpus if running else 0

    def uuid(self, name: str) -> str | None:
        return f"uuid-of-{name}" if name in self.domains else None

    def define(self, xml: str, *, autostart: bool) -> None:
        name = ET.fromstring(xml).findtext("name") or ""
        self.calls.append(f"define {name}")
        before = self.domains.get(name)
        self.domains[name] = Domain(xml, autostart, before.number if before else None, before.running if before else None)

    def set_autostart(self, name: str, autostart: bool) -> None:
        self.domains[name].autostart = autostart

    def start(self, name: str) -> None:
        self.calls.append(f"start {name}")
        if name in self.unstartable:
            raise RingfenceError("libvirt cannot start it")
        if self.domains[name].number is not None:
            raise RingfenceError("it runs")
        for other, domain in list(self.domains.items()):
            if other != name and domain.number is not None and set(_volumes(domain.xml)) & set(_volumes(self.domains[name].xml)):
                raise RingfenceError(f"a volume is a disk of zone {other}")
        self.domains[name].number = len(self.calls)
        said = self.said.get(name, RECORD % (b"running", b"-"))
        root = ET.fromstring(self.domains[name].xml)
        memory, cpus = (int(root.findtext(tag) or 0) for tag in ("memory", "vcpu"))
        self.domains[name].running = Running(memory, memory, cpus, cpus)
        (layer,) = (disk.attrib["file"] for disk in root.iterfind("devices/disk/source") if "/writable-" in disk.attrib["file"])
        _write_record(Path(layer), said)

    def stop(self, name: str, grace: float) -> None:
        if name in self.domains and self.domains[name].number is not None:
            self.calls.append(f"stop {name}" if grace > Zone.stop_grace_period else f"stop {name} too early")
            self.domains[name].number = None

    def end(self, name: str) -> None:
        self.calls.append(f"end {name}")
        if name in self.domains:
            self.domains[name].number = None

    def undefine(self, name: str) -> None:
        if name in self.domains:
            self.calls.append(f"undefine {name}")
            del self.domains[name]


def _volumes(xml: str) -> list[str]:
    return [disk.attrib["file"] for disk in ET.fromstring(xml).iterfind("devices/disk/source") if "/volumes/" in disk.attrib["file"]]


def only(store: Store, zone: str, kind: str) -> Path:
    """The one file of a kind, ``initrd`` or ``writable``, that a zone has."""
    (found,) = (store.zones / zone).glob(f"{kind}-*")
    return found


def write_record(store: Store, name: str, content: bytes) -> None:
    """Write into the block of a zone's writable layer that is the zone's record."""
    _write_record(only(store, name, "writable"), content)


def _write_record(layer: Path, content: bytes) -> None:
    with open(layer, "r+b") as handle:
        handle.seek(1024 * 1024 * 1024)
        handle.write(content)


@dataclass
class Host:
    """A host with one default kernel ``stable``, a second kernel ``old`` that is PV only, and a zone base."""

    store: Store
    hypervisor: Hypervisor
    published: dict[str, tuple[str, Any] | Exception] = field(default_factory=dict)
    """By reference the digest and the configuration of an image that can be had, or the error of asking for it."""
    resolved: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    table: str | None = None
    """The ruleset that nftables has loaded."""
    hosts: dict[str, str] = field(default_factory=dict)
    """What running zones were given as ``/etc/hosts``."""
    silent: set[str] = field(default_factory=set)
    """Zones whose channel does not answer."""

    def publish(self, *digits: str, tag: str | None = None, **config: Any) -> None:
        """Make images available in the registry, by digest or by tag."""
        for digit in digits:
            self.published[f"registry.example/image:{tag}" if tag else reference(digit)] = (digest(digit), {"Cmd": ["serve"], **config})

    def converge(
        self,
        *zones: dict[str, Any],
        volumes: dict[str, Any] | None = None,
        secrets: dict[str, Any] | None = None,
        check: bool = False,
        planned: converge.Planned | None = None,
        **policy: Any,
    ) -> converge.Report:
        """Converge the host; ``policy`` is that of the module's options."""
        chosen = converge.Policy(**{"start_timeout": 5, **policy})
        return converge.converge(self.store, list(zones), volumes or {}, secrets or {}, chosen, check=check, planned=planned)

    def snapshot(self) -> dict[str, Any]:
        """Everything that a converge may change."""
        files = {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in self.store.root.rglob("*") if path.is_file()}
        domains = {name: (domain.xml, domain.autostart, domain.number) for name, domain in self.hypervisor.domains.items()}
        return {"files": files, "domains": domains, "table": self.table, "calls": list(self.hypervisor.calls)}

    def snapshot_but_lock(self) -> dict[str, Any]:
        """The same without the lock, which each converge touches that is not in check mode."""
        seen = self.snapshot()
        seen["files"].pop(str(self.store.root / "lock"), None)
        return seen

    def resolve(self, text: str) -> registry.Resolved:
        """Stands for ``registry.resolve``."""
        self.resolved.append(text)
        if text not in self.published:
            raise registry.ImageNotFound(f"image {text}: there is no such image; check name, tag and digest")
        known = self.published[text]
        if isinstance(known, Exception):
            raise known
        found, config = known
        manifest = {"layers": [{"digest": one} for one in config.get("layers", [])]}
        return registry.Resolved(references.parse_reference(text), found, found, "amd64", manifest, config, 0)

    def prepare(self, store: Store, resolved: registry.Resolved) -> images.Image:
        """Stands for ``image_build.prepare``."""
        add_layers(store, *resolved.layers)
        if "damage" in resolved.config:
            raise RingfenceError(f"image {resolved.reference}: {resolved.config['damage']}")
        add_image(store, resolved.digest, resolved.config, resolved.layers)
        return images.load(store, resolved.digest)

    def write_hosts(self, zone: str, _domain_id: int, content: str, *, timeout: float) -> None:
        """Stands for ``channel.write_hosts``."""
        if zone in self.silent:
            raise RingfenceError(f"zone {zone}: its channel did not answer within {timeout:g} s: no message")
        self.hosts[zone] = content

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout: float = 600) -> bytes:
        """Stands for ``command.run``."""
        del timeout
        self.commands.append(argv[0])
        if argv[:2] == ["nft", "-f"]:
            self.table = (stdin or b"").decode()
        return b""


def make(root: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host whose store is below ``root``; the library is told to use it."""
    store = Store(root)
    store.kernels.mkdir(parents=True)
    root.chmod(stat.S_IRWXU)
    add_kernels(store, stable=("pv", "pvh"), old=("pv",))
    add_runtime(store, "e")
    host = Host(store, Hypervisor(store))
    monkeypatch.setattr(converge, "Hypervisor", lambda: host.hypervisor)
    monkeypatch.setattr(converge, "booted_into_xen", lambda: True)
    monkeypatch.setattr(converge, "listening_ports", set)
    monkeypatch.setattr(firewall, "run", host.run)
    monkeypatch.setattr(firewall, "has_table", lambda _family, _name: host.table is not None)
    monkeypatch.setattr(zone_make, "run", host.run)
    monkeypatch.setattr(channel, "write_hosts", host.write_hosts)
    monkeypatch.setattr(seccomp_filter, "compiled", lambda _rules: b"program")
    monkeypatch.setattr(garbage, "run", host.run)
    monkeypatch.setattr(registry, "resolve", host.resolve)
    monkeypatch.setattr(build, "prepare", host.prepare)
    return host
