"""The check program consistency: what it accepts and what it reports."""

from __future__ import annotations

from pathlib import Path

import pytest
from consistency import action_group_problems, role_problems

SPECIFICATION = """\
argument_specs:
  main:
    options:
      ringfence_demo_count: {type: int, default: 1}
      ringfence_demo_name: {type: str, required: true}
"""


def make_role(root: Path, defaults: str, specification: str = SPECIFICATION) -> Path:
    role = root / "demo"
    for directory, text in (("defaults/main.yml", defaults), ("meta/argument_specs.yml", specification)):
        file = role / directory
        file.parent.mkdir(parents=True)
        file.write_text(text, encoding="utf-8")
    return role


def test_agreeing_role_has_no_problem(tmp_path: Path) -> None:
    assert role_problems(make_role(tmp_path, "ringfence_demo_count: 1\n")) == []


@pytest.mark.parametrize(
    ("defaults", "problem"),
    [
        ("ringfence_demo_count: 2\n", "ringfence_demo_count (entry point main) has the default 1 in its specification and 2 in defaults"),
        (
            "ringfence_demo_count: true\n",
            "ringfence_demo_count (entry point main) has the default 1 in its specification and True in defaults",
        ),
        ("---\n", "ringfence_demo_count (entry point main) has the default 1 in its specification and none in defaults"),
        ("ringfence_demo_count: 1\nringfence_demo_size: 3\n", "ringfence_demo_size has a default but is no option of main"),
        (
            "ringfence_demo_count: 1\nringfence_demo_name: x\n",
            "ringfence_demo_name (entry point main) has the default 'x' in defaults and none in its specification",
        ),
    ],
)
def test_disagreeing_role_is_reported(tmp_path: Path, defaults: str, problem: str) -> None:
    assert role_problems(make_role(tmp_path, defaults)) == [f"demo: {problem}"]


def test_variable_without_the_prefix_is_reported(tmp_path: Path) -> None:
    role = make_role(tmp_path, "demo_count: 1\n", SPECIFICATION.replace("ringfence_demo_count", "demo_count"))
    assert role_problems(role) == ["demo: demo_count (entry point main) does not begin with ringfence_"]


def test_role_without_specification_is_reported(tmp_path: Path) -> None:
    assert role_problems(make_role(tmp_path, "ringfence_demo_count: 1\n", "---\n")) == [
        "demo: meta/argument_specs.yml has no entry point main"
    ]


def test_action_group_holds_every_module_with_its_options_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "runtime.yml").write_text("action_groups: {zones: [kernels, gone, alone]}\n", encoding="utf-8")
    modules = tmp_path / "plugins" / "modules"
    modules.mkdir(parents=True)
    for name in ("kernels", "zones"):
        (modules / f"{name}.py").write_text("extends_documentation_fragment:\n  - ringfence.zones.host\n", encoding="utf-8")
    (modules / "alone.py").write_text("extends_documentation_fragment:\n  - ringfence.zones.host.platform\n", encoding="utf-8")
    assert action_group_problems(tmp_path) == [
        "meta/runtime.yml: module zones is not in the action group zones",
        "meta/runtime.yml: gone, in the action group zones, is no module with the options of ringfence.zones.host",
        "meta/runtime.yml: alone, in the action group zones, is no module with the options of ringfence.zones.host",
    ]
