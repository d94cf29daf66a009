"""Builds the demo's images: Debian's packages, extracted and not installed, as OCI images of one layer."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.image import oci_layout, registry
from ringfence_demo.cache import TAG, layout
from ringfence_demo.definitions import APPLETS, SUITE, Definition

_LEFT_OUT = re.compile(
    r"(dev|proc|sys|run|tmp)/."
    r"|etc/(apt|dpkg|fstab|hostname|resolv\.conf|machine-id)"
    r"|usr/share/(base-files|bash-completion|bug|debconf|doc|doc-base|gcc|gdb|initramfs-tools|lintian|locale|man|perl5|pixmaps|vim)(/|$)"
    r"|usr/lib/[^/]+/(engines-3|gconv|perl-base)(/|$)"
    r"|var/(backups|cache/apt|cache/debconf|lib/apt|lib/dpkg|log/apt)(/|$)"
)
"""What no program needs at run time, and what mmdebstrap took from this machine or made of its own."""

_BUILD_CODE = (Path(__file__), Path(oci_layout.__file__))


def build(definition: Definition, cache: Path) -> Path:
    """The OCI layout of an image, from ``cache`` if it was built before from the same definition by the same code.

    The packages are those of the day it is first built. mmdebstrap needs root's rights for nothing here: as another user it runs
    without a chroot, and all owners are set by the definition.
    """

    def write(work: Path) -> None:
        _compose(definition, work)
        oci_layout.write_image(work / "layout", work / "layer.tar", definition.config, registry.host_architecture(), {}, TAG)

    return layout(cache / "images" / f"{definition.name}-{_key(definition)}", write)


def _key(definition: Definition) -> str:
    document = json.dumps([SUITE, APPLETS, registry.host_architecture(), dataclasses.asdict(definition)], sort_keys=True)
    return hashlib.sha256(document.encode() + b"".join(path.read_bytes() for path in _BUILD_CODE)).hexdigest()[:16]


def _compose(definition: Definition, work: Path) -> None:
    packages = work / "packages.tar"
    mode = "auto" if os.geteuid() == 0 else "chrootless"
    run(
        [
            *("mmdebstrap", "--quiet", f"--mode={mode}", "--variant=extract", f"--include={','.join(definition.packages)}"),
            *("--format=tar", SUITE, os.fspath(packages)),
        ],
        timeout=1800,
    )
    # In other formats than USTAR the headers depend on the version of Python.
    with tarfile.open(packages) as source, tarfile.open(work / "layer.tar", "w", format=tarfile.USTAR_FORMAT) as target:
        members = {member.name.removeprefix("./"): member for member in source if member.name not in (".", "./")}
        left_out = re.compile(f"{_LEFT_OUT.pattern}|{definition.left_out}" if definition.left_out else _LEFT_OUT)
        kept = {name: member for name, member in members.items() if not left_out.match(name)}
        made = dict(_made(definition, {name: _read(source, members[name]) for name in _ACCOUNTS}, set(kept)))
        for name in sorted({*kept, *made}):
            if name in made:
                member, content = made[name]
                target.addfile(member, io.BytesIO(content))
            else:
                target.addfile(_normal(kept[name]), source.extractfile(kept[name]) if kept[name].isreg() else None)


_ACCOUNTS = ("usr/share/base-passwd/passwd.master", "usr/share/base-passwd/group.master")


def _read(source: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = source.extractfile(member)
    return content.read() if content else b""


def _normal(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """As the package has it, but owned by root, without special modes (which a user cannot extract), directories from 1970."""
    member.name = member.name.removeprefix("./")
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode &= 0o777
    member.mtime = 0 if member.isdir() else int(member.mtime)
    if member.islnk():
        member.linkname = member.linkname.removeprefix("./")
    return member


def _made(definition: Definition, masters: dict[str, bytes], kept: set[str]) -> Iterable[tuple[str, tuple[tarfile.TarInfo, bytes]]]:
    """What the maintainer scripts of the packages would make."""
    passwd, group = (masters[name].decode() for name in _ACCOUNTS)
    for line in definition.accounts:
        passwd += f"{line}\n"
        account, _password, _uid, group_id = line.split(":")[:4]
        group += f"{account}:x:{group_id}:\n"
    for name, members in definition.members.items():
        group = re.sub(rf"^({name}:.*)$", rf"\g<1>{','.join(members)}", group, flags=re.MULTILINE)
    files = {"etc/passwd": passwd, "etc/group": group, **definition.files}
    writable = dict.fromkeys(("tmp", "var/tmp", "var/lock"), (0o1777, 0, 0))
    directories = {"root": (0o700, 0, 0), **writable, **definition.directories}
    for path in (*files, *definition.links, *definition.directories):
        # Of the parents, only those that no package has.
        parents = [str(parent) for parent in Path(path).parents if str(parent) != "."]
        directories = {**{parent: (0o755, 0, 0) for parent in parents if parent not in kept}, **directories}
    links = {f"usr/bin/{name}": "busybox" for name in APPLETS if not {f"usr/bin/{name}", f"usr/sbin/{name}"} & kept}
    for path, (mode, uid, gid) in directories.items():
        yield path, (_member(path, tarfile.DIRTYPE, mode, uid, gid), b"")
    for path, target in {**links, **definition.links}.items():
        member = _member(path, tarfile.SYMTYPE, 0o777)
        member.linkname = target
        yield path, (member, b"")
    for path, content in files.items():
        member = _member(path, tarfile.REGTYPE, 0o755 if content.startswith("#!") else 0o644)
        member.size = len(content.encode())
        yield path, (member, content.encode())


def _member(path: str, kind: bytes, mode: int, uid: int = 0, gid: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.type, member.mode, member.uid, member.gid = kind, mode, uid, gid
    return member
