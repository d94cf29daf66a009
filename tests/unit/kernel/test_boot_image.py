"""Tests of the library's ``kernel.boot_image``."""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Callable

import pytest
import samples

from ansible_collections.ringfence.zones.plugins.module_utils.kernel.boot_image import (
    BootImage,
    InvalidKernel,
    configuration,
    require_modes,
    unpack,
    unpack_arm64,
)


def test_a_boot_image_yields_release_and_kernel_without_the_appended_relocations() -> None:
    assert unpack(samples.bzimage()) == BootImage(samples.RELEASE, samples.elf())


def test_a_payload_that_is_not_gzip_is_followed_by_its_size() -> None:
    payload = lzma.compress(samples.elf() + b"relocations")
    assert unpack(samples.bzimage(compressed=payload)).kernel == samples.elf()


def test_an_uncompressed_kernel_is_taken_as_it_is() -> None:
    assert unpack(samples.vmlinux()) == BootImage(samples.RELEASE, samples.vmlinux())


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["Image", "Image.gz"])
def test_an_arm64_boot_image_yields_release_and_kernel(pack: Callable[[bytes], bytes]) -> None:
    assert unpack_arm64(pack(samples.arm64_image())) == BootImage(samples.RELEASE, samples.arm64_image())


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "not an arm64 boot image"),
        (samples.bzimage(), "not an arm64 boot image"),
        (gzip.compress(samples.arm64_image())[:-9], "cannot be unpacked: the gzip data is truncated"),
        (samples.arm64_image()[:0x50], "does not say its version"),
    ],
    ids=["empty", "x86", "short", "cut"],
)
def test_what_is_no_arm64_boot_image_is_refused(image: bytes, message: str) -> None:
    with pytest.raises(InvalidKernel, match=message):
        unpack_arm64(image)


def test_a_kernel_may_carry_its_configuration() -> None:
    assert configuration(unpack(samples.vmlinux(config="CONFIG_XEN=y\n"))) == b"CONFIG_XEN=y\n"
    assert configuration(unpack(samples.vmlinux())) is None
    assert configuration(BootImage("6.12", b"IKCFG_ST cut")) is None


def test_the_section_table_is_part_of_the_kernel() -> None:
    kernel = bytearray(samples.elf())
    struct.pack_into("<Q", kernel, 0x28, len(kernel))
    struct.pack_into("<HH", kernel, 0x3A, 64, 1)
    kernel += bytes(64)
    assert unpack(samples.bzimage(bytes(kernel))).kernel == bytes(kernel)


@pytest.mark.parametrize(
    ("notes", "modes"),
    [({**samples.PV, **samples.PVH}, ("pv", "pvh")), (samples.PV, ("pv",)), (samples.PVH, ("pvh",))],
    ids=["both", "pv", "pvh"],
)
def test_the_notes_tell_the_modes(notes: dict[int, bytes], modes: tuple[str, ...]) -> None:
    assert require_modes(BootImage("6.12", samples.elf(notes))) == modes


@pytest.mark.parametrize("notes", [{}, {6: b"linux\0"}, {1: bytes(8)}, {1: bytes(8), 5: b"xen-2.0\0"}], ids=["none", "os", "entry", "old"])
def test_a_kernel_that_xen_cannot_start_is_refused(notes: dict[int, bytes]) -> None:
    with pytest.raises(InvalidKernel, match=r"kernel 6\.12 neither as PV nor as PVH"):
        require_modes(BootImage("6.12", samples.elf(notes)))


def test_notes_of_other_vendors_do_not_count() -> None:
    kernel = samples.elf(samples.PVH).replace(b"Xen\0", b"GNU\0")
    with pytest.raises(InvalidKernel):
        require_modes(BootImage("6.12", kernel))


def test_the_notes_that_are_looked_at_are_bounded() -> None:
    """Each of 65535 segments may be the whole file."""
    content = bytes(12) * 40_000
    segment = struct.pack("<IIQQQQQQ", 4, 4, 64, 0, 0, len(content), len(content), 4)
    kernel = bytearray(samples.elf()[:64])
    struct.pack_into("<Q", kernel, 0x20, 64 + len(content))
    for count in (2, 3):
        struct.pack_into("<H", kernel, 0x38, count)
        message = "more than 1048576 bytes together; at most so many are accepted" if count == 3 else "neither as PV nor as PVH"
        with pytest.raises(InvalidKernel, match=message):
            require_modes(BootImage("6.12", bytes(kernel) + content + segment * count))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "not an x86 boot image"),
        (b"MZ" + bytes(4096), "not an x86 boot image"),
        (samples.bzimage(protocol=0x207), "boot protocol 2.07"),
        (samples.bzimage()[:-40], "truncated: .* announces"),
        (samples.bzimage(compressed=b"\x89LZO" + bytes(60)), "cannot be unpacked: unknown compression"),
        (samples.bzimage(compressed=lzma.compress(samples.elf())), r"unpacks to \d+ bytes instead of \d+"),
        (samples.bzimage(b"#!/bin/sh\n"), "not an x86-64 ELF file"),
        (samples.bzimage(samples.elf(machine=183)), "not an x86-64 ELF file"),
        (samples.bzimage(samples.elf()[:300]), "its segments end at"),
        (samples.vmlinux()[:-1], "its segments end at"),
        (samples.vmlinux(machine=183), "not an x86-64 ELF file"),
        (samples.elf(), "does not say its version"),
        (samples.vmlinux("6" * 65), "does not say its version"),
    ],
    ids=["empty", "other", "old", "short", "lzo", "size", "script", "arm", "segments", "vmlinux", "arm vmlinux", "program", "long"],
)
def test_what_is_no_boot_image_is_refused(image: bytes, message: str) -> None:
    with pytest.raises(InvalidKernel, match=message):
        unpack(image)
