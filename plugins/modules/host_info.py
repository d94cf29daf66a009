#!/usr/bin/python
# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Module host_info: arguments and documentation, then one call for each fact."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_info
short_description: What a host runs zones with
version_added: 0.1.0
description:
  - Returns the hypervisor, its memory and modes, the zone runtime and the deployed kernels of a host. Changes nothing.
  - A host that is not booted into Xen is no error; RV(xen) is V(none) then.
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
"""

EXAMPLES = r"""
- name: Look at the host
  ringfence.zones.host_info:
  register: host

- name: Show what new zones could take
  ansible.builtin.debug:
    msg: "{{ host.xen.free_memory }} MiB free, modes {{ host.xen.modes | join(', ') }}"
"""

RETURN = r"""
xen:
  description: The hypervisor; V(none) if the host is not booted into Xen.
  type: dict
  returned: success
  contains:
    version:
      description: Version of Xen.
      type: str
    command_line:
      description: Parameters that Xen was booted with.
      type: str
    modes:
      description: The kinds of zone that the host can run, V(pv) and V(pvh).
      type: list
      elements: str
    cpus:
      description: CPUs of the machine.
      type: int
    total_memory:
      description: Memory of the machine in MiB.
      type: int
    free_memory:
      description: Memory in MiB that new zones could take.
      type: int
kernel:
  description: Release of the host's own kernel.
  type: str
  returned: success
runtime:
  description: Digest of the zone base that new zones get; V(none) if there is none yet.
  type: str
  returned: success
kernels:
  description: The deployed kernels.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: The name by which zones refer to it.
      type: str
    digest:
      description: Digest of its image's manifest.
      type: str
    release:
      description: The release as in C(uname -r).
      type: str
    modes:
      description: The kinds of guest it can be.
      type: list
      elements: str
    default:
      description: Whether it is the host's default.
      type: bool
"""

import platform
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.ringfence.zones.plugins.module_utils.errors import FAILURES, told
from ansible_collections.ringfence.zones.plugins.module_utils.host import xl_info
from ansible_collections.ringfence.zones.plugins.module_utils.kernel import kernels
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.zone import runtime
from ansible_collections.ringfence.zones.plugins.module_utils.zone.hypervisor import Hypervisor, booted_into_xen


def main() -> None:
    """Read the facts of this host."""
    module = AnsibleModule(
        argument_spec={"store": {"type": "path", "default": "/var/lib/ringfence"}},
        supports_check_mode=True,
    )
    store = Store(Path(module.params["store"]))
    try:
        module.exit_json(xen=_xen(), kernel=platform.release(), runtime=runtime.current_digest(store), kernels=_kernels(store))
    except FAILURES as error:
        module.fail_json(msg=told(error))


def _xen() -> dict[str, Any] | None:
    if not booted_into_xen():
        return None
    info = xl_info()
    hypervisor = Hypervisor()
    return {
        "version": info["xen_version"],
        "command_line": info["xen_commandline"],
        "modes": list(hypervisor.modes()),
        "cpus": int(info["nr_cpus"]),
        "total_memory": int(info["total_memory"]),
        "free_memory": hypervisor.free_memory(),
    }


def _kernels(store: Store) -> list[dict[str, Any]]:
    default = kernels.names(store).default
    return [
        {
            "name": name,
            "digest": kernel.digest,
            "release": kernel.release,
            "modes": list(kernel.modes),
            "default": name == default,
        }
        for name, kernel in sorted(kernels.deployed(store).items())
    ]


if __name__ == "__main__":
    main()
