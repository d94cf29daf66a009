"""Floods from one zone, each of 10 s: another zone and the host still answer in time."""

from __future__ import annotations

from live import Live


def test_floods_of_a_zone_leave_the_others_and_the_host_their_share(live: Live) -> None:
    result = live.module("verify", {"depth": "attack", "promises": [15]})
    assert not result["failed"], result
    (row,) = (row for row in result["report"]["rows"] if row["number"] == 15)
    assert (row["depth"], row["result"]) == ("attack", "held"), row
