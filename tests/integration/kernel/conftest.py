"""What the tests of kernels share: made-up kernel images in OCI layouts, and a registry."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import lzma
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import samples

from ansible_collections.ringfence.zones.plugins.module_utils.image import oci_layout


@dataclasses.dataclass
class MadeUp:
    """The parts of a kernel image; a test replaces those it is about."""

    image: bytes = dataclasses.field(default_factory=samples.bzimage)
    config: str = dataclasses.field(default_factory=samples.config)
    dep: str = samples.DEP
    module: bytes = dataclasses.field(default_factory=samples.module)
    metadata: str = f"KERNEL_ARCH=x86_64\nKERNEL_VERSION=6.12.1\nKERNEL_UNAME_R={samples.RELEASE}\nKERNEL_FLAVOR=zone\n"
    architecture: str = "amd64"
    annotations: dict[str, str] = dataclasses.field(default_factory=lambda: {"dev.edera.kernel.format": "1"})
    without: tuple[str, ...] = ()
    edit: Callable[[Path], object] = lambda _modules: None
    """Called with the directory of the modules before it is packed."""

    def write(self, directory: Path) -> str:
        """Write the image as an OCI layout and return its digest."""
        modules = directory / "addons" / "modules"
        modules.mkdir(parents=True)
        for name, content in (("dep", self.dep), ("softdep", samples.SOFTDEP), ("alias", samples.ALIAS)):
            (modules / f"modules.{name}").write_text(content)
        for line in samples.DEP.splitlines():
            path = modules / line.partition(":")[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.name not in self.without:
                path.write_bytes(lzma.compress(self.module) if path.suffix == ".xz" else self.module)
        self.edit(modules)
        squashfs = directory / "addons.squashfs"
        subprocess.run(["mksquashfs", str(directory / "addons"), str(squashfs), "-quiet", "-no-progress", "-all-root"], check=True)
        digest = hashlib.sha256(self.config.encode()).hexdigest()
        files: dict[str, bytes | Path] = {
            "kernel/image": self.image,
            "kernel/config.gz": gzip.compress(self.config.encode(), mtime=0),
            "kernel/metadata": f"KERNEL_CONFIG=sha256:{digest}\n{self.metadata}".encode(),
            "kernel/addons.squashfs": squashfs,
        }
        kept = {name: content for name, content in files.items() if name not in self.without}
        return oci_layout.write_layout(directory / "layout", kept, self.architecture, self.annotations, "1")


@pytest.fixture
def make_image(tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """A function that makes an image of the given parts, and returns its reference and its digest."""

    def make(name: str = "image", **parts: object) -> tuple[str, str]:
        directory = tmp_path / name
        digest = MadeUp(**parts).write(directory)  # type: ignore[arg-type]
        return f"oci:{directory}/layout:1", digest

    return make


@pytest.fixture(scope="session")
def apt(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each suite of Debian an apt configuration with its current package lists."""
    configurations = {}
    for suite in ("bookworm", "trixie"):
        root = tmp_path_factory.mktemp(suite)
        for name in ("lists/partial", "cache/archives/partial"):
            (root / name).mkdir(parents=True)
        (root / "status").touch()
        sources = "".join(
            f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/{archive} main\n"
            for archive in (f"debian {suite}", f"debian-security {suite}-security")
        )
        (root / "sources.list").write_text(sources)
        settings = {
            "APT::Architecture": "amd64",
            "APT::Sandbox::User": "root",
            "Dir::Cache": f"{root}/cache",
            "Dir::Etc::sourcelist": f"{root}/sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State": str(root),
            "Dir::State::lists": f"{root}/lists",
            "Dir::State::status": f"{root}/status",
        }
        (root / "apt.conf").write_text("".join(f'{key} "{value}";\n' for key, value in settings.items()))
        environment = {**os.environ, "APT_CONFIG": f"{root}/apt.conf"}
        subprocess.run(["apt-get", "--quiet", "update", "--error-on=any"], env=environment, check=True)
        configurations[suite] = root / "apt.conf"
    return configurations


@pytest.fixture
def registry_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty registry without TLS on this machine, which skopeo is told of."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    home = tmp_path / "home"
    (home / ".config/containers").mkdir(parents=True)
    (home / ".config/containers/registries.conf").write_text(f'[[registry]]\nlocation = "{address}"\ninsecure = true\n')
    monkeypatch.setenv("HOME", str(home))
    config = tmp_path / "registry.yml"
    config.write_text(f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/registry}}}}\nhttp: {{addr: '{address}'}}\n")
    with open(tmp_path / "registry.log", "wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        _wait_for(address, process, tmp_path / "registry.log")
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    host, port = address.split(":")
    for _attempt in range(300):
        if process.poll() is not None:
            pytest.fail(f"docker-registry ended: {log.read_text()}")
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"docker-registry does not answer on {address}: {log.read_text()}")
