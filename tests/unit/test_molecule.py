"""The steps of the molecule scenarios: Molecule passes over a folder without tests, and over a folder that does not exist."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from run import LONE_SCENARIO, LONG_SCENARIOS, SCENARIOS

_SCENARIOS = sorted((Path(__file__).parents[2] / "molecule").glob("*/molecule.yml"))


@pytest.mark.parametrize("scenario", _SCENARIOS, ids=lambda path: path.parent.name)
def test_each_step_has_something_to_do(scenario: Path) -> None:
    steps = yaml.safe_load(scenario.read_text(encoding="utf-8"))["scenario"]["test_sequence"]
    named = [step.split() for step in steps if " " in step]
    assert {action for action, *_paths in named} <= {"verify", "side_effect"}
    for action, path in named:
        found = scenario.parent / path
        assert list(found.glob("test_*.py")) if action == "verify" else found.is_file(), path


def test_each_scenario_is_run() -> None:
    assert {path.parent.name for path in _SCENARIOS} == {*SCENARIOS, *LONG_SCENARIOS, LONE_SCENARIO}
