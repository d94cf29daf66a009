# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes an image of one layer as an OCI image layout. The same files give the same digest, on any machine."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

_LAYER = "application/vnd.oci.image.layer.v1.tar"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"


def write_layout(directory: Path, files: Mapping[str, bytes | Path], architecture: str, annotations: Mapping[str, str], tag: str) -> str:
    """Write an OCI image layout into ``directory``, which must not exist, and return the digest of the manifest.

    The layer is not compressed: its files are, and a compressor's output would tie the digest to that program's version.

    :param files: by path in the image the content, or the file to take it from. All belong to root, are readable, and date from 1970.
    :param architecture: OCI name, such as ``amd64``.
    :param annotations: of the manifest.
    """
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    layer = _write_layer(blobs, files)
    config = {"architecture": architecture, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _write_document(blobs, _CONFIG, config),
        "layers": [layer],
        "annotations": dict(annotations),
    }
    described = _write_document(blobs, _MANIFEST, manifest)
    index = {
        "schemaVersion": 2,
        "mediaType": _INDEX,
        "manifests": [{**described, "annotations": {"org.opencontainers.image.ref.name": tag}}],
    }
    (directory / "index.json").write_bytes(_json(index))
    (directory / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    return str(described["digest"])


def _write_document(blobs: Path, media_type: str, document: dict[str, Any]) -> dict[str, Any]:
    content = _json(document)
    digest = hashlib.sha256(content).hexdigest()
    (blobs / digest).write_bytes(content)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _write_layer(blobs: Path, files: Mapping[str, bytes | Path]) -> dict[str, Any]:
    unnamed = blobs / "layer"
    # USTAR has one way to write such a header; the other formats depend on the library's version.
    with tarfile.open(unnamed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted({str(parent) for name in files for parent in PurePosixPath(name).parents if str(parent) != "."}):
            archive.addfile(_member(path, 0o755, directory=True))
        for path, source in sorted(files.items()):
            _add_file(archive, path, source)
    with open(unnamed, "rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    size = unnamed.stat().st_size
    os.rename(unnamed, blobs / digest)
    return {"mediaType": _LAYER, "digest": f"sha256:{digest}", "size": size}


def _add_file(archive: tarfile.TarFile, path: str, source: bytes | Path) -> None:
    member = _member(path, 0o644)
    if isinstance(source, bytes):
        member.size = len(source)
        archive.addfile(member, io.BytesIO(source))
    else:
        with open(source, "rb") as content:
            member.size = os.fstat(content.fileno()).st_size
            archive.addfile(member, content)


def _member(path: str, mode: int, directory: bool = False) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.type = tarfile.DIRTYPE if directory else tarfile.REGTYPE
    member.mode = mode
    return member
