"""Tests of what the programs of hostile zones read and write: the headers of other programs' and the kernel's formats."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.attack.programs import disk, memory

_LOAD, _NOTE = 1, 4
_NOWHERE = (1 << 64) - 1


def _core(*segments: tuple[int, int, int, int]) -> bytes:
    """The head of an ELF file with segments, each of kind, offset, physical address and size."""
    head = bytearray(64)
    struct.pack_into("<Q", head, 32, 64)
    struct.pack_into("<HH", head, 54, 56, len(segments))
    return bytes(head) + b"".join(struct.pack("<IIQQQQQQ", kind, 7, offset, 0, at, size, size, 0) for kind, offset, at, size in segments)


def test_memory_is_what_has_a_physical_address() -> None:
    head = _core((_NOTE, 1, 0, 9), (_LOAD, 2, _NOWHERE, 9), (_LOAD, 4096, 4096, 8192), (_LOAD, 3, 0, 1 << 46))
    assert memory._segments(head) == [(4096, 8192)]


def test_a_page_is_found_that_is_filled_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    filled, pattern = memory._filled("a", 8192), memory._pattern("a")
    chunk = bytearray(3 * 4096)
    chunk[4096:8192] = filled[:4096]
    # What a program has that only knows the pattern is no page of it.
    chunk[8192 : 8192 + 32] = pattern
    assert memory._pages(chunk, len(chunk), pattern) == 1
    assert memory._pages(chunk, 4096, pattern) == 0
    core = tmp_path / "core"
    core.write_bytes(_core((_LOAD, 4096, 4096, len(chunk))).ljust(4096, b"\0") + chunk)
    monkeypatch.setattr(memory, "_KCORE", str(core))
    assert memory.attack(scan="a") == [["find what another kernel had in this memory", True, "1 pages with its pattern in 0 MiB"]]
    assert memory.attack(scan="b")[0][1] is False


def test_a_pattern_is_found_on_a_disk_only_after_it_was_written(tmp_path: Path) -> None:
    image = tmp_path / "xvdd"
    image.write_bytes(bytes(3 << 20))
    label = "find on xvdd what another zone wrote there"
    assert disk.attack("a", [str(image)]) == [[label, False, "0 of 3 pages hold it"]]
    assert disk.attack("a", [str(image)], write=True) == [[label, True, "3 of 3 pages hold it"]]
    assert disk.attack("b", [str(image)])[0][1] is False


def test_a_disk_that_others_read_is_written_to_only_if_that_is_possible(tmp_path: Path) -> None:
    image = tmp_path / "xvdc"
    image.write_bytes(b"x" * 8192)
    told = disk.attack(shared=[str(tmp_path / "none")], own=str(image))
    assert [row[:2] for row in told] == [["write to none, which others read", False], ["own", True]]
    assert image.read_bytes() == b"x" * 8192
