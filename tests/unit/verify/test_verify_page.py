"""Tests of the filters ``verify_page`` and ``verify_summary``: what a hostile host says stays text."""

from __future__ import annotations

import copy
from html.parser import HTMLParser
from typing import Any

import yaml
from test_verify import healthy

from ansible_collections.ringfence.zones.plugins.filter.verify_page import DOCUMENTATION, FilterModule, verify_page
from ansible_collections.ringfence.zones.plugins.filter.verify_summary import FilterModule as SummaryModule
from ansible_collections.ringfence.zones.plugins.filter.verify_summary import verify_summary
from ansible_collections.ringfence.zones.plugins.module_utils.verify import promises

HOSTILE = """<script>alert(1)</script><img src=x onerror="alert('1')">{{ 7 * 7 }}&"'"""


class Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _value in attrs}

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def report() -> dict[str, Any]:
    """A report of the made-up host."""
    facts = healthy()
    facts.versions = {"xen": "4.20", "packages": {"crun": "1.21"}, "kernels": [{"name": "stable", "digest": "sha256:b"}], "runtime": None}
    facts.vulnerabilities = {"meltdown": "Mitigation: PTI"}
    facts.xen_log = ["(XEN) Speculative mitigation facilities:"]
    return promises.report(facts, "2026-01-01T00:00:00Z")


def poisoned(value: Any) -> Any:
    """The same report with each text that is not a result replaced by a hostile one."""
    if isinstance(value, dict):
        return {key if key in KNOWN else key + HOSTILE: poisoned(member) for key, member in value.items()}
    if isinstance(value, list):
        return [poisoned(member) for member in value]
    return HOSTILE if isinstance(value, str) and value not in ("held", "broken", "not_tested") else value


def _keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {key for member in value.values() for key in _keys(member)}
    return {key for member in value for key in _keys(member)} if isinstance(value, list) else set()


KNOWN = _keys(report()) - {"meltdown", "crun"}


def test_the_page_has_every_promise_result_and_digest() -> None:
    told = report()
    text = " ".join(Page(verify_page(told, "xen1")).text)
    for row in told["rows"]:
        assert row["promise"] in text
        assert row["tested"] in text
    assert "14 held, 0 broken, 10 not tested" in text
    assert text.count("needs depth attack") == 10
    assert all(part in text for part in ("Isolation of xen1", "4.20", "crun: 1.21", "stable, sha256:b", "Mitigation: PTI", "sha256:aaaa"))


def test_what_a_hostile_host_says_stays_text() -> None:
    clean, hostile = Page(verify_page(report(), "xen1")), Page(verify_page(poisoned(report()), HOSTILE))
    assert (hostile.tags, hostile.attributes) == (clean.tags, clean.attributes)
    assert "script" not in clean.tags
    assert HOSTILE in "".join(hostile.text)
    # The control: the same parser finds the tags where nothing is escaped.
    assert {"script", "img"} <= Page(HOSTILE).tags


def test_the_page_has_advisories_and_the_measured_code() -> None:
    told = report()
    told["attack_surface"] = {"zone": 1234567, "reasons": {"kernel": "hidden"}}
    told["advisories"]["booted"] = False
    text = " ".join(Page(verify_page(told, "xen1")).text)
    assert all(part in text for part in ("1234567", "kernel: hidden", "arbitrary read/write via grant copy", "reboot it"))


def test_the_page_loads_nothing() -> None:
    page = verify_page(report(), "xen1")
    assert "default-src 'none'" in page
    assert not any(word in page for word in ("http://", "https://", "src=", "href="))


def test_a_result_that_is_none_of_ours_is_shown_as_broken() -> None:
    told = report()
    told["rows"][0]["result"] = HOSTILE
    assert 'class="broken">broken' in verify_page(told, "xen1")


def test_a_fleet_is_a_table_with_a_line_for_each_host() -> None:
    good = report()
    good["advisories"]["summary"] = {"fixed": 90, "applies": 0, "does_not_apply": 9, "unknown": 1}
    bad = copy.deepcopy(good)
    bad["advisories"]["summary"]["applies"] = 2
    bad["rows"][9]["result"] = bad["rows"][17]["result"] = "broken"
    bad["summary"] = {"held": 12, "broken": 2, "not_tested": 10}
    results = {"a-long-name": {"report": good}, "b": {"report": bad}, "c": {"unreachable": True}, "d": {"failed": True}, "e": {}}
    assert verify_summary(results) == [
        "host         held  broken  not tested  advisories",
        "a-long-name    14       0          10           1",
        "b              12       2          10           3  broken: 10, 18",
        "c            no report: it was not reached",
        "d            no report: the task failed",
        "e            no report: the task failed",
    ]


def test_the_filters_have_the_names_of_their_files() -> None:
    assert {**FilterModule().filters(), **SummaryModule().filters()} == {"verify_page": verify_page, "verify_summary": verify_summary}
    assert yaml.safe_load(DOCUMENTATION)["name"] == "verify_page"
