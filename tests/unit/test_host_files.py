"""Tests of the library's ``host_files``, in a directory that stands for the root of the host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils import host_files
from ansible_collections.ringfence.zones.plugins.module_utils.command import CommandFailed
from ansible_collections.ringfence.zones.plugins.module_utils.host_files import HostFile, outdated, write
from ansible_collections.ringfence.zones.plugins.module_utils.store import write_atomically

PROGRAM = HostFile("/usr/lib/ringfence/vif", "#!/bin/sh\n", executable=True)
UNIT = HostFile("/etc/systemd/system/ringfence-network.service", "[Service]\n[Install]\n")
PART = HostFile("/etc/systemd/system/other.service.d/ringfence.conf", "[Service]\n")
MODULES = HostFile("/etc/modules-load.d/ringfence.conf", "xen-gntdev\n")
SYSCTL = HostFile("/etc/sysctl.d/ringfence.conf", "net.ipv4.ip_forward = 1\n")
RULES = HostFile("/etc/udev/rules.d/ringfence.rules", "# rules\n")
LINK = HostFile("/etc/systemd/network/10-ringfence.link", "[Match]\n")
ALL = (UNIT, RULES, LINK, PART, SYSCTL, MODULES, PROGRAM)

COMMANDS = [
    "/usr/lib/systemd/systemd-modules-load /etc/modules-load.d/ringfence.conf",
    "/usr/lib/systemd/systemd-sysctl /etc/sysctl.d/ringfence.conf",
    "udevadm control --reload",
    "systemctl try-reload-or-restart systemd-networkd.service",
    "systemctl daemon-reload",
    "systemctl enable --now ringfence-network.service",
]
"""What makes all of them take effect."""


class Host:
    """The root of a host, and the commands that were run on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.commands: list[str] = []

    def path(self, path: str) -> Path:
        return self.root / path.removeprefix("/")

    def run(self, argv: Sequence[str]) -> bytes:
        self.commands.append(" ".join(argv))
        return b""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """An empty host."""
    made = Host(tmp_path)
    monkeypatch.setattr(host_files, "Path", made.path)
    monkeypatch.setattr(host_files, "run", made.run)
    return made


def test_files_are_written_with_their_mode_and_content(host: Host) -> None:
    write(ALL)
    for file in ALL:
        assert host.path(file.path).read_text() == file.content
        assert host.path(file.path).stat().st_mode & 0o777 == (0o755 if file is PROGRAM else 0o644)


def test_what_is_written_takes_effect_in_order(host: Host) -> None:
    write(ALL)
    assert host.commands == COMMANDS


@pytest.mark.parametrize(
    ("file", "commands"),
    [
        (PROGRAM, []),
        (RULES, ["udevadm control --reload"]),
        (LINK, ["udevadm control --reload", "systemctl try-reload-or-restart systemd-networkd.service"]),
        (PART, ["systemctl daemon-reload"]),
        (UNIT, ["systemctl daemon-reload", "systemctl enable --now ringfence-network.service"]),
    ],
)
def test_only_what_has_changed_is_written_and_activated(host: Host, file: HostFile, commands: list[str]) -> None:
    write(ALL)
    host.commands.clear()
    before = {each.path: host.path(each.path).stat().st_ino for each in ALL}
    host.path(file.path).write_text("other")
    write(ALL)
    assert host.commands == commands
    assert [path for path, inode in before.items() if host.path(path).stat().st_ino != inode] == [file.path]


def test_files_that_are_as_declared_are_not_outdated(host: Host) -> None:
    assert outdated(ALL) == {file.path: ("", file.content) for file in ALL}
    write(ALL)
    host.commands.clear()
    assert outdated(ALL) == {}
    write(ALL)
    assert host.commands == []


def test_another_content_or_mode_is_told_and_mended(host: Host) -> None:
    write(ALL)
    host.path(UNIT.path).write_bytes(b"\xff\n")
    host.path(PROGRAM.path).chmod(0o644)
    assert outdated(ALL) == {UNIT.path: ("\ufffd\n", UNIT.content), PROGRAM.path: (PROGRAM.content, PROGRAM.content)}
    write(ALL)
    assert outdated(ALL) == {}


def test_looking_changes_nothing(host: Host) -> None:
    outdated(ALL)
    assert list(host.root.iterdir()) == []
    assert host.commands == []


@pytest.mark.parametrize("failing", range(len(COMMANDS)))
def test_what_did_not_take_effect_is_done_by_the_next_run(host: Host, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    def fail(argv: Sequence[str]) -> bytes:
        if len(host.commands) == failing:
            raise CommandFailed(f"{argv[0]} failed with exit status 1: no such module")
        return host.run(argv)

    with monkeypatch.context() as patch:
        patch.setattr(host_files, "run", fail)
        with pytest.raises(CommandFailed, match="no such module"):
            write(ALL)
    assert outdated(ALL) == {file.path: (file.content, file.content) for file in ALL}, "check mode tells of it"
    host.commands.clear()
    write(ALL)
    assert host.commands == COMMANDS
    assert outdated(ALL) == {}
    host.commands.clear()
    write(ALL)
    assert host.commands == []


def test_what_is_written_is_noted_before(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def power_cut(path: Path, content: bytes, mode: int) -> None:
        write_atomically(path, content, mode)
        if path == host.path(UNIT.path):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(host_files, "write_atomically", power_cut)
        with pytest.raises(KeyboardInterrupt):
            write([UNIT])
    assert set(outdated(ALL)) == {file.path for file in ALL}
    write([UNIT])
    assert host.commands == ["systemctl daemon-reload", "systemctl enable --now ringfence-network.service"]


@pytest.mark.usefixtures("host")
def test_other_files_do_not_end_what_waits_for_its_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(argv: Sequence[str]) -> bytes:
        raise CommandFailed(f"{argv[0]} failed with exit status 1")

    with monkeypatch.context() as patch:
        patch.setattr(host_files, "run", fail)
        with pytest.raises(CommandFailed):
            write([MODULES])
    write([PROGRAM, UNIT])
    assert list(outdated([MODULES, PROGRAM, UNIT])) == [MODULES.path]


BLOCK = HostFile("/etc/xen/scripts/block", "#!/bin/sh\nours\n", executable=True, diverted=True)


def test_a_file_of_a_package_is_diverted_before_ours_takes_its_place(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.path("/etc/xen/scripts").mkdir(parents=True)
    host.path(BLOCK.path).write_text("Debian's\n")

    def divert(argv: Sequence[str]) -> bytes:
        assert argv == ["dpkg-divert", "--quiet", "--local", "--rename", "--add", BLOCK.path]
        host.path(BLOCK.path).rename(host.path(f"{BLOCK.path}.distrib"))
        return b""

    monkeypatch.setattr(host_files, "run", divert)
    write([BLOCK])
    assert (host.path(BLOCK.path).read_text(), host.path(f"{BLOCK.path}.distrib").read_text()) == (BLOCK.content, "Debian's\n")
    assert not outdated([BLOCK])


def test_a_file_of_ours_without_the_diversion_is_outdated(host: Host) -> None:
    write([BLOCK])
    assert host.commands
    assert set(outdated([BLOCK])) == {BLOCK.path}


def test_files_of_an_older_version_are_found(tmp_path: Path) -> None:
    for name in ("plan.py", "zone/plan.py", "zone/plan.pyc", "zone/older.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    files = [HostFile(f"{tmp_path}/zone/plan.py", "")]
    assert host_files.superfluous(str(tmp_path), files) == [f"{tmp_path}/plan.py", f"{tmp_path}/zone/older.py"]
    assert host_files.superfluous(f"{tmp_path}/none", files) == []
