"""Tests of the library's ``image.oci_layout``."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.image.oci_layout import join_index, write_layout


def _write(directory: Path, addons: Path) -> str:
    return write_layout(directory, {"kernel/image": b"image", "kernel/addons": addons}, "amd64", {"b": "2", "a": "1"}, "latest")


def _blob(layout: Path, descriptor: dict[str, Any]) -> bytes:
    content = (layout / "blobs/sha256" / descriptor["digest"].removeprefix("sha256:")).read_bytes()
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == descriptor["digest"]
    assert len(content) == descriptor["size"]
    return content


def test_index_manifest_configuration_and_layer_belong_together(tmp_path: Path) -> None:
    addons = tmp_path / "addons"
    addons.write_bytes(b"addons")
    layout = tmp_path / "layout"
    digest = _write(layout, addons)
    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    assert entry["digest"] == digest
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "latest"}
    manifest = json.loads(_blob(layout, entry))
    assert manifest["annotations"] == {"a": "1", "b": "2"}
    config = json.loads(_blob(layout, manifest["config"]))
    (layer,) = manifest["layers"]
    assert (config["architecture"], config["os"]) == ("amd64", "linux")
    assert config["rootfs"] == {"type": "layers", "diff_ids": [layer["digest"]]}
    _blob(layout, layer)
    with tarfile.open(layout / "blobs/sha256" / layer["digest"][7:], "r:") as archive:
        members = [(m.name, m.type, oct(m.mode), m.uid, m.gid, m.mtime, m.uname, m.size) for m in archive]
    assert members == [
        ("kernel", tarfile.DIRTYPE, "0o755", 0, 0, 0, "", 0),
        ("kernel/addons", tarfile.REGTYPE, "0o644", 0, 0, 0, "", 6),
        ("kernel/image", tarfile.REGTYPE, "0o644", 0, 0, 0, "", 5),
    ]


def test_only_the_content_of_files_counts(tmp_path: Path) -> None:
    addons = tmp_path / "addons"
    addons.write_bytes(b"addons")
    first = _write(tmp_path / "first", addons)
    addons.chmod(0o700)
    os.utime(addons, (1, 1))
    assert _write(tmp_path / "second", addons) == first
    addons.write_bytes(b"other!")
    assert _write(tmp_path / "third", addons) != first


def _joined(directory: Path, architecture: str, content: bytes, others: Path) -> str:
    """A layout with an image, joined with what the layout ``others`` holds, as skopeo copies it; returns the digest of the index."""
    write_layout(directory, {"kernel/image": content}, architecture, {}, "kernel")
    shutil.copytree(others / "blobs", directory / "blobs", dirs_exist_ok=True)
    top, present = (json.loads((path / "index.json").read_bytes()) for path in (directory, others))
    (entry,) = present["manifests"]
    top["manifests"].append({**entry, "annotations": {"org.opencontainers.image.ref.name": "others"}})
    (directory / "index.json").write_text(json.dumps(top))
    return join_index(directory, "kernel", "others")


def _platforms(layout: Path) -> dict[str, str]:
    """What the one tag of a layout, that of an index, offers: the digest for each platform."""
    (tag,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    assert tag["annotations"] == {"org.opencontainers.image.ref.name": "kernel"}
    entries = json.loads(_blob(layout, tag))["manifests"]
    for entry in entries:
        _blob(layout, entry)
    return {f"{entry['platform']['os']}/{entry['platform']['architecture']}": entry["digest"] for entry in entries}


def test_an_index_is_the_same_whichever_image_was_there_first(tmp_path: Path) -> None:
    digests = {name: write_layout(tmp_path / name, {"kernel/image": name.encode()}, name, {}, "1") for name in ("amd64", "arm64")}
    first = _joined(tmp_path / "first", "arm64", b"arm64", tmp_path / "amd64")
    second = _joined(tmp_path / "second", "amd64", b"amd64", tmp_path / "arm64")
    assert first == second
    assert _platforms(tmp_path / "first") == {"linux/amd64": digests["amd64"], "linux/arm64": digests["arm64"]}


def test_an_image_takes_the_place_of_the_one_for_its_platform_in_an_index(tmp_path: Path) -> None:
    old = write_layout(tmp_path / "amd64", {"kernel/image": b"amd64"}, "amd64", {}, "1")
    _joined(tmp_path / "first", "arm64", b"old", tmp_path / "amd64")
    # As kernels in the field name it.
    index = tmp_path / "first" / "blobs" / "sha256" / json.loads((tmp_path / "first/index.json").read_bytes())["manifests"][0]["digest"][7:]
    content = index.read_bytes().replace(b'"arm64"', b'"aarch64"')
    digest = hashlib.sha256(content).hexdigest()
    (index.parent / digest).write_bytes(content)
    top = {"manifests": [{"digest": f"sha256:{digest}", "size": len(content), "mediaType": "application/vnd.oci.image.index.v1+json"}]}
    (tmp_path / "first/index.json").write_text(json.dumps(top))
    _joined(tmp_path / "second", "arm64", b"new", tmp_path / "first")
    new = write_layout(tmp_path / "new", {"kernel/image": b"new"}, "arm64", {}, "1")
    assert _platforms(tmp_path / "second") == {"linux/amd64": old, "linux/arm64": new}
