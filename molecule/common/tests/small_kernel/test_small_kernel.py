"""The kernel of ``kernel_build`` beside Debian's on one host: in small zones, without modules, and as a change of one line."""

from __future__ import annotations

from typing import Any

import pytest
from live import Live

_SMALL: dict[str, dict[str, Any]] = {
    mode: {"name": f"small-{mode}", "kernel": "small", "virtualization": mode, "memory": "48MiB"} for mode in ("pv", "pvh")
}


pytestmark = pytest.mark.usefixtures("zones")


@pytest.fixture(scope="module")
def zones(live: Live) -> list[dict[str, Any]]:
    """The declared zones, and on the small kernel one of each kind; all run."""
    kernels = [*live.variables["ringfence_kernels"], {"name": "small", "image": "oci-archive:/root/small.tar"}]
    done = live.module("kernels", {"kernels": kernels})
    assert not done["failed"], done
    assert [row["modes"] for row in done["kernels"]] == [["pv", "pvh"]] * 3
    image = live.variables["images"]["redis"]
    zones = [*live.declared.values(), *({**zone, "image": image} for zone in _SMALL.values())]
    done = live.converge(*zones)
    assert not done["failed"], done
    return zones


@pytest.mark.parametrize("mode", list(_SMALL))
def test_a_service_runs_in_48_mib(live: Live, mode: str) -> None:
    assert live.in_zone(f"small-{mode}", "redis-cli set key value; redis-cli get key").split() == ["OK", "value"]


def test_three_kernels_run_at_once(live: Live, zones: list[dict[str, Any]]) -> None:
    releases = {str(zone["name"]): live.in_zone(zone["name"], "uname -r").strip() for zone in zones}
    assert releases["small-pv"] == releases["small-pvh"]
    assert len(set(releases.values())) == 3, releases


def test_the_small_kernel_takes_no_modules_and_gives_no_way_into_xens_control_calls(live: Live) -> None:
    ask = "for path in /proc/modules /dev/xen/privcmd; do [ ! -e $path ] || echo $path; done"
    assert live.in_zone("web", ask).split() == ["/proc/modules"]
    assert live.in_zone("small-pv", ask) == ""
    # What the zone's own root sees, not only its container.
    assert live.run(f"{live.into('small-pv')} 'ls /dev/xen' </dev/null").split() == ["evtchn", "gntalloc", "gntdev", "xenbus"]


def test_a_zone_goes_to_another_kernel_and_back_and_keeps_what_it_wrote(live: Live, zones: list[dict[str, Any]]) -> None:
    web, *others = zones
    before = live.facts()["domains"]
    live.in_zone("web", "echo kept >/root/kept; sync")
    for kernel in ("small", "debian13"):
        done = live.converge({**web, "kernel": kernel}, *others)
        assert {zone["name"]: zone["action"] for zone in done["zones"] if zone["action"] != "keep"} == {"web": "restart"}, done
        assert live.in_zone("web", "cat /root/kept") == "kept\n"
        assert live.page_from_outside() == "page of web"
    after = live.facts()["domains"]
    assert {name: number for name, number in after.items() if name != "web"} == {
        name: number for name, number in before.items() if name != "web"
    }


def test_a_kernel_with_which_a_zone_is_not_healthy_is_taken_back_and_not_tried_again(live: Live, zones: list[dict[str, Any]]) -> None:
    web, *others = zones
    picky = {**web, "healthcheck": {"test": ["CMD-SHELL", "test -e /proc/modules"], "interval": "1s", "retries": 2}}
    assert not live.converge(picky, *others)["failed"]
    failed = live.converge({**picky, "kernel": "small"}, *others)
    assert (failed["failed"], failed["msg"].endswith("the zone runs as before")) == (True, True), failed
    assert live.in_zone("web", "test -e /proc/modules; echo $?") == "0\n"
    refused = live.converge({**picky, "kernel": "small"}, *others)
    assert (refused["failed"], refused["changed"], "not tried again" in refused["msg"]) == (True, False, True), refused
    assert not live.converge(*zones)["failed"]


def test_the_exit_status_of_a_zone_on_the_small_kernel_is_told(live: Live, zones: list[dict[str, Any]]) -> None:
    job = {"name": "job", "image": zones[-1]["image"], "kernel": "small", "command": ["sh", "-c", "exit 3"], "restart": "no"}
    done = live.converge(*zones, job)
    assert not done["failed"], done
    row = next(row for row in live.module("zone_info", {})["zones"] if row["name"] == "job")
    assert (row["state"], row["exit_status"]) == ("exited", 3), row
    assert not live.converge(*zones, {"name": "job", "state": "absent"})["failed"]


def test_what_no_zone_uses_goes_and_the_rest_stays(live: Live) -> None:
    gone = [*live.declared.values(), *({"name": zone["name"], "state": "absent"} for zone in _SMALL.values())]
    assert not live.converge(*gone)["failed"]
    assert not live.module("kernels", {"kernels": live.variables["ringfence_kernels"], "prune": True})["failed"]
    arguments = {"zones": list(live.declared.values()), "keep_unused": 0}
    more = {name: live.variables[f"ringfence_{name}"] for name in ("volumes", "secrets")}
    assert not live.module("zones", {**arguments, **more})["failed"]
    declared = {kernel["image"].rpartition("@sha256:")[2] for kernel in live.variables["ringfence_kernels"]}
    assert set(live.run("ls /var/lib/ringfence/kernels").split()) == {*declared, "names.json"}
    assert live.page_from_outside() == "page of web"
