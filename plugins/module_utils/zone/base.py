# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Composes the zone base, the small read-only system that a zone boots into, from programs of the host's distribution.

It holds the programs below with their libraries, and the guest's own scripts. Its digest is that of its content, so it changes when a
package or a script does.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.image import build, layers
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store, write_atomically
from ansible_collections.ringfence.zones.plugins.module_utils.zone import channel, runtime, seccomp

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

_LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x")


def compose(store: Store, scripts: Mapping[str, str], *, check: bool) -> tuple[str | None, str | None]:
    """Make the base of this host's programs and these guest scripts the current one. Without ``check``, the caller holds the store.

    :param scripts: text by file name; ``boot`` is the first program of a zone.
    :returns: the digests before and after; equal if nothing changes. In check mode on a host that lacks a program, ``None`` after.
    :raises RingfenceError: naming a missing program or file and its package.
    """
    before = runtime.current_digest(store)
    programs = {name: channel.find_program(name) for name in _PROGRAMS}
    missing = [f"{name} (package {_PROGRAMS[name]})" for name, path in programs.items() if path is None]
    missing += [] if Path(seccomp.PROFILE).exists() else [f"{seccomp.PROFILE} (package golang-github-containers-common)"]
    if missing and check:
        return before, None
    if missing:
        raise RingfenceError(f"the zone base needs what this host lacks: {', '.join(missing)}; apply the role ringfence.zones.host")
    content = _content({name: path for name, path in programs.items() if path}, scripts)
    profile = Path(seccomp.PROFILE).read_bytes()
    identity = hashlib.sha256(json.dumps([_DIRECTORIES, _LINKS]).encode())
    for name, data in sorted({**content, f"/{runtime.BOOT}": scripts[runtime.BOOT].encode(), seccomp.PROFILE: profile}.items()):
        identity.update(f"{name}\0{len(data)}\0".encode() + data)
    digest = f"sha256:{identity.hexdigest()}"
    if digest != before and not check:
        store.publish(
            store.runtime / identity.hexdigest(),
            lambda entry: _build(store, entry, digest, content, scripts[runtime.BOOT], profile),
            # What is there without being current may be damaged.
            replace=before is None,
        )
        write_atomically(store.runtime / runtime.CURRENT, json.dumps({"digest": digest}).encode())
    return before, digest


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
        if name != runtime.BOOT:
            files["usr/sbin/poweroff" if name == "poweroff" else f"usr/lib/ringfence/{name}"] = text.encode()
    return files


def _build(store: Store, entry: Path, digest: str, content: Mapping[str, bytes], boot: str, profile: bytes) -> None:
    (entry / runtime.BOOT).write_text(boot, encoding="utf-8")
    (entry / runtime.BOOT).chmod(0o755)
    busybox = entry / "busybox"
    busybox.write_bytes(content["usr/bin/busybox"])
    busybox.chmod(0o755)
    (entry / "seccomp.json").write_bytes(profile)
    applets = run([str(busybox), "--list"]).decode().split()
    with store.workspace() as workspace:
        plain = workspace / "base.tar"
        _write_tar(plain, content, applets)
        with layers.merged([plain]) as root:
            filesystem = build.make_filesystem(root, entry / "base.img", smaller=True)
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
