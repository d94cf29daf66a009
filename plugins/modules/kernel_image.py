#!/usr/bin/python
# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Module kernel_image: arguments and documentation, then one call into the library."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kernel_image
short_description: Package a kernel as an OCI image
version_added: 0.1.0
description:
  - Turns a Debian kernel package (C(linux-image-*)), or the tree of a kernel that was built, into an OCI image that
    M(ringfence.zones.kernels) can deploy, and that has the layout of the kernel images published in the field - C(/kernel/image),
    C(/kernel/config.gz), C(/kernel/addons.squashfs), C(/kernel/metadata) and the annotations C(dev.edera.kernel.*).
  - Runs where the play points it, usually on the control node or a build host. The kernel is not installed there.
  - The same package, and the same tree, give the same digest with the same versions of squashfs-tools and kmod. If the image at
    O(destination) was made from the same one and O(flavor), nothing is packaged and nothing changes.
  - One image can be for several architectures. An image of another architecture at O(destination) stays, and an OCI index over all of
    them takes the tag, the same whichever was there first. Each host takes the image of its own architecture out of it. Tasks with
    the same O(destination) have to run one after another, for each puts back what it found there.
requirements:
  - Debian's C(dpkg), C(kmod), C(skopeo) and C(squashfs-tools) where it runs; C(zstd) for kernels compressed with it
  - C(apt) with package lists, for O(package)
  - C(make) and what the kernel was built with, for O(tree)
options:
  deb:
    description: A kernel package file.
    type: path
  package:
    description:
      - The name of a kernel package, to be downloaded by apt. A metapackage such as C(linux-image-amd64) stands for the kernel
        it depends on. With C(:ARCHITECTURE) after it, that of another architecture which this machine's apt knows
        (C(dpkg --add-architecture)). Kernels can be packaged for C(amd64) and C(arm64).
      - To take it from another suite than those of this machine, set C(APT_CONFIG) to a configuration of that suite by the task's
        keyword C(environment).
    type: str
  tree:
    description:
      - The directory in which Linux' own makefile has built a kernel and its modules, as by C(make all). It is not changed.
      - For another architecture than the machine's own, set C(CROSS_COMPILE) by the task's keyword C(environment).
    type: path
  destination:
    description:
      - Where to put the image. C(docker://HOST/NAME[:TAG]) for a registry, C(oci:/DIRECTORY[:TAG]) for an image layout,
        C(oci-archive:/FILE[:TAG]) for a file. Without a tag it is C(latest).
      - A file holds one image. One with an image of another tag is refused.
      - Certificates, credentials and registries without TLS are those of skopeo's configuration below C(/etc/containers).
    type: str
    required: true
  flavor:
    description: What the kernel is for. Kernels for zones have the flavor V(zone), or one that begins with C(zone-).
    type: str
    default: zone
author:
  - the ringfence.zones authors (@ringfence)
attributes:
  check_mode:
    description: Can run in check mode and say whether it would change something.
    support: partial
    details: Packages nothing, so RV(digest) is not known for a package that is not at O(destination) yet.
  diff_mode:
    description: Shows the digests at the destination before and after, of the image and of the index it is in.
    support: full
extends_documentation_fragment:
  - ringfence.zones.host.platform
  - ansible.builtin.action_common_attributes
seealso:
  - module: ringfence.zones.kernels
"""

EXAMPLES = r"""
- name: Publish Debian's current kernel
  ringfence.zones.kernel_image:
    package: linux-image-amd64
    destination: docker://registry.example/kernels/debian:12
  delegate_to: localhost
  run_once: true
  register: kernel

- name: Deploy it by digest
  ringfence.zones.kernels:
    kernels:
      - name: stable
        image: "{{ kernel.image }}"

- name: Publish it for two architectures under one tag
  ringfence.zones.kernel_image:
    package: "{{ item }}"
    destination: docker://registry.example/kernels/debian:13
  loop: ["linux-image-amd64:amd64", "linux-image-arm64:arm64"]
  delegate_to: localhost
  run_once: true

- name: Package a kernel that was built on this machine
  ringfence.zones.kernel_image:
    tree: /usr/src/linux-6.12
    destination: docker://registry.example/kernels/own:6.12

- name: Package a kernel file into an archive
  ringfence.zones.kernel_image:
    deb: /srv/packages/linux-image-6.12.48+deb13-amd64_6.12.48-1_amd64.deb
    destination: oci-archive:/srv/kernels/debian-13.tar
"""

RETURN = r"""
image:
  description:
    - The image for M(ringfence.zones.kernels). By digest, if it is in a registry and the digest is known. If there is RV(index), it is
      that digest.
  type: str
  returned: success
  sample: registry.example/kernels/debian@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
digest:
  description: The digest of the image manifest, for the architecture of the package. In check mode V(none) if the image would be made.
  type: str
  returned: success
  sample: sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
index:
  description:
    - The digest of the index over several architectures at O(destination). V(none) if the image stands there alone, and in check mode if
      the image would be made.
  type: str
  returned: success
  sample: sha256:fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9
package:
  description: The name of the Debian package, after following a metapackage. Of a tree, the name that its package would have.
  type: str
  returned: success
  sample: linux-image-6.1.0-41-amd64
package_version:
  description: The version of the Debian package. Of a tree, the kernel's release.
  type: str
  returned: success
  sample: 6.1.158-1
release:
  description: The kernel's release as in C(uname -r). In check mode V(none) if the image would be made.
  type: str
  returned: success
  sample: 6.1.0-41-amd64
annotations:
  description: The annotations of the image manifest. In check mode V(none) if the image would be made.
  type: dict
  returned: success
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.ringfence.zones.plugins.module_utils.errors import FAILURES, told
from ansible_collections.ringfence.zones.plugins.module_utils.kernel import package, sources


def _digests(published: package.Published | None) -> dict[str, str | None]:
    return {"digest": published.digest, "index": published.index} if published else {"digest": None}


def main() -> None:
    """Package the kernel that the arguments name."""
    module = AnsibleModule(
        argument_spec={
            "deb": {"type": "path"},
            "package": {"type": "str"},
            "tree": {"type": "path"},
            "destination": {"type": "str", "required": True},
            "flavor": {"type": "str", "default": "zone"},
        },
        mutually_exclusive=[("deb", "package", "tree")],
        required_one_of=[("deb", "package", "tree")],
        supports_check_mode=True,
    )
    deb, tree = module.params["deb"], module.params["tree"]
    try:
        if tree:
            source = sources.from_tree(Path(tree))
        elif deb:
            source = sources.from_file(Path(deb))
        else:
            source = sources.from_apt(module.params["package"])
        outcome = package.package(source, module.params["destination"], module.params["flavor"], check=module.check_mode)
    except FAILURES as error:
        module.fail_json(msg=told(error))
    result = package.result(source, outcome)
    unknown = f"of {source.package} {source.version}, known when it is packaged"
    module.exit_json(
        **result,
        diff={
            "before_header": str(outcome.reference),
            "after_header": str(outcome.reference),
            "before": _digests(outcome.before),
            "after": _digests(outcome.after) if outcome.after else {"digest": unknown},
        },
    )


if __name__ == "__main__":
    main()
