"""Tests of the modules ``zones`` and ``zone_exec``: what they return, on a made-up host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import made_up_host
import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from made_up_host import Host, digest, reference

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.zone import channel
from ansible_collections.ringfence.zones.plugins.module_utils.zone.channel import Answer
from ansible_collections.ringfence.zones.plugins.modules import zone_exec, zones


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host with the image 1 in its registry."""
    made = made_up_host.make(tmp_path / "store", monkeypatch)
    made.publish("1")
    return made


EVERY_FIELD: dict[str, Any] = {
    "entrypoint": ["/bin/sh"],
    "command": ["-c", "true"],
    "environment": {"A": "1"},
    "ports": ["8080:80"],
    "user": "0",
    "working_dir": "/srv",
    "hostname": "www",
    "labels": {"site": "north"},
    "read_only": True,
    "cap_add": ["NET_ADMIN"],
    "cap_drop": ["CHOWN"],
    "tmpfs": ["/run"],
    "ulimits": {"core": 0},
    "sysctls": {"net.core.somaxconn": 1024},
    "stop_signal": "SIGINT",
    "stop_grace_period": "1m",
    "dns": "192.0.2.53",
    "extra_hosts": ["db=192.0.2.1"],
    "volumes": ["data:/srv"],
    "healthcheck": {"test": "true"},
    "depends_on": ["db"],
    "secrets": ["password"],
    "devices": ["/dev/kmsg"],
    "networks": {"egress": [{"to": "192.0.2.0/24"}], "ingress": [{"from": "db"}]},
}


LETS_IT_IN = {"name": "db", "image": reference("1"), "networks": {"ingress": [{"from": "web"}]}}


def _run(module: Any, capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    """What a module returns for arguments."""
    with patch_module_args(arguments), pytest.raises(SystemExit) as ended:
        module.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert bool(ended.value.code) is result.get("failed", False)
    return result


def _zones(host: Host, capsys: pytest.CaptureFixture[str], *declared: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    return _run(zones, capsys, zones=list(declared), store=str(host.store.root), **arguments)


def _zone(**fields: Any) -> dict[str, Any]:
    return {"name": "web", "image": reference("1"), **fields}


def test_what_is_returned_is_what_is_documented(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    documented = yaml.safe_load(zones.RETURN)
    result = _zones(host, capsys, _zone(**EVERY_FIELD), LETS_IT_IN, volumes={"data": {"size": "16MiB"}}, secrets={"password": "x"})
    assert result["changed"] is True
    assert set(result) - {"changed", "invocation"} == set(documented)
    assert set(result["zones"][1]) == set(documented["zones"]["contains"])
    assert set(result["volumes"][0]) == set(documented["volumes"]["contains"])
    always = {name for name, value in documented["zones"]["contains"].items() if "returned" not in value}
    assert set(_zones(host, capsys, {"name": "other", "image": reference("1")})["zones"][0]) == always


def test_check_mode_changes_nothing(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    result = _zones(host, capsys, _zone(), _ansible_check_mode=True)
    assert (result["changed"], result["zones"][0]["action"]) == (True, "create")
    assert host.hypervisor.calls == []


def test_check_mode_takes_what_other_modules_have_planned(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "name": "next",
        "image": "registry.example/next",
        "digest": None,
        "release": None,
        "modes": None,
        "default": False,
        "changed": True,
    }
    planned = {"runtime": None, "kernels": [row]}
    result = _zones(host, capsys, _zone(kernel="next"), planned=planned, _ansible_check_mode=True)
    assert (result["changed"], result["zones"][0]["action"]) == (True, "create")
    assert _zones(host, capsys, _zone(kernel="next"), planned=planned)["failed"]


def test_a_difference_shows_no_value_of_a_variable(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    _zones(host, capsys, _zone(environment={"A": "first-secret"}))
    result = _zones(host, capsys, _zone(environment={"A": "second-secret"}, memory="256MiB"), _ansible_diff=True)
    _plan, fields = result["diff"]
    before, after = fields["before"]["web"], fields["after"]["web"]
    assert (before["memory"], after["memory"]) == (128, 256)
    assert before["environment"] == after["environment"] == ["A"]
    del result["invocation"]
    assert "secret" not in json.dumps(result)


@pytest.mark.parametrize("declared", [{"state": "absent", "name": "web"}, _zone()])
def test_a_difference_shows_what_comes_and_goes(host: Host, capsys: pytest.CaptureFixture[str], declared: dict[str, Any]) -> None:
    comes = declared.get("state") != "absent"
    if not comes:
        _zones(host, capsys, _zone())
    _plan, difference = _zones(host, capsys, declared, _ansible_diff=True)["diff"]
    present, gone = (difference["after"], difference["before"]) if comes else (difference["before"], difference["after"])
    assert present["web"]["image"] == digest("1")
    assert gone == {"web": None}


def test_a_difference_begins_with_the_plan(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where no field of a zone differs."""
    _zones(host, capsys, _zone(secrets=["password"]), secrets={"password": "first"})
    plan, fields = _zones(host, capsys, _zone(secrets=["password"]), secrets={"password": "second"}, _ansible_diff=True)["diff"]
    assert plan == {"prepared": "web: restart: secret password has changed\n"}
    assert fields["before"] == fields["after"]


def test_a_bad_declaration_fails_and_changes_nothing(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    result = _zones(host, capsys, _zone(memry="1GiB"))
    assert result["failed"] is True
    assert result["msg"] == "zone web: unknown field memry; did you mean memory?"
    assert (result["zones"], result["undeclared"]) == ([], [])
    assert not result.get("changed")
    assert host.hypervisor.calls == []


def test_a_failure_in_the_middle_tells_what_was_reached(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.hypervisor.unstartable.add("web")
    result = _zones(host, capsys, _zone(), _zone(name="db"))
    assert (result["failed"], result["changed"]) == (True, True)
    assert result["msg"] == "zone web: create: libvirt cannot start it"
    assert {zone["name"]: zone["failed"] for zone in result["zones"]} == {"db": False, "web": True}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What was asked of the channel; ``answer`` in it is what it answers."""
    known: dict[str, Any] = {"answer": Answer(0, b"out\xff\n", b"error", truncated=False)}

    class Hypervisor:
        def zone_domain_id(self, name: str) -> int:
            if name != "web":
                raise RingfenceError(f"zone {name}: not on this host")
            return 7

    def execute(*arguments: Any, **options: Any) -> Answer:
        known.update(arguments=arguments, options=options)
        answer: Answer = known["answer"]
        return answer

    monkeypatch.setattr(zone_exec, "Hypervisor", Hypervisor)
    monkeypatch.setattr(channel, "execute", execute)
    return known


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"argv": []}, "argv: [] is not accepted; accepted: a program and its arguments"),
        ({"limit": -1}, "limit: -1 is not accepted; accepted: 0 bytes or more"),
        ({"timeout": 0}, "timeout: 0.0 is not accepted; accepted: more than 0 seconds"),
        ({"timeout": "nan"}, "timeout: nan is not accepted; accepted: more than 0 seconds"),
    ],
)
def test_what_cannot_be_run_is_refused(capsys: pytest.CaptureFixture[str], asked: dict[str, Any], options: Any, told: str) -> None:
    result = _run(zone_exec, capsys, **{"name": "web", "argv": ["true"], **options})
    assert result["msg"] == f"zone web: {told}"
    assert "arguments" not in asked


def test_a_command_in_a_zone_is_run_and_its_answer_returned(host: Host, capsys: pytest.CaptureFixture[str], asked: dict[str, Any]) -> None:
    result = _run(zone_exec, capsys, name="web", argv=["cat", "-"], stdin="in", timeout=5, limit=9, store=str(host.store.root))
    assert asked["arguments"] == ("web", 7, ["cat", "-"])
    assert asked["options"] == {"stdin": b"in", "timeout": 5.0, "limit": 9}
    assert {key: result[key] for key in yaml.safe_load(zone_exec.RETURN)} == {
        "rc": 0,
        "stdout": "out\ufffd\n",
        "stderr": "error",
        "truncated": False,
    }
    assert result["changed"] is True


def test_a_command_that_fails_fails_the_task_with_its_output(capsys: pytest.CaptureFixture[str], asked: dict[str, Any]) -> None:
    asked["answer"] = Answer(3, b"out", b"error", truncated=True)
    result = _run(zone_exec, capsys, name="web", argv=["false"])
    assert result["failed"] is True
    assert result["msg"] == "zone web: false exited with 3"
    assert (result["rc"], result["stdout"], result["stderr"], result["truncated"]) == (3, "out", "error", True)


def test_a_zone_that_is_not_there_fails_the_task(capsys: pytest.CaptureFixture[str], asked: dict[str, Any]) -> None:
    assert _run(zone_exec, capsys, name="db", argv=["true"])["msg"] == "zone db: not on this host"
    assert "arguments" not in asked
