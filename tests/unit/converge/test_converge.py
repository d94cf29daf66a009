"""Tests of the library's ``converge.converge`` on a made-up host."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import made_up_host
import pytest
from made_up_host import RECORD, Host, digest, reference

from ansible_collections.ringfence.zones.plugins.module_utils.command import CommandFailed
from ansible_collections.ringfence.zones.plugins.module_utils.converge import apply, converge, garbage
from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration, RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.image import build, images, registry
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store, write_atomically
from ansible_collections.ringfence.zones.plugins.module_utils.zone import channel, files, firewall, make, volumes
from ansible_collections.ringfence.zones.plugins.module_utils.zone.observed import Running


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host that runs nothing yet, with the images 1, 2 and 3 in its registry."""
    made = made_up_host.make(tmp_path / "store", monkeypatch)
    made.publish("1", "2", "3")
    return made


def _zone(name: str = "web", image: str = reference("1"), **fields: Any) -> dict[str, Any]:
    return {"name": name, "image": image, **fields}


def _actions(report: converge.Report) -> dict[str, str]:
    return {zone["name"]: zone["action"] for zone in report.zones}


def _problems(host: Host, *zones: dict[str, Any], **options: Any) -> list[str]:
    """The faults of a declaration, which has to change nothing."""
    before = host.snapshot_but_lock()
    with pytest.raises(InvalidDeclaration) as caught:
        host.converge(*zones, **options)
    assert host.snapshot_but_lock() == before
    return caught.value.problems


# What is declared comes to run.


def test_a_zone_is_created_started_and_reported(host: Host) -> None:
    report = host.converge(_zone(ports=["8080:80"], environment={"SECRET": "x"}, restart="always"))
    assert report.changed
    assert report.failures == report.undeclared == []
    assert report.zones == [
        {
            "name": "web",
            "action": "create",
            "reasons": ["does not exist"],
            "changed": True,
            "failed": False,
            "pending": [],
            "image": digest("1"),
            "kernel": digest("a"),
            "kernel_release": "6.12-stable",
            "virtualization": "pvh",
            "memory": 128,
            "cpus": 1,
            "cpu_shares": 1024,
            "environment": ["SECRET"],
            "ports": ["8080:80/tcp"],
            "restart": "always",
            "stop_grace_period": 10,
            "address": "198.18.0.1",
            "address6": "fd72:696e:6766::1",
            "domain_id": 2,
        }
    ]
    assert host.hypervisor.calls == ["define web", "start web"]
    assert host.hypervisor.domains["web"].autostart
    assert host.table is not None
    assert "8080 : 198.18.0.1 . 80" in str(host.table)
    assert (host.store.root / "network.nft").read_text() == host.table


def test_converging_again_changes_nothing_and_asks_no_registry(host: Host) -> None:
    declared = [_zone(ports=["8080:80"]), _zone("db", reference("2"), environment={"A": "1"}, command=["run"])]
    host.converge(*declared)
    before, asked = host.snapshot_but_lock(), len(host.resolved)
    report = host.converge(*declared)
    assert not report.changed
    assert _actions(report) == {"db": "keep", "web": "keep"}
    assert report.before == report.after == {}
    assert host.snapshot_but_lock() == before
    assert len(host.resolved) == asked


@pytest.mark.parametrize(
    ("fields", "action", "calls"),
    [
        ({"ports": ["1:1"]}, "live", ["define web"]),
        ({"memory": "96MiB"}, "live", ["memory web 96", "define web"]),
        ({"cpu_shares": 2048}, "live", ["weight web 512", "define web"]),
        ({"cpus": 2}, "restart", ["stop web", "define web", "start web"]),
        ({"memory": "256MiB"}, "restart", ["stop web", "define web", "start web"]),
        ({"kernel": "old"}, "restart", ["stop web", "define web", "start web"]),
        ({"image": reference("2")}, "recreate", ["stop web", "define web", "start web"]),
    ],
)
def test_a_change_is_made_as_gently_as_it_can_be(host: Host, fields: dict[str, Any], action: str, calls: list[str]) -> None:
    host.converge(_zone())
    made = made_up_host.only(host.store, "web", "writable").stat().st_ino
    host.hypervisor.calls.clear()
    assert _actions(host.converge(_zone(**fields))) == {"web": action}
    assert host.hypervisor.calls == calls
    assert (made_up_host.only(host.store, "web", "writable").stat().st_ino == made) is (action != "recreate")
    assert not host.converge(_zone(**fields)).changed


@pytest.mark.parametrize("killed", ["weight", "define"])
@pytest.mark.parametrize(("declared", "calls"), [(1024, ["weight web 256", "define web"]), (512, ["weight web 128", "define web"])])
def test_a_weight_that_a_killed_run_gave_does_not_stay(
    host: Host, monkeypatch: pytest.MonkeyPatch, killed: str, declared: int, calls: list[str]
) -> None:
    host.converge(_zone())

    def kill(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(host.hypervisor, {"weight": "set_weight", "define": "define"}[killed], kill)
        with pytest.raises(KeyboardInterrupt):
            host.converge(_zone(cpu_shares=512))
    host.hypervisor.calls.clear()
    assert _actions(host.converge(_zone(cpu_shares=declared))) == {"web": "live"}
    assert host.hypervisor.calls == calls
    assert not host.converge(_zone(cpu_shares=declared)).changed
    assert list((host.store.zones / "web").glob("cpu_shares-*")) == []


@pytest.mark.parametrize("still", [True, False])
@pytest.mark.parametrize("changed", [{"user": "1"}, {"image": reference("2")}, {"state": "absent"}])
def test_a_zone_that_a_killed_run_was_stopping_comes_to_run(
    host: Host, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], still: bool
) -> None:
    """Whether the next run finds it ``still`` running, or ended."""
    host.converge(_zone())

    def kill(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(host.hypervisor, "stop", kill)
        with pytest.raises(KeyboardInterrupt):
            host.converge(_zone(**changed))
    if not still:
        host.hypervisor.domains["web"].number = None
    host.hypervisor.calls.clear()
    reason = "an earlier run has asked it to stop" if still else "is not running"
    done = host.converge(_zone())
    assert [(zone["action"], zone["reasons"]) for zone in done.zones] == [("restart" if still else "start", [reason])]
    assert host.hypervisor.calls == [*(["stop web"] if still else []), "define web", "start web"]
    assert not host.converge(_zone()).changed
    assert not (host.store.zones / "web" / "stopping").exists()


def test_a_zone_that_has_ended_is_started_with_what_it_wrote(host: Host) -> None:
    host.converge(_zone())
    host.hypervisor.domains["web"].number = None
    made = made_up_host.only(host.store, "web", "writable").stat().st_ino
    made_up_host.add_runtime(host.store, "f")
    assert _actions(host.converge(_zone())) == {"web": "start"}
    assert made_up_host.only(host.store, "web", "writable").stat().st_ino == made
    assert host.hypervisor.observe()[0]["web"].definition.runtime == digest("f")  # type: ignore[union-attr]


def test_a_new_zone_base_alone_changes_nothing(host: Host) -> None:
    host.converge(_zone())
    made_up_host.add_runtime(host.store, "f")
    assert not host.converge(_zone()).changed


def test_a_zone_whose_files_are_lost_is_made_anew(host: Host) -> None:
    host.converge(_zone())
    made_up_host.only(host.store, "web", "initrd").unlink()
    report = host.converge(_zone())
    assert (report.zones[0]["action"], report.zones[0]["reasons"]) == ("recreate", ["files of it are missing"])
    assert not host.converge(_zone()).changed


def test_a_zone_whose_metadata_is_damaged_is_made_anew(host: Host) -> None:
    host.converge(_zone())
    domain = host.hypervisor.domains["web"]
    domain.xml = re.sub(r"(<ringfence:zone>).*(</ringfence:zone>)", r"\1damaged\2", domain.xml)
    assert _actions(host.converge(_zone())) == {"web": "recreate"}
    assert not host.converge(_zone()).changed


def test_the_default_kernel_and_the_best_mode_are_taken(host: Host) -> None:
    report = host.converge(_zone(), _zone("pv", virtualization="pv"), _zone("old", kernel="old"))
    modes = {zone["name"]: (zone["kernel_release"], zone["virtualization"]) for zone in report.zones}
    assert modes == {"old": ("6.12-old", "pv"), "pv": ("6.12-stable", "pv"), "web": ("6.12-stable", "pvh")}


def test_on_a_host_that_cannot_run_pvh_zones_are_pv(host: Host) -> None:
    host.hypervisor.possible = ("pv",)
    assert host.converge(_zone()).zones[0]["virtualization"] == "pv"


def test_a_zone_keeps_its_address(host: Host) -> None:
    host.converge(_zone("b"))
    report = host.converge(_zone("a"), _zone("b"), _zone("c"))
    assert {zone["name"]: zone["address"] for zone in report.zones} == {"a": "198.18.0.2", "b": "198.18.0.1", "c": "198.18.0.3"}


def test_a_tag_is_looked_up_when_the_zone_is_made_and_when_the_reference_changes(host: Host) -> None:
    host.publish("1", tag="latest")
    tagged = _zone(image="registry.example/image:latest")
    host.converge(tagged)
    host.publish("2", tag="latest")
    assert not host.converge(tagged).changed
    host.publish("2", tag="new")
    assert _actions(host.converge(_zone(image="registry.example/image:new"))) == {"web": "recreate"}


def _planned(*, runtime: str | None = digest("e"), **kernels: str | None) -> converge.Planned:
    """As the runtime and the kernels of a host report what they would be; the first kernel is the default."""
    rows = [{"name": name, "image": f"registry.example/{name}", "digest": of} for name, of in kernels.items()]
    return converge.Planned(runtime, [{**row, "default": number == 0} for number, row in enumerate(rows)])


@pytest.mark.parametrize("new", [digest("b"), digest("f")], ids=["stored", "not stored"])
def test_check_mode_knows_a_kernel_that_would_be_deployed_before(host: Host, new: str) -> None:
    host.converge(_zone(), _zone("other", kernel="old"))
    before = host.snapshot()
    planned = _planned(stable=new, next=digest("d"))
    report = host.converge(_zone(), _zone("other", kernel="old"), _zone("third", kernel="next"), check=True, planned=planned)
    assert _actions(report) == {"web": "restart", "other": "keep", "third": "create"}
    assert host.snapshot() == before


def test_check_mode_knows_a_zone_base_that_would_be_installed_before(host: Host) -> None:
    host.converge(_zone())
    planned = _planned(stable=digest("a"), runtime=digest("9"))
    report = host.converge(_zone(), check=True, planned=planned)
    assert (_actions(report), report.zones[0]["pending"]) == ({"web": "keep"}, [f"restart to adopt runtime {digest('9')[:19]}…"])
    assert _actions(host.converge(_zone(), check=True, planned=planned, adopt_runtime=True)) == {"web": "restart"}


def test_check_mode_bears_that_what_would_come_before_is_not_known(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = _planned(runtime=None, next=None)
    assert _actions(host.converge(_zone(), check=True, planned=planned)) == {"web": "create"}
    monkeypatch.setattr(converge, "LIBVIRT_ERROR", ImportError("no"))
    (zone,) = host.converge(_zone(), check=True, planned=planned).zones
    assert (zone["action"], zone["reasons"]) == ("create", ["this host has no libvirt yet"])


def test_what_no_check_of_an_image_has_thought_of_is_taken_back(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.converge(_zone(), _zone("other", depends_on=["web"]))
    host.publish("2")

    def write(*_arguments: Any) -> None:
        raise ValueError("surrogates not allowed")

    with monkeypatch.context() as patch:
        patch.setattr(make, "write", write)
        report = host.converge(_zone(image=reference("2")), _zone("other", depends_on=["web"]))
    assert report.failures == ["zone web: recreate: surrogates not allowed; the zone runs as before"]
    assert host.hypervisor.domains["web"].number is not None


@pytest.mark.parametrize("config", [{"StopSignal": "\ud800"}, {"WorkingDir": "/\ud800"}, {"Healthcheck": {"Test": ["CMD", "\ud800"]}}])
def test_an_image_whose_configuration_cannot_be_used_ends_no_zone(host: Host, config: dict[str, Any]) -> None:
    host.converge(_zone())
    number = host.hypervisor.domains["web"].number
    host.publish("2", **config)
    report = host.converge(_zone(image=reference("2")), _zone("other"))
    assert [failure.startswith("zone web: recreate: image: ") for failure in report.failures] == [True]
    assert _actions(report)["other"] == "create"
    assert host.hypervisor.domains["web"].number == number


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_timeout_with_which_nothing_starts_is_refused(host: Host, seconds: float) -> None:
    with pytest.raises(InvalidDeclaration, match=r"start_timeout: \S+ is not accepted; accepted: more than 0 seconds"):
        host.converge(_zone(), start_timeout=seconds)


def test_what_was_taken_back_is_not_tried_again_because_another_zone_lets_it_in(host: Host) -> None:
    host.converge(_zone(), _zone("db"))
    _unhealthy_with(host, "2")
    assert host.converge(_zone(image=reference("2")), _zone("db")).failures
    number = host.hypervisor.domains["web"].number
    (failure,) = host.converge(_zone(image=reference("2")), _zone("db", **LETTING_IN)).failures
    assert "not tried again" in failure
    assert host.hypervisor.domains["web"].number == number


def test_what_a_refused_change_would_give_back_is_not_given_away(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.hypervisor, "free_memory", lambda: 2000)
    host.converge(_zone(memory="1GiB"))
    _unhealthy_with(host, "2")
    smaller = _zone(image=reference("2"), memory="64MiB")
    assert host.converge(smaller).failures
    monkeypatch.setattr(host.hypervisor, "free_memory", lambda: 200)
    assert _problems(host, smaller, _zone("db", memory="512MiB"))


def test_a_zone_waits_for_the_health_of_one_that_stays(host: Host) -> None:
    host.converge(_zone("db"))
    made_up_host.write_record(host.store, "db", HEALTH % b"unhealthy")
    for condition, failures in (("service_healthy", 1), ("service_started", 0)):
        report = host.converge(_zone("db"), _zone(depends_on={"db": {"condition": condition}}))
        assert len(report.failures) == failures
        assert ("web" in host.hypervisor.domains) is not failures


def test_no_zone_gets_the_address_of_one_whose_metadata_cannot_be_read(host: Host) -> None:
    host.converge(_zone("x"))
    domain = host.hypervisor.domains["x"]
    domain.xml = domain.xml.replace('"zone":{', '"zone":{"a_later_field":1,')
    (problem,) = _problems(host, _zone())
    assert problem.startswith("zones x: their metadata cannot be read, so no zone can be created beside them")
    assert _actions(host.converge(_zone(), _zone("x"))) == {"web": "create", "x": "recreate"}


def test_a_tag_that_meant_the_same_image_is_not_followed_in_each_run(host: Host) -> None:
    host.publish("1", tag="1.0")
    host.publish("1", tag="stable")
    host.converge(_zone(image="registry.example/image:1.0"))
    renamed = _zone(image="registry.example/image:stable")
    number = host.hypervisor.domains["web"].number
    assert _actions(host.converge(renamed, check=True)) == _actions(host.converge(renamed)) == {"web": "live"}
    assert host.hypervisor.domains["web"].number == number
    host.publish("2", tag="stable")
    assert not host.converge(renamed).changed


def test_zones_of_one_image_share_it(host: Host) -> None:
    host.converge(_zone("a"), _zone("b"), _zone("c"))
    assert host.resolved == [reference("1")]
    assert [path.name for path in host.store.images.iterdir()] == ["1" * 64]


def test_old_ports_are_closed_and_new_ones_opened(host: Host) -> None:
    host.converge(_zone(ports=["8080:80"]))
    host.converge(_zone(ports=["8081:80"]))
    assert host.table is not None
    assert "8081 : 198.18.0.1 . 80" in str(host.table)
    assert "8080" not in str(host.table)


def test_two_zones_may_swap_their_ports(host: Host) -> None:
    host.converge(_zone("a", ports=["1:1"]), _zone("b", ports=["2:2"]))
    report = host.converge(_zone("a", ports=["2:2"]), _zone("b", ports=["1:1"]))
    assert _actions(report) == {"a": "live", "b": "live"}


def test_rules_that_something_else_has_removed_come_back(host: Host) -> None:
    host.converge(_zone())
    host.table = None
    assert host.converge(_zone(), check=True).changed
    assert host.table is None
    report = host.converge(_zone())
    assert report.changed
    assert report.rules_changed
    assert not report.zones[0]["changed"]
    assert host.table is not None


def test_rules_that_do_not_load_are_tried_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.converge(_zone())

    def fail(argv: Sequence[str], *, stdin: bytes | None = None) -> bytes:
        if argv[:2] == ["nft", "-f"]:
            raise CommandFailed("nft failed with exit status 1: no")
        return host.run(argv, stdin=stdin)

    with monkeypatch.context() as patched:
        patched.setattr(firewall, "run", fail)
        with pytest.raises(CommandFailed):
            host.converge(_zone(ports=["8080:80"]))
    host.converge(_zone(ports=["8080:80"]))
    assert host.table is not None
    assert "8080" in str(host.table)


# What is not declared.


def test_an_absent_zone_is_removed_with_its_files(host: Host) -> None:
    host.converge(_zone(ports=["8080:80"]), _zone("db"))
    host.hypervisor.calls.clear()
    report = host.converge({"name": "web", "state": "absent"}, _zone("db"))
    assert _actions(report) == {"db": "keep", "web": "remove"}
    assert host.hypervisor.calls == ["stop web", "undefine web"]
    assert [path.name for path in host.store.zones.iterdir()] == ["db"]
    assert host.table is not None
    assert "8080" not in str(host.table)
    assert not host.converge({"name": "web", "state": "absent"}, _zone("db")).changed


def test_what_is_absent_needs_neither_kernel_nor_zone_base(host: Host) -> None:
    host.converge(_zone())
    (host.store.runtime / "current.json").unlink()
    (host.store.kernels / "names.json").unlink()
    assert _actions(host.converge({"name": "web", "state": "absent"})) == {"web": "remove"}


def test_an_undeclared_zone_is_reported_and_left_alone(host: Host) -> None:
    host.converge(_zone(), _zone("db", ports=["5432:5432"]))
    report = host.converge(_zone())
    assert (report.undeclared, report.changed) == (["db"], False)
    assert report.warnings == ["not declared, and left alone: db; prune removes zones that are not declared"]
    assert set(host.hypervisor.domains) == {"db", "web"}
    assert host.table is not None
    assert "5432" in str(host.table)


def test_an_undeclared_zone_is_pruned_if_that_is_wanted(host: Host) -> None:
    host.converge(_zone(), _zone("db"))
    report = host.converge(_zone(), prune=True)
    assert (_actions(report), report.undeclared) == ({"db": "remove", "web": "keep"}, [])
    assert set(host.hypervisor.domains) == {"web"}


def test_pruning_never_touches_what_is_not_ours(host: Host) -> None:
    host.hypervisor.foreign.add("vm")
    host.converge(_zone())
    host.converge(prune=True)
    assert host.hypervisor.calls[-2:] == ["stop web", "undefine web"]
    assert host.hypervisor.foreign == {"vm"}


def test_files_that_a_killed_run_left_are_cleared(host: Host) -> None:
    (host.store.zones / "left").mkdir(parents=True)
    (host.store.tmp / "half").mkdir(parents=True)
    host.converge(_zone(), _zone("db"))
    host.converge(_zone())
    assert sorted(path.name for path in host.store.zones.iterdir()) == ["db", "web"]
    assert not host.store.tmp.exists()


# Check mode.


def test_check_mode_tells_the_same_and_changes_nothing(host: Host) -> None:
    host.converge(_zone(), _zone("db"), _zone("old", ports=["1:1"]), _zone("idle"))
    host.hypervisor.domains["idle"].number = None
    declared = [
        _zone(image=reference("2")),
        _zone("db", memory="256MiB"),
        {"name": "old", "state": "absent"},
        _zone("new", reference("3")),
        _zone("idle"),
    ]
    before = host.snapshot()
    predicted = host.converge(*declared, check=True)
    assert host.snapshot() == before
    assert predicted.changed
    assert _actions(predicted) == {"db": "restart", "idle": "start", "new": "create", "old": "remove", "web": "recreate"}
    done = host.converge(*declared)
    assert _actions(done) == _actions(predicted)
    assert (done.before, done.after, done.rules_changed) == (predicted.before, predicted.after, predicted.rules_changed)
    assert {zone["name"]: zone["reasons"] for zone in done.zones} == {zone["name"]: zone["reasons"] for zone in predicted.zones}


def test_check_mode_finds_the_faults_that_a_run_would(host: Host) -> None:
    assert _problems(host, _zone(kernel="none"), check=True) == _problems(host, _zone(kernel="none"))


def test_a_converge_that_changes_nothing_loads_nothing_that_changes_something(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: object) -> None:
        raise AssertionError("it is loaded")

    host.publish("1")
    host.converge(_zone())
    monkeypatch.setattr(converge._Converge, "apply", property(fail))
    assert not host.converge(_zone()).changed
    with pytest.raises(AssertionError):
        host.converge(_zone(memory="256MiB"), _zone("other"))


def test_the_library_is_imported_without_what_changes_a_host() -> None:
    program = f"import sys, {converge.__name__}; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)
    loaded = {name.rpartition(".")[2] for name in told.split()}
    assert "plan" in loaded
    assert not loaded & {
        "apply",
        "bundled",
        "futures",
        "image_build",
        "logging",
        "shutil",
        "subprocess",
        "tarfile",
        "tempfile",
        "zone_make",
    }


def test_check_mode_before_xen_predicts_that_everything_is_created(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converge, "booted_into_xen", lambda: False)
    report = host.converge(_zone(), {"name": "db", "state": "absent"}, check=True)
    assert _actions(report) == {"web": "create", "db": "keep"}
    assert report.changed
    assert report.after == {"web": {"name": "web", "image": reference("1")}}
    assert _problems(host, _zone(memory="1"), check=True)


def test_the_difference_shows_the_fields_before_and_after(host: Host) -> None:
    host.converge(_zone(), _zone("db"))
    report = host.converge(_zone(memory="256MiB"), _zone("db"), check=True)
    assert set(report.before) == set(report.after) == {"web"}
    differing = {
        key: (report.before["web"][key], value) for key, value in report.after["web"].items() if report.before["web"][key] != value
    }
    assert differing == {"memory": (128, 256)}
    assert report.plan == "web: restart: memory 128 → 256\n"


def test_the_plan_tells_of_all_that_changes(host: Host) -> None:
    host.converge(_zone(), _zone("db"), volumes={"data": {"size": "16MiB"}})
    report = host.converge(_zone(), volumes={"data": {"state": "absent"}}, prune=True, keep_unused=0, check=True)
    assert report.plan.splitlines() == ["db: remove: shall not exist", "volume data: remove", "rules of the network: load"]
    assert report.warnings == []


def test_no_value_of_a_variable_is_reported(host: Host) -> None:
    host.converge(_zone(environment={"PASSWORD": "first-secret"}))
    report = host.converge(_zone(environment={"PASSWORD": "second-secret"}))
    assert report.zones[0]["reasons"] == ["environment PASSWORD"]
    assert "secret" not in json.dumps(report.zones)


# Bad declarations are refused before anything is changed.


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"kernel": "none"}, "zone web: kernel: 'none' is not deployed on this host; accepted: old, stable"),
        (
            {"kernel": "old", "virtualization": "pvh"},
            "zone web: virtualization: pvh is not possible; kernel old can pv, this host can pv, pvh",
        ),
        (
            {"image": "registry.example/none"},
            "zone web: image registry.example/none: there is no such image; check name, tag and digest",
        ),
        (
            {"memory": "2GiB"},
            "memory: the zones to start (web 2048MiB) need 2056 MiB with Xen's overhead, and this host has 1024 MiB free; declare less",
        ),
        (
            {"name": "vm"},
            "zone vm: name: a domain of this name exists that is not a zone and is left alone; choose another",
        ),
    ],
)
def test_what_this_host_cannot_do_is_refused(host: Host, fields: dict[str, Any], problem: str) -> None:
    host.hypervisor.foreign.add("vm")
    assert _problems(host, {**_zone(), **fields}) == [problem]


@pytest.mark.parametrize(
    "error",
    [
        registry.RegistryUnreachable("image web: the registry cannot be reached; check its address, the network and the proxy"),
        registry.DigestMismatch("image web: the content does not match its digest; it was damaged or tampered with"),
        registry.WrongArchitecture("image web is for linux/arm64; this host needs linux/amd64"),
        registry.CredentialsRefused("image web: access is refused"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_image_that_cannot_be_had_is_refused_with_the_reason(host: Host, error: Exception) -> None:
    host.converge(_zone("db", reference("2")))
    host.published[reference("1")] = error
    assert _problems(host, _zone(), _zone("db", reference("2"))) == [f"zone web: {error}"]


def _without_modules(host: Host, kernel: str) -> None:
    """Let a kernel be one without fuse and tun."""
    path = host.store.kernels / (kernel * 64) / "kernel.json"
    document = json.loads(path.read_text())
    del document["modules"]["fuse"], document["modules"]["tun"]
    path.write_text(json.dumps(document))


def test_devices_that_the_kernel_has_no_driver_for_are_refused(host: Host) -> None:
    """Of all zones at once, with where there is one; without the devices, the same kernels are accepted."""
    for kernel in "ab":
        _without_modules(host, kernel)
    declared = ["/dev/kmsg", "/dev/net/tun"]
    lacks = "zone {}: devices: {} is not possible; kernel {} has no {}, neither built in nor as a module; {}"
    db = _zone("db", kernel="old", devices=["/dev/fuse", "/dev/net/tun"])
    assert _problems(host, _zone(devices=declared), db, _zone("c", "registry.example/none")) == [
        lacks.format("web", "/dev/net/tun", "stable", "tun", "deploy one that has it"),
        lacks.format("db", "/dev/fuse", "old", "fuse", "deploy one that has it"),
        lacks.format("db", "/dev/net/tun", "old", "tun", "deploy one that has it"),
        "zone c: image registry.example/none: there is no such image; check name, tag and digest",
    ]
    made_up_host.add_kernels(host.store, stable=("pv", "pvh"), old=("pv",))
    _without_modules(host, "b")
    told = lacks.format("db", "/dev/net/tun", "old", "tun", "it is in stable")
    assert _problems(host, _zone("db", kernel="old", devices=declared)) == [told]
    host.converge(_zone("old", kernel="old"))
    assert _actions(host.converge(_zone("old", devices=["/dev/net/tun"]))) == {"old": "restart"}


def test_every_fault_is_told_at_once(host: Host) -> None:
    problems = _problems(host, _zone(kernel="none"), _zone("db", "registry.example/none"), _zone("c", virtualization="pvh", kernel="old"))
    assert [problem.partition(":")[0] for problem in problems] == ["zone web", "zone db", "zone c"]


def test_without_a_kernel_the_way_to_one_is_told(host: Host) -> None:
    made_up_host.add_kernels(host.store)
    assert _problems(host, _zone()) == [
        "zone web: kernel: 'the default' is not deployed on this host; none is deployed; deploy one with ringfence.zones.kernels"
    ]


def test_without_a_zone_base_the_way_to_one_is_told(host: Host) -> None:
    (host.store.runtime / "current.json").unlink()
    with pytest.raises(RingfenceError, match=r"^this host has no zone runtime; apply the role ringfence\.zones\.runtime first$"):
        host.converge(_zone())


@pytest.mark.parametrize("removed", [{"prune": True}, {}])
def test_a_port_of_a_zone_that_stays_is_refused(host: Host, removed: dict[str, Any]) -> None:
    host.converge(_zone("db", ports=["8080:80"]))
    if removed:
        assert _actions(host.converge(_zone(ports=["8080:80"]), **removed)) == {"db": "remove", "web": "create"}
    else:
        assert _problems(host, _zone(ports=["8080:80"])) == [
            "zone web: ports: 8080:80/tcp is not accepted; zone db publishes 8080/tcp; choose another"
        ]


def test_a_port_of_a_program_of_the_host_is_refused(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converge, "listening_ports", lambda: {(22, "tcp"), (53, "udp")})
    assert _problems(host, _zone(ports=["22:22", "53:53/udp", "53:53/tcp"])) == [
        "zone web: ports: 22:22/tcp is not accepted; a program of the host listens on 22/tcp; choose another",
        "zone web: ports: 53:53/udp is not accepted; a program of the host listens on 53/udp; choose another",
    ]


def test_a_zone_that_stays_and_another_one_publish_a_port_at_addresses_of_their_own(host: Host) -> None:
    host.converge(_zone("db", ports=["192.0.2.5:8080:80"]))
    assert _problems(host, _zone(ports=["8080:80"])) == [
        "zone web: ports: 8080:80/tcp is not accepted; zone db publishes 192.0.2.5:8080/tcp; choose another"
    ]
    assert _actions(host.converge(_zone(ports=["192.0.2.6:8080:80"]))) == {"web": "create"}
    for address in ("192.0.2.5", "192.0.2.6"):
        assert f"{address} . 8080 : " in str(host.table)


def test_a_program_that_comes_to_listen_on_a_published_port_stops_no_converge(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The zone has the port; another one that it shall get is still looked at."""
    host.converge(_zone(ports=["8080:80"]))
    monkeypatch.setattr(converge, "listening_ports", lambda: {(8080, "tcp"), (22, "tcp")})
    assert not host.converge(_zone(ports=["8080:80"])).changed
    assert _problems(host, _zone(ports=["8080:80", "22:22"])) == [
        "zone web: ports: 22:22/tcp is not accepted; a program of the host listens on 22/tcp; choose another"
    ]


def test_memory_that_the_plan_gives_back_counts(host: Host) -> None:
    host.converge(_zone("a", memory="600MiB"), _zone("b", memory="300MiB"))
    host.hypervisor.free = 100
    declared = [{"name": "a", "state": "absent"}, _zone("b", memory="900MiB")]
    assert _actions(host.converge(*declared)) == {"a": "remove", "b": "restart"}


def test_memory_of_zones_that_keep_running_does_not_count(host: Host) -> None:
    host.converge(_zone(memory="600MiB"))
    host.hypervisor.free = 0
    assert _actions(host.converge(_zone(memory="600MiB", ports=["1:1"]))) == {"web": "live"}


def test_memory_that_a_zone_gets_while_it_runs_has_to_be_free(host: Host) -> None:
    host.converge(_zone(memory="600MiB"))
    host.converge(_zone(memory="400MiB"))
    host.hypervisor.free = 199
    (problem,) = _problems(host, _zone(memory="600MiB"))
    assert problem == (
        "memory: the zones to start or enlarge (web 200MiB more) need 200 MiB with Xen's overhead, and this host has 199 MiB free; "
        "declare less"
    )
    host.hypervisor.free = 200
    assert _actions(host.converge(_zone(memory="600MiB"))) == {"web": "live"}


def test_memory_that_a_zone_gives_back_while_it_runs_is_there_for_others(host: Host) -> None:
    host.converge(_zone(memory="600MiB"))
    host.hypervisor.free = 0
    assert _problems(host, _zone(memory="464MiB"), _zone("db", memory="129MiB"))
    host.hypervisor.calls.clear()
    assert _actions(host.converge(_zone(memory="464MiB"), _zone("db"))) == {"db": "create", "web": "live"}
    assert host.hypervisor.calls == ["memory web 464", "define web", "define db", "start db"]


@pytest.mark.parametrize(
    ("fields", "calls", "told"),
    [
        ({"memory": "96MiB"}, ["memory web 96", "memory web 128"], "memory: it has 128 MiB instead of 96 MiB after 0.3 s"),
        ({"cpus": 1}, ["cpus web 1", "cpus web 2"], "cpus: it uses 2 instead of 1 after 0.3 s"),
        (
            {"memory": "96MiB", "cpus": 1, "cpu_shares": 512},
            ["memory web 96", "cpus web 1", "weight web 128", "memory web 128", "cpus web 2", "weight web 256"],
            "memory: it has 128 MiB instead of 96 MiB; cpus: it uses 2 instead of 1 after 0.3 s",
        ),
    ],
)
def test_a_zone_that_does_not_follow_is_as_before(host: Host, fields: dict[str, Any], calls: list[str], told: str) -> None:
    host.converge(_zone(cpus=2))
    before = host.hypervisor.domains["web"].xml
    changed = {"cpus": 2, "ports": ["1111:1"], **fields}
    host.hypervisor.stubborn.add("web")
    host.hypervisor.calls.clear()
    report = host.converge(_zone(**changed), start_timeout=0.3)
    hint = "stop it with `zonectl stop web`, and it will be started so; the zone runs as before"
    assert report.failures == [f"zone web: live: {told}; {hint}"]
    assert (host.hypervisor.calls, host.hypervisor.domains["web"].xml) == (calls, before)
    assert "1111" not in str(host.table)
    assert not host.converge(_zone(cpus=2)).changed
    host.hypervisor.stubborn.clear()
    assert _actions(host.converge(_zone(**changed))) == {"web": "live"}
    assert "1111" in str(host.table)
    assert not host.converge(_zone(**changed)).changed


@pytest.mark.parametrize("again", ["96MiB", "128MiB"])
def test_a_run_that_was_killed_while_it_resized_a_zone_is_repaired(host: Host, again: str) -> None:
    """Also when the declaration was taken back in between."""
    host.converge(_zone())
    host.hypervisor.set_memory("web", 96)
    report = host.converge(_zone(memory=again))
    assert _actions(report) == {"web": "live"}
    assert host.hypervisor.domains["web"].running == Running(int(again[:-3]), 128, 1, 1)
    assert not host.converge(_zone(memory=again)).changed


def test_a_zone_that_ends_while_it_is_resized_is_defined_as_declared(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.converge(_zone())

    def end(name: str, _memory: int) -> None:
        host.hypervisor.domains[name].number = None
        raise RingfenceError("domain is not running")

    monkeypatch.setattr(host.hypervisor, "set_memory", end)
    assert host.converge(_zone(memory="96MiB")).failures == []
    assert _actions(host.converge(_zone(memory="96MiB"))) == {"web": "start"}
    assert host.hypervisor.domains["web"].running == Running(96, 96, 1, 1)


def test_what_was_resized_starts_again_with_what_is_declared(host: Host) -> None:
    host.converge(_zone())
    made = made_up_host.only(host.store, "web", "initrd")
    host.converge(_zone(memory="96MiB"))
    assert made_up_host.only(host.store, "web", "initrd") == made
    assert _actions(host.converge(_zone(memory="96MiB", user="1"))) == {"web": "restart"}
    assert _actions(host.converge(_zone(memory="128MiB", user="1"))) == {"web": "restart"}


def test_zones_that_fit_one_by_one_but_not_together_are_refused(host: Host) -> None:
    (problem,) = _problems(host, _zone("a", memory="600MiB"), _zone("b", memory="600MiB"))
    assert "(a 600MiB, b 600MiB) need 1216 MiB" in problem


def test_two_runs_at_once_do_not_meet(host: Host) -> None:
    with host.store.lock(), pytest.raises(RingfenceError, match="another converge of this host is running"):
        host.converge(_zone())
    assert host.hypervisor.calls == []


# What fails later.


def test_a_zone_that_does_not_start_is_told_and_the_others_go_on(host: Host) -> None:
    host.hypervisor.unstartable.add("b")
    report = host.converge(_zone("a"), _zone("b"), _zone("c"))
    assert report.failures == ["zone b: create: libvirt cannot start it"]
    assert {zone["name"]: zone["failed"] for zone in report.zones} == {"a": False, "b": True, "c": False}
    host.hypervisor.unstartable.clear()
    assert _actions(host.converge(_zone("a"), _zone("b"), _zone("c"))) == {"a": "keep", "b": "start", "c": "keep"}


def test_a_libvirt_that_goes_in_the_middle_is_told_with_what_was_done(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.converge(_zone("a"), _zone("b"))

    def gone(*_arguments: object) -> NoReturn:
        raise RingfenceError("libvirt cannot do it: client socket is closed")

    def goes(name: str) -> NoReturn:
        monkeypatch.setattr(host.hypervisor, "domain_id", gone)
        gone(name)

    monkeypatch.setattr(host.hypervisor, "start", goes)
    report = host.converge(_zone("a"), _zone("b"), _zone("c"))
    assert report.failures == ["zone c: create: libvirt cannot do it: client socket is closed"]
    assert {zone["name"]: zone["failed"] for zone in report.zones} == {"a": False, "b": False, "c": True}


def test_an_image_that_cannot_be_unpacked_touches_nothing_of_its_zone(host: Host) -> None:
    host.converge(_zone(), _zone("db"))
    host.published[reference("2")] = (digest("2"), {"damage": "a layer is no tar archive"})
    host.hypervisor.calls.clear()
    report = host.converge(_zone(image=reference("2")), _zone("db", memory="256MiB"))
    assert report.failures == [f"zone web: recreate: image {reference('2')}: a layer is no tar archive"]
    assert host.hypervisor.calls == ["stop db", "define db", "start db"]
    assert {zone["name"]: (zone["failed"], zone["changed"]) for zone in report.zones} == {"db": (False, True), "web": (True, False)}


def test_an_image_without_a_command_touches_nothing_of_its_zone(host: Host) -> None:
    host.converge(_zone())
    host.publish("2", Cmd=None)
    host.hypervisor.calls.clear()
    report = host.converge(_zone(image=reference("2")))
    assert report.failures == ["zone web: recreate: command: the image names no command to run; declare command or entrypoint"]
    assert host.hypervisor.calls == []


def test_a_full_disk_is_told_and_the_others_go_on(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    write = make.write

    def full(store: Any, definition: Any, *rest: Any) -> None:
        if definition.zone.name == "a":
            raise OSError(28, "No space left on device")
        write(store, definition, *rest)

    monkeypatch.setattr(make, "write", full)
    report = host.converge(_zone("a"), _zone("b"))
    assert report.failures == ["zone a: create: [Errno 28] No space left on device"]
    assert set(host.hypervisor.domains) == {"b"}


def test_a_zone_whose_init_gives_up_is_told(host: Host) -> None:
    host.hypervisor.said["web"] = RECORD % (b"failed", b"125")
    report = host.converge(_zone())
    assert len(report.failures) == 1
    assert report.failures[0].startswith("zone web: create: its init gave up; the last lines of its console: ")


@pytest.mark.parametrize("said", [b"", b"ringfence-record-1 state=owned exit=- restarts=0 health=none oom=0 crashes=0\n", bytes(4096)])
def test_a_zone_that_says_nothing_in_time_is_told(host: Host, said: bytes) -> None:
    host.hypervisor.said["web"] = said
    report = host.converge(_zone(), start_timeout=0.3)
    assert len(report.failures) == 1
    assert "its container did not start within 0.3 s" in report.failures[0]
    assert host.hypervisor.calls[-1] == "end web"


def test_the_start_period_of_a_health_check_comes_on_top(host: Host) -> None:
    host.hypervisor.said["web"] = _checked(b"running", b"-")
    report = host.converge(_zone(healthcheck={"test": "true", "start_period": "1s"}), start_timeout=0.3)
    assert "its container did not become healthy within 1.3 s" in report.failures[0]


def test_a_zone_that_ends_before_its_container_starts_is_told_at_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.hypervisor.said["web"] = b""
    monkeypatch.setattr(host.hypervisor, "domain_id", lambda _name: None)
    report = host.converge(_zone(), start_timeout=3600)
    assert report.failures[0].startswith("zone web: create: it ended before its container started; the last lines of its console: ")


def test_a_zone_that_did_not_start_in_time_is_started_again_by_the_next_run(host: Host) -> None:
    host.hypervisor.said["web"] = b""
    host.converge(_zone(), start_timeout=0.3)
    del host.hypervisor.said["web"]
    report = host.converge(_zone())
    assert [(zone["action"], zone["failed"]) for zone in report.zones] == [("start", False)]


def test_a_record_of_an_earlier_start_does_not_count(host: Host) -> None:
    host.converge(_zone())
    host.hypervisor.said["web"] = b""
    report = host.converge(_zone(memory="256MiB"), start_timeout=0.3)
    assert "did not start within" in report.failures[0]


@pytest.mark.parametrize("state", [b"exited", b"stopped", b"restarting", b"running"])
def test_a_container_that_has_ended_has_been_started(host: Host, state: bytes) -> None:
    host.hypervisor.said["web"] = RECORD % (state, b"0")
    assert host.converge(_zone()).failures == []


def _checked(state: bytes, exit_status: bytes) -> bytes:
    return b"ringfence-record-1 state=%s exit=%s restarts=0 health=starting oom=0 crashes=0\n" % (state, exit_status)


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (_checked(b"exited", b"1"), "its container ended with exit status 1 before it was healthy"),
        (_checked(b"restarting", b"1"), "its container did not become healthy within 0.3 s"),
    ],
)
def test_a_container_that_ends_before_it_was_healthy_has_not_come_up(host: Host, record: bytes, told: str) -> None:
    host.hypervisor.said["web"] = record
    report = host.converge(_zone(), start_timeout=0.3)
    assert report.failures[0].startswith(f"zone web: create: {told}; ")


def test_a_job_that_ends_well_needs_no_health(host: Host) -> None:
    host.hypervisor.said["web"] = _checked(b"exited", b"0")
    assert host.converge(_zone()).failures == []


class _Killed(BaseException):
    """The end of a run at once, as by a signal that cannot be caught."""


@pytest.mark.parametrize("fields", [{}, {"memory": "256MiB"}, {"image": reference("2")}, {"ports": ["1:1"]}, {"state": "absent"}])
def test_a_run_that_is_killed_anywhere_is_completed_by_the_next(
    host: Host, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at the first, second, … step that changes something, until there is none left at which it could be."""
    steps = ["hypervisor.stop", "hypervisor.undefine", "hypervisor.define", "hypervisor.start"]
    steps += [
        "zone_files.tidy",
        "zone_make.write",
        "zone_make.make_writable",
        "zone_files.forget_record",
        "zone_files.remove",
        "network",
    ]

    def killed_at(limit: int) -> bool:
        count = 0

        def counted(call: Any) -> Any:
            def step(*arguments: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                if count > limit:
                    raise _Killed
                return call(*arguments, **options)

            return step

        with monkeypatch.context() as patched:
            for step in steps:
                where, _dot, name = step.partition(".")
                target: Any = {"hypervisor": host.hypervisor, "zone_files": files, "zone_make": make, "network": firewall}[where]
                patched.setattr(target, name or "write_atomically", counted(getattr(target, name or "write_atomically")))
            try:
                host.converge({**_zone(), **fields})
            except _Killed:
                return True
        return False

    limit = 0
    killed = True
    while killed:
        host.converge({"name": "web", "state": "absent"})
        if fields:
            host.converge(_zone())
        killed = killed_at(limit)
        report = host.converge({**_zone(), **fields})
        assert report.failures == []
        assert not host.converge({**_zone(), **fields}).changed
        wanted = set() if fields.get("state") == "absent" else {"web"}
        assert set(host.hypervisor.domains) == wanted
        assert {path.name for path in host.store.zones.iterdir()} == wanted
        assert all(made_up_host.only(host.store, zone, kind).is_file() for zone in wanted for kind in ("initrd", "writable"))
        limit += 1
    assert limit > 2


def test_what_a_killed_change_wrote_is_not_what_the_zone_boots(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the writing of its files and its definition, and the change is not wanted any more."""
    host.converge(_zone())
    booted = made_up_host.only(host.store, "web", "initrd")
    content = booted.read_bytes()

    def killed(*_arguments: Any, **_options: Any) -> None:
        raise _Killed

    with monkeypatch.context() as patched:
        patched.setattr(host.hypervisor, "define", killed)
        with pytest.raises(_Killed):
            host.converge(_zone(environment={"A": "b"}))
    assert booted.read_bytes() == content
    assert str(booted) in host.hypervisor.domains["web"].xml
    assert _actions(host.converge(_zone())) == {"web": "start"}
    assert made_up_host.only(host.store, "web", "initrd") == booted


def test_rules_that_a_killed_change_has_loaded_are_replaced_when_it_is_not_wanted_any_more(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between loading them and keeping them: those that are kept are the wanted ones, and are not loaded."""
    host.converge(_zone())
    wanted = host.table

    def killed(path: Path, content: bytes) -> None:
        if path.name == "network.nft":
            raise _Killed
        write_atomically(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(firewall, "write_atomically", killed)
        with pytest.raises(_Killed):
            host.converge(_zone(ports=["8080:80"]))
    assert host.table != wanted
    assert host.converge(_zone()).rules_changed
    assert host.table == wanted
    assert not host.converge(_zone()).changed


def test_the_made_up_host_counts_as_changed_what_a_converge_changes(host: Host) -> None:
    before = host.snapshot()
    host.converge(_zone())
    after = host.snapshot()
    assert all(before[part] != after[part] for part in before)


def test_the_report_is_what_the_module_returns(host: Host) -> None:
    json.dumps(dataclasses.asdict(host.converge(_zone())))


# Health and dependencies.

HEALTH = b"ringfence-record-1 state=running exit=- restarts=0 health=%s oom=0 crashes=0\n"


def test_a_zone_is_there_when_it_is_healthy(host: Host) -> None:
    host.hypervisor.said["web"] = HEALTH % b"healthy"
    assert host.converge(_zone()).failures == []


@pytest.mark.parametrize(
    ("health", "told"),
    [(b"unhealthy", "its health check fails"), (b"starting", "its container did not become healthy within 0.3 s")],
)
def test_a_zone_that_is_not_healthy_is_told(host: Host, health: bytes, told: str) -> None:
    host.hypervisor.said["web"] = HEALTH % health
    report = host.converge(_zone(), start_timeout=0.3)
    assert report.failures[0].startswith(f"zone web: create: {told}; the last lines of its console: ")


@pytest.mark.parametrize(("cpus", "together"), [(None, 1), (1, 1), (2, 2), (4, 4), (16, 4)])
def test_zones_that_do_not_depend_on_each_other_start_side_by_side(
    host: Host, monkeypatch: pytest.MonkeyPatch, cpus: int | None, together: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
    host.hypervisor.free = 2048
    running: set[str] = set()
    at_once: list[set[str]] = []
    start = host.hypervisor.start
    names = [f"web{number}" for number in range(8)]
    # Each start waits until the others of its group have begun; were fewer side by side, it would break.
    group = threading.Barrier(together, timeout=30)

    def slow_start(name: str) -> None:
        running.add(name)
        if name in names:
            group.wait()
        at_once.append(set(running))
        start(name)
        running.remove(name)

    monkeypatch.setattr(host.hypervisor, "start", slow_start)
    report = host.converge(*(_zone(name) for name in names), _zone("last", depends_on=names))
    assert report.failures == []
    assert max(map(len, at_once)) <= together
    assert at_once[-1] == {"last"}


def test_a_newer_zone_base_is_told_and_adopted_when_asked_to(host: Host) -> None:
    host.converge(_zone(), _zone("db"))
    made_up_host.add_runtime(host.store, "f")
    report = host.converge(_zone(), _zone("db"))
    assert not report.changed
    assert [zone["pending"] for zone in report.zones] == [["restart to adopt runtime sha256:ffffffffffff…"]] * 2
    assert report.warnings == ["restart to adopt runtime sha256:ffffffffffff…: db, web; they run on, adopt_runtime restarts them"]
    report = host.converge(_zone(), _zone("db"), adopt_runtime=True)
    assert _actions(report) == {"web": "restart", "db": "restart"}
    assert report.zones[0]["reasons"] == ["runtime sha256:eeeeeeeeeeee… → sha256:ffffffffffff…"]
    assert not host.converge(_zone(), _zone("db"), adopt_runtime=True).changed


def test_what_depends_on_a_zone_that_failed_is_not_started(host: Host) -> None:
    host.hypervisor.unstartable.add("db")
    report = host.converge(_zone("db"), _zone("api", depends_on=["db"]), _zone(depends_on=["api"]), _zone("alone"))
    assert report.failures == [
        "zone db: create: libvirt cannot start it",
        "zone api: create: not done, because it depends on db",
        "zone web: create: not done, because it depends on api",
    ]
    assert {call for call in host.hypervisor.calls if call.startswith("start")} == {"start alone", "start db"}


def test_an_error_of_the_store_fails_the_zone_that_it_is_about(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = build.prepare

    def failing(store: Store, resolved: registry.Resolved) -> images.Image:
        if resolved.digest == digest("2"):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", "blob")
        return prepare(store, resolved)

    monkeypatch.setattr(build, "prepare", failing)
    report = host.converge(_zone(), _zone("db", image=reference("2")))
    assert report.failures == ["zone db: create: [Errno 2] No such file or directory: 'blob'"]
    assert [call for call in host.hypervisor.calls if call.startswith("start")] == ["start web"]


# A change with which a zone does not come up is taken back.


@pytest.fixture
def picky(host: Host) -> Host:
    """A host on which zone web runs image 1, and is healthy with no other one."""
    host.publish("2", "3")
    start = host.hypervisor.start

    def judged(name: str) -> None:
        good = digest("1") in host.hypervisor.domains[name].xml
        host.hypervisor.said[name] = HEALTH % (b"healthy" if good else b"unhealthy")
        start(name)

    host.hypervisor.start = judged  # type: ignore[method-assign]
    host.converge(_zone())
    with made_up_host.only(host.store, "web", "writable").open("r+b") as layer:
        layer.write(b"what it wrote")
    host.hypervisor.calls.clear()
    return host


def test_a_zone_that_does_not_come_up_with_a_change_runs_as_before(picky: Host) -> None:
    report = picky.converge(_zone(image=reference("2"), ports=["8080:80"]))
    assert len(report.failures) == 1
    assert report.failures[0].startswith("zone web: recreate: its health check fails; the last lines of its console: ")
    assert report.failures[0].endswith("; the zone runs as before")
    assert digest("1") in picky.hypervisor.domains["web"].xml
    assert picky.hypervisor.domains["web"].number is not None
    assert "8080" not in str(picky.table)
    own = picky.store.zones / "web"
    with made_up_host.only(picky.store, "web", "writable").open("rb") as layer:
        assert layer.read(13) == b"what it wrote"
    assert sorted(path.name for path in own.iterdir()) == [
        made_up_host.only(picky.store, "web", "initrd").name,
        "refused.json",
        made_up_host.only(picky.store, "web", "writable").name,
    ]


def test_what_was_taken_back_is_not_tried_again_until_something_changes(picky: Host) -> None:
    bad = _zone(image=reference("2"))
    picky.converge(bad)
    picky.hypervisor.calls.clear()
    for check in (True, False):
        report = picky.converge(bad, _zone("other"), check=check)
        assert report.failures[0].startswith("zone web: recreate: not tried again, because it was taken back before: its health check")
        assert [(zone["name"], zone["failed"]) for zone in report.zones] == [("other", False), ("web", True)]
    assert [call for call in picky.hypervisor.calls if call.endswith("web")] == []
    picky.converge(bad, retry=True)
    assert "stop web" in picky.hypervisor.calls
    picky.hypervisor.calls.clear()
    picky.converge(_zone(image=reference("3")))
    assert picky.hypervisor.calls[0] == "stop web"
    assert picky.converge(_zone()).failures == []


def test_a_corrected_secret_is_another_change(picky: Host) -> None:
    bad = _zone(image=reference("2"), secrets=["password"])
    picky.converge(bad, secrets={"password": "wrong"})
    picky.hypervisor.calls.clear()
    picky.converge(bad, secrets={"password": "corrected"})
    assert picky.hypervisor.calls[0] == "stop web"


def test_what_was_refused_is_forgotten_when_it_has_come_up(picky: Host) -> None:
    bad = _zone(image=reference("2"))
    picky.converge(bad)
    picky.hypervisor.start = type(picky.hypervisor).start.__get__(picky.hypervisor)  # type: ignore[method-assign]
    picky.hypervisor.said.clear()
    assert picky.converge(bad, retry=True).failures == []
    assert not (picky.store.zones / "web" / "refused.json").exists()


def test_a_command_that_is_empty_goes_back_to_that_of_the_image(picky: Host) -> None:
    """An empty list is no missing one: the definition before keeps its own initrd."""
    before = made_up_host.only(picky.store, "web", "initrd").read_bytes()
    picky.converge(_zone(image=reference("2"), entrypoint=["x"], command=[]))
    assert made_up_host.only(picky.store, "web", "initrd").read_bytes() == before
    picky.converge(_zone(command=["run"]))
    running = made_up_host.only(picky.store, "web", "initrd").name
    picky.converge(_zone(command=["run"], entrypoint=[]))
    assert made_up_host.only(picky.store, "web", "initrd").name != running


@pytest.mark.parametrize("changed", ["another name", "the same name"])
def test_a_zone_that_does_not_come_up_with_another_kernel_goes_back_and_is_not_tried_again(host: Host, changed: str) -> None:
    start = host.hypervisor.start

    def judged(name: str) -> None:
        good = f"{'a' * 64}/vmlinux" in host.hypervisor.domains[name].xml
        host.hypervisor.said[name] = HEALTH % (b"healthy" if good else b"unhealthy")
        start(name)

    host.hypervisor.start = judged  # type: ignore[method-assign]
    host.publish("1")
    host.converge(_zone(kernel="stable"))
    other = _zone(kernel="old")
    if changed == "the same name":  # The name stands for another kernel now, as after its tag was looked up again.
        made_up_host.add_kernels(host.store, unused=("pv",), stable=("pv", "pvh"))
        other = _zone(kernel="stable")
    report = host.converge(other)
    assert report.failures[0].startswith("zone web: restart: its health check fails")
    assert report.failures[0].endswith("; the zone runs as before")
    assert f"{'a' * 64}/vmlinux" in host.hypervisor.domains["web"].xml
    assert host.hypervisor.domain_id("web") is not None
    host.hypervisor.calls.clear()
    assert "not tried again, because it was taken back before: its health check" in host.converge(other).failures[0]
    assert host.hypervisor.calls == []


def test_a_zone_that_cannot_be_brought_back_is_told_and_tried_again(picky: Host) -> None:
    picky.hypervisor.unstartable.add("web")
    report = picky.converge(_zone(memory="256MiB"))
    assert report.failures == [
        "zone web: restart: libvirt cannot start it; and it could not be brought back to what it was: libvirt cannot start it"
    ]
    picky.hypervisor.unstartable.clear()
    assert picky.converge(_zone(memory="256MiB")).failures == []


def test_a_zone_that_ran_without_a_record_is_watched_by_the_next_run(host: Host) -> None:
    """The run that started it was killed while it waited."""
    host.converge(_zone())
    made_up_host.write_record(host.store, "web", bytes(4096))
    report = host.converge(_zone(), start_timeout=0.3)
    assert report.failures[0].startswith("zone web: keep: its container did not start within 0.3 s")


# Secrets.


def test_a_secret_is_in_no_result_and_no_metadata(host: Host) -> None:
    zone = _zone(secrets=["password"])
    report = host.converge(zone, secrets={"password": "hunter2"})
    assert "hunter2" not in json.dumps(dataclasses.asdict(report))
    assert "hunter2" not in host.hypervisor.domains["web"].xml
    assert not host.converge(zone, secrets={"password": "hunter2"}).changed
    changed = host.converge(zone, secrets={"password": "hunter3"})
    assert (_actions(changed), changed.zones[0]["reasons"]) == ({"web": "restart"}, ["secret password has changed"])


def test_a_change_that_is_taken_back_takes_its_secrets_back(picky: Host) -> None:
    before = made_up_host.only(picky.store, "web", "initrd").read_bytes()
    picky.converge(_zone(image=reference("2"), secrets=["password"]), secrets={"password": "hunter2"})
    assert made_up_host.only(picky.store, "web", "initrd").read_bytes() == before


def test_who_may_read_a_secret_is_a_change(host: Host) -> None:
    secrets = {"password": "hunter2"}
    host.converge(_zone(secrets=["password"]), secrets=secrets)
    report = host.converge(_zone(secrets=[{"source": "password", "uid": 33, "mode": "0400"}]), secrets=secrets)
    assert report.zones[0]["reasons"] == [
        "secrets ['password:/run/secrets/password'] → ['password:/run/secrets/password uid=33 mode=0400']"
    ]
    assert _actions(report) == {"web": "restart"}


# The network.


def test_a_zone_that_is_let_in_finds_the_other_by_name(host: Host) -> None:
    db = _zone("db", networks={"ingress": [{"from": "web", "ports": [5432]}]})
    report = host.converge(_zone(), db)
    assert [zone.get("peers") for zone in report.zones] == [None, {"db": "198.18.0.1"}]
    assert "jump from_rz2" in str(host.table)
    assert "ct reply ip saddr 198.18.0.1 meta l4proto tcp ct reply proto-src 5432 accept" in str(host.table)
    assert not host.converge(_zone(), db).changed


LETTING_IN: dict[str, Any] = {"networks": {"ingress": [{"from": "web"}]}}


def _names(content: bytes | str) -> list[str]:
    """The names in what a zone has, or will boot with, as ``/etc/hosts``."""
    text = content if isinstance(content, str) else content.decode("utf-8", "replace")
    return re.findall(r"^198\.18\.0\.\d+\t(\w+)$", text, re.MULTILINE)


def test_a_running_zone_gets_the_names_of_its_peers(host: Host) -> None:
    """And starts with them the next time."""
    host.converge(_zone(), _zone("db"))
    for declared, names in ((LETTING_IN, ["web", "db"]), ({}, ["web"])):
        host.hypervisor.calls.clear()
        assert _actions(host.converge(_zone(), _zone("db", **declared))) == {"db": "live", "web": "live"}
        assert "start web" not in host.hypervisor.calls
        assert _names(host.hosts["web"]) == names
        initrd = made_up_host.only(host.store, "web", "initrd")
        assert str(initrd) in host.hypervisor.domains["web"].xml
        assert _names(initrd.read_bytes()) == names
        assert not host.converge(_zone(), _zone("db", **declared)).changed


def test_a_zone_that_does_not_take_the_names_of_its_peers_is_as_before(host: Host) -> None:
    host.converge(_zone(), _zone("db"))
    before = host.hypervisor.domains["web"].xml
    host.silent.add("web")
    report = host.converge(_zone(memory="96MiB"), _zone("db", **LETTING_IN))
    assert report.failures == [
        "zone web: live: zone web: its channel did not answer within 5 s: no message; the next run tries again, and "
        "`zonectl stop web` before it has the zone started so; until then its /etc/hosts may be incomplete"
    ]
    assert host.hypervisor.domains["web"].xml == before
    assert "memory web 96" not in host.hypervisor.calls
    host.silent.clear()
    assert _actions(host.converge(_zone(), _zone("db"))) == {"db": "live", "web": "live"}
    assert _names(host.hosts["web"]) == ["web"]
    assert not host.converge(_zone(), _zone("db")).changed


@pytest.mark.parametrize("at", ["before", "during", "after"])
def test_a_zone_that_begins_anew_while_its_names_change_has_them_after_the_next_run(
    host: Host, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """It may have begun from the definition before."""
    host.converge(_zone(), _zone("db"))
    before = made_up_host.only(host.store, "web", "initrd")

    def begin_anew(*arguments: Any, **options: Any) -> None:
        host.hypervisor.domains["web"].number = 99
        if at == "during":
            raise RingfenceError("zone web: its channel did not answer")
        host.write_hosts(*arguments, **options)

    with monkeypatch.context() as patch:
        if at == "before":
            patch.setattr(host.hypervisor, "domain_id", lambda _name: None)
        patch.setattr(channel, "write_hosts", begin_anew)
        report = host.converge(_zone(), _zone("db", **LETTING_IN))
    assert report.failures == ["zone web: live: it ended while it was being changed; the next run brings it to what is declared"]
    assert before.exists()
    again = host.converge(_zone(), _zone("db", **LETTING_IN))
    assert (again.failures, _actions(again)["web"]) == ([], "live")
    assert _names(made_up_host.only(host.store, "web", "initrd").read_bytes()) == ["web", "db"]
    assert not host.converge(_zone(), _zone("db", **LETTING_IN)).changed


def test_a_zone_that_does_not_follow_in_size_has_the_names_as_before(host: Host) -> None:
    host.converge(_zone(), _zone("db"))
    before = made_up_host.only(host.store, "web", "initrd")
    host.hypervisor.stubborn.add("web")
    report = host.converge(_zone(memory="96MiB"), _zone("db", **LETTING_IN), start_timeout=0.3)
    assert len(report.failures) == 1
    assert _names(host.hosts["web"]) == ["web"]
    assert made_up_host.only(host.store, "web", "initrd") == before


@pytest.mark.parametrize("killed", ["write_hosts", "write", "define"])
@pytest.mark.parametrize("still_wanted", [True, False])
def test_names_that_a_killed_run_gave_are_those_that_are_declared(
    host: Host, monkeypatch: pytest.MonkeyPatch, killed: str, still_wanted: bool
) -> None:
    host.converge(_zone(), _zone("db"))

    calls: dict[str, tuple[Any, Any]] = {
        "write_hosts": (channel, lambda name, *_: name),
        "write": (make, lambda _store, definition, *_: definition.zone.name),
        "define": (host.hypervisor, lambda xml: ET.fromstring(xml).findtext("name")),
    }
    target, zone = calls[killed]
    done = getattr(target, killed)

    def kill(*arguments: Any, **options: Any) -> None:
        if zone(*arguments) == "web":  # The other one is changed at the same time, and may come first.
            raise _Killed
        done(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(target, killed, kill)
        with pytest.raises(_Killed):
            host.converge(_zone(), _zone("db", **LETTING_IN))
    wanted = _zone("db", **LETTING_IN) if still_wanted else _zone("db")
    assert _actions(host.converge(_zone(), wanted))["web"] == "live"
    names = ["web", "db"] if still_wanted else ["web"]
    assert _names(host.hosts["web"]) == _names(made_up_host.only(host.store, "web", "initrd").read_bytes()) == names
    assert not host.converge(_zone(), wanted).changed
    assert {path.name.partition("-")[0] for path in (host.store.zones / "web").iterdir()} == {"initrd", "writable"}


def test_connections_are_let_out_and_shut_off_while_the_zone_runs(host: Host) -> None:
    host.converge(_zone())
    report = host.converge(_zone(networks={"egress": [{"to": "192.0.2.0/24"}]}))
    assert _actions(report) == {"web": "live"}
    assert "ct reply ip saddr 192.0.2.0/24 accept" in str(host.table)
    host.converge(_zone())
    assert "192.0.2.0" not in str(host.table)


def test_a_port_that_a_zone_could_not_give_away_leads_to_the_one_that_is_declared_to_have_it(host: Host) -> None:
    host.converge(_zone(ports=["8080:80"]))
    _unhealthy_with(host, "2")
    declared = (_zone(image=reference("2")), _zone("proxy", ports=["8080:8000"]))
    for _run in range(2):
        report = host.converge(*declared)
        assert len(report.failures) == 1
        assert "8080 : 198.18.0.2 . 8000" in str(host.table)
        assert "198.18.0.1 . 80" not in str(host.table)


def test_a_zone_whose_dependency_failed_keeps_its_ports(host: Host) -> None:
    host.converge(_zone(ports=["8080:80"], depends_on=["db"]), _zone("db"))
    _unhealthy_with(host, "2")
    declared = _zone(ports=["8080:8000"], depends_on=["db"]), _zone("db", reference("2"))
    report = host.converge(*declared)
    assert [failure.partition(";")[0] for failure in report.failures] == [
        "zone db: recreate: its health check fails",
        "zone web: live: not done, because it depends on db",
    ]
    assert "8080 : 198.18.0.2 . 80 }" in str(host.table)
    assert "8000" not in str(host.table)
    host.commands.clear()
    for check in (True, False):
        again = host.converge(*declared, check=check)
        assert (again.changed, len(again.failures), again.failures[1]) == (False, 2, report.failures[1])
        assert [(zone["changed"], zone["failed"]) for zone in again.zones] == [(False, True)] * 2
    assert "nft" not in host.commands


# Volumes.

DATA = {"data": {"size": "16MiB"}}


def test_a_volume_is_made_before_the_zone_that_has_it(host: Host) -> None:
    report = host.converge(_zone(volumes=["data:/srv"]), volumes=DATA)
    assert report.volumes == [{"name": "data", "action": "create", "size": 16, "changed": True}]
    assert (report.before["volume data"], report.after["volume data"]) == (None, {"size": 16})
    assert (host.store.volumes / "data.img").stat().st_size == 16 * 1024 * 1024
    assert f"{host.store.volumes}/data.img" in host.hypervisor.domains["web"].xml
    again = host.converge(_zone(volumes=["data:/srv"]), volumes=DATA)
    assert (again.changed, again.volumes[0]["action"]) == (False, "keep")


def test_a_volume_whose_file_is_missing_is_not_made_anew_under_its_zone(host: Host) -> None:
    host.converge(_zone(volumes=["data:/srv"]), volumes=DATA)
    file = host.store.volumes / "data.img"
    file.rename(host.store.root / "elsewhere")
    moved = (_zone(), _zone("other", volumes=["data:/srv"]))
    for declared in ((_zone(volumes=["data:/srv"]),), moved):
        (problem,) = _problems(host, *declared, volumes=DATA)
        assert problem.startswith(f"volume data: its file is missing, and zone web has it: mount or restore {file}, or remove that zone")
    assert not file.exists()
    (host.store.root / "elsewhere").rename(file)
    assert not host.converge(_zone(volumes=["data:/srv"]), volumes=DATA).changed
    file.unlink()
    assert host.converge(_zone(state="absent"), volumes=DATA).volumes[0]["action"] == "create"


def test_a_volume_outlives_its_zone_and_its_declaration(host: Host) -> None:
    host.converge(_zone(volumes=["data:/srv"]), volumes=DATA)
    content = (host.store.volumes / "data.img").read_bytes()
    host.converge(_zone(state="absent"), prune=True)
    assert (host.store.volumes / "data.img").read_bytes() == content


def test_a_larger_volume_restarts_its_zone(host: Host) -> None:
    host.converge(_zone(volumes=["data:/srv"]), _zone("other"), volumes=DATA)
    report = host.converge(_zone(volumes=["data:/srv"]), _zone("other"), volumes={"data": {"size": "24MiB"}})
    assert _actions(report) == {"web": "restart", "other": "keep"}
    assert report.volumes[0]["action"] == "grow"


def test_a_volume_is_deleted_after_the_zone_that_had_it(host: Host) -> None:
    host.converge(_zone(volumes=["data:/srv"]), volumes=DATA)
    report = host.converge(_zone(state="absent"), volumes={"data": {"state": "absent"}})
    assert (report.changed, report.volumes[0]["action"]) == (True, "remove")
    assert list(host.store.volumes.iterdir()) == []


def test_a_smaller_volume_is_refused(host: Host) -> None:
    host.converge(volumes={"data": {"size": "24MiB"}})
    assert _problems(host, volumes=DATA) == ["volume data: size: 16MiB is not accepted; it has 24 MiB, and a volume never shrinks"]


def test_a_volume_of_a_zone_that_is_not_declared_is_left_alone(host: Host) -> None:
    host.converge(_zone(volumes=["data:/srv"]), volumes=DATA)
    assert _problems(host, _zone("other", volumes=["data:/srv"]), volumes=DATA) == [
        "zone other: volumes: data is not accepted; zone web, which is not declared, has it"
    ]
    assert _problems(host, volumes={"data": {"state": "absent"}}) == [
        "volume data: zone web, which is not declared, has it; declare or remove that zone"
    ]


@pytest.mark.parametrize(
    ("web", "api"),
    [
        ({}, {"volumes": ["data:/srv"]}),
        # Web comes later than api, which gets its volume.
        ({"depends_on": ["api"]}, {"volumes": ["data:/srv"]}),
        # Each gets that of the other.
        ({"volumes": ["more:/srv"]}, {"volumes": ["data:/srv"]}),
    ],
)
def test_volumes_move_between_zones_that_run(host: Host, web: dict[str, Any], api: dict[str, Any]) -> None:
    """The made-up host refuses what a real one does: to start a zone with a disk of another that runs."""
    host.publish("1")
    both = {**DATA, "more": {"size": "16MiB"}}
    host.converge(_zone("web", volumes=["data:/srv"]), _zone("api", volumes=["more:/srv"]), volumes=both)
    report = host.converge(_zone("web", **web), _zone("api", **api), volumes=both)
    assert report.failures == []
    assert _actions(report) == {"web": "restart", "api": "restart"}
    assert host.hypervisor.calls.count("start web") == host.hypervisor.calls.count("start api") == 2


def _unhealthy_with(host: Host, digit: str) -> None:
    """From now on no zone is healthy with this image."""
    start = host.hypervisor.start

    def judged(name: str) -> None:
        host.hypervisor.said[name] = HEALTH % (b"unhealthy" if digest(digit) in host.hypervisor.domains[name].xml else b"healthy")
        start(name)

    host.hypervisor.start = judged  # type: ignore[method-assign]


def test_a_zone_is_not_stopped_for_its_volume_before_what_it_depends_on_is_there(host: Host) -> None:
    _unhealthy_with(host, "2")
    host.converge(_zone(volumes=["data:/srv"]), volumes=DATA)
    number = host.hypervisor.domains["web"].number
    declared = (_zone(depends_on=["cache"]), _zone("cache", image=reference("2")), _zone("db", volumes=["data:/srv"]))
    report = host.converge(*declared, volumes=DATA)
    assert [zone["name"] for zone in report.zones if zone["failed"]] == ["cache", "db", "web"]
    assert host.hypervisor.domains["web"].number == number
    assert "db" not in host.hypervisor.domains


def test_a_volume_that_cannot_be_deleted_is_told(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.converge(volumes=DATA)

    def apply(*_arguments: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(volumes, "apply", apply)
    report = host.converge(_zone(), volumes={"data": {"state": "absent"}})
    assert report.failures == ["volume data: remove: [Errno 1] Operation not permitted"]
    assert _actions(report) == {"web": "create"}


def test_a_zone_whose_health_a_killed_run_waited_for_is_watched_by_the_next(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.converge(_zone())
    host.hypervisor.said["web"] = HEALTH % b"starting"

    def kill(*_arguments: Any) -> NoReturn:
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(apply.Apply, "_watch", kill)
        with pytest.raises(_Killed):
            host.converge(_zone(environment={"A": "1"}))
    made_up_host.write_record(host.store, "web", HEALTH % b"unhealthy")
    (failure,) = host.converge(_zone(environment={"A": "1"})).failures
    assert failure.startswith("zone web: keep: its health check fails")
    assert host.hypervisor.domain_id("web") is None


def test_a_volume_stays_with_the_zone_that_is_taken_back(host: Host) -> None:
    host.converge(_zone("web", volumes=["data:/srv"]), _zone("api"), volumes=DATA)
    _unhealthy_with(host, "2")
    calls = len(host.hypervisor.calls)
    report = host.converge(_zone("web", reference("2")), _zone("api", volumes=["data:/srv"]), volumes=DATA)
    assert report.failures[1] == "zone api: restart: not done, because zone web, which has failed, has volume data"
    assert [(zone["name"], zone["failed"], zone["changed"]) for zone in report.zones] == [("api", True, False), ("web", True, True)]
    assert [call for call in host.hypervisor.calls[calls:] if call.endswith("api")] == []
    assert host.hypervisor.domains["web"].number is not None


def test_a_volume_of_a_zone_that_is_taken_back_is_not_deleted(host: Host) -> None:
    host.converge(_zone(volumes=["data:/srv"]), volumes=DATA)
    _unhealthy_with(host, "2")
    report = host.converge(_zone(image=reference("2")), volumes={"data": {"state": "absent"}})
    assert report.failures[1] == "volume data: remove: not done, because zone web, which has failed, has it"
    assert (report.volumes[0]["action"], report.volumes[0]["changed"]) == ("remove", False)
    assert (host.store.volumes / "data.img").exists()


def test_a_zone_that_was_stopped_for_its_volume_runs_again_when_its_change_is_not_begun(host: Host) -> None:
    host.converge(_zone("web", volumes=["data:/srv"]), _zone("api"), volumes=DATA)
    _unhealthy_with(host, "2")
    host.hypervisor.calls.clear()
    api = _zone("api", reference("2"), volumes=["data:/srv"])
    report = host.converge(_zone("web", depends_on=["api"]), api, volumes=DATA)
    assert report.failures[1] == "zone web: restart: not done, because it depends on api"
    assert host.hypervisor.calls[0] == "stop web"
    assert all(domain.number is not None for domain in host.hypervisor.domains.values())
    assert "data.img" in host.hypervisor.domains["web"].xml


def test_a_zone_whose_volume_cannot_be_made_is_left_alone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.converge(_zone())
    host.hypervisor.calls.clear()

    def fail(_argv: Any) -> NoReturn:
        raise RingfenceError("mkfs.ext4 failed with exit status 1: no output")

    monkeypatch.setattr(volumes, "run", fail)
    report = host.converge(_zone(volumes=["data:/srv"]), volumes=DATA)
    assert report.failures == [
        "volume data: create to 16 MiB: mkfs.ext4 failed with exit status 1: no output",
        "zone web: restart: not done, because volume data is not as declared",
    ]
    assert (host.hypervisor.calls, report.volumes[0]["changed"]) == ([], False)


def test_check_mode_makes_no_volume(host: Host) -> None:
    report = host.converge(_zone(volumes=["data:/srv"]), volumes=DATA, check=True)
    assert (report.changed, report.volumes[0]["action"]) == (True, "create")
    assert not host.store.volumes.exists()


def test_variables_from_files_of_the_host_are_compared_with_what_the_zone_has(host: Host, tmp_path: Path) -> None:
    file = tmp_path / "web.env"
    file.write_text("A=1\n")
    declared = _zone(env_file=str(file), environment={"B": "1"})
    host.converge(declared)
    assert host.hypervisor.observe()[0]["web"].definition.zone.environment == {"A": "1", "B": "1"}  # type: ignore[union-attr]
    assert not host.converge(declared).changed
    file.write_text("A=2\n")
    report = host.converge(declared)
    assert (_actions(report), report.zones[0]["reasons"]) == ({"web": "restart"}, ["environment A"])
    file.unlink()
    with pytest.raises(InvalidDeclaration, match="is not on this host"):
        host.converge(declared)


# What nothing uses any more.


def _in_store(host: Host) -> set[str]:
    """The first digits of the digests of all images, kernels and zone bases."""
    paths = [path for part in ("images", "kernels", "runtime") for path in (host.store.root / part).iterdir()]
    return {path.name[0] for path in paths if path.is_dir()}


def _run_images_in_turn(host: Host, *digits: str, **policy: Any) -> list[converge.Report]:
    """Converge one zone to one image after the other; each takes a second, as the store sees it."""
    reports = []
    for second, digit in enumerate(digits):
        reports.append(host.converge(_zone(image=reference(digit)), **policy))
        os.utime(host.store.images / (digit * 64), (second, second))
    return reports


def test_the_last_unused_images_stay_and_older_ones_are_deleted_in_the_run_that_leaves_them(host: Host) -> None:
    assert [report.deleted for report in _run_images_in_turn(host, "1", "2", "3", keep_unused=1)] == [[], [], [f"image {digest('1')}"]]
    assert _in_store(host) == {"2", "3", "a", "b", "e"}
    assert not host.converge(_zone(image=reference("3")), keep_unused=1).changed


def test_an_image_that_is_used_again_is_no_old_one(host: Host) -> None:
    host.publish("4")
    _run_images_in_turn(host, "1", "2", "1", "3", keep_unused=3)
    assert host.converge(_zone(image=reference("4")), keep_unused=2).deleted == [f"image {digest('2')}"]


def test_check_mode_names_what_would_be_deleted_and_keeps_it(host: Host) -> None:
    _run_images_in_turn(host, "1", "2")
    before = host.snapshot()
    predicted = host.converge(_zone(image=reference("2")), keep_unused=0, check=True)
    assert (predicted.changed, predicted.deleted) == (True, [f"image {digest('1')}"])
    assert host.snapshot() == before
    done = host.converge(_zone(image=reference("2")), keep_unused=0)
    assert (done.changed, done.deleted) == (True, predicted.deleted)


def _damage(host: Host, digit: str) -> Path:
    path = host.store.images / (digit * 64) / "rootfs.img"
    path.write_bytes(b"FILES")
    return path


def test_a_damaged_image_is_fetched_again_before_a_zone_starts_with_it(host: Host) -> None:
    host.publish("1")
    host.converge(_zone())
    image = _damage(host, "1")
    assert not host.converge(_zone()).changed
    assert image.read_bytes() == b"FILES"  # It is read when a zone shall start with it.
    assert host.converge(_zone(), _zone("other")).failures == []
    assert image.read_bytes() == b"files"


def test_a_damaged_image_that_cannot_be_fetched_again_starts_no_zone_and_stays(host: Host) -> None:
    host.publish("1")
    host.converge(_zone())
    image = _damage(host, "1")
    host.published.clear()
    host.hypervisor.calls.clear()
    assert "zone web: restart: image registry.example/image" in host.converge(_zone(memory="256MiB")).failures[0]
    assert (image.read_bytes(), host.hypervisor.calls) == (b"FILES", [])


def test_a_damaged_image_of_a_tag_that_moved_is_fetched_as_what_the_tag_meant(host: Host) -> None:
    host.publish("1", tag="stable")
    zone = _zone(image="registry.example/image:stable")
    host.converge(zone)
    image = _damage(host, "1")
    host.publish("2", tag="stable")
    host.publish("1")
    assert host.converge({**zone, "memory": "256MiB"}).failures == []
    assert image.read_bytes() == b"files"
    assert digest("1") in host.hypervisor.domains["web"].xml


def test_what_another_zone_uses_is_never_deleted(host: Host) -> None:
    host.converge(_zone("web"), _zone("api", reference("2"), kernel="old"))
    _rename_kernel(host, "old")
    assert host.converge(_zone("web"), keep_unused=0).deleted == []
    assert host.converge(_zone("web"), keep_unused=0, prune=True).deleted == [f"image {digest('2')}", f"kernel {digest('b')}"]


def _rename_kernel(host: Host, name: str) -> None:
    """Let a name stand for no kernel any more."""
    names = json.loads((host.store.kernels / "names.json").read_text())
    del names["kernels"][name]
    (host.store.kernels / "names.json").write_text(json.dumps(names))


def test_an_older_zone_base_goes_when_the_last_zone_on_it_does(host: Host) -> None:
    host.converge(_zone("web"), _zone("api"))
    made_up_host.add_runtime(host.store, "f")
    assert host.converge(_zone("web"), _zone("api"), keep_unused=9).deleted == []
    assert host.converge(_zone("web"), _zone("api"), adopt_runtime=True, keep_unused=9).deleted == [f"zone base {digest('e')}"]


def test_a_change_that_fails_deletes_neither_what_it_wanted_nor_what_runs(host: Host) -> None:
    host.converge(_zone())
    host.hypervisor.said["web"] = RECORD % (b"failed", b"125")
    failed = host.converge(_zone(image=reference("2")), keep_unused=0)
    assert (bool(failed.failures), failed.deleted) == (True, [])


def test_nothing_is_deleted_while_nobody_knows_what_a_zone_uses(host: Host) -> None:
    _run_images_in_turn(host, "1", "2")
    host.hypervisor.domains["odd"] = dataclasses.replace(host.hypervisor.domains["web"], xml="<domain><name>odd</name></domain>")
    assert host.converge(_zone(image=reference("2")), keep_unused=0).deleted == []


def _kept_layers(host: Host) -> set[str]:
    """The first digits of the digests of the layers that the store keeps."""
    return {path.name[0] for path in host.store.layers.glob("sha256/*")}


def test_layers_go_with_the_last_image_that_has_them(host: Host) -> None:
    host.publish("1", layers=[digest("7"), digest("8")])
    host.publish("2", layers=[digest("7"), digest("9")])
    _run_images_in_turn(host, "1", "2")
    assert _kept_layers(host) == {"7", "8", "9"}  # The image that is unused and stays has its own.
    host.converge(_zone(image=reference("2")), keep_unused=0, check=True)
    assert _kept_layers(host) == {"7", "8", "9"}
    host.converge(_zone(image=reference("2")), keep_unused=0)
    assert _kept_layers(host) == {"7", "9"}


def test_layers_of_a_pull_that_was_cut_stay_while_its_image_is_declared(host: Host) -> None:
    host.publish("1", layers=[digest("7")], damage="the registry gives no usable answer")
    for _run in range(2):
        assert host.converge(_zone(), _zone("api", reference("2"))).failures
        assert _kept_layers(host) == {"7"}
    made_up_host.add_layers(host.store, digest("8"))  # What else lies there, as the configuration of an image.
    assert not host.converge(_zone("api", reference("2")), check=True).changed
    assert not host.converge(_zone("api", reference("2"))).changed
    assert _kept_layers(host) == set()


def test_an_image_of_a_version_that_kept_no_layers_goes_on_working(host: Host) -> None:
    host.converge(_zone())
    description = host.store.images / ("1" * 64) / "image.json"
    described = json.loads(description.read_bytes())
    del described["layers"]
    description.write_text(json.dumps(described))
    report = host.converge(_zone())
    assert (report.failures, report.changed) == ([], False)


def test_the_loop_device_of_a_deleted_image_is_detached_first(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    _run_images_in_turn(host, "1", "2")
    detached = []

    def run(argv: Sequence[str]) -> bytes:
        if argv[1] == "--detach":
            detached.append(argv[2])
            assert (host.store.images / ("1" * 64)).is_dir()
        return "".join(f"/dev/loop{digit} {host.store.images}/{digit * 64}/rootfs.img\n" for digit in "12").encode()

    monkeypatch.setattr(garbage, "run", run)
    assert host.converge(_zone(image=reference("2")), keep_unused=0).deleted == [f"image {digest('1')}"]
    assert detached == ["/dev/loop1"]
