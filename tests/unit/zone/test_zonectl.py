"""Tests of the command ``zonectl`` on a made-up host."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import made_up_host
import pytest
from made_up_host import Host, digest, reference

from ansible_collections.ringfence.zones.plugins.module_utils.errors import printable
from ansible_collections.ringfence.zones.plugins.module_utils.zone import channel, zonectl
from ansible_collections.ringfence.zones.plugins.module_utils.zone.zonectl import table


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host with the zone web, which zonectl finds."""
    made = made_up_host.make(tmp_path / "store", monkeypatch)
    made.publish("1")
    monkeypatch.setattr(zonectl, "Hypervisor", lambda: made.hypervisor)
    monkeypatch.setattr(zonectl, "ROOT", made.store.root)
    monkeypatch.setattr(zonectl, "console_log", lambda name: tmp_path / f"guest-{name}.log")
    made.converge({"name": "web", "image": reference("1"), "ports": ["8080:80"], "restart": "always"})
    made.hypervisor.calls.clear()
    return made


def test_zones_are_listed_in_columns(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.hypervisor.domains
    assert zonectl.main(["list"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["NAME", "STATE", "HEALTH", "RESTARTS"]
    assert row.split()[:8] == ["web", "running", "none", "0", "pvh", "128", "198.18.0.1", "8080:80/tcp"]
    assert head.index("ADDRESS") == row.index("198.18.0.1")


def test_of_digests_alone_the_list_has_only_the_beginning(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    name = "a-zone-with-many-letters"
    host.converge({"name": name, "image": reference("1")})
    assert zonectl.main(["list"]) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row[0] == name
    assert row[-1] == digest("1")[:19]


def test_zones_are_listed_for_programs(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.hypervisor.domains
    assert zonectl.main(["list", "--json"]) == 0
    assert [zone["name"] for zone in json.loads(capsys.readouterr().out)] == ["web"]
    assert zonectl.main(["inspect", "web"]) == 0
    assert json.loads(capsys.readouterr().out)["restart"] == "always"


@pytest.mark.parametrize("command", [["inspect", "wbe"], ["logs", "wbe"], ["start", "wbe"], ["stop", "wbe"]])
def test_a_zone_that_there_is_not_is_told(host: Host, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert zonectl.main(command) == 1
    assert capsys.readouterr().err == "zonectl: zone wbe: not on this host; its zones are: web\n"
    assert host.hypervisor.calls == []


def test_zones_are_stopped_and_started(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert zonectl.main(["restart", "web"]) == 0
    assert host.hypervisor.calls == ["stop web", "start web"]
    assert zonectl.main(["start", "web"]) == 1
    assert "zone web: it runs" in capsys.readouterr().err


@pytest.mark.parametrize(("restart", "stopped", "started"), [("unless-stopped", False, True), ("always", True, True), ("no", False, False)])
def test_a_zone_stopped_by_hand_stays_so_over_boots_if_declared(host: Host, restart: str, stopped: bool, started: bool) -> None:
    host.converge({"name": "web", "image": reference("1"), "restart": restart})
    assert zonectl.main(["stop", "web"]) == 0
    assert host.hypervisor.domains["web"].autostart is stopped
    assert zonectl.main(["start", "web"]) == 0
    assert host.hypervisor.domains["web"].autostart is started


def test_a_restart_that_is_killed_in_between_is_no_stop(host: Host) -> None:
    host.converge({"name": "web", "image": reference("1"), "restart": "unless-stopped"})
    host.hypervisor.unstartable.add("web")
    assert zonectl.main(["restart", "web"]) == 1
    assert host.hypervisor.domains["web"].autostart


@pytest.mark.parametrize(
    ("arguments", "argv", "stdin", "tty"),
    [
        (["web", "--", "ps", "-a"], ["ps", "-a"], False, False),
        (["web", "ps"], ["ps"], False, False),
        (["-i", "web", "--", "cat"], ["cat"], True, False),
        (["-it", "web", "--", "sh"], ["sh"], True, True),
    ],
)
def test_a_command_runs_in_the_container(
    host: Host, monkeypatch: pytest.MonkeyPatch, arguments: list[str], argv: list[str], stdin: bool, tty: bool
) -> None:
    def attach(zone: str, domain_id: int, argv: Sequence[str], **streams: Any) -> int:
        found.append((zone, domain_id, list(argv), streams))
        return 42

    found: list[Any] = []
    monkeypatch.setattr(channel, "attach", attach)
    monkeypatch.setattr(host.hypervisor, "zone_domain_id", lambda _zone: 7, raising=False)
    assert zonectl.main(["exec", *arguments]) == 42
    assert found == [("web", 7, argv, {"stdin": stdin, "tty": tty})]


def test_a_command_has_to_be_named(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.hypervisor.domains
    with pytest.raises(SystemExit) as ended:
        zonectl.main(["exec", "web"])
    assert ended.value.code == 2
    assert "zonectl exec: error: name a command" in capsys.readouterr().err


def test_what_the_zones_use_is_shown(host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    used = iter([{"web": 10.0}, {"web": 11.0}])
    clock = iter([100.0, 102.0])
    monkeypatch.setattr(host.hypervisor, "cpu_seconds", lambda: next(used), raising=False)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    assert zonectl.main(["top", "--once"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["web", "running", "50.0", "128", "1"]


def test_logs_cannot_reach_the_terminal(host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.hypervisor.domains
    assert zonectl.main(["logs", "web"]) == 1
    assert "there is no log yet at" in capsys.readouterr().err
    (tmp_path / "guest-web.log").write_bytes(b"one\ntwo \x1b[2J\x07\r\nthree \xff\xe2\x80\xae\n")
    assert zonectl.main(["logs", "-n", "2", "web"]) == 0
    assert capsys.readouterr().out == "two \\x1b[2J\\x07\nthree \ufffd\\u202e\n"


def test_logs_are_shown_on_a_terminal_of_another_character_set(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host.hypervisor.domains
    (tmp_path / "guest-web.log").write_text("caf\u00e9 \u2713\n", encoding="utf-8")
    shown = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(shown, encoding="latin-1"))
    assert zonectl.main(["logs", "web"]) == 0
    assert shown.getvalue() == b"caf\xe9 \\u2713\n"


@pytest.mark.parametrize(("option", "shown"), [([], "ko[rcu"), (["-k"], "kr"), (["--container"], "o[cu")])
def test_lines_of_kernel_and_container_are_shown_apart(
    host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str], shown: str
) -> None:
    assert host.hypervisor.domains
    (tmp_path / "guest-web.log").write_bytes(b"[    0.123456] k\r\no\n[    0.123456] [\nringfence: init: r\r\nc\nu")
    assert zonectl.main(["logs", *option, "web"]) == 0
    assert "".join(line[-1] for line in capsys.readouterr().out.splitlines()) == shown


def test_a_table_has_no_control_characters() -> None:
    assert table([["A", "B"], ["x\x1b", "y"]]) == "A      B\nx\\x1b  y"
    assert printable("zone\u202e é") == "zone\\u202e é"
