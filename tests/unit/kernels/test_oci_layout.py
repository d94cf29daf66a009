"""Tests of the module_utils ``oci_layout``."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.oci_layout import write_layout


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
