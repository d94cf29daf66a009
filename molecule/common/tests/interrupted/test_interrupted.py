"""A zone comes, changes and goes, and the converges that do it are interrupted at each step: the next one always ends as declared."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from leftovers import check_that_nothing_is_left
from live import Live

_REMEMBERS = 'echo "$STEP" >> /srv/kept/steps; sync; trap "exit 0" TERM; sleep 1000000 & wait'
"""What the zone does: each of its starts writes to a volume, and waits until that is on the disk."""

_SMALL, _LARGE, _ABSENT = {"size": "16MiB"}, {"size": "24MiB"}, {"state": "absent"}
"""What its volumes are declared to be."""

_KNOWN = {
    "create": {
        "run nft -f",
        "rename network.loading",
        "rename network.nft",
        "run mkfs.ext4 -q",
        "rename volumes/passing.img",
        "make zones/extra",
        "rename zones/extra/initrd-…",
        "rename zones/extra/writable-….img",
        "define extra",
        "autostart extra",
        "write zones/extra/writable-….img",
        "start extra",
        "wait",
    },
    "recreate": {"run skopeo copy", "rename images/…", "stop extra", "define extra", "start extra"},
    "restart": {"write zones/extra/stopping", "stop extra", "wait", "define extra", "start extra", "delete zones/extra/initrd-…"},
    "grow": {"write volumes/passing.img", "stop extra", "start extra"},
    "live": {"run nft -f", "resize memory of extra", "run xl sched-credit2", "define extra"},
    "remove": {"run nft -f", "stop extra", "undefine extra", "delete zones/extra", "delete volumes/passing.img", "withdraw images/…"},
}
"""Changes that each step of the zone's life is known to need: a count without them has not looked everywhere."""

_FAULTS = {
    "libvirtd dies": ["systemctl", "kill", "--signal=KILL", "libvirtd.service"],
    "xenconsoled dies": ["pkill", "-KILL", "-x", "xenconsoled"],
    "the clock jumps forward": ["date", "--set=+1 day"],
    "the clock jumps back": ["date", "--set=-1 day"],
}
_MOMENTS = {
    "create": "after start extra",
    "recreate": "after stop extra",
    "restart": "after define extra",
    "grow": "after write volumes/passing.img",
    "live": "after resize memory of extra",
    "remove": "after undefine extra",
}
"""When each fault happens in each step of the zone's life."""


class Life:
    """The life of zone extra: what is declared for each step of it, and what has to be found then."""

    def __init__(self, live: Live, before: dict[str, Any], name: str) -> None:
        self.live = live
        self.before = before
        self.name = name
        images = live.variables["images"]
        created = {
            "name": "extra",
            "image": images["nginx"],
            "kernel": "debian13",
            "virtualization": "pv",
            "memory": "128MiB",
            "user": "root",
            "restart": "always",
            "command": ["sh", "-c", _REMEMBERS],
            "stop_signal": "SIGTERM",
            "volumes": ["kept:/srv/kept", "passing:/srv/passing"],
            **self._step("create"),
        }
        recreated = {**created, "image": images["redis"], **self._step("recreate")}
        restarted = {**recreated, "kernel": "debian12", **self._step("restart")}
        changed = {**restarted, "memory": "96MiB", "cpu_shares": 2048, "ports": ["8083:80"]}
        removed = {"name": "extra", "state": "absent"}
        self.zones: dict[str, dict[str, Any]] = {
            "create": created,
            "recreate": recreated,
            "restart": restarted,
            "grow": restarted,
            "live": changed,
            "remove": removed,
        }

    def _step(self, step: str) -> dict[str, Any]:
        return {"environment": {"STEP": f"{step} {self.name}"}}

    def interrupted(self, moments: Mapping[str, int | str], instead: list[str]) -> dict[str, dict[str, Any]]:
        """Live, interrupted at these moments; the results by step, of which those are checked that came to their moment."""
        steps = []
        for step, zone in self.zones.items():
            passing = {"grow": _LARGE, "live": _LARGE, "remove": _ABSENT}.get(step, _SMALL)
            declared = [*self.live.declared.values(), zone]
            steps.append(self.live.interrupted(moments[step], *declared, instead=instead, kept=_SMALL, passing=passing))
        results = dict(zip(self.zones, self.live.converge_interrupted(*steps), strict=True))
        for step, result in results.items():
            if result["reached"]:
                self._check(step, result)
            else:
                assert result["failures"] == [], (self.name, step, result)
        return results

    def _check(self, step: str, result: dict[str, Any]) -> None:
        where = f"{self.name}: {step}, interrupted after {result['changes'][-1:]}"
        told = {key: result[key] for key in ("completed", "again")}
        assert (result["completed"]["failures"], result["again"]["failures"], result["again"]["changed"]) == ([], [], False), (where, told)
        actions = result["completed"]["actions"]
        assert (actions["web"], actions["api"]) == ("keep", "keep"), (where, told)
        facts = result["facts"]
        declared = {zone["name"]: zone for zone in (*self.live.declared.values(), self.zones[step]) if "image" in zone}
        try:
            check_that_nothing_is_left(facts, self.before, declared, kept=("web", "api"))
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from error
        images = {path.split("/")[5] for path in facts["files"] if path.startswith("/var/lib/ringfence/images/")}
        assert len(images) == len({zone["image"] for zone in declared.values()}), where
        assert ("passing" in facts["volumes"], "kept" in facts["volumes"]) == (step != "remove", True), where


@pytest.fixture
def remembered(live: Live) -> Iterator[Callable[[], list[str]]]:
    """A function that reads what zone extra, which has been removed, has written to its volume; the volume goes with the test."""

    def read() -> list[str]:
        return live.run("debugfs -R 'cat /kept/steps' /var/lib/ringfence/volumes/kept.img 2>/dev/null").splitlines()

    yield read
    gone = live.converge(*live.declared.values(), {"name": "extra", "state": "absent"}, kept=_ABSENT, passing=_ABSENT)
    assert not gone["failed"], gone


def _check_memory(life: str, before: list[str], after: list[str]) -> None:
    """What was written is still there, and each start of this life has added to it; a start may have been repeated."""
    assert after[: len(before)] == before, life
    assert list(dict.fromkeys(after[len(before) :])) == [f"{step} {life}" for step in ("create", "recreate", "restart")], life


def test_a_converge_that_is_killed_at_any_step_is_completed_by_the_next(
    live: Live, facts: dict[str, Any], remembered: Callable[[], list[str]], show: Callable[[str], None]
) -> None:
    """Before the first change of each step of a zone's life, before the second, … until each comes to its end."""
    whole: dict[str, list[str]] = {}
    before: list[str] = []
    number = 0
    while set(whole) < set(_KNOWN):
        number += 1
        life = Life(live, facts, str(number))
        results = life.interrupted(dict.fromkeys(_KNOWN, number), [])
        after = remembered()
        _check_memory(life.name, before, after)
        before = after
        killed = [
            f"{step} after {result['changes'][-1] if result['changes'] else 'nothing'}"
            for step, result in results.items()
            if result["reached"]
        ]
        show(f"{number}: {', '.join(killed)}")
        whole.update({step: result["changes"] for step, result in results.items() if not result["reached"]})
    for step, known in _KNOWN.items():
        show(f"{step}: killed before each of {len(whole[step])} changes")
        assert known <= set(whole[step]), (step, whole[step])


@pytest.mark.parametrize(
    ("action", "known"),
    [
        ("recreate", {"run nft -f", "run skopeo copy", "stop extra", "define extra", "start extra", "wait"}),
        ("live", {"run nft -f", "resize memory of extra", "define extra"}),
    ],
)
def test_a_change_that_is_not_wanted_any_more_when_its_converge_was_killed_is_taken_back(
    live: Live,
    facts: dict[str, Any],
    remembered: Callable[[], list[str]],
    show: Callable[[str], None],
    action: str,
    known: set[str],
) -> None:
    """Wherever it was killed: the zone is again what it was, and so is what the host has of it."""
    zones = Life(live, facts, "back").zones
    others = [*live.declared.values()]
    created = live.converge(*others, zones["create"], kept=_SMALL, passing=_SMALL)
    assert not created["failed"], created
    before = live.facts()
    kept = ("web", "api", "extra") if action == "live" else ("web", "api")
    fields = {"memory": "96MiB"} if action == "live" else {"image": live.variables["images"]["redis"], "kernel": "debian12"}
    changed = {**zones["create"], "ports": ["8083:80"], **fields}
    number = 0
    while True:
        number += 1
        step = live.interrupted(number, *others, changed, then=[*others, zones["create"]], kept=_SMALL, passing=_SMALL)
        (result,) = live.converge_interrupted(step)
        if not result["reached"]:
            break
        where = (number, result["changes"][-1:])
        assert (result["completed"]["failures"], result["again"]["failures"], result["again"]["changed"]) == ([], [], False), (
            where,
            result,
        )
        check_that_nothing_is_left(result["facts"], before, {**live.declared, "extra": zones["create"]}, kept)
        assert result["facts"]["network"] == before["network"], where
    show(f"taken back before each of {number - 1} changes")
    assert (result["failures"], result["actions"]["extra"]) == ([], action), result
    assert known <= set(result["changes"])
    removed = live.converge(*others, zones["remove"], kept=_SMALL, passing=_SMALL)
    assert not removed["failed"], removed
    assert set(remembered()) == {"create back"}


@pytest.mark.parametrize("fault", _FAULTS)
def test_a_fault_in_the_middle_of_a_change_harms_no_zone(
    live: Live, facts: dict[str, Any], remembered: Callable[[], list[str]], fault: str
) -> None:
    life = Life(live, facts, fault)
    results = life.interrupted(_MOMENTS, _FAULTS[fault])
    assert [step for step, result in results.items() if not result["reached"]] == []
    _check_memory(fault, [], remembered())


@pytest.mark.parametrize("fault", _FAULTS)
def test_a_fault_between_two_converges_changes_nothing(live: Live, facts: dict[str, Any], fault: str) -> None:
    live.run(f"{shlex.join(_FAULTS[fault])} >/dev/null")
    unchanged = live.converge(*live.declared.values())
    assert (unchanged["failed"], unchanged["changed"]) == (False, False), unchanged
    check_that_nothing_is_left(live.facts(*live.declared), facts, live.declared, kept=("web", "api"))
