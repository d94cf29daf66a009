"""Tests of the library's ``verify.attack`` without a host: an attack ends in time and when it is told to, and clears up."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.attack import network
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.verify import attack


class MadeUpZones:
    """Zones whose start does something else."""

    def __init__(self, start: Callable[[], None]) -> None:
        self.start = start
        self.directory = Store().root / "attack"
        self.cleared = 0

    def clear(self) -> None:
        """Count."""
        self.cleared += 1


@pytest.fixture
def zones(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], MadeUpZones]:
    """Puts made-up zones in the place of an attack's."""

    def put(start: Callable[[], None]) -> MadeUpZones:
        made_up = MadeUpZones(start)
        monkeypatch.setattr(attack, "Zones", lambda _store: made_up)
        return made_up

    return put


_Put = Callable[[Callable[[], None]], MadeUpZones]


def test_an_attack_that_takes_too_long_is_ended_and_cleared(zones: _Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attack, "_LONGEST", 1)
    made_up = zones(lambda: time.sleep(20))
    began = time.monotonic()
    attempts, faults = attack.attack(Store(), [9, 10])
    assert (attempts, faults) == ([], {9: "it was ended after 1 s", 10: "it was ended after 1 s"})
    assert time.monotonic() - began < 10
    # Once before, for what an earlier run has left.
    assert made_up.cleared == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_attack_that_is_told_to_end_clears_up(zones: _Put, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    made_up = zones(lambda: os.kill(os.getpid(), number))
    with pytest.raises(KeyboardInterrupt, match=f"signal {number}"):
        attack.attack(Store(), [9])
    assert made_up.cleared == 2
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(("promises", "row"), [([9, 21], 21), ([9], 0)])
def test_zones_that_cannot_be_removed_are_told(zones: _Put, monkeypatch: pytest.MonkeyPatch, promises: list[int], row: int) -> None:
    def start() -> None:
        monkeypatch.setattr(made_up, "clear", fail)
        if row == 0:
            fail()

    def fail() -> None:
        raise RingfenceError("another converge of this host is running")

    made_up = zones(start)
    monkeypatch.setattr(network, "attack", lambda _zones, _token: [])
    monkeypatch.setattr(attack._Campaign, "_traces", lambda _self: {"domain ringfence-attack-1"})
    attempts, faults = attack.attack(Store(), promises)
    assert (attempts, list(faults)) == ([], [row])
    assert faults[row].startswith(
        "another converge of this host is running; " * (row == 0) + "what the attack has made could not be removed"
    )
    assert "zones ringfence-attack-1 and ringfence-attack-2, the volume ringfence-attack and /var/lib/ringfence/attack" in faults[row]


def test_a_host_without_libvirt_leaves_all_promises_untested(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_store: Store) -> None:
        raise RingfenceError("libvirt does not answer")

    monkeypatch.setattr(attack, "Zones", fail)
    assert attack.attack(Store(), [9]) == ([], {0: "libvirt does not answer"})


def test_zones_that_do_not_start_leave_all_promises_untested(zones: _Put) -> None:
    def fail() -> None:
        raise RingfenceError("no memory")

    made_up = zones(fail)
    assert attack.attack(Store(), [9]) == ([], {0: "no memory"})
    assert made_up.cleared == 2
