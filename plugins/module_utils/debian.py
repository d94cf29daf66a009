# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Debian on a host of zones: which releases, and which of their packages. Nothing is asked of the host."""

from __future__ import annotations

import sys

_LIBVIRTD = {
    # Without the drivers for QEMU and networks that the package libvirt-daemon-system brings…
    "13": "libvirt-daemon",
    # …but there libvirtd's units are in no other package.
    "12": "libvirt-daemon-system",
}
"""Supported Debian release → the smallest package with libvirtd and its units."""

_PACKAGES = (
    # Xen with its tools, and libvirt's way to them
    "xen-system-amd64",
    "libvirt-daemon-driver-xen",
    "python3-libvirt",
    "logrotate",
    "procps",
    # images and kernels of zones
    "skopeo",
    "squashfs-tools",
    "erofs-utils",
    "kmod",
    "xz-utils",
    "zstd",
    "lz4",
    # what the zone base is composed of, and the way into a zone
    "busybox-static",
    "crun",
    "golang-github-containers-common",
    "python3-seccomp",
    "dropbear-bin",
    "e2fsprogs",
    "ucspi-unix",
    "openssh-client",
    # the network of zones
    "conntrack",
    "iproute2",
    "nftables",
)

SUITES = {"bookworm": "12", "trixie": "13"}
"""The suites of Debian that a host may have, and their releases."""


PYTHON_PACKAGES = "/usr/lib/python3/dist-packages"
"""Where Debian's Python packages are, for Debian's own Python only."""


def missing_python_package(name: str) -> str:
    """What to tell when this Python finds no such package of Debian."""
    if PYTHON_PACKAGES in sys.path:
        return f"python3-{name} is not installed on this host; apply the role ringfence.zones.host"
    return f"{sys.executable} does not find Debian's python3-{name}; set ansible_python_interpreter: /usr/bin/python3 for this host"


def packages(release: str) -> list[str]:
    """The packages of a Xen host on this supported Debian release, to be installed without recommended ones: those bring QEMU."""
    return [*_PACKAGES, _LIBVIRTD[release]]
