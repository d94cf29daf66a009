"""Tests of the library's ``verify.surface``: files as a host has them, made of their headers."""

from __future__ import annotations

import gzip
import lzma
import struct
from pathlib import Path

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.verify import surface
from ansible_collections.ringfence.zones.plugins.module_utils.verify.facts import Process

XEN = "xen-4.20-amd64"
BUILD = bytes(range(1, 21))


def efi(text: int) -> bytes:
    """A program for EFI with a section of code and a build id."""
    head = bytearray(64)
    head[:2] = b"MZ"
    struct.pack_into("<I", head, 60, 64)
    place = 64 + 24 + 2 * 40
    file_header = b"PE\0\0" + struct.pack("<HH12xHH", 0x8664, 2, 0, 0)
    rows = [(b".text", text, 0, text, 0), (b".buildid", len(BUILD), 0, len(BUILD), place)]
    return bytes(head) + file_header + b"".join(struct.pack("<8sIIII16x", *row) for row in rows) + BUILD


def module(text: int) -> bytes:
    """A module with code that stays, code that does not, and data."""
    names = b"\0.text\0.init.text\0.data\0"
    sections = [(0, 0, 0, 0), (1, 1, 6, text), (7, 1, 6, 1000), (18, 1, 3, 5000), (0, 3, 0, len(names))]
    table = b"".join(struct.pack("<IIQQQQ24x", name, kind, flags, 0, 64, size) for name, kind, flags, size in sections)
    head = b"\x7fELF\x02" + bytes(35) + struct.pack("<Q", 64 + len(names)) + bytes(10) + struct.pack("<HHH", 64, 5, 4)
    return head + names + table


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The files of a host."""
    directory = tmp_path / "lib/modules/6.12"
    for path in (tmp_path / "boot", tmp_path / "proc", directory / "kernel"):
        path.mkdir(parents=True)
    (tmp_path / "boot" / f"{XEN}.efi").write_bytes(efi(1000))
    (tmp_path / "boot" / f"{XEN}.gz").write_bytes(gzip.compress(b"xen"))
    (tmp_path / "proc/iomem").write_text("00100000-bfffffff : System RAM\n  01000000-01003a97 : Kernel code\n")
    (tmp_path / "proc/modules").write_text("xen_netback 90112 0 - Live 0x0000000000000000\nnf_tables 1 0 - Live 0x0\n")
    (directory / "modules.dep").write_text("kernel/xen-netback.ko.xz:\nkernel/nf_tables.ko: kernel/a.ko\n")
    (directory / "kernel/xen-netback.ko.xz").write_bytes(lzma.compress(module(500)))
    (directory / "kernel/nf_tables.ko").write_bytes(module(4500))
    return tmp_path


def test_code_is_measured_on_both_sides(root: Path) -> None:
    processes = [Process(1, ("/usr/sbin/oxenstored", "oxenstored"), b""), Process(2, ("/bin/sh",), b"")]
    assert surface.measure("6.12", XEN, processes, root) == {
        "xen": 1000,
        "kernel": 15000,
        "modules": 5000,
        "backends": {"xen_netback": 500},
        "zone": 1500,
        "container": 20000,
        "reduction": 92.5,
        "processes": ["oxenstored: requests of zones to xenstore"],
        "reasons": {},
    }


def test_what_cannot_be_read_has_no_number_but_a_reason(root: Path) -> None:
    (root / "boot" / f"{XEN}.efi").write_bytes(b"nothing")
    (root / "proc/iomem").write_text("00000000-00000000 : Kernel code\n")
    (root / "proc/kallsyms").write_text("0000000000000000 T _stext\n0000000000000000 T _etext\n")
    (root / "lib/modules/6.12/kernel/nf_tables.ko").unlink()
    told = surface.measure("6.12", XEN, [], root)
    assert (told["xen"], told["kernel"], told["zone"], told["container"], told["reduction"]) == (None, None, None, None, None)
    assert told["modules"] == 500
    assert told["reasons"].keys() == {"xen", "kernel", "modules_unread"}
    assert "kptr_restrict" in told["reasons"]["kernel"]


def test_a_kernel_that_hides_its_memory_tells_its_symbols(root: Path) -> None:
    (root / "proc/iomem").write_text("00000000-00000000 : Kernel code\n")
    (root / "proc/kallsyms").write_text("ffffffff81000000 T _stext\nffffffff81000100 t a [b]\nffffffff81002000 T _etext\n")
    assert surface.kernel_text(root / "proc") == 0x2000


def test_a_backend_that_cannot_be_measured_leaves_no_sum(root: Path) -> None:
    (root / "lib/modules/6.12/kernel/xen-netback.ko.xz").write_bytes(b"\xfd7zXZ\0")
    told = surface.measure("6.12", XEN, [], root)
    assert (told["zone"], told["reduction"], told["backends"]) == (None, None, {"xen_netback": None})


def test_the_running_xen_is_known_by_its_build_id(root: Path) -> None:
    assert surface.booted(XEN, BUILD.hex(), root) is True
    assert surface.booted(XEN, (BUILD[::-1]).hex(), root) is False
    assert surface.booted(XEN, "", root) is None
    assert surface.booted("xen-4.99-amd64", BUILD.hex(), root) is None
    (root / "boot" / f"{XEN}.gz").write_bytes(gzip.compress(b"note" + BUILD[::-1]))
    assert surface.booted(XEN, (BUILD[::-1]).hex(), root) is True
