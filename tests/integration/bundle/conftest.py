"""A registry, an archive of Debian packages signed by a key of its own, and a collection, to collect bundles from."""

from __future__ import annotations

import hashlib
import lzma
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils import debian
from ansible_collections.ringfence.zones.plugins.module_utils.bundle import collect as bundle_collect
from ansible_collections.ringfence.zones.plugins.module_utils.bundle import collection_archive, debian_archive
from ansible_collections.ringfence.zones.plugins.module_utils.image import oci_layout
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ringfence_demo import server

LIBRARY = "libtool1"
"""On which the package squashfs-tools of the made-up archive depends, and which nobody names."""

TIME = "systemd-timesyncd"
"""Of Debian's standard system."""

ANOTHER_TIME = "chrony"
"""Which cannot be on a host together with that."""

RECOMMENDED = "recommended"
"""What the package extra recommends, and no bundle has."""


class Archive:
    """A made-up archive of Debian, with the packages that a host needs; each is a few hundred bytes."""

    def __init__(self, directory: Path, suite: str) -> None:
        self.directory = directory
        self.suite = suite
        self.home = directory / "gnupg"
        self.keyring = directory / "keyring.gpg"
        self.versions = dict.fromkeys(
            [*debian.packages(debian.SUITES[suite]), "python3-apt", "openssh-server", LIBRARY, TIME, ANOTHER_TIME, "extra", RECOMMENDED],
            "9:1.0-1+deb13u1",
        )

    @property
    def addresses(self) -> dict[str, str]:
        return {name: f"file:{self.directory}/{name}" for name in debian_archive.ARCHIVES}

    def make(self) -> None:
        """Make the key and all packages."""
        self.home.mkdir(parents=True, mode=0o700)
        self._gpg("--quick-gen-key", "archive@example", "rsa2048", "sign", "never")
        self._gpg("--output", str(self.keyring), "--export", "archive@example")
        self.publish()
        self.close()

    def publish(self) -> None:
        """Make the indexes of what there is, and sign them."""
        pool = self.directory / "debian" / "pool" / "main"
        stanzas = [self._package(pool, name, version) for name, version in self.versions.items()]
        for archive, name in debian_archive.indexes(self.suite):
            self._index(self.directory / archive / "dists" / name, "\n".join(stanzas if name == self.suite else []))

    def _package(self, pool: Path, name: str, version: str) -> str:
        control = f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: nobody <nobody@example>\nDescription: made up\n"
        if name == "squashfs-tools":
            control += f"Depends: {LIBRARY}\n"
        if name == TIME:
            control += f"Priority: standard\nDepends: {LIBRARY} (= {version})\nConflicts: {ANOTHER_TIME}\n"
        if name == "extra":
            control += f"Recommends: {RECOMMENDED}\n"
        # As in Debian's pool, without the epoch.
        deb = pool / name[0] / name / f"{name}_{version.partition(':')[2]}_amd64.deb"
        if not deb.exists():
            tree = self.directory / "tree"
            (tree / "DEBIAN").mkdir(parents=True)
            (tree / "DEBIAN" / "control").write_text(control)
            deb.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["dpkg-deb", "--root-owner-group", "--build", str(tree), str(deb)], check=True, stdout=subprocess.DEVNULL)
            shutil.rmtree(tree)
        digest = hashlib.sha256(deb.read_bytes()).hexdigest()
        where = deb.relative_to(self.directory / "debian")
        return f"{control}Filename: {where}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n"

    def _index(self, directory: Path, packages: str) -> None:
        contents = {"Packages": packages.encode()}
        contents["Packages.xz"] = lzma.compress(contents["Packages"])
        contents = {f"main/binary-amd64/{name}": content for name, content in contents.items()}
        # As Debian's, it has indexes that no bundle takes.
        contents |= {"main/i18n/Translation-en": b"Package: none\n", "main/dep11/Components-amd64.yml": b"---\n"}
        lines = []
        for name, content in contents.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            lines.append(f" {hashlib.sha256(content).hexdigest()} {len(content)} {name}\n")
        release = f"Suite: stable\nCodename: {directory.name}\n"
        release += "Date: Thu, 01 Jan 2026 00:00:00 UTC\nValid-Until: Thu, 08 Jan 2026 00:00:00 UTC\n"
        release += f"Architectures: amd64\nComponents: main\nSHA256:\n{''.join(lines)}"
        (directory / "Release").write_text(release)
        (directory / "InRelease").unlink(missing_ok=True)
        self._gpg("--output", str(directory / "InRelease"), "--clear-sign", str(directory / "Release"))

    def _gpg(self, *arguments: str) -> None:
        gpg = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback"]
        subprocess.run([*gpg, *arguments], check=True)

    def close(self) -> None:
        """End the agent that gpg has started."""
        subprocess.run(["gpgconf", "--homedir", str(self.home), "--kill", "all"], check=True)


@pytest.fixture(scope="session")
def made_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = Archive(tmp_path_factory.mktemp("archive") / "made", "trixie")
    archive.make()
    return archive.directory


@pytest.fixture
def archive(made_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """An archive that a test may change."""
    shutil.copytree(made_archive, tmp_path / "archive", ignore=shutil.ignore_patterns("S.*"))
    # The indexes say until when they hold, and that is long ago: a bundle does not grow old, what it is collected from does.
    (tmp_path / "parts").mkdir()
    # In the place of this machine's own settings and pins.
    own = {"parts": tmp_path / "parts", "preferences": tmp_path / "preferences"}
    (tmp_path / "own.conf").write_text(
        'Acquire::Check-Valid-Until "false";\n' + "".join(f'Dir::Etc::{name} "{path}";\n' for name, path in own.items())
    )
    made = Archive(tmp_path / "archive", "trixie")
    monkeypatch.setattr(debian_archive, "KEYRING", str(made.keyring))
    monkeypatch.setattr(debian_archive, "_SETTINGS", f'#include "{tmp_path}/own.conf";\n{debian_archive._SETTINGS}')
    yield made
    made.close()


@pytest.fixture
def apt_conf_d(archive: Archive, tmp_path: Path) -> Path:  # noqa: ARG001 - its apt reads it
    """The directory that apt reads in the place of ``/etc/apt/apt.conf.d``; it is empty."""
    return tmp_path / "parts"


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkout of a collection."""
    root = tmp_path_factory.mktemp("checkout")
    (root / "galaxy.yml").write_text("namespace: ringfence\nname: zones\nversion: 0.1.0\nreadme: README.md\nauthors: [nobody]\n")
    (root / "README.md").write_text("# made up\n")
    (root / "program").write_text("#!/bin/sh\n")
    (root / "program").chmod(0o755)
    return root


@pytest.fixture(scope="session")
def collection(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, installed."""
    work = tmp_path_factory.mktemp("collection")
    installed = work / "installed"
    installed.mkdir()
    subprocess.run(["tar", "-xf", collection_archive.archive(checkout, work), "-C", installed], check=True)
    return installed


class Registry:
    """A real registry on this machine."""

    def __init__(self, port: int, directory: Path, work: Path) -> None:
        self.address = f"127.0.0.1:{port}"
        self.directory = directory
        self.work = work

    def push(self, name: str, content: bytes, tag: str = "1", architecture: str = "amd64") -> str:
        """Push an image whose layer has this content; returns its digest."""
        layout = self.work / f"{name}-{tag}-{architecture}"
        digest = oci_layout.write_layout(layout, {"app/file": content}, architecture, {}, tag)
        self.copy(f"oci:{layout}:{tag}", f"{name}:{tag}")
        return digest

    def copy(self, source: str, name: str) -> None:
        """Push an image, or an index with all that is in it."""
        target = f"docker://{self.address}/{name}"
        subprocess.run(["skopeo", "copy", "--insecure-policy", "--all", "--quiet", "--preserve-digests", source, target], check=True)

    def stop(self) -> None:
        """Cut the network."""
        server.stop(self.directory)


@pytest.fixture
def registry_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    containers = tmp_path / "home" / ".config" / "containers"
    containers.mkdir(parents=True)
    (containers / "registries.conf").write_text(f'[[registry]]\nlocation = "127.0.0.1:{port}"\ninsecure = true\n')
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert server.start(tmp_path / "registry", port)
    made = Registry(port, tmp_path / "registry", tmp_path)
    yield made
    made.stop()


Report = bundle_collect.Report
Collect = Callable[..., Report]


@pytest.fixture
def collect(archive: Archive, registry_server: Registry, collection: Path, tmp_path: Path) -> Collect:
    """A function that collects images into the bundle with a name."""

    def run(name: str, *images: str, since: str | None = None, check: bool = False, packages: tuple[str, ...] = ()) -> Report:
        references = [image if "/" in image else f"{registry_server.address}/{image}" for image in images]
        declared = bundle_collect.Declared(references, {"trixie": packages}, collection, archive.addresses)
        earlier = tmp_path / "bundles" / since / "manifest.json" if since else None
        return bundle_collect.collect(tmp_path / "bundles" / name, declared, earlier, check=check)

    return run


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    return tmp_path / "bundles"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")
