"""What the tests of live hosts share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from live import Live

pytest.register_assert_rewrite("leftovers")


@pytest.fixture(scope="module")
def live(host: Any) -> Live:
    """The host."""
    return Live(host)


@pytest.fixture(scope="module")
def facts(live: Live) -> dict[str, Any]:
    """What is found on the host when a file's tests begin."""
    return live.facts(*live.declared)


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """A function that prints a line whether the test fails or not."""

    def print_line(line: str) -> None:
        with capsys.disabled():
            print(f"\n    {line}", end=" ")

    return print_line
