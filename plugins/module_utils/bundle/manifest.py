# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The manifest of a bundle: what its references mean, and size and digest of every file. Pure, but for reading and hashing files.

A bundle is a directory for hosts without network, made to be carried on a medium with a FAT32 file system:

* ``manifest.json``, written last: a directory without it is no bundle;
* ``images/``, an OCI layout of all images and kernels. Each is tagged by the hex part of its digest;
* ``debian/`` and ``debian-security/``, partial mirrors: Debian's own signed indexes, and of the packages only those that hosts need;
* ``collections/``, this collection.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.store import digest_of

NAME = "manifest.json"
SCHEMA = 1
DIRECTORIES = ("collections", "debian", "debian-security", "images")
"""Where the files of a bundle are. An installed one has others beside them, with what its host's apt trusts."""
PART = 2 * 1024**3
"""Bytes of a part: a file that is larger is kept in parts, because FAT32 has no file of 4 GiB."""

_MAX_MANIFEST = 64 * 1024 * 1024
_BLOCK = 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMPONENT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._~+%=-]{0,198}[A-Za-z0-9_~+%=-])?")
"""What every file system takes as a name, and no way out of the directory."""


class BundleNotFound(RingfenceError):
    """There is no bundle, or none that is complete."""


class Damaged(Exception):
    """What is in the place of a file is not that file; the message says why, after its name."""


@dataclasses.dataclass(frozen=True)
class File:
    """A file of a bundle. ``earlier``: it is not in this bundle, because the bundle that this one builds on has it."""

    size: int
    sha256: str
    earlier: bool = False

    def stored(self, path: str) -> list[str]:
        """The names under which a bundle keeps it: ``path``, or its parts in order."""
        parts = -(-self.size // PART)
        return [path] if parts <= 1 else [f"{path}.{number:03}" for number in range(1, parts + 1)]


@dataclasses.dataclass(frozen=True)
class Since:
    """The bundle that another one builds on: its name, and the digest of its manifest."""

    name: str
    digest: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a bundle holds.

    ``images`` is by reference, in its full form, the digest of what it names: an image, or an index over architectures. ``files`` is by
    path everything that a host needs, also what is ``earlier``.
    """

    name: str
    created: str
    architecture: str
    suites: tuple[str, ...]
    images: Mapping[str, str]
    files: Mapping[str, File]
    since: Since | None = None

    def content(self) -> bytes:
        """The text of ``manifest.json``."""
        document = {"schema": SCHEMA, **dataclasses.asdict(self)}
        return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def now() -> str:
    """The time as in ``created``; a later one is a greater one."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def parse(content: bytes, where: Path) -> Manifest:
    """Read a manifest.

    :param where: its file, for errors.
    :raises RingfenceError: when it is none, or one of another version of the collection, or names what cannot be a file of a bundle.
    """
    try:
        document = json.loads(content)
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            found = document.get("schema") if isinstance(document, dict) else None
            raise RingfenceError(f"{where} has the schema {found!r}; accepted is {SCHEMA}; collect with this version of the collection")
        del document["schema"]
        files = {str(path): _file(path, entry) for path, entry in document.pop("files").items()}
        since = document.pop("since")
        suites = tuple(document.pop("suites"))
        manifest = Manifest(files=files, since=Since(**since) if since else None, suites=suites, **document)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RingfenceError(f"{where} is no manifest of a bundle: {error}; copy the bundle again") from error
    problems = unfit(manifest.files)
    if problems:
        raise RingfenceError(f"{where}: {'; '.join(problems)}; make the bundle again")
    return manifest


def read(directory: Path, digest: str | None = None) -> tuple[Manifest, bytes]:
    """The manifest of the bundle in ``directory``, and its content.

    :param digest: that of the manifest, if it is known; another one is not even parsed.
    :raises BundleNotFound: when there is no manifest.
    :raises RingfenceError: when it cannot be read, or is another one.
    """
    path = directory / NAME
    try:
        with open(path, "rb") as handle:
            content = handle.read(_MAX_MANIFEST + 1)
    except FileNotFoundError as error:
        what = "is half written: it has no manifest.json, which comes last" if directory.is_dir() else "does not exist"
        raise BundleNotFound(f"bundle {directory} {what}; collect it to the end, then copy all of it") from error
    except OSError as error:
        raise RingfenceError(f"bundle {directory}: {NAME} cannot be read: {error}") from error
    if len(content) > _MAX_MANIFEST:
        raise RingfenceError(f"{path} has more than {_MAX_MANIFEST} bytes; that is no manifest of a bundle")
    found = digest_of(content)
    if digest not in (None, found):
        raise RingfenceError(
            f"bundle {directory}: its manifest has the digest {found} instead of {digest}; it is another bundle, or damaged"
        )
    return parse(content, path), content


def unfit(paths: Iterable[str]) -> list[str]:
    """What is wrong with paths that shall be files of a bundle, on any file system."""
    listed = list(paths)
    problems = [f"{path!r} cannot be a file of a bundle" for path in listed if not _fits(path)]
    folded = Counter(path.casefold() for path in listed)
    return problems + [f"{path!r} differs from another file only by case" for path in listed if folded[path.casefold()] > 1]


def blocks(directory: Path, names: Iterable[str], file: File) -> Iterator[bytes]:
    """The content of ``file``, which a directory should hold under these names, one after the other; verified when it ends.

    :raises Damaged: when it is another file, and as soon as it is too large.
    :raises OSError: when it is not there or cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    for name in names:
        if not stat.S_ISREG((directory / name).stat(follow_symlinks=False).st_mode):
            raise OSError(f"{name} is no regular file")
        with open(directory / name, "rb") as handle:
            while block := handle.read(_BLOCK):
                size += len(block)
                if size > file.size:
                    raise Damaged(f"is damaged: more than {file.size} bytes")
                digest.update(block)
                yield block
    if (size, digest.hexdigest()) != (file.size, file.sha256):
        raise Damaged(f"is damaged: {size} bytes with sha256 {digest.hexdigest()} instead of {file.size} bytes with {file.sha256}")


def fault(directory: Path, names: Iterable[str], file: File) -> str | None:
    """What is wrong with a file that a directory should hold under these names; ``None`` if it is whole. Reads all of it."""
    try:
        for _block in blocks(directory, names, file):
            pass
    except Damaged as error:
        return str(error)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error}"
    return None


def _fits(path: str) -> bool:
    directory, *names = path.split("/")
    return directory in DIRECTORIES and bool(names) and all(map(_COMPONENT.fullmatch, names))


def _file(path: str, entry: Mapping[str, Any]) -> File:
    file = File(**entry)
    if not isinstance(file.size, int) or file.size < 0 or not _SHA256.fullmatch(file.sha256):
        raise ValueError(f"{path} has the size {file.size!r} and the sha256 {file.sha256!r}")
    return file
