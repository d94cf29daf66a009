"""Tests of the library's ``kernel.modules``."""

from __future__ import annotations

import time
import tracemalloc

import pytest
import samples

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.modules import OPTIONAL, REQUIRED, ModuleIndex, zone_modules
from ansible_collections.ringfence.zones.plugins.module_utils.spec.devices import NODES

INDEX = ModuleIndex.parse(samples.DEP, samples.SOFTDEP, samples.ALIAS)


def test_a_module_comes_after_what_it_depends_on() -> None:
    assert INDEX.load_order("ext4") == [
        "kernel/lib/crc16.ko",
        "kernel/fs/mbcache.ko",
        "kernel/crypto/crc32c_generic.ko",
        "kernel/fs/jbd2/jbd2.ko",
        "kernel/fs/ext4/ext4.ko",
    ]


def test_a_soft_dependency_is_met_by_a_module_that_loads_on_any_processor() -> None:
    assert INDEX.load_order("erofs") == ["kernel/crypto/crc32c_generic.ko", "kernel/lib/libcrc32c.ko", "kernel/fs/erofs/erofs.ko"]


def test_a_soft_dependency_that_nothing_meets_is_left_out() -> None:
    index = ModuleIndex.parse("a.ko: b.ko\nb.ko:\n", "softdep a pre: nothing\n", "")
    assert index.load_order("a") == ["b.ko", "a.ko"]


def test_modules_that_need_each_other_are_loaded_once() -> None:
    index = ModuleIndex.parse("a.ko: b.ko\nb.ko: c.ko\nc.ko: a.ko\n", "softdep b pre: a\n", "")
    assert index.load_order("a") == ["c.ko", "b.ko", "a.ko"]


def test_a_long_row_of_modules_has_an_order() -> None:
    index = ModuleIndex.parse("".join(f"m{number}.ko: m{number + 1}.ko\n" for number in range(5000)), "", "")
    assert index.load_order("m0") == [f"m{number}.ko" for number in range(5000, -1, -1)]


MANY = range(800)
REPEATED: dict[str, tuple[str, str, str, int]] = {
    "words and aliases": ("a.ko:\nb.ko:\n", f"softdep a pre: {'x ' * len(MANY)}\n", "alias x b\n" * len(MANY), 2),
    "modules that ask for all": (
        f"a.ko:{''.join(f' m{number}.ko' for number in MANY)}\n" + "".join(f"m{number}.ko:\n" for number in MANY),
        "".join(f"softdep m{number} pre: x\n" for number in MANY),
        "".join(f"alias x m{number}\n" for number in MANY),
        1 + len(MANY),
    ),
}


@pytest.mark.parametrize(("dep", "softdep", "alias", "count"), REPEATED.values(), ids=REPEATED.keys())
def test_what_an_index_repeats_takes_no_more_memory(dep: str, softdep: str, alias: str, count: int) -> None:
    """The product of the lines of its files would take all there is."""
    index = ModuleIndex.parse(dep, softdep, alias)
    tracemalloc.start()
    try:
        assert len(index.load_order("a")) == count
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_long_line_of_soft_dependencies_takes_no_longer() -> None:
    begun = time.process_time()
    ModuleIndex.parse("a.ko:\n", f"softdep a pre: {'x ' * 20_000}\n", "")
    assert time.process_time() - begun < 1


def test_damaged_lines_are_passed_over() -> None:
    index = ModuleIndex.parse("a.ko:\0 b.ko\nb.ko:\n", "softdep a pre: x\nsoftdep\n", "alias\nalias x\nalias x b\nalias x y z\n")
    assert index.load_order("a") == ["b.ko", "a.ko"]


def test_names_differ_in_dash_and_underscore_and_compression_only() -> None:
    assert INDEX.load_order("xen_netfront") == ["kernel/drivers/net/xen-netfront.ko.xz"]


def test_an_unknown_module_has_no_load_order() -> None:
    assert INDEX.load_order("nvidia") == []


def test_all_needs_of_a_zone_are_met_by_modules() -> None:
    modules = zone_modules(INDEX, samples.config())
    assert list(modules) == [*REQUIRED, *OPTIONAL]
    assert modules["overlay"] == ("kernel/fs/overlayfs/overlay.ko",)


def test_what_is_built_in_needs_no_module() -> None:
    assert zone_modules(INDEX, samples.config(EXT4_FS="y"))["ext4"] == ()


def test_a_kernel_without_modules_is_accepted_if_all_is_built_in() -> None:
    modules = zone_modules(ModuleIndex(), samples.config(**dict.fromkeys(REQUIRED.values(), "y")))
    assert set(modules.values()) == {()}


def test_what_only_devices_need_is_there_if_the_kernel_has_it() -> None:
    """As a module, built in, and not at all; a kernel without is one for zones all the same."""
    modules = zone_modules(INDEX, samples.config(TUN="y"))
    assert (modules["fuse"], modules["tun"]) == (("kernel/fs/fuse/fuse.ko",), ())
    without = ModuleIndex.parse(samples.DEP.replace("kernel/fs/fuse/fuse.ko:\n", ""), "", "")
    assert list(zone_modules(without, samples.config())) == [*REQUIRED, "tun", "xen_privcmd"]


def test_the_modules_of_all_device_nodes_are_asked_for() -> None:
    assert {node.module for node in NODES.values() if node.module} == set(OPTIONAL) - {"xen_privcmd"}


def test_everything_that_is_missing_is_named() -> None:
    index = ModuleIndex.parse(samples.DEP.replace("kernel/drivers/block/xen-blkfront.ko:\n", ""), "", "")
    with pytest.raises(RingfenceError) as caught:
        zone_modules(index, samples.config(XEN_BLKDEV_FRONTEND="n", XEN_GNTDEV="y"))
    assert "xen_blkfront (CONFIG_XEN_BLKDEV_FRONTEND);" in str(caught.value)


def test_a_kernel_that_writes_to_no_mounted_disk_is_refused() -> None:
    """Older kernels do not have the option, and do write."""
    off = "# CONFIG_BLK_DEV_WRITE_MOUNTED is not set\n"
    zone_modules(INDEX, samples.config(BLK_DEV_WRITE_MOUNTED="y"))
    with pytest.raises(RingfenceError, match=r"writes to disks that are mounted \(CONFIG_BLK_DEV_WRITE_MOUNTED\)"):
        zone_modules(INDEX, samples.config() + off)


def test_a_module_that_the_configuration_promises_but_is_not_there_is_missing() -> None:
    with pytest.raises(RingfenceError, match=r"overlay \(CONFIG_OVERLAY_FS\), ext4 \(CONFIG_EXT4_FS\)"):
        zone_modules(ModuleIndex(), samples.config())


def test_without_a_configuration_only_modules_count() -> None:
    assert list(zone_modules(INDEX, None)) == [*REQUIRED, *OPTIONAL]
    with pytest.raises(RingfenceError, match=r"no module for .*ext4 \(CONFIG_EXT4_FS\), and whether that is built in cannot be checked"):
        zone_modules(ModuleIndex(), None)
