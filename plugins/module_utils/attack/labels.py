# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write labels to a disk that the host might look at."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.attack.programs import devices
from ansible_collections.ringfence.zones.plugins.module_utils.attack.result import Attempt
from ansible_collections.ringfence.zones.plugins.module_utils.attack.zones import NAMES, Zones, escaping
from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.zone import files

_ROW = 13

Known = Callable[[Path], Sequence[str]]
"""What the host knows of the content of a block device, by its directory of sysfs."""


def attack(zones: Zones, token: str, known_of: Known) -> list[Attempt]:
    """Write a partition table and a label of LVM to the second zone's disk, and tell the host that the disk has changed."""
    name = NAMES[1]
    zones.inside(
        name,
        [
            escaping(token),
            ("labels", {"disk": "/attack/dev/xvdc", "sectors": devices.labels().hex()}),
        ],
    )
    layer = files.writable(zones.store, zones.definitions[name])
    with open(layer, "rb") as handle:
        arrived = handle.read(1024) == devices.labels()
    loops = json.loads(run(["losetup", "--list", "--json", "--output", "NAME,BACK-FILE"]))["loopdevices"]
    device = next(Path(loop["name"]) for loop in loops if loop["back-file"] == str(layer))
    found = _looked_at(device, known_of)
    plain = Path("/var/tmp/ringfence-attack.img")
    try:
        with open(plain, "wb") as handle:
            handle.write(devices.labels())
            handle.truncate(8 << 20)
        ordinary = run(["losetup", "--find", "--show", str(plain)]).decode().strip()
        try:
            known = _looked_at(Path(ordinary), known_of)
        finally:
            run(["losetup", "--detach", ordinary])
    finally:
        plain.unlink(missing_ok=True)
    label, told = f"{name}: have the host read its labels", found or "the host knows nothing of them"
    control_told = f"of the same disk elsewhere it knows {known}"
    return [Attempt(_ROW, label, bool(found) if arrived else None, told, bool(known), control_told)]


def _looked_at(device: Path, known_of: Known) -> str:
    """What the host knows of a block device once it was told that it changed."""
    run(["udevadm", "trigger", "--settle", "--action=change", str(device)], timeout=60)
    return ", ".join(known_of(Path("/sys/block") / device.name))
