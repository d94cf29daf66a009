# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The zones' nftables table on the host: what it shall be, whether it is loaded, and loading it."""

from __future__ import annotations

from collections.abc import Iterable

from ansible_collections.ringfence.zones.plugins.module_utils import network
from ansible_collections.ringfence.zones.plugins.module_utils.command import CommandFailed, run
from ansible_collections.ringfence.zones.plugins.module_utils.domain import Definition
from ansible_collections.ringfence.zones.plugins.module_utils.host import has_table, routes_others
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store, write_atomically

_KEPT = "network.nft"
"""The file in the store that the unit ringfence-network loads at boot."""

_LOADING = "network.loading"
"""It is there while others are loaded than those that are kept: a run that is killed then has perhaps loaded what nobody wants any more."""


def rules(definitions: Iterable[Definition]) -> str:
    """The table of a host that has these zones."""
    links = {definition.zone.name: _link(definition) for definition in definitions}
    return network.ruleset(links, routes_others=routes_others())


def is_loaded(store: Store, text: str) -> bool:
    """Whether this table is loaded, and kept for the next boot of the host."""
    return kept(store) == text and not (store.root / _LOADING).exists() and has_table("ringfence")


def load(store: Store, text: str) -> None:
    """Replace the table at once as a whole; it is kept only if it loads."""
    loading = store.root / _LOADING
    loading.touch(mode=0o600)
    try:
        run(["nft", "-f", "-"], stdin=text.encode())
    except CommandFailed:
        loading.unlink()  # nft has loaded nothing of it.
        raise
    write_atomically(store.root / _KEPT, text.encode())
    loading.unlink()


def kept(store: Store) -> str:
    """The rules that are loaded at the next boot of the host; empty if there are none."""
    path = store.root / _KEPT
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def listed() -> str:
    """The table as nft lists it; empty if it is not loaded.

    :raises RingfenceError: when nft does not answer.
    """
    try:
        return run(["nft", "list", "table", "inet", "ringfence"], timeout=20).decode("utf-8", "replace")
    except CommandFailed as error:
        if "No such file or directory" in error.output:
            return ""
        raise


def as_listed(text: str) -> str:
    """How nft would list this table. It is loaded in a network namespace of its own, which ends with the command.

    :raises RingfenceError: when nft does not load it.
    """
    script = "nft -f - && nft list table inet ringfence"
    return run(["unshare", "--net", "sh", "-c", script], stdin=text.encode(), timeout=20).decode("utf-8", "replace")


def _link(definition: Definition) -> network.Link:
    zone = definition.zone
    return network.Link(definition.index, zone.ports, zone.networks, zone.dns)
