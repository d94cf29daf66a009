"""What is in the demo's images: packages of Debian, and what their maintainer scripts would have set up."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

SUITE = "trixie"

KERNELS = {"debian13": "trixie", "debian12": "bookworm"}
"""The demo's kernels: name to the suite of Debian that each is from."""

BASE = ("base-files", "base-passwd", "busybox-static")
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

APPLETS = tuple(
    "sh ash cat chmod chown cp cut date df dmesg du echo env expr false find free grep head hostname id ip kill ln ls mkdir mknod "
    "mount mv nc netstat nslookup ping printf ps pwd rm rmdir sed seq sleep sort stat sync tail tar test top touch tr true umount uname "
    "uniq uptime vi wc wget which whoami xargs".split()
)
"""Commands that busybox stands for where no package brings them: the images have a shell, and no coreutils."""


@dataclasses.dataclass(frozen=True)
class Definition:
    """One image.

    ``links``: path to target. ``files``: path to content. ``directories``: path to mode, user and group id. ``accounts``: lines for
    /etc/passwd beyond Debian's own, each with a group of the same name and id. ``members``: group of Debian's to who is in it beside.
    ``left_out``: pattern of paths that are not wanted. ``config``: that of the OCI image specification. What begins as a script is one.
    """

    name: str
    packages: Sequence[str]
    config: Mapping[str, Any]
    links: Mapping[str, str] = dataclasses.field(default_factory=dict)
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    directories: Mapping[str, tuple[int, int, int]] = dataclasses.field(default_factory=dict)
    accounts: Sequence[str] = ()
    members: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    left_out: str = ""


_WWW_DATA = 33
_REDIS = 999

DEFINITIONS = (
    Definition(
        name="nginx",
        packages=(*BASE, "nginx"),
        links={
            "etc/nginx/sites-enabled/default": "/etc/nginx/sites-available/default",
            "var/log/nginx/access.log": "/dev/stdout",
            "var/log/nginx/error.log": "/dev/stderr",
        },
        files={"var/www/html/index.html": "<!DOCTYPE html><title>nginx</title><h1>Welcome to nginx</h1>\n"},
        directories={"var/lib/nginx": (0o755, _WWW_DATA, 0)},
        config={
            "Env": [PATH],
            "Cmd": ["nginx", "-g", "daemon off;"],
            "ExposedPorts": {"80/tcp": {}},
            "StopSignal": "SIGQUIT",
        },
    ),
    Definition(
        name="redis",
        packages=(*BASE, "redis-server"),
        directories={"data": (0o755, _REDIS, _REDIS)},
        accounts=(f"redis:x:{_REDIS}:{_REDIS}::/data:/usr/sbin/nologin",),
        config={
            "Env": [PATH],
            "User": "redis",
            "WorkingDir": "/data",
            "Cmd": ["redis-server", "--protected-mode", "no"],
            "ExposedPorts": {"6379/tcp": {}},
            "Volumes": {"/data": {}},
        },
    ),
)
