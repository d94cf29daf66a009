# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The zones' nftables tables on the host: what they shall be, whether they are loaded, and loading them; and whether the host routes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.command import CommandFailed, run
from ansible_collections.ringfence.zones.plugins.module_utils.host import has_table
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store, write_atomically
from ansible_collections.ringfence.zones.plugins.module_utils.zone import network
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import Definition

FORWARDING = Path("/etc/sysctl.d/60-ringfence.conf")
"""Our file that turns IPv4 forwarding on, on a host that did not route before.

IPv6 forwarding is turned on by the script ``vif``, which is told by what it leaves: all is 1, and default is 0.
"""

_TABLE = "ringfence"
_FAMILIES = ("inet", "arp")
_KEPT = "network.nft"
"""The file in the store that the unit ringfence-network loads at boot."""

_LOADING = "network.loading"
"""Others than those that are kept, while they are loaded: a run that is killed then has perhaps loaded what nobody wants any more."""


def routes_others() -> frozenset[str]:
    """Of ``ipv4`` and ``ipv6`` those for which this host is a router by its operator's will: it forwards, and not because of us."""
    ours = {"ipv4": FORWARDING.exists(), "ipv6": not _is_on("ipv6/conf/default/forwarding")}
    switches = {"ipv4": "ipv4/ip_forward", "ipv6": "ipv6/conf/all/forwarding"}
    return frozenset(family for family, switch in switches.items() if _is_on(switch) and not ours[family])


def _is_on(parameter: str) -> bool:
    path = Path("/proc/sys/net") / parameter
    return path.exists() and path.read_text(encoding="ascii").strip() == "1"


def rules(definitions: Iterable[Definition]) -> str:
    """The tables of a host that has these zones."""
    links = {definition.zone.name: _link(definition) for definition in definitions}
    return network.ruleset(links, routes_others=routes_others())


def is_loaded(store: Store, text: str) -> bool:
    """Whether these tables are loaded, and kept for the next boot of the host."""
    if kept(store) != text or (store.root / _LOADING).exists():
        return False
    return all(has_table(family, _TABLE) for family in _FAMILIES)


def load(store: Store, text: str) -> None:
    """Replace the tables at once as a whole; they are kept only if they load."""
    loading = store.root / _LOADING
    unfinished = _text(loading)
    write_atomically(loading, text.encode())
    try:
        run(["nft", "-f", "-"], stdin=text.encode())
    except CommandFailed:
        # nft has loaded nothing of it.
        if unfinished is None:
            loading.unlink()
        else:
            write_atomically(loading, unfinished.encode())
        raise
    before = [kept(store), *([] if unfinished is None else [unfinished])]
    for port in sorted(set().union(*(network.moved_udp_ports(rules, text) for rules in before))):
        _forget_senders(port)
    write_atomically(store.root / _KEPT, text.encode())
    loading.unlink()


def _forget_senders(port: int) -> None:
    """Have the kernel decide anew where datagrams to a port of the host go: for a sender that it knows, it never asks the rules again."""
    for family in ("ipv4", "ipv6"):
        try:
            run(["conntrack", "-D", "-f", family, "-p", "udp", "--orig-port-dst", str(port)], timeout=60)
        except CommandFailed as error:
            if "0 flow entries have been deleted" not in error.output:
                raise


def kept(store: Store) -> str:
    """The rules that are loaded at the next boot of the host; empty if there are none."""
    return _text(store.root / _KEPT) or ""


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else None


def listed() -> str:
    """The tables as nft lists them; empty if that of the family ``inet`` is not loaded.

    :raises RingfenceError: when nft does not answer.
    """
    first, *others = _FAMILIES
    loaded = _listed(first)
    return loaded and "".join([loaded, *map(_listed, others)])


def _listed(family: str) -> str:
    try:
        return run(["nft", "list", "table", family, _TABLE], timeout=20).decode("utf-8", "replace")
    except CommandFailed as error:
        if "No such file or directory" in error.output:
            return ""
        raise


def as_listed(text: str) -> str:
    """How nft would list these tables. They are loaded in a network namespace of its own, which ends with the command.

    :raises RingfenceError: when nft does not load it.
    """
    script = " && ".join(["nft -f -", *(f"nft list table {family} {_TABLE}" for family in _FAMILIES)])
    return run(["unshare", "--net", "sh", "-c", script], stdin=text.encode(), timeout=20).decode("utf-8", "replace")


def _link(definition: Definition) -> network.Link:
    zone = definition.zone
    return network.Link(definition.index, zone.ports, zone.networks, zone.dns)
