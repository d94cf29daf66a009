"""After check mode on a bare host: it said what it would change, and changed nothing."""

from __future__ import annotations

from live import Live

_OTHERS = ("/run", "/tmp*", "/var/tmp*", "/root/.ansible*", "/var/log/*", "/var/lib/systemd/*", "/var/cache/apt*", "*/__pycache__/*")
"""Other file systems, logs, and what systemd, Ansible, Python and apt keep for themselves whenever they run."""


def test_changes_were_predicted(live: Live) -> None:
    (check,) = live.converges()
    assert (check["failed"], check["changed"] > 0) == (0, True), check


def test_nothing_was_changed(live: Live) -> None:
    """No file and no directory is newer than the mark of prepare.yml, but a control."""
    others = "".join(f" -not -path '{path}'" for path in _OTHERS)
    found = live.run(f"touch /opt/control; find / -xdev -cnewer /root/prepared {others}; rm /opt/control")
    assert sorted(found.split()) == ["/opt", "/opt/control"]
