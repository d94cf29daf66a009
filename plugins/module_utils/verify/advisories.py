# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of Xen's security advisories concern a host, judged from a table of them and from what was found on it. Pure.

An advisory is told as fixed only where that is shown: the host's own changelog names it, or the host runs a version that the table has as
fixed. It is told as not applying only where the table names a condition that the host was found not to have.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.verify.facts import Facts

FIXED = "fixed"
APPLIES = "applies"
DOES_NOT_APPLY = "does_not_apply"
UNKNOWN = "unknown"

_HEAD = re.compile(r"^(\S+) \([^)]+\) [^;]+;", re.MULTILINE)
FIX = re.compile(r"^ +- (?!XSA)(.+(?:\n {4,}(?![-*( ]|XSA).+)*)\n +XSA-(\d+)((?: +CVE-\d+-\d+)*)", re.MULTILINE)
"""An advisory in an entry of the changelog of Debian's ``xen``: title, number and CVEs."""


@dataclass(frozen=True)
class Advisory:
    """One advisory. ``fixed`` and ``excluded`` are by Debian's release: a version with the fix, and why there is nothing to fix.

    ``part`` is what has the fault: ``xen``, ``linux`` (the host's kernel) or ``guest`` (the kernel of a guest). ``needs`` are conditions
    without which it cannot be used, all of them in ``host_of``.
    """

    number: int
    title: str
    cves: str
    part: str = "xen"
    needs: tuple[str, ...] = ()
    fixed: Mapping[str, str] = field(default_factory=dict)
    excluded: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Host:
    """What of a host decides. Versions are Debian's and empty if unknown; ``lacks`` has the reason for each condition that it lacks."""

    release: str = ""
    xen: str = ""
    linux: str = ""
    named: frozenset[int] = frozenset()
    """The advisories that the changelog of the host's Xen names as fixed."""
    lacks: Mapping[str, str] = field(default_factory=dict)


def fixed_by(changelog: str) -> frozenset[int]:
    """The advisories that a changelog names as fixed, in entries of Debian's ``xen``."""
    _before, *parts = _HEAD.split(changelog)
    entries = zip(parts[::2], parts[1::2], strict=True)
    return frozenset(int(number) for source, text in entries if source == "xen" for _title, number, _cves in FIX.findall(text))


def compare_versions(one: str, other: str) -> int:
    """Less than, equal to or greater than 0, as the first of two versions of Debian packages is older, the same or newer."""
    return next((order for order in _orders(_version(one), _version(other)) if order), 0)


def _version(text: str) -> tuple[str, str, str]:
    epoch, _colon, rest = text.rpartition(":") if ":" in text else ("0", "", text)
    upstream, dash, revision = rest.rpartition("-")
    return epoch, upstream if dash else rest, revision if dash else "0"


def _orders(one: Sequence[str], other: Sequence[str]) -> Iterator[int]:
    for mine, theirs in zip(one, other, strict=True):
        # Text and numbers take turns, text first: deb-version(7).
        pairs = zip_longest(re.findall(r"(\D*)(\d*)", mine), re.findall(r"(\D*)(\d*)", theirs), fillvalue=("", ""))
        for (text, number), (other_text, other_number) in pairs:
            yield _compare(_letters(text), _letters(other_text))
            yield _compare([int(number or 0)], [int(other_number or 0)])


def _letters(text: str) -> list[int]:
    """What sorts as Debian's text does: ``~`` before its end, the end before letters, letters before the rest."""
    return [*(-1 if letter == "~" else ord(letter) if letter.isalpha() else ord(letter) + 256 for letter in text), 0]


def _compare(one: list[int], other: list[int]) -> int:
    return (one > other) - (one < other)


def host_of(facts: Facts) -> Host:
    """What of the facts decides. A condition is lacked only where that was seen."""
    versions = facts.versions
    release = re.search(r"\d+", str(versions.get("distribution", "")))
    linux = re.search(r"Debian (\S+)", str(versions.get("kernel", "")))
    package, version = xen_package(versions)
    named = frozenset[int]() if "xen_named" in facts.unread else facts.xen_named
    return Host(release[0] if release else "", version, linux[1] if linux else "", named, dict(_lacks(facts, package)))


def xen_package(versions: Mapping[str, Any]) -> tuple[str, str]:
    """Name and version of the package of the hypervisor that runs; both empty if it is none of Debian's."""
    branch = re.match(r"\d+\.\d+", str(versions.get("xen", "")))
    for name, version in (versions.get("packages") or {}).items():
        if branch and name.startswith(f"xen-hypervisor-{branch[0]}-"):
            return name, version
    return "", ""


def _lacks(facts: Facts, package: str) -> Iterator[tuple[str, str]]:
    cpu = str(facts.versions.get("cpu", ""))
    if package.endswith("-amd64"):
        yield "arm", "the host is no Arm machine"
    if "Intel" in cpu:
        yield "amd", "the CPU is Intel's"
    if "AMD" in cpu:
        yield "intel", "the CPU is AMD's"
    if re.search(r"(^|\s)gnttab=(\S+,)?max-ver:1(,|\s|$)", str(facts.versions.get("xen_parameters", ""))):
        yield "grant_v2", "Xen is booted with gnttab=max-ver:1"
    if facts.in_xen and "processes" not in facts.unread:
        programs = {name.rpartition("/")[2] for process in facts.processes for name in process.names}
        if "oxenstored" in programs:
            yield "xenstored_c", "the host runs oxenstored"
        elif "xenstored" in programs:
            yield "oxenstored", "the host runs the xenstored that is written in C"
        if not any(name.startswith("qemu-system") for name in programs):
            yield "device_model", "no device model runs"
    yield from _lacks_of_guests(facts)


def _lacks_of_guests(facts: Facts) -> Iterator[tuple[str, str]]:
    """What no guest has; nothing is said if Xen has a guest that libvirt does not know."""
    if not facts.in_xen or {"domains", "xen_domains"} & facts.unread.keys():
        return
    if set(facts.xen_domains) - {0} - {domain.number for domain in facts.domains}:
        return
    kinds = {domain.text("os/type") for domain in facts.domains}
    if kinds <= {"linux", "xen"}:
        yield "hvm", "no guest is HVM or PVH"
    if kinds <= {"hvm", "xenpvh"}:
        yield "pv", "no guest is PV"
    if not any(domain.elements("devices/hostdev") or "pcidevs" in domain.asked for domain in facts.domains):
        yield "passthrough", "no guest has a device of the host"
    if all(domain.text("os/kernel") for domain in facts.domains):
        yield "bootloader", "every guest is given its kernel, and no boot loader reads its disk"
    if not any(domain.elements("features/hyperv") or domain.elements("features/viridian") for domain in facts.domains):
        yield "viridian", "no guest has the Viridian interface"


def judge(table: Sequence[Advisory], host: Host) -> list[dict[str, Any]]:
    """Each advisory of the table with its result and why, newest first."""
    return [_judged(advisory, host) for advisory in sorted(table, key=lambda one: -one.number)]


def _judged(advisory: Advisory, host: Host) -> dict[str, Any]:
    result, why = _result(advisory, host)
    return {
        "number": advisory.number,
        "title": advisory.title,
        "cves": advisory.cves.split(),
        "result": result,
        "why": why,
        "fixed_in": advisory.fixed.get(host.release),
    }


def _result(advisory: Advisory, host: Host) -> tuple[str, str]:
    fixed = advisory.fixed.get(host.release)
    name, runs = ("the host's kernel", host.linux) if advisory.part == "linux" else ("Xen", host.xen)
    if advisory.part == "xen" and advisory.number in host.named:
        return FIXED, "the changelog of the host's Xen names it"
    if fixed and runs and compare_versions(runs, fixed) >= 0:
        return FIXED, f"{name} is {runs}"
    if host.release in advisory.excluded:
        return DOES_NOT_APPLY, advisory.excluded[host.release]
    if advisory.part == "guest":
        return DOES_NOT_APPLY, "it is a fault of a guest's kernel, which harms that guest; kernels of zones are not judged here"
    lacked = [host.lacks[condition] for condition in advisory.needs if condition in host.lacks]
    if lacked:
        return DOES_NOT_APPLY, lacked[0]
    if not runs:
        return UNKNOWN, f"the Debian version of {name} is not known"
    if not fixed:
        return UNKNOWN, f"the table knows no fixed version for {f'Debian {host.release}' if host.release else 'this release'}"
    return APPLIES, f"{name} is {runs}, and it is fixed in {fixed}"


def summary(table: Sequence[Advisory], date: str, facts: Facts) -> dict[str, Any]:
    """The part of a report on advisories, as docs/verify.md describes it."""
    judged = judge(table, host_of(facts))
    counted = Counter(row["result"] for row in judged)
    return {
        "date": date,
        "booted": facts.xen_booted,
        "summary": {result: counted[result] for result in (FIXED, APPLIES, DOES_NOT_APPLY, UNKNOWN)},
        "rows": [row for row in judged if row["result"] != FIXED],
    }
