"""The steps from a plain machine to a confirmed Xen, on a made-up machine whose GRUB is two files."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils import debian, host, host_files
from ansible_collections.ringfence.zones.plugins.module_utils.boot import decisions, xen_host
from ansible_collections.ringfence.zones.plugins.module_utils.command import CommandFailed
from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration, RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.host_files import HostFile

OPTIONS = decisions.parse_options("1GiB", 0, [], 300)
OTHER_OPTIONS = decisions.parse_options("2GiB", 0, [], 300)
LINUX_ENTRY = "menuentry 'Debian' $menuentry_id_option 'gnulinux-simple-1' {\n\tlinux /vmlinuz\n}\n"
LINUX, XEN = "gnulinux-simple-1", "xen-gnulinux-simple-1"


def xen_entry(options: decisions.Options, xen_for: str = "quiet", linux: str = "quiet") -> str:
    """GRUB's entry for Xen as update-grub writes it, with arguments of Xen that were made for one command line of Linux."""
    return (
        f"menuentry 'Debian, with Xen' $menuentry_id_option '{XEN}' {{\n"
        f"\tmultiboot2\t/boot/xen.gz placeholder {' '.join(decisions.xen_arguments(options, xen_for))}\n"
        f"\tmodule2\t/boot/vmlinuz-6 placeholder {linux} {' '.join(decisions.dom0_arguments())}\n"
        "}\n"
    )


@dataclass
class World:
    """A machine: what is booted, what GRUB is set to, and the commands that were run."""

    root: Path
    options: decisions.Options = OPTIONS
    in_xen: bool = False
    xen: str = ""
    libvirt: bool = True
    default_routes: set[str] = field(default_factory=lambda: {"IPv4", "IPv6"})
    machine: decisions.Machine = field(
        default_factory=lambda: decisions.Machine(
            False, "debian", "13", "x86_64", 4096, 9000, False, True, "ext4", True, True, False, True, "", ""
        )
    )
    packages: dict[str, str] = field(default_factory=dict)
    """The states in which dpkg has packages."""
    automatic: list[str] = field(default_factory=list)
    """Those of them that apt has for others' sake."""
    busy: list[str] = field(default_factory=list)
    """What dpkg says each time that it fails."""
    commands: list[list[str]] = field(default_factory=list)
    outdated: dict[str, tuple[str, str]] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)
    journal: dict[str, bytes] = field(default_factory=dict)

    @property
    def saved(self) -> str:
        """GRUB's default."""
        return self.environment().get("saved_entry", "")

    def environment(self, **changes: str) -> dict[str, str]:
        """GRUB's variables, with changes."""
        variables = decisions.parse_environment((self.root / "grubenv").read_bytes()) | changes
        (self.root / "grubenv").write_text("# GRUB Environment Block\n" + "".join(f"{name}={value}\n" for name, value in variables.items()))
        return variables

    def boot_xen(self, options: decisions.Options) -> None:
        """Boot what GRUB's entry for Xen says."""
        self.environment(next_entry="")
        self.in_xen, self.xen = True, f"placeholder {' '.join(decisions.xen_arguments(options, 'quiet'))} no-real-mode edd=off"

    def run(self, argv: Sequence[str], **_options: object) -> bytes:
        """Stand in for every program; those that only tell something are no commands."""
        if argv == ["apt-mark", "showmanual"]:
            return "".join(f"{name}\n" for name in self.packages if name not in self.automatic).encode()
        if argv[0] == "dpkg-query":
            return "".join(f"{name} {state}\n" for name, state in self.packages.items()).encode()
        self.commands.append(list(argv))
        if "dpkg" in argv and self.busy:
            raise CommandFailed(self.busy[-1], self.busy[-1])
        if argv[0] == "grub-set-default":
            self.environment(saved_entry=argv[1])
        if argv[0] == "grub-reboot":
            self.environment(next_entry=argv[1])
        if argv[0] == "grub-editenv":
            self.environment(**{argv[3]: ""})
        if argv[0] == "update-grub":
            (self.root / "grub.cfg").write_text(LINUX_ENTRY + xen_entry(self.options))
        if argv[0] == "journalctl":
            return self.journal["errors" if "--priority=err" in argv else "boots"]
        if argv[:2] == ["systemctl", "is-system-running"]:
            raise CommandFailed("degraded")
        return b""


@pytest.fixture(name="world")
def world_fixture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    """A machine with plain Linux, before anything was done to it."""
    world = World(tmp_path)
    (tmp_path / "grub.cfg").write_text(LINUX_ENTRY)
    (tmp_path / "grubenv").write_text("# GRUB Environment Block\n")
    (tmp_path / "boot_id").write_text("first\n")

    class Libvirt:
        def __init__(self) -> None:
            if not world.libvirt:
                raise RingfenceError("libvirt does not answer")

    def outdated(files: Sequence[HostFile]) -> dict[str, tuple[str, str]]:
        return {path: change for path, change in world.outdated.items() if path in [file.path for file in files]}

    monkeypatch.setattr(xen_host, "_GRUB_CFG", tmp_path / "grub.cfg")
    monkeypatch.setattr(xen_host, "_GRUB_ENVIRONMENT", tmp_path / "grubenv")
    monkeypatch.setattr(host, "_BOOT_ID", tmp_path / "boot_id")
    monkeypatch.setattr(xen_host, "_MARKER", tmp_path / "etc/trial.json")
    monkeypatch.setattr(xen_host, "_TIMER_LINK", tmp_path / "wants/trial.timer")
    monkeypatch.setattr(xen_host, "_DPKG_JOURNAL", tmp_path / "updates")
    (tmp_path / "updates").mkdir()
    monkeypatch.setattr(xen_host, "run", world.run)
    monkeypatch.setattr(xen_host, "Hypervisor", Libvirt)
    monkeypatch.setattr(xen_host, "booted_into_xen", lambda: world.in_xen)
    monkeypatch.setattr(xen_host, "_observe_machine", lambda: world.machine)
    monkeypatch.setattr(xen_host, "_default_routes", lambda: world.default_routes)
    monkeypatch.setattr(xen_host, "_ROUTE_SECONDS", 0.0)
    linux = " ".join(["quiet", *decisions.dom0_arguments()])
    monkeypatch.setattr(xen_host, "_running", lambda: decisions.Running(world.in_xen, world.xen, linux if world.in_xen else "quiet"))
    monkeypatch.setattr(host_files, "outdated", outdated)
    monkeypatch.setattr(host_files, "write", lambda files: world.written.extend(file.path for file in files))
    return world


def confirmed(world: World) -> None:
    """Bring the machine to a Xen that is booted and the default."""
    (world.root / "grub.cfg").write_text(LINUX_ENTRY + xen_entry(OPTIONS))
    (world.root / "grubenv").write_text(f"# GRUB Environment Block\nsaved_entry={XEN}\n")
    world.boot_xen(OPTIONS)


def test_an_unfit_machine_is_left_as_it_is(world: World) -> None:
    world.machine = replace(world.machine, release="11", secure_boot=True)
    with pytest.raises(InvalidDeclaration) as caught:
        xen_host.prepare(OPTIONS, check=False)
    assert len(caught.value.problems) == 2
    assert (world.commands, world.written) == ([], [])


def test_plain_linux_is_the_default_before_xen_is_installed(world: World) -> None:
    world.outdated = {decisions.GRUB_FILE: ("", "new")}
    outcome = xen_host.prepare(OPTIONS, check=False)
    assert outcome.changed
    assert outcome.packages == debian.packages("13")
    assert decisions.GRUB_FILE in world.written
    assert world.saved == LINUX
    world.outdated = {}
    assert not xen_host.prepare(OPTIONS, check=False).changed


def test_packages_that_the_host_has_are_not_asked_for_again(world: World) -> None:
    """Then a run needs no network."""
    world.packages = dict.fromkeys(debian.packages("13"), "installed")
    del world.packages["skopeo"]
    for check in (True, False):
        outcome = xen_host.prepare(OPTIONS, check=check)
        assert outcome.packages == ["skopeo"]
        assert outcome.changes.get("packages") == (("", "skopeo\n") if check else None)


@pytest.mark.parametrize("check", [True, False])
def test_what_is_there_for_others_stays_when_they_go(world: World, check: bool) -> None:
    world.packages = dict.fromkeys(debian.packages("13"), "installed")
    xen_host.prepare(OPTIONS, check=False)
    world.automatic = ["crun"]
    world.commands.clear()
    outcome = xen_host.prepare(OPTIONS, check=check)
    assert (outcome.packages, outcome.changed, world.commands) == ([], True, [] if check else [["apt-mark", "manual", "crun"]])


_FINISH = ["env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--configure", "-a", "--force-confold"]


@pytest.mark.parametrize(
    ("state", "journal", "missing", "finished"),
    [
        ("installed", "tmp.i", [], False),
        ("installed", "0003", [], False),
        ("config-files", "tmp.i", ["skopeo"], False),
        ("config-files", "0003", ["skopeo"], True),
        ("unpacked", "tmp.i", ["skopeo"], True),
        ("half-configured", "tmp.i", ["skopeo"], True),
        ("half-installed", "tmp.i", ["skopeo"], True),
    ],
)
def test_an_interrupted_installation_is_finished(world: World, state: str, journal: str, missing: list[str], finished: bool) -> None:
    """apt counts what is half installed as chosen; what others leave half done is theirs."""
    world.packages = dict.fromkeys(debian.packages("13"), "installed")
    xen_host.prepare(OPTIONS, check=False)
    world.packages |= {"others": "installed", "skopeo": state}
    world.commands.clear()
    (world.root / "updates" / journal).touch()
    for check in (True, False):
        outcome = xen_host.prepare(OPTIONS, check=check)
        assert (outcome.packages, outcome.changed) == (missing, finished or (check and bool(missing)))
        assert world.commands == ([_FINISH] if finished and not check else [])


def test_whoever_installs_packages_now_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.packages = {"skopeo": "unpacked"}
    monkeypatch.setattr(time, "sleep", lambda _seconds: world.busy.pop())
    world.busy = ["dpkg: error: dpkg frontend lock was locked by another process with pid 7"] * 2
    assert xen_host.prepare(OPTIONS, check=False).changed
    assert world.commands.count(_FINISH) == 3
    world.busy = ["dpkg: error processing package skopeo (--configure): the clock is blocked"]
    with pytest.raises(CommandFailed, match="blocked"):
        xen_host.prepare(OPTIONS, check=False)


@pytest.mark.parametrize("step", [xen_host.prepare, lambda options, check: xen_host.arm(options, reboot=True, check=check)])
def test_check_mode_tells_and_does_nothing(world: World, step: object) -> None:
    world.packages = dict.fromkeys(debian.packages("13"), "installed")
    world.outdated = {decisions.GRUB_FILE: ("", "new")}
    outcome = step(OPTIONS, check=True)  # type: ignore[operator]
    assert outcome.changed
    assert list(outcome.changes) == [decisions.GRUB_FILE]
    assert (world.commands, world.written) == ([], [])
    assert not (world.root / "etc/trial.json").exists()


def test_a_confirmed_default_waits_for_a_reboot_that_is_allowed(world: World) -> None:
    confirmed(world)
    world.outdated = {decisions.GRUB_FILE: ("old", "new")}
    assert not xen_host.prepare(OTHER_OPTIONS, check=False).changed
    outcome = xen_host.arm(OTHER_OPTIONS, reboot=False, check=False)
    assert not outcome.changed
    assert outcome.pending[0] == "Xen was booted without dom0_mem=2048M,max:2048M"
    assert decisions.GRUB_FILE not in world.written
    assert (world.commands, world.saved) == ([], XEN)


def test_a_xen_host_of_other_hands_stays_one_until_a_reboot_is_allowed(world: World) -> None:
    world.boot_xen(OTHER_OPTIONS)
    world.outdated = {decisions.GRUB_FILE: ("", "new")}
    assert not xen_host.prepare(OPTIONS, check=False).changed
    outcome = xen_host.arm(OPTIONS, reboot=False, check=False)
    assert not outcome.changed
    assert outcome.pending
    assert decisions.GRUB_FILE not in world.written
    assert (world.commands, world.saved) == ([], "")


def test_without_leave_to_reboot_xen_is_ready_and_linux_stays(world: World) -> None:
    outcome = xen_host.arm(OPTIONS, reboot=False, check=False)
    assert (outcome.changed, outcome.armed, outcome.unconfirmed) == (True, False, False)
    assert outcome.pending == ["plain Linux is booted, not Xen"]
    assert world.saved == LINUX
    assert world.commands == [["grub-set-default", LINUX], ["update-grub"]]


def test_a_trial_can_end_before_it_begins(world: World) -> None:
    outcome = xen_host.arm(OPTIONS, reboot=True, check=False)
    assert outcome.armed
    assert outcome.unconfirmed
    assert world.saved == LINUX
    assert world.commands[-1] == ["grub-reboot", XEN]
    assert (world.root / "wants/trial.timer").is_symlink()
    assert json.loads((world.root / "etc/trial.json").read_text())["default_routes"] == ["IPv4", "IPv6"]


def test_changed_parameters_of_a_confirmed_xen_are_a_trial_again(world: World) -> None:
    confirmed(world)
    world.options = OTHER_OPTIONS
    assert xen_host.arm(OTHER_OPTIONS, reboot=True, check=False).armed
    assert world.saved == LINUX
    assert world.commands == [["grub-set-default", LINUX], ["update-grub"], ["grub-reboot", XEN]]


def test_a_grub_that_gets_no_entry_is_an_error(world: World) -> None:
    world.options = OTHER_OPTIONS
    with pytest.raises(RingfenceError, match="update-grub made no entry"):
        xen_host.arm(OPTIONS, reboot=True, check=False)
    assert world.saved == LINUX
    assert not (world.root / "etc/trial.json").exists()


def test_a_healthy_trial_becomes_the_default(world: World) -> None:
    xen_host.arm(OPTIONS, reboot=True, check=False)
    world.boot_xen(OPTIONS)
    assert xen_host.confirm(OPTIONS, check=False).changed
    assert world.saved == XEN
    assert not (world.root / "wants/trial.timer").is_symlink()
    assert not (world.root / "etc/trial.json").exists()
    again = xen_host.arm(OPTIONS, reboot=True, check=False)
    assert (again.changed, again.armed, again.unconfirmed) == (False, False, False)


_SETTLED = ["systemctl", "is-system-running", "--wait"]


def test_a_trial_whose_play_was_killed_is_confirmed_by_the_next(world: World) -> None:
    xen_host.arm(OPTIONS, reboot=True, check=False)
    world.boot_xen(OPTIONS)
    for check in (True, False):
        outcome = xen_host.arm(OPTIONS, reboot=True, check=check)
        assert (outcome.changed, outcome.armed, outcome.unconfirmed) == (False, False, True)
    world.commands.clear()
    assert xen_host.confirm(OPTIONS, check=True).changed
    assert (world.root / "etc/trial.json").exists()
    assert (world.saved, world.commands) == (LINUX, [_SETTLED])
    assert xen_host.confirm(OPTIONS, check=False).changed
    assert world.saved == XEN
    for check in (True, False):
        assert not xen_host.confirm(OPTIONS, check=check).changed


@pytest.mark.parametrize("seen", [True, False])
def test_a_serial_console_that_linux_gets_with_the_trial_is_xens(world: World, monkeypatch: pytest.MonkeyPatch, seen: bool) -> None:
    """Once update-grub has seen it when Xen's packages were installed, once only the one of this run does."""
    serial = "quiet console=ttyS0,115200"
    written = [decisions.host_files(OPTIONS, "quiet")]

    def run(argv: Sequence[str], **options: object) -> bytes:
        if argv == ["update-grub"]:
            xen_for = next(line for line in (serial, "quiet") if decisions.host_files(OPTIONS, line) == written[-1])
            (world.root / "grub.cfg").write_text(LINUX_ENTRY + xen_entry(OPTIONS, xen_for, serial))
            return b""
        return world.run(argv, **options)

    monkeypatch.setattr(xen_host, "run", run)
    monkeypatch.setattr(host_files, "write", lambda files: written.append(list(files)))
    if seen:
        run(["update-grub"])
    xen_host.prepare(OPTIONS, check=False)
    assert xen_host.arm(OPTIONS, reboot=True, check=False).armed
    entries = xen_host._entries()
    assert "com1=115200,8n1" in entries.xen_command_line
    world.in_xen = True
    monkeypatch.setattr(xen_host, "_running", lambda: decisions.Running(True, entries.xen_command_line, entries.dom0_command_line))
    assert xen_host.confirm(OPTIONS, check=False).changed


@pytest.mark.parametrize("in_xen", [True, False])
@pytest.mark.parametrize("declared", [OPTIONS, OTHER_OPTIONS])
def test_a_trial_that_outlived_its_confirmation_is_ended_by_the_next_run(
    world: World, monkeypatch: pytest.MonkeyPatch, in_xen: bool, declared: decisions.Options
) -> None:
    xen_host.arm(OPTIONS, reboot=True, check=False)
    world.boot_xen(OPTIONS)
    with monkeypatch.context() as killed:
        killed.setattr(xen_host, "_disarm", lambda: None)
        xen_host.confirm(OPTIONS, check=False)
    (world.root / "boot_id").write_text("second\n")
    world.in_xen = in_xen
    assert xen_host.arm(declared, reboot=False, check=True).changed
    assert (world.root / "etc/trial.json").exists()
    assert xen_host.arm(declared, reboot=False, check=False).changed
    assert not (world.root / "etc/trial.json").exists()
    assert not (world.root / "wants/trial.timer").is_symlink()
    assert world.saved == XEN
    assert not xen_host.arm(declared, reboot=False, check=False).changed


@pytest.mark.parametrize("from_xen", [True, False])
def test_a_trial_that_was_armed_by_an_ended_run_is_called_off_without_leave_to_reboot(
    world: World, monkeypatch: pytest.MonkeyPatch, from_xen: bool
) -> None:
    if from_xen:
        confirmed(world)
    world.options = OTHER_OPTIONS
    assert xen_host.arm(OTHER_OPTIONS, reboot=True, check=False).armed
    world.commands.clear()
    # A host that converges itself reboots a little later, and a run by its timer may be in between.
    assert not xen_host.arm(OTHER_OPTIONS, reboot=False, check=False).changed
    assert (world.environment()["next_entry"], world.commands) == (XEN, [])
    then = time.time()
    monkeypatch.setattr(time, "time", lambda: then + 100)
    for check, left in ((True, XEN), (False, "")):
        outcome = xen_host.arm(OTHER_OPTIONS, reboot=False, check=check)
        assert (outcome.changed, outcome.armed, bool(outcome.pending)) == (True, False, True)
        assert world.environment()["next_entry"] == left
    assert not (world.root / "etc/trial.json").exists()
    assert not (world.root / "wants/trial.timer").is_symlink()
    assert world.saved == LINUX
    assert not xen_host.arm(OTHER_OPTIONS, reboot=False, check=False).changed
    assert xen_host.arm(OTHER_OPTIONS, reboot=True, check=False).armed


def test_the_deadline_is_on_disk_before_the_trial_and_gone_with_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def sync(path: Path) -> None:
        names = [
            name for name in ("etc/trial.json", "wants/trial.timer") if (world.root / name).is_symlink() or (world.root / name).exists()
        ]
        world.commands.append(["sync", path.name, *names])

    monkeypatch.setattr(xen_host, "sync", sync)
    xen_host.arm(OPTIONS, reboot=True, check=False)
    assert world.commands[-2:] == [["sync", "wants", "etc/trial.json", "wants/trial.timer"], ["grub-reboot", XEN]]
    world.boot_xen(OPTIONS)
    xen_host.confirm(OPTIONS, check=False)
    assert world.commands[-2:] == [["sync", "wants", "etc/trial.json"], ["sync", "etc"]]


@pytest.mark.parametrize("reboot", [True, False])
def test_a_trial_that_failed_after_its_play_is_told_of_before_there_is_another(world: World, reboot: bool) -> None:
    xen_host.arm(OPTIONS, reboot=True, check=False)
    assert xen_host.arm(OPTIONS, reboot=True, check=False).armed, "the machine has not been rebooted yet"
    (world.root / "boot_id").write_text("second\n")
    world.journal = {"boots": b""}
    for check in (True, False):
        with pytest.raises(RingfenceError, match="the trial boot into Xen failed"):
            xen_host.arm(OPTIONS, reboot=reboot, check=check)
    assert not (world.root / "etc/trial.json").exists()
    assert xen_host.arm(OPTIONS, reboot=reboot, check=False).armed == reboot


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"libvirt": False}, "libvirt does not answer"),
        ({"default_routes": {"IPv6"}}, "no IPv4 default route"),
        ({"default_routes": {"IPv4"}}, "no IPv6 default route"),
        ({"xen": "placeholder"}, "dom0_mem"),
    ],
)
def test_an_unhealthy_trial_keeps_its_deadline(world: World, fault: dict[str, object], words: str) -> None:
    xen_host.arm(OPTIONS, reboot=True, check=False)
    world.boot_xen(OPTIONS)
    for name, value in fault.items():
        setattr(world, name, value)
    with pytest.raises(RingfenceError, match=f"not healthy: .*{words}.*back to plain Linux 300 s after its boot"):
        xen_host.confirm(OPTIONS, check=False)
    assert world.saved == LINUX
    assert (world.root / "wants/trial.timer").is_symlink()


def test_a_default_route_may_come_late(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    xen_host.arm(OPTIONS, reboot=True, check=False)
    world.boot_xen(OPTIONS)
    answers = iter([set(), {"IPv4"}, {"IPv4", "IPv6"}])
    monkeypatch.setattr(xen_host, "_default_routes", lambda: next(answers))
    monkeypatch.setattr(xen_host, "_ROUTE_SECONDS", 60.0)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    assert xen_host.confirm(OPTIONS, check=False).changed


NO_IPV4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
IPV4 = f"{NO_IPV4}eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
LINK = f"{NO_IPV4}eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
HALF = f"{NO_IPV4}tun0\t00000000\t010200C0\t0003\t0\t0\t0\t00000080\t0\t0\t0\n"
ROUTE = "{} {} 00000000000000000000000000000000 00 {} 00000400 00000003 00000000 {} {}\n"
IPV6 = ROUTE.format("0" * 32, "00", "fd" + "0" * 29 + "1", "00000003", "eth0")
REJECT = ROUTE.format("0" * 32, "00", "0" * 32, "00200200", "lo")
LINK6 = ROUTE.format("fe80" + "0" * 28, "40", "0" * 32, "00000001", "eth0")


@pytest.mark.parametrize(
    ("route", "ipv6_route", "families"),
    [
        (IPV4, REJECT + LINK6, {"IPv4"}),
        (LINK, IPV6, {"IPv6"}),
        (IPV4, IPV6 + REJECT, {"IPv4", "IPv6"}),
        (HALF, LINK6, set()),
        (NO_IPV4, None, set()),
    ],
)
def test_default_routes_are_told_by_their_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, route: str, ipv6_route: str | None, families: set[str]
) -> None:
    (tmp_path / "route").write_text(route)
    if ipv6_route is not None:
        (tmp_path / "ipv6_route").write_text(ipv6_route)
    monkeypatch.setattr(xen_host, "_PROC_NET", tmp_path)
    assert xen_host._default_routes() == families


@pytest.mark.parametrize(("told", "whole"), [(2047, 2048), (2048, 2048), (1987, 2048), (130724, 130816)])
def test_the_memory_of_a_machine_is_what_is_built_in(told: int, whole: int) -> None:
    assert xen_host._whole(told) == whole


def test_a_xen_that_never_reached_dom0_is_told_so(world: World) -> None:
    xen_host.arm(OPTIONS, reboot=True, check=False)
    world.journal = {"boots": b""}
    with pytest.raises(RingfenceError) as caught:
        xen_host.confirm(OPTIONS, check=False)
    assert "back on plain Linux" in str(caught.value)
    assert f"Tried: Xen with '{' '.join(decisions.xen_arguments(OPTIONS, 'quiet'))}'" in str(caught.value)
    assert "stopped before dom0's system ran" in str(caught.value)
    assert not (world.root / "wants/trial.timer").is_symlink()


def test_a_dom0_that_was_not_confirmed_in_time_is_told_with_its_last_errors(world: World) -> None:
    xen_host.arm(OPTIONS, reboot=True, check=False)
    world.journal = {
        "boots": b'{"_BOOT_ID":"aaa"}\n{"_BOOT_ID":"bbb"}\n{"_BOOT_ID":"bbb"}\n',
        "errors": b"Failed to start networking\nTimed out waiting for /data\n",
    }
    with pytest.raises(RingfenceError, match=r"not confirmed within 300 s \(boot bbb\).*Failed to start networking \| Timed out"):
        xen_host.confirm(OPTIONS, check=False)
    assert "_BOOT_ID=bbb" in world.commands[-1]


@pytest.mark.parametrize(
    ("device", "plain"), [("sda", True), ("sda/sda1", True), ("md0", False), ("md0/md0p1", False), ("dm-0", False), ("none", True)]
)
def test_a_partition_is_as_plain_as_its_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, plain: bool) -> None:
    for name in ("sda/sda1/partition", "md0/md", "md0/md0p1/partition", "dm-0/dm"):
        (tmp_path / "devices" / name).mkdir(parents=True)
    (tmp_path / "block").mkdir()
    (tmp_path / "block/8:1").symlink_to(f"../devices/{device}")
    monkeypatch.setattr(xen_host, "_BLOCK_DEVICES", tmp_path / "block")
    assert xen_host._is_plain("8:1") == plain


def test_grubs_settings_are_read_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xen_host, "_GRUB_DEFAULTS", tmp_path / "grub")
    assert xen_host._grub_defaults() == ""
    (tmp_path / "grub.d").mkdir()
    for name in ("grub.d/b.cfg", "grub.d/a.cfg", "grub.d/a.cfg.old", "grub"):
        (tmp_path / name).write_text(name)
    assert xen_host._grub_defaults() == "grub\ngrub.d/a.cfg\ngrub.d/b.cfg"


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, ""),
        ({"sys/module/kvm_intel/refcnt": "0\n", "sys/hypervisor/guest_type": "HVM\n"}, ""),
        ({"sys/module/kvm_amd/refcnt": "2\n"}, "virtual machines of KVM run here (kernel module kvm_amd is in use)"),
        ({"sys/module/vboxdrv/refcnt": "1\n"}, "virtual machines of VirtualBox run here (kernel module vboxdrv is in use)"),
        ({"sys/hypervisor/guest_type": "PV\n"}, "this is a PV guest of another Xen"),
        ({"etc/pve/local": ""}, "this is a host of Proxmox VE"),
    ],
)
def test_another_hypervisor_is_found(tmp_path: Path, files: dict[str, str], told: str) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(content)
    assert xen_host._hypervisor(tmp_path) == told


@pytest.mark.parametrize("fails", [False, True])
def test_grub_finds_its_environment_changed_after_a_power_cut(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: bool) -> None:
    """GRUB does not read the journal of ext4, so that is written out; another file system knows no such call."""
    done: list[Any] = []

    def control(_file: object, request: int, flags: bytes) -> None:
        done.append((request, flags))
        if fails:
            raise OSError

    (tmp_path / "grubenv").touch()
    monkeypatch.setattr(xen_host, "_GRUB_ENVIRONMENT", tmp_path / "grubenv")
    monkeypatch.setattr(xen_host, "run", lambda argv: done.append(list(argv)))
    monkeypatch.setattr("fcntl.ioctl", control)
    xen_host._set_grub("grub-set-default", "xen")
    assert done == [["grub-set-default", "xen"], (0x4004662B, bytes(4))]
