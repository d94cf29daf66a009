# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a real registry to a file system file, with skopeo and the mkfs of this machine; and what is left when that fails."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import shutil
import socket
import stat
import subprocess
import tarfile
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.image import build, images, layers, registry
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ringfence_demo import server

PASSWD = "root:x:0:0:root:/root:/bin/sh\nredis:x:999:999::/data:/bin/false\n"


def tar(**files: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size, info.mtime = len(content.encode()), 1_500_000_000
            archive.addfile(info, io.BytesIO(content.encode()))
    return buffer.getvalue()


LAYERS = (
    gzip.compress(tar(etc__passwd=PASSWD, etc__group="root:x:0:\n", app__old="1", app__kept="2"), mtime=0),
    tar(**{"app__.wh.old": "", "app__new": "3" * 100_000}),
)


class Layout:
    """An OCI layout with one image of several layers for each architecture, and an index over them tagged ``index``."""

    def __init__(self, directory: Path, stack: tuple[bytes, ...] = LAYERS, architectures: tuple[str, ...] = ("amd64",)) -> None:
        self.directory = directory
        self.blobs = directory / "blobs" / "sha256"
        self.blobs.mkdir(parents=True)
        self.manifests = {architecture: self._image(stack, architecture) for architecture in architectures}
        self.index = self._document(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.index.v1+json",
                "manifests": [{**self.manifests[name], "platform": {"os": "linux", "architecture": name}} for name in architectures],
            },
            "application/vnd.oci.image.index.v1+json",
        )
        tags = {**self.manifests, "index": self.index}
        tagged = [{**entry, "annotations": {"org.opencontainers.image.ref.name": tag}} for tag, entry in tags.items()]
        (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": tagged}))
        (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def _blob(self, content: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        (self.blobs / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def _document(self, document: dict[str, Any], media_type: str) -> dict[str, Any]:
        return self._blob(json.dumps(document).encode(), media_type)

    def _image(self, stack: tuple[bytes, ...], architecture: str) -> dict[str, Any]:
        gzipped = [layer[:2] == b"\x1f\x8b" for layer in stack]
        plain = [gzip.decompress(layer) if zipped else layer for layer, zipped in zip(stack, gzipped, strict=True)]
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["app"], "User": "redis"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in plain]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self._document(config, "application/vnd.oci.image.config.v1+json"),
            "layers": [
                self._blob(layer, f"application/vnd.oci.image.layer.v1.tar{'+gzip' if zipped else ''}")
                for layer, zipped in zip(stack, gzipped, strict=True)
            ],
        }
        return self._document(manifest, "application/vnd.oci.image.manifest.v1+json")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of an empty registry, which skopeo may speak to without TLS."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free: int = probe.getsockname()[1]
    configuration = tmp_path / "home" / ".config" / "containers" / "registries.conf"
    configuration.parent.mkdir(parents=True)
    configuration.write_text(f'[[registry]]\nlocation = "127.0.0.1:{free}"\ninsecure = true\n')
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert server.start(tmp_path / "registry", free)
    try:
        yield free
    finally:
        server.stop(tmp_path / "registry")


def push(layout: Layout, tag: str, target: str) -> None:
    subprocess.run(
        ["skopeo", "copy", "--quiet", "--all", "--preserve-digests", f"oci:{layout.directory}:{tag}", f"docker://{target}"], check=True
    )


def programs(directory: Path, **scripts: str) -> str:
    """A directory for PATH with the programs that images need, some replaced by shell scripts, and no mkfs.erofs unless given."""
    directory.mkdir()
    for name in {"skopeo", "sqfstar", "unsquashfs"} - {name.replace("_", ".") for name in scripts}:
        found = shutil.which(name)
        assert found, f"{name} is not installed"
        (directory / name).symlink_to(found)
    for name, script in scripts.items():
        path = directory / name.replace("_", ".")
        path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
        path.chmod(0o755)
    return str(directory)


def rows(image: Path) -> list[list[str]]:
    """What a squashfs file holds: mode, owner, size, date, time, path."""
    done = subprocess.run(["unsquashfs", "-lln", str(image)], stdout=subprocess.PIPE, check=True, text=True)
    return [line.split(maxsplit=5) for line in done.stdout.splitlines() if " squashfs-root" in line]


def listed(image: Path) -> dict[str, int]:
    """Paths of the files in a squashfs file, with their sizes."""
    return {row[-1].removeprefix("squashfs-root/"): int(row[2]) for row in rows(image) if row[0].startswith("-")}


def leftovers(store: Store) -> list[Path]:
    return [path for directory in (store.tmp, store.images) if directory.exists() for path in directory.iterdir()]


def test_from_registry_to_file_system(port: int, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(tmp_path / "layout", architectures=("arm64", "amd64"))
    name = f"127.0.0.1:{port}/team/app"
    push(layout, "index", f"{name}:1")
    monkeypatch.setenv("PATH", programs(tmp_path / "bin"))
    digest, index = layout.manifests["amd64"]["digest"], layout.index["digest"]
    for reference, named in ((f"{name}:1", index), (f"{name}@{index}", index), (f"{name}:7@{digest}", digest)):
        resolved = registry.resolve(reference, "amd64")
        assert (resolved.digest, resolved.named_digest) == (digest, named)
    with pytest.raises(registry.WrongArchitecture, match="is offered for linux/amd64, linux/arm64; this host needs linux/riscv64"):
        registry.resolve(f"{name}:1", "riscv64")

    assert images.find(store, f"{name}@{index}") is None
    image = build.prepare(store, registry.resolve(f"{name}@{index}", "amd64"))
    assert listed(image.path) == {"etc/passwd": len(PASSWD), "etc/group": 10, "app/kept": 1, "app/new": 100_000}
    assert (image.digest, image.named_digest, image.filesystem) == (digest, index, "squashfs")
    assert (image.passwd, image.group) == (PASSWD, "root:x:0:\n")
    assert image.config["config"] == {"Cmd": ["app"], "User": "redis"}
    assert image.sizes["compressed"] == sum(len(layer) for layer in LAYERS)
    assert image.sizes["filesystem"] == image.path.stat().st_size
    assert stat.S_IMODE(image.path.parent.stat().st_mode) == 0o700
    assert images.present(store) == {digest}
    assert list(store.tmp.iterdir()) == []
    # What is there is found and not fetched again: the registry may be gone.
    server.stop(tmp_path / "registry")
    assert images.find(store, f"{name}@{index}") == images.find(store, f"{name}@{digest}") == images.load(store, digest) == image
    assert images.find(store, f"{name}:1") is None
    with pytest.raises(registry.RegistryUnreachable):
        registry.resolve(f"{name}:1", "amd64")


def test_faults_of_registry_and_reference(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(tmp_path / "layout", architectures=("arm64",))
    push(layout, "arm64", f"127.0.0.1:{port}/app:1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        silent = probe.getsockname()[1]
        for reference, kind in (
            (f"127.0.0.1:{port}/app:2", registry.ImageNotFound),
            (f"127.0.0.1:{port}/none:1", registry.ImageNotFound),
            (f"127.0.0.1:{port}/app@sha256:{'0' * 64}", registry.ImageNotFound),
            (f"127.0.0.1:{silent}/app:1", registry.RegistryUnreachable),
            ("registry.invalid/app:1", registry.RegistryUnreachable),
            (f"127.0.0.1:{port}/app:1", registry.WrongArchitecture),
            (f"docker-archive:{tmp_path}/none.tar", registry.ImageNotFound),
        ):
            with pytest.raises(kind):
                registry.resolve(reference, "amd64")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(registry.RegistryUnreachable, match=r"speaks no TLS; .* insecure = true"):
        registry.resolve(f"127.0.0.1:{port}/app:1", "amd64")


@pytest.mark.parametrize("what", ["manifest", "config", "layer"])
def test_tampered_in_the_registry(what: str, port: int, store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    manifest = layout.manifests["amd64"]["digest"]
    push(layout, "amd64", f"127.0.0.1:{port}/app:1")
    document = json.loads((layout.blobs / manifest[7:]).read_bytes())
    digest = {"manifest": manifest, "config": document["config"]["digest"], "layer": document["layers"][1]["digest"]}[what]
    (stored,) = (path for path in (tmp_path / "registry").rglob("data") if path.parent.name == digest[7:])
    content = stored.read_bytes()
    stored.write_bytes(content[:-1] + b" " if what == "layer" else content + b" ")
    with pytest.raises(registry.DigestMismatch):
        build.prepare(store, registry.resolve(f"127.0.0.1:{port}/app@{manifest}", "amd64"))
    assert leftovers(store) == []


def test_archives(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    for transport in ("oci-archive", "docker-archive"):
        target = f"{transport}:{tmp_path}/{transport}.tar:app:1"
        subprocess.run(["skopeo", "copy", "--quiet", f"oci:{layout.directory}:amd64", target], check=True)
        image = build.prepare(
            store, registry.resolve(target if transport == "docker-archive" else f"oci-archive:{tmp_path}/oci-archive.tar")
        )
        assert (image.passwd, image.config["config"]["User"]) == (PASSWD, "redis")
    assert len(images.present(store)) == 2


def test_layout_that_changed_after_it_was_resolved(store: Store, tmp_path: Path) -> None:
    resolved = registry.resolve(f"oci:{Layout(tmp_path / 'layout').directory}:amd64", "amd64")
    shutil.rmtree(tmp_path / "layout")
    Layout(tmp_path / "layout", stack=LAYERS[:1])
    with pytest.raises(registry.DigestMismatch, match="has changed while it was fetched"):
        build.prepare(store, resolved)
    assert leftovers(store) == []


def test_same_image_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", programs(tmp_path / "bin"))
    resolved = registry.resolve(f"oci:{Layout(tmp_path / 'layout').directory}:amd64", "amd64")
    first, second = (build.prepare(Store(tmp_path / name), resolved) for name in ("one", "two"))
    assert first.path.read_bytes() == second.path.read_bytes()
    # The root directory has no entry in the layers; without our care it would have the time of day.
    done = subprocess.run(
        ["unsquashfs", "-lln", str(first.path)], stdout=subprocess.PIPE, check=True, text=True, env={**os.environ, "TZ": "UTC"}
    )
    assert next(line for line in done.stdout.splitlines() if line.endswith(" squashfs-root")).split()[3] == "2017-07-14"


def test_erofs_where_mkfs_reads_tar(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'case $1 in --help) echo "--tar=X --mkfs-time";; *) echo "$@" >&2; for last; do :; done; cat > "$last";; esac'
    monkeypatch.setenv("PATH", programs(tmp_path / "bin", mkfs_erofs=script))
    image = build.prepare(store, registry.resolve(f"oci:{Layout(tmp_path / 'layout').directory}:amd64", "amd64"))
    assert image.filesystem == "erofs"
    with tarfile.open(image.path) as archive:
        assert sorted(archive.getnames()) == [".", "app", "app/kept", "app/new", "etc", "etc/group", "etc/passwd"]


def test_squashfs_where_mkfs_erofs_is_too_old(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", programs(tmp_path / "bin", mkfs_erofs='echo "usage: [options] FILE DIRECTORY" >&2; exit 1'))
    image = build.prepare(store, registry.resolve(f"oci:{Layout(tmp_path / 'layout').directory}:amd64", "amd64"))
    assert (image.filesystem, image.path.read_bytes()[:4]) == ("squashfs", b"hsqs")


def test_no_program_for_a_file_system(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = registry.resolve(f"oci:{Layout(tmp_path / 'layout').directory}:amd64", "amd64")
    path = Path(programs(tmp_path / "bin"))
    (path / "sqfstar").unlink()
    monkeypatch.setenv("PATH", str(path))
    with pytest.raises(RingfenceError, match=r"install erofs-utils 1\.8"):
        build.prepare(store, resolved)
    assert leftovers(store) == []


@pytest.mark.parametrize("reads", ["cat >/dev/null", "true"], ids=["at its end", "at once"])
def test_failing_mkfs(reads: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", programs(tmp_path / "bin", sqfstar=f"{reads}; echo 'Write failed: No space left on device' >&2; exit 1"))
    stack = (tar(big="x" * 3_000_000),)
    resolved = registry.resolve(f"oci:{Layout(tmp_path / 'layout', stack=stack).directory}:amd64", "amd64")
    with pytest.raises(RingfenceError, match="sqfstar failed with exit status 1: Write failed: No space left on device"):
        build.prepare(store, resolved)
    assert leftovers(store) == []


def test_full_disk(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: Any) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(layers, "uncompressed", full)
    with pytest.raises(RingfenceError, match=r"the disk below .*store is full; make room and run again"):
        build.prepare(store, registry.resolve(f"oci:{Layout(tmp_path / 'layout').directory}:amd64", "amd64"))
    assert leftovers(store) == []


@pytest.mark.parametrize(
    ("free", "message"),
    [(1000, r"needs \d+ bytes below \S+, and 1000 bytes are free there"), (200_000, r"unpacks to more than 100000 bytes")],
    ids=["not even the layers fit", "bomb"],
)
def test_too_little_room(free: int, message: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = gzip.compress(tar(zeros="0" * 10_000_000), mtime=0)
    resolved = registry.resolve(f"oci:{Layout(tmp_path / 'layout', stack=(bomb,)).directory}:amd64", "amd64")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(0, 0, free))
    with pytest.raises(RingfenceError, match=message):
        build.prepare(store, resolved)
    assert leftovers(store) == []


def test_hostile_layer(store: Store, tmp_path: Path) -> None:
    stack = (LAYERS[0], tar(**{"..__..__escaped": "x"}))
    resolved = registry.resolve(f"oci:{Layout(tmp_path / 'layout', stack=stack).directory}:amd64", "amd64")
    with pytest.raises(layers.LayerError, match=r"layer 2 of 2, entry '\.\./\.\./escaped'"):
        build.prepare(store, resolved)
    assert leftovers(store) == []
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("fault", ["missing", "no description", "broken description", "cut file"])
def test_damaged_store(fault: str, store: Store, tmp_path: Path) -> None:
    image = build.prepare(store, registry.resolve(f"oci:{Layout(tmp_path / 'layout').directory}:amd64", "amd64"))
    description = image.path.parent / "image.json"
    if fault == "missing":
        shutil.rmtree(image.path.parent)
    elif fault == "no description":
        description.unlink()
    elif fault == "broken description":
        description.write_text("{}")
    else:
        os.truncate(image.path, 100)
    with pytest.raises(RingfenceError, match=f"image {image.digest} in the store is not usable: .*converge again"):
        images.load(store, image.digest)
    assert not images.is_present(store, image.digest)


def test_another_content_of_the_same_size_is_found(store: Store, tmp_path: Path) -> None:
    image = build.prepare(store, registry.resolve(f"oci:{Layout(tmp_path / 'layout').directory}:amd64", "amd64"))
    assert images.is_whole(store, image.digest)
    with open(image.path, "r+b") as handle:
        handle.seek(2000)
        byte = handle.read(1)
        handle.seek(2000)
        handle.write(bytes([byte[0] ^ 1]))
    assert images.is_present(store, image.digest)
    assert not images.is_whole(store, image.digest)
