"""Runs on a Xen host as root: several zones started together and one by one, their memory, and a call that changes nothing.

``many_starts ROUNDS DECLARATION`` prints JSON; DECLARATION is the JSON of zones, which must have been converged. All of it is done by
the library that the module calls, so that Ansible's own time, once or many times, is in neither side.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.converge import converge
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.zone.hypervisor import URI, Hypervisor
from ringfence_bench.on_host.floor import BARE, available_of_host, compared, list_domains, seconds

_GRACE = 30.0


def main() -> None:
    """Measure, and print."""
    if sys.argv[1] == "converge":
        _converge(json.loads(sys.argv[2]), "keep")
        return
    rounds, declared = int(sys.argv[1]), json.loads(sys.argv[2])
    _converge(declared, "keep")
    converged = [sys.executable, "-m", "ringfence_bench.on_host.many_starts", "converge", sys.argv[2]]
    result: dict[str, Any] = compared(
        2 * rounds + 1,
        converge=lambda: subprocess.run(converged, check=True),
        bare=lambda: subprocess.run([sys.executable, "-c", BARE, URI], check=True),
        converge_call=lambda: _converge(declared, "keep"),
        bare_call=lambda: list_domains(URI),
    )
    together, singly = [], []
    for _round in range(rounds):
        _stop(declared)
        alone = 0.0
        for zone in declared:
            alone += seconds(lambda zone=zone: _converge([zone], "start"))  # type: ignore[misc]
            _stop([zone])
        singly.append(alone)
        together.append(seconds(lambda: _converge(declared, "start")))
    # Of several: what else the host's system does is as much as one zone takes.
    left = available_of_host()
    _stop(declared)
    result.update(zones=len(declared), cpus=os.cpu_count(), host_kib_for_zone=(available_of_host() - left) / len(declared))
    result.update(together_seconds=statistics.median(together), singly_seconds=statistics.median(singly))
    print(json.dumps(result))


def _converge(declared: list[dict[str, Any]], action: str) -> None:
    """One call of the module's library; if it does anything else, then something else is measured."""
    report = converge.converge(Store(), declared, {}, {}, converge.Policy(), check=False)
    done = {zone["action"] for zone in report.zones}
    if done != {action} or report.failures or report.rules_changed:
        raise SystemExit(f"the converge was to {action} {len(declared)} zones, and did {sorted(done)}: {report.failures}")


def _stop(declared: list[dict[str, Any]]) -> None:
    """End the zones, and let the host come to rest."""
    hypervisor = Hypervisor()
    for zone in declared:
        hypervisor.stop(zone["name"], _GRACE)
    subprocess.run(["udevadm", "settle"], check=True)


if __name__ == "__main__":
    main()
