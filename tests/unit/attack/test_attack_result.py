"""Tests of the library's ``attack.result``: a promise is held only if attacks failed that would have succeeded without isolation."""

from __future__ import annotations

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.attack.result import Attempt, compared, judged


def _attempt(succeeded: bool | None, control: bool | None) -> Attempt:
    return Attempt(6, "a: read", succeeded, "EACCES", control, "it was read")


@pytest.mark.parametrize(
    ("attempts", "result", "why"),
    [
        ([_attempt(False, True)], "held", None),
        ([_attempt(False, True), _attempt(True, True)], "broken", "a: read: succeeded: EACCES"),
        ([_attempt(True, False)], "broken", "a: read: succeeded: EACCES"),
        ([_attempt(False, False)], "not_tested", "a: read: its control, without isolation, did not succeed: it was read"),
        ([_attempt(False, None)], "not_tested", "a: read: its control, without isolation, did not succeed: it was read"),
        ([_attempt(False, True), _attempt(None, True)], "not_tested", "a: read: could not be tried: EACCES"),
        ([], "not_tested", "nothing was tried"),
    ],
)
def test_a_promise_is_held_only_if_what_failed_succeeds_without_isolation(attempts: list[Attempt], result: str, why: str | None) -> None:
    assert judged(attempts)[:2] == (result, why)


def test_an_attempt_stands_beside_the_control_of_its_label() -> None:
    tried: dict[str, tuple[bool | None, str]] = {"read": (False, "EACCES"), "write": (False, "EPERM")}
    found = compared(6, "a", tried, {"read": (True, "done")})
    assert [(attempt.label, attempt.control) for attempt in found] == [("a: read", True), ("a: write", None)]
