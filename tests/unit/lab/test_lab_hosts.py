"""Hosts of a run directory: names, state, ports, and whose process is ended."""

from __future__ import annotations

import io
import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringfence_lab import cli, hosts, ports, processes
from ringfence_lab.errors import LabError
from ringfence_lab.hosts import Config, Host, find_host, last_line, new_machine
from ringfence_lab.progress import Progress
from ringfence_lab.qemu import Forward
from ringfence_lab.ssh import Ssh


@pytest.fixture(name="run")
def run_fixture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty run directory that the command line uses."""
    monkeypatch.setenv("RINGFENCE_LAB_RUN", str(tmp_path / "run"))
    monkeypatch.setenv("RINGFENCE_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "run"


def make_host(run: Path, name: str = "web", forwards: tuple[Forward, ...] = (Forward(2222, 22),)) -> Host:
    """A host that is off and has no disk."""
    host = Host(run / name)
    host.directory.mkdir(parents=True)
    machine = new_machine(name, 1024, 1, forwards, network=True, virtualization=True)
    (host.directory / "host.json").write_text("{}")
    host._write(Config(machine=machine, image="/cache/debian13-0123.raw", key="/cache/id"))
    return host


def start_sleeper(word: str) -> subprocess.Popen[bytes]:
    """A process that has ``word`` among its arguments by now."""
    script = "import time; print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script, word], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
    return process


@pytest.fixture(name="sleeper")
def sleeper_fixture() -> Iterator[subprocess.Popen[bytes]]:
    """A process that carries the word ``the-uuid`` as an argument."""
    process = start_sleeper("the-uuid")
    yield process
    process.kill()
    process.wait()


def test_what_is_kept_of_a_host_is_read_back(run: Path) -> None:
    host = make_host(run, forwards=(Forward(2222, 22), Forward(8080, 80)))
    assert host.config.machine.forwards == (Forward(2222, 22), Forward(8080, 80))
    assert host.ssh.port == 2222


def test_a_process_is_ended_only_when_it_is_the_one_that_was_started(sleeper: subprocess.Popen[bytes]) -> None:
    processes.kill(sleeper.pid, "another-uuid")
    assert sleeper.poll() is None
    assert not processes.wait_end(sleeper.pid, "the-uuid", 0.1)
    processes.kill(sleeper.pid, "the-uuid")
    assert sleeper.wait(10) != 0
    processes.kill(sleeper.pid, "the-uuid")
    assert processes.wait_end(sleeper.pid, "the-uuid", 0.1)


def test_a_stale_pid_file_of_another_process_does_not_make_a_host_run(run: Path, sleeper: subprocess.Popen[bytes]) -> None:
    host = make_host(run)
    (host.directory / "qemu.pid").write_text(f"{sleeper.pid}\n")
    assert not host.running
    host.cut_power()
    assert sleeper.poll() is None
    assert not (host.directory / "qemu.pid").exists()


def test_a_process_with_the_hosts_identity_makes_it_run_and_ends_with_it(run: Path) -> None:
    host = make_host(run)
    process = start_sleeper(host.config.machine.uuid)
    (host.directory / "qemu.pid").write_text(str(process.pid))
    assert host.running
    host.destroy()
    assert process.wait(10) != 0
    assert not host.directory.exists()


@pytest.mark.parametrize("content", ["", "no number", "-1"])
def test_a_broken_pid_file_names_no_running_host(run: Path, content: str) -> None:
    host = make_host(run)
    (host.directory / "qemu.pid").write_text(content)
    assert not host.running


@pytest.mark.parametrize("name", ["", "Web", "a_b", "-a", "a-", "../x", "a" * 41])
def test_a_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LabError, match="cannot name a host"):
        find_host(tmp_path, name)


def test_a_pid_file_never_names_a_process_group(tmp_path: Path) -> None:
    (tmp_path / "pid").write_text("-1")
    assert processes.read_pid(tmp_path / "pid") is None
    (tmp_path / "pid").write_text("17\n")
    assert processes.read_pid(tmp_path / "pid") == 17


def test_a_preferred_port_is_kept_while_it_is_free() -> None:
    with socket.socket() as taken:
        taken.bind((ports.LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert ports.choose(port) != port
        with pytest.raises(LabError, match=f"port {port} of 127.0.0.1 cannot be used"):
            ports.require_free(port)
    assert ports.choose(port) == port
    ports.require_free(port)


def test_a_forward_that_is_in_use_is_refused_before_anything_is_made(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind((ports.LOOPBACK, 0))
        taken.listen()
        assert cli.main(["up", "web", "--forward", f"{taken.getsockname()[1]}:80"]) == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert "give --forward another port" in error[0]
    assert not (run / "web").exists()


@pytest.mark.parametrize("forward", ["80", "0:80", "80:65536", "a:b", "2222:22"])
def test_a_bad_forward_is_refused(forward: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parser().parse_args(["up", "web", "--forward", forward])
    assert "argument --forward" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ssh", "web", "true"], "no host named web"),
        (["snapshot", "web", "tag"], "no host named web"),
        (["inventory", "web"], "no host named web"),
        (["destroy"], "host names or --all"),
        (["up", "web", "--image", "/nowhere.qcow2"], "/nowhere.qcow2: no such image file"),
    ],
)
def test_each_mistake_is_one_line(run: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert words in error[0]
    assert not (run / "web").exists()


def test_what_needs_a_running_host_says_how_to_start_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_host(run)
    for arguments in (["ssh", "web", "true"], ["snapshot", "web", "tag"], ["reset", "web"]):
        assert cli.main(arguments) == 1
        assert capsys.readouterr().err == "lab: web is not running; start it with: up web\n"


def test_a_host_keeps_the_image_that_it_was_made_from(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_host(run)
    assert cli.main(["up", "web", "--suite", "debian12"]) == 1
    assert "was made from /cache/debian13-0123.raw, not debian12" in capsys.readouterr().err


def test_the_list_shows_hosts_that_are_off(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_host(run, forwards=(Forward(2222, 22), Forward(8080, 80)))
    assert cli.main(["list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["state"], row["ssh_port"]) == ("web", "stopped", 2222)
    assert row["forwards"] == [{"host_port": 8080, "guest_port": 80}]


class Monitor:
    """A QEMU whose CPU is busy for some answers."""

    def __init__(self, busy: int) -> None:
        self.busy = busy
        self.told: list[str] = []

    def execute(self, command: str, arguments: dict[str, str] | None = None) -> str:
        """Answer with the registers of two CPUs."""
        self.told.append(command)
        if not arguments:
            return ""
        self.busy -= 1
        return f"CPU#0\nCPL=0 HLT=1\nCPU#1\nCPL=3 HLT={int(self.busy < 0)}\n"


def test_a_host_is_stopped_for_a_snapshot_while_all_its_cpus_are_halted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "_IDLE_PAUSE", 0)
    monitor = Monitor(busy=2)
    make_host(run)._stop_when_idle(monitor)  # type: ignore[arg-type]
    assert [command for command in monitor.told if command != "human-monitor-command"] == ["stop", "cont", "stop", "cont", "stop"]
    with pytest.raises(LabError, match="db is never idle"):
        make_host(run, "db")._stop_when_idle(Monitor(busy=10**6))  # type: ignore[arg-type]


def test_destroying_all_leaves_no_host(run: Path) -> None:
    make_host(run)
    make_host(run, "db", (Forward(2223, 22),))
    assert cli.main(["destroy", "--all"]) == 0
    assert hosts.all_hosts(run) == []


def test_the_inventory_holds_what_ansible_needs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_host(run)
    assert cli.main(["inventory", "web"]) == 0
    variables = json.loads(capsys.readouterr().out)["all"]["hosts"]["web"]
    assert (variables["ansible_host"], variables["ansible_port"], variables["ansible_user"]) == ("127.0.0.1", 2222, "root")
    assert variables["ansible_ssh_private_key_file"] == "/cache/id"
    assert f"UserKnownHostsFile={run}/web/known_hosts" in variables["ansible_ssh_common_args"]


def test_options_with_blanks_survive_ansible(tmp_path: Path) -> None:
    ssh = Ssh(22, Path("/key"), tmp_path / "a b" / "known_hosts")
    assert shlex.split(str(ssh.inventory()["ansible_ssh_common_args"])) == ssh.options()


def test_a_silent_port_is_no_ssh_server() -> None:
    with socket.socket() as silent:
        silent.bind((ports.LOOPBACK, 0))
        silent.listen()
        assert not Ssh(silent.getsockname()[1], Path("/key"), Path("/hosts")).server_speaks(0.2)


def test_the_console_is_shown_without_control_sequences() -> None:
    assert last_line("first\r\n\x1b[0;32m  OK  \x1b[0m Started \x1b[1mssh\x1b[0m\r\n\r\n") == "OK   Started ssh"
    assert last_line("") == "nothing yet"
    assert len(last_line("x" * 500)) == 100


def test_progress_says_how_long_it_takes() -> None:
    stream = io.StringIO()
    Progress("web", stream).say("starting")
    assert stream.getvalue() == "[   0 s] web: starting\n"


def test_the_image_of_the_cache_may_go_while_a_host_lives(tmp_path: Path) -> None:
    image = tmp_path / "image.raw"
    image.write_text("content")
    link = hosts._link_or_copy(image, tmp_path / "base.raw")
    assert os.stat(link).st_ino == os.stat(image).st_ino
    image.unlink()
    assert link.read_text() == "content"


def test_a_host_with_snapshots_keeps_the_machine_that_they_need(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = make_host(run)
    monkeypatch.setattr(Host, "snapshots", lambda _host: ["converged"])
    assert cli.main(["up", "web", "--cpus", "2"]) == 1
    assert "web has snapshots (converged), which need its 1024 MiB and 1 CPUs" in capsys.readouterr().err
    assert host.config.machine.cpus == 1
