"""The check program sanity: it believes what was run, not the exit code."""

from __future__ import annotations

from sanity import not_run

LISTED = "compile\nshellcheck\n"
RAN = 'Running sanity test "compile" on Python 3.11\nRunning sanity test "shellcheck"\n'


def test_complete_run_has_no_problem() -> None:
    assert not_run(LISTED, RAN) == []


def test_listed_test_that_did_not_run_is_reported() -> None:
    assert not_run(LISTED, 'Running sanity test "compile" on Python 3.11\n') == ["did not run: shellcheck"]


def test_skipped_test_is_reported() -> None:
    warning = 'WARNING: Required program "shellcheck" not found.'
    review = "WARNING: Reviewing previous 2 warning(s):"
    assert not_run(LISTED, RAN + f"{warning}\n{review}\n") == [warning]


def test_warning_about_the_locale_is_no_problem() -> None:
    assert not_run(LISTED, 'WARNING: Using locale "C.UTF-8" instead of "en_US.UTF-8".\n' + RAN) == []


def test_run_without_targets_is_reported() -> None:
    assert not_run(LISTED, "WARNING: All targets skipped.\n") == [
        "did not run: compile",
        "did not run: shellcheck",
        "WARNING: All targets skipped.",
    ]


def test_empty_list_of_tests_is_reported() -> None:
    assert not_run("", RAN) == ["ansible-test listed no test"]
