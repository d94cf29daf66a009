"""Tests of the library's ``kernel.initrd``. The archives are read by the cpio program, which knows the format independently."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.initrd import Entry, build_initrd, cpio_archive
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.kernels import Kernel


def _list(archive: bytes) -> list[list[str]]:
    """For each entry the words that ls would print: mode, links, owner, group, size or device numbers, date, name."""
    command = ["cpio", "--list", "--verbose", "--numeric-uid-gid", "--quiet"]
    return [
        line.split() for line in subprocess.run(command, input=archive, stdout=subprocess.PIPE, check=True).stdout.decode().splitlines()
    ]


def _initrd(tmp_path: Path, modules: Mapping[str, str]) -> bytes:
    """That of a kernel with two modules."""
    (tmp_path / "modules").mkdir(exist_ok=True)
    (tmp_path / "modules" / "a.ko").write_bytes(b"A")
    (tmp_path / "modules" / "b.ko").write_bytes(b"BB")
    (tmp_path / "busybox").write_bytes(b"\x7fELF")
    kernel = Kernel("stable", "k:1", "sha256:a", "6.1", ("pv",), {}, tmp_path, {})
    return build_initrd(kernel, b"#!/bin/sh\n", tmp_path / "busybox", modules)


def _content(archive: bytes, path: str, tmp_path: Path) -> bytes:
    into = tmp_path / "unpacked"
    into.mkdir(exist_ok=True)
    subprocess.run(["cpio", "--extract", "--make-directories", "--quiet", path], input=archive, cwd=into, check=True)
    return (into / path).read_bytes()


def test_an_initial_file_system_has_the_first_program_the_modules_a_console_and_the_first_disk(tmp_path: Path) -> None:
    archive = _initrd(tmp_path, {"b.ko": "", "a.ko": "queues=1 ring=0"})
    entries = _list(archive)
    assert [f"{words[0]} {words[-1]}" for words in entries] == [
        "drwxr-xr-x base",
        "drwxr-xr-x bin",
        "-rwxr-xr-x bin/busybox",
        "lrwxrwxrwx busybox",
        "drwxr-xr-x dev",
        "crw------- dev/console",
        "brw------- dev/xvda",
        "drwxr-xr-x etc",
        "-rw-r--r-- etc/modprobe.conf",
        "-rwxr-xr-x init",
        "drwxr-xr-x lib",
        "drwxr-xr-x lib/modules",
        "drwxr-xr-x lib/modules/6.1",
        "-rw-r--r-- lib/modules/6.1/a.ko",
        "-rw-r--r-- lib/modules/6.1/b.ko",
        "-rw-r--r-- lib/modules/6.1/modules.dep",
        "-rw-r--r-- modules",
    ]
    assert {(words[2], words[3]) for words in entries} == {("0", "0")}
    assert [entries[number][4:6] for number in (5, 6)] == [["5,", "1"], ["202,", "0"]]
    assert _content(archive, "modules", tmp_path) == b"b a\n"
    assert _content(archive, "lib/modules/6.1/modules.dep", tmp_path) == b"b.ko:\na.ko:\n"
    assert _content(archive, "etc/modprobe.conf", tmp_path) == b"options a queues=1 ring=0\n"


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    assert _initrd(tmp_path, {"a.ko": ""}) == _initrd(tmp_path, {"a.ko": ""})


def test_another_archive_can_follow() -> None:
    archives = [cpio_archive([Entry("a", stat.S_IFREG | 0o644, bytes(size))]) for size in range(4)]
    assert [len(archive) % 4 for archive in archives] == [0, 0, 0, 0]


def test_missing_directories_are_made() -> None:
    assert [words[-1] for words in _list(cpio_archive([Entry("a/b/c", stat.S_IFREG | 0o600, b"C")]))] == ["a", "a/b", "a/b/c"]


@pytest.mark.parametrize("path", ["", "/init", "../init", "etc/../../init", "etc//motd", "./init", "a\0b"])
def test_a_path_outside_of_the_archive_is_refused(path: str) -> None:
    with pytest.raises(RingfenceError, match="not a plain relative path"):
        cpio_archive([Entry(path, stat.S_IFREG | 0o644)])


def test_a_path_given_twice_is_refused() -> None:
    with pytest.raises(RingfenceError, match="init is given twice"):
        cpio_archive([Entry("init", stat.S_IFREG), Entry("init", stat.S_IFREG)])
