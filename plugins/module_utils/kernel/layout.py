# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A kernel's OCI image in one of the field's layouts, unpacked into what a zone boots from.

The one that :mod:`package` makes too holds ``kernel/image`` (bzImage), ``kernel/config.gz``, ``kernel/metadata`` (lines KEY=VALUE)
and ``kernel/addons.squashfs`` (``modules/``: the content of ``lib/modules/RELEASE``; may be missing if nothing is modular).

The older one, of weaveworks' ignite, is a file system with a kernel as distributions install it: ``boot/vmlinuz`` (bzImage) or
``boot/vmlinux`` (ELF), maybe with ``-RELEASE`` after it, ``boot/config-RELEASE`` if it is not in the kernel, ``lib/modules/RELEASE``.
"""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.compression import decompress
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.image import layers
from ansible_collections.ringfence.zones.plugins.module_utils.kernel import boot_image
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.boot_image import BootImage
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.modules import ModuleIndex, zone_modules
from ansible_collections.ringfence.zones.plugins.module_utils.store import digest_of, file_digest

IMAGE = "kernel/image"
CONFIG = "kernel/config.gz"
METADATA = "kernel/metadata"
ADDONS = "kernel/addons.squashfs"

BOOT = "boot"
MODULES = "lib/modules"

FORMAT = "dev.edera.kernel.format"
"""The annotation that numbers the layout; ``1`` is this one."""

_MAX_IMAGE = 128 << 20
"""Bytes of a kernel, as it is in its image; it is in memory twice. Debian's cloud kernel has 12 MB, and 57 MB uncompressed."""
_MAX_CONFIG = 4 << 20
"""Bytes of a ``.config``, which has some 100 kB; and of one that is compressed."""
_MAX_METADATA = 64 << 10
_MAX_INDEX = 8 << 20
"""Bytes of each file that depmod writes. Those of Debian's cloud kernel have 130 kB."""
_MAX_MODULES = 64 << 20
"""Bytes of all modules that a zone may need. They are in its initrd; those of Debian's cloud kernel have 2 MB."""
_MAX_COUNT = 256
"""How many modules those may be. Of Debian's cloud kernel it is 12."""
_MAX_SECONDS = 600
"""Of a CPU, to read one file of the addons."""
_NO_SUCH_FILE = 2
"""With what unsquashfs (4.5 and 4.6) ends if a file is not there or is no regular file, and if it is damaged with 1."""


@dataclasses.dataclass(frozen=True)
class _Parts:
    """What an image holds, whatever its layout: the kernel, and its ``.config`` if that is known.

    ``addons`` is where in the image the modules are. ``read`` yields those of the named files below ``lib/modules/RELEASE`` that exist,
    with their content, of which it accepts a number of bytes.
    """

    boot: BootImage
    config: str | None
    addons: str
    read: Callable[[Sequence[str], int], Iterator[tuple[str, bytes]]]


def unpack_kernel(plain: Sequence[Path], digest: str, manifest: Mapping[str, Any], scratch: Path, into: Path) -> None:
    """Make ``vmlinux``, ``modules/*.ko`` and ``kernel.json`` in the directory ``into``.

    :param plain: the image's layers, the lowest first, as :mod:`layers` merges them.
    :param digest: of ``manifest``, the parsed image manifest.
    :param scratch: an empty directory for the intermediate files.
    :raises RingfenceError: saying what the image lacks, or what in it is damaged or not usable for zones.
    """
    number = (manifest.get("annotations") or {}).get(FORMAT, "1")
    if number != "1":
        raise RingfenceError(f"its layout has the number {number!r} ({FORMAT}); known is '1'")
    with layers.merged(plain) as root:
        parts = _take_apart(root, scratch)
        modes = boot_image.require_modes(parts.boot)
        load_order = _unpack_modules(parts, into / "modules")
    release = parts.boot.release
    (into / "vmlinux").write_bytes(parts.boot.kernel)
    description = {
        "digest": digest,
        "release": release,
        "modes": modes,
        "modules": load_order,
        "files": {str(path.relative_to(into)): file_digest(path) for path in sorted(into.rglob("*")) if path.is_file()},
    }
    (into / "kernel.json").write_text(json.dumps(description, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _take_apart(root: layers.Inode, scratch: Path) -> _Parts:
    limits = {IMAGE: _MAX_IMAGE, CONFIG: _MAX_CONFIG, METADATA: _MAX_METADATA}
    contents = {name: layers.read_file(root, name, limit) for name, limit in limits.items()}
    held = {name: content for name, content in contents.items() if content is not None}
    if len(held) == len(contents):
        squashfs = scratch / "addons.squashfs"
        return _from_kernel(held, squashfs if layers.copy_file(root, ADDONS, squashfs) else None)
    vmlinuz = None if held else _find_vmlinuz(layers.names(root, BOOT))
    if vmlinuz:
        return _from_boot(root, vmlinuz)
    missing = ", ".join(name for name in contents if name not in held)
    raise RingfenceError(f"it is no kernel image: it does not hold {missing}, nor {BOOT}/vmlinuz or {BOOT}/vmlinux in their place")


def _from_kernel(held: Mapping[str, bytes], addons: Path | None) -> _Parts:
    config = decompress(held[CONFIG])
    text = _config_text(config)
    boot = boot_image.unpack(held[IMAGE])
    _check_metadata(_parse_metadata(held[METADATA].decode("utf-8", "replace")), boot.release, config)

    def read(names: Sequence[str], max_bytes: int) -> Iterator[tuple[str, bytes]]:
        if addons is None:
            return
        for name in names:
            content = _read_addon(addons, f"modules/{name}", max_bytes)
            if content is not None:
                yield name, content

    return _Parts(boot, text, ADDONS, read)


def _read_addon(addons: Path, name: str, max_bytes: int) -> bytes | None:
    """The content of a regular file of the addons; ``None`` if there is none of that name.

    Nothing is unpacked: a few bytes of a squashfs can be a file of any size, or a directory of many. A link leads nowhere (Debian 12),
    or to a file of the addons.
    """
    # The queues are what it reads ahead, in MiB.
    unpack = ["unsquashfs", "-no-progress", "-data-queue", "8", "-frag-queue", "8", "-no-wildcards", "-cat", str(addons), name]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(["prlimit", f"--cpu={_MAX_SECONDS}", *unpack], stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        content = process.stdout.read(max_bytes + 1) if process.stdout else b""
        if len(content) > max_bytes:
            process.kill()
            raise RingfenceError(f"{ADDONS}: {name} has more than {max_bytes} bytes; at most so many are accepted")
        status = process.wait()
        errors.seek(0)
        said = errors.read().decode("utf-8", "replace").strip()[-500:]
    if status == _NO_SUCH_FILE:
        return None
    if status:
        raise RingfenceError(f"{ADDONS}: it is damaged: {name} cannot be read (exit status {status}): {said or 'no output'}")
    return content


def _from_boot(root: layers.Inode, vmlinuz: str) -> _Parts:
    image = layers.read_file(root, f"{BOOT}/{vmlinuz}", _MAX_IMAGE)
    if image is None:
        raise RingfenceError(f"{BOOT}/{vmlinuz} is not a file, nor a link to one in the image")
    boot = boot_image.unpack(image)
    config = layers.read_file(root, f"{BOOT}/config-{boot.release}", _MAX_CONFIG) or boot_image.configuration(boot)
    releases = layers.names(root, MODULES)
    if releases and boot.release not in releases:
        raise RingfenceError(
            f"{MODULES} is of another kernel: it holds {', '.join(map(ascii, releases))}, the kernel is {boot.release}; package it again"
        )
    addons = f"{MODULES}/{boot.release}"

    def read(names: Sequence[str], max_bytes: int) -> Iterator[tuple[str, bytes]]:
        for name in names:
            content = layers.read_file(root, f"{addons}/{name}", max_bytes)
            if content is not None:
                yield name, content

    return _Parts(boot, None if config is None else _config_text(config), addons, read)


def _config_text(config: bytes) -> str:
    if len(config) > _MAX_CONFIG:
        raise RingfenceError(f"its configuration has {len(config)} bytes; at most {_MAX_CONFIG} are accepted")
    return config.decode("utf-8", "replace")


def _find_vmlinuz(names: Sequence[str]) -> str | None:
    """The kernel among the ``names`` in ``boot``.

    :raises RingfenceError: if there are several and none has the plain name.
    """
    for kind in ("vmlinuz", "vmlinux"):
        found = [name for name in names if name == kind or name.startswith(f"{kind}-")]
        if len(found) == 1 or kind in found:
            return kind if kind in found else found[0]
        if found:
            raise RingfenceError(
                f"{BOOT} holds several kernels: {', '.join(map(ascii, found))}; leave one, or let {BOOT}/{kind} be a link to one"
            )
    return None


def _parse_metadata(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _check_metadata(metadata: Mapping[str, str], release: str, config: bytes) -> None:
    told = metadata.get("KERNEL_UNAME_R", release)
    if told != release:
        raise RingfenceError(f"{METADATA} says release {told}, but the kernel is {release}; package it again")
    digest = digest_of(config)
    if metadata.get("KERNEL_CONFIG", digest) != digest:
        raise RingfenceError(f"{CONFIG} has the digest {digest}, but {METADATA} says {metadata['KERNEL_CONFIG']}; package it again")


def _unpack_modules(parts: _Parts, into: Path) -> dict[str, list[str]]:
    """The modules that a zone may need, decompressed, below ``into``; by need their file names in load order."""
    indexes = ("modules.dep", "modules.softdep", "modules.alias")
    held = dict(parts.read(indexes, _MAX_INDEX))
    needed = zone_modules(ModuleIndex.parse(*(held.get(name, b"").decode("utf-8", "replace") for name in indexes)), parts.config)
    paths = sorted({path for order in needed.values() for path in order})
    if len(paths) > _MAX_COUNT:
        raise RingfenceError(f"a zone would need {len(paths)} of its modules; at most {_MAX_COUNT} are accepted; use a kernel with fewer")
    into.mkdir()
    absent, left = set(paths), _MAX_MODULES
    for path, content in parts.read(paths, _MAX_MODULES) if paths else ():
        module = _plain_module(parts, path, content)
        left -= len(module)
        if left < 0:
            raise RingfenceError(f"the modules that a zone needs have more than {_MAX_MODULES} bytes; use a kernel with smaller ones")
        (into / _plain_name(path)).write_bytes(module)
        absent.remove(path)
    if absent:
        names = ", ".join(sorted(map(_plain_name, absent)))
        raise RingfenceError(f"{parts.addons} does not hold {names}, which its modules.dep lists; package it again")
    return {name: [_plain_name(path) for path in order] for name, order in needed.items()}


def _plain_name(path: str) -> str:
    """``kernel/fs/ext4/ext4.ko.xz`` → ``ext4.ko``."""
    return path.rsplit("/", 1)[-1].partition(".ko")[0] + ".ko"


def _plain_module(parts: _Parts, path: str, content: bytes) -> bytes:
    """A module as busybox's insmod takes it: not compressed. Its signature, at the end, stays."""
    if not content.startswith(b"\x7fELF"):
        content = decompress(content)
    built_for = re.search(rb"vermagic=([!-~]{1,64})", content)
    found = built_for[1].decode("ascii") if built_for else "no release"
    if found != parts.boot.release:
        raise RingfenceError(
            f"{parts.addons} is of another kernel: {_plain_name(path)} is built for {found}, the kernel is {parts.boot.release}; "
            "package it again"
        )
    return content
