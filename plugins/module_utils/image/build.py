# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes images of a host: from a registry to the file system file in the store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils import disk_space
from ansible_collections.ringfence.zones.plugins.module_utils.command import CommandFailed, run
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.image import images, layers, oci_layout, registry
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store, file_digest

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


def prepare(store: Store, resolved: registry.Resolved) -> images.Image:
    """Fetch a resolved image and make its file system, unless the store has it. Nothing is left of what fails, but for a pull that was cut.

    Layers from a registry are kept: another image that has them, and a pull that goes on where it was cut, fetches only what is missing.
    Those of a layout or an archive are on this machine already.

    :raises RingfenceError: with the cause: :class:`references.ImageError`, :class:`layers.LayerError`, a full disk, a failing program.
    """

    kept = store.layers if resolved.is_remote else None

    def build(entry: Path) -> None:
        new = [blob for blob in _blobs(resolved, kept).values() if not blob.exists()] if kept else []
        try:
            with disk_space.full_told(f"image {resolved.reference}", store.root), store.workspace() as workspace:
                _build(resolved, entry, workspace, kept)
        except registry.RegistryUnreachable:
            raise  # The next run goes on with the layers that are there.
        except Exception:
            # A disk that was too small for the image must not stay full of its layers.
            for blob in new:
                blob.unlink(missing_ok=True)
            raise

    store.publish(images.directory(store, resolved.digest), build)
    return images.load(store, resolved.digest)


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


def _blobs(resolved: registry.Resolved, directory: Path) -> dict[str, Path]:
    """The layers of an image below a directory of blobs, by digest."""
    return {digest: directory / oci_layout.shared_blob(digest) for digest in resolved.layers}


def fetch_layers(what: str, resolved: registry.Resolved, workspace: Path, kept: Path | None = None) -> list[Path]:
    """Fetch a resolved image into the empty directory ``workspace``; its layers there, as plain tar files, the lowest first.

    They have half of the free disk, for what is made of them is there at the same time.

    :param what: whose layers they are, for errors.
    :param kept: the directory, on the same file system, of layers that are not fetched again, and stay; it gets those that are fetched.
    """
    layout = workspace / "layout"
    if kept:
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
    blobs = _blobs(resolved, kept or layout / oci_layout.BLOBS)
    for digest, blob in blobs.items():
        if blob.exists() and file_digest(blob) != digest:  # skopeo takes what is there for whole.
            blob.unlink()
    missing = {layer["digest"]: layer["size"] for layer in resolved.manifest["layers"] if not blobs[layer["digest"]].exists()}
    disk_space.require(what, sum(missing.values()), workspace.parent)
    registry.fetch(resolved, layout, blobs=kept)
    bound = disk_space.free(workspace) // 2
    unpacked: dict[str, Path] = {}
    for digest, blob in blobs.items():
        plain = layers.uncompressed(blob, workspace / blob.name, bound)
        if plain != blob:
            bound -= plain.stat().st_size
            if not kept:
                blob.unlink()
        elif kept:
            plain = workspace / blob.name
            os.link(blob, plain)  # What has a second name is not consumed.
        unpacked[digest] = plain
    return [unpacked[digest] for digest in resolved.layers]


def _build(resolved: registry.Resolved, entry: Path, workspace: Path, kept: Path | None) -> None:
    plain = fetch_layers(f"image {resolved.reference}", resolved, workspace, kept)
    with layers.merged(plain, consume=True) as root:
        passwd, group = (
            (layers.read_file(root, path, _MAX_ACCOUNTS) or b"").decode("utf-8", "replace") for path in ("etc/passwd", "etc/group")
        )
        filesystem = make_filesystem(root, entry / images.FILESYSTEM)
    description = {
        "digest": resolved.digest,
        "named_digest": resolved.named_digest,
        "reference": str(resolved.reference),
        "filesystem": filesystem,
        "config": resolved.config,
        "passwd": passwd,
        "group": group,
        "sizes": {
            "compressed": sum(layer["size"] for layer in resolved.manifest["layers"]),
            "unpacked": sum(path.stat().st_size for path in set(plain)),
            "filesystem": (entry / images.FILESYSTEM).stat().st_size,
        },
        "content": file_digest(entry / images.FILESYSTEM),
        "layers": resolved.layers,
    }
    (entry / images.DESCRIPTION).write_text(json.dumps(description, sort_keys=True), encoding="utf-8")


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
