# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a real registry to a file system file, with skopeo and the mkfs of this machine; and what is left when that fails."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import http.client
import http.server
import io
import json
import os
import shutil
import socket
import stat
import struct
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils import disk_space
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


class Proxy(http.server.ThreadingHTTPServer):
    """Hands requests on to the registry at ``port``, and remembers which blobs were asked for."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.registry = port
        self.fetched: list[str] = []
        self.cuts: dict[str, int] = {}
        """How many more times the transfer of a blob is cut."""
        self.surplus: dict[str, int] = {}
        """How many MiB are sent after a blob."""

    def shutdown_request(self, request: Any) -> None:
        """Close a connection; without an end of the stream before, if the handler has asked for a reset."""
        self.close_request(request)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        headers = {name: ", ".join(self.headers.get_all(name, [])) for name in ("Accept", "Range") if name in self.headers}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.server.registry)) as connection:
            connection.request("GET", self.path, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
        digest = self.path.rpartition("/")[2] if "/blobs/" in self.path else ""
        if digest:
            self.server.fetched.append(digest)
        if self.server.cuts.get(digest):
            self.server.cuts[digest] -= 1
            time.sleep(0.5)  # the other layers come first
            content = content[: len(content) // 2]
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name != "Content-Length" or digest not in self.server.surplus:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        with contextlib.suppress(OSError):
            while self.server.surplus.get(digest):
                self.wfile.write(bytes(1 << 20))
                self.server.surplus[digest] -= 1

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base class
        pass


@pytest.fixture
def proxy(port: int) -> Iterator[Proxy]:
    """A proxy of the registry, which skopeo may speak to without TLS."""
    with Proxy(port) as server_of_proxy:
        configuration = Path.home() / ".config" / "containers" / "registries.conf"
        with configuration.open("a") as text:
            text.write(f'[[registry]]\nlocation = "127.0.0.1:{server_of_proxy.server_port}"\ninsecure = true\n')
        thread = threading.Thread(target=server_of_proxy.serve_forever)
        thread.start()
        yield server_of_proxy
        server_of_proxy.shutdown()
        thread.join()


def push(layout: Layout, tag: str, target: str) -> None:
    subprocess.run(
        ["skopeo", "copy", "--quiet", "--all", "--preserve-digests", f"oci:{layout.directory}:{tag}", f"docker://{target}"], check=True
    )


def programs(directory: Path, **scripts: str) -> str:
    """A directory for PATH with the programs that images need, some replaced by shell scripts, and no mkfs.erofs unless given."""
    directory.mkdir()
    for name in {"prlimit", "skopeo", "sqfstar", "unsquashfs"} - {name.replace("_", ".") for name in scripts}:
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
    monkeypatch.setattr(disk_space, "free", lambda _directory: free)
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


FIRST, SECOND, THIRD = (os.urandom(300_000).hex() for _layer in range(3))


def pushed(tmp_path: Path, port: int, name: str, *stack: bytes) -> list[str]:
    """Publish an image, and return the digests of its layers."""
    layout = Layout(tmp_path / name, stack=stack)
    push(layout, "amd64", f"127.0.0.1:{port}/{name}:1")
    document = json.loads((layout.blobs / layout.manifests["amd64"]["digest"][7:]).read_bytes())
    return [layer["digest"] for layer in document["layers"]]


def kept(store: Store) -> set[str]:
    """The digests of the layers that a store keeps, each of which is what its name says."""
    found = {f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in store.layers.glob("sha256/*")}
    assert found == {f"sha256:{path.name}" for path in store.layers.glob("sha256/*")}
    return found


def test_a_layer_that_the_store_has_is_not_fetched_again(
    port: int, proxy: Proxy, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, plain = gzip.compress(tar(a=FIRST)), tar(b=SECOND)
    one = pushed(tmp_path, port, "one", base, plain)
    two = pushed(tmp_path, port, "two", base, plain, gzip.compress(tar(c=THIRD)))
    first = build.prepare(store, registry.resolve(f"127.0.0.1:{proxy.server_port}/one:1", "amd64"))
    assert {*one} <= {*proxy.fetched}
    # What gives space back while the file system is written leaves them alone, the one that is used as it was fetched too.
    assert {*one} <= kept(store)
    needed: list[int] = []
    monkeypatch.setattr(disk_space, "require", lambda _what, size, _directory: needed.append(size))
    proxy.fetched.clear()
    second = build.prepare(store, registry.resolve(f"127.0.0.1:{proxy.server_port}/two:1", "amd64"))
    assert {*proxy.fetched} & {*two} == {two[2]}
    assert needed == [(store.layers / two[2].replace(":", "/")).stat().st_size]
    assert (first.layers, second.layers) == (one, two)
    # An image that was lost is made of what is there.
    shutil.rmtree(second.path.parent)
    proxy.fetched.clear()
    assert build.prepare(store, registry.resolve(f"127.0.0.1:{proxy.server_port}/two:1", "amd64")) == second
    assert {*proxy.fetched} & {*two} == set()


def test_a_pull_that_was_cut_goes_on_where_it_was(
    port: int, proxy: Proxy, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_RETRIES", 1)
    first, second = pushed(tmp_path, port, "app", gzip.compress(tar(a=FIRST)), gzip.compress(tar(b=SECOND)))
    proxy.cuts[second] = 100
    resolved = registry.resolve(f"127.0.0.1:{proxy.server_port}/app:1", "amd64")
    with pytest.raises(registry.RegistryUnreachable):
        build.prepare(store, resolved)
    assert leftovers(store) == []
    assert first in kept(store)
    assert second not in kept(store)
    proxy.cuts.clear()
    proxy.fetched.clear()
    build.prepare(store, resolved)
    assert second in proxy.fetched
    assert first not in proxy.fetched


def test_a_disk_that_is_too_small_does_not_stay_full_of_layers(
    port: int, proxy: Proxy, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: Any) -> Path:
        assert len(kept(store) & {*one, *two}) == 2
        raise OSError(errno.ENOSPC, "No space left on device")

    base = gzip.compress(tar(a=FIRST))
    one = pushed(tmp_path, port, "one", base)
    two = pushed(tmp_path, port, "two", base, gzip.compress(tar(b=SECOND)))
    build.prepare(store, registry.resolve(f"127.0.0.1:{proxy.server_port}/one:1", "amd64"))
    monkeypatch.setattr(layers, "uncompressed", full)
    with pytest.raises(RingfenceError, match="is full; make room and run again"):
        build.prepare(store, registry.resolve(f"127.0.0.1:{proxy.server_port}/two:1", "amd64"))
    assert kept(store) & {*one, *two} == {*one}
    assert store.layers.stat().st_mode & 0o777 == 0o700


def test_a_transfer_that_breaks_is_begun_again(port: int, proxy: Proxy, store: Store, tmp_path: Path) -> None:
    first, second = pushed(tmp_path, port, "app", gzip.compress(tar(a=FIRST)), gzip.compress(tar(b=SECOND)))
    proxy.cuts[second] = 1
    build.prepare(store, registry.resolve(f"127.0.0.1:{proxy.server_port}/app:1", "amd64"))
    assert (proxy.fetched.count(first), proxy.fetched.count(second)) == (1, 2)


def test_a_registry_that_sends_more_than_it_declares_fills_no_disk(
    port: int, proxy: Proxy, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_LEAST_LIMIT", 1 << 22)
    first, second = pushed(tmp_path, port, "app", gzip.compress(tar(a=FIRST)), gzip.compress(tar(b=SECOND)))
    resolved = registry.resolve(f"127.0.0.1:{proxy.server_port}/app:1", "amd64")
    proxy.surplus[second] = 60
    with pytest.raises(RingfenceError, match=r"image \S+/app:1: a blob is larger than what its manifest says.*file too large"):
        build.prepare(store, resolved)
    assert proxy.surplus[second] > 20
    assert [leftovers(store), {first, second} & kept(store), list(store.layers.rglob("oci-put-blob*"))] == [[], set(), []]
    proxy.surplus.clear()
    image = build.prepare(store, resolved)
    assert {first, second} <= kept(store)
    # What is there is used where the others of the image may be smaller.
    shutil.rmtree(image.path.parent)
    proxy.fetched.clear()
    assert build.prepare(store, resolved) == image
    assert {first, second} & {*proxy.fetched} == set()


@pytest.mark.parametrize("damage", ["another content", "cut"])
def test_a_kept_layer_that_is_damaged_is_fetched_again(damage: str, port: int, proxy: Proxy, store: Store, tmp_path: Path) -> None:
    layers_of_app = pushed(tmp_path, port, "app", gzip.compress(tar(a=FIRST)), tar(b=SECOND))
    resolved = registry.resolve(f"127.0.0.1:{proxy.server_port}/app:1", "amd64")
    image = build.prepare(store, resolved)
    for digest in layers_of_app:
        path = store.layers / digest.replace(":", "/")
        path.write_bytes(path.read_bytes()[:1000] + (b"" if damage == "cut" else b"x" + path.read_bytes()[1001:]))
    shutil.rmtree(image.path.parent)
    proxy.fetched.clear()
    assert build.prepare(store, resolved) == image
    assert {*layers_of_app} <= {*proxy.fetched}
    assert {*layers_of_app} <= kept(store)


def test_layers_that_are_on_this_machine_are_not_kept(store: Store, tmp_path: Path) -> None:
    build.prepare(store, registry.resolve(f"oci:{Layout(tmp_path / 'layout').directory}:amd64", "amd64"))
    assert not store.layers.exists()
