# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses, links and nftables rules of a host's zones. Pure text; nothing here runs a command.

Each zone has a routed point-to-point link of its own: no bridge, so no layer 2 is shared. The zone with index N has the
addresses ``198.18.0.0 + N`` and ``fd72:696e:6766::N``, the interface ``rzN`` on the host, and ``169.254.1.1`` and ``fe80::1`` as its
gateways. The ranges are that of RFC 2544, which no site routes, and a unique local one; a zone's address never leaves its host.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.spec.fields import Networks, Port, Traffic

GATEWAY = "169.254.1.1"
GATEWAY6 = "fe80::1"
"""Nobody has this address: both ends of a link have the zone's MAC address, so that none has to be asked for."""
_PREFIX6 = "fd72:696e:6766::"
_RANGE = ipaddress.IPv4Network("198.18.0.0/16")
_LAST_INDEX = 9999


@dataclass(frozen=True)
class Link:
    """What the rules have to know of one zone. ``servers`` are the addresses of its name servers, which it may always ask."""

    index: int
    ports: tuple[Port, ...] = ()
    networks: Networks = field(default_factory=Networks)
    servers: tuple[str, ...] = ()


@functools.cache
def address(index: int) -> str:
    """The IPv4 address of the zone with this index."""
    return str(_RANGE.network_address + index)


def address6(index: int) -> str:
    """The IPv6 address of the zone with this index, whose decimal digits are its last group: the script ``vif`` knows no more than them."""
    return f"{_PREFIX6}{index}"


def interface(index: int) -> str:
    """The zone's network interface on the host."""
    return f"rz{index}"


def mac(index: int) -> str:
    """The zone's MAC address, in Xen's own range 00:16:3e."""
    return f"00:16:3e:00:{index >> 8:02x}:{index & 0xFF:02x}"


def allocate(names: Iterable[str], taken: Mapping[str, int]) -> dict[str, int]:
    """Give each zone an index: the one it has, else the lowest free one, in the order of names.

    :param taken: the indices of all zones that exist on the host.
    """
    used = set(taken.values())
    free = (index for index in range(1, _LAST_INDEX + 1) if index not in used)
    result: dict[str, int] = {}
    for name in sorted(names):
        index = taken[name] if name in taken else next(free, None)
        if index is None:
            raise RingfenceError(f"zone {name}: no free address in {_RANGE}; a host has at most {_LAST_INDEX} zones")
        result[name] = index
    return result


def ruleset(links: Mapping[str, Link], *, routes_others: Collection[str]) -> str:
    """The nftables tables ``inet ringfence`` and ``arp ringfence`` as one transaction that replaces them. No other table is touched.

    Closed unless declared: between zones, from a zone to the host, and from a zone to the network. Each packet is judged by how its
    connection began, so that a connection lasts no longer than what lets it be begun.

    :param links: every zone of the host, by name.
    :param routes_others: of ``ipv4`` and ``ipv6`` those for which the host was a router before it had zones. Of the others, what is
        neither for nor from a zone is dropped: forwarding, which published ports need, makes no router of it.
    """
    by_name = dict(sorted(links.items(), key=lambda item: item[1].index))
    ordered = [*by_name.values()]
    open_to: dict[str, list[tuple[Link, Traffic]]] = {}
    for link in ordered:
        for traffic in link.networks.ingress:
            open_to.setdefault(traffic.peer, []).append((link, traffic))
    starting = {interface(link.index): rules for name, link in by_name.items() if (rules := _declared(link, open_to.get(name, ())))}
    lines = ["table inet ringfence", "delete table inet ringfence", "table inet ringfence {"]
    for protocol in ("tcp", "udp"):
        ports = [(link.index, port) for link in ordered for port in sorted(link.ports) if port.protocol == protocol]
        anywhere = [(index, port) for index, port in ports if not port.address]
        for suffix, kind, of in (("", "ipv4_addr", address), ("6", "ipv6_addr", address6)):
            at_one = [(index, port) for index, port in ports if port.address and (":" in port.address) == (suffix == "6")]
            targets = [f"{port.host} : {of(index)} . {port.zone}" for index, port in anywhere]
            lines += _collection(f"map published{suffix}_{protocol}", f"inet_service : {kind} . inet_service", targets)
            targets = [f"{port.address} . {port.host} : {of(index)} . {port.zone}" for index, port in at_one]
            lines += _collection(f"map published{suffix}_at_{protocol}", f"{kind} . inet_service : {kind} . inet_service", targets)
            served = [f'"{interface(index)}" . {port.address} . {port.host} . {port.zone}' for index, port in at_one]
            lines += _collection(f"set served{suffix}_at_{protocol}", f"ifname . {kind} . inet_service . inet_service", served)
        served = [f'"{interface(index)}" . {port.host} . {port.zone}' for index, port in anywhere]
        lines += _collection(f"set served_{protocol}", "ifname . inet_service . inet_service", served)
    lines += _collection("set servers", "ifname", [f'"{interface(link.index)}"' for link in ordered if link.ports])
    for suffix, kind, of in (("", "ipv4_addr", address), ("6", "ipv6_addr", address6)):
        sources = [f'"{interface(link.index)}" . {of(link.index)}' for link in ordered]
        lines += _collection(f"set sources{suffix}", f"ifname . {kind}", sources)
    for name, rules in starting.items():
        lines += [f"    chain from_{name} {{", *(f"        {rule}" for rule in rules), "    }"]
    lines += _collection("map starting", "ifname : verdict", [f'"{name}" : jump from_{name}' for name in starting])
    lines += [
        *_CHAINS,
        *_judging("forth", "original", "iifname", "oifname"),
        *_judging("back", "reply", "oifname", "iifname"),
        "    chain forward {",
        "        type filter hook forward priority filter; policy accept;",
        *(f'        meta nfproto {family} iifname != "rz*" oifname != "rz*" accept' for family in sorted(routes_others)),
        '        iifname != "rz*" oifname != "rz*" drop',
        "        ct direction vmap { original : jump forth, reply : jump back }",
        "        drop",
        "    }",
        "}",
        *_arp([f'"{interface(link.index)}" . {address(link.index)}' for link in ordered]),
        "",
    ]
    return "\n".join(lines)


def moved_udp_ports(before: str, after: str) -> set[int]:
    """The UDP ports of the host that do not lead where they did, of two rulesets: published, taken away, or given to another zone."""
    return {int(target.split(" : ")[0].split(" . ")[-1]) for target in _udp_targets(before) ^ _udp_targets(after)}


def _udp_targets(text: str) -> set[str]:
    maps = re.findall(r"map published6?(?:_at)?_udp \{\n.*\n +elements = \{ (.*) \}", text)
    return {target for elements in maps for target in elements.split(", ")}


def _judging(chain: str, direction: str, starter: str, other: str) -> list[str]:
    """The chain for the packets of one direction: ``starter`` and ``other`` match the interfaces of who began and of who was called.

    An ICMP error has no ports of its own: it passes where its connection's zone, or network, may be called at all.
    """
    return [
        f"    chain {chain} {{",
        # An ICMP error counts as its connection's, whoever sends it.
        f'        ct state related iifname "rz*" iifname . ct {direction} ip saddr != @sources drop',
        f'        ct state related iifname "rz*" iifname . ct {direction} ip6 saddr != @sources6 drop',
        f"        {starter} vmap @starting",
        f'        {starter} "rz*" return',
        *(
            f"        ct status dnat meta l4proto {protocol} {other} . {called}"
            f"ct original proto-dst . ct reply proto-src @{served}_{protocol} accept"
            for protocol in ("tcp", "udp")
            for called, served in (("", "served"), ("ct original ip daddr . ", "served_at"), ("ct original ip6 daddr . ", "served6_at"))
        ),
        f"        ct status dnat ct state related {other} @servers accept",
        "    }",
    ]


def _arp(senders: Sequence[str]) -> list[str]:
    """The table for ARP, which the other one does not see. A host keeps an entry of whoever asks it, so no zone asks in another's name."""
    return [
        "table arp ringfence",
        "delete table arp ringfence",
        "table arp ringfence {",
        *_collection("set senders", "ifname . ipv4_addr", senders),
        "    chain asking {",
        "        type filter hook input priority filter; policy accept;",
        '        iifname "rz*" iifname . arp saddr ip != @senders drop',
        "    }",
        "}",
    ]


def _collection(head: str, kind: str, elements: Sequence[str]) -> list[str]:
    """The lines of a map or a set."""
    told = [f"        elements = {{ {', '.join(elements)} }}"] if elements else []
    return [f"    {head} {{", f"        type {kind}", *told, "    }"]


def _declared(link: Link, open_to_it: Iterable[tuple[Link, Traffic]]) -> list[str]:
    """The rules for the connections that a zone may begin: to zones that let it in, ``open_to_it``, and to what is no zone."""
    rules = [
        rule
        for other, traffic in open_to_it
        for peer in (address(other.index), address6(other.index))
        for rule in _accepted(peer, traffic.ports)
    ]
    asked = [Traffic(server, ("53/tcp", "53/udp")) for server in link.servers]
    outside = [rule for traffic in (*asked, *link.networks.egress) for rule in _accepted(traffic.peer, traffic.ports)]
    return [*rules, *(f"{_called(zones)} return" for zones in (str(_RANGE), f"{_PREFIX6}/64") if outside), *outside]


def _accepted(peer: str, ports: Sequence[str]) -> list[str]:
    """The rules for connections to an address or network; no ports are all of them, and all protocols."""
    if not ports:
        return [f"{_called(peer)} accept"]
    numbered = [port.split("/") for port in ports]
    rules = [f"{_called(peer)} meta l4proto {protocol} ct reply proto-src {number} accept" for number, protocol in numbered]
    return [*rules, f"{_called(peer)} ct state related accept"]


def _called(peer: str) -> str:
    """What matches each packet of a connection that is answered by an address, or from a network: after the host's own translation."""
    return f"ct reply {'ip6' if ':' in peer else 'ip'} saddr {peer}"


_CHAINS = """\
    chain spoofed {
        # Before anything else looks at a packet of a zone: its source must be the zone's own address. Linux joins fragments at -400, and
        # what is joined counts as its last part's interface's.
        type filter hook prerouting priority -450; policy accept;
        iifname "rz*" iifname . ip saddr != @sources drop
        iifname "rz*" iifname . ip6 saddr != @sources6 drop
    }
    chain published_from_outside {
        type nat hook prerouting priority dstnat; policy accept;
        iifname "rz*" accept
        # At one address, and not by another network's card: Linux takes packets for any of its addresses on each.
        fib daddr . iif type local dnat ip to ip daddr . tcp dport map @published_at_tcp
        fib daddr . iif type local dnat ip to ip daddr . udp dport map @published_at_udp
        fib daddr . iif type local dnat ip6 to ip6 daddr . tcp dport map @published6_at_tcp
        fib daddr . iif type local dnat ip6 to ip6 daddr . udp dport map @published6_at_udp
        meta nfproto ipv4 fib daddr type local dnat ip to tcp dport map @published_tcp
        meta nfproto ipv4 fib daddr type local dnat ip to udp dport map @published_udp
        # A link-local address is not routed on.
        ip6 daddr != fe80::/10 fib daddr type local dnat ip6 to tcp dport map @published6_tcp
        ip6 daddr != fe80::/10 fib daddr type local dnat ip6 to udp dport map @published6_udp
    }
    chain published_from_the_host {
        # The priority dstnat by number: Debian 12 refuses the name in this hook.
        type nat hook output priority -100; policy accept;
        fib daddr type local dnat ip to ip daddr . tcp dport map @published_at_tcp
        fib daddr type local dnat ip to ip daddr . udp dport map @published_at_udp
        fib daddr type local dnat ip6 to ip6 daddr . tcp dport map @published6_at_tcp
        fib daddr type local dnat ip6 to ip6 daddr . udp dport map @published6_at_udp
        ip daddr != 127.0.0.0/8 fib daddr type local dnat ip to tcp dport map @published_tcp
        ip daddr != 127.0.0.0/8 fib daddr type local dnat ip to udp dport map @published_udp
        ip6 daddr != { ::1, fe80::/10 } fib daddr type local dnat ip6 to tcp dport map @published6_tcp
        ip6 daddr != { ::1, fe80::/10 } fib daddr type local dnat ip6 to udp dport map @published6_udp
    }
    chain leaving {
        # A zone's address means nothing beyond its host. What no rule lets out does not come here.
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 198.18.0.0/16 oifname != "rz*" masquerade
        ip6 saddr fd72:696e:6766::/64 oifname != "rz*" masquerade
    }
    chain input {
        type filter hook input priority filter; policy accept;
        iifname != "rz*" accept
        ct state established accept
        # An ICMP error is heard only of a connection with the zone that sends it; no zone begins one with the host.
        ct state related iifname . ct reply ip saddr @sources accept
        ct state related iifname . ct reply ip6 saddr @sources6 accept
        drop
    }""".split("\n")
