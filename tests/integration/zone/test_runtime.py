"""Tests of ``runtime`` with the programs that make file systems; programs of this machine stand for those of the zone base."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils import host_files
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.host_files import HostFile
from ansible_collections.ringfence.zones.plugins.module_utils.image import build
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.zone import base as zone_base
from ansible_collections.ringfence.zones.plugins.module_utils.zone import firewall, install, runtime, seccomp

SCRIPTS = {"boot": "#!/bin/sh\nboot\n", "init": "#!/bin/sh\ninit\n", "poweroff": "#!/bin/sh\npoweroff\n"}
BUSYBOX = "#!/bin/sh\nprintf 'busybox\\ncat\\npoweroff\\nsh\\nunixserver\\n'\n"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that comes first on the path, with what a zone base is made of."""
    directory = tmp_path / "bin"
    directory.mkdir()
    (directory / "busybox").write_text(BUSYBOX)
    (directory / "busybox").chmod(0o755)
    for name in ("crun", "dropbear", "resize2fs", "unixserver", "vchan-socket-proxy"):
        shutil.copy("/bin/cat", directory / name)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    profile = directory / "seccomp.json"
    profile.write_text("{}")
    monkeypatch.setattr(seccomp, "PROFILE", str(profile))
    # As on Debian 12; Debian 13's erofs is only mounted, and tests need no root.
    monkeypatch.setattr(build, "_filesystem_of_host", lambda: "squashfs")
    return directory


def _compose(store: Store, scripts: Mapping[str, str] | None = None, *, check: bool = False) -> tuple[str | None, str | None]:
    return zone_base.compose(store, scripts or SCRIPTS, check=check)


def _listing(base: Path) -> dict[str, str]:
    """Mode, and where a symbolic link leads, of each file of a zone base."""
    lines = subprocess.run(["unsquashfs", "-lln", str(base)], capture_output=True, check=True).stdout.decode().splitlines()
    words = [line.split() for line in lines if "squashfs-root/" in line]
    return {fields[5].removeprefix("squashfs-root/"): " ".join([fields[0], fields[1], *fields[7:]]) for fields in words}


def test_the_base_has_the_programs_their_libraries_and_the_scripts(programs: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    before, digest = _compose(store)
    made = runtime.current(store)
    assert (before, made.digest, made.filesystem) == (None, digest, "squashfs")
    assert made.boot.read_text() == SCRIPTS["boot"]
    assert made.busybox.read_bytes() == (programs / "busybox").read_bytes()
    assert os.access(made.boot, os.X_OK)
    assert os.access(made.busybox, os.X_OK)
    files = _listing(made.base)
    for name in ("busybox", "crun", "dropbear", "unixserver", "vchan-socket-proxy"):
        assert files[f"usr/bin/{name}"] == "-rwxr-xr-x 0/0"
    assert files["usr/lib/ringfence/init"] == files["usr/sbin/poweroff"] == "-rwxr-xr-x 0/0"
    assert (files["usr/bin/sh"], files["usr/bin/cat"]) == ("lrwxrwxrwx 0/0 busybox", "lrwxrwxrwx 0/0 busybox")
    assert (files["bin"], files["lib64"]) == ("lrwxrwxrwx 0/0 usr/bin", "lrwxrwxrwx 0/0 usr/lib64")
    assert files["etc/passwd"] == "-rw-r--r-- 0/0"
    assert "usr/bin/poweroff" not in files
    assert any(name.endswith("/libc.so.6") for name in files)
    assert any(name.startswith("usr/lib64/ld-linux") for name in files)
    # The last: what is mounted over.
    assert {"dev", "proc", "run", "sys", "image", "writable"} <= set(files)


def test_the_programs_start_in_the_base(programs: Path, tmp_path: Path) -> None:
    assert programs.is_dir()
    store = Store(tmp_path / "store")
    _compose(store)
    root = tmp_path / "root"
    subprocess.run(["unsquashfs", "-quiet", "-no-progress", "-dest", str(root), str(runtime.current(store).base)], check=True)
    command = ["unshare", "--map-root-user", "--root", str(root), "/usr/bin/crun", "/etc/group"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"root:x:0:\ntty:x:5:\n"), done.stderr


def test_the_same_programs_and_scripts_are_the_same_base(programs: Path, tmp_path: Path) -> None:
    assert programs.is_dir()
    one, other = Store(tmp_path / "one"), Store(tmp_path / "other")
    _before, digest = _compose(one)
    made = runtime.current(one).base.stat()
    assert _compose(one) == (digest, digest)
    assert runtime.current(one).base.stat().st_ino == made.st_ino
    assert _compose(other) == (None, digest)
    assert runtime.current(one).base.read_bytes() == runtime.current(other).base.read_bytes()


@pytest.mark.parametrize("changed", ["boot", "init", "poweroff", "busybox", "crun", "seccomp.json"])
def test_another_program_or_script_is_another_base_and_the_old_one_stays(programs: Path, tmp_path: Path, changed: str) -> None:
    store = Store(tmp_path / "store")
    _before, old = _compose(store)
    if changed in SCRIPTS:
        before, new = _compose(store, {**SCRIPTS, changed: "#!/bin/sh\nother\n"})
    else:
        shutil.copy("/bin/ls", programs / changed) if changed == "crun" else (programs / changed).write_text(f"{BUSYBOX}# other\n")
        before, new = _compose(store)
    assert before == old
    assert new is not None
    assert new != old
    assert runtime.current(store).digest == new
    assert runtime.load(store, str(old)).base.is_file()


def test_check_mode_predicts_the_digest_and_changes_nothing(programs: Path, tmp_path: Path) -> None:
    assert programs.is_dir()
    store = Store(tmp_path / "store")
    predicted = _compose(store, check=True)
    assert not store.root.exists()
    assert _compose(store) == predicted


def test_a_base_that_was_damaged_is_made_anew(programs: Path, tmp_path: Path) -> None:
    assert programs.is_dir()
    store = Store(tmp_path / "store")
    _before, digest = _compose(store)
    (runtime.current(store).directory / "runtime.json").unlink()
    assert _compose(store) == (None, digest)
    assert runtime.current(store).digest == digest


@pytest.mark.parametrize("routes", [False, True])
def test_the_runtime_is_installed_by_one_run_at_a_time(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, routes: bool
) -> None:
    assert programs.is_dir()
    forwarding, program, library = tmp_path / "forwarding.conf", tmp_path / "zonectl", tmp_path / "library"
    monkeypatch.setattr(firewall, "FORWARDING", forwarding)
    monkeypatch.setattr(firewall, "routes_others", lambda: {"ipv4"} if routes else set())
    monkeypatch.setattr(install, "_LIBRARY", str(library))
    loaded = []

    def load(script: list[str], *, stdin: bytes) -> bytes:
        assert not forwarding.exists()
        loaded.append((script, stdin.decode()))
        return b""

    monkeypatch.setattr(firewall, "run", load)
    monkeypatch.setattr(host_files, "_ACTIVATING", str(tmp_path / "activating"))
    library.mkdir()
    (library / "old.py").touch()
    store = Store(tmp_path / "store")
    files = [HostFile(str(forwarding), "1"), HostFile(str(program), "#!", executable=True)]

    def run(*, check: bool) -> install.Report:
        return install.install(store, files, {"zone/new.py": "new"}, SCRIPTS, check=check)

    with store.lock():
        predicted = run(check=True)
        with pytest.raises(RingfenceError, match="another converge of this host is running"):
            run(check=False)
    assert not program.exists()
    assert loaded == []
    assert run(check=False) == predicted
    assert loaded == [(["nft", "-f", "-"], firewall.rules(()))]
    assert predicted.files == {str(program): ("", "#!"), **({} if routes else {str(forwarding): ("", "1")})}
    assert (list(predicted.library), predicted.superfluous) == ([f"{library}/zone/new.py"], [f"{library}/old.py"])
    assert [path.name for path in library.rglob("*.py")] == ["new.py"]
    assert predicted.changed
    assert not run(check=False).changed
    assert len(loaded) == 1


def test_what_the_host_lacks_is_told_with_its_package(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (programs / "crun").unlink()
    (programs / "unixserver").unlink()
    (programs / "seccomp.json").unlink()
    monkeypatch.setenv("PATH", str(programs))
    store = Store(tmp_path / "store")
    with pytest.raises(
        RingfenceError,
        match=r"needs what this host lacks: crun \(package crun\), unixserver \(package ucspi-unix\), "
        r"\S+/seccomp.json \(package golang-\S+\); apply",
    ):
        _compose(store)
    assert _compose(store, check=True) == (None, None)
    assert not store.root.exists()


def test_a_host_without_a_base_has_none(tmp_path: Path) -> None:
    assert runtime.find_current(Store(tmp_path)) is None
    with pytest.raises(RingfenceError, match="this host has no zone runtime"):
        runtime.current(Store(tmp_path))
