# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A kernel's OCI image in the field's layout, unpacked into what a zone boots from.

The image holds ``kernel/image`` (bzImage), ``kernel/config.gz``, ``kernel/metadata`` (lines KEY=VALUE) and
``kernel/addons.squashfs`` (``modules/``: the content of ``lib/modules/RELEASE``; may be missing if nothing is modular).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils import boot_image, layers
from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.compression import decompress
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.kernel_modules import OPTIONAL, ModuleIndex, zone_modules
from ansible_collections.ringfence.zones.plugins.module_utils.store import file_digest

IMAGE = "kernel/image"
CONFIG = "kernel/config.gz"
METADATA = "kernel/metadata"
ADDONS = "kernel/addons.squashfs"

FORMAT = "dev.edera.kernel.format"
"""The annotation that numbers the layout; ``1`` is this one."""

_MAX_SIZE = 1 << 30
"""Bytes of a layer, and of a file in it. The largest published kernels, with the firmware of graphics cards, have half of it."""


def unpack_kernel(layout: Path, digest: str, manifest: Mapping[str, Any], scratch: Path, into: Path) -> None:
    """Make ``vmlinux``, ``modules/*.ko`` and ``kernel.json`` in the directory ``into``.

    :param layout: an OCI layout that holds the image's layers.
    :param digest: of ``manifest``, the parsed image manifest.
    :param scratch: an empty directory for the intermediate files.
    :raises RingfenceError: saying what the image lacks, or what in it is damaged or not usable for zones.
    """
    number = (manifest.get("annotations") or {}).get(FORMAT, "1")
    if number != "1":
        raise RingfenceError(f"its layout has the number {number!r} ({FORMAT}); known is '1'")
    _extract(layout, manifest, scratch)
    missing = [name for name in (IMAGE, CONFIG, METADATA) if not (scratch / name).is_file()]
    if missing:
        raise RingfenceError(f"it is no kernel image: it does not hold {', '.join(missing)}")

    metadata = _parse_metadata((scratch / METADATA).read_text("utf-8", "replace"))
    config = decompress((scratch / CONFIG).read_bytes())
    boot = boot_image.unpack((scratch / IMAGE).read_bytes())
    _check_metadata(metadata, boot.release, config)
    modes = boot_image.require_modes(boot)
    load_order = _unpack_modules(scratch, boot.release, config.decode("utf-8", "replace"), into / "modules")
    (into / "vmlinux").write_bytes(boot.elf)
    description = {
        "digest": digest,
        "release": boot.release,
        "version": metadata.get("KERNEL_VERSION", boot.release),
        "flavor": metadata.get("KERNEL_FLAVOR", ""),
        "modes": modes,
        "modules": load_order,
        "lacks": sorted(OPTIONAL.keys() - load_order.keys()),
        "files": {str(path.relative_to(into)): file_digest(path) for path in sorted(into.rglob("*")) if path.is_file()},
    }
    (into / "kernel.json").write_text(json.dumps(description, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _parse_metadata(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _check_metadata(metadata: Mapping[str, str], release: str, config: bytes) -> None:
    told = metadata.get("KERNEL_UNAME_R", release)
    if told != release:
        raise RingfenceError(f"{METADATA} says release {told}, but the kernel is {release}; package it again")
    digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    if metadata.get("KERNEL_CONFIG", digest) != digest:
        raise RingfenceError(f"{CONFIG} has the digest {digest}, but {METADATA} says {metadata['KERNEL_CONFIG']}; package it again")


def _extract(layout: Path, manifest: Mapping[str, Any], into: Path) -> None:
    """Write the known files of the image below ``into``."""
    blobs = [layout / "blobs" / "sha256" / str(layer["digest"]).removeprefix("sha256:") for layer in manifest["layers"]]
    plain = [layers.uncompressed(blob, into / f"layer-{number}", _MAX_SIZE) for number, blob in enumerate(blobs)]
    with layers.merged(plain) as root:
        for name in (IMAGE, CONFIG, METADATA, ADDONS):
            content = layers.read_file(root, name, _MAX_SIZE)
            if content is not None:
                (into / name).parent.mkdir(exist_ok=True)
                (into / name).write_bytes(content)


def _unpack_modules(scratch: Path, release: str, config: str, into: Path) -> dict[str, list[str]]:
    """The modules that a zone may need, decompressed, below ``into``; by need their file names in load order."""
    root = scratch / "addons"

    def extract(*names: str) -> None:
        # Only these: a Debian kernel has four thousand modules.
        if (scratch / ADDONS).is_file():
            run(["unsquashfs", "-force", "-no-progress", "-no-xattrs", "-dest", str(root), str(scratch / ADDONS), *names])

    def text(name: str) -> str:
        path = root / "modules" / name
        return path.read_text("utf-8", "replace") if path.is_file() else ""

    indexes = ("modules.dep", "modules.softdep", "modules.alias")
    extract(*(f"modules/{name}" for name in indexes))
    needed = zone_modules(ModuleIndex.parse(*(text(name) for name in indexes)), config)
    paths = sorted({path for order in needed.values() for path in order})
    if paths:
        extract(*(f"modules/{path}" for path in paths))
    into.mkdir()
    for path in paths:
        (into / _plain_name(path)).write_bytes(_read_module(root / "modules" / path, release))
    return {name: [_plain_name(path) for path in order] for name, order in needed.items()}


def _plain_name(path: str) -> str:
    """``kernel/fs/ext4/ext4.ko.xz`` → ``ext4.ko``."""
    return path.rsplit("/", 1)[-1].partition(".ko")[0] + ".ko"


def _read_module(path: Path, release: str) -> bytes:
    """A module as busybox's insmod takes it: not compressed. Its signature, at the end, stays."""
    if path.is_symlink() or not path.is_file():
        raise RingfenceError(f"{ADDONS} does not hold {path.name}, which its modules.dep lists; package it again")
    content = path.read_bytes()
    if not content.startswith(b"\x7fELF"):
        content = decompress(content)
    built_for = re.search(rb"vermagic=([!-~]+)", content)
    found = built_for[1].decode("ascii") if built_for else "no release"
    if found != release:
        raise RingfenceError(f"{ADDONS} is of another kernel: {path.name} is built for {found}, the kernel is {release}; package it again")
    return content
