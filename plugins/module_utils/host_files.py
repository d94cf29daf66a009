# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of ours outside the store: units, rules, hotplug scripts. Compared as a set, written atomically, activated together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.store import write_atomically

_ACTIVATING = "/etc/ringfence/activating"
"""Names the files that a run writes, from before the first is written until all have taken effect: if the run is killed or fails in
between, the next one has them to write and to activate again."""


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
    """The files that are not as they shall be, or have not taken effect: content before (empty if there is none) and after, by path."""
    activating = _activating()
    return {file.path: (_read(file.path), file.content) for file in files if file.path in activating or not _is_as_declared(file)}


def write(files: Sequence[HostFile]) -> None:
    """Write the files that differ, and make the change take effect."""
    paths = outdated(files).keys()
    changed = [file for file in files if file.path in paths]
    if not changed:
        return
    others = _activating() - paths
    _keep_activating(others | paths)
    for file in changed:
        if file.diverted:
            run(["dpkg-divert", "--quiet", "--local", "--rename", "--add", file.path])
        write_atomically(Path(file.path), file.content.encode(), file.mode)
    for argv in _activation(changed):
        run(argv)
    _keep_activating(others)


def superfluous(directory: str, files: Sequence[HostFile]) -> list[str]:
    """The files of Python below a directory that are none of these: an older version has left them."""
    known = {file.path for file in files}
    return sorted(str(path) for path in Path(directory).rglob("*.py") if str(path) not in known)


def _activation(changed: Sequence[HostFile]) -> Iterator[Sequence[str]]:
    """What makes changed files take effect, in this order."""

    def below(directory: str) -> list[str]:
        return [file.path for file in changed if file.path.startswith(directory)]

    # Of these files alone. Their services take all files, and fail for a faulty line in one that is not ours.
    if modules := below("/etc/modules-load.d/"):
        yield ["/usr/lib/systemd/systemd-modules-load", *modules]
    if settings := below("/etc/sysctl.d/"):
        yield ["/usr/lib/systemd/systemd-sysctl", *settings]
    # udev reads .link files, systemd-networkd, where it runs, .network files.
    network = below("/etc/systemd/network/")
    if network or below("/etc/udev/rules.d/"):
        yield ["udevadm", "control", "--reload"]
    if network:
        yield ["systemctl", "try-reload-or-restart", "systemd-networkd.service"]
    if below("/etc/systemd/system/"):
        yield ["systemctl", "daemon-reload"]
    units = [Path(file.path).name for file in changed if file.path.startswith("/etc/systemd/system/") and "[Install]" in file.content]
    if units:
        yield ["systemctl", "enable", "--now", *units]


def _activating() -> set[str]:
    return set(_read(_ACTIVATING).splitlines())


def _keep_activating(paths: Set[str]) -> None:
    if paths:
        write_atomically(Path(_ACTIVATING), "".join(f"{path}\n" for path in sorted(paths)).encode(), 0o644)
    else:
        Path(_ACTIVATING).unlink()


def _is_as_declared(file: HostFile) -> bool:
    path = Path(file.path)
    kept = not file.diverted or Path(f"{file.path}.distrib").exists()
    return kept and path.is_file() and path.stat().st_mode & 0o777 == file.mode and _read(file.path) == file.content


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
