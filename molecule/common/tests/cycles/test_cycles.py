"""Zones come and go, many times over: the host is as before."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from leftovers import check_that_nothing_is_left
from live import Live

_CYCLES = 50
_SLACK = 2
"""MiB of the hypervisor that its own tables may take in between; the zones take 96 each time."""


def test_fifty_zones_that_come_and_go_leave_nothing(live: Live, facts: dict[str, Any], show: Callable[[str], None]) -> None:
    """Each has a volume and a port, the last of its kind goes in the converge that makes the next, and every fifth is PVH."""

    def zone(number: int) -> dict[str, Any]:
        return {
            "name": f"cycle-{number}",
            "image": live.declared["web"]["image"],
            "virtualization": "pv" if number % 5 else "pvh",
            "memory": "96MiB",
            "command": ["sleep", "1000000"],
            "stop_signal": "SIGKILL",
            "volumes": [f"cycle-{number}:/srv"],
            "ports": ["8083:80"],
        }

    def converge(number: int, *zones: dict[str, Any], **volumes: dict[str, Any]) -> list[str]:
        gone = {"name": f"cycle-{number - 1}", "state": "absent"}
        done = live.converge(*live.declared.values(), gone, *zones, **{gone["name"]: {"state": "absent"}}, **volumes)
        assert not done["failed"], (number, done)
        return [entry["action"] for entry in done["zones"] if entry["name"].startswith("cycle-")]

    for number in range(_CYCLES):
        actions = converge(number, zone(number), **{f"cycle-{number}": {"size": "16MiB"}})
        assert sorted(actions) == ["create", "remove" if number else "keep"], (number, actions)
    assert converge(_CYCLES) == ["remove"]
    after = live.facts(*live.declared)
    check_that_nothing_is_left(after, facts, live.declared, kept=tuple(live.declared))
    assert after["volumes"] == facts["volumes"]
    assert _kinds(after["xenstore"]) == _kinds(facts["xenstore"])
    show(f"free memory of the hypervisor: {facts['free_memory']} MiB before, {after['free_memory']} MiB after")
    assert int(after["free_memory"]) >= int(facts["free_memory"]) - _SLACK


def _kinds(paths: list[str]) -> Counter[str]:
    """How many entries there are of each kind: a path whose numbers are left out."""
    return Counter(re.sub(r"\d+", "N", path) for path in paths)
