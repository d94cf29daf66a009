# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The content-addressed store of a host: finished directories appear at once and whole, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError

UNFINISHED = ".new-"
"""How the names begin of files that :func:`write_atomically` is writing."""

ROOT = Path("/var/lib/ringfence")
"""Everything the collection keeps on a host, but for its units and rules."""


class Store:
    """``images/``, ``layers/``, ``kernels/``, ``runtime/``, ``zones/``, ``volumes/`` below one root, and ``tmp/`` for what is not finished.

    An entry of ``images/`` and ``kernels/`` is a directory named after the hex part of the manifest's sha256 digest. It is
    written below ``tmp/`` of the same file system, synced, and renamed into place, so an entry that exists is complete.
    ``layers/`` has the layers of images as they were fetched, ``sha256/HEX``: the form of a layout's blobs. They are looked at when they
    are used again, so nothing depends on whether they are whole.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.images = root / "images"
        self.layers = root / "layers"
        self.kernels = root / "kernels"
        self.runtime = root / "runtime"
        self.zones = root / "zones"
        self.volumes = root / "volumes"
        self.tmp = root / "tmp"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store for one writer, and clear what an earlier, killed writer has not finished.

        What it left of a zone's files is known by the zone's definition.

        :raises RingfenceError: when another run holds it, or it is behind a link.
        """
        self.refuse_links()
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self.root / "lock", "w", encoding="ascii") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RingfenceError(
                    f"another converge of this host is running (it holds {self.root / 'lock'}); run again when it has ended"
                ) from error
            remove_tree(self.tmp)
            for directory in (self.root, self.kernels, self.runtime):
                for path in directory.glob(f"{UNFINISHED}*"):
                    path.unlink()
            yield

    def refuse_links(self) -> None:
        """Refuse a store that a link leads to, or of which a part is behind one.

        Linux tells the disks of zones by the paths to which links lead, and the rules and scripts that guard them know the others.

        :raises RingfenceError: naming the link.
        """
        for path in (self.root, self.images, self.runtime, self.zones, self.volumes):
            if (leads_to := path.resolve()) != path:
                raise RingfenceError(f"{path} is {leads_to} by a link, which is not accepted; mount that disk or directory there instead")

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Path]:
        """A private directory on the store's file system, gone afterwards."""
        import tempfile  # noqa: PLC0415 - only what writes needs it

        self.tmp.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(dir=self.tmp))
        try:
            yield path
        finally:
            remove_tree(path)

    def publish(self, target: Path, build: Callable[[Path], None], *, replace: bool = False) -> Path:
        """Make ``target``, a directory of the store, by ``build(directory)``; a ``target`` that exists is left as it is.

        :param replace: put it in the place of one that exists, which is damaged.
        """
        if target.is_dir() and not replace:
            return target
        with self.workspace() as workspace:
            building = workspace / "entry"
            building.mkdir(mode=0o700)
            build(building)
            sync_tree(building)
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if target.is_dir():
                os.rename(target, workspace / "damaged")  # A run that is killed here leaves nothing to use, and the next makes it anew.
            os.rename(building, target)
            sync(target.parent)
        return target


def remove_tree(path: Path) -> None:
    """Delete a directory with all that is in it; one that is not there, or cannot be deleted whole, is no error."""
    if os.path.lexists(path):
        import shutil  # noqa: PLC0415 - it brings all of Python's compressors

        shutil.rmtree(path, ignore_errors=True)


def digest_of(content: bytes) -> str:
    """The digest, ``sha256:…``, of content (OCI image specification, descriptor.md)."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def file_digest(path: Path) -> str:
    """The digest, ``sha256:…``, of a file's content."""
    with open(path, "rb") as handle:
        return f"sha256:{hashlib.file_digest(handle, 'sha256').hexdigest()}"


def write_atomically(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` so that a reader, or a power cut, sees the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Named by what it becomes: what a run that was killed has left is used by the next one that writes the file.
    temporary = path.with_name(f"{UNFINISHED}{path.name}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            os.fchmod(descriptor, mode)
            handle.write(content)
            handle.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and not error.filename:
            # The errors of write and fsync do not name the file.
            error.filename = os.fspath(path)
        raise
    sync(path.parent)


def sync_tree(directory: Path) -> None:
    """The same as :func:`sync` for all that is below a directory, and itself."""
    for path in (*directory.rglob("*"), directory):
        if not path.is_symlink():
            sync(path)


def sync(path: Path) -> None:
    """Have a file, or which names a directory holds, survive a power cut from now on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
