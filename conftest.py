"""Every pytest run of the project: a test that skips, or is expected to fail, counts as failed."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

# Beside all else that is made.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", "build/cache/hypothesis")


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.outcome == "skipped":
        report.outcome = "failed"
        report.longrepr = f"skipped, which counts as failed: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip during a test into a failure."""
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a skip of a whole file into a failure."""
    report = yield
    _fail_if_skipped(report)
    return report
