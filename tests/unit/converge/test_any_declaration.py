"""Random declarations, one after the other, on a made-up host: what holds of every converge, whatever it began with and whatever failed.

The examples are the same in each run. ``HYPOTHESIS_PROFILE=explore`` draws new ones, and many more.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import made_up_host
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_host import RECORD, Host, Hypervisor, digest, reference

from ansible_collections.ringfence.zones.plugins.module_utils.converge import converge
from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration
from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Zone, parse_declaration
from ansible_collections.ringfence.zones.plugins.module_utils.zone import volumes

_COMMON: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("same", settings(max_examples=60, derandomize=True, **_COMMON))
settings.register_profile("explore", settings(max_examples=3000, **_COMMON))

_NAMES = ("a", "b", "c", "d")
_VOLUMES = ("v", "w")
_BAD = "9"
"""The image whose container ends with an error."""


class Killed(BaseException):
    """The run is no more; no handler of an error may go on."""


@dataclass
class Fragile(Hypervisor):
    """Has memory that is used up, zones that end at once, and a run that may be killed."""

    memory: int = 800
    dies_at: int | None = None
    """The number of the change, from now on, at which the run is killed."""
    dies_after: bool = False
    """Whether that change is still made."""

    def free_memory(self) -> int:
        return self.memory - sum(one.running.memory for one in self.domains.values() if one.number is not None and one.running)

    @contextmanager
    def _change(self) -> Iterator[None]:
        if self.dies_at is None:
            yield
            return
        self.dies_at -= 1
        if self.dies_at < 0 or (self.dies_at == 0 and not self.dies_after):
            raise Killed
        yield
        if self.dies_at == 0:
            raise Killed

    def define(self, xml: str, *, autostart: bool) -> None:
        with self._change():
            super().define(xml, autostart=autostart)

    def start(self, name: str) -> None:
        with self._change():
            bad = f"/images/{_BAD * 64}/" in self.domains[name].xml
            self.said[name] = RECORD % ((b"failed", b"125") if bad else (b"running", b"-"))
            super().start(name)

    def stop(self, name: str, grace: float) -> None:
        with self._change():
            super().stop(name, grace)

    def undefine(self, name: str) -> None:
        with self._change():
            super().undefine(name)

    def set_memory(self, name: str, memory: int) -> None:
        with self._change():
            super().set_memory(name, memory)

    def set_cpus(self, name: str, cpus: int) -> None:
        with self._change():
            super().set_cpus(name, cpus)


@dataclass(frozen=True)
class Run:
    """What one converge is given, and what happens to it."""

    zones: list[dict[str, Any]]
    volumes: dict[str, dict[str, Any]]
    policy: dict[str, Any]
    ended: frozenset[str]
    """Zones that have ended by themselves before it."""
    broken: frozenset[str]
    """Zones that cannot be started in it."""
    dies_at: int | None
    dies_after: bool


@st.composite
def _runs(draw: st.DrawFn) -> Run:
    names = draw(st.lists(st.sampled_from(_NAMES), unique=True))
    sizes = {name: {"size": f"{draw(st.sampled_from((16, 16, 24)))}MiB"} for name in _VOLUMES}
    holders = {volume: draw(st.sampled_from((None, *names))) for volume in _VOLUMES}
    zones: list[dict[str, Any]] = []
    for number, name in enumerate(names):
        if draw(st.integers(0, 9)) == 0 and name not in holders.values():
            zones.append({"name": name, "state": "absent"})
            continue
        before = [zone["name"] for zone in zones if "state" not in zone]
        zone: dict[str, Any] = {
            "name": name,
            "image": reference(draw(st.sampled_from(("1", "1", "2", _BAD)))),
            "memory": f"{draw(st.sampled_from((96, 128, 256)))}MiB",
            "depends_on": draw(st.lists(st.sampled_from(before), unique=True)) if before else [],
            "volumes": [f"{volume}:/{volume}" for volume, holder in holders.items() if holder == name],
        }
        optional = {
            "kernel": st.sampled_from(("stable", "old")),
            "cpus": st.integers(1, 2),
            "restart": st.sampled_from(("always", "no")),
            "environment": st.just({"A": "1"}),
            "networks": st.just({"ingress": [{"from": draw(st.sampled_from([*names, "z"]))}]}),
            "ports": st.just([f"{8000 + draw(st.integers(0, number))}:80"]),
        }
        for key, values in optional.items():
            if draw(st.integers(0, 3)) == 0:
                zone[key] = draw(values)
        zones.append(zone)
    if draw(st.integers(0, 9)) == 0:
        sizes[draw(st.sampled_from(_VOLUMES))] = {"state": "absent"}
    return Run(
        draw(st.permutations(zones)),
        sizes,
        {"prune": draw(st.booleans()), "keep_unused": draw(st.integers(0, 2))},
        draw(st.frozensets(st.sampled_from(_NAMES), max_size=2)) if draw(st.integers(0, 4)) == 0 else frozenset(),
        draw(st.frozensets(st.sampled_from(_NAMES), max_size=1)) if draw(st.integers(0, 4)) == 0 else frozenset(),
        draw(st.one_of(st.none(), st.integers(1, 12))),
        draw(st.booleans()),
    )


def test_any_declaration_is_converged_or_refused() -> None:
    seen: Counter[str] = Counter()

    @settings(settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "same")))
    @given(st.lists(_runs(), min_size=1, max_size=4))
    def explore(runs: list[Run]) -> None:
        with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
            host = made_up_host.make(Path(directory) / "store", patch)
            host.publish("1", "2", _BAD)
            host.hypervisor = Fragile(host.store)
            patch.setattr(volumes, "run", host.run)
            for run in runs:
                seen.update(_converge(host, run))

    explore()
    # Else nothing of this was tried.
    assert {"changed", "kept", "failed", "refused", "killed"} <= seen.keys()


def _converge(host: Host, run: Run) -> Iterator[str]:
    """Have one run fail as it is to, and the next one as it can; then look. Yields what became of each."""
    hypervisor = host.hypervisor
    assert isinstance(hypervisor, Fragile)
    arguments: dict[str, Any] = {"volumes": run.volumes, **run.policy}
    contents = _mark_volumes(host)
    for name in run.ended & hypervisor.domains.keys():
        hypervisor.domains[name].number = None
    if run.broken or run.dies_at:
        hypervisor.unstartable, hypervisor.dies_at, hypervisor.dies_after = set(run.broken), run.dies_at, run.dies_after
        try:
            host.converge(*run.zones, **arguments)
        except Killed:
            yield "killed"
        except InvalidDeclaration:
            yield "refused"
        hypervisor.unstartable, hypervisor.dies_at = set(), None
        arguments["retry"] = True
    before = host.snapshot_but_lock()
    running = _running(host)
    foretold = _outcome(host, run, check=True, **arguments)
    assert host.snapshot_but_lock() == before, "check mode has changed something"
    done = _outcome(host, run, check=False, **arguments)
    yield "refused" if isinstance(done, list) else "failed" if done.failures else "changed" if done.changed else "kept"
    if isinstance(done, list):
        assert foretold == done
        assert host.snapshot_but_lock() == before, "a declaration that was refused has changed something"
        return
    assert isinstance(foretold, converge.Report)
    _compare(foretold, done)
    _check_host(host, run, done, running)
    for name, content in contents.items():
        file = volumes.path(host.store, name)
        assert run.volumes[name].get("state") == "absent" or file.read_bytes().startswith(content), f"volume {name} has lost its content"
    before = host.snapshot_but_lock()
    again = host.converge(*run.zones, **{**arguments, "retry": False})
    # What could not be started is tried each time.
    failed = _failed(done)
    assert _failed(again) <= failed
    assert {zone["name"] for zone in again.zones if zone["changed"]} <= failed, again.plan
    assert failed or (not again.changed and host.snapshot_but_lock() == before), "a converge that changes nothing has changed something"


def _outcome(host: Host, run: Run, **arguments: Any) -> converge.Report | list[str]:
    try:
        return host.converge(*run.zones, **arguments)
    except InvalidDeclaration as invalid:
        return invalid.problems


def _failed(report: converge.Report) -> set[str]:
    return {zone["name"] for zone in report.zones if zone["failed"]}


def _compare(foretold: converge.Report, done: converge.Report) -> None:
    """Check mode has told what was done, as far as nothing failed."""
    failed = _failed(done)
    assert [zone["name"] for zone in foretold.zones] == [zone["name"] for zone in done.zones]
    for told, made in zip(foretold.zones, done.zones, strict=True):
        if made["name"] not in failed:
            assert (told["action"], told["reasons"], told["changed"]) == (made["action"], made["reasons"], made["changed"])
    if not failed and not done.failures:
        assert (foretold.plan, foretold.volumes) == (done.plan, done.volumes)


def _check_host(host: Host, run: Run, done: converge.Report, running: dict[str, int]) -> None:
    zones = {zone.name: zone for zone in parse_declaration(run.zones, run.volumes, {})[0]}
    failed = _failed(done)
    found, _foreign = host.hypervisor.observe()
    for zone in zones.values():
        if zone.name in failed:
            continue
        assert (zone.name in found) == (zone.state == "present"), f"zone {zone.name} is not as declared"
        if zone.state == "present":
            _check_zone(host, zone)
    if run.policy["prune"]:
        assert found.keys() - failed <= zones.keys()
    stayed = {zone["name"] for zone in done.zones if zone["action"] in ("keep", "live")} | set(done.undeclared)
    assert {name: running.get(name) for name in stayed} == {name: _running(host).get(name) for name in stayed}, "what stays was restarted"
    directories = {path.name for path in host.store.zones.iterdir()} if host.store.zones.is_dir() else set()
    assert directories <= found.keys(), "a zone that is gone has left its files"


def _check_zone(host: Host, declared: Zone) -> None:
    observed = host.hypervisor.observe()[0][declared.name]
    assert observed.active, f"zone {declared.name} does not run"
    assert observed.definition is not None
    assert observed.definition.zone == declared
    assert observed.definition.image in {digest(digit) for digit in ("1", "2", _BAD)}
    assert reference(observed.definition.image[-1]) == declared.image
    assert observed.running is not None
    assert observed.running.memory == declared.memory


def _mark_volumes(host: Host) -> dict[str, bytes]:
    """Write something of its own into each volume, as its zone would, and return it."""
    contents = {}
    for name in volumes.existing(host.store):
        contents[name] = f"content of {name}".encode()
        with volumes.path(host.store, name).open("r+b") as file:
            file.write(contents[name])
    return contents


def _running(host: Host) -> dict[str, int]:
    return {name: domain.number for name, domain in host.hypervisor.domains.items() if domain.number is not None}
