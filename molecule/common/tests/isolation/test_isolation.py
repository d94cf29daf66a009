"""What hostile zones try on a live host: nothing succeeds, each attempt succeeds without isolation, and what is weakened is told."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from typing import Any

from live import Live

ATTACKED = {1, 2, 3, 5, 6, 7, 8, 9, 10, 13, 17, 21}
_WEAKEN = "nft flush chain inet ringfence spoofed; nft flush chain inet ringfence forward; nft flush chain inet ringfence input"


def _attack(live: Live) -> dict[int, dict[str, Any]]:
    result = live.module("verify", {"depth": "attack"})
    assert not result["failed"], result
    return {row["number"]: row for row in result["report"]["rows"]}


def _check_that_nothing_is_left(live: Live) -> None:
    assert live.run("xl list | grep ringfence-attack || true") == ""
    assert live.run("ls -d /var/lib/ringfence/attack /var/lib/ringfence/zones/ringfence-attack-* 2>/dev/null || true") == ""
    assert live.run("cat /proc/sys/kernel/core_pattern").strip() == "core"


def test_every_attack_is_held_back_and_succeeds_without_isolation(live: Live, show: Callable[[str], None]) -> None:
    began = time.monotonic()
    rows = _attack(live)
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
    live.run(f"setsid --fork bash -c {shlex.quote(script)} >/dev/null 2>&1 </dev/null")
    rows = _attack(live)
    assert {number for number, row in rows.items() if row["result"] == "broken"} == {9, 10}
    _check_that_nothing_is_left(live)
