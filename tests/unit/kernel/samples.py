"""Made-up kernels, small and valid: what the tests of kernels build on."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Mapping

PV = {1: struct.pack("<Q", 0xFFFFFFFF83366000), 5: b"xen-3.0\0"}
"""The Xen notes ENTRY and XEN_VERSION."""
PVH = {18: struct.pack("<I", 0x1000B20)}
"""The Xen note PHYS32_ENTRY."""
RELEASE = "6.12.1-sample"


def elf(notes: Mapping[int, bytes] = {**PV, **PVH}, code: bytes = b"code" * 64, machine: int = 62) -> bytes:
    """An x86-64 ELF file of one loaded segment with ``code`` and one segment with Xen ``notes``."""
    table = b""
    for kind, content in notes.items():
        table += struct.pack("<III", 4, len(content), kind) + b"Xen\0" + content + bytes(-len(content) % 4)
    start = 64 + 2 * 56
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, start + len(table), 0, 0, len(code), len(code), 4096)
    note = struct.pack("<IIQQQQQQ", 4, 4, start, 0, 0, len(table), len(table), 4)
    return header + load + note + table + code


def bzimage(kernel: bytes | None = None, release: str = RELEASE, compressed: bytes | None = None, protocol: int = 0x20F) -> bytes:
    """A boot image around ``kernel`` with appended relocations; ``compressed`` is its payload without the size, gzip if not given."""
    plain = (elf() if kernel is None else kernel) + b"relocations"
    payload = gzip.compress(plain, mtime=0) if compressed is None else compressed + struct.pack("<I", len(plain))
    setup = bytearray(2 * 512)
    setup[0x1F1] = 1
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, protocol)
    struct.pack_into("<H", setup, 0x20E, 0x300 - 0x200)
    version = f"{release} (builder@example) #1 SMP".encode() + b"\0"
    setup[0x300 : 0x300 + len(version)] = version
    head = b"decompressor"
    struct.pack_into("<II", setup, 0x248, len(head), len(payload))
    return bytes(setup) + head + payload


def vmlinux(release: str = RELEASE, notes: Mapping[int, bytes] = {**PV, **PVH}, config: str | None = None, machine: int = 62) -> bytes:
    """An uncompressed kernel that says its version, and carries ``config`` if there is one."""
    code = f"Linux version {release} (builder@example) #1 SMP".encode() + b"\0" + b"code" * 64
    if config is not None:
        code += b"IKCFG_ST" + gzip.compress(config.encode(), mtime=0) + b"IKCFG_ED"
    return elf(notes, code + b"code" * 64, machine)


def arm64_image(release: str = RELEASE) -> bytes:
    """An arm64 boot image, not compressed."""
    return b"MZ".ljust(0x38, b"\0") + b"ARM\x64" + f"Linux version {release} (builder@example) #1 SMP".encode() + b"\0" + b"code" * 64


def module(release: str = RELEASE) -> bytes:
    """A module built for ``release``."""
    return b"\x7fELF" + bytes(60) + b"license=GPL\0vermagic=" + release.encode() + b" SMP mod_unload \0"


def config(**options: str) -> str:
    """A ``.config`` in which everything a zone needs is a module, but for ``options``; ``n`` leaves one out."""
    values = dict.fromkeys(
        (
            "XEN_BLKDEV_FRONTEND",
            "XEN_NETDEV_FRONTEND",
            "XEN_GRANT_DEV_ALLOC",
            "XEN_GNTDEV",
            "XEN_DEV_EVTCHN",
            "EROFS_FS",
            "SQUASHFS",
            "OVERLAY_FS",
            "EXT4_FS",
            "FUSE_FS",
            "TUN",
        ),
        "m",
    )
    values |= options
    return "".join(f"# CONFIG_{name} is not set\n" if value == "n" else f"CONFIG_{name}={value}\n" for name, value in values.items())


DEP = """\
kernel/drivers/block/xen-blkfront.ko:
kernel/drivers/net/xen-netfront.ko.xz:
kernel/drivers/xen/xen-gntalloc.ko:
kernel/drivers/xen/xen-gntdev.ko:
kernel/drivers/xen/xen-evtchn.ko:
kernel/fs/erofs/erofs.ko: kernel/lib/libcrc32c.ko
kernel/lib/libcrc32c.ko:
kernel/fs/squashfs/squashfs.ko:
kernel/fs/overlayfs/overlay.ko:
kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/mbcache.ko kernel/fs/jbd2/jbd2.ko
kernel/lib/crc16.ko:
kernel/fs/mbcache.ko:
kernel/fs/jbd2/jbd2.ko:
kernel/fs/fuse/fuse.ko:
kernel/drivers/net/tun.ko:
kernel/drivers/xen/xen-privcmd.ko:
kernel/crypto/crc32c_generic.ko:
kernel/arch/x86/crypto/crc32c-intel.ko:
"""
"""A ``modules.dep``, as depmod makes it of Debian's kernels."""
SOFTDEP = """\
# Soft dependencies extracted from modules themselves.
softdep libcrc32c pre: crc32c
softdep jbd2 pre: crypto-crc32c post: other
"""
ALIAS = """\
# Aliases extracted from modules themselves.
alias crypto-crc32c crc32c_intel
alias crc32c crc32c_intel
alias cpu:type:x86,ven*fam*mod*:feature:*0094* crc32c_intel
alias crypto-crc32c crc32c_generic
alias crc32c crc32c_generic
"""
