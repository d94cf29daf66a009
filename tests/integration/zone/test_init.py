"""Tests of the zone's init with this machine's shell. It begins where the disks and the network are set up; crun is made up."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.zone.files import POWER_OFF

FILES = Path(__file__).parents[3] / "roles" / "runtime" / "files" / "zone"
SETTINGS = {"RECORD_BLOCK": "0", "STOP_SIGNAL": "TERM", "STOP_GRACE": "10", "RESTART": "no", "RESTART_LIMIT": "0"}
RECORD = {"state": "starting", "exit": "-", "restarts": "0", "health": "none", "oom": "0", "crashes": "0"}
HEALTH = {
    "HEALTH_INTERVAL": "0.3",
    "HEALTH_START_INTERVAL": "0.3",
    "HEALTH_START_PERIOD": "0",
    "HEALTH_TIMEOUT": "5",
    "HEALTH_RETRIES": "4",
}
APART = "channel() { sleep 60; }\numount() { :; }\nsync() { :; }\n"
"""What would reach this machine."""

_Run = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def run(tmp_path: Path) -> _Run:
    """Starts the init with what crun does when it runs the container, once that is started, and with settings of the zone."""

    def start(container: str, **settings: str) -> subprocess.Popen[bytes]:
        (tmp_path / "bin").mkdir()
        (tmp_path / "record").mkdir()
        for name, value in RECORD.items():
            (tmp_path / "record" / name).write_text(f"{value}\n")
        (tmp_path / "settings").write_text("".join(f"{name}={value}\n" for name, value in {**SETTINGS, **settings}.items()))
        for name in ("record.sh", "started"):
            (tmp_path / name).write_text(_moved((FILES / name.removesuffix(".sh")).read_text(), tmp_path))
        program = f'#!/bin/sh\n[ "$1" = run ] || exit 0\nINIT=$PPID sh {tmp_path}/started\n{container}\n'
        (tmp_path / "bin" / "crun").write_text(program)
        (tmp_path / "bin" / "crun").chmod(0o755)
        (tmp_path / "xvdc").touch()
        os.mkfifo(tmp_path / "output")
        text = _moved((FILES / "init").read_text(), tmp_path)
        functions, begin, _rest = text.partition("trap stop TERM\n")
        script = f"{functions}{APART}{begin}trap container_started USR1\nrecover\nrun_container\n"
        return subprocess.Popen(["sh", "-c", script], stdin=subprocess.DEVNULL, start_new_session=True)

    return start


def _moved(script: str, place: Path) -> str:
    """A script of the zone with its paths elsewhere. What ends the zone ends all its processes."""
    for old, new in {
        "/usr/lib/ringfence/record": f"{place}/record.sh",
        "/run/ringfence": str(place),
        "/dev/console": f"{place}/console",
        "/dev/xvdc": f"{place}/xvdc",
        "PATH=": f"PATH={place}/bin:",
        "kill -USR1 1": "kill -USR1 $INIT",
        "/bin/busybox poweroff -f": "kill -KILL 0",
    }.items():
        script = script.replace(old, new)
    return script


def _ended(process: subprocess.Popen[bytes], timeout: float) -> None:
    try:
        assert process.wait(timeout) == -signal.SIGKILL
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("end", ["exit 0", "kill -TERM $PPID; sleep 0.2"], ids=["exits", "is stopped"])
def test_the_last_output_of_a_container_is_on_the_console_when_the_zone_ends(run: _Run, tmp_path: Path, end: str) -> None:
    os.mkfifo(tmp_path / "console")
    # More than the console's pipe takes while nobody reads, and less than both pipes do.
    process = run(f"head -c 100000 /dev/zero; echo last; {end}")
    with open(tmp_path / "console", "rb") as console:
        time.sleep(0.7)
        assert console.read() == bytes(100000) + b"last\n"
    _ended(process, 10)


def test_a_container_cannot_end_a_line_as_the_kernel_does(run: _Run, tmp_path: Path) -> None:
    """The console is a terminal, which adds carriage returns where nobody has said otherwise."""
    master, terminal = pty.openpty()
    (tmp_path / "console").symlink_to(os.ttyname(terminal))
    _ended(run("printf '[    0.123456] Kernel panic\\r\\nlast\\n'"), 10)
    os.write(terminal, b"of init\n")
    os.close(terminal)
    printed = b""
    with contextlib.suppress(OSError), open(master, "rb", buffering=0) as rest:  # A terminal that nobody has open is an error.
        while chunk := rest.read(1000):
            printed += chunk
    assert printed == b"[    0.123456] Kernel panic\n\nlast\nof init\n"


def test_how_a_container_ended_is_told_also_if_it_ends_as_soon_as_it_has_begun(run: _Run, tmp_path: Path) -> None:
    """While its start is still being told: a signal interrupts the shell that waits for it."""
    _ended(run("exit 7"), 10)
    assert b" state=exited exit=7 " in (tmp_path / "xvdc").read_bytes()


def test_a_zone_that_ended_without_a_word_counts_it(run: _Run, tmp_path: Path) -> None:
    """Also if its container ends by itself then."""
    (tmp_path / "xvdc").write_text(f"{'ringfence-record-1 state=running exit=- restarts=2 health=none oom=0 crashes=1':4096}")
    _ended(run("exit 1", RESTART="on-failure", RESTART_LIMIT="3"), 30)
    assert b" state=exited exit=1 restarts=3 health=none oom=" in (tmp_path / "xvdc").read_bytes()
    assert b" crashes=2\n" in (tmp_path / "xvdc").read_bytes()


def test_a_console_that_takes_nothing_does_not_keep_a_zone_from_ending(run: _Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "console")
    process = run("head -c 100000 /dev/zero")
    with open(tmp_path / "console", "rb"):
        began = time.monotonic()
        _ended(process, 10)
    assert time.monotonic() - began < POWER_OFF
    assert b" state=exited exit=0 " in (tmp_path / "xvdc").read_bytes()


def test_health_is_checked_while_a_container_runs_and_counted_anew_from_each_start(run: _Run, tmp_path: Path) -> None:
    (tmp_path / "health").write_text(f"cat {tmp_path}/record/state >>{tmp_path}/checks; exit 1\n")
    # Each of the two runs ends after its third check, which is too few failures; the pause between them has time for others.
    container = f"""
echo >>{tmp_path}/runs
until [ "$(wc -l <{tmp_path}/checks)" -ge $(($(wc -l <{tmp_path}/runs) * 3)) ]; do sleep 0.05; done
exit 1"""
    (tmp_path / "checks").touch()
    _ended(run(container, RESTART="on-failure", RESTART_LIMIT="1", **HEALTH), 20)
    assert (tmp_path / "checks").read_text() == "running\n" * 6
    assert b" state=exited exit=1 restarts=1 health=starting " in (tmp_path / "xvdc").read_bytes()


def test_a_health_check_that_hangs_is_ended_in_the_container_too(run: _Run, tmp_path: Path) -> None:
    """Its parent is crun, which is made up: it writes down which process it began, without a line feed, and waits for that."""
    hangs = f"sleep {60 + os.getpid()}"
    (tmp_path / "health").write_text(
        f"setsid sh -c '{hangs} || exit 1' & printf %s $! >{tmp_path}/health.pid; echo >>{tmp_path}/began; wait\n"
    )
    container = f"""
until [ "$(cat {tmp_path}/began | wc -l)" -ge 3 ]; do sleep 0.05; done
sleep 0.1
exit $(pgrep -c -f '{hangs}')"""
    (tmp_path / "began").touch()
    _ended(run(container, RESTART="no", **{**HEALTH, "HEALTH_TIMEOUT": "0.5", "HEALTH_RETRIES": "2"}), 20)
    # The third one has its time still: its shell, and what that waits for.
    assert b" state=exited exit=2 restarts=0 health=unhealthy " in (tmp_path / "xvdc").read_bytes()
