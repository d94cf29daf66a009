# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""This collection as an archive that ``ansible-galaxy`` installs, from a checkout or from where it is installed. Same files, same bytes."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
import tarfile
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError

_MANIFEST = "MANIFEST.json"
_FILES = "FILES.json"


def archive(collection: Path, work: Path) -> Path:
    """Make the archive of a collection.

    :param collection: its root.
    :param work: an empty directory, in which the archive then is.
    :raises RingfenceError: when there is no collection.
    """
    if (collection / _MANIFEST).exists():
        return _pack(collection, work)
    if (collection / "galaxy.yml").exists():
        return _pack(_build(collection, work), work)
    raise RingfenceError(f"collection {collection}: it has neither {_MANIFEST} nor galaxy.yml; name the root of an installed collection")


def _build(checkout: Path, work: Path) -> Path:
    """What ``ansible-galaxy`` makes of a checkout, unpacked: its archives have the time of day in them."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    program = shutil.which("ansible-galaxy", path=path) or "ansible-galaxy"
    run([program, "collection", "build", "--output-path", str(work / "built"), str(checkout)])
    (built,) = (work / "built").glob("*.tar.gz")
    unpacked = work / "unpacked"
    unpacked.mkdir()
    # Python 3.11 as Debian 12 has it cannot unpack safely by itself.
    run(["tar", "--extract", "--file", str(built), "--directory", str(unpacked)])
    return unpacked


def _pack(root: Path, work: Path) -> Path:
    try:
        about = json.loads((root / _MANIFEST).read_bytes())["collection_info"]
        listed = [entry["name"] for entry in json.loads((root / _FILES).read_bytes())["files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RingfenceError(f"collection {root}: {error}; install it again") from error
    path = work / f"{about['namespace']}-{about['name']}-{about['version']}.tar.gz"
    with (
        open(path, "wb") as handle,
        gzip.GzipFile("", "wb", fileobj=handle, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as packed,
    ):
        for name in (_MANIFEST, _FILES, *sorted(set(listed) - {"."})):
            _add(packed, root, name)
    return path


def _add(packed: tarfile.TarFile, root: Path, name: str) -> None:
    source = root / name
    member = tarfile.TarInfo(name)
    member.mode = 0o755 if source.is_dir() or os.access(source, os.X_OK) else 0o644
    if source.is_dir():
        member.type = tarfile.DIRTYPE
        packed.addfile(member)
        return
    with open(source, "rb") as content:
        member.size = os.fstat(content.fileno()).st_size
        packed.addfile(member, content)
