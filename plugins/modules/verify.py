#!/usr/bin/python
# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module verify: arguments and documentation, then one call into the library."""

from __future__ import annotations

DOCUMENTATION = r"""
module: verify
short_description: Which isolation promises hold on a host now
version_added: 0.1.0
description:
  - Reads a live host and judges every isolation promise of this collection by what is found. To look changes nothing, and is safe at any
    time.
  - By default it only looks. A promise that needs an attack to be tested is then reported as not tested, never as held.
  - With O(depth=attack) it starts two hostile zones of its own, C(ringfence-attack-1) and C(ringfence-attack-2), lets them try what the
    promises forbid, and removes them. Each attempt is also made without isolation, where it has to succeed.
  - The task does not fail for a promise that is broken, so that a report can be written first. The playbook C(ringfence.zones.verify)
    writes the reports of all hosts, and fails then.
  - What cannot be read, for example because libvirt does not answer, makes the promises that need it V(not_tested), with the reason.
options:
  dom0_memory:
    description: As declared for the role P(ringfence.zones.host#role), with which the running system is compared.
    type: str
    default: 1536MiB
  dom0_cpus:
    description: As declared for the role P(ringfence.zones.host#role).
    type: int
    default: 0
  xen_options:
    description: As declared for the role P(ringfence.zones.host#role).
    type: list
    elements: str
    default: []
  depth:
    description:
      - V(observe) reads only. V(attack) attacks with zones of its own, and takes minutes and 256 MiB of Xen's free memory; declared zones
        are not touched, and share the host with floods of 10 s each. It ends after 25 minutes. The nftables table of all zones is loaded
        anew, as it is whenever a zone begins.
      - While it lasts, containers with all privileges run on the host itself for control; use it where that is acceptable.
      - In check mode nothing is attacked, and what needs an attack is not tested.
    type: str
    choices: [observe, attack]
    default: observe
  promises:
    description:
      - With O(depth=attack), the numbers of the promises to attack; the others are judged by what is observed. Without it, all are attacked
        that can be.
    type: list
    elements: int
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
  - module: ringfence.zones.zone_info
  - module: ringfence.zones.host_info
"""

EXAMPLES = r"""
- name: See which promises hold
  ringfence.zones.verify:
  register: verified

- name: Fail if one is broken
  ansible.builtin.assert:
    that: verified.report.summary.broken == 0
    fail_msg: "{{ verified.report.rows | selectattr('result', 'eq', 'broken') | map(attribute='why') | join('; ') }}"
"""

RETURN = r"""
report:
  description: The report; docs/verify.md of the collection describes every key.
  type: dict
  returned: success
  contains:
    schema:
      description: Version of this form.
      type: int
    depth:
      description: How it was tested.
      type: str
      choices: [observe, attack]
    date:
      description: When, by the host's clock, in UTC.
      type: str
    summary:
      description: The number of promises by result, C(held), C(broken) and C(not_tested).
      type: dict
    rows:
      description: The promises, by number.
      type: list
      elements: dict
      contains:
        number:
          description: The promise's number, which never changes.
          type: int
        promise:
          description: What is promised.
          type: str
        depth:
          description: V(attack) if the promise was attacked, else V(observe).
          type: str
          choices: [observe, attack]
        tested:
          description: What is looked at, and what is not.
          type: str
        result:
          description: V(held), V(broken) or V(not_tested).
          type: str
          choices: [held, broken, not_tested]
        why:
          description: Why it is not held; V(none) if it is.
          type: str
        evidence:
          description: What was found, at most 21 lines of printable ASCII.
          type: list
          elements: str
    versions:
      description: Versions, digests and boot parameters.
      type: dict
    zones:
      description: The zones, with the digests of what they run.
      type: list
      elements: dict
    attack_surface:
      description: Sizes of the code of Xen and of the host's kernel, in bytes; V(none) if nothing was measured.
      type: dict
    advisories:
      description: Xen's security advisories that are not shown to be fixed on the host, by a table that comes with the collection.
      type: dict
    information:
      description: The CPU's vulnerabilities and Xen's log about them, and what could not be read.
      type: dict
"""

import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.ringfence.zones.plugins.module_utils.attack import result
from ansible_collections.ringfence.zones.plugins.module_utils.boot import decisions
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.verify import observe
from ansible_collections.ringfence.zones.plugins.module_utils.verify import promises as verify

_TRIAL_TIMEOUT = 600
"""The default; no promise depends on it."""


def main() -> None:
    """Judge this host."""
    module = AnsibleModule(
        argument_spec={
            "store": {"type": "path", "default": "/var/lib/ringfence"},
            "dom0_memory": {"type": "str", "default": "1536MiB"},
            "dom0_cpus": {"type": "int", "default": 0},
            "xen_options": {"type": "list", "elements": "str", "default": []},
            "depth": {"type": "str", "choices": ["observe", "attack"], "default": "observe"},
            "promises": {"type": "list", "elements": "int"},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        options = decisions.parse_options(given["dom0_memory"], given["dom0_cpus"], given["xen_options"], _TRIAL_TIMEOUT)
    except RingfenceError as error:
        module.fail_json(msg=str(error))
    promises = set(result.TESTED if given["promises"] is None else given["promises"])
    unknown = sorted(promises - set(result.TESTED))
    if unknown:
        accepted = ", ".join(map(str, result.TESTED))
        module.fail_json(msg=f"promises: {', '.join(map(str, unknown))} cannot be attacked; accepted: {accepted}")
    store = Store(Path(given["store"]))
    facts = observe.observe(store, options)
    attacks = None
    if given["depth"] == "attack":
        # Half of the library, and most verifications only observe.
        from ansible_collections.ringfence.zones.plugins.module_utils.verify import attack  # noqa: PLC0415

        refused = "the module runs in check mode" if module.check_mode else None if facts.in_xen else "this host is not booted into Xen"
        try:
            attempts, faults = ([], {result.EVERY: refused}) if refused else attack.attack(store, promises)
        except KeyboardInterrupt as error:
            why = error or "interrupted"
            module.fail_json(msg=f"the attack was ended ({why}), and there is no report; what is left of it, the next attack removes")
        attacks = verify.Attacks(attempts, faults, promises)
    module.exit_json(changed=False, report=verify.report(facts, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), attacks))


if __name__ == "__main__":
    main()
