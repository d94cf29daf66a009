# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Libvirt domain of a zone: XML from a definition, and the definition back from the XML's metadata. Pure.

Source of the rules: libvirt's domain XML format and its Xen driver (libxl).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ansible_collections.ringfence.zones.plugins.module_utils.spec.fields import Device, Healthcheck, Mount, Networks, Port, Secret, Traffic
from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Zone
from ansible_collections.ringfence.zones.plugins.module_utils.zone.network import address, interface, mac

NAMESPACE = "urn:ringfence:zone:1"
VIF_SCRIPT = "/usr/lib/ringfence/vif"

DRIVER_PARAMETERS = {
    "xen_blkfront": ("feature_persistent=0", "max_queues=1", "max_ring_page_order=0"),
    "xen_netfront": ("max_queues=1",),
}
"""One queue, a ring of one page, no persistent grants: each disk would take more than 4 MiB of a small zone.

A kernel with the driver built in takes them from its command line, the loader of a module as arguments.
"""

_DRIVERS = " ".join(f"{driver}.{parameter}" for driver, parameters in DRIVER_PARAMETERS.items() for parameter in parameters)

# Programs linked before 2011 or so ask for the time at an address that Debian's kernels no longer answer at unless told to.
_COMMAND_LINE = f"console=hvc0 quiet loglevel=4 panic=1 vsyscall=xonly {_DRIVERS}"
_TRIAL_COMMAND_LINE = f"console=hvc0 earlyprintk=xen panic=1 {_DRIVERS}"
"""Of a test boot: what the kernel says is all there is to tell why it does not come up."""


@dataclasses.dataclass(frozen=True)
class Definition:
    """A declared zone with every name resolved: what the host defines, and later finds again in the domain's metadata.

    ``image``, ``kernel`` and ``runtime`` are digests ``sha256:HEX``; ``mode`` is ``pv`` or ``pvh``; ``index`` is the network index;
    ``peers`` are the addresses, by name, of the zones that let this one in; ``secrets`` are fingerprints of the contents, by name.
    """

    zone: Zone
    image: str
    kernel: str
    mode: str
    runtime: str
    index: int
    peers: dict[str, str] = dataclasses.field(default_factory=dict)
    secrets: dict[str, str] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def fields(self) -> Mapping[str, Any]:
        """The operator's fields, with what each name was resolved to. Cached, because every zone of a host is asked several times."""
        zone = dict(vars(self.zone))  # Not asdict(): it copies each value to its ground.
        del zone["state"]
        return {
            **zone,
            "image": self.image,
            "kernel": self.kernel,
            "virtualization": self.mode,
            "ports": [str(port) for port in self.zone.ports],
            "volumes": [str(mount) for mount in self.zone.volumes],
            "networks": {way: [str(traffic) for traffic in rules] for way, rules in vars(self.zone.networks).items() if rules},
            "healthcheck": _set_values(self.zone.healthcheck),
            "secrets": [str(secret) for secret in self.zone.secrets],
            "devices": [str(device) for device in self.zone.devices],
            "peers": self.peers,
        }


class Files(NamedTuple):
    """What a zone boots from, on the host. ``disks`` are (path, writable), in the order xvda, xvdb, …"""

    kernel: Path
    initrd: Path
    disks: tuple[tuple[Path, bool], ...]


def metadata(definition: Definition) -> str:
    """The definition as the text of the metadata element."""
    return json.dumps(dataclasses.asdict(definition), sort_keys=True, separators=(",", ":"))


def parse_metadata(text: str) -> Definition:
    """Read the metadata element's text back.

    :raises ValueError: when it is not what :func:`metadata` writes.
    """
    try:
        values: dict[str, Any] = json.loads(text)
        zone = dict(values.pop("zone"))
        zone = {name: tuple(value) if isinstance(value, list) else value for name, value in zone.items()}
        zone["ports"] = tuple(Port(**port) for port in zone["ports"])
        zone["volumes"] = tuple(Mount(**mount) for mount in zone.get("volumes", ()))
        zone["devices"] = tuple(Device(**device) for device in zone.get("devices", ()))
        zone["secrets"] = tuple(Secret(**secret) for secret in zone.get("secrets", ()))
        zone["networks"] = Networks(**{way: _traffic(rules) for way, rules in zone.get("networks", {}).items()})
        check = zone.get("healthcheck")
        zone["healthcheck"] = check and Healthcheck(**{**check, "test": None if check["test"] is None else tuple(check["test"])})
        zone["ulimits"] = {name: (soft, hard) for name, (soft, hard) in zone.get("ulimits", {}).items()}
        return Definition(zone=Zone(**zone), **values)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a zone's metadata: {error}") from error


def _traffic(rules: list[dict[str, Any]]) -> tuple[Traffic, ...]:
    return tuple(Traffic(rule["peer"], tuple(rule["ports"])) for rule in rules)


def domain_xml(definition: Definition, files: Files, uuid: str | None = None) -> str:
    """The domain that libvirt shall define.

    :param uuid: the UUID of the domain that is replaced, if there is one.
    """
    zone = definition.zone
    domain = ET.Element("domain", type="xen")
    _text(domain, "name", zone.name)
    if uuid:
        _text(domain, "uuid", uuid)
    ET.register_namespace("ringfence", NAMESPACE)
    _text(ET.SubElement(domain, "metadata"), f"{{{NAMESPACE}}}zone", metadata(definition))
    _text(domain, "memory", str(zone.memory), unit="MiB")
    _text(domain, "currentMemory", str(zone.memory), unit="MiB")  # Equal: PVH has no populate-on-demand.
    _text(domain, "vcpu", str(zone.cpus))
    _text(ET.SubElement(domain, "cputune"), "shares", str(weight(zone.cpu_shares)))
    _system(domain, definition.mode, files, _COMMAND_LINE)
    restarts = zone.restart != "no"
    _text(domain, "on_poweroff", "destroy")
    _text(domain, "on_reboot", "restart" if restarts else "destroy")
    _text(domain, "on_crash", "restart" if restarts else "destroy")
    devices = ET.SubElement(domain, "devices")
    _disks(devices, files)
    link = ET.SubElement(devices, "interface", type="ethernet")
    ET.SubElement(link, "mac", address=mac(definition.index))
    ET.SubElement(link, "ip", address=address(definition.index), family="ipv4")
    ET.SubElement(link, "target", dev=interface(definition.index))
    ET.SubElement(link, "script", path=VIF_SCRIPT)
    _console(devices)
    return ET.tostring(domain, encoding="unicode")


def trial_xml(name: str, mode: str, memory: int, files: Files) -> str:
    """A domain that only shows whether a kernel boots: no network, no metadata, and it ends where a zone would restart."""
    domain = ET.Element("domain", type="xen")
    _text(domain, "name", name)
    _text(domain, "memory", str(memory), unit="MiB")
    _text(domain, "vcpu", "1")
    _system(domain, mode, files, _TRIAL_COMMAND_LINE)
    for event in ("on_poweroff", "on_reboot", "on_crash"):
        _text(domain, event, "destroy")
    devices = ET.SubElement(domain, "devices")
    _disks(devices, files)
    _console(devices)
    return ET.tostring(domain, encoding="unicode")


def driver_arguments(module: str) -> str:
    """What the loader of a module, by its file name, passes to it."""
    return " ".join(DRIVER_PARAMETERS.get(module.partition(".")[0].replace("-", "_"), ()))


def weight(cpu_shares: int) -> int:
    """The weight in Xen's scheduler, of which 256 is the usual one, for shares as Docker counts them, of which 1024 is."""
    return max(1, min(65535, cpu_shares // 4))


def starts_with_host(zone: Zone) -> bool:
    """Whether the zone starts when the host does, as Docker decides it from the restart policy."""
    return zone.restart in ("always", "unless-stopped")


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text


def _system(domain: ET.Element, mode: str, files: Files, command_line: str) -> None:
    system = ET.SubElement(domain, "os")
    kind, machine = ("linux", "xenpv") if mode == "pv" else ("xenpvh", "xenpvh")
    _text(system, "type", kind, arch="x86_64", machine=machine)
    _text(system, "kernel", str(files.kernel))
    _text(system, "initrd", str(files.initrd))
    _text(system, "cmdline", command_line)


def _disks(devices: ET.Element, files: Files) -> None:
    for position, (path, writable) in enumerate(files.disks):
        disk = ET.SubElement(devices, "disk", type="file", device="disk")
        ET.SubElement(disk, "driver", name="phy", type="raw")
        ET.SubElement(disk, "source", file=str(path))
        ET.SubElement(disk, "target", dev=f"xvd{chr(ord('a') + position)}", bus="xen")
        if not writable:
            ET.SubElement(disk, "readonly")


def _console(devices: ET.Element) -> None:
    console = ET.SubElement(devices, "console", type="pty")
    ET.SubElement(console, "target", type="xen", port="0")


def _set_values(check: Healthcheck | None) -> dict[str, Any]:
    return {key: value for key, value in vars(check).items() if value is not None} if check else {}


def shown(values: Mapping[str, Any]) -> dict[str, Any]:
    """An operator's fields for people: those that have a value, and of variables only the names, for the values are often secret."""
    told = {**values, "environment": sorted(values.get("environment") or ())}
    return {name: value for name, value in told.items() if value or (value == 0 and value is not False)}
