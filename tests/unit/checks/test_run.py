"""The runner of the checks."""

from __future__ import annotations

import sys

import pytest
from run import CHECKS, Check, line, main, run


def printing(text: str, status: int = 0, skipped: str | None = None) -> Check:
    """Return a check that prints ``text`` and exits with ``status``."""
    return Check("group", "name", (sys.executable, "-c", f"print({text!r}); raise SystemExit({status})"), skipped)


def test_check_passes_by_its_exit_status() -> None:
    assert run(printing("fine")).passed
    assert not run(printing("broken", status=1)).passed


def test_check_that_skips_fails() -> None:
    outcome = run(printing("one skipped", skipped="skipped"))
    assert not outcome.passed
    assert outcome.output.endswith("skipped, which counts as failed: one skipped")


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("nox > Skipping yamllint (no files to process)", False),
        ("nox > Skipping license-check (no files to process)", False),
        ("nox > No venv. Skipping installation of (PackageName(name='yamllint'))", True),
    ],
)
def test_antsibull_nox_may_skip_nothing_but_installations(text: str, passes: bool) -> None:
    (nox,) = (check for check in CHECKS if check.name == "antsibull-nox")
    assert run(printing(text, skipped=nox.skipped)).passed is passes


def test_line_ends_with_the_last_word_of_the_check() -> None:
    text = line(run(printing("first\n3 passed\n")))
    assert text.startswith("ok ")
    assert text.endswith("3 passed")


def test_unknown_group_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nothing"]) == 2
    assert "docs, full, lint, molecule, sanity, unit" in capsys.readouterr().err


def test_what_a_long_check_is_at_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    command = (sys.executable, "-uc", "import time; print('TASK one'); time.sleep(1); print('done')")
    monkeypatch.setattr("run.CHECKS", (Check("group", "slow", command),))
    monkeypatch.setattr("run.QUIET_SECONDS", 0.4)
    assert main(["group"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("...")
    assert told[0].endswith("slow                 TASK one")
    assert told[-1] == "1 passed, 0 failed"
