# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""OCI image layouts: what is where in them, and how images of one layer, and indexes over such, are written as layouts.

The same files give the same digest, on any machine.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.store import digest_of, file_digest

_LAYER = "application/vnd.oci.image.layer.v1.tar"
_CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
TAG = "org.opencontainers.image.ref.name"
"""The annotation by which an image is selected in a layout."""

BLOBS = "blobs"
"""The directory of blobs in a layout."""

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""The kernel's machine names, which some published indexes carry too, to those of the OCI specification (Go's GOARCH)."""


def oci_architecture(name: str) -> str:
    """The OCI name of an architecture that has the kernel's name, or that one already."""
    return _ARCHITECTURES.get(name, name)


def blob(digest: str) -> str:
    """The path in a layout of the blob with this digest."""
    return f"{BLOBS}/{shared_blob(digest)}"


def shared_blob(digest: str) -> str:
    """The same below a directory of blobs, which layouts may share."""
    return digest.replace(":", "/")


def frame(tagged: Mapping[str, Mapping[str, Any]]) -> dict[str, bytes]:
    """By name the files of a layout beside its blobs: what makes it one, and its index of descriptors by their tags."""
    manifests = [{**described, "annotations": {TAG: tag}} for tag, described in sorted(tagged.items())]
    return {
        "index.json": _json({"schemaVersion": 2, "mediaType": _INDEX, "manifests": manifests}),
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
    }


def write_layout(directory: Path, files: Mapping[str, bytes | Path], architecture: str, annotations: Mapping[str, str], tag: str) -> str:
    """Write an OCI image layout into ``directory``, which must not exist, and return the digest of the manifest.

    The layer is not compressed: its files are, and a compressor's output would tie the digest to that program's version.

    :param files: by path in the image the content, or the file to take it from. All belong to root, are readable, and date from 1970.
    :param architecture: OCI name, such as ``amd64``.
    :param annotations: of the manifest.
    """
    directory.mkdir(parents=True)
    layer = directory / "layer.tar"
    _write_layer(layer, files)
    return write_image(directory, layer, {}, architecture, annotations, tag)


def write_image(
    directory: Path, layer: Path, config: Mapping[str, Any], architecture: str, annotations: Mapping[str, str], tag: str
) -> str:
    """Write an OCI image of one layer as a layout into ``directory`` and return the digest of the manifest.

    :param layer: an uncompressed tar file on the same file system; it is moved.
    :param config: the ``config`` object of the image configuration: ``Cmd``, ``Env``, ``ExposedPorts`` and so on.
    """
    (directory / BLOBS / "sha256").mkdir(parents=True)
    described_layer = _take_layer(directory, layer)
    document = {
        "architecture": architecture,
        "os": "linux",
        "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": [described_layer["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _write_document(directory, _CONFIG, document),
        "layers": [described_layer],
        "annotations": dict(annotations),
    }
    described = _write_document(directory, MANIFEST, manifest)
    _write_tag(directory, tag, described)
    return str(described["digest"])


def join_index(directory: Path, tag: str, others: str) -> str:
    """Make ``tag`` of a layout an index over its image and what the tag ``others`` stands for, and return the digest of the index.

    ``others`` is an image or an index; what it has for the platform of the image is left out. The entries are in the order of their
    platforms: it makes no difference which image was there first.
    """
    tagged = {entry["annotations"][TAG]: entry for entry in json.loads((directory / "index.json").read_bytes())["manifests"]}
    (own,) = _entries(directory, tagged[tag])
    entries = [own, *(entry for entry in _entries(directory, tagged[others]) if _platform(entry) != _platform(own))]
    entries.sort(key=lambda entry: (_platform(entry), entry["digest"]))
    described = _write_document(directory, _INDEX, {"schemaVersion": 2, "mediaType": _INDEX, "manifests": entries})
    _write_tag(directory, tag, described)
    return str(described["digest"])


def _entries(directory: Path, descriptor: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The entries of the index that ``descriptor`` stands for, or the one entry that an index over its image would have."""
    document = json.loads((directory / blob(descriptor["digest"])).read_bytes())
    if "manifests" in document:
        return list(document["manifests"])
    config = json.loads((directory / blob(document["config"]["digest"])).read_bytes())
    platform = {key: config[key] for key in ("architecture", "os") if key in config}
    return [{**{key: descriptor[key] for key in ("mediaType", "digest", "size")}, "platform": platform}]


def _platform(entry: Mapping[str, Any]) -> tuple[str, str]:
    platform = entry.get("platform") or {}
    return (str(platform.get("os")), oci_architecture(str(platform.get("architecture"))))


def _write_document(directory: Path, media_type: str, document: dict[str, Any]) -> dict[str, Any]:
    content = _json(document)
    digest = digest_of(content)
    (directory / blob(digest)).write_bytes(content)
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def _write_tag(directory: Path, tag: str, described: dict[str, Any]) -> None:
    """Make ``tag`` the only one of the layout."""
    for name, content in frame({tag: described}).items():
        (directory / name).write_bytes(content)


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _write_layer(layer: Path, files: Mapping[str, bytes | Path]) -> None:
    # USTAR has one way to write such a header; the other formats depend on the library's version.
    with tarfile.open(layer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted({str(parent) for name in files for parent in PurePosixPath(name).parents if str(parent) != "."}):
            archive.addfile(_member(path, 0o755, directory=True))
        for path, source in sorted(files.items()):
            _add_file(archive, path, source)


def _take_layer(directory: Path, layer: Path) -> dict[str, Any]:
    digest = file_digest(layer)
    size = layer.stat().st_size
    os.rename(layer, directory / blob(digest))
    return {"mediaType": _LAYER, "digest": digest, "size": size}


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
