"""Runs groups of checks side by side: ``python tests/checks/run.py lint sanity unit docs``.

Prints one line for each check and the whole output of those that failed. A check that skipped something failed. What a check has written
so far is in ``build/log/``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from tree import BUILD, ROOT, VENV_BIN

QUIET_SECONDS = 120.0
"""After so long without a result, what the running checks are at is told."""

COLLECTION = str(BUILD / "ansible_collections" / "ringfence" / "zones")


@dataclass(frozen=True)
class Check:
    """A program that judges the checkout."""

    group: str
    name: str
    command: tuple[str, ...]
    skipped: str | None = None
    """Pattern of an output line which says that something was not checked; ``None`` where the program itself fails then."""


def own(program: str) -> tuple[str, ...]:
    """Return the command of a check program of this directory."""
    return (sys.executable, f"tests/checks/{program}.py")


# The last one begins with what the first one has converged.
SCENARIOS = ("default", "debian12", "isolation")

# What does not fit into the time of CI: `make test-full`.
LONG_SCENARIOS = ("interrupted", "airgap", "airgap-debian12", "kernels", "pull")

# Measures times, so that nothing may run beside it.
LONE_SCENARIO = "floods"


def molecule(group: str, scenarios: Sequence[str]) -> list[Check]:
    """Return the checks that are molecule scenarios."""
    return [Check(group, f"molecule {name}", ("molecule", "test", "--scenario-name", name), r"side_effect.*Missing") for name in scenarios]


# Longest first, so that the last to end is short.
CHECKS = (
    *molecule("molecule", SCENARIOS),
    *molecule("full", LONG_SCENARIOS),
    *molecule("alone", [LONE_SCENARIO]),
    Check("sanity", "ansible-test sanity", own("sanity")),
    Check("lint", "galaxy-importer", own("importer")),
    Check("docs", "documentation", own("docs")),
    Check("lint", "ansible-lint", ("ansible-lint", "--nocolor")),
    Check("unit", "unit tests", ("pytest", "--color=no", "tests/unit")),
    Check("lint", "mypy", own("typed")),
    Check(
        "lint",
        "antsibull-nox",
        ("nox", "--no-venv", "--envdir", "build/nox", "--session", "yamllint", "antsibull-nox-config", "license-check", "extra-checks"),
        # The tools come from .venv, so nothing is to be installed. There may be no guide in docs/docsite.
        skipped=r"Skipping (?!installation|yamllint for extra docs)",
    ),
    Check(
        "lint",
        "antsibull-docs",
        (
            "antsibull-docs",
            "lint-collection-docs",
            "--plugin-docs",
            "--check-extra-docs-refs",
            "--validate-collection-refs=all",
            COLLECTION,
        ),
    ),
    Check("lint", "antsibull-changelog", ("antsibull-changelog", "lint")),
    Check("lint", "shellcheck", own("shell")),
    Check("lint", "consistency", own("consistency")),
    Check("lint", "ruff check", ("ruff", "check", "--no-cache")),
    Check("lint", "ruff format", ("ruff", "format", "--no-cache", "--diff")),
)


@dataclass(frozen=True)
class Outcome:
    """How a check ended."""

    check: Check
    passed: bool
    seconds: float
    output: str


def run(check: Check) -> Outcome:
    """Run one check in the root of the checkout, with the pinned tools first on the path."""
    environment = {**os.environ, "PATH": f"{VENV_BIN}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1"}
    log = log_of(check)
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with log.open("wb") as stream:
        done = subprocess.run(
            check.command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, check=False
        )
    seconds = time.monotonic() - began
    written = log.read_text(encoding="utf-8", errors="replace")
    skipped = [text for text in written.splitlines() if check.skipped and re.search(check.skipped, text)]
    output = written + "".join(f"\nskipped, which counts as failed: {text}" for text in skipped)
    return Outcome(check, done.returncode == 0 and not skipped, seconds, output)


def log_of(check: Check) -> Path:
    """Return where a check writes what it does."""
    return BUILD / "log" / f"{check.name.replace(' ', '-')}.log"


def last_word(text: str) -> str:
    """Return the last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def line(outcome: Outcome) -> str:
    """Return the one line about a check: how it ended, how long it took, and its last word."""
    how = "ok    " if outcome.passed else "FAILED"
    return f"{how} {outcome.seconds:6.1f} s  {outcome.check.name:<20} {last_word(outcome.output):.90}".rstrip()


def main(groups: Sequence[str]) -> int:
    known = {check.group for check in CHECKS}
    if not groups or set(groups) - known:
        print(f"usage: run.py GROUP…, of {', '.join(sorted(known))}", file=sys.stderr)
        return 2
    wanted = [check for check in CHECKS if check.group in groups]
    failed = 0
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        began = time.monotonic()
        pending = {pool.submit(run, check): check for check in wanted}
        while pending:
            done, _pending = wait(pending, QUIET_SECONDS, FIRST_COMPLETED)
            for future, check in pending.items() if not done else ():
                if future.running():
                    word = last_word(log_of(check).read_text(encoding="utf-8", errors="replace"))
                    print(f"...    {time.monotonic() - began:6.1f} s  {check.name:<20} {word:.90}", flush=True)
            for future in done:
                del pending[future]
                outcome = future.result()
                print(line(outcome), flush=True)
                if not outcome.passed:
                    failed += 1
                    print(f"{outcome.output.rstrip()}\n", flush=True)
    print(f"{len(wanted) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
