#!/usr/bin/python
# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Module bundle_install: arguments and documentation, then one call into the library."""

from __future__ import annotations

DOCUMENTATION = r"""
module: bundle_install
short_description: Install a bundle on a host without network
version_added: 0.1.0
description:
  - Verifies a bundle that M(ringfence.zones.bundle) has collected, and keeps a copy of it below C(bundle) in O(store). Then
    M(ringfence.zones.kernels) and M(ringfence.zones.zones) find images there before they ask a registry, and apt finds packages
    with RV(apt_config).
  - A copy that was broken off is taken up by the next run of the same bundle, with the files that are whole.
  - What the installed bundle before had and this one does not need is deleted.
  - A bundle that builds on an earlier one needs what that one has to be on the host already.
  - Nothing of a bundle is used before all of its files have the sizes and digests of its manifest. Images are then fetched from it by
    skopeo, as the host's F(policy.json) allows it for the transport C(oci), and apt checks Debian's signatures.
options:
  source:
    description: The directory of the bundle on the host; a medium that is mounted, or a copy.
    type: path
    required: true
  digest:
    description:
      - The digest of the bundle's manifest, as C(sha256:) and 64 hexadecimal digits. A bundle with another one is refused.
      - With it, O(source) need not be there any more once the bundle is installed.
      - Without it, a bundle is held to its own manifest, and whoever can write to the medium can write both.
    type: str
author:
  - the ringfence.zones authors (@ringfence)
attributes:
  check_mode:
    description: Can run in check mode and say whether it would change something.
    support: full
    details: >-
      Reads what the host has; the files that would be copied are only looked for. Modules that run after it in check mode find the bundle
      that was installed before.
  diff_mode:
    description: Shows the digest of the installed bundle's manifest before and after.
    support: full
extends_documentation_fragment:
  - ringfence.zones.host
  - ringfence.zones.host.platform
  - ansible.builtin.action_common_attributes
seealso:
  - module: ringfence.zones.bundle
"""

EXAMPLES = r"""
- name: Install the bundle of a mounted medium
  ringfence.zones.bundle_install:
    source: /media/usb/2026-11
    digest: sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
  register: bundle

- name: Upgrade the packages that it has newer than the host
  ansible.builtin.apt:
    upgrade: safe
  environment:
    APT_CONFIG: "{{ bundle.apt_config }}"
"""

RETURN = r"""
name:
  description: The name of the bundle.
  type: str
  returned: success
  sample: 2026-11
digest:
  description: The digest of its manifest.
  type: str
  returned: success
  sample: sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
copied:
  description: The files that were, or would be, copied; the host had all others.
  type: list
  elements: str
  returned: success
apt_config:
  description: The file for C(APT_CONFIG), with which apt takes packages from the bundle and from nowhere else.
  type: str
  returned: success
  sample: /var/lib/ringfence/bundle/current/apt/apt.conf
"""

import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.ringfence.zones.plugins.module_utils.bundle import install
from ansible_collections.ringfence.zones.plugins.module_utils.errors import FAILURES, told
from ansible_collections.ringfence.zones.plugins.module_utils.host import os_release
from ansible_collections.ringfence.zones.plugins.module_utils.image.registry import host_architecture
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store


def main() -> None:
    """Install the bundle that the arguments name."""
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "digest": {"type": "str"},
            "store": {"type": "path", "default": "/var/lib/ringfence"},
        },
        supports_check_mode=True,
    )
    digest = module.params["digest"]
    if digest is not None and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        module.fail_json(msg=f"digest {digest!r}: accepted is sha256: and 64 lower-case hexadecimal digits; the module bundle returns it")
    store = Store(Path(module.params["store"]))
    suite = os_release().get("VERSION_CODENAME", "")
    try:
        report = install.install(store, Path(module.params["source"]), digest, suite, host_architecture(), check=module.check_mode)
    except FAILURES as error:
        module.fail_json(msg=told(error))
    module.exit_json(
        changed=report.changed,
        name=report.manifest.name,
        digest=report.after,
        copied=report.copied,
        apt_config=str(report.apt_config),
        diff={"before": {"digest": report.before}, "after": {"digest": report.after}},
    )


if __name__ == "__main__":
    main()
