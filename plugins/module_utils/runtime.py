# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The zone base: the small read-only system that a zone boots into, composed from programs of the host's distribution.

It holds the programs below with their libraries, and the guest's own scripts. Its digest is that of its content, so it changes when a
package or a script does. A zone that runs an older base keeps it until it is started anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils import images, layers, seccomp
from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store, write_atomically

_PROGRAMS = {
    "busybox": "busybox-static",
    "crun": "crun",
    "dropbear": "dropbear-bin",
    "resize2fs": "e2fsprogs",
    "unixserver": "ucspi-unix",
    "vchan-socket-proxy": "xen-utils",
}
"""The programs of the base, and the Debian package that carries each."""

_DIRECTORIES = ("dev", "etc", "image", "proc", "run", "sys", "tmp", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "var", "writable")
_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64", "var/run": "/run", "etc/dropbear": "/run/dropbear"}
_ENTER = "/usr/lib/ringfence/enter"
"""The guest's script that is the login shell of the account ``container``."""

_ACCOUNTS = {
    # Only the host gets as far as a login, so nobody is asked for a password.
    "etc/passwd": f"root::0:0:root:/run/root:/bin/sh\ncontainer::0:0:the container:/run/root:{_ENTER}\n".encode(),
    "etc/group": b"root:x:0:\ntty:x:5:\n",
    "etc/shells": f"/bin/sh\n{_ENTER}\n".encode(),
}

_BOOT = "boot"
_CURRENT = "current.json"
_LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x")


@dataclasses.dataclass(frozen=True)
class Runtime:
    """A zone base in the store. ``base`` is its file system file, of the type ``filesystem``; ``boot`` and ``busybox`` go into initrds."""

    digest: str
    filesystem: str
    directory: Path

    @property
    def base(self) -> Path:
        """The file system that every zone of this runtime shares."""
        return self.directory / "base.img"

    @property
    def boot(self) -> Path:
        """The first program of a zone."""
        return self.directory / _BOOT

    @property
    def seccomp(self) -> Path:
        """The profile of system calls for containers, as :mod:`seccomp` takes it."""
        return self.directory / "seccomp.json"

    @property
    def busybox(self) -> Path:
        """The static shell and tools that ``boot`` needs before the base is mounted."""
        return self.directory / "busybox"


def directory(store: Store) -> Path:
    """Where all zone bases of a host are."""
    return store.root / "runtime"


def stored(store: Store) -> set[str]:
    """The digests of all zone bases in the store."""
    return {f"sha256:{path.parent.name}" for path in directory(store).glob("*/runtime.json")}


def find_current(store: Store) -> Runtime | None:
    """The runtime that new zones get, ``None`` if the host has none yet."""
    try:
        return load(store, json.loads((directory(store) / _CURRENT).read_bytes())["digest"])
    except FileNotFoundError:
        return None


def current(store: Store) -> Runtime:
    """The runtime that new zones get.

    :raises RingfenceError: when the host has none yet.
    """
    found = find_current(store)
    if found is None:
        raise RingfenceError("this host has no zone runtime; apply the role ringfence.zones.runtime first")
    return found


def load(store: Store, digest: str) -> Runtime:
    """The runtime with this digest."""
    entry = directory(store) / digest.removeprefix("sha256:")
    return Runtime(directory=entry, **json.loads((entry / "runtime.json").read_bytes()))


def compose(store: Store, scripts: Mapping[str, str], *, check: bool) -> tuple[str | None, str | None]:
    """Make the base of this host's programs and these guest scripts the current one.

    :param scripts: text by file name; ``boot`` is the first program of a zone.
    :returns: the digests before and after; equal if nothing changes. In check mode on a host that lacks a program, ``None`` after.
    :raises RingfenceError: naming a missing program or file and its package.
    """
    found = find_current(store)
    before = found.digest if found else None
    programs = {name: _find(name) for name in _PROGRAMS}
    missing = [f"{name} (package {_PROGRAMS[name]})" for name, path in programs.items() if path is None]
    missing += [] if Path(seccomp.PROFILE).exists() else [f"{seccomp.PROFILE} (package golang-github-containers-common)"]
    if missing and check:
        return before, None
    if missing:
        raise RingfenceError(f"the zone base needs what this host lacks: {', '.join(missing)}; apply the role ringfence.zones.host")
    content = _content({name: path for name, path in programs.items() if path}, scripts)
    profile = Path(seccomp.PROFILE).read_bytes()
    identity = hashlib.sha256(json.dumps([_DIRECTORIES, _LINKS]).encode())
    for name, data in sorted({**content, f"/{_BOOT}": scripts[_BOOT].encode(), seccomp.PROFILE: profile}.items()):
        identity.update(f"{name}\0{len(data)}\0".encode() + data)
    digest = f"sha256:{identity.hexdigest()}"
    if digest != before and not check:
        store.publish(directory(store) / identity.hexdigest(), lambda entry: _build(store, entry, digest, content, scripts[_BOOT], profile))
        write_atomically(directory(store) / _CURRENT, json.dumps({"digest": digest}).encode())
    return before, digest


def _find(name: str) -> Path | None:
    # Debian keeps the programs of a Xen release in a directory of its own; what is in PATH is a shell script that finds them.
    of_xen = sorted(Path("/usr/lib").glob(f"xen-*/bin/{name}"), reverse=True)
    found = of_xen[0] if of_xen else shutil.which(name)
    return Path(found).resolve() if found else None


def libraries(program: Path) -> list[str]:
    """The paths of the libraries that a program, or a library, of the host is linked with."""
    return _LIBRARY.findall(run(["ldd", str(program)]).decode())


def _content(programs: Mapping[str, Path], scripts: Mapping[str, str]) -> dict[str, bytes]:
    files = dict(_ACCOUNTS)
    for name, path in programs.items():
        files[f"usr/bin/{name}"] = path.read_bytes()
        if name == "busybox":
            continue
        for library in libraries(path):
            target = library if library.startswith("/usr/") else f"/usr{library}"
            files[target.removeprefix("/")] = Path(library).read_bytes()
    for name, text in scripts.items():
        if name != _BOOT:
            files["usr/sbin/poweroff" if name == "poweroff" else f"usr/lib/ringfence/{name}"] = text.encode()
    return files


def _build(store: Store, entry: Path, digest: str, content: Mapping[str, bytes], boot: str, profile: bytes) -> None:
    (entry / _BOOT).write_text(boot, encoding="utf-8")
    (entry / _BOOT).chmod(0o755)
    busybox = entry / "busybox"
    busybox.write_bytes(content["usr/bin/busybox"])
    busybox.chmod(0o755)
    (entry / "seccomp.json").write_bytes(profile)
    applets = run([str(busybox), "--list"]).decode().split()
    with store.workspace() as workspace:
        plain = workspace / "base.tar"
        _write_tar(plain, content, applets)
        with layers.merged([plain]) as root:
            filesystem = images.make_filesystem(root, entry / "base.img", smaller=True)
    (entry / "runtime.json").write_text(json.dumps({"digest": digest, "filesystem": filesystem}), encoding="utf-8")


def _write_tar(path: Path, content: Mapping[str, bytes], applets: list[str]) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, kind: bytes, mode: int, data: bytes = b"", target: str = "") -> None:
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.size, member.linkname = kind, mode, len(data), target
            tar.addfile(member, io.BytesIO(data))

        for name in _DIRECTORIES:
            add(name, tarfile.DIRTYPE, 0o755)
        for name, target in _LINKS.items():
            add(name, tarfile.SYMTYPE, 0o777, target=target)
        for name, data in sorted(content.items()):
            add(name, tarfile.REGTYPE, 0o644 if name.startswith("etc/") else 0o755, data)
        for applet in applets:
            if f"usr/bin/{applet}" not in content and applet not in ("busybox", "poweroff"):
                add(f"usr/bin/{applet}", tarfile.SYMTYPE, 0o777, target="busybox")
