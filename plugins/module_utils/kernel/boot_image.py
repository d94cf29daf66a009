# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a Linux boot image holds: its release, the uncompressed kernel, and the ways Xen can start it. Pure but for decompression."""

from __future__ import annotations

import dataclasses
import re
import struct

from ansible_collections.ringfence.zones.plugins.module_utils.compression import decompress
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError

_BOOT_PROTOCOL = 0x0208
"""The first version of the x86 boot protocol whose header says where the payload is (Linux 2.6.26)."""

_CONFIG_START, _CONFIG_END = b"IKCFG_ST", b"IKCFG_ED"

_MAX_NOTES = 1 << 20
"""Bytes of all segments of notes, which may overlap. Those of Debian's cloud kernel have some hundred."""

_PT_NOTE = 4
_EM_X86_64 = 62

# From Xen's public header elfnote.h.
XEN_ELFNOTE_ENTRY = 1
XEN_ELFNOTE_XEN_VERSION = 5
XEN_ELFNOTE_PHYS32_ENTRY = 18


class InvalidKernel(RingfenceError):
    """The file is not a kernel that a zone could boot."""


@dataclasses.dataclass(frozen=True)
class BootImage:
    """An unpacked boot image: ``release`` as in ``uname -r``, ``kernel`` what Xen loads without unpacking it again (x86: an ELF file)."""

    release: str
    kernel: bytes


def unpack(image: bytes) -> BootImage:
    """Unpack a bzImage by its header (Linux, Documentation/arch/x86/boot.rst). A vmlinux, an ELF file, is what it would yield.

    :raises InvalidKernel: if it is neither, truncated or damaged.
    """
    if image.startswith(b"\x7fELF"):
        return BootImage(_banner_release(image), _without_relocations(image))
    if image[0x202:0x206] != b"HdrS" or len(image) < 0x250:
        raise InvalidKernel("not an x86 boot image: neither an ELF file (vmlinux) nor one with 'HdrS' at offset 0x202 (bzImage)")
    (protocol,) = struct.unpack_from("<H", image, 0x206)
    if protocol < _BOOT_PROTOCOL:
        raise InvalidKernel(f"boot protocol {protocol >> 8}.{protocol & 255:02}; 2.08 or later is needed to find the kernel in the image")
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * 512 + offset
    payload = image[start : start + length]
    if length < 8 or len(payload) != length:
        raise InvalidKernel(f"truncated: {len(image)} bytes, but its header announces {start + length}")
    # The build appends the size to every format but gzip, which ends with it anyway.
    (size,) = struct.unpack("<I", payload[-4:])
    try:
        plain = decompress(payload if payload.startswith(b"\x1f\x8b") else payload[:-4])
    except RingfenceError as error:
        raise InvalidKernel(f"the kernel in the boot image cannot be unpacked: {error}") from error
    if len(plain) != size:
        raise InvalidKernel(f"damaged: the kernel unpacks to {len(plain)} bytes instead of {size}")
    return BootImage(_release(image), _without_relocations(plain))


def unpack_arm64(image: bytes) -> BootImage:
    """Unpack an arm64 boot image, ``Image`` or ``Image.gz`` (Linux, Documentation/arch/arm64/booting.rst).

    :raises InvalidKernel: if it is neither, or the compressed one is truncated or damaged.
    """
    try:
        plain = decompress(image) if image.startswith(b"\x1f\x8b") else image
    except RingfenceError as error:
        raise InvalidKernel(f"the kernel in the boot image cannot be unpacked: {error}") from error
    if plain[0x38:0x3C] != b"ARM\x64":
        raise InvalidKernel("not an arm64 boot image (Image or Image.gz): the signature 'ARM\\x64' is not at offset 0x38")
    return BootImage(_banner_release(plain), plain)


def configuration(boot: BootImage) -> bytes | None:
    """The ``.config`` that a kernel carries if it is built with CONFIG_IKCONFIG (Linux, kernel/configs.c); else ``None``."""
    start = boot.kernel.find(_CONFIG_START)
    end = boot.kernel.find(_CONFIG_END, start)
    return decompress(boot.kernel[start + len(_CONFIG_START) : end]) if 0 <= start < end else None


def require_modes(boot: BootImage) -> tuple[str, ...]:
    """The kinds of Xen guest that the kernel can be: ``pv``, ``pvh`` or both, by the notes that Xen's loader looks for.

    The hypercall page is no criterion: Linux dropped that note in 2024 (XSA-466) and works without.

    :raises InvalidKernel: if it can be neither.
    """
    notes = _xen_notes(boot.kernel)
    modes = []
    if XEN_ELFNOTE_ENTRY in notes and notes.get(XEN_ELFNOTE_XEN_VERSION, b"").rstrip(b"\0") == b"xen-3.0":
        modes.append("pv")
    if XEN_ELFNOTE_PHYS32_ENTRY in notes:
        modes.append("pvh")
    if not modes:
        raise InvalidKernel(
            f"Xen can start kernel {boot.release} neither as PV nor as PVH: it has no ELF note for either; "
            "use one built with CONFIG_XEN_PV or CONFIG_XEN_PVH"
        )
    return tuple(modes)


def _release(image: bytes) -> str:
    (pointer,) = struct.unpack_from("<H", image, 0x20E)
    start = pointer + 0x200
    words = image[start : start + 256].split(b"\0")[0].split()
    if not pointer or not words:
        raise InvalidKernel("the boot image does not say its version")
    return words[0].decode("ascii", "replace")


def _banner_release(kernel: bytes) -> str:
    """The release in the line with which the kernel greets, as it stands in the uncompressed kernel (Linux, init/version.c).

    One that is longer than uname's field is none.
    """
    banner = re.search(rb"Linux version ([!-~]{1,64}) \(", kernel)
    if not banner:
        raise InvalidKernel("the kernel does not say its version ('Linux version …'); it is truncated or no kernel of Linux")
    return banner[1].decode("ascii")


def _without_relocations(elf: bytes) -> bytes:
    """Cut what the build appends to the ELF file for address randomization, which Xen's loader does not do."""
    headers = _program_headers(elf)
    (section_offset,) = struct.unpack_from("<Q", elf, 0x28)
    section_size, section_count = struct.unpack_from("<HH", elf, 0x3A)
    end = max([section_offset + section_size * section_count, *(header.offset + header.size for header in headers)])
    if end > len(elf):
        raise InvalidKernel(f"the kernel is truncated: {len(elf)} bytes, but its segments end at {end}")
    return elf[:end]


@dataclasses.dataclass(frozen=True)
class _Segment:
    kind: int
    offset: int
    size: int


def _program_headers(elf: bytes) -> list[_Segment]:
    if elf[:6] != b"\x7fELF\x02\x01" or len(elf) < 64 or struct.unpack_from("<H", elf, 0x12)[0] != _EM_X86_64:
        raise InvalidKernel("the kernel in the boot image is not an x86-64 ELF file")
    (table,) = struct.unpack_from("<Q", elf, 0x20)
    size, count = struct.unpack_from("<HH", elf, 0x36)
    if size != 56 or table + size * count > len(elf):
        raise InvalidKernel("the kernel's program headers are damaged")
    segments = []
    for index in range(count):
        kind, offset, file_size = struct.unpack_from("<I4xQ16xQ", elf, table + index * size)
        segments.append(_Segment(kind, offset, file_size))
    return segments


def _xen_notes(elf: bytes) -> dict[int, bytes]:
    notes = {}
    left = _MAX_NOTES
    for segment in _program_headers(elf):
        if segment.kind == _PT_NOTE:
            left -= segment.size
            if left < 0:
                raise InvalidKernel(f"its segments of ELF notes have more than {_MAX_NOTES} bytes together; at most so many are accepted")
            data = elf[segment.offset : segment.offset + segment.size]
            position = 0
            while position + 12 <= len(data):
                name_size, size, kind = struct.unpack_from("<III", data, position)
                name = position + 12
                content = name + _aligned(name_size)
                if data[name : name + name_size] == b"Xen\0":
                    notes[kind] = data[content : content + size]
                position = content + _aligned(size)
    return notes


def _aligned(size: int) -> int:
    return (size + 3) & ~3
