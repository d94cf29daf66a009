"""Kernel packages of several architectures become one image, which each host takes its own part of. The packages are made up."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import samples

from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration, RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.image import registry
from ansible_collections.ringfence.zones.plugins.module_utils.kernel import package, sources
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.deploy import Declared, converge
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.kernels import deployed
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.modules import REQUIRED
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.sources import Source
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store

MakeDeb = Callable[..., Source]

CONFIG = "CONFIG_XEN=y\n" + samples.config(**dict.fromkeys(REQUIRED.values(), "y"))


@pytest.fixture
def make_deb(tmp_path: Path) -> MakeDeb:
    """A function that makes a kernel package with everything built in."""

    def make(
        architecture: str, version: str = "6.12.1-1", image: bytes | None = None, config: str = CONFIG, modules: Sequence[str] = ()
    ) -> Source:
        tree = tmp_path / f"{architecture}-{version}"
        (tree / "boot").mkdir(parents=True)
        (tree / "DEBIAN").mkdir()
        control = f"Package: linux-image-sample\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: A <a@example>\n"
        (tree / "DEBIAN" / "control").write_text(f"{control}Description: A kernel\n")
        kernel = samples.arm64_image() if architecture == "arm64" else samples.bzimage()
        (tree / "boot" / f"vmlinuz-{samples.RELEASE}").write_bytes(kernel if image is None else image)
        (tree / "boot" / f"config-{samples.RELEASE}").write_text(config)
        for name in modules:
            (tree / "lib/modules" / samples.RELEASE).mkdir(parents=True, exist_ok=True)
            (tree / "lib/modules" / samples.RELEASE / name).touch()
        path = tree.with_suffix(".deb")
        subprocess.run(["dpkg-deb", "--root-owner-group", "--build", str(tree), str(path)], stdout=subprocess.DEVNULL, check=True)
        return sources.from_file(path)

    return make


def _package(source: Source, destination: str, *, check: bool = False) -> package.Outcome:
    return package.package(source, destination, "zone", check=check)


def _index(outcome: package.Outcome) -> str:
    assert outcome.after
    assert outcome.after.index
    return outcome.after.index


@pytest.mark.parametrize("place", ["docker://{registry}/kernels/sample:1", "oci:{directory}/layout:1", "oci-archive:{directory}/a.tar:1"])
def test_a_second_architecture_stands_beside_the_first(make_deb: MakeDeb, registry_address: str, tmp_path: Path, place: str) -> None:
    amd64, arm64 = make_deb("amd64"), make_deb("arm64")
    destination = place.format(registry=registry_address, directory=tmp_path)
    alone = _package(amd64, destination)
    assert alone.after
    assert alone.after.index is None

    expected = _package(arm64, destination, check=True)
    assert (expected.changed, expected.before, expected.after) == (True, None, None)
    assert not _package(amd64, destination, check=True).changed
    joined = _package(arm64, destination)
    assert (joined.changed, joined.before) == (True, None)
    for source in (amd64, arm64):
        for check in (True, False):
            again = _package(source, destination, check=check)
            assert (again.changed, again.after and again.after.index) == (False, _index(joined))
    result = package.result(arm64, joined)
    assert joined.after
    assert (result["digest"], result["index"]) == (joined.after.digest, _index(joined))
    assert result["image"].endswith(f"@{_index(joined)}" if place.startswith("docker") else ":1")
    for architecture, published in (("amd64", alone.after), ("arm64", joined.after)):
        found = registry.resolve(result["image"], architecture)
        assert (found.digest, found.named_digest) == (published.digest, _index(joined))
        assert found.manifest["annotations"] == published.annotations


@pytest.mark.parametrize("modules", [(), ("modules.order", "modules.builtin")])
def test_the_umask_makes_no_difference(make_deb: MakeDeb, tmp_path: Path, modules: tuple[str, ...]) -> None:
    source = make_deb("amd64", modules=modules)
    digests = set()
    for umask in (0o022, 0o077):
        before = os.umask(umask)
        try:
            outcome = _package(source, f"oci:{tmp_path}/{umask}:1")
        finally:
            os.umask(before)
        digests.add(outcome.after and outcome.after.digest)
    assert len(digests) == 1


def test_the_order_of_architectures_makes_no_difference(make_deb: MakeDeb, tmp_path: Path) -> None:
    packages = [make_deb("amd64"), make_deb("arm64")]
    indexes = set()
    for name, order in (("one", packages), ("two", packages[::-1])):
        last = [_package(source, f"oci:{tmp_path}/{name}:1") for source in order][-1]
        indexes.add(_index(last))
    assert len(indexes) == 1


def test_another_version_takes_the_place_of_its_own_architecture_only(make_deb: MakeDeb, registry_address: str) -> None:
    destination = f"docker://{registry_address}/kernels/sample:1"
    first, other = _package(make_deb("amd64"), destination), _package(make_deb("arm64"), destination)
    newer = _package(make_deb("amd64", "6.12.2-1"), destination)
    assert (newer.changed, newer.before and newer.before.digest) == (True, first.after and first.after.digest)
    assert _index(newer) != _index(other)
    assert registry.resolve(destination, "amd64").digest == (newer.after and newer.after.digest)
    assert registry.resolve(destination, "arm64").digest == (other.after and other.after.digest)
    # What the index was is still there, by its digest.
    assert registry.resolve(f"{registry_address}/kernels/sample@{_index(other)}", "amd64").digest == (first.after and first.after.digest)


def test_an_archive_is_on_the_disk_before_it_has_its_name(make_deb: MakeDeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[Path, bool]] = []
    monkeypatch.setattr(package, "sync", lambda path: synced.append((path, (tmp_path / "a.tar").exists())))
    _package(make_deb("amd64"), f"oci-archive:{tmp_path}/a.tar:1")
    assert synced == [(tmp_path / ".new-a.tar", False), (tmp_path, True)]


def test_an_archive_keeps_the_images_of_other_tags(make_deb: MakeDeb, tmp_path: Path) -> None:
    archive = f"oci-archive:{tmp_path}/a.tar"
    first, newer = make_deb("amd64"), make_deb("amd64", "6.12.2-1")
    _package(first, f"{archive}:1")
    for check in (True, False):
        with pytest.raises(RingfenceError, match=r"destination \S+/a\.tar:2: the file has other images, 1, .*; name a file for each tag"):
            _package(newer, f"{archive}:2", check=check)
    assert not _package(first, f"{archive}:1").changed
    assert _package(newer, f"{archive}:1").changed
    # What a run that was killed has left is not in the way, and nothing is left of it.
    (tmp_path / ".new-a.tar").write_bytes(b"half")
    assert _package(first, f"{archive}:1").changed
    assert [path.name for path in tmp_path.glob("*a.tar*")] == ["a.tar"]
    # Of several images, of which one has the tag, none is lost.
    layout = tmp_path / "layout"
    for tag, source in (("1", first), ("2", first)):
        _package(source, f"oci:{layout}:{tag}")
    subprocess.run(["tar", "-cf", tmp_path / "b.tar", "-C", layout, "."], check=True)
    with pytest.raises(RingfenceError, match="the file has other images, 2, "):
        _package(newer, f"oci-archive:{tmp_path}/b.tar:1")
    # What is no archive is replaced, such as a file that was made to have a name.
    (tmp_path / "c.tar").touch()
    assert _package(first, f"oci-archive:{tmp_path}/c.tar:1").changed


def test_an_arm64_kernel_is_packaged_compressed(make_deb: MakeDeb, tmp_path: Path) -> None:
    _package(make_deb("arm64"), f"oci:{tmp_path}/layout:1")
    (layer,) = registry.resolve(f"oci:{tmp_path}/layout:1", "arm64").manifest["layers"]
    blob = tmp_path / "layout" / "blobs" / "sha256" / layer["digest"][7:]
    done = subprocess.run(["tar", "-xOf", str(blob), "kernel/image"], capture_output=True, check=True)
    assert subprocess.run(["gunzip"], input=done.stdout, capture_output=True, check=True).stdout == samples.arm64_image()
    metadata = subprocess.run(["tar", "-xOf", str(blob), "kernel/metadata"], capture_output=True, check=True).stdout.decode()
    assert "KERNEL_ARCH=aarch64\n" in metadata


def test_a_host_takes_the_kernel_of_its_architecture(
    make_deb: MakeDeb, registry_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = f"docker://{registry_address}/kernels/sample:1"
    outcomes = [_package(make_deb(architecture), destination) for architecture in ("arm64", "amd64")]
    image = f"{registry_address}/kernels/sample@{_index(outcomes[-1])}"
    store = Store(tmp_path / "store")
    monkeypatch.setattr(registry, "host_architecture", lambda: "amd64")
    report = converge(store, [Declared("stable", image)], check=False)
    assert report.kernels[0]["digest"] == (outcomes[-1].after and outcomes[-1].after.digest)
    # Declared by the digest of the index, it needs no registry any more, and is repaired from there.
    assert not converge(store, [Declared("stable", image)], check=False).changed
    deployed(store)["stable"].vmlinux.write_bytes(b"")
    assert converge(store, [Declared("stable", image)], check=False).changed
    assert deployed(store)["stable"].vmlinux.read_bytes() == samples.elf()

    monkeypatch.setattr(registry, "host_architecture", lambda: "riscv64")
    other = Store(tmp_path / "other")
    with pytest.raises(
        InvalidDeclaration, match=r"kernel 'stable': .* is offered for linux/amd64, linux/arm64; this host needs linux/riscv64"
    ):
        converge(other, [Declared("stable", image)], check=False)
    assert deployed(other) == {}


def _repository(directory: Path, packages: list[Source]) -> Path:
    """An apt configuration of an archive with the given kernels, and metapackages that depend on them; apt's own architecture is amd64."""
    stanzas = []
    for source in packages:
        assert source.deb
        kernel = f"linux-image-6.12.1-{source.architecture}"
        name = f"{kernel}.deb"
        (directory / name).write_bytes(source.deb.read_bytes())
        common = f"Version: {source.version}\nArchitecture: {source.architecture}\nMaintainer: A <a@example>\n"
        rest = f"Filename: ./{name}\nSize: {(directory / name).stat().st_size}\nSHA256: {source.digest.removeprefix('sha256:')}\n"
        stanzas.append(f"Package: {kernel}\n{common}{rest}")
        stanzas.append(f"Package: linux-image-sample\n{common}Depends: {kernel} (= {source.version})\n{rest}")
    (directory / "Packages").write_text("\n".join(stanzas))
    for name in ("lists/partial", "cache/archives/partial"):
        (directory / name).mkdir(parents=True)
    (directory / "status").touch()
    (directory / "sources.list").write_text(f"deb [trusted=yes] file:{directory} ./\n")
    settings = {
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64,arm64",
        "APT::Sandbox::User": "root",
        "Dir::Cache": f"{directory}/cache",
        "Dir::Etc::sourcelist": f"{directory}/sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State": str(directory),
        "Dir::State::lists": f"{directory}/lists",
        "Dir::State::status": f"{directory}/status",
    }
    (directory / "apt.conf").write_text("".join(f'{key} "{value}";\n' for key, value in settings.items()))
    return directory / "apt.conf"


@pytest.mark.parametrize(("name", "architecture"), [("linux-image-sample", "amd64"), ("linux-image-sample:arm64", "arm64")])
def test_apt_finds_and_downloads_the_kernel_of_an_architecture(
    make_deb: MakeDeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, architecture: str
) -> None:
    (tmp_path / "archive").mkdir()
    packages = {each: make_deb(each) for each in ("amd64", "arm64")}
    monkeypatch.setenv("APT_CONFIG", str(_repository(tmp_path / "archive", list(packages.values()))))
    subprocess.run(["apt-get", "--quiet", "update", "--error-on=any"], stdout=subprocess.DEVNULL, check=True)
    found = sources.from_apt(name)
    assert (found.package, found.architecture) == (f"linux-image-6.12.1-{architecture}", architecture)
    assert (found.version, found.digest, found.deb) == ("6.12.1-1", packages[architecture].digest, None)
    assert _package(found, f"oci:{tmp_path}/layout:1").changed
    assert registry.resolve(f"oci:{tmp_path}/layout:1", architecture).architecture == architecture


def test_a_package_that_is_installed_and_in_no_list_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APT_CONFIG", str(_repository(tmp_path, [])))
    (tmp_path / "status").write_text(
        "Package: linux-image-6.12.1-amd64\nStatus: install ok installed\nVersion: 6.12.1-1\nArchitecture: amd64\n"
        "Maintainer: A <a@example>\nDescription: A kernel\n"
    )
    with pytest.raises(RingfenceError, match=r"'linux-image-6\.12\.1-amd64': apt has no source to download version 6\.12\.1-1 from; run"):
        sources.from_apt("linux-image-6.12.1-amd64")


def test_a_download_that_is_not_what_apt_announced_is_refused(make_deb: MakeDeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "archive").mkdir()
    monkeypatch.setenv("APT_CONFIG", str(_repository(tmp_path / "archive", [make_deb("amd64")])))
    subprocess.run(["apt-get", "--quiet", "update", "--error-on=any"], stdout=subprocess.DEVNULL, check=True)
    announced = dataclasses.replace(sources.from_apt("linux-image-sample"), digest=f"sha256:{'0' * 64}")
    with pytest.raises(RingfenceError, match=r"the download has the digest sha256:\w+ instead of sha256:0000"):
        _package(announced, f"oci:{tmp_path}/layout:1")
    assert not (tmp_path / "layout").exists()


BAD = {
    "architecture": ({"architecture": "i386"}, r"is for i386; kernels can be packaged for amd64, arm64"),
    "image of another architecture": ({"architecture": "arm64", "image": samples.bzimage()}, "not an arm64 boot image"),
    "other image of another architecture": ({"architecture": "amd64", "image": samples.arm64_image()}, "not an x86 boot image"),
    "no guest of Xen": ({"architecture": "arm64", "config": samples.config()}, "not built to be a guest of Xen"),
    "no note": ({"architecture": "amd64", "image": samples.bzimage(samples.elf({}))}, "neither as PV nor as PVH"),
}


def test_what_lets_somebody_in_is_not_told_of_a_failed_push(
    make_deb: MakeDeb, registry_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry may send uploads to storage with a signed address; the one of the tests does not, so skopeo's error is made up."""
    program = tmp_path / "bin" / "skopeo"
    program.parent.mkdir()
    (tmp_path / "said").write_text(
        r'time="2026-01-01T00:00:00Z" level=fatal msg="writing blob: Put \"https://bob:hunter2@cdn.example/b?Signature=hunter2\": EOF"'
    )
    program.write_text(f'#!/bin/sh\n[ "$1" != copy ] || {{ cat {tmp_path}/said >&2; exit 1; }}\nexec {shutil.which("skopeo")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with pytest.raises(RingfenceError, match=r"^destination \S+/sample:1: cannot be written: writing blob: Put \S+cdn\.example") as caught:
        _package(make_deb("amd64"), f"docker://{registry_address}/kernels/sample:1")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("parts", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_package_leaves_the_destination_as_it_was(
    make_deb: MakeDeb, tmp_path: Path, parts: dict[str, str | bytes], message: str
) -> None:
    destination = f"oci:{tmp_path}/layout:1"
    _package(make_deb("amd64", "6.12.0-1"), destination)
    before = (tmp_path / "layout" / "index.json").read_bytes()
    with pytest.raises(RingfenceError, match=message):
        _package(make_deb(**parts), destination)
    assert (tmp_path / "layout" / "index.json").read_bytes() == before


@pytest.mark.parametrize("place", ["docker://{registry}/kernels/sample:1", "oci:{directory}/layout:1"])
def test_an_index_that_lacks_an_image_is_not_replaced(make_deb: MakeDeb, registry_address: str, tmp_path: Path, place: str) -> None:
    """What it has for others would be lost."""
    destination = place.format(registry=registry_address, directory=tmp_path)
    first = _package(make_deb("amd64"), destination)
    index = _index(_package(make_deb("arm64"), destination))
    assert first.after
    if place.startswith("oci:"):
        (tmp_path / "layout" / "blobs" / "sha256" / first.after.digest[7:]).unlink()
    else:
        name = first.after.digest.removeprefix("sha256:")
        (link,) = (tmp_path / "registry").rglob(f"_manifests/revisions/sha256/{name}/link")
        link.unlink()
    with pytest.raises(registry.IncompleteIndex, match=f"its index lists {first.after.digest}"):
        _package(make_deb("amd64", "6.12.2-1"), destination)
    assert registry.resolve(destination, "arm64").named_digest == index


def test_a_damaged_image_for_another_architecture_is_not_joined(make_deb: MakeDeb, tmp_path: Path) -> None:
    destination = f"oci:{tmp_path}/layout:1"
    _package(make_deb("arm64"), destination)
    (layer,) = registry.resolve(destination, "arm64").manifest["layers"]
    (tmp_path / "layout" / "blobs" / "sha256" / layer["digest"][7:]).write_bytes(b"damaged")
    before = json.loads((tmp_path / "layout" / "index.json").read_bytes())
    with pytest.raises(registry.DigestMismatch):
        _package(make_deb("amd64"), destination)
    assert json.loads((tmp_path / "layout" / "index.json").read_bytes()) == before


_MAKEFILE = """
modules_install:
\t@[ "$(ARCH) $(DEPMOD)" = "x86 true" ] && [ -n "$(INSTALL_MOD_STRIP)" ]
\t@mkdir -p $(INSTALL_MOD_PATH)/lib/modules/$(RELEASE)/kernel/drivers
\t@cp drivers/tun.ko $(INSTALL_MOD_PATH)/lib/modules/$(RELEASE)/kernel/drivers/
\t@echo kernel/drivers/tun.ko >$(INSTALL_MOD_PATH)/lib/modules/$(RELEASE)/modules.order
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree in which Linux was built with one module; its makefile only installs that."""
    root = tmp_path / "linux"
    (root / "include/config").mkdir(parents=True)
    (root / "arch/x86/boot").mkdir(parents=True)
    (root / "drivers").mkdir()
    (root / ".config").write_text(f"#\nCONFIG_X86_64=y\nCONFIG_MODULES=y\n{CONFIG}")
    (root / "include/config/kernel.release").write_text(f"{samples.RELEASE}\n")
    (root / "arch/x86/boot/bzImage").write_bytes(samples.bzimage())
    (root / "drivers/tun.ko").write_bytes(samples.module())
    (root / "modules.order").write_text("drivers/tun.o\n")
    (root / "Makefile").write_text(f"RELEASE = {samples.RELEASE}\n{_MAKEFILE}")
    return root


def test_a_tree_is_packaged_with_its_modules_and_deployed(tree: Path, tmp_path: Path) -> None:
    destination = f"oci:{tmp_path}/layout:1"
    first = _package(sources.from_tree(tree), destination)
    assert first.after
    assert first.after.annotations["org.opencontainers.image.title"] == f"linux-image-{samples.RELEASE}"
    assert not _package(sources.from_tree(tree), destination).changed
    # The modules of newer and of older kernels are listed in another way.
    (tree / "modules.order").write_text("kernel/drivers/tun.ko\n")
    assert not _package(sources.from_tree(tree), destination).changed
    store = Store(tmp_path / "store")
    converge(store, [Declared("own", destination)], check=False)
    (kernel,) = deployed(store).values()
    assert (kernel.release, kernel.load_order(["tun"])) == (samples.RELEASE, ["tun.ko"])


@pytest.mark.parametrize("part", [".config", "arch/x86/boot/bzImage", "drivers/tun.ko"])
def test_a_tree_that_was_built_anew_is_another_source(tree: Path, part: str) -> None:
    before = sources.from_tree(tree)
    with (tree / part).open("ab") as file:
        file.write(b"\n")
    assert sources.from_tree(tree).digest != before.digest


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        (".config", r"no kernel has been built there: .*\.config.*; build it with make$"),
        ("include/config/kernel.release", r"no kernel has been built there: "),
        ("arch/x86/boot/bzImage", "arch/x86/boot/bzImage has not been built; build the kernel and its modules with make$"),
        ("modules.order", "modules.order has not been built; "),
        ("drivers/tun.ko", "drivers/tun.ko has not been built; "),
    ],
)
def test_a_tree_that_is_not_built_to_its_end_is_told(tree: Path, gone: str, told: str) -> None:
    (tree / gone).unlink()
    with pytest.raises(RingfenceError, match=f"^tree {tree}: {told}"):
        sources.from_tree(tree)


def test_a_tree_of_another_architecture_is_told(tree: Path) -> None:
    (tree / ".config").write_text("CONFIG_RISCV=y\n")
    with pytest.raises(RingfenceError, match=f"^tree {tree}: configured for none of the architectures amd64, arm64$"):
        sources.from_tree(tree)


def test_modules_that_cannot_be_installed_are_told(tree: Path, tmp_path: Path) -> None:
    (tree / "Makefile").write_text("modules_install:\n\t@echo no room >&2; false\n")
    with pytest.raises(RingfenceError, match=rf"^tree {tree}: its modules cannot be installed: .*no room"):
        _package(sources.from_tree(tree), f"oci:{tmp_path}/layout:1")
