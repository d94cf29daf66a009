"""Tests of the library's ``command``."""

from __future__ import annotations

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.command import CommandFailed, run


def test_the_output_of_a_program_is_returned() -> None:
    assert run(["sh", "-c", "printf '\\377%s' \"$1\"; echo error >&2", "sh", "a b;$HOME"]) == b"\xffa b;$HOME"


def test_a_program_reads_what_it_is_given_or_nothing() -> None:
    assert run(["cat"], stdin=b"in\0") == b"in\0"
    assert run(["cat"]) == b""


def test_messages_are_not_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert run(["sh", "-c", "printf %s $LC_ALL"]) == b"C.UTF-8"


@pytest.mark.parametrize(
    ("script", "output"),
    [
        ("echo out; echo cause >&2; exit 3", "cause"),
        ("echo out; exit 3", "out"),
        ("exit 3", "no output"),
        ("printf '\\377 cause' >&2; exit 3", "\ufffd cause"),
    ],
)
def test_a_failure_carries_its_cause(script: str, output: str) -> None:
    with pytest.raises(CommandFailed) as caught:
        run(["sh", "-c", script])
    assert str(caught.value) == f"sh failed with exit status 3: {output}"
    assert caught.value.output == ("" if output == "no output" else output)


def test_what_a_program_says_is_fit_for_a_terminal() -> None:
    with pytest.raises(CommandFailed) as caught:
        run(["sh", "-c", "printf 'one\\ntwo\\033[2J\\007' >&2; exit 1"])
    assert str(caught.value) == "sh failed with exit status 1: one\ntwo\\x1b[2J\\x07"
    assert caught.value.output == "one\ntwo\x1b[2J\x07"


def test_the_last_of_a_long_message_is_kept() -> None:
    with pytest.raises(CommandFailed) as caught:
        run(["sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x >&2; echo cause >&2; exit 1"])
    assert len(str(caught.value)) < 2100
    assert str(caught.value).endswith("xcause")


def test_a_program_that_is_missing_is_told() -> None:
    with pytest.raises(CommandFailed, match="none-such: program not found on this host; install the package that carries it"):
        run(["none-such"])


def test_a_program_that_does_not_end_is_killed() -> None:
    with pytest.raises(CommandFailed, match="sleep: no end after 0 s: sleep 60"):
        run(["sleep", "60"], timeout=0.2)
