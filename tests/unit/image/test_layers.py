# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Layers are merged as the OCI image specification says, and hostile ones are refused by name."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.image import layers

Entry = tuple[str, bytes, str | bytes, dict[str, str]]
"""Name, tar type, link target or content, pax headers."""


def f(name: str, content: str = "", **pax: str) -> Entry:
    return (name, tarfile.REGTYPE, content.encode(), pax)


def d(name: str) -> Entry:
    return (name, tarfile.DIRTYPE, "", {})


def s(name: str, target: str) -> Entry:
    return (name, tarfile.SYMTYPE, target, {})


def h(name: str, target: str) -> Entry:
    return (name, tarfile.LNKTYPE, target, {})


def special(name: str, kind: bytes) -> Entry:
    return (name, kind, "", {})


def tar(entries: list[Entry], kind: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for name, entry_type, rest, pax in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mtime, info.uid, info.gid, info.pax_headers = entry_type, 1234567890, 33, 44, pax
            info.mode = 0o750 if entry_type == tarfile.DIRTYPE else 0o4751
            info.devmajor, info.devminor = (5, 1) if entry_type in (tarfile.CHRTYPE, tarfile.BLKTYPE) else (0, 0)
            if isinstance(rest, bytes):
                info.size = len(rest)
                archive.addfile(info, io.BytesIO(rest))
            else:
                info.linkname = rest
                archive.addfile(info)
    return buffer.getvalue()


def merge(tmp_path: Path, stack: list[bytes], **limits: int) -> bytes:
    """What a stack of layers is merged to.

    :param limits: the library's constants, if others than its own.
    """
    paths = []
    for number, content in enumerate(stack):
        paths.append(tmp_path / f"layer{number}")
        paths[-1].write_bytes(content)
    with pytest.MonkeyPatch.context() as patched, open(tmp_path / "merged", "wb") as out:
        for name, limit in limits.items():
            patched.setattr(layers, name, limit)
        with layers.merged(paths) as root:
            layers.write_tar(root, out.fileno())
    return (tmp_path / "merged").read_bytes()


def shown(content: bytes) -> dict[str, str]:
    """What GNU-compatible readers see: name to content, ``-> target`` or type; hard links show the content they share."""
    result = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for info in archive:
            if info.isreg() or info.islnk():
                data = archive.extractfile(info)
                text = data.read().decode() if data else "?"
                result[info.name] = f"= {text}" if info.islnk() else text
            else:
                result[info.name] = (
                    f"-> {info.linkname}" if info.issym() else {"5": "/", "6": "fifo", "3": "chr", "4": "blk"}[info.type.decode()]
                )
    assert result.pop(".") == "/"
    return result


LONG = "d" * 200 + "/" + "n" * 150

MERGES: dict[str, tuple[list[list[Entry]], dict[str, str]]] = {
    "no entry": ([[]], {}),
    "one layer": ([[d("a"), f("a/b", "1"), s("c", "a/b")]], {"a": "/", "a/b": "1", "c": "-> a/b"}),
    "names are normalised": ([[d("./"), d("./a/"), f("./a//b", "1"), f("/abs", "2")]], {"a": "/", "a/b": "1", "abs": "2"}),
    "missing parents are made": ([[f("a/b/c", "1")]], {"a": "/", "a/b": "/", "a/b/c": "1"}),
    "upper file wins": ([[f("a", "old")], [f("a", "new")]], {"a": "new"}),
    "last of the same name wins": ([[f("a", "old"), f("a", "new")]], {"a": "new"}),
    "directories merge": ([[d("a"), f("a/1", "x")], [d("a"), f("a/2", "y")]], {"a": "/", "a/1": "x", "a/2": "y"}),
    "file over directory": ([[d("a"), f("a/1", "x")], [f("a", "now a file")]], {"a": "now a file"}),
    "directory over file": ([[f("a", "x")], [d("a"), f("a/1", "y")]], {"a": "/", "a/1": "y"}),
    "parent over file of a lower layer": ([[f("a", "x")], [f("a/1", "y")]], {"a": "/", "a/1": "y"}),
    "directory over symbolic link": ([[d("r"), s("a", "r")], [d("a"), f("a/1", "y")]], {"r": "/", "a": "/", "a/1": "y"}),
    "through a symbolic link of a lower layer": (
        [[d("usr"), d("usr/lib"), s("lib", "usr/lib")], [f("lib/x", "1")]],
        {"usr": "/", "usr/lib": "/", "usr/lib/x": "1", "lib": "-> usr/lib"},
    ),
    "a symbolic link cannot lead out": (
        [[s("out", "../../../../etc"), s("abs", "/var/x")], [f("out/passwd", "1"), f("abs/y", "2")]],
        {"out": "-> ../../../../etc", "abs": "-> /var/x", "etc": "/", "etc/passwd": "1", "var": "/", "var/x": "/", "var/x/y": "2"},
    ),
    "whiteout of a file": ([[f("a", "1"), f("b", "2")], [f(".wh.a")]], {"b": "2"}),
    "whiteout of a directory": ([[d("a"), f("a/b/c", "1")], [f(".wh.a")]], {}),
    "whiteout of nothing": ([[f("a", "1")], [f("x/.wh.y"), f(".wh.z")]], {"a": "1"}),
    "whiteout spares its own layer, before": ([[f("a", "old")], [f("a", "new"), f(".wh.a")]], {"a": "new"}),
    "whiteout spares its own layer, after": ([[f("a", "old")], [f(".wh.a"), f("a", "new")]], {"a": "new"}),
    "whiteout in the lowest layer": ([[f(".wh.a"), f("a", "1")]], {"a": "1"}),
    "opaque directory": ([[d("a"), f("a/1", "x"), f("a/s/2", "y")], [d("a"), f("a/.wh..wh..opq")]], {"a": "/"}),
    "opaque directory spares its own layer": (
        [[f("a/1", "x"), f("a/2", "y")], [f("a/2", "new"), f("a/.wh..wh..opq"), f("a/3", "z")]],
        {"a": "/", "a/2": "new", "a/3": "z"},
    ),
    "opaque directory of nothing": ([[f("b", "1")], [f("a/.wh..wh..opq")]], {"b": "1"}),
    "deleted, then back": ([[f("a", "1")], [f(".wh.a")], [f("a", "3")]], {"a": "3"}),
    "whiteout through a symbolic link": (
        [[f("usr/lib/x", "1"), s("lib", "usr/lib")], [f("lib/.wh.x")]],
        {"usr": "/", "usr/lib": "/", "lib": "-> usr/lib"},
    ),
    "bookkeeping of AUFS is left out": ([[f(".wh..wh.aufs"), f(".wh..wh.plnk/1.2", "x"), f("a", "1")]], {"a": "1"}),
    "hard link": ([[f("a", "1"), h("b", "a")]], {"a": "1", "b": "= 1"}),
    "hard link with another spelling": ([[f("d/a", "1"), h("b", "/./d//a")]], {"b": "1", "d": "/", "d/a": "= 1"}),
    "hard link survives an overridden target": ([[f("a", "old"), h("b", "a")], [f("a", "new")]], {"a": "new", "b": "old"}),
    "hard link survives a deleted target": ([[f("a", "old"), h("b", "a"), h("c", "a")], [f(".wh.a")]], {"b": "old", "c": "= old"}),
    "hard link survives a deleted directory": ([[f("x/a", "old"), h("b", "x/a")], [f(".wh.x")]], {"b": "old"}),
    "hard link into a lower layer": ([[f("a", "1")], [h("b", "a")]], {"a": "1", "b": "= 1"}),
    "hard link into a lower layer, then overridden": ([[f("a", "1")], [h("b", "a")], [f("a", "3")]], {"a": "3", "b": "1"}),
    "hard link to a symbolic link": ([[s("a", "x"), h("b", "a")]], {"a": "-> x", "b": "-> x"}),
    "special files": (
        [[special("c", tarfile.CHRTYPE), special("b", tarfile.BLKTYPE), special("p", tarfile.FIFOTYPE)]],
        {"b": "blk", "c": "chr", "p": "fifo"},
    ),
    "long names": ([[f(LONG, "1"), s("l", LONG), h("h", LONG)]], {"d" * 200: "/", LONG: "1", "h": "= 1", "l": f"-> {LONG}"}),
    "names that are not ASCII": ([[f("grün/☃", "1")]], {"grün": "/", "grün/☃": "1"}),
    "names that only look like a whiteout": ([[f("a.wh.b", "1"), f(".wha", "2")]], {".wha": "2", "a.wh.b": "1"}),
}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
@pytest.mark.parametrize("case", MERGES)
def test_merge(case: str, form: int, tmp_path: Path) -> None:
    stack, expected = MERGES[case]
    assert shown(merge(tmp_path, [tar(entries, form) for entries in stack])) == expected


def header(name: bytes = b"a", size: bytes = b"00000000000\0", kind: bytes = b"0") -> bytes:
    block = bytearray(tarfile.TarInfo("a").tobuf(tarfile.USTAR_FORMAT))
    block[0:100], block[124:136], block[156:157] = name.ljust(100, b"\0"), size, kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


REFUSED: dict[str, tuple[list[list[Entry]] | bytes, str]] = {
    "..": ([[f("../x", "1")]], r"entry '\.\./x': '\.\.' and NUL are not accepted"),
    ".. in the middle": ([[f("a/../../x", "1")]], r"'\.\.' and NUL"),
    ".. at the end": ([[d("a/..")]], r"'\.\.' and NUL"),
    "absolute ..": ([[f("/../x", "1")]], r"'\.\.' and NUL"),
    "upper layer is named": ([[f("ok")], [f("../x", "1")]], r"layer 2 of 2, entry"),
    "through a symbolic link": ([[s("a", "/etc"), f("a/b", "1")]], r"entry 'a/b': passes through a symbolic link of the same layer, 'a'"),
    "through a file": ([[f("a", "x"), f("a/b", "1")]], r"passes through a file of the same layer"),
    "through a FIFO": ([[special("a", tarfile.FIFOTYPE), f("a/b", "1")]], r"passes through a FIFO of the same layer"),
    "file over its own directory": ([[f("a/b", "1"), f("a", "x")]], r"is a directory and a file in the same layer"),
    "link over its own directory": ([[d("a"), s("a", "/etc")]], r"is a directory and a symbolic link in the same layer"),
    "link over a directory that its layer fills": ([[d("a")], [f("a/b", "1"), s("a", "/etc")]], r"is a directory and a symbolic link"),
    "symbolic links in a circle": ([[s("a", "b"), s("b", "a")], [f("a/x", "1")]], r"more than 40 symbolic links"),
    "hard link outside": ([[h("a", "../../etc/shadow")]], r"is a link to a name with '\.\.'"),
    "hard link to nothing": ([[h("a", "/etc/shadow")]], r"hard link to '/etc/shadow', which is not in the image"),
    "hard link to a directory": ([[d("d"), h("a", "d")]], r"hard link to 'd', which is a directory"),
    "hard link to the root": ([[h("a", "/")]], r"which is not in the image"),
    "hard link through a symbolic link": ([[f("d/x", "1"), s("l", "d"), h("a", "l/x")]], r"passes through a symbolic link"),
    "hard link to a deleted file": ([[f("x", "1")], [f(".wh.x"), h("a", "x")]], r"which is not in the image"),
    "whiteout of ..": ([[f("a/.wh...")]], r"the whiteout names no entry"),
    "whiteout of .": ([[f("a/b")], [f("a/.wh..")]], r"the whiteout names no entry"),
    "whiteout of nothing": ([[f("a/b")], [f("a/.wh.")]], r"the whiteout names no entry"),
    "whiteout as a directory": ([[f(".wh.a/b")]], r"a whiteout is not a directory"),
    "root that is a file": ([[f("./.", "x")]], r"the root of an image is a directory"),
    "long name": ([[f("n" * 256)]], r"longer than 255"),
    "long path": ([[f("/".join(["n" * 200] * 21))]], r"or its path than 4096"),
    "sparse, new": ([[f("a", "1", **{"GNU.sparse.major": "1"})]], r"sparse entries"),
    "sparse, old": (header(kind=b"S"), r"entries of type 'S' are not accepted"),
    "unknown type": (header(kind=b"Z"), r"entries of type 'Z' are not accepted"),
    "terminal escape": ([[f("\x1b[2J/../x")]], r"entry '\\x1b\[2J/\.\./x'"),
    "negative size": (header(size=b"\xff" * 12), r"the number '\\xff"),
    "negative size in octal": (header(size=b"-0000001000\0"), r"the number '-0000001000"),
    "size that is no number": (header(size=b"zzz\0".ljust(12, b"\0")), r"the number 'zzz"),
    "file beyond the layer": (header(size=b"00000001000\0"), r"ends in the middle of this file"),
    "size of 2^90": (header(size=b"\x80" + b"\xff" * 11), r"ends in the middle of this file"),
    "huge extended header": (header(size=b"77777777777\0", kind=b"x"), r"extended header of 8589934591 bytes"),
    "huge long name": (header(size=b"77777777777\0", kind=b"L"), r"extended header of 8589934591 bytes"),
    "extended headers in a row": (
        b"".join((header(size=b"00002000000\0", kind=b"L") + bytes(0o2000000)) for _number in range(3)),
        r"extended header of 1572864 bytes; at most 1048576 are accepted for an entry",
    ),
    "broken extended header": (
        header(size=b"00000000010\0", kind=b"x") + b"99 a=b\nx".ljust(512, b"\0"),
        r"its extended header is damaged",
    ),
    "long name of nothing": (header(size=b"00000000004\0", kind=b"L") + b"name".ljust(512, b"\0"), r"ends in the middle of an entry"),
    "wrong checksum": (header()[:-1] + b"x", r"its header at byte 0 is damaged \(checksum\)"),
    "garbage after an entry": (header() + b"x" * 512, r"its header has the number 'xxxxxxxx'"),
    "cut header": (header() + header(b"b")[:300], r"entry 'b': the layer ends in the middle of a header"),
    "owner": ([[f("a", "1", uid="4294967296")]], r"owner 4294967296:44"),
    "owner that is no number": ([[f("a", "1", uid="-1")]], r"the number '-1'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    stack, message = REFUSED[case]
    with pytest.raises(layers.LayerError, match=message):
        merge(tmp_path, [stack] if isinstance(stack, bytes) else [tar(entries) for entries in stack])


def test_too_many_entries(tmp_path: Path) -> None:
    stack = [tar([f("a"), f("b")]), tar([f("c")])]
    assert shown(merge(tmp_path, stack, MAX_ENTRIES=3)) == {"a": "", "b": "", "c": ""}
    with pytest.raises(layers.LayerError, match="layer 2 of 2, entry 'c': the image has more entries and directories than the 2"):
        merge(tmp_path, stack, MAX_ENTRIES=2)


def test_directories_that_no_entry_describes_count(tmp_path: Path) -> None:
    stack = [tar([f("a/b/c"), f("a/b/d")])]
    assert set(shown(merge(tmp_path, stack, MAX_ENTRIES=4))) == {"a", "a/b", "a/b/c", "a/b/d"}
    with pytest.raises(layers.LayerError, match="entry 'a/b/c': the image has more entries and directories than the 3"):
        merge(tmp_path, stack, MAX_ENTRIES=3)


def pax(*records: bytes, kind: bytes = b"g") -> bytes:
    """A pax header with records of all entries that follow, or of the next one (``x``)."""
    content = b"".join(layers._record(*record.split(b"=", 1)) for record in records)
    return header(size=b"%011o\0" % len(content), kind=kind) + content + bytes(-len(content) % 512)


XATTR = "SCHILY.xattr.user.x"

LARGE: dict[str, list[bytes]] = {
    "names": [tar([f(f"{number}" + "n" * 90) for number in range(12)])],
    "link targets": [tar([s(f"{number}", "t" * 90) for number in range(12)])],
    "extended attributes": [tar([f("a", "", **{XATTR: "v" * 2000})])],
    "many small extended attributes": [tar([f("a", "", **{f"{XATTR}{number}": "" for number in range(10)})])],
    "extended attributes of all entries": [pax(f"{XATTR}=".encode().ljust(96, b"v")) + tar([*map(f, "abcdefgh")])],
    "global records": [pax(b"linkpath=" + b"t" * 2000) + tar([f("a")])],
    "global records that replace each other": [b"".join(pax(b"uid=%d" % number) for number in range(10)) + tar([f("a")])],
    "names of directories that links lead to": [
        tar([d("a"), *(s(f"a/{number}", f"/to/{number}" + "n" * 80) for number in range(8))]),
        tar([f(f"a/{number}/x") for number in range(8)]),
    ],
}


@pytest.mark.parametrize("case", LARGE)
def test_what_is_kept_of_entries_is_bounded(case: str, tmp_path: Path) -> None:
    merge(tmp_path, LARGE[case], MAX_BYTES=3000)
    with pytest.raises(layers.LayerError, match="more bytes of names, link targets and extended attributes than the 1000"):
        merge(tmp_path, LARGE[case], MAX_BYTES=1000)


def test_global_records_that_nothing_looks_at_are_not_kept(tmp_path: Path) -> None:
    assert shown(merge(tmp_path, [pax(b"comment=" + b"c" * 20) + tar([f("a", "1")])], MAX_BYTES=1)) == {"a": "1"}


@pytest.mark.parametrize("kind", [b"g", b"x"], ids=["global", "local"])
def test_records_whose_keys_only_begin_like_known_ones_are_not_kept(kind: bytes, tmp_path: Path) -> None:
    """Each has some bytes, and would take a hundred and more of memory."""
    many = [pax(*(b"uid%d=" % number for number in range(first, first + 20_000)), kind=kind) for first in range(0, 60_000, 20_000)]
    (tmp_path / "many").write_bytes(b"".join(part + header(name=b"%d" % number) for number, part in enumerate(many)))
    tracemalloc.start()
    try:
        with layers.merged([tmp_path / "many"]) as root:
            assert len(root.children) == len(many)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_names_that_are_kept_for_hard_links_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = [tar([f("n" * 90), h("o" * 90, "n" * 90)])]
    merge(tmp_path, stack)
    with layers.merged([tmp_path / "layer0"]) as root, open(tmp_path / "bounded", "wb") as out:
        monkeypatch.setattr(layers, "MAX_BYTES", 80)
        with pytest.raises(layers.LayerError, match="hard links to files whose names have more than 80 bytes"):
            layers.write_tar(root, out.fileno())


def test_a_path_through_links_is_bounded(tmp_path: Path) -> None:
    """Each link leads to the directory that the one before has led to, 4000 bytes further down."""
    deep = "/".join(["n" * 199] * 20)
    stack = [tar([f(f"{deep}/x"), s("s", deep)]), tar([f(f"s/{deep}/x")])]
    with pytest.raises(layers.LayerError, match="lies too deep: its directory's path, symbolic links followed, is longer than 4096 bytes"):
        merge(tmp_path, stack)


def test_attributes_are_kept(tmp_path: Path) -> None:
    capability = "\x01\x00\x00\x02\x00\x04"
    stack = [tar([d("./"), d("d"), f("d/a", "1", **{"SCHILY.xattr.security.capability": capability, "SCHILY.xattr.system.x": "dropped"})])]
    content = merge(tmp_path, [*stack, tar([special("d/c", tarfile.CHRTYPE), h("d/b", "d/a")])])
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        root, directory, file, link, device = (archive.getmember(name) for name in (".", "d", "d/a", "d/b", "d/c"))
    assert (directory.mode, directory.uid, directory.gid, directory.mtime) == (0o750, 33, 44, 1234567890)
    assert (root.mode, root.uid) == (0o750, 33)
    assert (file.mode, file.uid, file.gid, file.mtime) == (0o4751, 33, 44, 1234567890)
    assert file.pax_headers == {"SCHILY.xattr.security.capability": capability}
    assert (link.islnk(), link.linkname) == (True, "d/a")
    assert (device.devmajor, device.devminor) == (5, 1)


def test_directory_takes_the_uppermost_attributes(tmp_path: Path) -> None:
    content = merge(tmp_path, [tar([d("a"), d("b")]), tar([f("a/x")])])
    upper = tar([(name, kind, rest, {"uid": "7"}) for name, kind, rest, _pax in [d("a")]])
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert archive.getmember("a").uid == 33
    with tarfile.open(fileobj=io.BytesIO(merge(tmp_path, [tar([d("a"), f("a/x")]), upper]))) as archive:
        assert archive.getmember("a").uid == 7
        assert archive.getmember("a/x").uid == 33


def test_large_numbers_and_odd_times(tmp_path: Path) -> None:
    content = merge(tmp_path, [tar([f("id", "1", uid="3000000"), f("early", "1", mtime="-5.5"), f("fine", "1", mtime="12.9")])])
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert archive.getmember("id").uid == 3000000
        assert archive.getmember("early").mtime == 0
        assert archive.getmember("fine").mtime == 12


def test_files_of_all_sizes_pass_unchanged(tmp_path: Path) -> None:
    wanted = {str(size): os.urandom(size).hex() for size in (0, 1, 255, 256, 257, 70_000, 1_500_000)}
    assert shown(merge(tmp_path, [tar([f(name, content) for name, content in wanted.items()])])) == wanted


def _written(stack: list[Path], path: Path, *, consume: bool) -> bytes:
    with layers.merged(stack, consume=consume) as root, open(path, "wb") as out:
        layers.write_tar(root, out.fileno())
    return path.read_bytes()


def test_the_space_of_layers_that_are_consumed_is_given_back(tmp_path: Path) -> None:
    """But for headers, small files, and what upper layers have replaced."""
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    lower.write_bytes(tar([f(str(size), os.urandom(size // 2).hex()) for size in (1_000, 200_000, 3_000_000)] + [h("again", "200000")]))
    upper.write_bytes(tar([f("new", os.urandom(500_000).hex())]))
    before = [path.stat().st_blocks for path in (lower, upper)]
    wanted = _written([lower, upper], tmp_path / "merged", consume=False)
    assert [path.stat().st_blocks for path in (lower, upper)] == before
    assert _written([lower, upper], tmp_path / "merged", consume=True) == wanted
    assert lower.stat().st_size > 3_200_000
    assert [path.stat().st_blocks * 512 < 300_000 for path in (lower, upper)] == [True, True]


def test_a_layer_that_is_there_twice_or_belongs_to_others_is_not_consumed(tmp_path: Path) -> None:
    """The middle layer gives a name to a file of the first one, which the third one replaces by itself."""
    image, link, other = tmp_path / "image", tmp_path / "link", tmp_path / "other"
    image.write_bytes(tar([f("x", os.urandom(200_000).hex())]))
    link.write_bytes(tar([h("y", "x")]))
    other.hardlink_to(link)
    wanted = image.read_bytes(), link.read_bytes()
    merged = shown(_written([image, link, image], tmp_path / "merged", consume=True))
    assert merged["x"] == merged["y"]
    assert (image.read_bytes(), link.read_bytes()) == wanted


def test_same_layers_same_stream(tmp_path: Path) -> None:
    entries = [d("a"), f("a/x", "1"), f("a/y", "2"), s("z", "a")]
    assert merge(tmp_path, [tar(entries)]) == merge(tmp_path, [tar(entries[::-1])])


def test_a_tree_can_be_set_under_a_prefix(tmp_path: Path) -> None:
    for name, entries in (("base", [f("init", "i")]), ("image", [f("x", "1"), f("y", "2"), h("z", "y")])):
        (tmp_path / name).write_bytes(tar(entries))
    with layers.merged([tmp_path / "base"]) as base, layers.merged([tmp_path / "image"]) as image, open(tmp_path / "out", "wb") as out:
        base.children[b"image"] = image
        layers.write_tar(base, out.fileno())
    assert shown((tmp_path / "out").read_bytes()) == {"init": "i", "image": "/", "image/x": "1", "image/y": "2", "image/z": "= 2"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("etc/passwd", b"root"),
        ("/etc/passwd", b"root"),
        ("etc/linked", b"root"),
        ("etc/up", b"root"),
        ("etc/none", None),
        ("etc", None),
        ("etc/loop", None),
        ("etc/p", None),
        ("none/passwd", None),
    ],
)
def test_read_file(path: str, expected: bytes | None, tmp_path: Path) -> None:
    entries = [f("etc/passwd", "root"), s("etc/linked", "/etc/passwd"), s("etc/up", "../etc/linked"), s("etc/loop", "loop")]
    (tmp_path / "layer").write_bytes(tar([*entries, special("etc/p", tarfile.FIFOTYPE)]))
    with layers.merged([tmp_path / "layer"]) as root:
        assert layers.read_file(root, path, 4) == expected


def test_read_file_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "layer").write_bytes(tar([f("etc/passwd", "12345")]))
    with layers.merged([tmp_path / "layer"]) as root, pytest.raises(layers.LayerError, match="has 5 bytes; at most 4"):
        layers.read_file(root, "etc/passwd", 4)


def zstd(content: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=content, stdout=subprocess.PIPE, check=True).stdout


PLAIN = tar([f("a", "text " * 1000)])
PACKED = {
    "none": PLAIN,
    "gzip": gzip.compress(PLAIN),
    "gzip, two members": gzip.compress(PLAIN[:600]) + gzip.compress(PLAIN[600:]),
    "gzip, padded": gzip.compress(PLAIN) + bytes(100),
    "zstd": zstd(PLAIN),
}


@pytest.mark.parametrize("case", PACKED)
def test_uncompressed(case: str, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(PACKED[case])
    plain = layers.uncompressed(tmp_path / "blob", tmp_path / "scratch", len(PLAIN))
    assert plain.read_bytes() == PLAIN
    assert (plain == tmp_path / "blob") == (case == "none")


BOMB = bytes(50_000_000)
DAMAGED = {
    "plain layer over the bound": (PLAIN, "unpacks to more than 9000 bytes"),
    "gzip bomb": (gzip.compress(BOMB), "unpacks to more than 9000 bytes"),
    "zstd bomb": (zstd(BOMB), "unpacks to more than 9000 bytes"),
    "gzip cut": (gzip.compress(PLAIN)[:-20], "its gzip data ends too early"),
    "gzip damaged": (gzip.compress(PLAIN)[:20] + b"xxxx" + gzip.compress(PLAIN)[24:], "its gzip data is damaged"),
    "gzip checksum": (gzip.compress(b"1" * 100)[:-8] + bytes(8), "its gzip data is damaged"),
    "gzip and garbage": (gzip.compress(b"1" * 100) + b"garbage", "its gzip data is damaged"),
    "zstd cut": (zstd(b"1" * 100)[:-6], "its zstd data is damaged"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged(case: str, tmp_path: Path) -> None:
    content, message = DAMAGED[case]
    (tmp_path / "blob").write_bytes(content)
    with pytest.raises(layers.LayerError, match=message):
        layers.uncompressed(tmp_path / "blob", tmp_path / "scratch", 9000)
    assert not (tmp_path / "scratch").exists() or (tmp_path / "scratch").stat().st_size <= 9000


@pytest.mark.parametrize(("path", "expected"), [("usr/lib", ["a", "b"]), ("lib", ["a", "b"]), ("usr/lib/a", []), ("none", [])])
def test_names(path: str, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "layer").write_bytes(tar([f("usr/lib/b"), f("usr/lib/a"), s("lib", "usr/lib")]))
    with layers.merged([tmp_path / "layer"]) as root:
        assert layers.names(root, path) == expected
