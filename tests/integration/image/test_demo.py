# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The demo's images are built from Debian's packages, served by a registry, and become file systems."""

from __future__ import annotations

import json
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import services
import yaml

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.image import build, layers, registry
from ansible_collections.ringfence.zones.plugins.module_utils.kernel import deploy
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ringfence_demo import cli, server
from ringfence_demo import images as demo_images
from ringfence_demo.cache import TAG
from ringfence_demo.definitions import DEFINITIONS, KERNELS


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def cache(tmp_path: Path, free_port: int) -> Iterator[Path]:
    """A cache with the images and kernels of the user's own, which are built only once, and a registry apart."""
    (tmp_path / "cache").mkdir()
    for kind in ("images", "kernels"):
        shared = cli.cache_directory() / kind
        shared.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cache" / kind).symlink_to(shared)
    yield tmp_path / "cache"
    server.stop(tmp_path / "cache" / f"registry-{free_port}")


def up(cache: Path, port: int, directory: Path) -> list[str]:
    return ["--cache", str(cache), "up", "--port", str(port), "--references", str(directory / "references.yml")]


def test_demo_images(
    cache: Path, free_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = up(cache, free_port, tmp_path)
    assert cli.main(arguments) == 0
    written = (tmp_path / "references.yml").read_bytes()
    written_kernels, references = (yaml.safe_load(written)[variable] for variable in ("demo_kernels", "demo_images"))
    assert list(written_kernels) == list(KERNELS)
    assert list(references) == [definition.name for definition in DEFINITIONS]
    assert cli.main(arguments) == 0
    assert "is running already" in capsys.readouterr().err
    assert (tmp_path / "references.yml").read_bytes() == written

    configuration = tmp_path / "home" / ".config" / "containers" / "registries.conf"
    configuration.parent.mkdir(parents=True)
    configuration.write_text(f'[[registry]]\nlocation = "127.0.0.1:{free_port}"\ninsecure = true\n')
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, program, account in (("nginx", "usr/sbin/nginx", "www-data:"), ("redis", "usr/bin/redis-check-rdb", "redis:")):
        resolved = registry.resolve(references[name])
        assert references[name].endswith(f"@{resolved.digest}")
        image = build.prepare(Store(tmp_path / "store"), resolved)
        assert f"\n{account}" in image.passwd
        assert image.sizes["filesystem"] < 60_000_000
        layout = registry.fetch(resolved, tmp_path / name)
        (layer,) = resolved.manifest["layers"]
        with layers.merged([layout / "blobs" / "sha256" / layer["digest"][7:]]) as root:
            assert layers.read_file(root, program, 50_000_000)
            assert layers.read_file(root, "bin/sh", 5_000_000) == layers.read_file(root, "usr/bin/busybox", 5_000_000)

    declared = deploy.declare([{"name": name, "image": image} for name, image in written_kernels.items()])
    deployed = deploy.converge(Store(tmp_path / "store"), declared, check=False).kernels
    assert [(kernel["modes"], kernel["image"].endswith(f"@{kernel['digest']}")) for kernel in deployed] == [(["pv", "pvh"], True)] * 2
    assert [kernel["release"].split(".")[:2] for kernel in deployed] == [["6", "12"], ["6", "1"]]

    for _time in range(2):
        assert cli.main(["--cache", str(cache), "down", "--port", str(free_port)]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["registry stopped", f"no registry of the demo is running on port {free_port}"]


def test_an_image_of_the_scenarios_has_only_what_its_definition_keeps(cache: Path) -> None:
    """The old userland: one static program, scripts that can be run, and no library."""
    (legacy,) = (definition for definition in services.DEFINITIONS if definition.name == "legacy")
    built = demo_images.build(legacy, cache)
    (layer,) = registry.resolve(f"oci:{built}:{TAG}").manifest["layers"]
    with tarfile.open(built / "blobs" / "sha256" / layer["digest"][7:]) as archive:
        modes = {member.name: member.mode for member in archive}
    assert modes["usr/bin/busybox"] == modes["etc/init.d/rcS"] == 0o755
    assert modes["etc/inittab"] == 0o644
    assert [name for name in modes if "lib" in name.split("/")[:2]] == []


def test_port_in_use(cache: Path, free_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", free_port))
        other.listen()
        assert cli.main(up(cache, free_port, tmp_path)) == 1
    assert f"error: port {free_port} on 127.0.0.1 is used by another program" in capsys.readouterr().err
    assert not (tmp_path / "references.yml").exists()


def test_registry_that_ends_at_once(cache: Path, free_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "docker-registry"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'panic: no such storage' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    with pytest.raises(RingfenceError, match=f"does not come up on port {free_port}: panic: no such storage"):
        server.start(cache / "registry", free_port)
    assert not server.stop(cache / "registry")


def test_down_leaves_a_foreign_process_alone(tmp_path: Path) -> None:
    """The process id of a registry that has long ended may be another program's by now."""
    (tmp_path / "process.json").write_text(json.dumps({"pid": 1, "started": 0, "port": 1}))
    assert not server.stop(tmp_path)
    assert not (tmp_path / "process.json").exists()
