"""Tests of the library's ``kernel.initrd``. The archives are read by the cpio program, which knows the format independently."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.initrd import Entry, build_initrd, cpio_archive


def _list(archive: bytes) -> list[list[str]]:
    """For each entry the words that ls would print: mode, links, owner, group, size or device numbers, date, name."""
    command = ["cpio", "--list", "--verbose", "--numeric-uid-gid", "--quiet"]
    return [
        line.split() for line in subprocess.run(command, input=archive, stdout=subprocess.PIPE, check=True).stdout.decode().splitlines()
    ]


def _kernel(tmp_path: Path) -> Path:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "a.ko").write_bytes(b"A")
    (tmp_path / "modules" / "b.ko").write_bytes(b"BB")
    return tmp_path


def _content(archive: bytes, path: str, tmp_path: Path) -> bytes:
    into = tmp_path / "unpacked"
    into.mkdir(exist_ok=True)
    subprocess.run(["cpio", "--extract", "--make-directories", "--quiet", path], input=archive, cwd=into, check=True)
    return (into / path).read_bytes()


def test_an_initial_file_system_has_the_guest_the_modules_and_a_console(tmp_path: Path) -> None:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"\x7fELF")
    busybox.chmod(0o755)
    shell = tmp_path / "sh"
    shell.symlink_to("busybox")
    guest: dict[str, bytes | Path] = {"init": b"#!/bin/sh\n", "etc/motd": b"hello", "bin/busybox": busybox, "bin/sh": shell}
    archive = build_initrd(_kernel(tmp_path), "6.1", guest, {"b.ko": "", "a.ko": "queues=1 ring=0"})
    entries = _list(archive)
    assert [f"{words[0]} {words[-1]}" for words in entries] == [
        "drwxr-xr-x bin",
        "-rwxr-xr-x bin/busybox",
        "lrwxrwxrwx busybox",
        "drwxr-xr-x dev",
        "crw------- dev/console",
        "drwxr-xr-x etc",
        "-rw-r--r-- etc/modprobe.conf",
        "-rw-r--r-- etc/motd",
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
    assert entries[4][4:6] == ["5,", "1"]
    assert _content(archive, "modules", tmp_path) == b"b a\n"
    assert _content(archive, "lib/modules/6.1/modules.dep", tmp_path) == b"b.ko:\na.ko:\n"
    assert _content(archive, "etc/modprobe.conf", tmp_path) == b"options a queues=1 ring=0\n"


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    kernel = _kernel(tmp_path)
    first = build_initrd(kernel, "6.1", {"init": b"#!", "etc/a": b"a"}, {"a.ko": ""})
    assert build_initrd(kernel, "6.1", {"etc/a": b"a", "init": b"#!"}, {"a.ko": ""}) == first


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
