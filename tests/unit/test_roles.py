"""The expressions in the roles' tasks and in the playbooks."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]

EXPRESSION = re.compile(r"\{\{.*?\}\}", re.DOTALL)
ARITHMETIC = re.compile(r"(\S+) [-+*/] [0-9]|[0-9] [-+*/] (\S+)")


def test_a_number_from_the_command_line_can_be_reckoned_with() -> None:
    # The value of -e NAME=VALUE is a string.
    paths = [*ROOT.glob("roles/*/tasks/*.yml"), *ROOT.glob("playbooks/*.yml")]
    operands = [
        first or second
        for path in paths
        for expression in EXPRESSION.findall(path.read_text())
        for first, second in ARITHMETIC.findall(expression)
    ]
    assert operands, "the pattern finds nothing any more"
    assert [operand for operand in operands if not operand.endswith("int)")] == []


def test_what_is_done_once_for_all_hosts_is_done_by_the_strategy_that_can() -> None:
    # ANSIBLE_STRATEGY=free would do it for each host, before the others are ready.
    plays = [play for path in ROOT.glob("playbooks/*.yml") for play in yaml.safe_load(path.read_text())]
    once = [play for play in plays if "run_once" in str(play.get("tasks"))]
    assert once, "nothing is done once any more"
    assert [play["name"] for play in once if play.get("strategy") != "linear"] == []
