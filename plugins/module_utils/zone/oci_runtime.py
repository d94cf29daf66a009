# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""OCI runtime configuration of a zone's container: the declaration laid over the image's configuration. Pure.

Source of the rules: OCI image-spec config.md, OCI runtime-spec config.md, and Docker's defaults for what both leave open.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.spec.devices import NODES
from ansible_collections.ringfence.zones.plugins.module_utils.spec.fields import (
    CAPABILITIES,
    Device,
    Healthcheck,
    Rejected,
    health_test,
    is_text,
)
from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Zone
from ansible_collections.ringfence.zones.plugins.module_utils.zone import seccomp

ROOT = "/run/ringfence/root"
"""Where the zone's init mounts the container's root file system."""

SECRETS = "/run/ringfence/secrets"
"""Where the zone's init keeps the secrets' contents, in memory, by the secret's position."""

VOLUMES = "/run/ringfence/data"
"""Where the zone's init makes each volume's content appear, by the volume's name."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_CAPABILITIES = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"
).split()
"""Docker's default set."""

_OF_IPC_NAMESPACE = re.compile(r"kernel\.(msgmax|msgmnb|msgmni|sem|shmall|shmmax|shmmni|shm_rmid_forced)|fs\.mqueue\..+")
"""Kernel parameters that the container has for itself; all others are the zone's."""

_NETWORK_PARAMETERS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
"""What Docker sets for each container with a network of its own: any user may listen on any port, and ping."""

_SECOND = 10**9
_LONGEST_OF_IMAGE = 3600
"""Seconds that an image may ask for; a converge waits for its health check, and whoever declares the zone can ask for more."""

_NO_LIMIT = 2**64 - 1
"""RLIM_INFINITY."""

_MASKED = (
    "/proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug /proc/scsi "
    "/proc/timer_list /proc/timer_stats /sys/firmware /sys/devices/virtual/powercap"
).split()
_LARGEST_ID = 2**31 - 1
"""Of users and groups, as in Docker and runc."""

_READ_ONLY = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger".split()


def process_arguments(zone: Zone, image: dict[str, Any]) -> list[str]:
    """The command line: as with Docker, a declared entrypoint drops the image's command.

    :param image: the ``config`` object of the OCI image configuration.
    """
    if zone.entrypoint is not None:
        return [*zone.entrypoint, *(zone.command or ())]
    command = zone.command if zone.command is not None else _words(image, "Cmd")
    return [*_words(image, "Entrypoint"), *command]


def resolve_user(user: str, passwd: str, group: str) -> dict[str, Any]:
    """Resolve an image's ``User`` (``user``, ``uid``, ``user:group``, ``uid:gid``) inside the image.

    :param passwd: the image's /etc/passwd, empty if it has none.
    :param group: the image's /etc/group.
    :returns: the ``user`` object of the runtime specification.
    :raises RingfenceError: for a name that the image does not know.
    """
    name, _colon, group_name = user.partition(":")
    groups = [fields for fields in _accounts(group) if _is_id(fields[2])]
    entry = _entry(name or "0", passwd)
    if entry:
        uid, gid = int(entry[2]), int(entry[3])
    elif not name or _is_id(name):
        uid, gid = int(name or 0), 0
    else:
        raise RingfenceError(f"user {name[:80]!r} is not in the image's /etc/passwd; name one that is, or a numeric id up to {_LARGEST_ID}")
    additional: set[int] = set()
    if group_name:
        found = next((fields for fields in groups if _matches(group_name, fields)), None)
        if not found and not _is_id(group_name):
            raise RingfenceError(
                f"group {group_name[:80]!r} is not in the image's /etc/group; name one that is, or a numeric id up to {_LARGEST_ID}"
            )
        gid = int(found[2]) if found else int(group_name)
    elif entry:
        additional = {int(fields[2]) for fields in groups if entry[0] in fields[3].split(",")}
    # With its own group among them, so that a file which denies that group something cannot be had by another of its groups.
    return {"uid": uid, "gid": gid, "additionalGids": [gid, *sorted(additional - {gid})]}


def runtime_config(zone: Zone, image: dict[str, Any], passwd: str, group: str, profile: Mapping[str, Any]) -> dict[str, Any]:
    """The ``config.json`` that crun runs in the zone.

    The container has its own mount, pid, ipc, uts and cgroup namespaces; the network is the zone's, which belongs to it alone.

    :param image: the ``config`` object of the OCI image configuration.
    :param profile: which system calls it may use, as :mod:`seccomp` takes it.
    :raises RingfenceError: when neither the image nor the declaration says what to run, the user does not exist, or the image's
        configuration is not as specified.
    """
    arguments = process_arguments(zone, image)
    if not arguments:
        raise RingfenceError("command: the image names no command to run; declare command or entrypoint")
    environment = {"PATH": _PATH, "HOSTNAME": hostname(zone)}
    environment.update(entry.partition("=")[::2] for entry in _words(image, "Env") if "=" in entry)
    environment.update(zone.environment)
    user = resolve_user(zone.user if zone.user is not None else word(image, "User"), passwd, group)
    capabilities = _capabilities(zone)
    environment.setdefault("HOME", _home(user["uid"], passwd))
    mounts = _mounts("ro" if zone.read_only else "rw")
    return {
        "ociVersion": "1.0.2",
        "hostname": hostname(zone),
        "root": {"path": ROOT, "readonly": zone.read_only},
        "process": {
            "terminal": False,
            "user": user,
            "args": arguments,
            "env": [f"{name}={value}" for name, value in environment.items()],
            "cwd": working_directory(zone, image),
            # A program that another user than root starts has none in effect; so has what is entered beside it.
            "capabilities": dict.fromkeys(("bounding",) if user["uid"] else ("bounding", "effective", "permitted"), capabilities),
            "rlimits": _limits(zone),
            "noNewPrivileges": False,
        },
        "mounts": mounts + sorted(_declared_mounts(zone, image), key=lambda mount: str(mount["destination"])),
        # In the zone base: what the host is told comes from crun, not from a guess how long a start takes.
        "hooks": {"poststart": [{"path": "/usr/lib/ringfence/started"}]},
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")],
            "maskedPaths": _MASKED,
            "readonlyPaths": _READ_ONLY,
            "devices": [_node(device) for device in zone.devices],
            # The last rule that matches counts; crun adds those for what every container has.
            "resources": {"devices": [{"allow": False, "access": "rwm"}, *(_allowed(device) for device in zone.devices)]},
            "sysctl": {name: value for name, value in zone.sysctls.items() if _OF_IPC_NAMESPACE.fullmatch(name)},
            "seccomp": seccomp.rules(profile, capabilities),
        },
    }


@dataclass(frozen=True)
class Health:
    """A health check with nothing left open. Times are in seconds."""

    argv: tuple[str, ...]
    interval: int
    timeout: int
    retries: int
    start_period: int
    start_interval: int


def health(zone: Zone, image: dict[str, Any]) -> Health | None:
    """The health check of a zone: the declaration laid over the image's, with Docker's defaults; ``None`` if there is none.

    :param image: the ``config`` object of the OCI image configuration; its ``Healthcheck`` is Docker's, with times in nanoseconds.
    """
    described = image.get("Healthcheck") or {}
    declared = zone.healthcheck or Healthcheck()
    if not isinstance(described, dict):
        raise RingfenceError(f"image: Healthcheck of its configuration is {str(described)[:80]!r}; it has to be an object")
    try:
        test = declared.test if declared.test is not None else health_test(described["Test"]) if described.get("Test") else ()
    except Rejected as rejected:
        raise RingfenceError(f"image: Healthcheck of its configuration is {str(described)[:80]!r}; accepted: {rejected}") from None
    if not test:
        return None

    def of(declared_value: int | None, key: str, unit: int, default: int) -> int:
        value = described.get(key)
        if declared_value is not None:
            return declared_value
        return min(max(1, value // unit), _LONGEST_OF_IMAGE) if isinstance(value, int) and value > 0 else default

    return Health(
        argv=test,
        interval=of(declared.interval, "Interval", _SECOND, 30),
        timeout=of(declared.timeout, "Timeout", _SECOND, 30),
        retries=of(declared.retries, "Retries", 1, 3),
        start_period=of(declared.start_period, "StartPeriod", _SECOND, 0),
        start_interval=of(declared.start_interval, "StartInterval", _SECOND, 5),
    )


def working_directory(zone: Zone, image: dict[str, Any]) -> str:
    """Where the container's programs begin; also those that are run beside them."""
    return zone.working_dir or posixpath.join("/", word(image, "WorkingDir"))


def hostname(zone: Zone) -> str:
    """The host name of a zone's container."""
    return zone.hostname or zone.name


def kernel_parameters(zone: Zone) -> dict[str, str]:
    """The sysctls that are the zone's own, Docker's and the declared, by file below /proc/sys: its init sets them before the container."""
    parameters = {**_NETWORK_PARAMETERS, **zone.sysctls}
    return {name.replace(".", "/"): value for name, value in parameters.items() if not _OF_IPC_NAMESPACE.fullmatch(name)}


def word(image: dict[str, Any], key: str) -> str:
    """A text of the image's configuration, empty if it is not there.

    :raises RingfenceError: if it is none; whoever made the image wrote it.
    """
    value: str = image.get(key) or ""
    if not is_text(value):
        raise RingfenceError(f"image: {key} of its configuration is {str(value)[:80]!r}; it has to be a string")
    return value


def _words(image: dict[str, Any], key: str) -> list[str]:
    value = image.get(key) or []
    if not isinstance(value, list) or not all(map(is_text, value)):
        raise RingfenceError(f"image: {key} of its configuration is {str(value)[:80]!r}; it has to be a list of strings")
    return value


def _accounts(table: str) -> list[list[str]]:
    """The lines of a passwd or group file with at least four fields."""
    return [fields for fields in (line.split(":") for line in table.splitlines()) if len(fields) >= 4]


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _LARGEST_ID


def _entry(user: str, passwd: str) -> list[str] | None:
    """The first line for a user's name or number, if there is one that is usable."""
    usable = (fields for fields in _accounts(passwd) if _is_id(fields[2]) and _is_id(fields[3]))
    return next((fields for fields in usable if _matches(user, fields)), None)


def _matches(named: str, fields: list[str]) -> bool:
    """Whether a line is of this user or group; what is a number is never a name."""
    return int(fields[2]) == int(named) if _is_id(named) else fields[0] == named


def _home(uid: int, passwd: str) -> str:
    entry = _entry(str(uid), passwd) or []
    return (entry[5] if len(entry) > 5 else "") or "/"


def _capabilities(zone: Zone) -> list[str]:
    """As Docker combines its default set with what is added and dropped."""
    if zone.cap_add == ("ALL",):
        kept = set(CAPABILITIES) - set(zone.cap_drop)
    elif zone.cap_drop == ("ALL",):
        kept = set(zone.cap_add)
    else:
        kept = set(_CAPABILITIES) - set(zone.cap_drop) | set(zone.cap_add)
    return [f"CAP_{name}" for name in CAPABILITIES if name in kept]


def _limits(zone: Zone) -> list[dict[str, Any]]:
    # Linux would allow the users of a small zone a few hundred threads; below Docker's service there is no limit.
    limits = {"nofile": (1024, 524288), "nproc": (-1, -1), **zone.ulimits}
    return [
        {"type": f"RLIMIT_{name.upper()}", "soft": _NO_LIMIT if soft == -1 else soft, "hard": _NO_LIMIT if hard == -1 else hard}
        for name, (soft, hard) in limits.items()
    ]


def image_volumes(zone: Zone, image: dict[str, Any]) -> dict[str, str]:
    """The volumes that the image's configuration names, path by a name for each, but for those over which something is declared."""
    named = image.get("Volumes") or {}
    if not isinstance(named, dict) or not all(isinstance(path, str) and path.startswith("/") and path.isprintable() for path in named):
        raise RingfenceError(f"image: Volumes of its configuration is {str(named)[:80]!r}; it has to be a mapping of absolute paths")
    declared = {mount.target for mount in zone.volumes} | {mount.partition(":")[0] for mount in zone.tmpfs}
    # Numbered before those are left out: what a path holds in the writable layer stays its own when another one gets a mount.
    paths = sorted({"/" + posixpath.normpath(path).lstrip("/") for path in named} - {"/"})
    return {f"_image-{number}": path for number, path in enumerate(paths) if path not in declared}


def _declared_mounts(zone: Zone, image: dict[str, Any]) -> list[dict[str, Any]]:
    mounts = [_tmpfs(mount) for mount in zone.tmpfs]
    mounts += [_volume(mount.volume, mount.target, "ro" if mount.read_only else "rw") for mount in zone.volumes]
    options = ["bind", "ro", "nosuid", "nodev", "noexec"]
    mounts += [
        {"destination": secret.target, "type": "bind", "source": f"{SECRETS}/{number}", "options": options}
        for number, secret in enumerate(zone.secrets)
    ]
    return mounts + [_volume(name, target, "rw") for name, target in image_volumes(zone, image).items()]


def _volume(name: str, target: str, access: str) -> dict[str, Any]:
    return {"destination": target, "type": "bind", "source": f"{VOLUMES}/{name}", "options": ["rbind", access]}


def _node(device: Device) -> dict[str, Any]:
    node = NODES[device.source]
    return {"path": device.target, "type": "c", "major": node.major, "minor": node.minor, "fileMode": node.mode, "uid": 0, "gid": 0}


def _allowed(device: Device) -> dict[str, Any]:
    node = NODES[device.source]
    return {"allow": True, "type": "c", "major": node.major, "minor": node.minor, "access": device.permissions}


def _tmpfs(mount: str) -> dict[str, Any]:
    """A declared mount of memory; Docker's options, unless the opposite is declared."""
    where, _colon, declared = mount.partition(":")
    options = declared.split(",") if declared else []
    standard = [option for option in ("nosuid", "noexec", "nodev") if option.removeprefix("no") not in options and option not in options]
    return {"destination": where, "type": "tmpfs", "source": "tmpfs", "options": [*standard, *options]}


def _mounts(access: str) -> list[dict[str, Any]]:
    """What Docker mounts into every container.

    :param access: whether the files of the network may be written to, as the container's root may be.
    """

    def mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
        return {"destination": destination, "type": kind, "source": source, "options": ["nosuid", *options]}

    def bound(name: str) -> dict[str, Any]:
        options = ["rbind", access, "nosuid", "nodev", "noexec"]
        return {"destination": f"/etc/{name}", "type": "bind", "source": f"/run/ringfence/etc/{name}", "options": options}

    return [
        mount("/proc", "proc", "proc", "noexec", "nodev"),
        mount("/dev", "tmpfs", "tmpfs", "strictatime", "mode=755", "size=65536k"),
        mount("/dev/pts", "devpts", "devpts", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        mount("/dev/shm", "tmpfs", "shm", "noexec", "nodev", "mode=1777", "size=65536k"),
        mount("/dev/mqueue", "mqueue", "mqueue", "noexec", "nodev"),
        mount("/sys", "sysfs", "sysfs", "noexec", "nodev", "ro"),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", "noexec", "nodev", "relatime", "ro"),
        bound("hosts"),
        bound("hostname"),
        bound("resolv.conf"),
    ]
