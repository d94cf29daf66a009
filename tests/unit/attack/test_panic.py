"""Tests of the library's ``attack.panic``: who has to answer while a kernel dies."""

from __future__ import annotations

import time

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.attack import panic
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError


def test_who_cannot_be_asked_has_not_answered_and_is_asked_again() -> None:
    def fail() -> None:
        raise RingfenceError("xl failed with exit status 1: no output")

    watched, asked = panic._Watched(), []
    watched.ask(lambda: asked.append(1))
    assert (watched.missed, watched.told) == (False, "it answered within 0.0 s")
    watched.ask(fail)
    watched.ask(lambda: asked.append(2))
    assert asked == [1, 2]
    assert (watched.missed, watched.told) == (True, "xl failed with exit status 1: no output")


def test_who_answers_too_late_has_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panic, "_LATENCY", 0.01)
    watched = panic._Watched()
    watched.ask(lambda: time.sleep(0.05))
    assert watched.missed
    assert watched.told.startswith("it answered within ")
