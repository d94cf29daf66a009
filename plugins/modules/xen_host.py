#!/usr/bin/python
# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module xen_host: arguments and documentation, then one call into the library."""

from __future__ import annotations

DOCUMENTATION = r"""
module: xen_host
short_description: Make a Debian machine boot Xen, by a trial boot
version_added: 0.1.0
description:
  - Brings the boot configuration of a Debian machine to Xen with the declared dom0, in steps between which packages are installed and
    the machine is rebooted. The role P(ringfence.zones.host#role) calls it in that order.
  - What GRUB boots by default has always been booted and found healthy before. Until Xen is, and whenever its parameters change, the
    default is plain Linux, and Xen is booted once, on trial. A Xen that panics reboots by itself, so does a dom0 kernel without a root
    file system, and a dom0 that is not confirmed in time is rebooted by a timer; each time the machine comes back with plain Linux.
options:
  state:
    description:
      - With V(prepared), the machine is checked and plain Linux is made its default, so that Debian's Xen packages can be installed.
      - With V(armed), GRUB gets its entry for Xen, and the next boot is a trial of it if one is needed and O(reboot) allows it.
      - With V(confirmed), a healthy Xen becomes the default. If Xen is not booted or not healthy, the module fails with the evidence.
    type: str
    required: true
    choices: [prepared, armed, confirmed]
  dom0_memory:
    description: Memory of dom0, as a number with V(MiB) or V(GiB). dom0 neither grows nor shrinks.
    type: str
    default: 1536MiB
  dom0_cpus:
    description: Virtual CPUs of dom0; V(0) means as many as the machine has.
    type: int
    default: 0
  xen_options:
    description: Options of Xen's command line beside those of the collection; an option named here replaces one of the same name.
    type: list
    elements: str
    default: []
  trial_timeout:
    description: Seconds after the boot of a trial at which a machine that was not confirmed goes back to plain Linux.
    type: int
    default: 600
  reboot:
    description:
      - Whether the next boot may be a trial. Otherwise a needed reboot is only reported.
      - A trial that an earlier run armed, more than a minute ago and without a reboot since, is then called off.
    type: bool
    default: false
author:
  - the ringfence.zones authors (@ringfence)
attributes:
  check_mode:
    description: Can run in check mode and say what it would change.
    support: full
  diff_mode:
    description: Shows the files before and after.
    support: full
extends_documentation_fragment:
  - ringfence.zones.host.platform
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: Check the machine, and keep plain Linux its default
  ringfence.zones.xen_host:
    state: prepared
  register: prepared

- name: Install what it needs
  ansible.builtin.apt:
    name: "{{ prepared.packages }}"
    install_recommends: false
  when: prepared.packages | length > 0 and not ansible_check_mode

- name: Bring the boot configuration to Xen
  ringfence.zones.xen_host:
    state: armed
    reboot: true
  register: boot

- name: Boot into Xen
  ansible.builtin.reboot:
  when: boot.armed

- name: Make Xen the default
  ringfence.zones.xen_host:
    state: confirmed
  when: boot.unconfirmed
"""

RETURN = r"""
pending:
  description: Why a reboot is needed; empty if what is booted is what is declared.
  type: list
  elements: str
  returned: success
armed:
  description: Whether the next boot is a trial of Xen.
  type: bool
  returned: success
unconfirmed:
  description: Whether Xen has to be confirmed, after the reboot if there is one.
  type: bool
  returned: success
packages:
  description:
    - The Debian packages that are to be installed, without recommended ones; with O(state=prepared). Empty if the host has them all.
    - In check mode they count as a change of this module, because apt can tell of packages only when it has their lists.
  type: list
  elements: str
  returned: success
msg:
  description: That a reboot is pending, why, and what lets the play do it; also a warning. After a failure, why.
  type: str
  returned: failure, and when a reboot is pending that O(reboot) does not allow
problems:
  description: Every reason why the declaration is not accepted, or why the machine cannot become a Xen host. Nothing was changed.
  type: list
  elements: str
  returned: failure for such a reason
ansible_facts:
  description: Facts of the host.
  returned: success
  type: dict
  contains:
    ringfence_host_reboot_pending:
      description: Whether the host is not booted as declared.
      type: bool
      returned: success
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.ringfence.zones.plugins.module_utils.boot import decisions, xen_host
from ansible_collections.ringfence.zones.plugins.module_utils.errors import FAILURES, InvalidDeclaration, told


def main() -> None:
    """Take one step towards a machine that boots Xen."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "required": True, "choices": ["prepared", "armed", "confirmed"]},
            "dom0_memory": {"type": "str", "default": "1536MiB"},
            "dom0_cpus": {"type": "int", "default": 0},
            "xen_options": {"type": "list", "elements": "str", "default": []},
            "trial_timeout": {"type": "int", "default": 600},
            "reboot": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    declared = {name: module.params[name] for name in ("dom0_memory", "dom0_cpus", "xen_options", "trial_timeout")}
    try:
        outcome = _step(module, decisions.parse_options(**declared))
    except InvalidDeclaration as error:
        module.fail_json(msg="nothing was changed: " + "; ".join(error.problems), problems=error.problems)
    except FAILURES as error:
        module.fail_json(msg=told(error))
    result: dict[str, Any] = {
        "changed": outcome.changed,
        "pending": outcome.pending,
        "armed": outcome.armed,
        "unconfirmed": outcome.unconfirmed,
        "packages": outcome.packages,
        "ansible_facts": {"ringfence_host_reboot_pending": bool(outcome.pending) and not outcome.armed},
    }
    if outcome.pending and not module.params["reboot"]:
        result["msg"] = f"a reboot is pending: {'; '.join(outcome.pending)}. ringfence_host_reboot: true lets the play do it"
        module.warn(result["msg"])
    if module._diff:
        result["diff"] = [
            {"before_header": path, "after_header": path, "before": before, "after": after}
            for path, (before, after) in sorted(outcome.changes.items())
        ]
    module.exit_json(**result)


def _step(module: AnsibleModule, options: decisions.Options) -> xen_host.Outcome:
    if module.params["state"] == "prepared":
        return xen_host.prepare(options, check=module.check_mode)
    if module.params["state"] == "armed":
        return xen_host.arm(options, reboot=module.params["reboot"], check=module.check_mode)
    return xen_host.confirm(options, check=module.check_mode)


if __name__ == "__main__":
    main()
