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
    that M(ringfence.zones.kernel_image) makes, and is kept by the digest of that image. Of an index over several architectures it is the
    image for the host's.
  - Images with the older layout, that of weaveworks' ignite, are accepted likewise. They hold C(boot/vmlinuz) or C(boot/vmlinux), also with
    C(-RELEASE) after it, and C(lib/modules/RELEASE). The configuration is that of C(boot/config-RELEASE), or the one in the kernel
    (C(CONFIG_IKCONFIG)). Without one, only modules count as what a zone needs, for what is built in cannot be checked.
  - Everything declared is looked up before anything changes. Names change together, when all kernels are on the host.
  - A kernel is accepted if its content matches its digest, it is for the host's architecture, Xen can start it as PV or PVH guest, and
    it has what a zone needs, built in or as a module - the Xen block and network frontends, grant and event channel devices, EROFS,
    SquashFS, overlay and ext4. FUSE and TUN are unpacked with them if the kernel has them, for zones with such C(devices).
  - Where the host runs Xen and has a zone base, a kernel is booted before it is accepted, in a domain of its own without a network, as
    each kind of guest that it and the host can be. One that panics, hangs or cannot use its disk is refused with the last lines of its
    console, and nothing is left of it.
  - The image is accepted as C(/etc/containers/policy.json) of the host says; C(docs/trust.md) of the collection says how to ask for
    signatures.
  - Each run compares the files of the declared kernels with the digests written down when they were deployed. What is damaged is fetched
    and accepted again.
  - Running zones keep the kernel they were started with. Kernels that are no longer declared stay, and are reported, unless O(prune).
requirements:
  - C(python3-libvirt) on a host that runs Xen, for O(test_boot) and O(prune)
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
          - A digest never changes its meaning, and needs no registry once it is deployed. What a tag means is looked up when the kernel is
            first deployed, and written down; see O(pull).
        type: str
        required: true
      default:
        description: Whether zones that name no kernel get this one. If none of the kernels is marked, it is the first.
        type: bool
        default: false
  pull:
    description:
      - When an image that is not declared by digest is looked up. V(missing) keeps the digest that was found first, until
        O(kernels[].image) changes, as M(ringfence.zones.zones) does for zones. V(always) looks it up in each run, so a tag that was
        moved is deployed.
    type: str
    choices: [missing, always]
    default: missing
  prune:
    description:
      - Whether names that are not declared are forgotten. One that a zone of the host refers to stays, declared or not. While a host with
        zones is not booted into Xen, all names stay.
      - The files of a kernel that no name stands for and no zone uses are deleted by M(ringfence.zones.zones), but for the last few
        (its O(ringfence.zones.zones#module:keep_unused)).
    type: bool
    default: false
  test_boot:
    description:
      - Whether a kernel is booted before it is accepted. It takes 256 MiB of the host's free memory for some seconds.
      - A kernel that is already on the host is not booted again.
    type: bool
    default: true
  test_boot_timeout:
    description: Seconds within which a kernel that is tested has to be up.
    type: float
    default: 120
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
  - ringfence.zones.host.platform
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
      description:
        - The digest of the image manifest, also where O(kernels[].image) is an index. V(none) only in check mode on a host that cannot look
          images up yet.
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
  description: Names of deployed kernels that are not declared, and stay.
  type: list
  elements: str
  returned: success
pruned:
  description: Names that were forgotten, because they are not declared.
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

from ansible_collections.ringfence.zones.plugins.module_utils.converge import kernel_trial
from ansible_collections.ringfence.zones.plugins.module_utils.errors import FAILURES, told
from ansible_collections.ringfence.zones.plugins.module_utils.kernel import deploy
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
            "pull": {"type": "str", "choices": ["missing", "always"], "default": "missing"},
            "prune": {"type": "bool", "default": False},
            "test_boot": {"type": "bool", "default": True},
            "test_boot_timeout": {"type": "float", "default": 120},
            "store": {"type": "path", "default": "/var/lib/ringfence"},
        },
        supports_check_mode=True,
    )
    try:
        declared = deploy.declare(module.params["kernels"])
        report = kernel_trial.converge(
            Store(Path(module.params["store"])),
            declared,
            pull=module.params["pull"],
            prune=module.params["prune"],
            test_boot=module.params["test_boot"],
            timeout=module.params["test_boot_timeout"],
            check=module.check_mode,
        )
    except deploy.DeploymentFailed as error:
        module.fail_json(msg=str(error), changed=bool(error.stored), stored=error.stored)
    except FAILURES as error:
        module.fail_json(msg=told(error))
    module.exit_json(
        changed=report.changed,
        kernels=report.kernels,
        undeclared=report.undeclared,
        pruned=report.pruned,
        diff={"before": report.before.document(), "after": report.after.document()},
    )


if __name__ == "__main__":
    main()
