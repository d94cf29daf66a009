"""Tests of the library's ``zone.stop_order``."""

from __future__ import annotations

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Zone
from ansible_collections.ringfence.zones.plugins.module_utils.zone import stop_order
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import Definition
from ansible_collections.ringfence.zones.plugins.module_utils.zone.observed import Observed


def test_a_zone_ends_before_what_it_depends_on_and_a_group_has_the_time_of_its_slowest() -> None:
    zones = [
        Zone("db", stop_grace_period=300),
        Zone("api", depends_on={"db": "service_started"}),
        Zone("web", depends_on={"api": "service_healthy", "gone": "service_started"}, stop_grace_period=20),
        Zone("tool"),
    ]
    assert stop_order.groups(zones) == [(25, ["web"]), (15, ["api"]), (305, ["db", "tool"])]
    assert stop_order.groups([]) == []


def test_what_runs_is_told_also_if_it_cannot_be_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Hypervisor:
        def observe(self) -> tuple[dict[str, Observed], set[str]]:
            db = Definition(Zone("db", stop_grace_period=60), "", "", "pv", "", 1)
            return {"db": Observed(db, 1), "damaged": Observed(None, 2), "off": Observed(db)}, {"foreign"}

    monkeypatch.setattr(stop_order, "Hypervisor", Hypervisor)
    stop_order.main()
    assert capsys.readouterr().out == "65 damaged db\n"
