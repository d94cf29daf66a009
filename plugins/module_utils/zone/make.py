# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes what a zone boots from: its initrd with its configuration, and its writable layer."""

from __future__ import annotations

import base64
import json
import os
import shlex
import stat
from collections.abc import Mapping
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.image.images import Image
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.initrd import Entry, build_initrd, cpio_archive
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.kernels import Kernel
from ansible_collections.ringfence.zones.plugins.module_utils.spec import devices
from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Zone
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store, write_atomically
from ansible_collections.ringfence.zones.plugins.module_utils.zone import files, network, seccomp_filter
from ansible_collections.ringfence.zones.plugins.module_utils.zone.channel import CONTAINER
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import Definition, driver_arguments
from ansible_collections.ringfence.zones.plugins.module_utils.zone.oci_runtime import (
    Health,
    health,
    hostname,
    image_volumes,
    kernel_parameters,
    runtime_config,
    word,
    working_directory,
)
from ansible_collections.ringfence.zones.plugins.module_utils.zone.runtime import Runtime

_MKFS = ("mkfs.ext4", "-q", "-b", str(files.BLOCK), "-m", "0", "-J", "size=4", "-E", "lazy_itable_init=1,nodiscard")
"""Makes the writable layer: nothing reserved for root, a small journal, tables written when they are first used."""

_FSTAB = """\
proc /proc proc nosuid,nodev,noexec 0 0
sys /sys sysfs nosuid,nodev,noexec 0 0
cgroup /sys/fs/cgroup cgroup2 nosuid,nodev,noexec 0 0
/dev/xvdb /image {image} ro 0 0
/dev/xvdc /writable ext4 noatime 0 0
overlay /run/ringfence/root overlay lowerdir=/image,upperdir=/writable/upper,workdir=/writable/work 0 0
"""
"""What the zone's init mounts, in this order, with one process."""


def container(zone: Zone, image: Image, runtime: Runtime) -> dict[str, Any]:
    """The runtime configuration of a zone's container.

    :raises RingfenceError: when the image and the declaration do not make one.
    """
    return runtime_config(zone, described(image), image.passwd, image.group, json.loads(runtime.seccomp.read_bytes()))


def write(store: Store, definition: Definition, kernel: Kernel, image: Image, runtime: Runtime, secrets: Mapping[str, str]) -> None:
    """Write the initrd of a zone.

    :param secrets: the contents of its secrets by name; they are nowhere else on the host.
    """
    files.directory(store, definition.zone.name).mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(files.initrd(store, definition), _initrd(definition, kernel, image, runtime, secrets))


def make_writable(store: Store, definition: Definition, *, fresh: bool) -> None:
    """Make the writable layer of a zone, unless it has one.

    :param fresh: make it in any case.
    """
    layer = files.writable(store, definition)
    if fresh or not layer.exists():
        with store.workspace() as workspace:
            new = workspace / layer.name
            with open(new, "wb") as handle:
                os.fchmod(handle.fileno(), 0o600)
                handle.truncate((files.WRITABLE_BLOCKS + 1) * files.BLOCK)
            tree = workspace / "tree"
            for part in ("upper/etc", "work"):
                (tree / part).mkdir(parents=True)
            # What Docker lays over every image: a program finds out from one that it is in a container, and its mounts from the other.
            (tree / "upper" / ".dockerenv").touch()
            (tree / "upper" / "etc" / "mtab").symlink_to("/proc/mounts")
            run([*_MKFS, "-d", str(tree), str(new), str(files.WRITABLE_BLOCKS)])
            os.replace(new, layer)


_CHECK = ("crun", "exec", "--pid-file", "/run/ringfence/health.pid")
"""How a health check begins: the zone's init has to know what it started."""


def check_image(definition: Definition, image: Image, runtime: Runtime) -> None:
    """Make what a zone takes from its image's configuration, before anything that runs is touched.

    :raises RingfenceError: when that is not as specified.
    """
    container(definition.zone, image, runtime)
    _settings(definition, image, runtime, health(definition.zone, described(image)))


def _settings(definition: Definition, image: Image, runtime: Runtime, check: Health | None) -> dict[str, str]:
    """What the zone's init is told."""
    zone = definition.zone
    name, _colon, limit = zone.restart.partition(":")
    settings = {
        "BASE_FILESYSTEM": runtime.filesystem,
        "ADDRESS": network.address(definition.index),
        "GATEWAY": network.GATEWAY,
        "ADDRESS6": network.address6(definition.index),
        "GATEWAY6": network.GATEWAY6,
        "RESTART": name,
        "RESTART_LIMIT": limit or "0",
        "STOP_SIGNAL": zone.stop_signal or word(described(image), "StopSignal") or "TERM",
        "STOP_GRACE": str(zone.stop_grace_period),
        "RECORD_BLOCK": str(files.WRITABLE_BLOCKS),
        "WORKING_DIR": working_directory(zone, described(image)),
    }
    for key in ("interval", "timeout", "retries", "start_period", "start_interval") if check else ():
        settings[f"HEALTH_{key.upper()}"] = str(getattr(check, key))
    return settings


def _initrd(definition: Definition, kernel: Kernel, image: Image, runtime: Runtime, secrets: Mapping[str, str]) -> bytes:
    # The drivers first, so that the host connects the devices while the others are being loaded.
    needs = ["xen_blkfront", "xen_netfront", runtime.filesystem, image.filesystem, "ext4", "overlay"]
    # The container begins with its devices, so their drivers are not left for later.
    needs += devices.modules(device.source for device in definition.zone.devices)
    channel = ("xen_gntalloc", "xen_gntdev", "xen_evtchn")
    boots = {module: driver_arguments(module) for module in kernel.load_order(needs)}
    later = [module for module in kernel.load_order(channel) if module not in boots]
    common = build_initrd(kernel, runtime.boot.read_bytes(), runtime.busybox, boots)
    config = container(definition.zone, image, runtime)
    config["annotations"] = {seccomp_filter.ANNOTATION: base64.b64encode(seccomp_filter.compiled(config["linux"]["seccomp"])).decode()}
    zone, check = definition.zone, health(definition.zone, described(image))
    settings = _settings(definition, image, runtime, check)
    content = {
        "settings": "".join(f"{key}={shlex.quote(value)}\n" for key, value in settings.items()).encode(),
        "config.json": json.dumps(config).encode(),
        # Sourced by its init, so it is one command of a shell.
        "health": f"exec {shlex.join([*_CHECK, '--cwd', settings['WORKING_DIR'], CONTAINER, *check.argv])}\n".encode() if check else b"",
        "fstab": _FSTAB.format(image=image.filesystem).encode(),
        "modules/order": "".join(f"{module}\n" for module in later).encode(),
        "record/state": b"starting\n",
        "record/exit": b"-\n",
        "record/restarts": b"0\n",
        "record/health": b"starting\n" if check else b"none\n",
        "record/oom": b"0\n",
        "record/crashes": b"0\n",
        "volumes": "".join(f"{line}\n" for line in _volumes(zone, image)).encode(),
        "sysctls": "".join(f"{path} {value}\n" for path, value in kernel_parameters(zone).items()).encode(),
        "etc/hostname": f"{hostname(zone)}\n".encode(),
        "etc/hosts": hosts(definition).encode(),
        "etc/resolv.conf": "".join(f"nameserver {server}\n" for server in zone.dns).encode(),
    }
    modes = {"etc/hostname": 0o644, "etc/hosts": 0o644, "etc/resolv.conf": 0o644}
    own = [Entry(f"zone/{path}", stat.S_IFREG | modes.get(path, 0o600), data) for path, data in content.items()]
    own += [Entry(f"zone/modules/{module}", stat.S_IFREG | 0o600, (kernel.directory / "modules" / module).read_bytes()) for module in later]
    own += [
        Entry(f"zone/secrets/{number}", stat.S_IFREG | int(secret.mode, 8), secrets[secret.source].encode(), owner=(secret.uid, secret.gid))
        for number, secret in enumerate(zone.secrets)
    ]
    own += [Entry(path, stat.S_IFDIR | 0o755) for path in ("zone/etc", "zone/root", "zone/data", "zone/disks")]
    own += [Entry("zone", stat.S_IFDIR | 0o700), Entry("zone/output", stat.S_IFIFO | 0o600)]
    return common + cpio_archive(own)


def hosts(definition: Definition) -> str:
    """The content of the container's ``/etc/hosts``."""
    found = [("127.0.0.1", "localhost"), ("::1", "localhost"), (network.address(definition.index), hostname(definition.zone))]
    found += [(address, name) for name, address in {**definition.peers, **definition.zone.extra_hosts}.items()]
    return "".join(f"{address}\t{name}\n" for address, name in found)


def _volumes(zone: Zone, image: Image) -> list[str]:
    """What the zone's init makes for the container's mounts: device, access, name, and the path whose content a fresh volume begins with.

    The volumes of the image that nothing declared is mounted over are directories of the writable layer, as Docker's are anonymous.
    """
    first = ord("d")  # xvda to xvdc: base, image, writable layer.
    declared = [
        f"xvd{chr(first + number)} {'ro' if mount.read_only else 'rw'} {mount.volume} {mount.target}"
        for number, mount in enumerate(zone.volumes)
    ]
    return declared + [f"- rw {name} {target}" for name, target in image_volumes(zone, described(image)).items()]


def described(image: Image) -> dict[str, Any]:
    """The ``config`` object of an image's configuration: what a container of it begins with, if nothing else is declared."""
    described = image.config.get("config") or {}
    if not isinstance(described, dict):
        raise RingfenceError(f"image: config of its configuration is {str(described)[:80]!r}; it has to be an object")
    return described
