# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Installs what zones need on a host: its files, the library of ``zonectl``, and the zone base."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils import host_files
from ansible_collections.ringfence.zones.plugins.module_utils.host_files import HostFile
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.zone import base, firewall

_LIBRARY = "/usr/lib/ringfence/python/ansible_collections/ringfence/zones/plugins/module_utils"


@dataclass(frozen=True)
class Report:
    """What was changed, or would be in check mode; of files the content before and after, by path."""

    files: Mapping[str, tuple[str, str]]
    library: Mapping[str, tuple[str, str]]
    superfluous: Sequence[str]
    """Files that an older version of the library has left."""
    rules: bool
    """Whether the network's rules are loaded that a host without zones has."""
    before: str | None
    after: str | None
    """The digests of the zone base."""

    @property
    def changed(self) -> bool:
        """Whether anything is not as it was."""
        return bool(self.files or self.library or self.superfluous or self.rules) or self.before != self.after


def install(store: Store, files: Sequence[HostFile], library: Mapping[str, str], scripts: Mapping[str, str], *, check: bool) -> Report:
    """Bring the runtime of this host to these files and scripts.

    :param library: text by file name; without any, the library is left as it is.
    :param scripts: those of the zone base, text by file name.
    :raises RingfenceError: when the host lacks what the zone base is made of, nft does not load rules, or another run holds the store.
    """
    with contextlib.nullcontext() if check else store.lock():
        # A host that routes already does so by its operator's will, and keeps doing it when zones are gone.
        needless = {str(firewall.FORWARDING)} if "ipv4" in firewall.routes_others() else set()
        wanted = [file for file in files if file.path not in needless]
        modules = [HostFile(f"{_LIBRARY}/{name}", text) for name, text in sorted(library.items())]
        outdated, renewed = host_files.outdated(wanted), host_files.outdated(modules)
        superfluous = host_files.superfluous(_LIBRARY, modules) if modules else []
        before, after = base.compose(store, scripts, check=check)
        unfiltered = not firewall.kept(store)
        if not check:
            if unfiltered:
                # Before the host forwards anything. Zones may come much later, or never.
                firewall.load(store, firewall.rules(()))
            host_files.write([*modules, *wanted])
            for path in superfluous:
                Path(path).unlink()
    return Report(outdated, renewed, superfluous, unfiltered, before, after)
