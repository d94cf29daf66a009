"""Tests of ``stop-zones``. A made-up ``xl`` has a file for each domain that runs; a made-up ``timeout`` tells the order."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).parents[3] / "roles" / "runtime" / "files" / "stop-zones"

_XL = """
echo "$*" >>"$WORK/calls"
case $1 in
list) echo "Name ID Mem"; echo "Domain-0 0 512"; for zone in "$WORK"/running/*; do [ ! -e "$zone" ] || echo "${zone##*/} 1 64"; done ;;
shutdown) [ "$(cat "$WORK/running/$2")" = deaf ] || rm "$WORK/running/$2" ;;
destroy) rm "$WORK/running/$2" ;;
esac
"""


class Host:
    """What runs on it, and what was done."""

    def __init__(self, work: Path) -> None:
        self.work = work
        for name in ("bin", "running", "zones"):
            (work / name).mkdir()
        self._program("xl", _XL)
        self._program("systemd-notify", 'echo "notify $*" >>"$WORK/calls"')
        self.order()

    def _program(self, name: str, script: str) -> None:
        path = self.work / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def order(self, *lines: str, status: int = 0) -> None:
        """Let libvirt tell this order of the zones, or fail."""
        told = "\n".join(lines)
        self._program("timeout", f"[ -z '{told}' ] || echo '{told}'\nexit {status}")

    def run(self, name: str, *, zone: bool = True, deaf: bool = False) -> None:
        """Let a domain run."""
        (self.work / "running" / name).write_text("deaf" if deaf else "")
        if zone:
            (self.work / "zones" / name).mkdir()

    def stop(self) -> list[str]:
        """Run the script, and return what it did."""
        environment = {"PATH": f"{self.work}/bin{os.pathsep}{os.environ['PATH']}", "WORK": str(self.work)}
        subprocess.run(["sh", _SCRIPT, self.work / "zones"], env=environment, check=True, timeout=60, capture_output=True)
        return [line for line in (self.work / "calls").read_text().splitlines() if line != "list"]

    @property
    def running(self) -> set[str]:
        return {path.name for path in (self.work / "running").iterdir()}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_zones_end_group_by_group_each_with_its_time(host: Host) -> None:
    for name in ("web", "api", "db"):
        host.run(name)
    host.run("foreign", zone=False)
    host.order("15 api web", "305 db")
    assert host.stop() == [
        "notify EXTEND_TIMEOUT_USEC=78000000",
        "shutdown api",
        "shutdown web",
        "notify EXTEND_TIMEOUT_USEC=367000000",
        "shutdown db",
    ]
    assert host.running == {"foreign"}


def test_a_zone_that_does_not_end_in_its_time_is_destroyed_and_those_after_it_are_asked(host: Host) -> None:
    host.run("web", deaf=True)
    host.run("db")
    host.order("1 web", "10 db")
    calls = host.stop()
    assert [call for call in calls if not call.startswith("notify")] == ["shutdown web", "destroy web", "shutdown db"]
    assert host.running == set()


def test_without_libvirt_all_zones_end_side_by_side(host: Host) -> None:
    for name in ("db", "web"):
        host.run(name)
    host.order("5 web", status=124)
    assert host.stop() == ["notify EXTEND_TIMEOUT_USEC=123000000", "shutdown db", "shutdown web"]
    assert host.running == set()


def test_nothing_is_asked_where_no_zone_runs(host: Host) -> None:
    host.run("foreign", zone=False)
    assert host.stop() == []
    assert host.running == {"foreign"}
