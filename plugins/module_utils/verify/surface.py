# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure the code that a zone can reach on a host, and the code that a container without a kernel of its own could. Reads only.

Only machine code is counted (text), no data: of Xen, of the host's kernel, and of the modules that are loaded. What cannot be read is told
with the reason, and what depends on it has no number.
"""

from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ansible_collections.ringfence.zones.plugins.module_utils import compression
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.modules import module_name
from ansible_collections.ringfence.zones.plugins.module_utils.verify.facts import Process

_BACKENDS = ("xen_netback", "xen_blkback", "xen_evtchn", "xen_gntdev", "xen_gntalloc")
"""Modules of the host's kernel that take what a zone wrote: rings of packets and disk requests, its events and shared memory."""

_READERS = {
    "oxenstored": "requests of zones to xenstore",
    "xenstored": "requests of zones to xenstore",
    "xenconsoled": "what zones write to their consoles",
    "libvirtd": "what zones may write to xenstore",
    "virtxend": "what zones may write to xenstore",
    "xl": "what zones may write to xenstore",
    "vchan-socket-proxy": "what a zone sends over vchan, while a command runs in it",
    "ssh": "the answers of a zone's ssh server, while a command runs in it",
}
"""Programs of the host that read what a zone says, by name."""

_EXECUTABLE = 4
_ALLOCATED = 2
_FAULTS = (RingfenceError, OSError, EOFError, LookupError, TypeError, ValueError, struct.error)


def measure(release: str, xen: str, processes: Sequence[Process], root: Path = Path("/")) -> dict[str, Any]:
    """The part of a report on the attack surface, as docs/verify.md describes it.

    :param release: of the running kernel.
    :param xen: name of the running Xen in /boot, without an ending.
    """
    reasons: dict[str, str] = {}

    def read(name: str, what: Callable[[], Any]) -> Any:
        try:
            return what()
        except _FAULTS as error:
            reasons[name] = str(error) or type(error).__name__
            return None

    hypervisor = read("xen", lambda: xen_text(root / "boot" / f"{xen}.efi"))
    kernel = read("kernel", lambda: kernel_text(root / "proc"))
    modules = read("modules", lambda: module_texts(release, root)) or {}
    unread = sorted(name for name, size in modules.items() if size is None)
    if unread:
        reasons["modules_unread"] = f"{', '.join(unread)}: no file of the module could be read; they are not counted"
    backends = [size for name, size in modules.items() if name in _BACKENDS and size]
    missing = [name for name in unread if name in _BACKENDS]
    loaded = sum(size for size in modules.values() if size)
    known = hypervisor is not None and "modules" not in reasons and not missing
    zone = hypervisor + sum(backends) if known else None
    container = kernel + loaded if kernel is not None and "modules" not in reasons else None
    return {
        "xen": hypervisor,
        "kernel": kernel,
        "modules": None if "modules" in reasons else loaded,
        "backends": {name: size for name, size in sorted(modules.items()) if name in _BACKENDS},
        "zone": zone,
        "container": container,
        "reduction": round(100 * (1 - zone / container), 1) if zone is not None and container else None,
        "processes": sorted({f"{name}: {_READERS[name]}" for name in _names(processes) if name in _READERS}),
        "reasons": reasons,
    }


def _names(processes: Iterable[Process]) -> Iterator[str]:
    for process in processes:
        yield from {name.rpartition("/")[2] for name in process.names}


def xen_text(image: Path) -> int:
    """The size of the code of a Xen in its EFI form, which alone says where code ends; Debian has both forms, built of the same objects.

    :raises ValueError: when it is no such file.
    """
    with image.open("rb") as file:
        for name, _address, size in _pe_sections(file, str(image)):
            if name == ".text":
                return size
    raise ValueError(f"{image} has no section .text")


def _pe_sections(file: BinaryIO, label: str) -> list[tuple[str, int, int]]:
    """Name, place in the file and size of each section of a program for EFI."""
    head = file.read(4096)
    (offset,) = struct.unpack_from("<I", head, 60)
    if head[:2] != b"MZ" or head[offset : offset + 4] != b"PE\0\0":
        raise ValueError(f"{label} is no program for EFI")
    count, optional = struct.unpack_from("<H12xH", head, offset + 6)
    begin = offset + 24 + optional
    rows = [struct.unpack_from("<8sIIII", head, begin + 40 * number) for number in range(count)]
    return [(row[0].rstrip(b"\0").decode("ascii", "replace"), row[4], row[1]) for row in rows]


def kernel_text(proc: Path) -> int:
    """The size of the running kernel's code, by the table of its memory, or by its symbols.

    :raises ValueError: when the kernel hides both.
    """
    for line in (proc / "iomem").read_text(encoding="ascii", errors="replace").splitlines():
        found = re.fullmatch(r"\s*([0-9a-f]+)-([0-9a-f]+) : Kernel code", line)
        if found and int(found[2], 16):
            return int(found[2], 16) - int(found[1], 16) + 1
    places: dict[str, int] = {}
    with (proc / "kallsyms").open(encoding="ascii", errors="replace") as symbols:
        for line in symbols:
            address, _kind, name = line.split()[:3]
            if name in ("_stext", "_etext"):
                places[name] = int(address, 16)
                if len(places) == 2:
                    break
    if not places.get("_stext") or not places.get("_etext"):
        raise ValueError("the kernel tells neither its code in /proc/iomem nor its addresses in /proc/kallsyms (kernel.kptr_restrict)")
    return places["_etext"] - places["_stext"]


def module_texts(release: str, root: Path) -> dict[str, int | None]:
    """The size of the code of each loaded module, from its file; ``None`` where that cannot be read."""
    names = [line.split()[0] for line in (root / "proc/modules").read_text(encoding="ascii").splitlines()]
    directory = root / "lib/modules" / release
    listed = (directory / "modules.dep").read_text(encoding="ascii").splitlines()
    files = {module_name(path): directory / path for path in (line.partition(":")[0] for line in listed)}
    return {name: _module_text(files.get(name)) for name in names}


def _module_text(file: Path | None) -> int | None:
    try:
        return elf_text(_plain(file.read_bytes())) if file else None
    except _FAULTS:
        return None


def _plain(module: bytes) -> bytes:
    return module if module.startswith(b"\x7fELF") else compression.decompress(module)


def elf_text(image: bytes) -> int:
    """The size of all code in a module that stays when it has been loaded.

    :raises ValueError: when it is no 64-bit ELF file.
    """
    if image[:5] != b"\x7fELF\x02":
        raise ValueError("no 64-bit ELF file")
    (begin,) = struct.unpack_from("<Q", image, 40)
    size, count, names = struct.unpack_from("<HHH", image, 58)
    sections = [struct.unpack_from("<IIQQQQ", image, begin + size * number) for number in range(count)]
    strings = sections[names][4]
    total = 0
    for name, _kind, flags, _address, _offset, length in sections:
        label = image[strings + name : image.index(b"\0", strings + name)]
        if flags & _EXECUTABLE and flags & _ALLOCATED and not label.startswith(b".init"):
            total += length
    return total


def booted(xen: str, running: str, root: Path = Path("/")) -> bool | None:
    """Whether the running Xen is the one in /boot, in either of its forms; ``None`` if it does not tell. Updates wait there for a reboot.

    :param running: its build id in hexadecimal, as ``xl info`` tells it.
    """
    try:
        build = bytes.fromhex(running)
        if not build:
            return None
        if build in gzip.decompress((root / "boot" / f"{xen}.gz").read_bytes()):
            return True
        with (root / "boot" / f"{xen}.efi").open("rb") as file:
            for name, place, size in _pe_sections(file, xen):
                if name == ".buildid":
                    file.seek(place)
                    return build in file.read(size)
    except _FAULTS:
        return None
    return False
