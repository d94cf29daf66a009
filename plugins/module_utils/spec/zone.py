# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The declaration of a zone: one table of fields, from what an operator writes to a validated, canonical value.

A field is added by one row of ``FIELDS``, one attribute of ``Zone``, and a function of ``fields`` if its values are of a new kind.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration, RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.spec import fields
from ansible_collections.ringfence.zones.plugins.module_utils.spec.fields import Device, EnvFile, Healthcheck, Mount, Networks, Port, Secret


@dataclass(frozen=True)
class Zone:
    """A validated declaration; ``None`` means: as the image, or the host's default, says.

    ``memory`` is in MiB, ``stop_grace_period`` in seconds.
    """

    name: str
    state: str = "present"
    image: str = ""
    kernel: str | None = None
    virtualization: str = "auto"
    memory: int = 128
    cpus: int = 1
    cpu_shares: int = 1024
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    env_file: tuple[EnvFile, ...] = ()
    ports: tuple[Port, ...] = ()
    restart: str = "no"
    user: str | None = None
    working_dir: str | None = None
    hostname: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    read_only: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    tmpfs: tuple[str, ...] = ()
    ulimits: dict[str, tuple[int, int]] = field(default_factory=dict)
    sysctls: dict[str, str] = field(default_factory=dict)
    stop_signal: str | None = None
    stop_grace_period: int = 10
    dns: tuple[str, ...] = ()
    extra_hosts: dict[str, str] = field(default_factory=dict)
    volumes: tuple[Mount, ...] = ()
    networks: Networks = field(default_factory=Networks)
    healthcheck: Healthcheck | None = None
    depends_on: dict[str, str] = field(default_factory=dict)
    secrets: tuple[Secret, ...] = ()
    devices: tuple[Device, ...] = ()


class Field(NamedTuple):
    """How one field is read, and what a change of it costs.

    ``change`` is ``live`` (nothing restarts), ``resize`` (live within what the zone was started with, else a restart), ``restart`` (a
    new boot, the writable layer is kept), ``recreate`` (a new boot with a fresh writable layer, because the image's files below it may
    differ), or ``identity`` (never compared).
    """

    parse: Callable[[Any], Any]
    change: str


FIELDS: dict[str, Field] = {
    "name": Field(fields.name, "identity"),
    "state": Field(fields.choice("present", "absent"), "identity"),
    "image": Field(fields.image, "recreate"),
    "kernel": Field(fields.kernel, "restart"),
    "virtualization": Field(fields.choice("auto", "pv", "pvh"), "restart"),
    "memory": Field(fields.size(fields.SMALLEST_MEMORY), "resize"),
    "cpus": Field(fields.cpus, "resize"),
    "cpu_shares": Field(fields.cpu_shares, "live"),
    "entrypoint": Field(fields.words, "restart"),
    "command": Field(fields.words, "restart"),
    "environment": Field(fields.environment, "restart"),
    "env_file": Field(fields.env_files, "identity"),
    "ports": Field(fields.ports, "live"),
    "restart": Field(fields.restart, "restart"),
    "user": Field(fields.user, "restart"),
    "working_dir": Field(fields.path, "restart"),
    "hostname": Field(fields.hostname, "restart"),
    "labels": Field(fields.labels, "live"),
    "read_only": Field(fields.boolean, "restart"),
    "cap_add": Field(fields.capabilities, "restart"),
    "cap_drop": Field(fields.capabilities, "restart"),
    "tmpfs": Field(fields.tmpfs, "restart"),
    "ulimits": Field(fields.ulimits, "restart"),
    "sysctls": Field(fields.sysctls, "restart"),
    "stop_signal": Field(fields.stop_signal, "restart"),
    "stop_grace_period": Field(fields.duration, "restart"),
    "dns": Field(fields.dns, "restart"),
    "extra_hosts": Field(fields.extra_hosts, "restart"),
    "volumes": Field(fields.volumes, "restart"),
    "networks": Field(fields.networks, "live"),
    "healthcheck": Field(fields.healthcheck, "restart"),
    "depends_on": Field(fields.depends_on, "live"),
    "secrets": Field(fields.secrets, "restart"),
    "devices": Field(fields.devices, "restart"),
}


@dataclass(frozen=True)
class Volume:
    """A validated declaration of a named volume. ``size`` is in MiB."""

    name: str
    state: str = "present"
    size: int = 0


_PARSERS = {name: field.parse for name, field in FIELDS.items()}
_VOLUME_FIELDS: dict[str, Callable[[Any], Any]] = {
    "state": fields.choice("present", "absent"),
    "size": fields.size(fields.SMALLEST_VOLUME),
}


def parse_declaration(zones: list[dict[str, Any]], volumes: dict[str, Any], secrets: dict[str, Any]) -> tuple[list[Zone], list[Volume]]:
    """Validate a host's whole declaration.

    :param volumes: the volumes' fields by name, as under Compose's top-level ``volumes``.
    :param secrets: the secrets' contents by name. No problem that is told shows one.
    :raises InvalidDeclaration: with every fault of every zone and volume.
    """
    problems: list[str] = []
    parsed = [volume for name, entry in volumes.items() for volume in _parse_volume(name, entry, problems)]
    try:
        found = parse_zones(zones)
    except InvalidDeclaration as invalid:
        raise InvalidDeclaration([*problems, *invalid.problems]) from None
    for name, content in secrets.items():
        if not isinstance(name, str) or not fields.SECRET_NAME.fullmatch(name) or not _has_encoding(content):
            accepted = "a name of 1 to 64 letters, digits, '_', '.' and '-', and a text"
            problems.append(f"secret {str(name)[:60]}: it is not accepted; accepted: {accepted}")
    problems += [
        f"zone {zone.name}: secrets: {secret.source!r} is not declared; declare it with its content among the secrets"
        for zone in found
        if zone.state == "present"
        for secret in zone.secrets
        if secret.source not in secrets
    ]
    absent = {volume.name for volume in parsed if volume.state == "absent"}
    users: dict[str, str] = {}
    for zone in (zone for zone in found if zone.state == "present"):
        for mount in zone.volumes:
            if mount.volume not in volumes:
                problems.append(f"zone {zone.name}: volumes: {mount.volume} is not declared; declare it with its size among the volumes")
            elif mount.volume in absent:
                problems.append(f"volume {mount.volume}: state: 'absent' is not accepted; zone {zone.name} uses it")
            user = users.setdefault(mount.volume, zone.name)
            if user != zone.name:
                problems.append(f"zone {zone.name}: volumes: {mount.volume} is not accepted; zone {user} has it, and a volume has one user")
    if problems:
        raise InvalidDeclaration(problems)
    return found, parsed


def _parse_volume(name: Any, entry: Any, problems: list[str]) -> list[Volume]:
    label, before = f"volume {str(name)[:60]}", len(problems)
    values: dict[str, Any] = {}
    try:
        fields.name(name)
    except fields.Rejected as rejected:
        problems.append(f"{label}: name: {_shown(name)} is not accepted; accepted: {rejected}")
    if not isinstance(entry, dict):
        problems.append(f"{label}: {_shown(entry)} is not accepted; a volume is a mapping with size, for example {{size: 1GiB}}")
        return []
    _read(label, entry, _VOLUME_FIELDS, values, problems)
    if values.get("state") != "absent" and entry.get("size") is None:
        problems.append(f"{label}: size is missing; each volume needs one, for example 1GiB")
    return [] if len(problems) > before else [Volume(name=name, **values)]


def parse_zones(declared: list[dict[str, Any]]) -> list[Zone]:
    """Validate the zones of a declaration.

    :raises InvalidDeclaration: with every fault of every zone.
    """
    problems: list[str] = []
    zones: list[Zone] = []
    for position, entry in enumerate(declared):
        label = f"zone {entry.get('name') or f'number {position + 1}'}" if isinstance(entry, dict) else f"zone number {position + 1}"
        if isinstance(entry, dict):
            zones.extend(_parse_zone(label, entry, problems))
        else:
            problems.append(f"{label}: {_shown(entry)} is not accepted; a zone is a mapping with name and image")
    problems.extend(_conflicts(zones))
    if problems:
        raise InvalidDeclaration(problems)
    return zones


def _parse_zone(label: str, entry: dict[str, Any], problems: list[str]) -> list[Zone]:
    found = len(problems)
    values: dict[str, Any] = {}
    _read(label, entry, _PARSERS, values, problems)
    if entry.get("name") is None:
        problems.append(f"{label}: name is missing; each zone needs one")
    if entry.get("image") is None and values.get("state") != "absent":
        problems.append(f"{label}: image is missing; name the OCI image that the zone runs")
    places = [("volumes", mount.target) for mount in values.get("volumes", ())]
    places += [("tmpfs", mount.partition(":")[0]) for mount in values.get("tmpfs", ())]
    places += [("secrets", secret.target) for secret in values.get("secrets", ())]
    taken: dict[str, str] = {}
    for key, place in places:
        if taken.setdefault(place, key) != key:
            problems.append(f"{label}: {key}: {place} is not accepted; it is in {taken[place]} too; choose another place")
    return [] if len(problems) > found else [Zone(**values)]


def _read(
    label: str, entry: dict[str, Any], parsers: Mapping[str, Callable[[Any], Any]], values: dict[str, Any], problems: list[str]
) -> None:
    """Parse each field of an entry; a null is as if the field were not there."""
    for key, value in entry.items():
        if key not in parsers:
            import difflib  # noqa: PLC0415 - most declarations have no unknown field

            nearest = difflib.get_close_matches(str(key), parsers, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else "accepted: " + ", ".join(parsers)
            problems.append(f"{label}: unknown field {key}; {hint}")
        elif value is not None:
            try:
                values[key] = parsers[key](value)
            except RingfenceError as error:  # Of the image reference; it names field, value and what is accepted.
                problems.append(f"{label}: {error}")
            except fields.Rejected as rejected:
                told = _shown(_without_values(value) if key == "environment" else value)
                problems.append(f"{label}: {key}: {told} is not accepted; accepted: {rejected}")


class Publishers:
    """Which zones have which ports of their host. A port at one address is also a part of the same port at all addresses."""

    def __init__(self) -> None:
        self._zones: dict[tuple[int, str], dict[str, str]] = {}

    def claim(self, port: Port, zone: str) -> str:
        """Give a port to a zone. If it, or a part of it, has been given before, it is not, and the result says to whom."""
        zones = self._zones.setdefault((port.host, port.protocol), {})
        for address, user in zones.items():
            if not address or not port.address or address == port.address:
                return f"zone {user} publishes {replace(port, address=address).at}/{port.protocol}"
        zones[port.address] = zone
        return ""


def _conflicts(zones: list[Zone]) -> list[str]:
    problems = []
    names: set[str] = set()
    publishers = Publishers()
    for zone in zones:
        if zone.name in names:
            problems.append(f"zone {zone.name}: name: declared twice; names are unique on a host")
        names.add(zone.name)
        for port in zone.ports if zone.state == "present" else ():
            user = publishers.claim(port, zone.name)
            if user:
                problems.append(f"zone {zone.name}: ports: '{port}' is not accepted; {user}; choose another")
    problems += _dependency_problems([zone for zone in zones if zone.state == "present"])
    return problems + [
        f"zone {zone.name}: networks: ingress from {traffic.peer} is not accepted; no such zone is declared"
        for zone in zones
        if zone.state == "present"
        for traffic in zone.networks.ingress
        if traffic.peer not in names
    ]


def _dependency_problems(zones: list[Zone]) -> list[str]:
    known = {zone.name for zone in zones}
    problems = [
        f"zone {zone.name}: depends_on: {other!r} is not accepted; no such zone is declared as present"
        for zone in zones
        for other in zone.depends_on
        if other not in known
    ]
    depths = depths_of({zone.name: zone.depends_on for zone in zones})
    circle = sorted(zone.name for zone in zones if zone.name not in depths)
    if circle:
        problems.append(f"zone {circle[0]}: depends_on: {', '.join(circle)} wait for each other; take one dependency out")
    return problems


def depths_of(dependencies: Mapping[str, Collection[str]]) -> dict[str, int]:
    """How many zones, one after the other, come before each; those that wait for each other in a circle are not in it."""
    depths: dict[str, int] = {}
    found = True
    while found:
        found = False
        for name, before in dependencies.items():
            inner = [other for other in before if other in dependencies]
            if name not in depths and all(other in depths for other in inner):
                depths[name] = max((depths[other] + 1 for other in inner), default=0)
                found = True
    return depths


def _has_encoding(content: Any) -> bool:
    return isinstance(content, str) and fields.is_text(content.replace("\0", ""))


def _without_values(environment: Any) -> Any:
    """An environment of any shape with its values hidden: they are often secret."""
    if isinstance(environment, dict):
        return dict.fromkeys(environment, "…")
    if isinstance(environment, list):
        return [_without_values(entry) for entry in environment]
    return f"{environment.split('=', 1)[0]}=…" if isinstance(environment, str) and "=" in environment else environment


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
