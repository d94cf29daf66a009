"""Tests of the library's ``attack.floods``: which answers of the other zone say something of a flood."""

from __future__ import annotations

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.attack.floods import delays_during


@pytest.mark.parametrize(
    ("asked", "delay", "counts"),
    [
        (85.0, 0.1, False),
        (89.0, 0.1, False),
        (91.0, 0.1, True),
        (98.9, 0.1, True),
        (99.5, 0.1, False),
        # Nothing was heard all the time.
        (89.9, 10.0, True),
        (80.0, 10.0, False),
    ],
)
def test_what_was_waited_for_during_a_flood_counts(asked: float, delay: float, counts: bool) -> None:
    assert delays_during([(asked, delay)], 100) == ([delay] if counts else [])
