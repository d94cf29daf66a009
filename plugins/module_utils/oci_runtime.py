# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""OCI runtime configuration of a zone's container: the declaration laid over the image's configuration. Pure.

Source of the rules: OCI image-spec config.md, OCI runtime-spec config.md, and Docker's defaults for what both leave open.
"""

from __future__ import annotations

import posixpath
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.spec import Zone

ROOT = "/run/ringfence/root"
"""Where the zone's init mounts the container's root file system."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_CAPABILITIES = [
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"
    ).split()
]
"""Docker's default set."""

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
    additional: list[int] = []
    if group_name:
        found = next((fields for fields in groups if group_name in (fields[0], fields[2])), None)
        if not found and not _is_id(group_name):
            raise RingfenceError(
                f"group {group_name[:80]!r} is not in the image's /etc/group; name one that is, or a numeric id up to {_LARGEST_ID}"
            )
        gid = int(found[2]) if found else int(group_name)
    elif entry:
        additional = sorted({int(fields[2]) for fields in groups if entry[0] in fields[3].split(",")} - {gid})
    return {"uid": uid, "gid": gid, **({"additionalGids": additional} if additional else {})}


def runtime_config(zone: Zone, image: dict[str, Any], passwd: str, group: str) -> dict[str, Any]:
    """The ``config.json`` that crun runs in the zone.

    The container has its own mount, pid, ipc, uts and cgroup namespaces; the network is the zone's, which belongs to it alone.

    :param image: the ``config`` object of the OCI image configuration.
    :raises RingfenceError: when neither the image nor the declaration says what to run, the user does not exist, or the image's
        configuration is not as specified.
    """
    arguments = process_arguments(zone, image)
    if not arguments:
        raise RingfenceError("command: the image names no command to run; declare command or entrypoint")
    environment = {"PATH": _PATH, "HOSTNAME": zone.name}
    environment.update(entry.partition("=")[::2] for entry in _words(image, "Env") if "=" in entry)
    environment.update(zone.environment)
    user = resolve_user(word(image, "User"), passwd, group)
    environment.setdefault("HOME", _home(user["uid"], passwd))
    return {
        "ociVersion": "1.0.2",
        "hostname": zone.name,
        "root": {"path": ROOT, "readonly": False},
        "process": {
            "terminal": False,
            "user": user,
            "args": arguments,
            "env": [f"{name}={value}" for name, value in environment.items()],
            "cwd": posixpath.join("/", word(image, "WorkingDir")),
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 524288}],
            "noNewPrivileges": False,
        },
        "mounts": _mounts(),
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")],
            "maskedPaths": _MASKED,
            "readonlyPaths": _READ_ONLY,
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        },
    }


def word(image: dict[str, Any], key: str) -> str:
    """A text of the image's configuration, empty if it is not there.

    :raises RingfenceError: if it is none; whoever made the image wrote it.
    """
    value = image.get(key) or ""
    if not isinstance(value, str) or "\0" in value:
        raise RingfenceError(f"image: {key} of its configuration is {str(value)[:80]!r}; it has to be a string")
    return value


def _words(image: dict[str, Any], key: str) -> list[str]:
    value = image.get(key) or []
    if not isinstance(value, list) or not all(isinstance(entry, str) and "\0" not in entry for entry in value):
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
    return next((fields for fields in usable if user in (fields[0], fields[2])), None)


def _home(uid: int, passwd: str) -> str:
    entry = _entry(str(uid), passwd) or []
    return (entry[5] if len(entry) > 5 else "") or "/"


def _mounts() -> list[dict[str, Any]]:
    def mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
        return {"destination": destination, "type": kind, "source": source, "options": ["nosuid", *options]}

    def bound(name: str) -> dict[str, Any]:
        options = ["rbind", "rw", "nosuid", "nodev", "noexec"]
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
