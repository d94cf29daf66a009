"""Tests of the library's ``converge.kernel_trial`` with a hypervisor that only remembers."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import made_up_host
import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.converge import kernel_trial
from ansible_collections.ringfence.zones.plugins.module_utils.converge.kernel_trial import NAME, Trial
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.kernel import deploy, kernels
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.deploy import Declared
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.kernels import Kernel, Names
from ansible_collections.ringfence.zones.plugins.module_utils.zone import console, runtime

Guest = Callable[["Machine", str], None]


def comes_up(machine: Machine, token: str) -> None:
    machine.say(f"[    0.1] Linux\n{token}\n")


def says_an_old_token(machine: Machine, _token: str) -> None:
    machine.say(f"[    0.1] Linux\n{'0' * 32}\n")


def panics(machine: Machine, _token: str) -> None:
    machine.say("[    0.2] Kernel panic - not syncing: VFS\x1b[2J: no init\n")
    machine.number = None


def hangs(machine: Machine, _token: str) -> None:
    machine.say("[    0.3] clocksource: tsc\n")


def cannot_be_built(_machine: Machine, _token: str) -> None:
    raise RingfenceError("libvirt cannot start it; libxl: no memory")


@dataclass
class Machine:
    """Stands for ``hypervisor.Hypervisor`` and the console of its one domain."""

    log: Path
    guest: Guest = comes_up
    free: int = 1024
    possible: tuple[str, ...] = ("pv", "pvh")
    number: int | None = None
    started: list[str] = field(default_factory=list)
    initrd: bytes = b""
    ended: int = 0

    def modes(self) -> tuple[str, ...]:
        return self.possible

    def free_memory(self) -> int:
        return self.free

    def domain_id(self, name: str) -> int | None:
        assert name == NAME
        return self.number

    def run_transient(self, name: str, xml: str) -> None:
        domain = ET.fromstring(xml)
        assert (name, domain.findtext("name")) == (NAME, NAME)
        self.started.append(domain.findtext("os/type") or "")
        self.initrd = Path(domain.findtext("os/initrd") or "").read_bytes()
        (token,) = re.findall(rb'echo "([0-9a-f]{32})"', self.initrd)
        self.number = 7
        self.guest(self, token.decode())

    def end(self, name: str) -> None:
        assert name == NAME
        self.ended += 1
        self.number = None

    def say(self, text: str) -> None:
        self.log.write_text(text)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> made_up_host.Host:
    return made_up_host.make(tmp_path / "store", monkeypatch)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    log = tmp_path / "console.log"
    log.with_name("console.log.1").write_text("an earlier trial's\n")
    monkeypatch.setattr(kernel_trial, "console_log", lambda _name: log)
    monkeypatch.setattr(console, "console_log", lambda _name: log)
    return Machine(log)


def _trial(host: made_up_host.Host, machine: Machine) -> Trial:
    return Trial(host.store, machine, runtime.current(host.store), 0.3)  # type: ignore[arg-type]


def _kernel(host: made_up_host.Host, name: str = "stable") -> Kernel:
    return kernels.deployed(host.store)[name]


def _nothing_is_left(host: made_up_host.Host, machine: Machine) -> None:
    assert machine.number is None
    assert not list(machine.log.parent.glob(f"{machine.log.name}*"))
    assert not any(host.store.tmp.iterdir())


def test_a_kernel_is_booted_as_each_kind_of_guest_that_it_and_the_host_can_be(host: made_up_host.Host, machine: Machine) -> None:
    _trial(host, machine).boot(_kernel(host))
    assert machine.started == ["linux", "xenpvh"]
    _trial(host, machine).boot(_kernel(host, "old"))
    machine.possible = ("pvh",)
    _trial(host, machine).boot(_kernel(host))
    assert machine.started == ["linux", "xenpvh", "linux", "xenpvh"]
    _nothing_is_left(host, machine)


def test_what_is_booted_has_the_drivers_of_the_kernel_and_the_zone_base(host: made_up_host.Host, machine: Machine) -> None:
    _trial(host, machine).boot(_kernel(host))
    assert b"mount -t erofs -o ro /dev/xvda /base" in machine.initrd
    assert b"module of stable" in machine.initrd
    assert b"xen-netfront gntdev\n" in machine.initrd
    assert b"options xen-netfront max_queues=1\n" in machine.initrd


@pytest.mark.parametrize(
    ("guest", "told"),
    [
        (panics, r"it ended; the last lines of its console: .*Kernel panic - not syncing: VFS\\x1b\[2J: no init"),
        (hangs, r"it was not up after 0\.3 s; the last lines of its console: .*clocksource: tsc"),
        (says_an_old_token, r"it was not up after 0\.3 s"),
        (cannot_be_built, "libvirt cannot start it; libxl: no memory"),
    ],
)
def test_a_kernel_that_does_not_come_up_is_refused_and_leaves_nothing(
    host: made_up_host.Host, machine: Machine, guest: Guest, told: str
) -> None:
    machine.guest = guest
    with pytest.raises(
        RingfenceError, match=rf"its test boot as pv guest failed: {told}.*; choose another kernel, or set test_boot to false"
    ):
        _trial(host, machine).boot(_kernel(host))
    assert machine.started == ["linux"]
    _nothing_is_left(host, machine)


def test_what_a_host_has_no_room_or_no_mode_for_is_not_begun(host: made_up_host.Host, machine: Machine) -> None:
    machine.free = 271
    with pytest.raises(RingfenceError, match="its test boot needs 272 MiB, and this host has 271 MiB free"):
        _trial(host, machine).boot(_kernel(host))
    machine.free, machine.possible = 272, ("pvh",)
    with pytest.raises(RingfenceError, match="it can be pv, and this host can run pvh"):
        _trial(host, machine).boot(_kernel(host, "old"))
    assert machine.started == []
    _trial(host, machine).boot(_kernel(host))


def test_an_interrupted_test_leaves_nothing(host: made_up_host.Host, machine: Machine) -> None:
    def interrupted(_machine: Machine, _token: str) -> None:
        raise KeyboardInterrupt

    machine.guest = interrupted
    with pytest.raises(KeyboardInterrupt):
        _trial(host, machine).boot(_kernel(host))
    _nothing_is_left(host, machine)


def _converge(host: made_up_host.Host, *names: str, check: bool = False, **options: bool) -> deploy.Report:
    known = kernels.names(host.store).kernels
    declared = [Declared(name, known[name].image) for name in names]
    chosen = {"prune": False, "test_boot": True, **options}
    return kernel_trial.converge(host.store, declared, pull="missing", timeout=1, check=check, **chosen)


def test_what_a_killed_run_has_left_is_cleared_by_the_next(
    host: made_up_host.Host, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_trial, "Hypervisor", lambda: machine)
    monkeypatch.setattr(kernel_trial, "booted_into_xen", lambda: True)
    for options, left in (({"check": True}, 5), ({"test_boot": False}, None), ({}, None)):
        machine.number = 5
        assert not _converge(host, "stable", **options).changed
        assert (machine.number, machine.started) == (left, [])
    machine.ended = 0
    with host.store.lock(), pytest.raises(RingfenceError, match="another converge of this host is running"):
        _converge(host, "stable")
    assert machine.ended == 0


def test_without_xen_or_a_zone_base_nothing_is_booted(host: made_up_host.Host, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[deploy.Policy] = []

    def remember(_store: object, _declared: object, policy: deploy.Policy, *, check: bool) -> deploy.Report:
        made.append(policy)
        return deploy.Report(check, Names(), Names(), [], [])

    monkeypatch.setattr(deploy, "converge", remember)
    monkeypatch.setattr(kernel_trial, "Hypervisor", lambda: machine)
    for xen, test_boot, check in ((True, True, False), (False, True, False), (True, False, False), (True, True, True)):
        monkeypatch.setattr(kernel_trial, "booted_into_xen", lambda xen=xen: xen)
        _converge(host, "stable", test_boot=test_boot, check=check)
    monkeypatch.setattr(kernel_trial, "booted_into_xen", lambda: True)
    (host.store.runtime / "current.json").unlink()
    _converge(host, "stable")
    assert [policy.accept is not None for policy in made] == [True, False, False, False, False]


def test_names_that_are_not_declared_are_pruned_unless_a_zone_refers_to_them(
    host: made_up_host.Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_trial, "Hypervisor", lambda: host.hypervisor)
    monkeypatch.setattr(kernel_trial, "booted_into_xen", lambda: True)
    made_up_host.add_kernels(host.store, stable=("pv", "pvh"), old=("pv",), older=("pv",))
    host.publish("1")
    host.converge({"name": "web", "image": made_up_host.reference("1"), "kernel": "old"})
    assert _converge(host, "stable", test_boot=False).undeclared == ["old", "older"]
    for check in (True, False):
        report = _converge(host, "stable", prune=True, test_boot=False, check=check)
        assert (report.changed, report.pruned, report.undeclared) == (True, ["older"], ["old"])
    assert list(kernels.deployed(host.store)) == ["old", "stable"]
    assert host.converge({"name": "web", "image": made_up_host.reference("1"), "kernel": "old"}).failures == []
    host.converge({"name": "web", "state": "absent"})
    assert _converge(host, "stable", prune=True, test_boot=False).pruned == ["old"]


def test_the_default_of_zones_that_name_none_is_in_use(host: made_up_host.Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_trial, "Hypervisor", lambda: host.hypervisor)
    monkeypatch.setattr(kernel_trial, "booted_into_xen", lambda: True)
    host.publish("1")
    host.converge({"name": "web", "image": made_up_host.reference("1")})
    assert _converge(host, prune=True, test_boot=False).pruned == ["old"]
    host.converge({"name": "web", "state": "absent"})
    report = _converge(host, prune=True, test_boot=False)
    assert (report.pruned, report.after) == (["stable"], Names())


def test_nothing_is_pruned_while_nobody_knows_what_a_zone_uses(host: made_up_host.Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_trial, "Hypervisor", lambda: host.hypervisor)
    monkeypatch.setattr(kernel_trial, "booted_into_xen", lambda: True)
    host.publish("1")
    host.converge({"name": "web", "image": made_up_host.reference("1")})
    domain = host.hypervisor.domains["web"]
    host.hypervisor.domains["web"] = replace(domain, xml=domain.xml.replace('{"image"', "damaged"))
    assert _converge(host, prune=True, test_boot=False).pruned == []


def test_nothing_is_pruned_without_xen_while_the_host_has_zones(host: made_up_host.Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_trial, "booted_into_xen", lambda: False)
    host.publish("1")
    host.converge({"name": "web", "image": made_up_host.reference("1"), "kernel": "old"})
    report = _converge(host, "stable", prune=True)
    assert (report.pruned, report.undeclared) == ([], ["old"])
    host.converge({"name": "web", "state": "absent"})
    assert _converge(host, "stable", prune=True).pruned == ["old"]


def test_the_reserved_name_is_none_that_a_zone_can_have(host: made_up_host.Host) -> None:
    with pytest.raises(RingfenceError, match="name"):
        host.converge({"name": NAME, "image": made_up_host.reference("1")})
