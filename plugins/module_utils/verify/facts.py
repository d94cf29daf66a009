# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a verification looks at, as it was found on a host, and the reading of other programs' formats. No I/O."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.boot.decisions import Options, Running
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import Definition

_GIVES_DEVICES = ("pcidevs", "usbdevs", "usbctrls", "dtdevs", "p9s", "iomem", "ioports", "irqs", "vtpms", "vfbs")


@dataclass(frozen=True)
class Node:
    """A node of xenstore. ``access`` are pairs of a letter (n, r, w, b) and a domain; the first is its owner, whose letter is for all."""

    path: str
    value: bytes
    access: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Domain:
    """A domain as libvirt has it. ``zone`` tells ours from others; ``definition`` is ``None`` if its metadata cannot be read."""

    name: str
    uuid: str
    number: int | None
    xml: str
    autostart: bool
    zone: bool
    definition: Definition | None = None
    asked: frozenset[str] = frozenset()
    """What libxl was asked to give the running domain beyond the ordinary: ``nested_hvm``, ``driver_domain``, kinds of devices."""

    def text(self, path: str) -> str:
        """The text of an element of the XML; empty if there is none."""
        return (ET.fromstring(self.xml).findtext(path) or "").strip()

    def elements(self, path: str) -> list[ET.Element]:
        """Elements of the XML."""
        return ET.fromstring(self.xml).findall(path)

    def files(self) -> list[tuple[str, bool]]:
        """The files that are its disks, and whether it may write to them. A disk that is no file is told by its kind."""
        found = []
        for disk in self.elements("devices/disk"):
            source = disk.find("source")
            told = "no source" if source is None else source.get("file") or f"not a file: {' '.join(source.attrib.values())}"
            found.append((told, disk.find("readonly") is None))
        return found


@dataclass(frozen=True)
class Link:
    """A network interface of the host. ``settings`` are switches of the kernel for it, by path below /proc/sys/net."""

    mac: str
    bridge: str
    inet6: tuple[str, ...]
    settings: dict[str, str]


@dataclass(frozen=True)
class Neighbour:
    """An entry of the host's neighbour table."""

    address: str
    link: str
    mac: str
    permanent: bool


@dataclass(frozen=True)
class Loop:
    """A loop device of a file in the store. ``traces`` show that the host looked into it, or uses it for something."""

    name: str
    file: str
    read_only: bool
    traces: tuple[str, ...]


@dataclass(frozen=True)
class Process:
    """A process of the host. ``names`` are those by which it can be known: of its file, its first argument, and the kernel's."""

    number: int
    names: tuple[str, ...]
    arguments: bytes


@dataclass(frozen=True)
class Secret:
    """The content of a secret, which is compared and never told."""

    zone: str
    name: str
    content: bytes = field(repr=False)


@dataclass
class Facts:
    """What was found. ``unread`` has, by the name of each attribute that could not be read, the reason."""

    store: str
    options: Options
    unread: dict[str, str] = field(default_factory=dict)
    in_xen: bool = False
    running: Running | None = None
    xen: dict[str, str] = field(default_factory=dict)
    xen_log: list[str] = field(default_factory=list)
    xen_domains: dict[int, str] = field(default_factory=dict)
    domains: list[Domain] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    quota: str = ""
    """Text of oxenstored's configuration."""
    processes: list[Process] = field(default_factory=list)
    links: dict[str, Link] = field(default_factory=dict)
    neighbours: list[Neighbour] = field(default_factory=list)
    rules: str = ""
    """The table that is loaded, as nft lists it."""
    wanted_rules: str = ""
    """The table that the zones' definitions demand, as nft lists it."""
    kept_as_wanted: bool = True
    """Whether the rules for the next boot are those that are demanded."""
    loops: list[Loop] = field(default_factory=list)
    udev_rules: str = ""
    console_logs: dict[str, int] = field(default_factory=dict)
    rotation_enabled: bool = False
    rotation_age: float | None = None
    """Seconds since console logs were last bounded; ``None`` if they never were since the boot."""
    uptime: float = 0
    outdated: list[str] = field(default_factory=list)
    """Files of the role ``host`` that are not as it writes them."""
    zone_directories: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    """What an interrupted run left in the store."""
    store_faults: list[str] = field(default_factory=list)
    store_files: list[str] = field(default_factory=list)
    """The images, kernels and zone bases of the zones that were looked at."""
    secrets: list[Secret] = field(default_factory=list)
    steady: bool = True
    versions: dict[str, Any] = field(default_factory=dict)
    vulnerabilities: dict[str, str] = field(default_factory=dict)
    surface: dict[str, Any] | None = None
    """What :mod:`surface` measured."""
    xen_named: frozenset[int] = frozenset()
    """The security advisories that the changelog of the installed Xen names as fixed."""
    xen_booted: bool | None = None
    """Whether the running Xen is the installed one; ``None`` if that is not known."""

    @property
    def zones(self) -> list[Domain]:
        """The zones."""
        return [domain for domain in self.domains if domain.zone]

    @property
    def running_zones(self) -> list[Domain]:
        """The zones that run."""
        return [domain for domain in self.zones if domain.number is not None]


def parse_domains(listing: str) -> dict[int, str]:
    """The domains that ``xl list`` lists, names by number. A name may have blanks; five columns come after it.

    :raises ValueError: when the host itself is not among them.
    """
    rows = (line.rsplit(maxsplit=5) for line in listing.splitlines()[1:])
    found = {int(row[1]): row[0] for row in rows if len(row) == 6 and row[1].isdecimal()}
    if 0 not in found:
        raise ValueError("xl list does not list this host")
    return found


def parse_neighbours(listing: bytes) -> list[Neighbour]:
    """The entries with a MAC address that ``ip -json neighbour show`` lists.

    :raises ValueError: when it is not what ip writes.
    """
    return [
        Neighbour(str(entry.get("dst")), str(entry.get("dev")), str(entry["lladdr"]).lower(), "PERMANENT" in entry.get("state", []))
        for entry in json.loads(listing or b"[]")
        if "lladdr" in entry
    ]


def parse_asked(configuration: bytes) -> frozenset[str]:
    """What a domain was given beyond the ordinary, of the configuration that libxl keeps of it.

    :raises ValueError: when it is no JSON.
    """
    return frozenset(
        name
        for name, value in _members(json.loads(configuration.rstrip(b"\0")))  # libxl writes the end of its string too.
        if (name in ("nested_hvm", "driver_domain") and str(value).lower() == "true") or (name in _GIVES_DEVICES and value)
    )


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    """Every member of every object in a JSON document."""
    if isinstance(value, dict):
        for name, member in value.items():
            yield name, member
            yield from _members(member)
    elif isinstance(value, list):
        for member in value:
            yield from _members(member)


def parse_rules(listing: str) -> dict[str, str]:
    """The parts of the tables that nft lists, each chain, set and map by kind and name; the elements of a set in one order.

    What a table says of itself (``flags dormant``) is under its own kind and name.
    """
    parts: dict[str, list[str]] = {}
    current: list[str] = []
    for line in listing.splitlines():
        if re.fullmatch(r"table \S+ \S+ \{.*|\t(chain|set|map|flowtable|counter|ct \w+|quota|limit|secmark|synproxy) \S+ \{", line):
            current = parts.setdefault(line.partition("{")[0].strip(), [])
        elif line not in ("\t}", "}", ""):
            current.append(line.strip())
    return {name: _with_sorted_elements(" ".join(lines)) for name, lines in parts.items()}


def _with_sorted_elements(text: str) -> str:
    return re.sub(r"elements = \{ ([^{}]*) \}", lambda found: ", ".join(sorted(re.split(r",\s*", found[1].strip()))), text)


def secrets_in(initrd: bytes) -> dict[int, bytes]:
    """The secrets in a zone's initrd, by their number there (cpio's format ``newc``: an entry's name comes after 13 numbers)."""
    found: dict[int, bytes] = {}
    for matched in re.finditer(rb"070701([0-9A-Fa-f]{104})zone/secrets/(\d+)\0", initrd):
        size = int(matched[1][48:56], 16)
        # Header and name together end at a multiple of 4, as the entry began; archives are padded to one as well.
        begin = matched.end() + -(matched.end() - matched.start()) % 4
        found[int(matched[2])] = initrd[begin : begin + size]
    return found
