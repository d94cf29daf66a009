#!/usr/bin/python
# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module runtime: arguments and documentation, then one call into the library."""

from __future__ import annotations

DOCUMENTATION = r"""
module: runtime
short_description: Install what zones need on a host
version_added: 0.1.0
description:
  - Installs the host's part of the zone runtime (units, rules, the script that connects a zone's interface), and composes the zone
    base from programs of the host's distribution. The role P(ringfence.zones.runtime#role) calls it with the files it carries.
  - Running zones keep the zone base that they were started with.
options:
  files:
    description: Files of the host.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path on the host.
        type: path
        required: true
      content:
        description: The text of the file.
        type: str
        required: true
      executable:
        description: Whether it is a program.
        type: bool
        default: false
      diverted:
        description:
          - Whether it takes the place of a file of a Debian package.
          - That file is kept beside it, with the suffix C(.distrib), also when the package is upgraded (see C(dpkg-divert)).
        type: bool
        default: false
  library:
    description: The library of the command C(zonectl), the text of its files by name.
    type: dict
    default: {}
  scripts:
    description: The scripts of the zone base, their text by file name; C(boot) is the first program of a zone.
    type: dict
    required: true
author:
  - the ringfence.zones authors (@ringfence)
attributes:
  check_mode:
    description: Can run in check mode and say what it would change.
    support: full
  diff_mode:
    description: Shows the files, and the digest of the zone base, before and after.
    support: full
extends_documentation_fragment:
  - ringfence.zones.host
  - ringfence.zones.host.platform
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: Install the zone runtime
  ringfence.zones.runtime:
    files:
      - path: /usr/lib/ringfence/vif
        content: "{{ lookup('ansible.builtin.file', 'vif', rstrip=false) }}"
        executable: true
    scripts:
      boot: "{{ lookup('ansible.builtin.file', 'zone/boot', rstrip=false) }}"
      init: "{{ lookup('ansible.builtin.file', 'zone/init', rstrip=false) }}"
      poweroff: "{{ lookup('ansible.builtin.file', 'zone/poweroff', rstrip=false) }}"
"""

RETURN = r"""
runtime:
  description: Digest of the zone base; V(none) in check mode on a host that lacks its programs yet.
  type: str
  returned: success
"""

import hashlib
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.ringfence.zones.plugins.module_utils.errors import FAILURES, told
from ansible_collections.ringfence.zones.plugins.module_utils.host_files import HostFile
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.zone import install


def main() -> None:
    """Converge the runtime of this host."""
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str", "required": True},
                    "executable": {"type": "bool", "default": False},
                    "diverted": {"type": "bool", "default": False},
                },
            },
            "library": {"type": "dict", "default": {}},
            "scripts": {"type": "dict", "required": True},
            "store": {"type": "path", "default": "/var/lib/ringfence"},
        },
        supports_check_mode=True,
    )
    files = [HostFile(**entry) for entry in module.params["files"]]
    store = Store(Path(module.params["store"]))
    try:
        report = install.install(store, files, module.params["library"], module.params["scripts"], check=module.check_mode)
    except FAILURES as error:
        module.fail_json(msg=told(error))
    result: dict[str, Any] = {"changed": report.changed, "runtime": report.after}
    if module._diff:
        result["diff"] = [
            *(
                {"before_header": path, "after_header": path, "before": old, "after": new}
                for path, (old, new) in sorted(report.files.items())
            ),
            # Which files; their text is the collection's own.
            {
                "before": "".join(f"{path} {_digest(old)}\n" for path, (old, _new) in sorted(report.library.items()))
                + "".join(f"{path} superfluous\n" for path in report.superfluous),
                "after": "".join(f"{path} {_digest(new)}\n" for path, (_old, new) in sorted(report.library.items())),
            },
            {"before": f"zone base {report.before}\n", "after": f"zone base {report.after}\n"},
            {"before": "", "after": "rules of the network: load\n" if report.rules else ""},
        ]
    module.exit_json(**result)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16] if text else "-"


if __name__ == "__main__":
    main()
