# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the zones and volumes of a host are like now. Reads only."""

from __future__ import annotations

import dataclasses
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.kernel import kernels
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.zone import files, network, runtime, volumes
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import shown
from ansible_collections.ringfence.zones.plugins.module_utils.zone.files import Record
from ansible_collections.ringfence.zones.plugins.module_utils.zone.hypervisor import Hypervisor
from ansible_collections.ringfence.zones.plugins.module_utils.zone.observed import Observed

_UNREADABLE = Record("running", None, 0)
"""Of a zone whose metadata cannot be read, so that nobody knows where its record is."""


def zones(store: Store, hypervisor: Hypervisor) -> list[dict[str, Any]]:
    """Every zone of the host, by name, as the module ``zone_info`` returns it."""
    observed, _foreign = hypervisor.observe(most=True)
    current = runtime.find_current(store)
    releases = {kernel.digest: kernel.release for kernel in kernels.deployed(store).values()}
    found = []
    for name, zone in sorted(observed.items()):
        record = files.read_record(store, zone.definition) if zone.definition else _UNREADABLE
        result: dict[str, Any] = {
            "name": name,
            "state": state(zone, record),
            "exit_status": record.exit_status if record else None,
            "restarts": record.restarts if record else 0,
            "oom_kills": record.oom_kills if record else 0,
            "crashes": record.crashes if record else 0,
            "health": record.health if record and zone.active else None,
            "domain_id": zone.domain_id,
        }
        if zone.definition:
            result.update(shown(zone.definition.fields))
            result["running"] = dataclasses.asdict(zone.running) if zone.running else None
            result["address"] = network.address(zone.definition.index)
            result["address6"] = network.address6(zone.definition.index)
            result["kernel_release"] = releases.get(zone.definition.kernel)
            result["runtime_outdated"] = current is not None and zone.definition.runtime != current.digest
        found.append(result)
    return found


def state(zone: Observed, record: Record | None) -> str:
    """One word for how a zone is; one whose virtual machine ended without a word is ``crashed`` or, if nobody knows why, ``dead``."""
    if zone.active:
        return record.state if record else "starting"
    if record and record.state in ("stopped", "exited", "failed"):
        return record.state
    return "crashed" if zone.crashed else "dead"


def all_volumes(store: Store, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every named volume of the host, by name, and the zone that has it.

    :param found: what :func:`zones` returned.
    """
    users = {mount.partition(":")[0]: zone["name"] for zone in found for mount in zone.get("volumes", [])}
    return [{"name": name, "size": size, "zone": users.get(name)} for name, size in sorted(volumes.existing(store).items())]
