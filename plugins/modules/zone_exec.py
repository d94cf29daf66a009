#!/usr/bin/python
# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module zone_exec: arguments and documentation, then one call into the library."""

from __future__ import annotations

DOCUMENTATION = r"""
module: zone_exec
short_description: Run a command in the container of a zone
version_added: 0.1.0
description:
  - Runs a command in the container of a running zone, over shared memory between host and zone. The zone needs no network for it.
  - What the command prints is returned up to a limit, and is untrusted.
  - Fails if the command's exit status is not 0, and if the zone does not answer in time. While it serves another connection, it is tried
    again.
options:
  name:
    description: The zone.
    type: str
    required: true
  argv:
    description:
      - The command and its arguments. No shell is involved; name one if you want it.
      - While the command runs, the processes of the host and of the zone show them. Pass secrets by O(stdin).
    type: list
    elements: str
    required: true
  stdin:
    description: What the command reads from standard input.
    type: str
  timeout:
    description:
      - Seconds for connecting and for the command, more than 0.
      - A command that does not end in time is given up, and may go on in the zone.
    type: float
    default: 60
  limit:
    description: Bytes of standard output, and of standard error, that are returned; 0 or more.
    type: int
    default: 1048576
author:
  - the ringfence.zones authors (@ringfence)
attributes:
  check_mode:
    description: Skips the command in check mode.
    support: none
  diff_mode:
    description: Has nothing to show.
    support: none
extends_documentation_fragment:
  - ringfence.zones.host
  - ringfence.zones.host.platform
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: Which kernel does the zone run
  ringfence.zones.zone_exec:
    name: web
    argv: [uname, -r]
  register: kernel
  changed_when: false
"""

RETURN = r"""
rc:
  description: The command's exit status. V(255) may also mean that the zone died meanwhile, which is noticed after about a minute.
  type: int
  returned: when the command ended
stdout:
  description: What the command printed; bytes that are not UTF-8 are replaced.
  type: str
  returned: when the command ended
stderr:
  description: What the command printed as errors; bytes that are not UTF-8 are replaced.
  type: str
  returned: when the command ended
truncated:
  description: Whether it printed more than O(limit).
  type: bool
  returned: when the command ended
"""

import math

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.ringfence.zones.plugins.module_utils.errors import FAILURES, told
from ansible_collections.ringfence.zones.plugins.module_utils.zone import channel
from ansible_collections.ringfence.zones.plugins.module_utils.zone.hypervisor import Hypervisor


def main() -> None:
    """Run one command in one zone."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "argv": {"type": "list", "elements": "str", "required": True},
            "stdin": {"type": "str"},
            "timeout": {"type": "float", "default": 60},
            "limit": {"type": "int", "default": 1048576},
            # Not used; here so that module_defaults of the action group may name it.
            "store": {"type": "path", "default": "/var/lib/ringfence"},
        },
        # What is passed to a command is often secret: not for the host's journal.
        no_log=True,
    )
    name = module.params["name"]
    for option, accepted, expected in (
        ("argv", bool(module.params["argv"]), "a program and its arguments"),
        ("timeout", 0 < module.params["timeout"] < math.inf, "more than 0 seconds"),
        ("limit", module.params["limit"] >= 0, "0 bytes or more"),
    ):
        if not accepted:
            module.fail_json(msg=f"zone {name}: {option}: {module.params[option]} is not accepted; accepted: {expected}")
    try:
        domain_id = Hypervisor().zone_domain_id(name)
        answer = channel.execute(
            name,
            domain_id,
            module.params["argv"],
            stdin=(module.params["stdin"] or "").encode(),
            timeout=module.params["timeout"],
            limit=module.params["limit"],
        )
    except FAILURES as error:
        module.fail_json(msg=told(error))
    result = {
        "changed": True,
        "rc": answer.exit_status,
        "stdout": answer.stdout.decode("utf-8", "replace"),
        "stderr": answer.stderr.decode("utf-8", "replace"),
        "truncated": answer.truncated,
    }
    if answer.exit_status != 0:
        module.fail_json(msg=f"zone {name}: {module.params['argv'][0]} exited with {answer.exit_status}", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
