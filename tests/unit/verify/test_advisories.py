"""Tests of the library's ``verify.advisories`` and of the program that keeps their table."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from test_verify import healthy, results

from ansible_collections.ringfence.zones.plugins.module_utils.verify import advisories, advisory_table
from ansible_collections.ringfence.zones.plugins.module_utils.verify.advisories import (
    Advisory,
    Host,
    compare_versions,
    fixed_by,
    judge,
)
from ansible_collections.ringfence.zones.plugins.module_utils.verify.facts import Process

# Entries of Debian 12's changelog of xen, shortened: both indentations that it has, and a rebuild for the stable release.
CHANGELOG = """\
xen (4.17.7+13-g2445b30a44-0+deb12u1) bookworm-security; urgency=medium

  * Update to new upstream version 4.17.7+13-g2445b30a44, which also contains
    security fixes for the following issues:
     - grant-table: double version change race
       XSA-517 CVE-2026-79610
     - arbitrary read/write via grant copy
       XSA-523 CVE-2026-102703 CVE-2026-102704
   * Note that the following XSA are not listed, because...
     - XSA-515 only applies to Xen 4.19 and later
     - XSA-522 has patches for the Linux kernel

 -- Hans van Kranenburg <hans@knorrie.org>  Wed, 04 Nov 2026 17:52:28 +0100

xen (4.17.3+10-g091466ba55-1~deb12u1) bookworm; urgency=medium

  * Rebuild 4.17.3+10-g091466ba55-1 for Bookworm.

xen (4.17.3+10-g091466ba55-1) unstable; urgency=medium

    - pci: phantom functions assigned to incorrect contexts
      XSA-449 CVE-2023-46839
"""


@pytest.fixture
def update(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program that keeps the table."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    return importlib.import_module("update_advisories")


def test_a_changelog_names_what_it_fixes() -> None:
    assert fixed_by(CHANGELOG) == {517, 523, 449}
    assert fixed_by(f"linux{CHANGELOG.removeprefix('xen')}") == {449}, "those of an entry of another source do not count"
    assert fixed_by("") == set()


def test_a_changelog_is_read(update: ModuleType) -> None:
    newest, _rebuild, oldest = update.parse_changelog(CHANGELOG)
    assert newest.fixes == {
        517: ("grant-table: double version change race", "CVE-2026-79610"),
        523: ("arbitrary read/write via grant copy", "CVE-2026-102703 CVE-2026-102704"),
    }
    assert newest.notes == {515: "only applies to Xen 4.19 and later", 522: "has patches for the Linux kernel"}
    assert (oldest.source, oldest.version, oldest.suite, set(oldest.fixes)) == ("xen", "4.17.3+10-g091466ba55-1", "unstable", {449})


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("4.17.3+10-g091466ba55-1~deb12u1", "4.17.3+10-g091466ba55-1"),
        ("4.17.5+72-g01140da4e8-1", "4.17.7-0+deb12u1"),
        ("4.20.4+39-gf1e1321c87-0+deb13u1", "4.20.4+63-g7abfd2bce2-0+deb13u1"),
        ("4.20.0~rc2+1-gfcde5e0de8-1~exp1", "4.20.0-1"),
        ("6.1.99-1", "6.1.192-2"),
        ("9.9-1", "1:0.1-1"),
    ],
)
def test_versions_are_compared_as_dpkg_does(older: str, newer: str) -> None:
    assert compare_versions(older, newer) < 0 < compare_versions(newer, older)
    assert compare_versions(older, older) == 0


ADVISORY = Advisory(523, "grant copy", "CVE-1", needs=("hvm",), fixed={"12": "4.17.7-2"})
HOST = Host("12", "4.17.7-1", "6.1.192-2")


@pytest.mark.parametrize(
    ("advisory", "host", "result"),
    [
        ({}, {}, "applies"),
        ({}, {"xen": "4.17.7-2"}, "fixed"),
        ({}, {"named": frozenset({523})}, "fixed"),
        ({}, {"lacks": {"hvm": "no guest is HVM or PVH"}}, "does_not_apply"),
        ({}, {"lacks": {"pv": "no guest is PV"}}, "applies"),
        ({"fixed": {}, "excluded": {"12": "only applies to Xen 4.19 and later"}}, {}, "does_not_apply"),
        ({"fixed": {}, "excluded": {"13": "only applies to Xen 4.17"}}, {}, "unknown"),
        ({}, {"xen": ""}, "unknown"),
        ({}, {"release": ""}, "unknown"),
        ({"part": "guest"}, {}, "does_not_apply"),
        ({"part": "linux", "fixed": {"12": "6.1.192-3"}}, {"named": frozenset({523})}, "applies"),
        ({"part": "linux", "fixed": {"12": "6.1.192-2"}}, {}, "fixed"),
    ],
)
def test_an_advisory_is_judged(advisory: dict[str, Any], host: dict[str, Any], result: str) -> None:
    (row,) = judge([dataclasses.replace(ADVISORY, **advisory)], dataclasses.replace(HOST, **host))
    assert row["result"] == result
    assert row["why"]


def versions(xen: str) -> dict[str, Any]:
    """Versions of a host with Debian 12."""
    return {
        "distribution": "Debian GNU/Linux 12 (bookworm)",
        "xen": "4.17.7",
        "xen_parameters": "ucode=scan gnttab=max-ver:1,no-transitive",
        "kernel": "6.1.0-52-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-10)",
        "cpu": "AMD EPYC Processor",
        "packages": {"xen-hypervisor-4.17-amd64": xen, "xen-hypervisor-4.20-amd64": "4.20.4-1"},
    }


def test_an_old_xen_breaks_the_promise_of_hardening_and_a_new_one_does_not() -> None:
    facts = healthy()
    facts.versions = versions("4.17.7+13-g2445b30a44-0+deb12u1")
    assert results(facts)[24] == "held"
    told = advisories.summary(advisory_table.TABLE, advisory_table.DATE, facts)
    assert told["summary"]["applies"] == 0
    facts.versions = versions("4.17.7-0+deb12u1")
    assert results(facts)[24] == "broken"
    found = {row["number"]: row for row in advisories.summary(advisory_table.TABLE, advisory_table.DATE, facts)["rows"]}
    assert (found[523]["result"], found[523]["fixed_in"]) == ("applies", "4.17.7+13-g2445b30a44-0+deb12u1")
    assert found[517]["why"] == "Xen is booted with gnttab=max-ver:1"
    assert found[518]["why"] == "the CPU is AMD's"
    assert found[510]["why"] == "no guest is HVM or PVH"
    facts.xen_domains[9] = "of another tool stack"
    assert advisories.judge([ADVISORY], advisories.host_of(facts))[0]["result"] == "applies"


def test_what_runs_on_the_host_is_a_condition() -> None:
    facts = healthy()
    assert {"device_model", "passthrough", "bootloader"} <= advisories.host_of(facts).lacks.keys()
    facts.processes = [Process(5, ("/usr/bin/qemu-system-i386",), b""), Process(6, ("/usr/sbin/oxenstored",), b"")]
    lacks = advisories.host_of(facts).lacks
    assert "device_model" not in lacks
    assert "xenstored_c" in lacks
    assert "oxenstored" not in lacks


def test_every_condition_of_the_table_is_known() -> None:
    known = {"arm", "amd", "intel", "hvm", "pv", "passthrough", "bootloader", "device_model", "viridian", "grant_v2"}
    known |= {"oxenstored", "xenstored_c"}
    assert {need for advisory in advisory_table.TABLE for need in advisory.needs} <= known
    numbers = [advisory.number for advisory in advisory_table.TABLE]
    assert numbers == sorted(set(numbers))


def test_a_table_is_brought_up_to_date_and_keeps_what_it_has(update: ModuleType) -> None:
    linux = "linux (6.1.192-1) bookworm-security; urgency=high\n\n    - xen-netback: Fix UAF (CVE-1)\n    - xen: more (CVE-2)\n"
    known = [Advisory(517, "race", "CVE-2026-79610", needs=("grant_v2",)), Advisory(526, "Linux: netback", "CVE-1 CVE-2", part="linux")]
    known.append(Advisory(527, "Linux: other", "CVE-1 CVE-22", part="linux"))
    logs = [("12", update.parse_changelog(CHANGELOG)), ("12", update.parse_changelog(linux))]
    found = {advisory.number: advisory for advisory in update.merged(known, logs)}
    assert found[517].needs == ("grant_v2",)
    assert found[517].fixed == {"12": "4.17.7+13-g2445b30a44-0+deb12u1"}
    assert found[449].fixed == {"12": "4.17.3+10-g091466ba55-1~deb12u1"}
    assert found[515].excluded == {"12": "only applies to Xen 4.19 and later"}
    assert (found[522].part, found[522].excluded) == ("linux", {})
    assert found[526].fixed == {"12": "6.1.192-1"}
    assert found[527].fixed == {}
    assert update.merged(found.values(), logs) == list(found.values()) == sorted(found.values(), key=lambda one: one.number)


def test_the_table_is_as_its_program_writes_it(update: ModuleType) -> None:
    assert update.rendered(advisory_table.TABLE, advisory_table.DATE) == update.TABLE.read_text(encoding="utf-8")
