#!/usr/bin/python
# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module zone_info: arguments and documentation, then one call into the library."""

from __future__ import annotations

DOCUMENTATION = r"""
module: zone_info
short_description: What the zones of a host are like now
version_added: 0.1.0
description:
  - Returns every zone of this collection on a host, with its state and its declaration, and every named volume. Changes nothing.
  - What a zone says of its container is one short record of a fixed form; nothing else that it says is looked at.
requirements:
  - A host that is booted into Xen, with libvirt running.
author:
  - the ringfence.zones authors (@ringfence)
attributes:
  check_mode:
    description: Changes nothing in any mode.
    support: full
  diff_mode:
    description: Has nothing to show.
    support: none
extends_documentation_fragment:
  - ringfence.zones.host
  - ringfence.zones.host.platform
  - ansible.builtin.action_common_attributes
seealso:
  - module: ringfence.zones.zones
  - module: ringfence.zones.host_info
"""

EXAMPLES = r"""
- name: Look at the zones
  ringfence.zones.zone_info:
  register: found

- name: Fail if one of them does not run
  ansible.builtin.assert:
    that: found.zones | rejectattr('state', 'eq', 'running') | length == 0
"""

RETURN = r"""
zones:
  description: The zones, by name. A zone whose metadata cannot be read has the first eight values only.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: The zone.
      type: str
    state:
      description:
        - V(starting), the container has not been started yet; V(running); V(restarting), it has ended and is started again.
        - V(exited), the container ended and is not started again; V(stopped), the zone was asked to; V(failed), its init gave up.
        - V(crashed), the zone's kernel panicked; its console has the reason.
        - V(dead), the virtual machine ended without a word, by a power cut or because it was destroyed.
        - Of a zone that its host has started anew, by a boot or after a crash, this, the exit status, the counts and the health are
          those of its life before until its init writes them.
      type: str
      choices: [starting, running, restarting, exited, stopped, failed, crashed, dead]
    exit_status:
      description: Exit status of the container, the last one if it was restarted; V(none) if it has not ended yet.
      type: int
    restarts:
      description: How often the container was restarted since the zone's start.
      type: int
    oom_kills:
      description: How often the zone's kernel had killed a process for lack of memory when the container last ended.
      type: int
    crashes:
      description: How often the zone ended without a word while the container ran, and began anew. Its kernel panicked, or the host
        lost its power.
      type: int
    health:
      description: V(starting), V(healthy) or V(unhealthy); V(none) if nothing checks it. Null if the zone does not run.
      type: str
    domain_id:
      description: Xen's number of the running domain, V(none) if it does not run.
      type: int
    image:
      description: Digest of the image manifest.
      type: str
    kernel:
      description: Digest of the kernel image's manifest.
      type: str
    kernel_release:
      description: The kernel's release; V(none) if that kernel is no longer deployed.
      type: str
    virtualization:
      description: V(pv) or V(pvh).
      type: str
    memory:
      description: Memory in MiB, as the zone is defined.
      type: int
    cpus:
      description: Virtual CPUs, as the zone is defined.
      type: int
    cpu_shares:
      description: Weight among the zones of the host.
      type: int
    running:
      description: What the zone has of its host now; V(none) if it does not run.
      type: dict
      contains:
        memory:
          description: Memory in MiB, as Xen counts it.
          type: int
        most_memory:
          description: The memory that it was started with, in MiB.
          type: int
        cpus:
          description: The virtual CPUs that it was asked to use.
          type: int
        most_cpus:
          description: The virtual CPUs that it was started with.
          type: int
    entrypoint:
      description: As declared.
      type: list
      elements: str
      returned: when declared
    command:
      description: As declared.
      type: list
      elements: str
      returned: when declared
    environment:
      description: The names of the declared variables; their values are not returned.
      type: list
      elements: str
      returned: when declared
    ports:
      description: Published ports, with their address of the host if they have one, such as C(192.0.2.5:8080:80/tcp).
      type: list
      elements: str
      returned: when declared
    restart:
      description: The restart policy.
      type: str
    user:
      description: As declared.
      type: str
      returned: when declared
    working_dir:
      description: As declared.
      type: str
      returned: when declared
    hostname:
      description: As declared.
      type: str
      returned: when declared
    labels:
      description: The labels.
      type: dict
      returned: when declared
    read_only:
      description: Whether the container cannot write to its root file system.
      type: bool
      returned: when declared
    cap_add:
      description: Added capabilities, without C(CAP_).
      type: list
      elements: str
      returned: when declared
    cap_drop:
      description: Dropped capabilities, without C(CAP_).
      type: list
      elements: str
      returned: when declared
    tmpfs:
      description: Mounts of memory.
      type: list
      elements: str
      returned: when declared
    ulimits:
      description: Soft and hard limits by name.
      type: dict
      returned: when declared
    sysctls:
      description: Kernel parameters.
      type: dict
      returned: when declared
    stop_signal:
      description: Name of the signal, without C(SIG).
      type: str
      returned: when declared
    stop_grace_period:
      description: Seconds.
      type: int
    volumes:
      description: The volumes that the zone has.
      type: list
      elements: str
      returned: when declared
    healthcheck:
      description: The declared check, without what the image says.
      type: dict
      returned: when declared
    depends_on:
      description: The condition by the name of each zone that comes before.
      type: dict
      returned: when declared
    secrets:
      description: Where the zone has which secret, C(NAME:/path).
      type: list
      elements: str
      returned: when declared
    devices:
      description: The devices that the zone has, C(SOURCE:TARGET:rwm).
      type: list
      elements: str
      returned: when declared
    networks:
      description: The declared connections, C(egress) and C(ingress), a text for each.
      type: dict
      returned: when declared
    peers:
      description: Addresses by name of the zones that let this one in.
      type: dict
      returned: when there are any
    dns:
      description: Name servers.
      type: list
      elements: str
      returned: when declared
    extra_hosts:
      description: Addresses by name.
      type: dict
      returned: when declared
    address:
      description: The zone's IPv4 address on its host.
      type: str
    address6:
      description: The zone's IPv6 address on its host.
      type: str
    runtime_outdated:
      description: Whether a newer zone base is on the host, which the zone takes when it is started for another reason.
      type: bool
volumes:
  description: The named volumes, by name.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: The volume.
      type: str
    size:
      description: Its size in MiB.
      type: int
    zone:
      description: The zone that has it; V(none) if no zone does.
      type: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.ringfence.zones.plugins.module_utils.errors import FAILURES, told
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.zone import state
from ansible_collections.ringfence.zones.plugins.module_utils.zone.hypervisor import Hypervisor


def main() -> None:
    """Read the state of this host's zones."""
    module = AnsibleModule(
        argument_spec={"store": {"type": "path", "default": "/var/lib/ringfence"}},
        supports_check_mode=True,
    )
    store = Store(Path(module.params["store"]))
    try:
        zones = state.zones(store, Hypervisor())
    except FAILURES as error:
        module.fail_json(msg=told(error))
    module.exit_json(zones=zones, volumes=state.all_volumes(store, zones))


if __name__ == "__main__":
    main()
