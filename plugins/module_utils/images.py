# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images of a host: from a registry to one read-only file system file each, shared by every zone of that digest."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils import layers, references, registry
from ansible_collections.ringfence.zones.plugins.module_utils.command import CommandFailed, run
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store, file_digest

_DESCRIPTION = "image.json"
_FILESYSTEM = "rootfs.img"
_MAX_ACCOUNTS = 1024 * 1024
"""Bytes of /etc/passwd and of /etc/group that are read from an image."""

_UUID = "00000000-0000-0000-0000-000000000000"
MAKERS = {
    "erofs": ("mkfs.erofs", "--tar=f", "--quiet", "-zlz4", "-C16384", "-T0", "--mkfs-time", f"-U{_UUID}"),
    "squashfs": ("sqfstar", "-comp", "lz4", "-b", "64K", "-mem", "64M", "-quiet", "-no-progress"),
}
"""The programs that make a file system from a tar stream on standard input; the file's path follows.

LZ4 halves most images and costs next to nothing. Seconds of CPU and MB for 39 MB of Debian's nginx, squashfs: none 0.04, 37;
lz4 0.08, 21; lz4hc 4.3, 18; gzip 5.0, 15. erofs: none 0.01, 38; lz4 0.06, 23; lz4hc 0.7, 22; zstd 1.1, 19 (and Linux 6.10).
Hosts are slow where it matters, and a zone decompresses on its own CPU. Clusters are small, for zones have little memory to cache
them in: 64 KiB is where larger squashfs blocks stop to gain. UUID and times are fixed: the same image is the same file.
"""


@dataclasses.dataclass(frozen=True)
class Image:
    """An image in the store.

    ``path`` is the file with its file system of type ``filesystem`` (as mount knows it). ``config`` is the configuration of the OCI
    image specification; ``passwd`` and ``group`` are those files of the image, empty if it has none. ``named_digest`` is the digest
    of what ``reference`` named: an index over architectures, or the image itself. ``sizes`` in bytes: ``compressed`` layers,
    ``unpacked`` layers, ``filesystem``.
    """

    digest: str
    named_digest: str
    reference: str
    filesystem: str
    path: Path
    config: dict[str, Any]
    passwd: str
    group: str
    sizes: dict[str, int]
    content: str | None = None
    """The digest of the file; ``None`` if it was made by a version that did not write it down."""


def present(store: Store) -> set[str]:
    """The digests of all images in the store."""
    return {f"sha256:{path.parent.name}" for path in store.images.glob(f"*/{_DESCRIPTION}")}


def is_present(store: Store, digest: str) -> bool:
    """Whether the store has the image with this digest, as far as can be told without reading all of it."""
    try:
        load(store, digest)
    except RingfenceError:
        return False
    return True


def is_whole(store: Store, digest: str) -> bool:
    """Whether the store has the image with this digest, and its file system is, read byte by byte, the one that was made."""
    try:
        image = load(store, digest)
        return image.content is None or file_digest(image.path) == image.content
    except (RingfenceError, OSError):
        return False


def load(store: Store, digest: str) -> Image:
    """The image with the manifest digest ``digest``.

    :raises RingfenceError: if the store does not hold it whole.
    """
    entry = directory(store, digest)
    try:
        described = json.loads((entry / _DESCRIPTION).read_bytes())
        if (entry / _FILESYSTEM).stat().st_size != described["sizes"]["filesystem"]:
            raise ValueError(f"{_FILESYSTEM} has another size")
        return Image(path=entry / _FILESYSTEM, **described)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RingfenceError(f"image {digest} in the store is not usable: {error}; converge again") from error


def find(store: Store, reference: str) -> Image | None:
    """The image that a reference by digest names, if the store holds it; needs no network.

    :raises references.InvalidReference: if ``reference`` is none.
    """
    pinned = references.parse_reference(reference).digest
    if pinned is None:
        return None
    digests = {digest for digest in present(store) if is_present(store, digest)}
    if pinned in digests:
        return load(store, pinned)
    # An index is what most people pin; which of its images was taken is written in the image.
    return next((image for image in (load(store, digest) for digest in sorted(digests)) if image.named_digest == pinned), None)


def prepare(store: Store, resolved: registry.Resolved) -> Image:
    """Fetch a resolved image and make its file system, unless the store has it. Nothing is left of what fails.

    :raises RingfenceError: with the cause: :class:`references.ImageError`, :class:`layers.LayerError`, a full disk, a failing program.
    """

    def build(entry: Path) -> None:
        with _full_disk_told(store, resolved), store.workspace() as workspace:
            _build(resolved, entry, workspace)

    store.publish(directory(store, resolved.digest), build)
    return load(store, resolved.digest)


_SMALLER = {"erofs": ("-zlz4hc", "-C65536"), "squashfs": ("-Xhc",)}
"""What takes more time for less space, by file system: later options of these programs replace earlier ones."""


def make_filesystem(root: layers.Inode, path: Path, *, smaller: bool = False) -> str:
    """Write a tree of :mod:`layers` as the file system file ``path``, by the best program of this host.

    :param smaller: take ten times the time for a fifth less space: for what is made once and used by every zone.
    :return: the file system's type, ``erofs`` or ``squashfs``.
    """
    kind = _filesystem_of_host()
    argv, environment = [*MAKERS[kind], *(_SMALLER[kind] if smaller else ())], {**os.environ, "LC_ALL": "C.UTF-8"}
    if kind == "squashfs":
        # sqfstar passes over the root directory's own entry, and 4.5 gives it the time of day whatever -root-time says: but never
        # one after SOURCE_DATE_EPOCH, which is also the time of the file system.
        argv += ["-root-mode", f"{root.mode:o}", "-root-uid", f"{root.uid}", "-root-gid", f"{root.gid}"]
        environment["SOURCE_DATE_EPOCH"] = str(max(node.mtime for _name, node in layers.walk(root)))
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([*argv, os.fspath(path)], stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment)
        with process:
            try:
                if process.stdin is not None:
                    layers.write_tar(root, process.stdin.fileno())
            except BrokenPipeError:
                pass  # the program has ended, and says why below
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            output.seek(0)
            said = output.read().decode("utf-8", "replace").strip()[-2000:]
            raise CommandFailed(f"{argv[0]} failed with exit status {process.returncode}: {said or 'no output'}", said)
    return kind


def directory(store: Store, digest: str) -> Path:
    """Where the image with this digest is, or would be."""
    return store.images / digest.removeprefix("sha256:")


def _build(resolved: registry.Resolved, entry: Path, workspace: Path) -> None:
    described = resolved.manifest["layers"]
    compressed = sum(layer["size"] for layer in described)
    free = shutil.disk_usage(workspace).free
    if compressed > free:
        raise RingfenceError(
            f"image {resolved.reference} has {compressed} bytes of layers, and {free} bytes are free below {workspace.parent}; make room"
        )
    layout = registry.fetch(resolved, workspace / "layout")
    # The unpacked layers and the file system made of them are there at the same time.
    bound = shutil.disk_usage(workspace).free // 2
    unpacked: dict[str, Path] = {}
    for layer in described:
        digest = layer["digest"]
        if digest in unpacked:
            continue
        blob = layout / "blobs" / "sha256" / digest.removeprefix("sha256:")
        plain = layers.uncompressed(blob, workspace / blob.name, bound)
        if plain != blob:
            blob.unlink()
            bound -= plain.stat().st_size
        unpacked[digest] = plain
    with layers.merged([unpacked[layer["digest"]] for layer in described]) as root:
        filesystem = make_filesystem(root, entry / _FILESYSTEM)
        passwd, group = (
            (layers.read_file(root, path, _MAX_ACCOUNTS) or b"").decode("utf-8", "replace") for path in ("etc/passwd", "etc/group")
        )
    description = {
        "digest": resolved.digest,
        "named_digest": resolved.named_digest,
        "reference": str(resolved.reference),
        "filesystem": filesystem,
        "config": resolved.config,
        "passwd": passwd,
        "group": group,
        "sizes": {
            "compressed": compressed,
            "unpacked": sum(path.stat().st_size for path in unpacked.values()),
            "filesystem": (entry / _FILESYSTEM).stat().st_size,
        },
        "content": file_digest(entry / _FILESYSTEM),
    }
    (entry / _DESCRIPTION).write_text(json.dumps(description, sort_keys=True), encoding="utf-8")


def _filesystem_of_host() -> str:
    """``erofs`` where mkfs.erofs reads tar streams (erofs-utils 1.8), else ``squashfs``."""
    if shutil.which("mkfs.erofs"):
        try:
            usage = run(["mkfs.erofs", "--help"])
        except CommandFailed as error:  # 1.5 shows its usage as an error
            usage = error.output.encode()
        if b"--tar" in usage and b"--mkfs-time" in usage:
            return "erofs"
    if shutil.which("sqfstar"):
        return "squashfs"
    raise RingfenceError(
        "no program that makes a file system from a tar stream; install erofs-utils 1.8 (Debian 13) or squashfs-tools (Debian 12)"
    )


@contextmanager
def _full_disk_told(store: Store, resolved: registry.Resolved) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(store.root).free
        raise RingfenceError(
            f"image {resolved.reference}: the disk below {store.root} is full ({free} bytes free); make room and converge again"
        ) from error
