"""A host that converges itself: nobody has logged in to it but to hand it over, and to commit."""

from __future__ import annotations

from live import Live

_RESULT = """
until [ "$(systemctl show --property=ActiveState --value ringfence-pull)" != active ]; do sleep 1; done
systemctl show --property=Result --value ringfence-pull
"""
"""Waits for the end of the run that is under way, and prints how it ended."""

_COMMIT = """
cd /srv/site
sed -i '{edit}' inventory/group_vars/all.yml
git commit --quiet --all --message {message}
git push --quiet origin HEAD
systemctl start ringfence-pull
"""


def _commit(live: Live, message: str, edit: str) -> str:
    """How the run ends that converges a commit."""
    live.run("systemctl stop ringfence-pull.timer")
    return live.run(_COMMIT.format(edit=edit, message=message) + _RESULT).strip()


def test_xen_was_confirmed_and_the_zone_runs(live: Live) -> None:
    assert live.page_from_outside() == "page of web"
    assert live.run(_RESULT) == "success\n"
    facts = live.facts()
    assert (facts["next_entry"], facts["trial"], facts["failed_units"]) == ("", [], [])


def test_a_commit_without_a_change_changes_nothing(live: Live) -> None:
    before = live.facts()["domains"]
    assert _commit(live, "comment", "1i # nothing") == "success"
    assert "changed=0 " in live.run("journalctl --unit ringfence-pull --no-pager --lines 30")
    assert live.facts()["domains"] == before


def test_a_commit_changes_the_host(live: Live) -> None:
    assert _commit(live, "page", "s/page of web/page of a commit/") == "success"
    assert live.page_from_outside() == "page of a commit"


def test_a_commit_that_is_wrong_changes_nothing_and_says_why(live: Live) -> None:
    before = live.facts()["domains"]
    assert _commit(live, "wrong", "s/ports:/prots:/") == "exit-code"
    assert "zone web: unknown field prots; did you mean ports?" in live.run("journalctl --unit ringfence-pull --no-pager --lines 60")
    assert live.facts()["domains"] == before
    assert live.page_from_outside() == "page of a commit"
