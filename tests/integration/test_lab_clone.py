"""A host of the lab made from another one's snapshot, with qemu-img."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ringfence_lab import cli
from ringfence_lab.hosts import Config, Host, new_machine
from ringfence_lab.qemu import Forward


@pytest.fixture(name="source")
def source_fixture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    """A host that is off, over a base that the cache has pruned since, with a snapshot."""
    monkeypatch.setenv("RINGFENCE_LAB_RUN", str(tmp_path / "run"))
    host = Host(tmp_path / "run" / "web")
    host.directory.mkdir(parents=True)
    (host.directory / "base.raw").write_bytes(b"base" * 1024)
    commands: list[list[str]] = [
        ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base.raw", "disk.qcow2"],
        ["create", "-q", "-f", "qcow2", "efivars.qcow2", "64K"],
        ["snapshot", "-c", "converged", "disk.qcow2"],
    ]
    for command in commands:
        subprocess.run(["qemu-img", *command], cwd=host.directory, check=True)
    machine = new_machine("web", 2048, 2, (Forward(2222, 22), Forward(18080, 8080)), network=True, virtualization=False)
    (host.directory / "host.json").write_text("{}")
    host._write(Config(machine=machine, image="/cache/debian13-0123.raw", key="/cache/id"))
    return host


def test_a_clone_has_the_snapshot_and_an_identity_of_its_own(source: Host) -> None:
    assert cli.main(["clone", "web", "converged", "db"]) == 0
    clone = Host(source.directory.parent / "db")
    assert clone.snapshots() == ["converged"]
    ours, theirs = clone.config.machine, source.config.machine
    assert (ours.memory_mib, ours.cpus, ours.virtualization) == (theirs.memory_mib, theirs.cpus, theirs.virtualization)
    assert ours.uuid != theirs.uuid
    assert (ours.forwards, ours.network) == ((), theirs.network)
    source.destroy()
    subprocess.run(["qemu-img", "convert", "-O", "raw", "disk.qcow2", "content"], cwd=clone.directory, check=True)
    assert (clone.directory / "content").read_bytes().startswith(b"base")


def test_what_cannot_be_cloned_leaves_nothing(source: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["clone", "web", "other", "db"]) == 1
    assert capsys.readouterr().err == "lab: web has no snapshot other; it has: converged\n"
    assert cli.main(["clone", "web", "converged", "web"]) == 1
    assert "there is a host web already" in capsys.readouterr().err
    assert [path.name for path in source.directory.parent.iterdir() if path.is_dir()] == ["web"]
