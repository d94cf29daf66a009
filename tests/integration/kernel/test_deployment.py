"""Kernels deployed with the real programs, from made-up images."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import samples

from ansible_collections.ringfence.zones.plugins.module_utils import disk_space
from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration, RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.image import build, layers, registry
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.deploy import Declared, DeploymentFailed, Policy, converge
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.kernels import Kernel, deployed, names
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.modules import OPTIONAL, REQUIRED
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store

MakeImage = Callable[..., tuple[str, str]]
OTHER = samples.bzimage(samples.elf(samples.PV), "6.1.0-other")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def _other(make_image: MakeImage, name: str = "other") -> tuple[str, str]:
    """An image of another kernel, PV only and of another release."""
    metadata = "KERNEL_VERSION=6.1\nKERNEL_FLAVOR=zone\n"
    return make_image(name, image=OTHER, module=samples.module("6.1.0-other"), metadata=metadata)


def _files(store: Store) -> list[str]:
    return sorted(str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file())


def test_a_kernel_is_deployed_by_digest(store: Store, make_image: MakeImage) -> None:
    image, digest = make_image()
    report = converge(store, [Declared("stable", image)], check=False)
    assert report.changed
    assert report.kernels == [
        {
            "name": "stable",
            "image": image,
            "digest": digest,
            "release": samples.RELEASE,
            "modes": ["pv", "pvh"],
            "default": True,
            "changed": True,
        }
    ]
    kernel = deployed(store)["stable"]
    assert names(store).default == "stable"
    assert (kernel.digest, kernel.release) == (digest, samples.RELEASE)
    assert kernel.directory == store.kernels / digest.removeprefix("sha256:")
    assert kernel.vmlinux.read_bytes() == samples.elf()


def test_the_modules_of_a_kernel_are_unpacked_in_load_order(store: Store, make_image: MakeImage) -> None:
    converge(store, [Declared("stable", make_image()[0])], check=False)
    kernel = deployed(store)["stable"]
    assert kernel.load_order(["erofs", "ext4"]) == [
        "crc32c_generic.ko",
        "libcrc32c.ko",
        "erofs.ko",
        "crc16.ko",
        "mbcache.ko",
        "jbd2.ko",
        "ext4.ko",
    ]
    everything = kernel.load_order([*REQUIRED, *OPTIONAL])
    assert {path.name for path in (kernel.directory / "modules").iterdir()} == set(everything)
    assert {(kernel.directory / "modules" / name).read_bytes() for name in everything} == {samples.module()}


def test_a_kernel_with_everything_built_in_needs_no_addons(store: Store, make_image: MakeImage) -> None:
    config = samples.config(**dict.fromkeys(REQUIRED.values(), "y"))
    converge(store, [Declared("lean", make_image(config=config, without=("kernel/addons.squashfs",))[0])], check=False)
    assert deployed(store)["lean"].load_order(REQUIRED) == []


def test_a_kernel_without_what_only_devices_need_is_deployed(store: Store, make_image: MakeImage) -> None:
    converge(store, [Declared("lean", make_image(dep=samples.DEP.replace("kernel/drivers/net/tun.ko:\n", ""))[0])], check=False)
    kernel = deployed(store)["lean"]
    assert ("tun" in kernel.modules, kernel.load_order(["fuse"])) == (False, ["fuse.ko"])
    assert not (kernel.directory / "modules" / "tun.ko").exists()


def test_a_second_run_changes_nothing(store: Store, make_image: MakeImage) -> None:
    declared = [Declared("stable", make_image()[0]), Declared("other", _other(make_image)[0], default=True)]
    converge(store, declared, check=False)
    before = {path: (store.root / path).stat() for path in _files(store)}
    report = converge(store, declared, check=False)
    assert not report.changed
    assert [row["changed"] for row in report.kernels] == [False, False]
    unchanged = {path: (store.root / path).stat() for path in _files(store)}
    assert {path: (s.st_ino, s.st_mtime_ns) for path, s in unchanged.items() if path != "lock"} == {
        path: (s.st_ino, s.st_mtime_ns) for path, s in before.items() if path != "lock"
    }


def test_check_mode_tells_the_change_and_makes_none(store: Store, make_image: MakeImage) -> None:
    image, digest = make_image()
    report = converge(store, [Declared("stable", image)], check=True)
    assert report.changed
    assert [(row["digest"], row["release"], row["changed"]) for row in report.kernels] == [(digest, None, True)]
    assert not store.root.exists()
    assert converge(store, [Declared("stable", image)], check=False).after == report.after
    assert not converge(store, [Declared("stable", image)], check=True).changed


def test_a_name_that_stands_for_another_image_changes_alone(store: Store, make_image: MakeImage) -> None:
    first, second = make_image()[0], _other(make_image)[0]
    converge(store, [Declared("a", first), Declared("b", first)], check=False)
    report = converge(store, [Declared("a", first), Declared("b", second)], check=False)
    assert [row["changed"] for row in report.kernels] == [False, True]
    assert {name: kernel.release for name, kernel in deployed(store).items()} == {"a": samples.RELEASE, "b": "6.1.0-other"}
    assert deployed(store)["b"].modes == ("pv",)


def test_two_names_of_one_image_share_its_files(store: Store, make_image: MakeImage) -> None:
    image, _digest = make_image()
    converge(store, [Declared("a", image), Declared("b", image)], check=False)
    kernels = deployed(store)
    assert kernels["a"].directory == kernels["b"].directory


def test_a_kernel_that_vanished_from_the_store_is_deployed_again(store: Store, make_image: MakeImage) -> None:
    declared = [Declared("stable", make_image()[0])]
    converge(store, declared, check=False)
    deployed(store)["stable"].directory.rename(store.root / "elsewhere")
    assert converge(store, declared, check=True).changed
    assert [row["changed"] for row in converge(store, declared, check=False).kernels] == [True]
    assert deployed(store)["stable"].vmlinux.is_file()


@pytest.mark.parametrize("name", ["vmlinux", "modules/ext4.ko", "kernel.json"])
@pytest.mark.parametrize("damage", [b"", None, b"x"], ids=["emptied", "deleted", "overwritten"])
def test_a_damaged_kernel_is_found_and_fetched_again(store: Store, make_image: MakeImage, name: str, damage: bytes | None) -> None:
    declared = [Declared("stable", make_image()[0])]
    converge(store, declared, check=False)
    file = deployed(store)["stable"].directory / name
    whole = file.read_bytes()
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage and damage + whole[1:])
    assert converge(store, declared, check=True).changed
    assert [row["changed"] for row in converge(store, declared, check=False).kernels] == [True]
    assert file.read_bytes() == whole
    assert not converge(store, declared, check=False).changed


def test_a_damaged_kernel_that_cannot_be_fetched_again_is_told(store: Store, make_image: MakeImage) -> None:
    image, _digest = make_image()
    converge(store, [Declared("stable", image)], check=False)
    vmlinux = deployed(store)["stable"].vmlinux
    vmlinux.write_bytes(b"")
    shutil.rmtree(image.split(":")[1])
    with pytest.raises(InvalidDeclaration, match=r"kernel 'stable': image .*missing or damaged, and it has to be fetched again"):
        converge(store, [Declared("stable", image)], check=False)
    assert vmlinux.read_bytes() == b""


def test_a_tag_is_looked_up_once_unless_asked_to_be_looked_up_again(
    store: Store, make_image: MakeImage, registry_address: str, tmp_path: Path
) -> None:
    def push(source: str) -> str:
        target = f"{registry_address}/kernels/sample:1"
        subprocess.run(["skopeo", "copy", "--quiet", "--preserve-digests", source, f"docker://{target}"], check=True)
        return target

    (first, first_digest), (second, second_digest) = make_image(), _other(make_image)
    declared = [Declared("stable", push(first))]
    converge(store, declared, check=False)
    push(second)
    assert not converge(store, declared, check=False).changed
    # What it meant is what comes back, not what it means.
    shutil.rmtree(deployed(store)["stable"].directory)
    assert converge(store, declared, check=False).kernels[0]["digest"] == first_digest
    assert converge(store, declared, Policy(pull="always"), check=True).kernels[0]["digest"] == second_digest
    assert converge(store, declared, Policy(pull="always"), check=False).kernels[0]["digest"] == second_digest
    assert converge(store, declared, check=False).kernels[0]["digest"] == second_digest
    pinned = f"{registry_address}/kernels/sample@{first_digest}"
    shutil.rmtree(tmp_path / "registry")
    assert converge(store, [Declared("stable", pinned)], check=False).kernels[0]["digest"] == first_digest


def test_a_kernel_is_refused_by_what_accepts_kernels_before_it_is_in_the_store(store: Store, make_image: MakeImage) -> None:
    seen: list[Kernel] = []

    def refuse(kernel: Kernel) -> None:
        seen.append(kernel)
        assert kernel.vmlinux.read_bytes() == samples.elf()
        raise RingfenceError("its test boot as pv guest failed")

    declared = [Declared("stable", make_image()[0])]
    with pytest.raises(DeploymentFailed, match=r"kernel 'stable' \(oci:.*\): its test boot as pv guest failed"):
        converge(store, declared, Policy(accept=refuse), check=False)
    assert (_files(store), deployed(store)) == (["lock"], {})
    assert (seen[0].name, seen[0].release) == ("stable", samples.RELEASE)
    assert converge(store, declared, Policy(accept=seen.append), check=False).changed
    assert not converge(store, declared, Policy(accept=refuse), check=False).changed
    assert len(seen) == 2


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_compressed_layer_from_a_registry_is_read(store: Store, make_image: MakeImage, registry_address: str, compression: str) -> None:
    image = f"{registry_address}/kernels/sample:1"
    options = ["--quiet", "--dest-compress-format", compression]
    subprocess.run(["skopeo", "copy", *options, make_image()[0], f"docker://{image}"], check=True)
    digest = converge(store, [Declared("stable", image)], check=False).kernels[0]["digest"]
    assert deployed(store)["stable"].vmlinux.read_bytes() == samples.elf()
    pinned = f"{registry_address}/kernels/sample@{digest}"
    assert converge(store, [Declared("stable", pinned)], check=False).kernels[0]["digest"] == digest


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no note": ({"image": samples.bzimage(samples.elf({}))}, "neither as PV nor as PVH"),
    "truncated": ({"image": samples.bzimage()[:-60]}, "truncated: "),
    "no boot image": ({"image": b"#!/bin/sh"}, "not an x86 boot image"),
    "no kernel image": ({"without": ("kernel/image", "kernel/config.gz")}, "does not hold kernel/image, kernel/config.gz"),
    "missing frontend": (
        {"config": samples.config(XEN_BLKDEV_FRONTEND="n"), "dep": samples.DEP.partition("\n")[2]},
        r"xen_blkfront \(CONFIG_XEN_BLKDEV_FRONTEND\)",
    ),
    "no addons": ({"without": ("kernel/addons.squashfs",)}, "lacks, built in or as a module"),
    "addons of another release": ({"module": samples.module("6.1.0-other")}, "is built for 6.1.0-other, the kernel is 6.12.1-sample"),
    "module of a long name": ({"module": samples.module("6" * 70)}, "is built for 6{64}, the kernel is"),
    "module that is no module": ({"module": b"\x7fELF" + bytes(60)}, "is built for no release"),
    "addons without a listed module": ({"without": ("overlay.ko",)}, "does not hold overlay.ko"),
    "metadata of another release": ({"metadata": "KERNEL_UNAME_R=6.1.0-other\n"}, "says release 6.1.0-other, but the kernel is"),
    "configuration of another kernel": ({"metadata": "KERNEL_CONFIG=sha256:0\n"}, "but kernel/metadata says sha256:0"),
    "large metadata": ({"metadata": "x" * (64 << 10)}, "entry 'kernel/metadata': has 65622 bytes; at most 65536 are accepted"),
    "large configuration": ({"config": "\n" * (5 << 20)}, "its configuration has 5242880 bytes; at most 4194304 are accepted"),
    "large index": ({"dep": "\n" * (9 << 20)}, "modules/modules.dep has more than 8388608 bytes; at most so many are accepted"),
    "many modules": (
        {"dep": samples.DEP.replace("overlay.ko:", "overlay.ko: " + " ".join(f"m{number}.ko" for number in range(256)))},
        r"a zone would need 27\d of its modules; at most 256 are accepted",
    ),
    "large modules": ({"module": samples.module() + bytes(8 << 20)}, "the modules that a zone needs have more than 67108864 bytes"),
    "unknown layout": ({"annotations": {"dev.edera.kernel.format": "2"}}, "its layout has the number '2'"),
}


@pytest.mark.parametrize(("parts", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_image_changes_nothing(store: Store, make_image: MakeImage, parts: dict[str, Any], message: str) -> None:
    good = _other(make_image)[0]
    converge(store, [Declared("stable", good)], check=False)
    before = _files(store)
    with pytest.raises(DeploymentFailed, match=rf"(?s)kernel 'stable' \(oci:.*\): .*{message}") as caught:
        converge(store, [Declared("stable", make_image("bad", **parts)[0])], check=False)
    assert caught.value.stored == []
    assert _files(store) == before
    assert deployed(store)["stable"].release == "6.1.0-other"


def test_an_image_of_another_architecture_is_refused(store: Store, make_image: MakeImage) -> None:
    with pytest.raises(InvalidDeclaration, match=r"kernel 'stable': .* linux/arm64"):
        converge(store, [Declared("stable", make_image(architecture="arm64")[0])], check=False)
    assert deployed(store) == {}


def test_a_damaged_layer_is_refused(store: Store, make_image: MakeImage) -> None:
    image, _digest = make_image()
    blobs = Path(image.split(":")[1]) / "blobs" / "sha256"
    largest = max(blobs.iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(DeploymentFailed, match="digest"):
        converge(store, [Declared("stable", image)], check=False)
    assert _files(store) == ["lock"]


@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
def test_a_truncated_layer_is_refused(store: Store, make_image: MakeImage, tmp_path: Path, compression: str | None) -> None:
    image, _digest = make_image()
    if compression:
        packed = f"oci:{tmp_path}/packed:1"
        subprocess.run(["skopeo", "copy", "--quiet", "--dest-compress-format", compression, "--dest-compress", image, packed], check=True)
        image = packed
    good = _other(make_image)[0]
    converge(store, [Declared("stable", good)], check=False)
    before = _files(store)
    largest = max((Path(image.split(":")[1]) / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1000])
    with pytest.raises(
        DeploymentFailed, match=r"kernel 'stable' \(oci:.*\): .* does not match its digest; it was damaged or tampered with"
    ):
        converge(store, [Declared("stable", image)], check=False)
    assert _files(store) == before
    assert deployed(store)["stable"].release == "6.1.0-other"


def test_a_module_is_never_taken_from_the_host(store: Store, make_image: MakeImage, tmp_path: Path) -> None:
    module = tmp_path / "overlay.ko"
    module.write_bytes(samples.module())
    dep = samples.DEP.replace("kernel/fs/overlayfs/overlay.ko", str(module))
    assert dep != samples.DEP
    with pytest.raises(DeploymentFailed, match=r"does not hold overlay\.ko"):
        converge(store, [Declared("stable", make_image(dep=dep)[0])], check=False)


def _replace(name: str, write: Callable[[Path], object]) -> Callable[[Path], None]:
    """Put something else in the place of a file of the modules."""

    def edit(modules: Path) -> None:
        (modules / name).unlink()
        write(modules / name)

    return edit


def _fill(directory: Path) -> None:
    directory.mkdir()
    with open(directory / "large", "wb") as file:
        file.truncate(20 << 20)


def test_nothing_of_the_addons_is_unpacked(store: Store, make_image: MakeImage) -> None:
    """A directory of some bytes may hold files of any size and number."""
    left: list[str] = []

    def look(_kernel: Kernel) -> None:
        left.extend(path.name for path in store.tmp.rglob("*"))

    image = make_image(edit=_replace("modules.softdep", _fill))[0]
    converge(store, [Declared("stable", image)], Policy(accept=look), check=False)
    assert "addons.squashfs" in left
    assert not {"modules.dep", "large"} & set(left)
    assert deployed(store)["stable"].load_order(["erofs"]) == ["libcrc32c.ko", "erofs.ko"]


@pytest.mark.parametrize("kind", ["directory", "link out of it", "FIFO"])
def test_a_module_is_a_regular_file_of_the_addons(store: Store, make_image: MakeImage, tmp_path: Path, kind: str) -> None:
    module = tmp_path / "overlay.ko"
    module.write_bytes(samples.module())
    write = {"directory": _fill, "link out of it": lambda path: path.symlink_to(module), "FIFO": os.mkfifo}[kind]
    image = make_image(edit=_replace("kernel/fs/overlayfs/overlay.ko", write))[0]
    with pytest.raises(DeploymentFailed, match=r"kernel/addons\.squashfs does not hold overlay\.ko"):
        converge(store, [Declared("stable", image)], check=False)


def test_damaged_addons_are_told(store: Store, make_image: MakeImage, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = layers.copy_file

    def cut(root: layers.Inode, path: str, to: Path) -> bool:
        there = copy(root, path, to)
        os.truncate(to, 200)
        return there

    monkeypatch.setattr(layers, "copy_file", cut)
    with pytest.raises(DeploymentFailed, match=r"(?s)kernel/addons\.squashfs: it is damaged: modules/modules\.dep cannot be read.*FATAL"):
        converge(store, [Declared("stable", make_image()[0])], check=False)


def test_a_full_disk_is_told(store: Store, make_image: MakeImage, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(layers, "uncompressed", full)
    with pytest.raises(
        DeploymentFailed, match=r"kernel 'stable' \(oci:.*\): its files: the disk below .* is full; make room and run again"
    ):
        converge(store, [Declared("stable", make_image()[0])], check=False)
    assert _files(store) == ["lock"]


@pytest.mark.parametrize(
    ("free", "message"),
    [(1000, r"its image needs \d+ bytes below \S+, and 1000 bytes are free there"), (300_000, "unpacks to more than 150000 bytes")],
    ids=["not even the layers fit", "bomb"],
)
def test_too_little_room(
    store: Store, make_image: MakeImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, message: str
) -> None:
    image = f"oci:{tmp_path}/packed:1"
    options = ["--quiet", "--dest-compress-format", "gzip", "--dest-compress"]
    subprocess.run(["skopeo", "copy", *options, make_image(image=bytes(1_000_000))[0], image], check=True)
    monkeypatch.setattr(disk_space, "free", lambda _directory: free)
    with pytest.raises(DeploymentFailed, match=message):
        converge(store, [Declared("stable", image)], check=False)
    assert _files(store) == ["lock"]


def test_a_layer_that_is_listed_many_times_takes_room_once(store: Store, make_image: MakeImage, tmp_path: Path) -> None:
    image = f"oci:{tmp_path}/packed:1"
    options = ["--quiet", "--dest-compress-format", "gzip", "--dest-compress"]
    subprocess.run(["skopeo", "copy", *options, make_image()[0], image], check=True)
    resolved = registry.resolve(image)
    repeated = {**resolved.manifest, "layers": resolved.manifest["layers"] * 100}
    layer = str(resolved.manifest["layers"][0]["digest"]).removeprefix("sha256:")
    with store.workspace() as workspace:
        plain = build.fetch_layers("its image", dataclasses.replace(resolved, manifest=repeated), workspace)
        assert plain == [workspace / layer] * 100
        assert [path.name for path in workspace.rglob(layer)] == [layer]


def test_names_change_only_when_all_kernels_are_there(store: Store, make_image: MakeImage) -> None:
    good, digest = make_image()
    bad = make_image("bad", image=b"")[0]
    with pytest.raises(DeploymentFailed) as caught:
        converge(store, [Declared("good", good), Declared("bad", bad)], check=False)
    assert caught.value.stored == ["good"]
    assert deployed(store) == {}
    assert (store.kernels / digest.removeprefix("sha256:")).is_dir()


def test_another_run_in_progress_is_told(store: Store, make_image: MakeImage) -> None:
    image, _digest = make_image()
    with store.lock(), pytest.raises(RingfenceError, match="another converge of this host is running"):
        converge(store, [Declared("stable", image)], check=False)
