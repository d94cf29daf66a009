"""Runs on a host as root: a converge that ends itself, as SIGKILL does, before or after one of the calls that change something.

``killed_converge MOMENT ZONE DECLARATION``: the moment is such as ``before start`` or ``after write``, of the first such call
for that zone; DECLARATION is the JSON of what the module ``zones`` takes. A run that comes to its end prints the calls that it made.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

sys.path.insert(0, "/usr/lib/ringfence/python")

from ansible_collections.ringfence.zones.plugins.module_utils import converge, firewall, zone_files
from ansible_collections.ringfence.zones.plugins.module_utils.hypervisor import Hypervisor
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store

CHANGES: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (Hypervisor, ("define", "start", "stop", "end", "undefine")),
    (zone_files, ("write", "make_writable", "forget_record", "tidy", "remove")),
    (firewall, ("load",)),
)
"""What changes something, by where it is."""


def wrapped(call: Any, name: str, moment: str, zone: str, made: list[str]) -> Any:
    """A call that ends the process at the moment."""

    def step(*arguments: Any, **options: Any) -> Any:
        # A name, a definition, or the XML of a domain; the rules are those of all zones.
        told = [str(argument) for argument in arguments]
        ours = name == "load" or any(text == zone or f"name='{zone}'" in text or f"<name>{zone}<" in text for text in told)
        made.append(name)
        if ours and moment == f"before {name}":
            os.kill(os.getpid(), signal.SIGKILL)
        result = call(*arguments, **options)
        if ours and moment == f"after {name}":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return step


def main() -> None:
    """Converge, or end on the way."""
    moment, zone, declared = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    made: list[str] = []
    for where, names in CHANGES:
        for name in names:
            setattr(where, name, wrapped(getattr(where, name), name, moment, zone, made))
    report = converge.converge(Store(), declared["zones"], declared["volumes"], declared["secrets"], converge.Policy(), check=False)
    print(json.dumps({"made": made, "failures": report.failures}))


main()
