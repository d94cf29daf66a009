"""The expressions in the roles' tasks and in the playbooks."""

from __future__ import annotations

import re
from pathlib import Path

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
