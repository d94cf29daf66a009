"""Runs on a host: makes of a kernel's image one that does not come up. Arguments: an OCI layout, its ELF file, ``panic`` or ``hang``."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import sys
import tarfile
from pathlib import Path

IMAGE = "kernel/image"
ENTRY = 1
"""The Xen note with the address at which a PV guest begins."""


def panic(kernel: bytearray) -> None:
    """Let it look for a first program that is not there; then it has no root either."""
    kernel[:] = kernel.replace(b"/init\0", b"/inix\0")


def hang(kernel: bytearray) -> None:
    """Let it jump to where it begins, for ever."""
    note = kernel.index(struct.pack("<III", 4, 8, ENTRY) + b"Xen\0") + 16
    (entry,) = struct.unpack_from("<Q", kernel, note)
    (headers, size, count) = (*struct.unpack_from("<Q", kernel, 32), *struct.unpack_from("<HH", kernel, 54))
    for number in range(count):
        kind, _flags, offset, address, _physical, length = struct.unpack_from("<IIQQQQ", kernel, headers + number * size)
        if kind == 1 and address <= entry < address + length:
            kernel[offset + entry - address : offset + entry - address + 2] = b"\xeb\xfe"
            return
    raise LookupError(f"no segment has the entry {entry:#x}")


def repack(layout: Path, kernel: bytes) -> None:
    """Put another kernel into the only image of a layout."""
    index = json.loads((layout / "index.json").read_bytes())
    manifest = json.loads(_blob(layout, index["manifests"][0]["digest"]).read_bytes())
    config = json.loads(_blob(layout, manifest["config"]["digest"]).read_bytes())
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as new:
        for described in manifest["layers"]:
            with tarfile.open(_blob(layout, described["digest"])) as old:
                for member in old:
                    reader = old.extractfile(member) if member.isfile() else None
                    content = kernel if member.name.lstrip("./") == IMAGE else reader.read() if reader else b""
                    member.size = len(content)
                    new.addfile(member, io.BytesIO(content))
    manifest["layers"] = [{"mediaType": "application/vnd.oci.image.layer.v1.tar", **_put(layout, layer.getvalue())}]
    config["rootfs"]["diff_ids"] = [manifest["layers"][0]["digest"]]
    config.pop("history", None)
    manifest["config"].update(_put(layout, json.dumps(config).encode()))
    index["manifests"][0].update(_put(layout, json.dumps(manifest).encode()))
    (layout / "index.json").write_text(json.dumps(index))


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def _put(layout: Path, content: bytes) -> dict[str, object]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    _blob(layout, digest).write_bytes(content)
    return {"digest": digest, "size": len(content)}


if __name__ == "__main__":
    elf = bytearray(Path(sys.argv[2]).read_bytes())
    {"panic": panic, "hang": hang}[sys.argv[3]](elf)
    repack(Path(sys.argv[1]), bytes(elf))
