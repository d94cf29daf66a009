"""Tests of the module_utils ``boot_image``."""

from __future__ import annotations

import lzma
import struct

import pytest
import samples

from ansible_collections.ringfence.zones.plugins.module_utils.boot_image import BootImage, InvalidKernel, require_modes, unpack


def test_a_boot_image_yields_release_and_kernel_without_the_appended_relocations() -> None:
    assert unpack(samples.bzimage()) == BootImage(samples.RELEASE, samples.elf())


def test_a_payload_that_is_not_gzip_is_followed_by_its_size() -> None:
    payload = lzma.compress(samples.elf() + b"relocations")
    assert unpack(samples.bzimage(compressed=payload)).kernel == samples.elf()


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
    ],
    ids=["empty", "other", "old", "short", "lzo", "size", "script", "arm", "segments"],
)
def test_what_is_no_boot_image_is_refused(image: bytes, message: str) -> None:
    with pytest.raises(InvalidKernel, match=message):
        unpack(image)
