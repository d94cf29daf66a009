# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The declaration of a zone: one table of fields, from what an operator writes to a validated, canonical value.

A field is added by one row of ``FIELDS`` and one attribute of ``Zone``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration, RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.registry import parse_reference

MIB = 1024 * 1024
SMALLEST_MEMORY = 64
"""MiB. Below it the kernels of the supported distributions do not reach their init."""
MOST_CPUS = 64
"""CPUs of one zone; also what the kernels in the field are built for at least."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_VARIABLE = re.compile(r"[^=\x00]+")
_KERNEL_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,39}")
_SIZE = re.compile(r"([0-9]{1,12})\s*(KiB|MiB|GiB|[kmg]b?)", re.IGNORECASE)
_UNITS = {"k": 1024, "m": MIB, "g": 1024 * MIB}
_PORT = re.compile(r"(?:(?P<address>[0-9.]+|\[[0-9a-fA-F:]+\]):)?(?P<host>[0-9]{1,5}):(?P<zone>[0-9]{1,5})(?:/(?P<protocol>tcp|udp))?")
_ON_FAILURE = re.compile(r"on-failure(:[0-9]{1,9})?")


class Rejected(Exception):
    """A value that a field does not accept; the message says what it does accept."""


@dataclass(frozen=True, order=True)
class Port:
    """A published port: what reaches ``host`` on the host goes to ``zone`` in the zone."""

    host: int
    zone: int
    protocol: str = "tcp"

    def __str__(self) -> str:
        return f"{self.host}:{self.zone}/{self.protocol}"


@dataclass(frozen=True)
class Zone:
    """A validated declaration. ``memory`` is in MiB; ``None`` means: as the image, or the host's default, says."""

    name: str
    state: str = "present"
    image: str = ""
    kernel: str | None = None
    virtualization: str = "auto"
    memory: int = 128
    cpus: int = 1
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    ports: tuple[Port, ...] = ()
    restart: str = "no"


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise Rejected("1 to 40 characters a-z, 0-9 and '-', the first and the last no '-'")
    return value


def _kernel(value: Any) -> str:
    if not isinstance(value, str) or not _KERNEL_NAME.fullmatch(value):
        raise Rejected("the name of a deployed kernel, 1 to 40 of a-z, 0-9, '.' and '-', the first a letter or digit")
    return value


def _image(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise Rejected("an image reference, for example registry.example/web@sha256:…, oci:/srv/web or oci-archive:/srv/web.tar")
    parse_reference(value)
    return value


def _choice(*accepted: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in accepted:
            raise Rejected("one of " + ", ".join(accepted))
        return str(value)

    return parse


def _memory(value: Any) -> int:
    matched = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    size = int(matched[1]) * _UNITS[matched[2][0].lower()] // MIB if matched else 0
    if size < SMALLEST_MEMORY:
        raise Rejected(f"a size with its unit, at least {SMALLEST_MEMORY}MiB, for example 128MiB, 512m or 2GiB")
    return size


def _cpus(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,4}", value):  # What a template yields is a string.
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_CPUS:
        raise Rejected(f"a whole number of virtual CPUs from 1 to {MOST_CPUS}")
    return value


def _words(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) and "\0" not in word for word in value):
        raise Rejected("a list of strings, for example ['nginx', '-g', 'daemon off;']; quote numbers and booleans")
    return tuple(value)


def _environment(value: Any) -> dict[str, str]:
    accepted = "a mapping of names to strings or numbers (or a list of NAME=value); quote booleans"
    if isinstance(value, list):
        if not all(isinstance(entry, str) and "=" in entry for entry in value):
            raise Rejected(accepted)
        value = dict(entry.split("=", 1) for entry in value)
    if not isinstance(value, dict):
        raise Rejected(accepted)
    for name, content in value.items():
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            raise Rejected(accepted)
        if isinstance(content, bool) or not isinstance(content, (str, int, float)) or "\0" in str(content):
            raise Rejected(f"{accepted}; {name} is a {type(content).__name__}")
    return {name: str(value[name]) for name in sorted(value)}


def _ports(value: Any) -> tuple[Port, ...]:
    accepted = "a list of 'HOST:ZONE' or 'HOST:ZONE/udp' with ports from 1 to 65535, for example ['8080:80']; quote each"
    if not isinstance(value, list):
        raise Rejected(accepted)
    ports = []
    for entry in value:
        matched = _PORT.fullmatch(entry) if isinstance(entry, str) else None
        if not matched or matched["address"]:
            raise Rejected(accepted)
        port = Port(int(matched["host"]), int(matched["zone"]), matched["protocol"] or "tcp")
        if not (1 <= port.host <= 65535 and 1 <= port.zone <= 65535):
            raise Rejected(accepted)
        ports.append(port)
    return tuple(sorted(set(ports)))


def _restart(value: Any) -> str:
    if value is False:  # YAML 1.1 reads a bare `no` as false.
        return "no"
    if value not in ("no", "always", "unless-stopped") and not (isinstance(value, str) and _ON_FAILURE.fullmatch(value)):
        raise Rejected("one of no, on-failure, on-failure:COUNT, always, unless-stopped")
    return str(value)


@dataclass(frozen=True)
class Field:
    """How one field is read, and what a change of it costs.

    ``change`` is ``live`` (nothing restarts), ``restart`` (a new boot, the writable layer is kept), ``recreate`` (a new boot
    with a fresh writable layer, because the image's files below it may differ), or ``identity`` (never compared).
    """

    parse: Callable[[Any], Any]
    change: str


FIELDS: dict[str, Field] = {
    "name": Field(_name, "identity"),
    "state": Field(_choice("present", "absent"), "identity"),
    "image": Field(_image, "recreate"),
    "kernel": Field(_kernel, "restart"),
    "virtualization": Field(_choice("auto", "pv", "pvh"), "restart"),
    "memory": Field(_memory, "restart"),
    "cpus": Field(_cpus, "restart"),
    "entrypoint": Field(_words, "restart"),
    "command": Field(_words, "restart"),
    "environment": Field(_environment, "restart"),
    "ports": Field(_ports, "live"),
    "restart": Field(_restart, "restart"),
}


def parse_zones(declared: list[dict[str, Any]]) -> list[Zone]:
    """Validate a host's whole declaration.

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
    for key, value in entry.items():
        if key not in FIELDS:
            nearest = difflib.get_close_matches(str(key), FIELDS, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else "accepted: " + ", ".join(FIELDS)
            problems.append(f"{label}: unknown field {key}; {hint}")
        elif value is not None:
            try:
                values[key] = FIELDS[key].parse(value)
            except RingfenceError as error:  # Of the image reference; it names field, value and what is accepted.
                problems.append(f"{label}: {error}")
            except Rejected as rejected:
                told = _shown(_without_values(value) if key == "environment" else value)
                problems.append(f"{label}: {key}: {told} is not accepted; accepted: {rejected}")
    if entry.get("name") is None:
        problems.append(f"{label}: name is missing; each zone needs one")
    if entry.get("image") is None and values.get("state") != "absent":
        problems.append(f"{label}: image is missing; name the OCI image that the zone runs")
    return [] if len(problems) > found else [Zone(**values)]


def _conflicts(zones: list[Zone]) -> list[str]:
    problems = []
    names: set[str] = set()
    publishers: dict[tuple[int, str], str] = {}
    for zone in zones:
        if zone.name in names:
            problems.append(f"zone {zone.name}: name: declared twice; names are unique on a host")
        names.add(zone.name)
        for port in zone.ports if zone.state == "present" else ():
            key = (port.host, port.protocol)
            if key in publishers:
                problems.append(
                    f"zone {zone.name}: ports: '{port}' is not accepted; zone {publishers[key]} publishes {port.host}/{port.protocol}; "
                    "choose another"
                )
            publishers.setdefault(key, zone.name)
    return problems


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
