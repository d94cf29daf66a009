# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Image layers merged in memory and written as one tar stream, so that no entry of an image ever touches the host's file system.

The rules are those of the OCI image specification ("Image Layer Filesystem Changeset"), carried out on a tree of inodes that
stands for the file system: names are keys of dictionaries, so nothing can lead out of it. File contents stay where they are, in
the uncompressed layers, and go from there to the stream without passing through Python.

The tar headers are read by this module and not by ``tarfile``: an image is untrusted, and ``tarfile`` reads extended headers of
any size into memory, ends silently at a damaged header, and loops on negative sizes (CVE-2025-8194) in Python as hosts have it.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import subprocess
import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError

MAX_ENTRIES = 400_000
"""Entries of all layers together, and directories that none describes; each takes about 400 bytes of memory while an image is merged."""

MAX_BYTES = 64 * 1024 * 1024
"""Bytes of the names, link targets and extended attributes of those, and of what layers say of all their entries (global records of
pax), which take memory beside that."""

_MAX_EXTENDED_HEADER = 1024 * 1024
_MAX_PATH = 4096
_MAX_NAME = 255
_MAX_FOLLOWED = 40
_RECORD_OVERHEAD = 128
"""Bytes of memory that an extended attribute, or a global record, takes beside its name and value."""
_XATTRS = tuple(b"SCHILY.xattr." + space for space in (b"security.", b"trusted.", b"user."))
"""The extended attributes that squashfs can hold; others (access control lists) are left out."""
_SPARSE = b"GNU.sparse."
"""How the keys begin of what says that an entry is sparse; that one of them is there is all that is kept."""
_RECORDS = frozenset({b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", _SPARSE})
"""The keys, beside extended attributes, of the extended headers' records that are looked at. A global one stays until its layer ends."""
_MAX_ID = 0xFFFFFFFF
_MAX_TIME = 0xFFFFFFFF
"""Squashfs keeps times in 32 bits."""
_BLOCK = 512
_CHUNK = 1024 * 1024
_PAGE = 64 * 1024
"""A multiple of the page of each architecture, and of the blocks of file systems."""
_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 1, 2
_libc = ctypes.CDLL(None)

FILE, HARD_LINK, SYMLINK, CHARACTER, DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
"""The kinds of entry, as tar's type flags."""

_KINDS = {FILE: "file", SYMLINK: "symbolic link", CHARACTER: "device", DEVICE: "device", DIRECTORY: "directory", FIFO: "FIFO"}
_WHITEOUT = b".wh."
_WHITEOUT_META = b".wh..wh."
_OPAQUE = b".wh..wh..opq"


class LayerError(RingfenceError):
    """A layer is damaged or holds what an image may not hold."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """One uncompressed layer: ``name`` for messages, ``descriptor`` of the open tar file, ``size`` in bytes.

    ``consumed`` if what has been written of it may be lost.
    """

    name: str
    descriptor: int
    size: int
    consumed: bool = False

    def error(self, entry: bytes, fault: str) -> LayerError:
        """What is wrong with which entry, safe to show on a terminal."""
        return LayerError(f"{self.name}, entry {ascii(entry[:200].decode('utf-8', 'replace'))}: {fault}")


@dataclasses.dataclass(slots=True, eq=False)
class Inode:
    """A file, directory or special file; names that are hard links of each other share one.

    ``mtime`` in whole seconds. ``linked`` marks a file with more than one name. ``layer`` and ``offset`` say
    where the ``size`` bytes of a file are. ``children`` belongs to directories.
    """

    kind: bytes
    mode: int
    uid: int
    gid: int
    mtime: int
    layer: Layer | None = None
    size: int = 0
    offset: int = 0
    target: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    linked: bool = False
    children: dict[bytes, Inode] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True)
class _Room:
    """What an image may take of the memory, and has taken: ``entries``, and ``octets`` of what is kept of them."""

    entries: int = 0
    octets: int = 0

    def take(self, layer: Layer, name: bytes, octets: int, entries: int = 1) -> None:
        """Count one entry, or one directory that the entry ``name`` needs; or ``octets`` alone."""
        self.entries += entries
        self.octets += octets
        if self.entries > MAX_ENTRIES:
            raise layer.error(name, f"the image has more entries and directories than the {MAX_ENTRIES} that are accepted")
        if self.octets > MAX_BYTES:
            raise layer.error(
                name,
                f"the image has more bytes of names, link targets and extended attributes than the {MAX_BYTES} that are accepted",
            )


def directory(layer: Layer | None = None) -> Inode:
    """A directory that no layer describes: root's, 0755, from the epoch."""
    return Inode(DIRECTORY, 0o755, 0, 0, 0, layer)


def uncompressed(blob: Path, scratch: Path, max_bytes: int) -> Path:
    """The layer ``blob`` as a plain tar file: itself, or ``scratch``, which is written then.

    :param max_bytes: how large the plain file may be.
    :raises LayerError: for another compression than gzip and zstd, damaged data, or more than ``max_bytes``.
    """
    with open(blob, "rb", buffering=0) as source:
        magic = source.read(4)
        source.seek(0)
        if magic[:2] == b"\x1f\x8b":
            chunks = _gunzip(blob.name, source.fileno())
        elif magic == b"\x28\xb5\x2f\xfd":
            chunks = _unzstd(blob.name, source.fileno())
        elif os.fstat(source.fileno()).st_size > max_bytes:
            raise _too_large(blob.name, max_bytes)
        else:
            return blob
        written = 0
        with contextlib.closing(chunks), open(scratch, "wb", buffering=0) as target:
            for chunk in chunks:
                written += len(chunk)
                if written > max_bytes:
                    raise _too_large(blob.name, max_bytes)
                target.write(chunk)
    return scratch


@contextlib.contextmanager
def merged(layers: Sequence[Path], *, consume: bool = False) -> Iterator[Inode]:
    """The root directory of plain tar files laid over each other, the lowest first; file contents can be read inside the context.

    :param consume: the files are of no use afterwards, so :func:`write_tar` gives their disk space back while it goes through them.
    :raises LayerError: naming layer and entry, for what is damaged, hostile, or beyond ``MAX_ENTRIES`` and ``MAX_BYTES``.
    """
    root = directory()
    room = _Room()
    with contextlib.ExitStack() as stack:
        for number, path in enumerate(layers, 1):
            # A file that is two of the layers may be read twice, and one with a second name is not ours alone.
            consumed = consume and layers.count(path) == 1 and path.stat().st_nlink == 1
            handle = stack.enter_context(open(path, "r+b" if consumed else "rb", buffering=0))
            layer = Layer(f"layer {number} of {len(layers)}", handle.fileno(), os.fstat(handle.fileno()).st_size, consumed)
            _apply(root, layer, room)
        yield root


def read_file(root: Inode, path: str, max_bytes: int) -> bytes | None:
    """The content of a file of the tree, symbolic links followed inside it; ``None`` if there is no such file.

    :raises LayerError: if it has more than ``max_bytes``.
    """
    node = _lookup(root, path.encode())
    if node is None or node.kind != FILE or node.layer is None:
        return None
    if node.size > max_bytes:
        raise node.layer.error(path.encode(), f"has {node.size} bytes; at most {max_bytes} are accepted")
    return os.pread(node.layer.descriptor, node.size, node.offset)


def copy_file(root: Inode, path: str, to: Path) -> bool:
    """Copy a file of the tree, symbolic links followed inside it, to the new file ``to``; whether there is such a file."""
    node = _lookup(root, path.encode())
    if node is None or node.kind != FILE or node.layer is None:
        return False
    with open(to, "xb", buffering=0) as target:
        _copy(node.layer.descriptor, node.offset, node.size, target.fileno())
    return True


def names(root: Inode, path: str) -> list[str]:
    """What is in a directory of the tree, symbolic links followed inside it, in order; nothing if there is no such directory."""
    node = _lookup(root, path.encode())
    return sorted(name.decode("utf-8", "replace") for name in node.children) if node is not None else []


def walk(root: Inode) -> Iterator[tuple[bytes, Inode]]:
    """All names of the tree with their inodes: ``./`` for the root, directories before what is in them, names in order."""
    yield b"./", root
    # Only names on the way to the present one are held: a directory may have many, and each be long.
    pending = [(b"", root, iter(sorted(root.children)))]
    while pending:
        prefix, parent, names_left = pending[-1]
        last = next(names_left, None)
        if last is None:
            pending.pop()
            continue
        node = parent.children[last]
        yield prefix + last, node
        if node.children:
            pending.append((prefix + last + b"/", node, iter(sorted(node.children))))


def write_tar(root: Inode, out: int) -> None:
    """Write the tree as a tar stream to the descriptor ``out``. Of a tree of layers that are consumed, this can be done once.

    :raises LayerError: if more than ``MAX_BYTES`` of names would have to be kept, for hard links to them.
    """
    buffer = bytearray()
    first_name: dict[int, bytes] = {}
    kept = 0
    for name, node in walk(root):
        if node.linked and node.kind == FILE:
            earlier = first_name.setdefault(id(node), name)
            if earlier is not name:
                buffer += _headers(name, node, HARD_LINK, earlier)
                continue
            kept += len(name)
            if kept > MAX_BYTES:
                raise LayerError(f"the image has hard links to files whose names have more than {MAX_BYTES} bytes together")
        buffer += _headers(name, node, node.kind, node.target)
        if node.size and node.layer is not None:
            if node.size <= _CHUNK:
                buffer += os.pread(node.layer.descriptor, node.size, node.offset)
            else:
                _write(out, buffer)
                buffer.clear()
                _copy(node.layer.descriptor, node.offset, node.size, out)
            if node.layer.consumed:
                _free(node.layer.descriptor, node.offset, node.size)
            buffer += bytes(-node.size % _BLOCK)
        if len(buffer) >= _CHUNK:
            _write(out, buffer)
            buffer.clear()
    _write(out, buffer + bytes(2 * _BLOCK))


def _too_large(name: str, max_bytes: int) -> LayerError:
    return LayerError(
        f"layer {name} unpacks to more than {max_bytes} bytes, all that the free disk allows the layers of its image; make room"
    )


def _gunzip(name: str, source: int) -> Generator[bytes, None, None]:
    """The decompressed members of a gzip file; zlib directly, for ``gzip`` copies each chunk once more, in small pieces."""
    decoder = zlib.decompressobj(wbits=31)
    pending = b""
    try:
        while data := pending or os.read(source, _CHUNK // 4):
            if decoder.eof:
                if not data.strip(b"\0"):  # padding after the last member
                    pending = b""
                    continue
                decoder = zlib.decompressobj(wbits=31)
            yield decoder.decompress(data, _CHUNK)
            pending = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
    except zlib.error as error:
        raise LayerError(f"layer {name}: its gzip data is damaged: {error}") from error
    if not decoder.eof:
        raise LayerError(f"layer {name}: its gzip data ends too early")


def _unzstd(name: str, source: int) -> Generator[bytes, None, None]:
    try:
        process = subprocess.Popen(["zstd", "-dcq"], stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    except FileNotFoundError as error:
        raise LayerError(f"layer {name} is compressed with zstd, and the program zstd is not here; install the package zstd") from error
    with process:
        try:
            while chunk := os.read(process.stdout.fileno(), _CHUNK) if process.stdout else b"":
                yield chunk
        except GeneratorExit:
            process.kill()
            raise
        said = process.stderr.read().decode("utf-8", "replace").strip() if process.stderr else ""
        if process.wait():
            raise LayerError(f"layer {name}: its zstd data is damaged: {said}")


def _apply(root: Inode, layer: Layer, room: _Room) -> None:
    """Lay one layer over the tree."""
    whiteouts: list[tuple[bytes, list[bytes]]] = []
    entries: list[tuple[bytes, Inode]] = []
    for name, node in _read_headers(layer, room):
        room.take(layer, name, len(name) + len(node.target) + _octets(node.xattrs))
        parts = _split(layer, name, name) if _WHITEOUT in name else []
        if not any(part.startswith(_WHITEOUT) for part in parts):
            entries.append((name, node))
        elif not any(part.startswith(_WHITEOUT) for part in parts[:-1]):
            whiteouts.append((name, parts))
        elif not any(part.startswith(_WHITEOUT_META) for part in parts[:-1]):
            raise layer.error(name, "a whiteout is not a directory")
    # A whiteout hides what is in the layers below, never what is in its own, wherever it stands there.
    for name, (*parents, last) in whiteouts:
        if last[len(_WHITEOUT) :] in (b"", b".", b".."):
            raise layer.error(name, "the whiteout names no entry")
        hidden_from = _descend(root, parents, name, layer)
        if hidden_from is not None and last == _OPAQUE:
            hidden_from.children.clear()
        elif hidden_from is not None and not last.startswith(_WHITEOUT_META):
            hidden_from.children.pop(last[len(_WHITEOUT) :], None)
    last_parents: list[bytes] | None = None
    parent = root
    for name, node in entries:
        parts = _split(layer, name, name)
        if not parts:
            if node.kind != DIRECTORY:
                raise layer.error(name, "the root of an image is a directory")
            _take_attributes(root, node)
            continue
        last = parts.pop()
        if parts != last_parents:
            parent, last_parents = _make_directory(root, parts, name, layer, room), parts
        if node.kind == HARD_LINK:
            node = _linked(root, name, node, layer)
        _put(parent, last, name, node, layer)


def _put(parent: Inode, last: bytes, name: bytes, node: Inode, layer: Layer) -> None:
    present = parent.children.get(last)
    if present is not None and present.kind == DIRECTORY:
        if node.kind == DIRECTORY:
            _take_attributes(present, node)
            return
        if present.layer is layer:
            raise layer.error(name, f"is a directory and a {_KINDS[node.kind]} in the same layer")
    parent.children[last] = node


def _take_attributes(present: Inode, node: Inode) -> None:
    present.mode, present.uid, present.gid, present.mtime = node.mode, node.uid, node.gid, node.mtime
    present.xattrs, present.layer = node.xattrs, node.layer


def _linked(root: Inode, name: bytes, node: Inode, layer: Layer) -> Inode:
    """The inode that the hard link ``name`` is to share."""
    *parents, last = _split(layer, name, node.target) or [b"."]
    parent = _descend(root, parents, name, layer)
    target = parent.children.get(last) if parent is not None else None
    shown = ascii(node.target[:200].decode("utf-8", "replace"))
    if target is None:
        raise layer.error(name, f"is a hard link to {shown}, which is not in the image")
    if target.kind == DIRECTORY:
        raise layer.error(name, f"is a hard link to {shown}, which is a directory")
    target.linked = True
    return target


def _split(layer: Layer, entry: bytes, path: bytes) -> list[bytes]:
    parts = [part for part in path.split(b"/") if part and part != b"."]
    if b".." in parts or b"\0" in path:
        raise layer.error(entry, "'..' and NUL are not accepted in names" if path is entry else "is a link to a name with '..' or NUL")
    if len(path) > _MAX_PATH or (len(path) > _MAX_NAME and any(len(part) > _MAX_NAME for part in parts)):
        raise layer.error(entry, f"its name is longer than {_MAX_NAME} bytes, or its path than {_MAX_PATH}")
    return parts


def _make_directory(root: Inode, parts: list[bytes], name: bytes, layer: Layer, room: _Room) -> Inode:
    made = _descend(root, parts, name, layer, room)
    return made if made is not None else root


def _lookup(root: Inode, path: bytes) -> Inode | None:
    """The inode at ``path``, with symbolic links followed inside the tree."""
    for _attempt in range(_MAX_FOLLOWED):
        *parents, last = [part for part in path.split(b"/") if part and part != b"."] or [b"."]
        parent = _descend(root, parents, path, None)
        node = parent.children.get(last) if parent is not None else None
        if node is None or node.kind != SYMLINK:
            return node
        path = node.target if node.target.startswith(b"/") else b"/".join([*parents, node.target])
    return None


def _descend(root: Inode, parts: list[bytes], name: bytes, layer: Layer | None, room: _Room | None = None) -> Inode | None:
    """The directory at ``parts``; made where it is missing if there is ``room``, else ``None`` if there is none.

    Symbolic links of lower layers are followed inside the tree, as containerd does it (a layer with ``lib/x`` over a base where
    ``lib`` leads to ``usr/lib``); what passes through a link or file of its own layer is refused.
    """
    trail = [(root, 0)]
    pending = parts[::-1]
    followed = 0
    while pending:
        part = pending.pop()
        if part == b"..":
            if len(trail) > 1:
                trail.pop()
            continue
        parent, length = trail[-1]
        node = parent.children.get(part)
        if node is not None and node.kind != DIRECTORY and layer is not None and node.layer is layer:
            raise layer.error(name, f"passes through a {_KINDS[node.kind]} of the same layer, {ascii(part.decode('utf-8', 'replace'))}")
        if node is not None and node.kind == SYMLINK:
            followed += 1
            if followed > _MAX_FOLLOWED:
                if layer is None:
                    return None
                raise layer.error(name, f"passes through more than {_MAX_FOLLOWED} symbolic links")
            if node.target.startswith(b"/"):
                del trail[1:]
            pending.extend(step for step in reversed(node.target.split(b"/")) if step and step != b".")
            continue
        if node is None or node.kind != DIRECTORY:
            if room is None or layer is None:
                return None
            room.take(layer, name, len(part))
            node = parent.children[part] = directory(layer)
        elif room is not None:
            node.layer = layer
        length += len(part) + 1
        if room is not None and layer is not None and length > _MAX_PATH:
            raise layer.error(name, f"lies too deep: its directory's path, symbolic links followed, is longer than {_MAX_PATH} bytes")
        trail.append((node, length))
    return trail[-1][0]


def _octets(records: Iterable[tuple[bytes, bytes]]) -> int:
    return sum(len(key) + len(value) + _RECORD_OVERHEAD for key, value in records)


def _read_headers(layer: Layer, room: _Room) -> Iterator[tuple[bytes, Inode]]:
    """The entries of a tar file (ustar, GNU and pax headers), each with its full name.

    :param room: counts the global records, which are kept for all entries that follow.
    """
    offset = 0
    common: dict[bytes, bytes] = {}
    own: dict[bytes, bytes] = {}
    extended = 0
    while True:
        block = os.pread(layer.descriptor, _BLOCK, offset)
        if not block.strip(b"\0"):
            # The end: two zero blocks, or none at all, as some builders write it.
            if len(block) not in (0, _BLOCK) or own:
                raise layer.error(b"", "the layer ends in the middle of an entry")
            return
        name = block[:100].partition(b"\0")[0]
        if len(block) < _BLOCK:
            raise layer.error(name, "the layer ends in the middle of a header")
        if sum(block) - sum(block[148:156]) + 256 != _number(layer, name, block[148:156]):
            raise layer.error(name, f"its header at byte {offset} is damaged (checksum)")
        kind = block[156:157]
        offset += _BLOCK
        size = _number(layer, name, block[124:136])
        if kind in b"xgLK":
            extended += size
            if extended > _MAX_EXTENDED_HEADER:
                raise layer.error(name, f"an extended header of {extended} bytes; at most {_MAX_EXTENDED_HEADER} are accepted for an entry")
            content = os.pread(layer.descriptor, size, offset)
            offset += size + -size % _BLOCK
            if kind == b"L":
                own[b"path"] = content.partition(b"\0")[0]
            elif kind == b"K":
                own[b"linkpath"] = content.partition(b"\0")[0]
            elif kind == b"x":
                own.update(_pax(layer, name, content))
            else:
                records = _pax(layer, name, content)
                room.take(layer, name, _octets(records.items()), entries=0)
                common.update(records)
            continue
        if block[257:263] == b"ustar\0" and block[345]:
            name = block[345:500].partition(b"\0")[0] + b"/" + name
        extra = {**common, **own} if common else own
        own, extended = {}, 0
        if b"path" in extra:
            name = extra[b"path"]
        if b"size" in extra:
            size = _decimal(layer, name, extra[b"size"])
        if kind in (b"0", b"\0", b"7"):
            kind = DIRECTORY if name.endswith(b"/") else FILE
        elif kind not in (HARD_LINK, SYMLINK, CHARACTER, DEVICE, DIRECTORY, FIFO):
            raise layer.error(name, f"entries of type {ascii(kind.decode('latin-1'))} are not accepted")
        node = Inode(
            kind,
            _number(layer, name, block[100:108]) & 0o7777,
            _decimal(layer, name, extra[b"uid"]) if b"uid" in extra else _number(layer, name, block[108:116]),
            _decimal(layer, name, extra[b"gid"]) if b"gid" in extra else _number(layer, name, block[116:124]),
            _mtime(layer, name, extra.get(b"mtime"), block[136:148]),
            layer,
        )
        if node.uid > _MAX_ID or node.gid > _MAX_ID:
            raise layer.error(name, f"owner {node.uid}:{node.gid}; ids up to {_MAX_ID} are accepted")
        if kind == FILE:
            node.size, node.offset = size, offset
            offset += size + -size % _BLOCK
            if node.offset + size > layer.size:
                raise layer.error(name, "the layer ends in the middle of this file")
        elif kind in (HARD_LINK, SYMLINK):
            node.target = extra.get(b"linkpath") or block[157:257].partition(b"\0")[0]
            if kind == SYMLINK and not 0 < len(node.target) < _MAX_PATH:
                raise layer.error(name, f"its link target has {len(node.target)} bytes; 1 to {_MAX_PATH - 1} are accepted")
        elif kind in (CHARACTER, DEVICE):
            node.major, node.minor = _number(layer, name, block[329:337]), _number(layer, name, block[337:345])
        if extra:
            node.xattrs = tuple(sorted((key, value) for key, value in extra.items() if key.startswith(_XATTRS)))
            if _SPARSE in extra:
                raise layer.error(name, "sparse entries are not accepted")
        yield name, node


def _pax(layer: Layer, name: bytes, content: bytes) -> dict[bytes, bytes]:
    """Those of an extended header's records that are looked at: ``LENGTH KEY=VALUE`` and a line feed each."""
    records = {}
    position = 0
    while position < len(content):
        digits, space, _rest = content[position : position + 12].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        key, equals, value = content[position + len(digits) + 1 : position + length - 1].partition(b"=")
        if not equals or content[position + length - 1 : position + length] != b"\n":
            raise layer.error(name, "its extended header is damaged")
        if key.startswith(_SPARSE):
            key, value = _SPARSE, b""
        if key in _RECORDS or key.startswith(_XATTRS):
            records[key] = value
        position += length
    return records


def _number(layer: Layer, name: bytes, field: bytes) -> int:
    """A header's number: octal digits, or binary (GNU), as it is used for large values."""
    try:
        if field[0] == 0x80:
            return int.from_bytes(field[1:], "big")
        number = int(field.strip(b" \0") or b"0", 8)
        if number < 0:
            raise ValueError("a header's number is not negative")
        return number
    except ValueError as error:
        raise layer.error(name, f"its header has the number {ascii(field.decode('latin-1'))}") from error


def _decimal(layer: Layer, name: bytes, text: bytes) -> int:
    if not text.isdigit() or len(text) > 18:
        raise layer.error(name, f"its extended header has the number {ascii(text[:40].decode('latin-1'))}")
    return int(text)


def _mtime(layer: Layer, name: bytes, extended: bytes | None, field: bytes) -> int:
    """Whole seconds, from the epoch on: times before it (which builders write for "none") become the epoch."""
    if extended is not None:
        text = extended.partition(b".")[0]
        seconds = 0 if text.startswith(b"-") else _decimal(layer, name, text)
    else:
        seconds = 0 if field[0] == 0xFF else _number(layer, name, field)
    return min(seconds, _MAX_TIME)


def _headers(name: bytes, node: Inode, kind: bytes, target: bytes) -> bytes:
    """The tar header of an entry, with a pax header before it where ustar has no room."""
    size = node.size if kind == FILE else 0
    xattrs = node.xattrs if kind != HARD_LINK else ()
    records = []
    for key, value in ((b"path", name), (b"linkpath", target)):
        if len(value) > 100:
            records.append((key, value))
    for key, number, most in ((b"uid", node.uid, 0o7777777), (b"gid", node.gid, 0o7777777), (b"size", size, 0o77777777777)):
        if number > most:
            records.append((key, b"%d" % number))
    records.extend(xattrs)
    header = _ustar(
        name[:100],
        node.mode,
        node.uid & 0o7777777,
        node.gid & 0o7777777,
        size & 0o77777777777,
        node.mtime,
        kind,
        target[:100],
        node.major,
        node.minor,
    )
    if not records:
        return header
    content = b"".join(_record(key, value) for key, value in records)
    return _ustar(b"pax", 0o644, 0, 0, len(content), 0, b"x", b"", 0, 0) + content + bytes(-len(content) % _BLOCK) + header


def _ustar(name: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, kind: bytes, target: bytes, major: int, minor: int) -> bytes:
    header = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0        %s%sustar\00000%s%07o\0%07o\0%s" % (
        name.ljust(100, b"\0"),
        mode,
        uid,
        gid,
        size,
        mtime,
        kind,
        target.ljust(100, b"\0"),
        bytes(64),
        major & 0o7777777,
        minor & 0o7777777,
        bytes(167),
    )
    return b"%s%06o\0 %s" % (header[:148], sum(header), header[156:])


def _record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    total = length + len(str(length))
    total = length + len(str(total))
    return b"%d %s=%s\n" % (total, key, value)


def _write(out: int, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(out, view) :]


def _copy(source: int, offset: int, size: int, out: int) -> None:
    while size:
        sent = os.sendfile(out, source, offset, size)
        if not sent:
            raise LayerError("a layer became shorter while it was read")
        offset += sent
        size -= sent


def _free(descriptor: int, offset: int, size: int) -> None:
    """Give back the disk space of a part of a file; of whole pages, so that nothing is changed which a pipe still refers to."""
    first = offset + -offset % _PAGE
    octets = (offset + size - first) // _PAGE * _PAGE
    if octets > 0:
        # A file system that cannot do it refuses, and keeps the space until the file is deleted.
        _libc.fallocate(descriptor, _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE, ctypes.c_longlong(first), ctypes.c_longlong(octets))
