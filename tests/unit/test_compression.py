"""Tests of the library's ``compression``."""

from __future__ import annotations

import bz2
import gzip
import lzma
import subprocess
from collections.abc import Callable

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils import compression
from ansible_collections.ringfence.zones.plugins.module_utils.compression import decompress
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError

PLAIN = b"kernel " * 1000


def _program(*argv: str) -> Callable[[bytes], bytes]:
    return lambda data: subprocess.run(argv, input=data, stdout=subprocess.PIPE, check=True).stdout


@pytest.mark.parametrize(
    "compress",
    [
        gzip.compress,
        lzma.compress,
        lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
        bz2.compress,
        _program("zstd", "-c"),
        _program("lz4", "-lc"),
    ],
    ids=["gzip", "xz", "lzma", "bzip2", "zstd", "lz4"],
)
def test_every_format_of_kernels_is_read(compress: Callable[[bytes], bytes]) -> None:
    assert decompress(compress(PLAIN)) == PLAIN


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress], ids=["gzip", "xz", "bzip2"])
def test_what_follows_the_stream_is_ignored(compress: Callable[[bytes], bytes]) -> None:
    assert decompress(compress(PLAIN) + b"rest") == PLAIN


def test_truncated_data_is_refused() -> None:
    with pytest.raises(RingfenceError, match="xz data is truncated"):
        decompress(lzma.compress(PLAIN)[:-20])


def test_damaged_data_is_refused() -> None:
    with pytest.raises(RingfenceError, match="gzip data is damaged"):
        decompress(b"\x1f\x8b\xff" + gzip.compress(PLAIN)[3:])


def test_damage_that_a_program_finds_is_told() -> None:
    with pytest.raises(RingfenceError, match=r"zstd data is damaged: .+"):
        decompress(b"\x28\xb5\x2f\xfd" + bytes(20))


@pytest.mark.parametrize("compress", [gzip.compress, _program("zstd", "-c")], ids=["gzip", "zstd"])
def test_data_that_unpacks_to_too_much_is_refused(compress: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "MAX_SIZE", len(PLAIN) - 1)
    with pytest.raises(RingfenceError, match="more than 6999 bytes"):
        decompress(compress(PLAIN))


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(RingfenceError, match="first bytes 89 4c 5a 4f"):
        decompress(b"\x89LZO data")


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = _program("zstd", "-c")(PLAIN)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RingfenceError, match="install the package zstd"):
        decompress(data)
