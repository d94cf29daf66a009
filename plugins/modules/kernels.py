#!/usr/bin/python
# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Module kernels: arguments and documentation, then one call into the library."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kernels
short_description: Deploy kernels for zones from OCI images
version_added: 0.1.0
description:
  - Makes a host have the declared kernels, each under a name that zones refer to. A kernel comes from an OCI image with the layout
    that M(ringfence.zones.kernel_image) makes, and is kept by the digest of that image.
  - Everything declared is looked up before anything changes. Names change together, when all kernels are on the host.
  - A kernel is accepted if its content matches its digest, it is for the host's architecture, Xen can start it as PV or PVH guest, and
    it has what a zone needs, built in or as a module - the Xen block and network frontends, grant and event channel devices, EROFS,
    SquashFS, overlay and ext4. FUSE and TUN are unpacked with them if the kernel has them, for zones with such C(devices).
  - Running zones keep the kernel they were started with. Kernels that are no longer declared stay, and are reported.
requirements:
  - C(skopeo) and C(squashfs-tools) on the host; C(zstd) or C(lz4) for kernels and images compressed with them
options:
  kernels:
    description:
      - The kernels that the host shall have.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The name by which zones refer to the kernel. 1 to 40 of a-z, 0-9, C(.) and C(-).
        type: str
        required: true
      image:
        description:
          - The image, as C([docker://]HOST/NAME[:TAG][@DIGEST]), C(oci:/DIRECTORY[:TAG]) or C(oci-archive:/FILE[:TAG]).
          - A digest never changes its meaning, and needs no registry once it is deployed. A tag is looked up each time.
        type: str
        required: true
      default:
        description: Whether zones that name no kernel get this one. If none of the kernels is marked, it is the first.
        type: bool
        default: false
author:
  - the ringfence.zones authors (@ringfence)
attributes:
  check_mode:
    description: Can run in check mode and say what it would change.
    support: full
    details: Images are looked up but not fetched. On a host without C(skopeo), which has no kernels yet, they are not looked up either.
  diff_mode:
    description: Shows what each name stands for before and after.
    support: full
extends_documentation_fragment:
  - ringfence.zones.host
  - ansible.builtin.action_common_attributes
seealso:
  - module: ringfence.zones.kernel_image
"""

EXAMPLES = r"""
- name: Deploy two kernels
  ringfence.zones.kernels:
    kernels:
      - name: stable
        image: registry.example/kernels/debian@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
        default: true
      - name: bookworm
        image: oci-archive:/srv/kernels/debian-12.tar
"""

RETURN = r"""
kernels:
  description: The declared kernels.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: The declared name.
      type: str
    image:
      description: The declared image.
      type: str
    digest:
      description: The digest of the image manifest. V(none) only in check mode on a host that cannot look images up yet.
      type: str
    release:
      description: The kernel's release as in C(uname -r). In check mode V(none) for a kernel that is not on the host yet.
      type: str
    modes:
      description: The kinds of guest it can be, V(pv) and V(pvh). In check mode V(none) for a kernel that is not on the host yet.
      type: list
      elements: str
    default:
      description: Whether it is the host's default.
      type: bool
    changed:
      description: Whether this kernel was deployed, or its name or the default now stands for something else.
      type: bool
  sample:
    - name: stable
      image: registry.example/kernels/debian:13
      digest: sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
      release: 6.12.48+deb13-amd64
      modes: [pv, pvh]
      default: true
      changed: true
undeclared:
  description: Names of deployed kernels that are not declared.
  type: list
  elements: str
  returned: success
stored:
  description: Declared names whose kernels were brought to the host before another one failed. No name stands for something else yet.
  type: list
  elements: str
  returned: failure of a transfer or of a kernel's content
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.ringfence.zones.plugins.module_utils import kernels
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store


def main() -> None:
    """Converge the kernels of this host."""
    module = AnsibleModule(
        argument_spec={
            "kernels": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "image": {"type": "str", "required": True},
                    "default": {"type": "bool", "default": False},
                },
            },
            "store": {"type": "path", "default": "/var/lib/ringfence"},
        },
        supports_check_mode=True,
    )
    try:
        declared = kernels.declare(module.params["kernels"])
        report = kernels.converge(Store(Path(module.params["store"])), declared, check=module.check_mode)
    except kernels.DeploymentFailed as error:
        module.fail_json(msg=str(error), changed=bool(error.stored), stored=error.stored)
    except RingfenceError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=report.changed,
        kernels=report.kernels,
        undeclared=report.undeclared,
        diff={"before": report.before.document(), "after": report.after.document()},
    )


if __name__ == "__main__":
    main()
