"""What hostile zones try on a live host: nothing succeeds, each attempt succeeds without isolation, and what is weakened is told."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from live import HOLDER_OF_THE_LOCK, Live

ATTACKED = {*range(1, 15), 16, 17, 21, 22}
"""Not the promise 15, of which times are the evidence: they say nothing where other tests run. The scenario floods attacks it."""

_LEFT = 300
"""MiB of free memory beside the ballast: what the two hostile zones need, and a little."""

_BALLAST = f"""
import libvirt
from pathlib import Path
connection = libvirt.open("xen:///system")
kernel = next(Path("/var/lib/ringfence/kernels").glob("*/vmlinux"))
memory = (connection.getFreeMemory() >> 20) - {_LEFT}
connection.createXML(
    f"<domain type='xen'><name>ballast</name><memory unit='MiB'>{{memory}}</memory>"
    f"<os><type arch='x86_64' machine='xenpv'>linux</type><kernel>{{kernel}}</kernel></os></domain>",
    libvirt.VIR_DOMAIN_START_PAUSED,
)
"""

_WEAKEN = (
    "nft flush chain inet ringfence spoofed; nft flush chain inet ringfence forward; nft flush chain inet ringfence input;"
    " nft flush chain arp ringfence asking"
)


def _attack(live: Live, **arguments: Any) -> dict[int, dict[str, Any]]:
    result = live.module("verify", {"depth": "attack", **arguments})
    assert not result["failed"], result
    return {row["number"]: row for row in result["report"]["rows"]}


@pytest.fixture
def no_other_memory(live: Live) -> Iterator[None]:
    """A host on which a zone that begins has to be given memory of one that has died: a domain that never runs has the rest.

    Xen gives what it has wiped long ago first, so else it was chance whether promise 11 can be tested.
    """
    live.run(f"python3 -c {shlex.quote(_BALLAST)}")
    yield
    live.run("xl destroy ballast")


def _check_that_nothing_is_left(live: Live) -> None:
    assert live.run("xl list | grep ringfence-attack || true") == ""
    files = "/var/lib/ringfence/attack /var/lib/ringfence/zones/ringfence-attack-* /var/lib/ringfence/volumes/ringfence-attack*"
    assert live.run(f"ls -d {files} 2>/dev/null || true") == ""
    assert live.run("findmnt --noheadings --source ringfence-attack || true") == ""
    assert live.run("cat /proc/sys/kernel/core_pattern").strip() == "core"


@pytest.mark.usefixtures("no_other_memory")
def test_every_attack_is_held_back_and_succeeds_without_isolation(live: Live, show: Callable[[str], None]) -> None:
    # The host was saved a while ago, and its timers may not have noticed yet that time has passed.
    live.run("systemctl start ringfence-console-logs.service")
    began = time.monotonic()
    rows = _attack(live, promises=sorted(ATTACKED))
    show(f"attacked in {time.monotonic() - began:.0f} s")
    assert {number for number, row in rows.items() if row["depth"] == "attack"} == ATTACKED
    # A control that did not succeed leaves its promise untested.
    assert {number: row["why"] for number, row in rows.items() if number in ATTACKED and row["result"] != "held"} == {}
    assert {number for number, row in rows.items() if row["result"] == "broken"} == set()
    _check_that_nothing_is_left(live)


def test_rules_that_are_flushed_are_told_by_the_rows_of_the_network_alone(live: Live) -> None:
    # The zones begin with the table loaded anew, so it is flushed once the second one runs.
    condition = "zonectl list 2>/dev/null | grep -q '^ringfence-attack-2 *running'"
    script = f"for try in $(seq 600); do if {condition}; then {_WEAKEN}; exit; fi; sleep 0.5; done"
    live.by_itself(script)
    rows = _attack(live, promises=[9, 10])
    assert "in the name of foreign machines" in str(rows[9]["evidence"])
    assert {number for number, row in rows.items() if row["result"] == "broken"} == {9, 10}
    _check_that_nothing_is_left(live)


def test_an_attack_that_is_told_to_end_clears_up(live: Live) -> None:
    action = f"sleep 2; kill -TERM {HOLDER_OF_THE_LOCK}"
    live.by_itself(f"for try in $(seq 600); do if xl domid ringfence-attack-1; then {action}; exit; fi; sleep 0.5; done")
    result = live.module("verify", {"depth": "attack", "promises": [1]})
    assert "was ended (signal 15)" in result["msg"], result
    _check_that_nothing_is_left(live)
