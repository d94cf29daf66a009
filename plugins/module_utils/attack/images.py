# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Give the host hostile and tampered images: what fetches the images of zones fetches them, into a small store of their own.

The control of a hostile layer is an unpacker without care, as root, into a directory; that of a tampered image is the image itself.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.attack.result import Attempt
from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.image import build, images, oci_layout, registry
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store

_HOSTILE, _PROVENANCE = 14, 22
_ROOM = 32 << 20
"""Bytes of the file system that holds the store; a bomb cannot take more of the host."""

_MIB = 1 << 20
_ESCAPE = "\x1b[2J"
_SIGNED = {"type": "signedBy", "keyType": "GPGKeys", "keyData": base64.b64encode(b"a key that has signed nothing").decode()}


def attack(directory: Path) -> list[Attempt]:
    """Fetch images that would harm a careless host, and images that were changed. Nothing of it is left but ``directory``, if that fails.

    :param directory: where all of it is; it must not exist.
    """
    place = directory / "store"
    place.mkdir(mode=0o700, parents=True)
    run(["mount", "-t", "tmpfs", "-o", f"size={_ROOM},mode=0700", "ringfence-attack", str(place)])
    try:
        return [*_hostile(directory), *_bomb(directory), *_tampered(directory)]
    finally:
        run(["umount", "--lazy", str(place)])


# Promise 14.


def _hostile(directory: Path) -> list[Attempt]:
    attempts = []
    for number, (label, (members, harm)) in enumerate(_layers(directory / "outside").items()):
        outside, unpacked = directory / "outside", directory / f"unpacked-{number}"
        for place in (outside, unpacked):
            place.mkdir(mode=0o700)
        (outside / "victim").write_text("whole", encoding="ascii")
        layout = directory / f"hostile-{number}"
        _write_image(layout, members)
        said = _fetched(directory, layout)
        harmed = harm(outside, directory / "store")
        with open(_layer(layout), "rb") as layer, contextlib.suppress(OSError):
            _unpack_without_care(layer, unpacked)
        attempts.append(
            Attempt(_HOSTILE, f"image: {label}", harmed, said or "it is in the image alone", harm(outside, unpacked), "it was done")
        )
        run(["rm", "-rf", str(outside), str(unpacked)])
    name = f"../{_ESCAPE}"
    _write_image(directory / "speaking", [(_member(name), b"")])
    said = _fetched(directory, directory / "speaking")
    attempts.append(
        Attempt(_HOSTILE, "image: control the terminal by a name", "\x1b" in said, said or "no error", "\x1b" in name, "the name does so")
    )
    return attempts


_Members = list[tuple[tarfile.TarInfo, bytes]]
_Harm = Callable[[Path, Path], bool]


def _layers(outside: Path) -> dict[str, tuple[_Members, _Harm]]:
    """By label the members of a layer, and how to see that it did harm outside, or in the directory where it was unpacked."""
    up = "../" * 40 + str(outside).lstrip("/")

    def written(place: Path, _tree: Path) -> bool:
        return (place / "written").exists()

    return {
        "write to a name with '..'": ([(_member(f"{up}/written"), b"x")], written),
        "write to an absolute name": ([(_member(f"{outside}/written"), b"x")], written),
        "write through a symbolic link": (
            [(_member("out", tarfile.SYMTYPE, str(outside)), b""), (_member("out/written"), b"x")],
            written,
        ),
        "take a file of the host by a hard link": (
            [(_member("taken", tarfile.LNKTYPE, f"{outside}/victim"), b"")],
            lambda place, _tree: (place / "victim").stat().st_nlink > 1,
        ),
        "delete a file of the host by a whiteout": (
            [(_member(f"{up}/.wh.victim"), b"")],
            lambda place, _tree: not (place / "victim").exists(),
        ),
        "make a device on the host": (
            [(_member("device", tarfile.CHRTYPE), b"")],
            lambda _place, tree: any(stat.S_ISCHR(mode) for mode in _modes(tree)),
        ),
        "make a program on the host that runs as root": (
            [(_member("program", mode=0o4755), b"x")],
            lambda _place, tree: any(stat.S_ISREG(mode) and mode & stat.S_ISUID for mode in _modes(tree)),
        ),
    }


def _modes(tree: Path) -> Iterator[int]:
    return (path.lstat().st_mode for path in tree.rglob("*"))


def _member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, target, mode
    member.devmajor, member.devminor = (1, 3) if kind == tarfile.CHRTYPE else (0, 0)  # that of /dev/null
    return member


def _unpack_without_care(layer: Any, root: Path) -> None:
    """Do with each member what its header says, and look at nothing."""
    with tarfile.open(fileobj=layer) as tar:
        for member in tar:
            path = os.path.join(root, member.name)
            if os.path.basename(path).startswith(".wh."):
                os.unlink(path.replace(".wh.", ""))
            elif member.issym():
                os.symlink(member.linkname, path)
            elif member.islnk():
                os.link(os.path.join(root, member.linkname), path)
            elif member.ischr():
                os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(member.devmajor, member.devminor))
            else:
                with open(path, "wb") as handle:
                    handle.write(b"x")
                os.chmod(path, member.mode)


def _bomb(directory: Path) -> list[Attempt]:
    """A layer of a few kilobytes that grows beyond what the store's file system holds."""
    layer = io.BytesIO()
    with gzip.open(layer, "wb", compresslevel=9) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        member = _member("zeros")
        member.size = 2 * _ROOM
        tar.addfile(member, _Zeros(member.size))
    layout = directory / "bomb"
    _write_image(layout, [], layer.getvalue())
    said = _fetched(directory, layout)
    left = run(["du", "--summarize", "--block-size=1", str(directory / "store")])
    kept = int(left.split()[0])
    with gzip.open(io.BytesIO(layer.getvalue())) as packed:
        grown = sum(len(chunk) for chunk in iter(lambda: packed.read(_MIB), b""))
    told = f"{said or 'it was taken'}; {kept} bytes are left of it"
    control = f"its {len(layer.getvalue())} bytes become {grown}, and there is room for {_ROOM}"
    return [Attempt(_HOSTILE, "image: fill the host's disk", not said or kept > _MIB, told, grown > _ROOM, control)]


class _Zeros(io.RawIOBase):
    """That many zeros, to be read."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.left = size

    def read(self, size: int = -1) -> bytes:
        taken = min(size, self.left)
        self.left -= taken
        return bytes(taken)


# Promise 22.


def _tampered(directory: Path) -> list[Attempt]:
    attempts = []
    whole = directory / "whole"
    _write_image(whole, [(_member("program"), b"")])
    refused = _fetched(directory, whole)
    control: tuple[bool, str] = (not refused, refused or "unchanged, it is taken")
    for label, path in _blobs(whole).items():
        content = path.read_bytes()
        path.write_bytes(content + b"\n")
        said = _fetched(directory, whole)
        attempts.append(
            Attempt(_PROVENANCE, f"image: run it with one byte more in its {label}", not said, said or "it was taken", *control)
        )
        path.write_bytes(content)
    with _policy(directory / "home", {"default": [_SIGNED]}):
        said = _fetched(directory, whole)
    attempts.append(
        Attempt(_PROVENANCE, "image: run it without a signature where one is asked for", not said, said or "it was taken", *control)
    )
    return [*attempts, _changed_in_the_store(directory, whole)]


def _changed_in_the_store(directory: Path, layout: Path) -> Attempt:
    with _prepared(directory, layout) as (store, image):
        before = images.is_whole(store, image.digest)
        with open(image.path, "r+b") as handle:
            handle.seek(-1, os.SEEK_END)
            last = handle.read(1)
            handle.seek(-1, os.SEEK_END)
            handle.write(bytes([last[0] ^ 1]))
        after = images.is_whole(store, image.digest)
    told = "it is taken for whole" if after else "a zone that starts with it gets a new one"
    return Attempt(_PROVENANCE, "image: run what was changed in the store", after, told, before, "unchanged, it is taken for whole")


def _blobs(layout: Path) -> dict[str, Path]:
    """The files of an image, by what they are."""
    manifest = _blob(layout, json.loads((layout / "index.json").read_bytes())["manifests"][0])
    described = json.loads(manifest.read_bytes())
    return {"manifest": manifest, "configuration": _blob(layout, described["config"]), "layer": _blob(layout, described["layers"][0])}


@contextlib.contextmanager
def _policy(home: Path, policy: Mapping[str, Any]) -> Iterator[None]:
    """Let skopeo find this policy; a file below the home directory comes before the host's."""
    place = home / ".config" / "containers"
    place.mkdir(parents=True)
    (place / "policy.json").write_text(json.dumps(policy), encoding="ascii")
    before = os.environ.get("HOME")
    os.environ["HOME"] = str(home)
    try:
        yield
    finally:
        if before is None:
            del os.environ["HOME"]
        else:
            os.environ["HOME"] = before


# What both do.


def _write_image(layout: Path, members: Sequence[tuple[tarfile.TarInfo, bytes]], packed: bytes = b"") -> None:
    """An image of one layer; ``packed`` is that layer as it is, instead of members."""
    layout.mkdir()
    layer = layout / "layer.tar"
    if packed:
        layer.write_bytes(packed)
    else:
        with tarfile.open(layer, "w", format=tarfile.PAX_FORMAT) as tar:
            for member, content in members:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    oci_layout.write_image(layout, layer, {}, registry.host_architecture(), {}, "attack")


def _layer(layout: Path) -> Path:
    return _blobs(layout)["layer"]


def _blob(layout: Path, described: Mapping[str, Any]) -> Path:
    return layout / oci_layout.blob(described["digest"])


def _fetched(directory: Path, layout: Path) -> str:
    """Fetch an image as those of zones are; the error, empty if there is none."""
    try:
        with _prepared(directory, layout):
            return ""
    except RingfenceError as error:
        return str(error)


@contextlib.contextmanager
def _prepared(directory: Path, layout: Path) -> Iterator[tuple[Store, images.Image]]:
    """An image in the small store, which does not have it afterwards."""
    store = Store(directory / "store")
    image = build.prepare(store, registry.resolve(f"oci:{layout}:attack"))
    try:
        yield store, image
    finally:
        run(["rm", "-rf", str(images.directory(store, image.digest))])
