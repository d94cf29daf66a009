#!/usr/bin/python
# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Module bundle: arguments and documentation, then one call into the library."""

from __future__ import annotations

DOCUMENTATION = r"""
module: bundle
short_description: Collect what hosts without network need
version_added: 0.1.0
description:
  - Makes a directory the bundle of OCI images, kernels, Debian packages and this collection, with a manifest of digests. A host converges
    from it without network; M(ringfence.zones.bundle_install) brings it there. The playbook C(ringfence.zones.bundle) calls this module
    for the hosts of an inventory.
  - Runs where the network is, usually on the control node.
  - A run that is broken off is taken up by the next one. What is there, and whole, is not fetched again. The manifest is written last, and
    a directory without it is no bundle.
  - Files that do not belong to the bundle are deleted in its directories C(images), C(debian), C(debian-security) and C(collections).
requirements:
  - Debian's C(apt), C(debian-archive-keyring) and C(skopeo) where it runs
options:
  directory:
    description:
      - The directory of the bundle. Its name is the bundle's name.
      - Files of 2 GiB and more are kept in parts, and all names are such that the directory can be copied to a FAT32 file system.
    type: path
    required: true
  images:
    description:
      - References of images and of kernels, as hosts declare them. They are looked up here, also those that are paths.
      - The F(policy.json), the mirrors and the credentials of this machine are those that count.
    type: list
    elements: str
    default: []
  packages:
    description:
      - The suites of Debian that the hosts run, and for each the packages beside those that the roles install. They and all that they
        depend on are collected, and with them Debian's standard system and C(openssh-server), for their updates.
    type: dict
    default: {trixie: []}
    suboptions:
      bookworm:
        description: Packages for hosts with Debian 12; an empty list for none beside those of the roles.
        type: list
        elements: str
      trixie:
        description: The same for hosts with Debian 13.
        type: list
        elements: str
  since:
    description:
      - The F(manifest.json) of an earlier bundle. What it lists is left out, and a host needs both.
    type: path
  collection:
    description: The root directory of this collection, installed or a checkout.
    type: path
    required: true
  mirror:
    description: A mirror of Debian's archive.
    type: str
    default: http://deb.debian.org/debian
  security_mirror:
    description: A mirror of Debian's archive of security updates.
    type: str
    default: http://deb.debian.org/debian-security
author:
  - the ringfence.zones authors (@ringfence)
attributes:
  check_mode:
    description: Can run in check mode and say what it would change.
    support: full
    details: Looks up all images and packages, and fetches none.
  diff_mode:
    description: Shows the files of the bundle before and after.
    support: full
extends_documentation_fragment:
  - ringfence.zones.host.platform
  - ansible.builtin.action_common_attributes
seealso:
  - module: ringfence.zones.bundle_install
"""

EXAMPLES = r"""
- name: Collect a bundle
  ringfence.zones.bundle:
    directory: /srv/bundles/2026-11
    images:
      - registry.example/web@sha256:fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9
      - registry.example/kernels/debian:13
    packages:
      bookworm: []
      trixie: [ansible-core]
    collection: "{{ playbook_dir }}/.."
  delegate_to: localhost
  run_once: true
  register: bundle

- name: Collect what has changed since
  ringfence.zones.bundle:
    directory: /srv/bundles/2026-12
    images:
      - registry.example/web@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
    collection: "{{ playbook_dir }}/.."
    since: /srv/bundles/2026-11/manifest.json
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
name:
  description: The name of the bundle.
  type: str
  returned: success
  sample: 2026-11
digest:
  description: The digest of its manifest; a host can be told to accept no other (O(ringfence.zones.bundle_install#module:digest)).
  type: str
  returned: success; in check mode, that of a manifest that would be written is not the final one
  sample: sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
images:
  description: What each reference names, by its full form; an image, or an index over architectures.
  type: dict
  returned: success
  sample: {"docker.io/library/nginx:latest": "sha256:fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9"}
fetched:
  description: The files that were, or would be, brought into the directory.
  type: list
  elements: str
  returned: success
size:
  description: Bytes of the files in the directory.
  type: int
  returned: success
earlier:
  description: How many files are left out because the earlier bundle has them.
  type: int
  returned: success
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.ringfence.zones.plugins.module_utils import debian
from ansible_collections.ringfence.zones.plugins.module_utils.bundle import collect, debian_archive
from ansible_collections.ringfence.zones.plugins.module_utils.bundle.manifest import Manifest
from ansible_collections.ringfence.zones.plugins.module_utils.errors import FAILURES, told


def main() -> None:
    """Collect the bundle that the arguments describe."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "images": {"type": "list", "elements": "str", "default": []},
            "packages": {
                "type": "dict",
                "default": {"trixie": []},
                "options": {suite: {"type": "list", "elements": "str"} for suite in debian.SUITES},
            },
            "since": {"type": "path"},
            "collection": {"type": "path", "required": True},
            "mirror": {"type": "str", "default": "http://deb.debian.org/debian"},
            "security_mirror": {"type": "str", "default": "http://deb.debian.org/debian-security"},
        },
        supports_check_mode=True,
    )
    params = module.params
    declared = collect.Declared(
        params["images"],
        {suite: names for suite, names in params["packages"].items() if names is not None},
        Path(params["collection"]),
        debian_archive.archive_addresses(params["mirror"], params["security_mirror"]),
    )
    since = Path(params["since"]) if params["since"] else None
    try:
        report = collect.collect(Path(params["directory"]).absolute(), declared, since, check=module.check_mode)
    except FAILURES as error:
        module.fail_json(msg=told(error))
    files = report.after.files.values()
    module.exit_json(
        changed=report.changed,
        name=report.after.name,
        digest=report.digest,
        images=dict(report.after.images),
        fetched=report.missing,
        size=sum(file.size for file in files if not file.earlier),
        earlier=sum(file.earlier for file in files),
        diff={"before": _listing(report.before), "after": _listing(report.after)},
    )


def _listing(manifest: Manifest | None) -> str:
    files = manifest.files if manifest else {}
    return "".join(f"{file.sha256} {path}{' (earlier)' if file.earlier else ''}\n" for path, file in sorted(files.items()))


if __name__ == "__main__":
    main()
