"""Checks that what the collection says twice agrees: role defaults with argument specifications, action group with modules."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from tree import ROOT

ACTION_GROUP = "zones"
SHARED_OPTIONS = "ringfence.zones.host"
"""The documentation fragment with the options that all modules of the group have; a module without them refuses their defaults."""

PREFIX = "ringfence_"
"""What the name of every role variable begins with; the roles work on one set of declarations."""


def _load(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; empty if the file is missing or empty."""
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}


def role_problems(role: Path) -> list[str]:
    """Return where ``defaults/main.yml`` and ``meta/argument_specs.yml`` of the role in directory ``role`` disagree.

    Every default must be an option of the entry point ``main`` with the same default, and every option of any entry
    point that has a default must have the same one in the defaults. Names carry the collection's prefix.
    """
    defaults = _load(role / "defaults" / "main.yml")
    entry_points = _load(role / "meta" / "argument_specs.yml").get("argument_specs", {})
    if "main" not in entry_points:
        return [f"{role.name}: meta/argument_specs.yml has no entry point main"]
    main_options = entry_points["main"].get("options", {})
    problems = [f"{role.name}: {name} has a default but is no option of main" for name in defaults if name not in main_options]
    for entry_point, specification in entry_points.items():
        for name, option in specification.get("options", {}).items():
            where = f"{role.name}: {name} (entry point {entry_point})"
            if not name.startswith(PREFIX):
                problems.append(f"{where} does not begin with {PREFIX}")
            if name in defaults and "default" not in option:
                problems.append(f"{where} has the default {defaults[name]!r} in defaults and none in its specification")
            elif "default" in option and name not in defaults:
                problems.append(f"{where} has the default {option['default']!r} in its specification and none in defaults")
            elif name in defaults and _typed(option["default"]) != _typed(defaults[name]):
                problems.append(f"{where} has the default {option['default']!r} in its specification and {defaults[name]!r} in defaults")
    return problems


def _typed(value: object) -> str:
    """Return a text that differs for values of different types: Python's 1 equals its True."""
    return repr(value)


def action_group_problems(root: Path) -> list[str]:
    """Return where the action group of ``meta/runtime.yml`` and the modules in ``root`` that have the options of all of them disagree."""
    listed = _load(root / "meta" / "runtime.yml").get("action_groups", {}).get(ACTION_GROUP, [])
    sources = {path.stem: path.read_text(encoding="utf-8") for path in sorted((root / "plugins" / "modules").glob("*.py"))}
    modules = [name for name, source in sources.items() if f"  - {SHARED_OPTIONS}\n" in source]
    problems = [f"meta/runtime.yml: module {name} is not in the action group {ACTION_GROUP}" for name in modules if name not in listed]
    problems += [
        f"meta/runtime.yml: {name}, in the action group {ACTION_GROUP}, is no module with the options of {SHARED_OPTIONS}"
        for name in listed
        if name not in modules
    ]
    return problems


def main() -> int:
    roles = sorted(path for path in (ROOT / "roles").glob("*") if path.is_dir())
    problems = [problem for role in roles for problem in role_problems(role)] + action_group_problems(ROOT)
    print("\n".join(problems) if problems else f"{len(roles)} roles and the action group {ACTION_GROUP} agree with themselves")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
