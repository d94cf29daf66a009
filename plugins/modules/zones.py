#!/usr/bin/python
# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module zones: arguments and documentation, then one call into the library."""

from __future__ import annotations

DOCUMENTATION = r"""
module: zones
short_description: Converge the zones of a host
version_added: 0.1.0
description:
  - Makes a host run the declared zones. A zone is one unmodified OCI image in a Xen virtual machine of its own, with its own Linux kernel.
  - One call converges the whole host. Everything is validated, resolved and fetched before anything that runs is touched.
  - Domains of the host that are not zones of this collection are never touched.
  - A reference by tag is resolved when the zone is created or its C(image) changes, as with Compose's pull policy V(missing).
requirements:
  - A host that the roles P(ringfence.zones.host#role) and P(ringfence.zones.runtime#role) have set up.
options:
  zones:
    description:
      - The declared zones, each a mapping with the fields below. A misspelt field is refused, with the nearest valid one.
      - "C(name) (required): 1 to 40 of a-z, 0-9 and C(-). The name of the zone and of its libvirt domain."
      - "C(state): V(present) (default) or V(absent)."
      - "C(image) (required unless absent): C(docker://), C(oci:), C(oci-archive:), C(docker-archive:) or a bare reference; best by digest.
        A change recreates the zone with a fresh writable layer."
      - "C(kernel): name of a kernel that M(ringfence.zones.kernels) has deployed. Default: the host's default kernel.
        A change restarts the zone."
      - "C(virtualization): V(auto) (default; PVH where host and kernel can, else PV), V(pv) or V(pvh). A change restarts the zone."
      - "C(memory): a size with its unit, at least 64MiB. Default V(128MiB). A change restarts the zone."
      - "C(cpus): virtual CPUs, 1 to 64. Default V(1). A change restarts the zone."
      - "C(entrypoint), C(command): lists of strings, as in Compose. A change restarts the zone."
      - "C(environment): a mapping, or a list of C(NAME=value). A change restarts the zone."
      - "C(ports): a list of C(HOST:ZONE) or C(HOST:ZONE/udp). A change is applied while the zone runs."
      - "C(restart): V(no) (default), V(on-failure), C(on-failure:COUNT), V(always) or V(unless-stopped). With the last two the zone
        starts with the host. A change restarts the zone."
    type: list
    elements: dict
    required: true
  prune:
    description: Remove zones of this collection that are not declared. Without it they are only reported, in RV(undeclared).
    type: bool
    default: false
  start_timeout:
    description: Seconds within which the container of a zone must have started.
    type: float
    default: 120
author:
  - the ringfence.zones authors (@ringfence)
attributes:
  check_mode:
    description: Can run in check mode and say what it would change.
    support: full
    details: On a host that is not booted into Xen yet, the declaration is validated and every zone is predicted to be created.
  diff_mode:
    description: Shows the fields of each zone that changes, before and after.
    support: full
extends_documentation_fragment:
  - ringfence.zones.host
  - ansible.builtin.action_common_attributes
seealso:
  - module: ringfence.zones.kernels
  - module: ringfence.zones.zone_exec
"""

EXAMPLES = r"""
- name: Run a web server and a database
  ringfence.zones.zones:
    zones:
      - name: web
        image: registry.example/web@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
        ports: ["8080:80"]
        restart: unless-stopped
      - name: db
        image: oci-archive:/srv/images/postgres.tar
        memory: 512MiB
        restart: unless-stopped

- name: Remove a zone
  ringfence.zones.zones:
    zones:
      - name: web
        state: absent
"""

RETURN = r"""
zones:
  description: The declared zones, by name; also after a failure, with what was reached.
  type: list
  elements: dict
  returned: always
  contains:
    name:
      description: The zone.
      type: str
    action:
      description: What was, or would be, done.
      type: str
      choices: [create, recreate, restart, start, live, remove, keep]
    reasons:
      description: Why, one line for each difference.
      type: list
      elements: str
    changed:
      description: Whether anything of this zone was, or would be, changed.
      type: bool
    failed:
      description: Whether it could not be done.
      type: bool
    image:
      description: Digest of the image manifest.
      type: str
    kernel:
      description: Digest of the kernel image's manifest.
      type: str
    kernel_release:
      description: The kernel's release, as C(uname -r) says in the zone.
      type: str
    virtualization:
      description: V(pv) or V(pvh).
      type: str
    memory:
      description: Memory in MiB.
      type: int
    cpus:
      description: Virtual CPUs.
      type: int
    entrypoint:
      description: As declared.
      type: list
      elements: str
    command:
      description: As declared.
      type: list
      elements: str
    environment:
      description: The names of the declared variables; their values are not returned.
      type: list
      elements: str
    ports:
      description: Published ports.
      type: list
      elements: str
    restart:
      description: The restart policy.
      type: str
    address:
      description: The zone's IPv4 address on its host.
      type: str
    domain_id:
      description: Xen's number of the running domain, V(none) if it does not run.
      type: int
undeclared:
  description: Zones of this collection on the host that are not declared.
  type: list
  elements: str
  returned: always
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.ringfence.zones.plugins.module_utils.converge import Report, converge
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store


def main() -> None:
    """Converge the zones of this host."""
    module = AnsibleModule(
        argument_spec={
            "zones": {"type": "list", "elements": "dict", "required": True},
            "prune": {"type": "bool", "default": False},
            "start_timeout": {"type": "float", "default": 120},
            "store": {"type": "path", "default": "/var/lib/ringfence"},
        },
        supports_check_mode=True,
        # What is passed to containers is often secret: not for the host's journal.
        no_log=True,
    )
    try:
        report = converge(
            Store(Path(module.params["store"])),
            module.params["zones"],
            prune=module.params["prune"],
            check=module.check_mode,
            start_timeout=module.params["start_timeout"],
        )
    except RingfenceError as error:
        module.fail_json(msg=str(error), zones=[], undeclared=[])
    result = _result(report)
    if module._diff:
        result["diff"] = {"before": _without_values(report.before), "after": _without_values(report.after)}
    if report.failures:
        module.fail_json(msg="; ".join(report.failures), **result)
    module.exit_json(**result)


def _result(report: Report) -> dict[str, Any]:
    return {"changed": report.changed, "zones": report.zones, "undeclared": report.undeclared}


def _without_values(zones: dict[str, Any]) -> dict[str, Any]:
    """Zones for a diff: an environment often holds secrets, so values are not shown."""
    return {name: {**zone, "environment": sorted(zone.get("environment") or {})} if zone else None for name, zone in zones.items()}


if __name__ == "__main__":
    main()
