"""Tests of the library's ``zone.state`` and the module ``zone_info`` on a made-up host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import made_up_host
import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from made_up_host import RECORD, Host, digest, reference
from test_zones_module import EVERY_FIELD, LETS_IT_IN

from ansible_collections.ringfence.zones.plugins.module_utils.zone import state as zone_state
from ansible_collections.ringfence.zones.plugins.module_utils.zone.files import Record
from ansible_collections.ringfence.zones.plugins.module_utils.zone.observed import Observed
from ansible_collections.ringfence.zones.plugins.modules import zone_info


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host with an image in its registry."""
    made = made_up_host.make(tmp_path / "store", monkeypatch)
    made.publish("1")
    monkeypatch.setattr(zone_info, "Hypervisor", lambda: made.hypervisor)
    return made


@pytest.mark.parametrize(
    ("active", "said", "state"),
    [
        (True, None, "starting"),
        (True, "running", "running"),
        (True, "restarting", "restarting"),
        (True, "exited", "exited"),
        (False, "exited", "exited"),
        (False, "stopped", "stopped"),
        (False, "failed", "failed"),
        # What it said last is not how it ended.
        (False, "running", "dead"),
        (False, "restarting", "dead"),
        (False, None, "dead"),
    ],
)
def test_a_zone_has_one_state(active: bool, said: str | None, state: str) -> None:
    record = Record(said, None, 0) if said else None
    assert zone_state.state(Observed(None, 1 if active else None), record) == state


@pytest.mark.parametrize(("said", "state"), [("running", "crashed"), ("stopped", "stopped"), (None, "crashed")])
def test_a_zone_whose_kernel_panicked_is_told_from_one_that_ended(said: str | None, state: str) -> None:
    record = Record(said, None, 0) if said else None
    assert zone_state.state(Observed(None, crashed=True), record) == state


def _info(host: Host, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with patch_module_args({"store": str(host.store.root)}), pytest.raises(SystemExit):
        zone_info.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_what_is_returned_is_what_is_documented(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    documented = yaml.safe_load(zone_info.RETURN)
    host.converge(
        {"name": "web", "image": reference("1"), **EVERY_FIELD},
        LETS_IT_IN,
        volumes={"data": {"size": "16MiB"}, "spare": {"size": "16MiB"}},
        secrets={"password": "x"},
    )
    result = _info(host, capsys)
    assert set(result) - {"changed", "invocation"} == set(documented)
    web = result["zones"][1]
    assert set(web) == set(documented["zones"]["contains"])
    assert (web["state"], web["restarts"], web["exit_status"], web["image"]) == ("running", 0, None, digest("1"))
    assert web["runtime_outdated"] is False
    assert result["volumes"] == [{"name": "data", "size": 16, "zone": "web"}, {"name": "spare", "size": 16, "zone": None}]
    assert result.get("changed") is not True


def test_no_value_of_a_variable_is_returned(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.converge({"name": "web", "image": reference("1"), "environment": {"PASSWORD": "a-secret"}})
    result = _info(host, capsys)
    assert result["zones"][0]["environment"] == ["PASSWORD"]
    assert "a-secret" not in json.dumps(result)


def test_a_newer_zone_base_is_told(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.converge({"name": "web", "image": reference("1")})
    made_up_host.add_runtime(host.store, "f")
    assert _info(host, capsys)["zones"][0]["runtime_outdated"] is True


def test_how_a_container_ended_is_told_when_its_zone_is_gone(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.hypervisor.said["web"] = RECORD % (b"exited", b"3")
    host.converge({"name": "web", "image": reference("1")})
    host.hypervisor.domains["web"].number = None
    zone = _info(host, capsys)["zones"][0]
    assert (zone["state"], zone["exit_status"], zone["domain_id"]) == ("exited", 3, None)


def test_a_zone_with_damaged_metadata_is_told(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.converge({"name": "web", "image": reference("1")})
    domain = host.hypervisor.domains["web"]
    domain.xml = domain.xml.replace('"image"', '"imge"')
    zone = _info(host, capsys)["zones"][0]
    assert (zone["name"], zone["state"], len(zone)) == ("web", "running", 8)
