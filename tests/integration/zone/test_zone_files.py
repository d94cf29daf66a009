"""Tests of ``zone_files`` with the real mkfs.ext4."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import made_up_host
import pytest
from made_up_host import digest

from ansible_collections.ringfence.zones.plugins.module_utils import command
from ansible_collections.ringfence.zones.plugins.module_utils.image import images
from ansible_collections.ringfence.zones.plugins.module_utils.kernel import kernels
from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Zone
from ansible_collections.ringfence.zones.plugins.module_utils.zone import files, make, runtime
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import Definition
from ansible_collections.ringfence.zones.plugins.module_utils.zone.files import Record


def test_the_writable_layer_is_a_small_ext4_before_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")
    host = made_up_host.make(tmp_path / "store", monkeypatch)
    monkeypatch.setattr(make, "run", command.run)
    made_up_host.add_image(host.store, digest("1"), {"Cmd": ["serve"]})
    definition = Definition(Zone(name="web", image="web"), digest("1"), digest("a"), "pv", digest("e"), 1)
    kernel = kernels.deployed(host.store)["stable"]
    make.write(host.store, definition, kernel, images.load(host.store, digest("1")), runtime.current(host.store), {})
    make.make_writable(host.store, definition, fresh=False)
    layer = made_up_host.only(host.store, "web", "writable")

    described = subprocess.run(["dumpe2fs", "-h", str(layer)], capture_output=True, check=True).stdout.decode()
    values = dict(line.split(":", 1) for line in described.splitlines() if ":" in line)
    assert [values[name].strip() for name in ("Block count", "Block size", "Reserved block count")] == ["262144", "4096", "0"]
    # What Docker lays over every image.
    laid = {path: _stat(layer, f"/upper/{path}") for path in (".dockerenv", "etc", "etc/mtab")}
    assert "Type: regular" in laid[".dockerenv"]
    assert "Type: directory    Mode:  0755" in laid["etc"]
    assert 'link dest: "/proc/mounts"' in laid["etc/mtab"]
    # What a host with many zones pays for each before it writes anything.
    assert layer.stat().st_blocks * 512 < 8 * 1024 * 1024

    made_up_host.write_record(host.store, "web", b"ringfence-record-1 state=exited exit=3 restarts=1 health=none oom=0 crashes=0\n")
    assert files.read_record(host.store, definition) == Record("exited", 3, 1)
    files.forget_record(host.store, definition)
    subprocess.run(["e2fsck", "-fn", str(layer)], capture_output=True, check=True)


def _stat(layer: Path, path: str) -> str:
    return subprocess.run(["debugfs", "-R", f"stat {path}", str(layer)], capture_output=True, check=True).stdout.decode()
