"""The check program typed hands every file to mypy, under the name by which others import it."""

from __future__ import annotations

from pathlib import Path

from typed import runs


def test_programs_of_the_same_name_are_checked_apart() -> None:
    paths = [Path("a/__main__.py"), Path("b/__main__.py"), Path("tests/x.py"), Path("plugins/modules/zones.py")]
    assert runs(paths) == [
        ["a/__main__.py"],
        ["b/__main__.py"],
        ["tests/x.py", "build/ansible_collections/ringfence/zones/plugins/modules/zones.py"],
    ]
