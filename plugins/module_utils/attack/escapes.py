# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Try on a zone what has let containers out of runtimes that share the host's kernel.

The control is a container on the host whose runtime has these faults: one that enters it with its own file behind ``/proc/PID/exe``, and
leaves a directory of the host open.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.attack.result import Attempt
from ansible_collections.ringfence.zones.plugins.module_utils.attack.zones import NAMES, Told, Zones, escaping, run_quietly
from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.image import images
from ansible_collections.ringfence.zones.plugins.module_utils.store import file_digest
from ansible_collections.ringfence.zones.plugins.module_utils.zone import channel, runtime

_ROW = 4
_LURKING = 40
_SHARED = ("/attack/dev/xvda", "/attack/dev/xvdb")

_ENTER = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None)
for there in [os.open(f"/proc/{sys.argv[1]}/ns/{kind}", os.O_RDONLY) for kind in ("pid", "mnt")]:
    libc.setns(there, 0)
if os.fork() == 0:
    time.sleep(2)
    os._exit(0)
os.wait()
"""
"""What a runtime without care does to start a program in a container: it enters it, and is to be seen there while it prepares."""


def attack(zones: Zones, token: str) -> list[Attempt]:
    """Overwrite what starts programs, leave by what it left open, write to the disks that all zones read."""
    name = NAMES[0]
    files = _files_of_the_host(zones)
    before = {file: file_digest(file) for file in files}
    canary = zones.directory / "canary"
    canary.write_text(token, encoding="ascii")
    lurk = {"token": token, "seconds": _LURKING, "file": str(canary)}
    left = zones.inside(name, [("starter", {**lurk, "background": True})])["starter"]
    disks = {"shared": _SHARED, "own": "/attack/dev/xvdc"}
    said = zones.inside(name, [("starter", {"told": True}), escaping(token), ("disk", disks)])
    changed = [str(file) for file in files if file_digest(file) != before[file]]
    control = _control(zones, lurk)
    attempts = []
    for label, (succeeded, told) in said["starter"].items():
        seen = f"{told}; {', '.join(changed) or 'no file of the host'} changed"
        attempts.append(
            Attempt(_ROW, f"{name}: {label}", None if succeeded is None else bool(changed), seen, *control.get(label, (None, "not tried")))
        )
    for label, (succeeded, told) in left.items():
        attempts.append(Attempt(_ROW, f"{name}: {label}", succeeded, told, *control.get(label, (None, "not tried"))))
    own = said["disk"].pop("own", (None, "not tried"))
    for label, (succeeded, told) in said["disk"].items():
        attempts.append(Attempt(_ROW, f"{name}: {label}", succeeded, told, own[0], f"to its own disk: {own[1]}"))
    return attempts


def _files_of_the_host(zones: Zones) -> list[Path]:
    """What starts programs in zones, and what zones are made of."""
    definition = zones.definitions[NAMES[0]]
    programs = [Path(found) for found in map(shutil.which, ("crun", "ssh")) if found]
    base = runtime.load(zones.store, definition.runtime).base
    return [*programs, Path(channel.proxy(0)[0]), base, images.load(zones.store, definition.image).path]


def _control(zones: Zones, lurk: dict[str, object]) -> Told:
    """The same in a container on the host, which a copy of Python enters in the place of a runtime."""
    copy = zones.directory / "runtime"
    shutil.copy(Path(sys.executable).resolve(), copy)
    before = file_digest(copy)
    said: Told = {}
    faults: list[RingfenceError] = []

    def contain() -> None:
        try:
            said.update(zones.control([("starter", lurk)], leaks=True)["starter"])
        except RingfenceError as error:
            faults.append(error)

    container = threading.Thread(target=contain)
    container.start()
    try:
        number = _number_of(container)
        subprocess.run([str(copy), "-S", "-E", "-c", _ENTER, number], check=False, timeout=_LURKING)
    finally:
        container.join()
        run_quietly(["crun", "delete", "--force", NAMES[0]])
    if faults:
        raise faults[0]
    changed = file_digest(copy) != before
    return {label: (succeeded if label.startswith("leave") else changed, told) for label, (succeeded, told) in said.items()}


def _number_of(container: threading.Thread) -> str:
    """The number of the container's process on the host, once it runs."""
    while container.is_alive():
        try:
            state = json.loads(run(["crun", "state", NAMES[0]]))
            if state.get("status") == "running":
                return str(state["pid"])
        except RingfenceError:
            pass
        time.sleep(0.2)
    raise RingfenceError("the control's container did not start")
