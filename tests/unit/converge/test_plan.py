"""Tests of the library's ``converge.plan``."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.converge.plan import Step, plan, waves
from ansible_collections.ringfence.zones.plugins.module_utils.spec.fields import Device, Healthcheck, Mount, Networks, Port, Secret, Traffic
from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import FIELDS, Zone
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import Definition
from ansible_collections.ringfence.zones.plugins.module_utils.zone.observed import Observed, Running
from ansible_collections.ringfence.zones.plugins.module_utils.zone.volumes import Change

ONE, TWO = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"


def _definition(name: str = "web", **changes: Any) -> Definition:
    own = {field.name for field in dataclasses.fields(Definition)} - {"image", "kernel", "secrets"}
    resolved = {"image": ONE, "kernel": ONE, "mode": "pv", "runtime": ONE, "index": 1}
    resolved.update({key: value for key, value in changes.items() if key in own or key in ("image", "kernel")})
    zone = {key: value for key, value in changes.items() if key not in resolved}
    return Definition(zone=Zone(name=name, image="registry.example/web", **zone), **resolved)  # type: ignore[arg-type]


def _observed(definition: Definition, *, active: bool = True, whole: bool = True) -> Observed:
    return Observed(definition, 1 if active else None, whole)


def _one(declared: Definition, observed: Observed | None) -> Step:
    (step,) = plan([declared], [], {declared.zone.name: observed} if observed else {}, {})
    return step


def test_a_zone_that_is_as_declared_is_kept() -> None:
    step = _one(_definition(), _observed(_definition()))
    assert (step.action, step.reasons, step.changes) == ("keep", (), False)


def test_a_zone_that_does_not_exist_is_created() -> None:
    step = _one(_definition(), None)
    assert (step.action, step.reasons, step.before, step.definition) == ("create", ("does not exist",), None, _definition())
    assert step.changes


# For each field of the declaration that is compared: a value other than the default, what happens, and the reason.
DIFFERENCES: dict[str, tuple[dict[str, Any], str, str]] = {
    "image": ({"image": TWO}, "recreate", f"image {ONE[:19]}… → {TWO[:19]}…"),
    "kernel": ({"kernel": TWO}, "restart", f"kernel {ONE[:19]}… → {TWO[:19]}…"),
    "virtualization": ({"mode": "pvh"}, "restart", "virtualization pv → pvh"),
    "memory": ({"memory": 96}, "resize", "memory 128 → 96"),
    "cpus": ({"cpus": 2}, "resize", "cpus 1 → 2"),
    "cpu_shares": ({"cpu_shares": 512}, "live", "cpu_shares 1024 → 512"),
    "entrypoint": ({"entrypoint": ("sh",)}, "restart", "entrypoint None → ('sh',)"),
    "command": ({"command": ("sh",)}, "restart", "command None → ('sh',)"),
    "environment": ({"environment": {"A": "1"}}, "restart", "environment A"),
    "ports": ({"ports": (Port(80, 80),)}, "live", "ports [] → ['80:80/tcp']"),
    "restart": ({"restart": "always"}, "restart", "restart no → always"),
    "user": ({"user": "1000:1000"}, "restart", "user None → 1000:1000"),
    "working_dir": ({"working_dir": "/srv"}, "restart", "working_dir None → /srv"),
    "hostname": ({"hostname": "www"}, "restart", "hostname None → www"),
    "labels": ({"labels": {"site": "north"}}, "live", "labels {} → {'site': 'north'}"),
    "read_only": ({"read_only": True}, "restart", "read_only False → True"),
    "cap_add": ({"cap_add": ("NET_ADMIN",)}, "restart", "cap_add () → ('NET_ADMIN',)"),
    "cap_drop": ({"cap_drop": ("ALL",)}, "restart", "cap_drop () → ('ALL',)"),
    "tmpfs": ({"tmpfs": ("/run",)}, "restart", "tmpfs () → ('/run',)"),
    "ulimits": ({"ulimits": {"core": (0, 0)}}, "restart", "ulimits {} → {'core': (0, 0)}"),
    "sysctls": ({"sysctls": {"vm.swappiness": "0"}}, "restart", "sysctls {} → {'vm.swappiness': '0'}"),
    "stop_signal": ({"stop_signal": "QUIT"}, "restart", "stop_signal None → QUIT"),
    "stop_grace_period": ({"stop_grace_period": 60}, "restart", "stop_grace_period 10 → 60"),
    "dns": ({"dns": ("192.0.2.53",)}, "restart", "dns () → ('192.0.2.53',)"),
    "networks": (
        {"networks": Networks(egress=(Traffic("10.0.0.0/8", ("80/tcp",)),))},
        "live",
        "networks {} → {'egress': ['10.0.0.0/8 80/tcp']}",
    ),
    "healthcheck": (
        {"healthcheck": Healthcheck(test=("true",), retries=5)},
        "restart",
        "healthcheck {} → {'test': ('true',), 'retries': 5}",
    ),
    "depends_on": ({"depends_on": {"db": "service_started"}}, "live", "depends_on {} → {'db': 'service_started'}"),
    "secrets": ({"secrets": (Secret("/run/secrets/a", "a"),)}, "restart", "secrets [] → ['a:/run/secrets/a']"),
    "devices": (
        {"devices": (Device("/dev/fuse", "/dev/fuse"),)},
        "restart",
        "devices [] → ['/dev/fuse:/dev/fuse:rwm']",
    ),
    "volumes": ({"volumes": (Mount("/srv", "data"),)}, "restart", "volumes [] → ['data:/srv']"),
    "extra_hosts": ({"extra_hosts": {"db": "192.0.2.1"}}, "restart", "extra_hosts {} → {'db': '192.0.2.1'}"),
}


@pytest.mark.parametrize("field", DIFFERENCES)
def test_each_field_costs_what_the_table_says(field: str) -> None:
    changes, cost, reason = DIFFERENCES[field]
    action = "restart" if cost == "resize" else cost  # It is not known what the zone was started with.
    step = _one(_definition(**changes), _observed(_definition()))
    assert (step.action, step.reasons) == (action, (reason,))
    assert cost == FIELDS[field].change
    assert step.definition == _definition(**changes)
    assert step.before is not None
    assert step.after is not None
    assert {key for key in step.after if step.after[key] != step.before[key]} == {field}


@pytest.mark.parametrize(
    ("changes", "action"),
    [
        ({"memory": 256}, "live"),
        ({"memory": 128}, "live"),
        ({"memory": 127}, "restart"),
        ({"memory": 257}, "restart"),
        ({"cpus": 1}, "live"),
        ({"cpus": 4}, "live"),
        ({"cpus": 5}, "restart"),
        ({"memory": 256, "cpus": 5}, "restart"),
        ({"memory": 256, "user": "1"}, "restart"),
        ({"memory": 256, "image": TWO}, "recreate"),
    ],
)
def test_memory_and_cpus_change_live_within_what_the_zone_was_started_with(changes: dict[str, Any], action: str) -> None:
    before = _definition(memory=192, cpus=2)
    observed = _observed(before)._replace(running=Running(192, 256, 2, 4))
    declared = _definition(**{"memory": 192, "cpus": 2, **changes})
    step = _one(declared, observed)
    assert (step.action, step.definition) == (action, declared)
    assert _one(declared, _observed(before, active=False)).action == ("recreate" if action == "recreate" else "restart")


@pytest.mark.parametrize(
    ("running", "action", "reasons"),
    [
        (Running(132, 256, 1, 2), "keep", ()),
        (Running(124, 256, 1, 2), "keep", ()),
        (Running(133, 256, 1, 2), "live", ("memory 133 → 128",)),
        (Running(100, 256, 2, 2), "live", ("memory 100 → 128", "cpus 2 → 1")),
        (Running(100, 120, 1, 2), "restart", ("memory 100 → 128",)),
    ],
)
def test_what_a_zone_has_is_brought_back_to_what_it_is_defined_to_have(running: Running, action: str, reasons: tuple[str, ...]) -> None:
    step = _one(_definition(), _observed(_definition())._replace(running=running))
    assert (step.action, step.reasons) == (action, reasons)


def test_memory_is_given_back_before_anything_takes_it() -> None:
    observed = {name: _observed(_definition(name))._replace(running=Running(128, 256, 1, 1)) for name in ("a", "b", "c")}
    declared = [_definition("a", memory=256), _definition("b", memory=512), _definition("c", memory=96), _definition("d")]
    observed["c"] = observed["c"]._replace(running=Running(128, 128, 1, 1))
    assert [[step.name for step in together] for together in waves(plan(declared, [], observed, {}))] == [["c"], ["b"], ["d", "a"]]


def test_of_two_zones_that_swap_their_memory_the_larger_is_restarted_first() -> None:
    observed = {name: _observed(_definition(name, memory=size)) for name, size in (("a", 128), ("b", 512))}
    steps = plan([_definition("a", memory=512), _definition("b", memory=128)], [], observed, {})
    assert [[step.name for step in together] for together in waves(steps)] == [["b"], ["a"]]


def test_memory_is_given_back_by_a_zone_that_runs_before_that_on_which_it_depends_takes_it() -> None:
    needs_a = {"depends_on": {"a": "service_started"}}
    observed = {
        "a": _observed(_definition("a", memory=256))._replace(running=Running(256, 512, 1, 1)),
        "b": _observed(_definition("b", memory=512, **needs_a))._replace(running=Running(512, 512, 1, 1)),
    }
    steps = plan([_definition("a", memory=512), _definition("b", memory=256, **needs_a)], [], observed, {})
    assert [(step.name, step.action) for step in steps] == [("b", "live"), ("a", "live")]


def test_every_field_that_is_compared_has_a_case_above() -> None:
    assert set(DIFFERENCES) == {name for name, field in FIELDS.items() if field.change != "identity"}


def test_the_heaviest_change_decides_and_every_reason_is_told() -> None:
    declared = _definition(ports=(Port(80, 80),), memory=256, image=TWO)
    step = _one(declared, _observed(_definition()))
    assert step.action == "recreate"
    assert [reason.split()[0] for reason in step.reasons] == ["image", "memory", "ports"]


def test_no_value_of_a_variable_is_told() -> None:
    before = {"KEPT": "one-secret", "CHANGED": "two-secret", "GONE": "three-secret"}
    after = {"KEPT": "one-secret", "CHANGED": "four-secret", "NEW": "five-secret"}
    step = _one(_definition(environment=after), _observed(_definition(environment=before)))
    assert step.reasons == ("environment CHANGED, GONE, NEW",)


def test_a_new_runtime_alone_restarts_nothing() -> None:
    step = _one(_definition(runtime=TWO), _observed(_definition(runtime=ONE)))
    assert (step.action, step.reasons) == ("keep", ())
    assert step.definition is not None
    assert step.definition.runtime == ONE


def test_a_change_that_restarts_nothing_keeps_the_runtime() -> None:
    step = _one(_definition(runtime=TWO, ports=(Port(80, 80),)), _observed(_definition(runtime=ONE)))
    assert step.action == "live"
    assert step.definition is not None
    assert step.definition.runtime == ONE


@pytest.mark.parametrize("active", [True, False])
def test_a_zone_that_is_started_anew_gets_the_current_runtime(active: bool) -> None:
    declared = _definition(runtime=TWO, memory=256 if active else 128)
    step = _one(declared, _observed(_definition(runtime=ONE), active=active))
    assert step.action == ("restart" if active else "start")
    assert step.definition == declared


def test_another_name_of_the_same_image_or_kernel_restarts_nothing_and_is_written_down() -> None:
    observed = _definition(kernel=ONE)
    zone = dataclasses.replace(observed.zone, image="registry.example/web:stable", kernel="stable", virtualization="pv")
    step = _one(dataclasses.replace(observed, zone=zone), _observed(observed))
    assert (step.action, step.reasons) == (
        "live",
        (
            "image is declared as registry.example/web:stable now",
            "kernel is declared as stable now",
            "virtualization is declared as pv now",
        ),
    )


def test_a_new_content_of_a_secret_restarts_the_zone() -> None:
    secrets = (Secret("/run/secrets/a", "a"),)
    before = dataclasses.replace(_definition(), zone=Zone("web", secrets=secrets), secrets={"a": "1"})
    after = dataclasses.replace(before, secrets={"a": "2"})
    step = _one(after, _observed(before))
    assert (step.action, step.reasons) == ("restart", ("secret a has changed",))


def test_a_zone_finds_the_names_of_its_peers_while_it_runs() -> None:
    step = _one(_definition(peers={"db": "198.18.0.2"}), _observed(_definition()))
    assert (step.action, step.reasons) == ("live", ("peers {} → {'db': '198.18.0.2'}",))


def test_names_that_a_killed_run_may_have_written_are_written_again() -> None:
    step = _one(_definition(), _observed(_definition())._replace(hosts_unsure=True))
    assert (step.action, step.reasons) == ("live", ("an earlier run may have written its /etc/hosts",))


@pytest.mark.parametrize("active", [True, False])
def test_a_zone_sees_a_larger_volume_when_it_starts_anew(active: bool) -> None:
    definition = _definition(volumes=(Mount("/srv", "data"),))
    grown = {"data": Change("data", "grow", 64, 128), "other": Change("other", "grow", 1, 2)}
    (step,) = plan([definition], [], {"web": _observed(definition, active=active)}, grown)
    assert (step.action, step.reasons) == ("restart", ("volume data 64 → 128 MiB",))


def test_a_zone_that_does_not_run_is_started() -> None:
    step = _one(_definition(), _observed(_definition(), active=False))
    assert (step.action, step.reasons) == ("start", ("is not running",))


def test_a_zone_that_does_not_run_and_publishes_other_ports_is_started() -> None:
    step = _one(_definition(ports=(Port(80, 80),)), _observed(_definition(), active=False))
    assert (step.action, step.reasons) == ("start", ("ports [] → ['80:80/tcp']", "is not running"))


def test_a_zone_whose_files_are_missing_is_made_anew() -> None:
    step = _one(_definition(memory=256), _observed(_definition(), whole=False))
    assert (step.action, step.reasons) == ("recreate", ("memory 128 → 256", "files of it are missing"))


def test_a_zone_whose_metadata_cannot_be_read_is_made_anew() -> None:
    step = _one(_definition(), Observed(None, 1))
    assert (step.action, step.reasons, step.before) == ("recreate", ("its metadata cannot be read",), {"name": "web"})


def test_what_shall_not_exist_is_removed_if_it_does() -> None:
    observed = {"web": _observed(_definition()), "odd": Observed(None)}
    steps = plan([], ["web", "odd", "other"], observed, {})
    assert [(step.name, step.action, step.reasons) for step in steps] == [
        ("odd", "remove", ("shall not exist",)),
        ("web", "remove", ("shall not exist",)),
        ("other", "keep", ()),
    ]
    assert all(step.after is None and step.definition is None for step in steps)
    assert steps[1].before is not None
    assert steps[1].before["memory"] == 128


def test_what_ends_comes_before_what_begins_and_names_are_in_order() -> None:
    names = ["create", "keep", "live", "recreate", "restart", "start"]
    changes: dict[str, dict[str, Any]] = {"recreate": {"image": TWO}, "restart": {"memory": 256}, "live": {"ports": (Port(1, 1),)}}
    declared = [_definition(name + suffix, **changes.get(name, {})) for name in names for suffix in ("-b", "-a")]
    observed = {
        definition.zone.name: _observed(_definition(definition.zone.name), active=not definition.zone.name.startswith("start"))
        for definition in declared
        if not definition.zone.name.startswith("create")
    }
    observed["remove-a"] = _observed(_definition("remove-a"))
    steps = plan(declared, ["remove-a"], observed, {})
    assert all(step.name.startswith(f"{step.action}-") for step in steps)
    in_order = [f"{action}-{suffix}" for action in ("recreate", "restart", "create", "start", "live", "keep") for suffix in "ab"]
    assert [step.name for step in steps] == ["remove-a", *in_order]


def test_a_zone_of_the_host_that_is_neither_declared_nor_removed_is_not_planned_for() -> None:
    assert plan([], [], {"web": _observed(_definition())}, {}) == []


def test_zones_begin_after_what_they_depend_on_and_end_before_it() -> None:
    web = {"depends_on": {"api": "service_healthy"}}
    api = {"depends_on": {"db": "service_started"}}
    declared = [_definition("web", **web), _definition("api", **api), _definition("db"), _definition("alone")]
    assert [step.name for step in plan(declared, [], {}, {})] == ["alone", "db", "api", "web"]
    observed = {definition.zone.name: _observed(definition) for definition in declared}
    assert [step.name for step in plan([], list(observed), observed, {})] == ["web", "api", "alone", "db"]
