# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a zone boots from on the host, ``zones/NAME/``: its initrd, which carries its configuration, and its writable layer.

The configuration travels in the initrd rather than on a disk: a disk more costs every start of every zone a second or more, and what
is in the initrd cannot be changed from inside, so that a restart always begins from what the host wrote.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils import network
from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.domain import Definition, Files
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.images import Image
from ansible_collections.ringfence.zones.plugins.module_utils.initrd import Entry, build_initrd, cpio_archive
from ansible_collections.ringfence.zones.plugins.module_utils.kernels import Kernel
from ansible_collections.ringfence.zones.plugins.module_utils.oci_runtime import runtime_config, word
from ansible_collections.ringfence.zones.plugins.module_utils.runtime import Runtime
from ansible_collections.ringfence.zones.plugins.module_utils.spec import Zone
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store, write_atomically

STOP_GRACE = 10
"""Seconds between the stop signal and the kill, as in Docker."""

_BLOCK = 4096
_WRITABLE_BLOCKS = 1024 * 1024 * 1024 // _BLOCK
"""Size of the writable layer, sparse; one block more holds the record."""

_MKFS = ("mkfs.ext4", "-q", "-b", str(_BLOCK), "-m", "0", "-J", "size=4", "-E", "lazy_itable_init=1,nodiscard")
"""Makes the writable layer: nothing reserved for root, a small journal, tables written when they are first used."""

_RECORD = re.compile(rb"ringfence-record-1 state=(running|restarting|stopped|exited|failed) exit=(\d{1,3}|-) restarts=(\d{1,9})\n")


@dataclass(frozen=True)
class Record:
    """What a zone last said of its container: its state, how it exited (``None`` if it has not), how often it was restarted."""

    state: str
    exit_status: int | None
    restarts: int


def directory(store: Store, name: str) -> Path:
    """Where the files of a zone are."""
    return store.zones / name


def files(store: Store, definition: Definition, kernel_directory: Path, image: Path, base: Path) -> Files:
    """The files that the domain of a zone refers to."""
    own = directory(store, definition.zone.name)
    return Files(kernel_directory / "vmlinux", own / "initrd", ((base, False), (image, False), (own / "writable.img", True)))


def whole(store: Store, name: str) -> bool:
    """Whether a zone's own files are there."""
    own = directory(store, name)
    return (own / "initrd").is_file() and (own / "writable.img").is_file()


def container(zone: Zone, image: Image) -> dict[str, Any]:
    """The runtime configuration of a zone's container.

    :raises RingfenceError: when the image and the declaration do not make one.
    """
    return runtime_config(zone, _described(image), image.passwd, image.group)


def write(store: Store, definition: Definition, kernel: Kernel, image: Image, runtime: Runtime) -> None:
    """Write the initrd of a zone, and its writable layer if it has none."""
    own = directory(store, definition.zone.name)
    own.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(own / "initrd", _initrd(store, definition, kernel, image, runtime))
    writable = own / "writable.img"
    if not writable.exists():
        with store.workspace() as workspace:
            new = workspace / "writable.img"
            with open(new, "wb") as handle:
                os.fchmod(handle.fileno(), 0o600)
                handle.truncate((_WRITABLE_BLOCKS + 1) * _BLOCK)
            run([*_MKFS, str(new), str(_WRITABLE_BLOCKS)])
            os.rename(new, writable)


def discard_writable(store: Store, name: str) -> None:
    """Forget what the container has written over its image."""
    (directory(store, name) / "writable.img").unlink(missing_ok=True)


def remove(store: Store, name: str) -> None:
    """Delete the files of a zone; its volumes are elsewhere, and stay."""
    shutil.rmtree(directory(store, name), ignore_errors=True)


def forget_record(store: Store, name: str) -> None:
    """Clear the record before a start, so that what is read later is of this start."""
    with open(directory(store, name) / "writable.img", "r+b") as handle:
        handle.seek(_WRITABLE_BLOCKS * _BLOCK)
        handle.write(bytes(_BLOCK))


def read_record(store: Store, name: str) -> Record | None:
    """The zone's record; ``None`` if it has written none that is well-formed. The zone wrote it, so nothing else of it is believed."""
    try:
        with open(directory(store, name) / "writable.img", "rb") as handle:
            handle.seek(_WRITABLE_BLOCKS * _BLOCK)
            matched = _RECORD.match(handle.read(_BLOCK))
    except OSError:
        return None
    if not matched:
        return None
    return Record(matched[1].decode(), None if matched[2] == b"-" else int(matched[2]), int(matched[3]))


def _initrd(store: Store, definition: Definition, kernel: Kernel, image: Image, runtime: Runtime) -> bytes:
    needs = {"xen_blkfront", "xen_netfront", "overlay", "ext4", image.filesystem, runtime.filesystem}
    channel = {"xen_gntalloc", "xen_gntdev", "xen_evtchn"}
    common = build_initrd(kernel.directory, {"init": runtime.boot, "bin/busybox": runtime.busybox}, kernel.load_order(needs | channel))
    name, _colon, limit = definition.zone.restart.partition(":")
    settings = {
        "BASE_FILESYSTEM": runtime.filesystem,
        "IMAGE_FILESYSTEM": image.filesystem,
        "ADDRESS": network.address(definition.index),
        "GATEWAY": network.GATEWAY,
        "RESTART": name,
        "RESTART_LIMIT": limit or "0",
        "STOP_SIGNAL": word(_described(image), "StopSignal") or "TERM",
        "STOP_GRACE": str(STOP_GRACE),
        "RECORD_BLOCK": str(_WRITABLE_BLOCKS),
    }
    zone = definition.zone.name
    content = {
        "settings": "".join(f"{key}={shlex.quote(value)}\n" for key, value in settings.items()).encode(),
        "config.json": json.dumps(container(definition.zone, image)).encode(),
        "authorized_keys": _authorized_keys(store),
        "etc/hostname": f"{zone}\n".encode(),
        "etc/hosts": f"127.0.0.1\tlocalhost\n::1\tlocalhost\n{settings['ADDRESS']}\t{zone}\n".encode(),
        "etc/resolv.conf": b"",
    }
    modes = {"etc/hostname": 0o644, "etc/hosts": 0o644, "etc/resolv.conf": 0o644}
    own = [Entry(f"zone/{path}", stat.S_IFREG | modes.get(path, 0o600), data) for path, data in content.items()]
    own += [Entry(path, stat.S_IFDIR | 0o755) for path in ("base", "zone/etc")]
    own += [Entry("zone", stat.S_IFDIR | 0o700), Entry("bin/sh", stat.S_IFLNK | 0o777, b"busybox")]
    return common + cpio_archive(own)


def _described(image: Image) -> dict[str, Any]:
    described = image.config.get("config") or {}
    if not isinstance(described, dict):
        raise RingfenceError(f"image: config of its configuration is {str(described)[:80]!r}; it has to be an object")
    return described


def channel_key(store: Store) -> Path:
    """The private key with which the host enters its zones."""
    return store.root / "channel" / "id_ed25519"


def _authorized_keys(store: Store) -> bytes:
    """The host's public key, which every zone lets in; the pair is made at first use."""
    key = channel_key(store)
    public = Path(f"{key}.pub")
    if not public.exists():
        key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with store.workspace() as workspace:
            new = workspace / key.name
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ringfence", "-f", str(new)])
            os.replace(new, key)
            os.replace(f"{new}.pub", public)
    return public.read_bytes()
