# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask, as a kernel that was taken over, for what belongs to the host, to the hypervisor and to the other zone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.attack.programs import devices
from ansible_collections.ringfence.zones.plugins.module_utils.attack.result import Attempt, compared
from ansible_collections.ringfence.zones.plugins.module_utils.attack.zones import NAMES, Zones, run_quietly, told_of
from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.host import boot_id

_BY_PROGRAM = {"kernel": 1, "escape": 5, "xenstore": 6, "sharing": 7, "hypercalls": 8, "devices": 5}
_TRACE = 3

_CANARY = Path("/run/ringfence-attack-canary")
"""Where the program ``escape`` leaves its trace."""

_NODES = 2500
"""Nodes of xenstore; the quota of a domain is 1000."""

_REFERENCES, _PORTS = 640, 96


def attack(zones: Zones, token: str) -> Iterator[Attempt]:
    """Have each zone ask for what is the host's, the hypervisor's and the other one's."""
    canary = zones.directory / "canary"
    canary.write_text(token, encoding="ascii")
    escape = ("escape", {"token": token, "file": str(canary)})
    host = [boot_id(), Path("/proc/cmdline").read_text("utf-8").strip()]
    booted: dict[str, str] = {}
    shared: dict[str, dict[str, list[int]]] = {}
    for name in NAMES:
        said = zones.inside(name, [escape, ("sharing", {"share": token}), ("kernel", {"others": {}})])
        shared[name] = {"references": [int(told_of(said, "sharing", "reference"))], "ports": [int(told_of(said, "sharing", "port"))]}
        booted[name] = told_of(said, "kernel", "boot")
    disks = [[name, major, minor, devices.sectors(Path("/dev") / name)] for name, major, minor in _disks()]
    for name, peer in (NAMES, NAMES[::-1]):
        number, own = zones.numbers[peer], zones.numbers[name]
        run(["xenstore-write", f"/local/domain/{number}/data/attack", "x", "/local/domain/0/ringfence-attack", "x"], timeout=20)
        share = {"domain": number, "references": list(range(_REFERENCES)), "ports": list(range(1, _PORTS)), "token": token}
        hypervisor = {"domain": number, "frame": _frame(number)}
        programs: list[tuple[str, dict[str, Any]]] = [
            escape,
            ("kernel", {"others": {"the host": host, "the other zone": [booted[peer]]}}),
            ("xenstore", {"requests": _requests(number), "nodes": _NODES, "below": f"/local/domain/{own}/data/attack"}),
            ("sharing", share),
            ("hypercalls", hypervisor),
            ("devices", {"disks": disks}),
        ]
        tried = zones.inside(name, programs)
        # Whether the trace that the zone left is the host's to see has to be asked before the control leaves one there.
        leaked = _canary() == token
        control = dict(programs)
        control["kernel"] = {"others": {"the host": host, "the other zone": [host[0]]}}
        control["sharing"] = {**share, **shared[peer]}
        control["xenstore"] = {"requests": _requests(number), "nodes": _NODES, "below": "/ringfence-attack"}
        without = zones.control(list(control.items()))
        for program, row in _BY_PROGRAM.items():
            found = {
                label: told for label, told in tried.get(program, {}).items() if label not in ("escape", "boot", "reach the hypervisor")
            }
            hindered = tried.get("hypercalls", {}).get("reach the hypervisor", (True, ""))
            if program == "hypercalls" and hindered[0] is None:
                found = {"reach the hypervisor": hindered}
            yield from compared(row, name, found, without.get(program, {}))
        ran = tried.get("escape", {}).get("escape", (None, "it was not run"))
        # It ran: else nothing could have been left anywhere.
        label, control_told = f"{name}: leave a trace on the host", "its trace is on the host"
        yield Attempt(_TRACE, label, leaked if ran[0] else None, ran[1], _canary() == token, control_told)
        clear()


def clear() -> None:
    """Remove what an attack, or its control, has left on the host."""
    _CANARY.unlink(missing_ok=True)
    run_quietly(["xenstore-rm", "/local/domain/0/ringfence-attack"])


def _canary() -> str:
    try:
        return _CANARY.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _disks() -> list[tuple[str, int, int]]:
    """The host's own disks and partitions: those with something behind them, and no loop devices."""
    found = []
    for line in Path("/proc/partitions").read_text("ascii").splitlines()[2:]:
        major, minor, blocks, name = line.split()
        if int(blocks) > 4 and not name.startswith(("loop", "ram", "sr", "zram")):
            found.append((name, int(major), int(minor)))
    return found[:8]


def _frame(number: int) -> int:
    """A frame of a domain's memory: that of its page for xenstore, which the tool stack wrote down."""
    return int(run(["xenstore-read", f"/local/domain/{number}/store/ring-ref"], timeout=20).decode().strip())


def _requests(number: int) -> list[list[str]]:
    peer = f"/local/domain/{number}"
    return [
        ["read", f"{peer}/device/vif/0/mac", "", "read a node of the other zone"],
        ["write", f"{peer}/data/attack", "x", "write a node of the other zone"],
        ["open", f"{peer}/data/attack", "b0\0", "open a node of the other zone"],
        ["remove", f"{peer}/data/attack", "", "remove a node of the other zone"],
        ["write", "/local/domain/0/ringfence-attack", "x", "write a node of the host"],
        ["remove", "/local/domain/0/ringfence-attack", "", "remove a node of the host"],
    ]
