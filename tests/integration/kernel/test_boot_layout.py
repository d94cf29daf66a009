"""Kernels deployed from images that hold them as a distribution installs them, like those of weaveworks' ignite."""

from __future__ import annotations

import dataclasses
import io
import lzma
import tarfile
from pathlib import Path
from typing import Any

import pytest
import samples

from ansible_collections.ringfence.zones.plugins.module_utils.image import oci_layout
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.deploy import Declared, DeploymentFailed, converge
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.kernels import Kernel, deployed
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.modules import OPTIONAL, REQUIRED
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store

BUILT_IN = samples.config(**dict.fromkeys(REQUIRED.values(), "y"))


@dataclasses.dataclass
class BootImage:
    """The parts of such an image; a test replaces those it is about."""

    kernel: bytes = dataclasses.field(default_factory=samples.bzimage)
    vmlinuz: str = f"vmlinuz-{samples.RELEASE}"
    links: dict[str, str] = dataclasses.field(default_factory=lambda: {"boot/vmlinuz": f"vmlinuz-{samples.RELEASE}", "lib": "usr/lib"})
    config: str | None = dataclasses.field(default_factory=samples.config)
    modules: str | None = samples.RELEASE
    module: bytes = dataclasses.field(default_factory=samples.module)
    more: dict[str, bytes] = dataclasses.field(default_factory=dict)
    without: tuple[str, ...] = ()

    def files(self) -> dict[str, bytes]:
        files = {f"boot/{self.vmlinuz}": self.kernel, **self.more}
        if self.config is not None:
            files[f"boot/config-{samples.RELEASE}"] = self.config.encode()
        if self.modules is not None:
            base = f"usr/lib/modules/{self.modules}"
            for name, text in (("dep", samples.DEP), ("softdep", samples.SOFTDEP), ("alias", samples.ALIAS)):
                files[f"{base}/modules.{name}"] = text.encode()
            for line in samples.DEP.splitlines():
                path = line.partition(":")[0]
                files[f"{base}/{path}"] = lzma.compress(self.module) if path.endswith(".xz") else self.module
        return {name: content for name, content in files.items() if Path(name).name not in self.without}

    def write(self, directory: Path) -> str:
        """Write the image as an OCI layout and return its reference."""
        directory.mkdir()
        with tarfile.open(directory / "layer", "w") as archive:
            for name, target in self.links.items():
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, target
                archive.addfile(link)
            for name, content in self.files().items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        oci_layout.write_image(directory / "layout", directory / "layer", {}, "amd64", {}, "1")
        return f"oci:{directory}/layout:1"


def _deploy(tmp_path: Path, **parts: Any) -> Kernel:
    store = Store(tmp_path / "store")
    converge(store, [Declared("ignite", BootImage(**parts).write(tmp_path / "image"))], check=False)
    return deployed(store)["ignite"]


def test_a_kernel_with_modules_is_deployed(tmp_path: Path) -> None:
    kernel = _deploy(tmp_path)
    assert (kernel.release, kernel.modes) == (samples.RELEASE, ("pv", "pvh"))
    assert kernel.vmlinux.read_bytes() == samples.elf()
    everything = kernel.load_order([*REQUIRED, *OPTIONAL])
    assert {path.name for path in (kernel.directory / "modules").iterdir()} == set(everything)
    assert {(kernel.directory / "modules" / name).read_bytes() for name in everything} == {samples.module()}


@pytest.mark.parametrize(
    ("vmlinuz", "links"),
    [
        ("vmlinuz", {"lib": "usr/lib"}),
        (f"vmlinuz-{samples.RELEASE}", {"lib": "usr/lib"}),
        (f"vmlinuz-{samples.RELEASE}", {"lib": "usr/lib", "boot/vmlinuz": f"/boot/vmlinuz-{samples.RELEASE}"}),
        ("vmlinux", {"lib": "usr/lib"}),
        (f"vmlinux-{samples.RELEASE}", {"lib": "usr/lib"}),
        (f"vmlinux-{samples.RELEASE}", {"lib": "usr/lib", "boot/vmlinux": f"vmlinux-{samples.RELEASE}"}),
    ],
)
@pytest.mark.parametrize("kernel", [samples.bzimage(samples.vmlinux()), samples.vmlinux()], ids=["bzImage", "ELF"])
def test_a_kernel_is_found_by_any_of_its_names(tmp_path: Path, vmlinuz: str, links: dict[str, str], kernel: bytes) -> None:
    assert _deploy(tmp_path, kernel=kernel, vmlinuz=vmlinuz, links=links).vmlinux.read_bytes() == samples.vmlinux()


def test_a_plain_name_says_which_of_several_kernels_is_meant(tmp_path: Path) -> None:
    assert _deploy(tmp_path, more={"boot/vmlinuz-6.1.0-old": b"old"}).release == samples.RELEASE


def test_the_configuration_may_be_in_the_kernel(tmp_path: Path) -> None:
    kernel = _deploy(tmp_path, kernel=samples.bzimage(samples.vmlinux(config=BUILT_IN)), config=None, modules=None)
    assert kernel.load_order(REQUIRED) == []
    assert not kernel.modules.keys() & set(OPTIONAL)


def test_no_configuration_is_needed_if_everything_is_a_module(tmp_path: Path) -> None:
    assert _deploy(tmp_path, config=None).load_order(["overlay"]) == ["overlay.ko"]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"vmlinuz": "other", "links": {}}, "it is no kernel image: .* nor boot/vmlinuz or boot/vmlinux"),
    "dangling link": ({"links": {"boot/vmlinuz": "/none"}}, "boot/vmlinuz is not a file, nor a link to one"),
    "several kernels": ({"links": {}, "more": {"boot/vmlinuz-1": b""}}, "boot holds several kernels: 'vmlinuz-1', 'vmlinuz-6.12.1-sample'"),
    "no note": ({"kernel": samples.vmlinux(notes={})}, "neither as PV nor as PVH"),
    "truncated": ({"kernel": samples.bzimage()[:-60]}, "truncated: "),
    "truncated ELF": ({"kernel": samples.vmlinux()[:-60]}, "truncated: "),
    "another architecture": ({"kernel": samples.vmlinux(machine=183)}, "not an x86-64 ELF file"),
    "another boot image": ({"kernel": samples.arm64_image()}, "not an x86 boot image"),
    "missing frontend": (
        {"config": samples.config(XEN_BLKDEV_FRONTEND="n"), "modules": None},
        r"lacks, built in or as a module, .*xen_blkfront \(CONFIG_XEN_BLKDEV_FRONTEND\)",
    ),
    "no configuration": ({"config": None, "modules": None}, r"xen_blkfront .* cannot be checked without the kernel's configuration"),
    "modules of another release": ({"modules": "6.1.0-other"}, "holds '6.1.0-other', the kernel is 6.12.1-sample"),
    "module of another release": ({"module": samples.module("6.1.0-other")}, "is built for 6.1.0-other, the kernel is 6.12.1-sample"),
    "without a listed module": ({"without": ("overlay.ko",)}, "lib/modules/6.12.1-sample does not hold overlay.ko"),
}


@pytest.mark.parametrize(("parts", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_image_changes_nothing(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(DeploymentFailed, match=rf"(?s)kernel 'ignite' \(oci:.*\): .*{message}"):
        _deploy(tmp_path, **parts)
    assert [path.name for path in (tmp_path / "store").rglob("*") if path.is_file()] == ["lock"]
