# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The initial file system of a zone, as a cpio archive that Linux unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).

Linux accepts several archives behind one another, later files replacing earlier ones: what differs between two zones of one
kernel can be an archive of its own, appended to the common one.
"""

from __future__ import annotations

import dataclasses
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.kernels import Kernel

MODULES = "modules"
"""A file of the initial file system that names the modules for modprobe, in load order, on one line."""

_XVDA = (202, 0)
"""Linux's numbers of Xen's first virtual disk (devices.txt)."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One file: ``path`` without a leading slash, ``mode`` with the file type, ``device`` as (major, minor) for device nodes,
    ``owner`` as (user, group).

    ``content`` is the target for a symbolic link.
    """

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)
    owner: tuple[int, int] = (0, 0)


def cpio_archive(entries: Iterable[Entry]) -> bytes:
    """A cpio archive in the newc format. Directories that are not given are made; owner is root, times are zero.

    The same entries give the same bytes. The length is a multiple of four, so another archive may follow.

    :raises RingfenceError: for two entries of one path, or a path that leads out of the archive.
    """
    files: dict[str, Entry] = {}
    for entry in entries:
        _check(entry.path)
        if entry.path in files:
            raise RingfenceError(f"initial file system: {entry.path} is given twice")
        files[entry.path] = entry
    for path in list(files):
        for parent in PurePosixPath(path).parents:
            if str(parent) != ".":
                files.setdefault(str(parent), Entry(str(parent), stat.S_IFDIR | 0o755))
    # A directory sorts before what is in it.
    parts = [_record(number, files[path]) for number, path in enumerate(sorted(files), 1)]
    return b"".join(parts) + _record(0, Entry("TRAILER!!!", 0))


def build_initrd(kernel: Kernel, init: bytes, busybox: Path, modules: Mapping[str, str]) -> bytes:
    """The initial file system of a zone: its first program, and modules of its kernel in load order. The same input gives the same bytes.

    The modules lie where modprobe looks for them, for it loads all with one process, and insmod takes one for each.

    :param modules: the file names of the modules to bring along, in load order (``kernels.Kernel.load_order()``), each with its arguments.
    """
    place = f"lib/modules/{kernel.release}"
    names = {file: file.partition(".")[0] for file in modules}
    # The order says what modules.dep is for.
    tables = {
        MODULES: f"{' '.join(names.values())}\n",
        f"{place}/modules.dep": "".join(f"{file}:\n" for file in modules),
        "etc/modprobe.conf": "".join(f"options {names[file]} {arguments}\n" for file, arguments in modules.items() if arguments),
    }
    programs = {"init": init, "bin/busybox": busybox.read_bytes()}
    entries = [Entry(path, stat.S_IFREG | 0o755, content) for path, content in programs.items()]
    entries += [Entry(f"{place}/{file}", stat.S_IFREG | 0o644, (kernel.directory / "modules" / file).read_bytes()) for file in modules]
    entries += [Entry(path, stat.S_IFREG | 0o644, text.encode()) for path, text in tables.items()]
    entries += [
        Entry("base", stat.S_IFDIR | 0o755),
        Entry("bin/sh", stat.S_IFLNK | 0o777, b"busybox"),
        # Linux opens it as the standard streams of /init before anything could create it.
        Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
        Entry("dev/xvda", stat.S_IFBLK | 0o600, device=_XVDA),
    ]
    return cpio_archive(entries)


def _check(path: str) -> None:
    if not path or path != str(PurePosixPath(path)) or path.startswith("/") or ".." in PurePosixPath(path).parts or "\0" in path:
        raise RingfenceError(f"initial file system: {path!r} is not a plain relative path")


def _record(number: int, entry: Entry) -> bytes:
    name = entry.path.encode() + b"\0"
    fields = (
        number,
        entry.mode,
        *entry.owner,
        2 if stat.S_ISDIR(entry.mode) else 1,
        0,  # mtime
        len(entry.content),
        0,  # device that holds the file
        0,
        *entry.device,
        len(name),
        0,  # check, unused in newc
    )
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
