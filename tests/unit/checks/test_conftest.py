"""A skipped test counts as failed, in every pytest run of the project."""

from __future__ import annotations

import pytest
from tree import ROOT

pytest_plugins = ["pytester"]


@pytest.mark.parametrize(
    ("source", "outcome"),
    [
        ("import pytest\ndef test_it():\n    pytest.skip('no program')\n", {"failed": 1}),
        ("import pytest\npytest.skip('no program', allow_module_level=True)\n", {"errors": 1}),
        ("import pytest\n@pytest.mark.xfail\ndef test_it():\n    assert False\n", {"failed": 1}),
        ("def test_it():\n    assert True\n", {"passed": 1}),
    ],
)
def test_skip_fails(pytester: pytest.Pytester, source: str, outcome: dict[str, int]) -> None:
    pytester.makeconftest((ROOT / "conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile(source)
    pytester.runpytest_inprocess().assert_outcomes(**outcome)
