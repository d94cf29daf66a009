"""One of two zones is removed by the declaration: nothing of it is left, and the other one does not notice."""

from __future__ import annotations

import re
from typing import Any

import pytest
from live import GROWN, Live

_BOOT = "cat /proc/sys/kernel/random/boot_id"


@pytest.fixture(scope="module")
def removed(live: Live, facts: dict[str, Any]) -> dict[str, Any]:
    """What the host had of the zone, and the results of removing it twice."""
    observed = live.converge(*live.declared.values(), data=GROWN)
    assert not observed["failed"], observed
    (zone,) = (zone for zone in observed["zones"] if zone["name"] == "api")
    boot = live.in_zone("web", _BOOT)
    declared = [live.declared["web"], {"name": "api", "state": "absent"}]
    results = [live.converge(*declared, data=GROWN) for _time in range(2)]
    return {"zone": zone, "number": facts["domains"]["api"], "boot": boot, "results": results}


@pytest.fixture(scope="module")
def after(live: Live, removed: dict[str, Any]) -> dict[str, Any]:
    """What is found on the host afterwards."""
    assert removed["results"]
    return live.facts("web")


def test_it_is_removed_once(removed: dict[str, Any]) -> None:
    actions = [{zone["name"]: zone["action"] for zone in result["zones"]} for result in removed["results"]]
    assert actions == [{"api": "remove", "web": "keep"}, {"api": "keep", "web": "keep"}]
    assert [result["changed"] for result in removed["results"]] == [True, False]


def test_the_host_had_what_must_be_gone(facts: dict[str, Any], removed: dict[str, Any]) -> None:
    address, number = removed["zone"]["address"], removed["number"]
    assert all(_of_zone(facts, address, number).values())


def test_nothing_of_it_is_left(after: dict[str, Any], removed: dict[str, Any]) -> None:
    left = _of_zone(after, removed["zone"]["address"], removed["number"])
    assert left == {kind: [] for kind in left}


def test_its_volume_stays(facts: dict[str, Any], after: dict[str, Any], removed: dict[str, Any]) -> None:
    assert removed["zone"]["volumes"] == ["data:/srv/data", "www:/usr/share/nginx"]
    assert after["volumes"] == facts["volumes"] != {}


def test_the_other_zone_ran_all_the_time(live: Live, facts: dict[str, Any], after: dict[str, Any], removed: dict[str, Any]) -> None:
    assert after["domains"]["web"] == facts["domains"]["web"]
    assert live.in_zone("web", _BOOT) == removed["boot"]
    assert live.page_from_outside() == "page of web"
    assert after["pages"]["8081"].startswith("no answer")


def _of_zone(facts: dict[str, Any], address: str, number: int) -> dict[str, list[str]]:
    """What a host has of zone api."""
    interface = f"rz{int(address.rpartition('.')[2])}"
    node = re.compile(rf"(/local/domain|/libxl|/backend/\w+)/{number}(/|$)")
    own = re.compile(rf"{re.escape(address)}(?![0-9])")
    return {
        "domain": [name for name in facts["domains"] if name == "api"],
        "loops": [backing for backing in facts["loops"].values() if "/zones/api/" in backing],
        "interface": [link for link in facts["links"] if link == interface],
        "routes": [route for route in facts["routes"] if own.search(route)],
        "rules": [line for line in facts["network"].splitlines() if own.search(line)],
        "xenstore": [path for path in facts["xenstore"] if node.search(path)],
        "files": [path for path in facts["files"] if "/zones/api/" in path] + [zone for zone in facts["zones"] if zone == "api"],
    }
