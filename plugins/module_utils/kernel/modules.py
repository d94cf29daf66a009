# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which modules of a kernel a zone needs, and the order to load them in. Pure: text of kmod's and kbuild's files in, names out."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Mapping

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError

REQUIRED: Mapping[str, str] = {
    "xen_blkfront": "XEN_BLKDEV_FRONTEND",
    "xen_netfront": "XEN_NETDEV_FRONTEND",
    "xen_gntalloc": "XEN_GRANT_DEV_ALLOC",
    "xen_gntdev": "XEN_GNTDEV",
    "xen_evtchn": "XEN_DEV_EVTCHN",
    "erofs": "EROFS_FS",
    "squashfs": "SQUASHFS",
    "overlay": "OVERLAY_FS",
    "ext4": "EXT4_FS",
}
"""What a zone may need of its kernel: the module, and the option that builds it in or as a module."""

OPTIONAL: Mapping[str, str] = {"fuse": "FUSE_FS", "tun": "TUN", "xen_privcmd": "XEN_PRIVCMD"}
"""What only a zone with a device of it needs (``devices.NODES``), and what hostile zones load to reach the hypervisor (``attack``); a
kernel may be without."""


@dataclasses.dataclass(frozen=True)
class ModuleIndex:
    """What depmod found out: by module path its dependencies, by module name its soft ones, by alias the modules that answer to it."""

    dependencies: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)
    soft: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)
    aliases: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)

    @classmethod
    def parse(cls, dep: str, softdep: str, alias: str) -> ModuleIndex:
        """Read ``modules.dep``, ``modules.softdep`` and ``modules.alias`` (see depmod.d(5) and modules.dep(5))."""
        dependencies = {}
        for line in dep.replace("\0", "").splitlines():  # NUL is in no path, and no program takes it
            path, _colon, needed = line.partition(":")
            dependencies[path] = needed.split()
        soft: dict[str, list[str]] = defaultdict(list)
        for line in softdep.splitlines():
            when = ""
            words = line.split()
            for word in words[2:]:
                if word in ("pre:", "post:"):
                    when = word
                elif when == "pre:":
                    soft[_name(words[1])].append(word)
        return cls(dependencies, soft, _aliases(alias))

    def load_order(self, name: str) -> list[str]:
        """The paths to load for module ``name``, itself last; empty if there is no such module.

        The index is the image's: what one of its lines says is looked at once, however often it is named.
        """
        paths = {module_name(path): path for path in self.dependencies}
        soft = dict(self.soft)
        order: list[str] = []
        visited: set[str] = set()
        met: set[str] = set()
        pending = [(paths[name], False)] if name in paths else []
        while pending:
            path, complete = pending.pop()
            if complete:
                order.append(path)
            elif path not in visited:
                visited.add(path)
                pending.append((path, True))
                aliases = dict.fromkeys(alias for alias in soft.pop(module_name(path), []) if alias not in met)
                met.update(aliases)
                modules = (module for alias in aliases for module in self.aliases.get(alias, [_name(alias)]))
                before = [*(paths[module] for module in modules if module in paths), *self.dependencies.get(path, [])]
                pending += [(needed, False) for needed in reversed(dict.fromkeys(before)) if needed not in visited]
        return order


def built_in(config: str) -> set[str]:
    """The options, without ``CONFIG_``, that a ``.config`` has as ``y``."""
    return set(re.findall(r"^CONFIG_(\w+)=y$", config, re.MULTILINE))


def zone_modules(index: ModuleIndex, config: str | None) -> dict[str, tuple[str, ...]]:
    """For each of ``REQUIRED``, and those of ``OPTIONAL`` that the kernel has, the paths to load, in order; none for what is built in.

    :param config: the kernel's ``.config``; ``None`` if it is not known, and then nothing counts as built in.
    :raises RingfenceError: naming everything required that the kernel has neither built in nor as a module.
    """
    builtin = built_in(config or "")
    modules: dict[str, tuple[str, ...]] = {}
    for name, option in {**REQUIRED, **OPTIONAL}.items():
        order = () if option in builtin else tuple(index.load_order(name))
        if order or option in builtin:
            modules[name] = order
    missing = [f"{name} (CONFIG_{option})" for name, option in REQUIRED.items() if name not in modules]
    # Since Linux 6.8; before, it could not be switched off. A zone's record is on the disk of its writable layer.
    if re.search(r"^# CONFIG_BLK_DEV_WRITE_MOUNTED is not set$", config or "", re.MULTILINE):
        missing.append("writes to disks that are mounted (CONFIG_BLK_DEV_WRITE_MOUNTED)")
    if missing and config is None:
        raise RingfenceError(
            f"it has no module for {', '.join(missing)}, and whether that is built in cannot be checked without the kernel's "
            "configuration; add it to the image as boot/config-RELEASE, or use a kernel that carries it (CONFIG_IKCONFIG)"
        )
    if missing:
        raise RingfenceError(f"it lacks, built in or as a module, what a zone needs: {', '.join(missing)}; use a kernel that has it")
    return modules


def _aliases(text: str) -> dict[str, list[str]]:
    """Plain aliases only. Modules bound to a processor feature are left out: on another processor they refuse to load."""
    lines = [line.split() for line in text.splitlines()]
    pairs = [(words[1], words[2]) for words in lines if len(words) == 3 and words[0] == "alias"]
    bound = {module for alias, module in pairs if alias.startswith("cpu:")}
    aliases: dict[str, list[str]] = defaultdict(list)
    for alias, module in pairs:
        if module not in bound:
            aliases[alias].append(_name(module))
    return dict(aliases)


def _name(text: str) -> str:
    """Module names as the kernel has them: ``-`` and ``_`` are the same in file names."""
    return text.replace("-", "_")


def module_name(path: str) -> str:
    """The module in a file such as ``kernel/drivers/block/xen-blkfront.ko.xz``."""
    return _name(path.rsplit("/", 1)[-1].partition(".ko")[0])
