"""The examples that operators copy are accepted, and what they say of themselves holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Zone, parse_declaration

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*/group_vars.yml"))


def _read(example: str) -> tuple[dict[str, Any], dict[str, Zone]]:
    path = next(path for path in EXAMPLES if path.parent.name == example)
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    zones, _volumes = parse_declaration(document["ringfence_zones"], document["ringfence_volumes"], document.get("ringfence_secrets", {}))
    return document, {zone.name: zone for zone in zones}


@pytest.mark.parametrize("example", [path.parent.name for path in EXAMPLES])
def test_an_example_is_accepted_and_listed(example: str) -> None:
    document, zones = _read(example)
    assert zones
    assert all(str(content).startswith("{{ vault_") for content in document.get("ringfence_secrets", {}).values())
    assert f"({example}/group_vars.yml)" in (EXAMPLES[0].parents[1] / "README.md").read_text(encoding="utf-8")


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3


def test_the_blast_box_has_no_way_out() -> None:
    (zone,) = _read("legacy-application")[1].values()
    assert (zone.networks.egress, zone.dns, zone.read_only, zone.cap_drop) == ((), (), True, ("ALL",))


@pytest.mark.parametrize(("example", "public"), [("plant-gateway", {"broker"}), ("web-service", {"proxy"})])
def test_only_one_zone_is_reached_from_outside(example: str, public: set[str]) -> None:
    assert {name for name, zone in _read(example)[1].items() if zone.ports} == public
