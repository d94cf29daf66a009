# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of ours outside the store: units, rules, hotplug scripts. Compared as a set, written atomically, activated together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.store import write_atomically

_ACTIVATE: Sequence[tuple[str, Sequence[Sequence[str]]]] = (
    ("/etc/modules-load.d/", (("systemctl", "restart", "systemd-modules-load.service"),)),
    ("/etc/sysctl.d/", (("systemctl", "restart", "systemd-sysctl.service"),)),
    ("/etc/udev/rules.d/", (("udevadm", "control", "--reload"),)),
    # udev reads .link files, systemd-networkd, where it runs, .network files.
    (
        "/etc/systemd/network/",
        (("udevadm", "control", "--reload"), ("systemctl", "try-reload-or-restart", "systemd-networkd.service")),
    ),
    ("/etc/systemd/system/", (("systemctl", "daemon-reload"),)),
)
"""What makes a changed file take effect, by the directory that it is in, in this order."""


@dataclass(frozen=True)
class HostFile:
    """One file of the host. One that is ``diverted`` takes the place of a Debian package's, which is kept as ``PATH.distrib``."""

    path: str
    content: str
    executable: bool = False
    diverted: bool = False

    @property
    def mode(self) -> int:
        """Its permission bits."""
        return 0o755 if self.executable else 0o644


def outdated(files: Sequence[HostFile]) -> Mapping[str, tuple[str, str]]:
    """The files that are not as they shall be: content before (empty if there is none) and after, by path."""
    return {file.path: (_read(file.path), file.content) for file in files if not _is_as_declared(file)}


def write(files: Sequence[HostFile]) -> None:
    """Write the files that differ, and make the change take effect."""
    changed = [file for file in files if not _is_as_declared(file)]
    for file in changed:
        if file.diverted:
            run(["dpkg-divert", "--quiet", "--local", "--rename", "--add", file.path])
        write_atomically(Path(file.path), file.content.encode(), file.mode)
    for prefix, commands in _ACTIVATE:
        if any(file.path.startswith(prefix) for file in changed):
            for argv in commands:
                run(argv)
    units = [Path(file.path).name for file in changed if file.path.startswith("/etc/systemd/system/") and "[Install]" in file.content]
    if units:
        run(["systemctl", "enable", "--now", *units])


def superfluous(directory: str, files: Sequence[HostFile]) -> list[str]:
    """The files of Python below a directory that are none of these: an older version has left them."""
    known = {file.path for file in files}
    return sorted(str(path) for path in Path(directory).rglob("*.py") if str(path) not in known)


def _is_as_declared(file: HostFile) -> bool:
    path = Path(file.path)
    kept = not file.diverted or Path(f"{file.path}.distrib").exists()
    return kept and path.is_file() and path.stat().st_mode & 0o777 == file.mode and _read(file.path) == file.content


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
