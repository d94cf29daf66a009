"""Tests of the library's ``zone.channel``. Made-up programs stand for ssh and what it reaches: they run the command on this machine."""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.zone import channel
from ansible_collections.ringfence.zones.plugins.module_utils.zone.channel import Answer, execute

SSH = """
printf '%s\\n' "$@" >>"$CALLS"
for command; do :; done
exec sh -c "$command"
"""
CRUN = """
[ "$1 $2 $4" = "exec --cwd app" ] || exit 99
cd "$3" || exit 98
shift 4
exec "$@"
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that comes first on the path, with the made-up programs."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name, script in (("ssh", SSH), ("crun", CRUN), ("vchan-socket-proxy", "exit 99")):
        _program(directory / name, script)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setattr(channel, "_RETRY_PAUSE", 0.01)
    monkeypatch.setattr(channel, "_SETTINGS", str(tmp_path / "settings"))
    (tmp_path / "settings").write_text("WORKING_DIR='/usr/bin'\n")
    return directory


def _program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(0o755)


def _execute(*argv: str, **options: Any) -> Answer:
    return execute("web", 7, argv, **{"timeout": 30, **options})


@pytest.mark.usefixtures("programs")
def test_output_errors_and_exit_status_pass_through() -> None:
    assert _execute("sh", "-c", "echo out; echo error >&2; exit 3") == Answer(3, b"out\n", b"error\n", truncated=False)


@pytest.mark.usefixtures("programs")
def test_commands_begin_in_the_container_s_working_directory() -> None:
    assert _execute("pwd").stdout == b"/usr/bin\n"


@pytest.mark.usefixtures("programs")
def test_arguments_arrive_as_they_are() -> None:
    argv = ["", "a b", "it's", '"', "$HOME", "*", "\\", "-n", ";", "\n"]
    assert _execute("printf", "<%s>", *argv).stdout == "".join(f"<{argument}>" for argument in argv).encode()


@pytest.mark.usefixtures("programs")
def test_input_passes_through_and_ends() -> None:
    sent = bytes(range(256)) * 8192
    assert _execute("cat", stdin=sent, limit=len(sent)) == Answer(0, sent, b"", truncated=False)
    assert _execute("cat").stdout == b""


@pytest.mark.usefixtures("programs")
def test_a_command_need_not_read_its_input() -> None:
    assert _execute("true", stdin=bytes(1 << 20)).exit_status == 0


@pytest.mark.usefixtures("programs")
def test_no_byte_more_than_the_limit_is_kept_of_a_flood() -> None:
    answer = _execute("sh", "-c", "head -c 30000000 /dev/zero; head -c 30000000 /dev/zero >&2; exit 4", limit=1000)
    assert answer == Answer(4, bytes(1000), bytes(1000), truncated=True)


@pytest.mark.parametrize(("size", "truncated"), [(1000, False), (1001, True)])
@pytest.mark.parametrize("stream", [1, 2])
@pytest.mark.usefixtures("programs")
def test_what_is_cut_off_is_told(size: int, truncated: bool, stream: int) -> None:
    answer = _execute("sh", "-c", f"head -c {size} /dev/zero >&{stream}", limit=1000)
    assert answer.truncated is truncated
    assert (answer.stdout, answer.stderr)[stream - 1] == bytes(1000)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("sleep 60", id="sleeps"),
        pytest.param("yes", id="prints"),
        pytest.param("head -c 4096 >/dev/null; sleep 60", id="reads a part of its input"),
        pytest.param("exec >&- 2>&-; sleep 60", id="closes its streams"),
        pytest.param("trap '' TERM HUP INT PIPE; sleep 60", id="ignores signals"),
    ],
)
@pytest.mark.usefixtures("programs")
def test_a_command_that_does_not_end_is_given_up(script: str) -> None:
    began = time.monotonic()
    with pytest.raises(RingfenceError, match=r"^zone web: sh did not end in time, and was given up; it may still run there$"):
        _execute("sh", "-c", script.replace("sleep", "exec sleep"), stdin=bytes(1 << 20), timeout=2)
    assert time.monotonic() - began < 10


def test_the_proxy_of_a_command_that_is_given_up_ends_with_it(programs: Path, tmp_path: Path) -> None:
    held = tmp_path / "held"
    os.mkfifo(held)
    _program(programs / "ssh", f"sh -c 'echo proxy; exec sleep 60' </dev/null >{held} 2>&1 &\nprintf +\nwait")
    reader = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(RingfenceError, match="was given up"):
            _execute("true", timeout=2)
        assert os.read(reader, 100) == b"proxy\n"
        os.set_blocking(reader, True)
        assert select.select([reader], [], [], 5)[0], "the proxy is still there"
        assert os.read(reader, 100) == b""
    finally:
        os.close(reader)


@pytest.mark.usefixtures("programs")
def test_the_zone_is_reached_by_its_number_and_nothing_of_the_users_ssh_is_used(tmp_path: Path) -> None:
    _execute("true")
    words = (tmp_path / "calls").read_text().splitlines()
    options = {words[index + 1] for index, word in enumerate(words) if word == "-o"}
    assert f"ProxyCommand={tmp_path}/bin/vchan-socket-proxy --mode=client 7 /local/domain/7/data/vchan -" in options
    assert {"BatchMode=yes", "PreferredAuthentications=none", "UserKnownHostsFile=/dev/null"} <= options
    assert {"ServerAliveInterval=15", "ServerAliveCountMax=4"} <= options
    assert words[words.index("-F") + 1] == "none"


def test_an_exit_status_of_255_is_the_commands_and_it_runs_once(programs: Path, tmp_path: Path) -> None:
    assert programs.is_dir()
    ran = tmp_path / "ran"
    assert _execute("sh", "-c", f"echo >>{ran}; exit 255").exit_status == 255
    assert ran.read_text() == "\n"


def test_a_zone_that_does_not_answer_yet_is_tried_again(programs: Path, tmp_path: Path) -> None:
    _program(programs / "ssh", f"[ -e {tmp_path}/up ] || {{ touch {tmp_path}/up; echo closed >&2; exit 255; }}\n{SSH}")
    assert _execute("echo", "up").stdout == b"up\n"


def test_a_zone_that_never_answers_is_told_with_the_last_message(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "_RETRY_PAUSE", 60)  # More than there is left.
    _program(programs / "ssh", "head -c 5000 /dev/zero >&2; printf '\\377\\033[31m closed\\n' >&2; exit 255")
    with pytest.raises(RingfenceError) as caught:
        _execute("true", timeout=30)
    assert str(caught.value).startswith("zone web: its channel did not answer within 30 s: ")
    assert str(caught.value).endswith(r"\ufffd\x1b[31m closed")  # No escape sequence reaches a terminal.
    assert len(str(caught.value)) < 1000


def test_a_zone_that_hangs_is_not_taken_for_a_command_that_does(programs: Path) -> None:
    _program(programs / "ssh", "echo connecting >&2; exec sleep 60")
    with pytest.raises(RingfenceError, match=r"^zone web: its channel did not answer within 2 s: connecting$"):
        _execute("true", timeout=2)


def test_a_channel_in_use_is_given_up_in_time_to_be_tried_again(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for it is not woken when it is free. Here with the real ssh."""
    (programs / "ssh").unlink()
    _program(programs / "vchan-socket-proxy", "exec sleep 60")
    monkeypatch.setattr(channel, "_CONNECT_TIMEOUT", 1)
    monkeypatch.setattr(channel, "_RETRY_PAUSE", 60)  # More than there is left.
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # As below nohup.
    began = time.monotonic()
    try:
        with pytest.raises(RingfenceError, match=r"^zone web: its channel did not answer within 50 s: "):
            _execute("true", timeout=50)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert time.monotonic() - began < 40
    with pytest.raises(RingfenceError, match=r"^zone web: its channel does not answer, or serves another command; try again$"):
        channel.attach("web", 7, ["true"], stdin=False, tty=False)


def test_a_missing_program_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(channel, "Path", lambda _path: tmp_path)
    with pytest.raises(RingfenceError, match=r"vchan-socket-proxy is not installed on this host \(package xen-utils\)"):
        _execute("true")


@pytest.mark.usefixtures("programs")
def test_the_proxy_of_the_newest_xen_is_taken_before_what_is_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for release in ("4.17", "4.20"):
        path = tmp_path / f"xen-{release}" / "bin"
        path.mkdir(parents=True)
        _program(path / "vchan-socket-proxy", "")
    monkeypatch.setattr(channel, "Path", lambda _path: tmp_path)
    assert channel.proxy(7)[0] == str(tmp_path / "xen-4.20" / "bin" / "vchan-socket-proxy")


def test_the_hosts_of_a_running_zone_are_written_into_its_file(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is mounted into the container, so another one in its place would not be seen there."""
    hosts = tmp_path / "hosts"
    hosts.write_text("198.18.0.9\told\n" * 100)
    before = hosts.stat().st_ino
    monkeypatch.setattr(channel, "_HOSTS", str(hosts))
    channel.write_hosts("web", 7, "198.18.0.1\tweb\n", timeout=30)
    assert (hosts.read_text(), hosts.stat().st_ino) == ("198.18.0.1\tweb\n", before)
    hosts.unlink()
    hosts.mkdir()
    with pytest.raises(RingfenceError, match=r"^zone web: its /etc/hosts cannot be written: .*[Dd]irectory"):
        channel.write_hosts("web", 7, "", timeout=30)
    _program(programs / "ssh", "exit 255")
    with pytest.raises(RingfenceError, match=r"^zone web: its channel did not answer within 2 s: no message$"):
        channel.write_hosts("web", 7, "", timeout=2)
