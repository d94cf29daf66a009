"""Tests of the library's ``zone.network``."""

from __future__ import annotations

import ipaddress
import re

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.spec.fields import Networks, Port, Traffic
from ansible_collections.ringfence.zones.plugins.module_utils.zone.network import (
    GATEWAY,
    GATEWAY6,
    Link,
    address,
    address6,
    allocate,
    interface,
    mac,
    moved_udp_ports,
    ruleset,
)

LAST = 9999


def test_the_first_and_the_last_link() -> None:
    assert (address(1), interface(1), mac(1)) == ("198.18.0.1", "rz1", "00:16:3e:00:00:01")
    assert (address(LAST), interface(LAST), mac(LAST)) == ("198.18.39.15", "rz9999", "00:16:3e:00:27:0f")


def test_no_two_indices_share_an_address_or_a_mac_address() -> None:
    indices = range(1, LAST + 1)
    assert len({address(index) for index in indices}) == len({mac(index) for index in indices}) == LAST
    assert all(ipaddress.ip_address(address(index)) in ipaddress.ip_network("198.18.0.0/15") for index in indices)
    assert len({address6(index) for index in indices}) == LAST
    assert all(ipaddress.ip_address(address6(index)) in ipaddress.ip_network("fd72:696e:6766::/64") for index in indices)
    assert all(str(ipaddress.ip_address(address6(index))) == address6(index) for index in indices)
    assert ipaddress.ip_address(GATEWAY).is_link_local
    assert ipaddress.ip_address(GATEWAY6).is_link_local


def test_a_name_of_a_link_fits_into_the_kernel() -> None:
    assert len(interface(LAST)) < 16  # IFNAMSIZ, with its terminating zero


def test_new_zones_get_the_lowest_free_indices_in_the_order_of_names() -> None:
    assert allocate(["web", "db"], {}) == {"db": 1, "web": 2}
    assert allocate(["web", "db", "a"], {"db": 2, "other": 1}) == {"a": 3, "db": 2, "web": 4}


def test_a_zone_keeps_its_index_whatever_comes_and_goes() -> None:
    taken = allocate(["b", "c"], {})
    assert allocate(["a", "b", "c"], taken) == {**taken, "a": 3}
    assert allocate(["c"], taken) == {"c": taken["c"]}
    assert allocate(["a", "c"], {"c": taken["c"]}) == {"a": 1, "c": taken["c"]}


def test_no_address_is_left() -> None:
    taken = {f"zone-{index}": index for index in range(1, LAST + 1)}
    assert allocate(taken, taken) == taken
    with pytest.raises(RingfenceError, match=r"zone web: no free address in 198\.18\.0\.0/16; a host has at most 9999 zones"):
        allocate(["web"], taken)


def _block(text: str, head: str) -> list[str]:
    """The lines of one map, set or chain, without its comments."""
    found = re.search(rf"^    {re.escape(head)} {{\n(.*?)^    }}", text, re.DOTALL | re.MULTILINE)
    assert found, head
    return [line.strip() for line in found[1].splitlines() if not line.strip().startswith("#")]


def test_the_table_is_replaced_as_a_whole_and_no_other_is_named() -> None:
    lines = ruleset({"a": Link(1, (Port(80, 80),))}, routes_others=()).splitlines()
    assert lines[:3] == ["table inet ringfence", "delete table inet ringfence", "table inet ringfence {"]
    told = [line for line in lines if line.startswith(("table", "delete", "flush"))]
    assert told == lines[:3] + [line.replace("inet", "arp") for line in lines[:3]]
    assert lines[-1] == "}"


def test_the_published_ports_and_the_sources() -> None:
    text = ruleset({"a": Link(2, (Port(8080, 80), Port(53, 53, "udp"))), "b": Link(1, (Port(443, 443),)), "c": Link(3)}, routes_others=())
    assert _block(text, "map published_tcp") == [
        "type inet_service : ipv4_addr . inet_service",
        "elements = { 443 : 198.18.0.1 . 443, 8080 : 198.18.0.2 . 80 }",
    ]
    assert _block(text, "map published_udp") == [
        "type inet_service : ipv4_addr . inet_service",
        "elements = { 53 : 198.18.0.2 . 53 }",
    ]
    assert _block(text, "set sources") == [
        "type ifname . ipv4_addr",
        'elements = { "rz1" . 198.18.0.1, "rz2" . 198.18.0.2, "rz3" . 198.18.0.3 }',
    ]
    assert _block(text, "map published6_tcp") == [
        "type inet_service : ipv6_addr . inet_service",
        "elements = { 443 : fd72:696e:6766::1 . 443, 8080 : fd72:696e:6766::2 . 80 }",
    ]
    assert _block(text, "map published6_udp") == [
        "type inet_service : ipv6_addr . inet_service",
        "elements = { 53 : fd72:696e:6766::2 . 53 }",
    ]
    assert _block(text, "set sources6") == [
        "type ifname . ipv6_addr",
        'elements = { "rz1" . fd72:696e:6766::1, "rz2" . fd72:696e:6766::2, "rz3" . fd72:696e:6766::3 }',
    ]


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        ({}, {}, set()),
        ({}, {"a": Link(1, (Port(53, 53, "udp"), Port(80, 80)))}, {53}),
        (
            {"a": Link(1, (Port(53, 53, "udp"), Port(514, 514, "udp")))},
            {"a": Link(1, (Port(514, 514, "udp"), Port(53, 5353, "udp")))},
            {53},
        ),
        ({"a": Link(1, (Port(53, 53, "udp"),))}, {"b": Link(2, (Port(53, 53, "udp"),))}, {53}),
        ({"a": Link(1, (Port(53, 53, "udp"),))}, {"a": Link(1)}, {53}),
        ({"a": Link(1, (Port(53, 53, "udp"),))}, {"a": Link(1, (Port(53, 53, "udp", "192.0.2.5"),))}, {53}),
        ({"a": Link(1, (Port(53, 53, "udp", "192.0.2.5"),))}, {"a": Link(1, (Port(53, 53, "udp", "2001:db8::5"),))}, {53}),
        ({"a": Link(1, (Port(53, 53, "udp", "2001:db8::5"),))}, {"b": Link(2, (Port(53, 53, "udp", "2001:db8::5"),))}, {53}),
        ({"a": Link(1, (Port(53, 53, "udp", "192.0.2.5"),))}, {"a": Link(1, (Port(53, 53, "udp", "192.0.2.5"),))}, set()),
    ],
)
def test_the_udp_ports_that_lead_elsewhere(before: dict[str, Link], after: dict[str, Link], moved: set[int]) -> None:
    assert moved_udp_ports(*(ruleset(links, routes_others=()) for links in (before, after))) == moved


def test_the_ports_that_are_published_at_an_address() -> None:
    ports = (Port(80, 8000, address="192.0.2.5"), Port(80, 8000, address="2001:db8::5"), Port(443, 443))
    text = ruleset({"a": Link(1, ports), "b": Link(2, (Port(80, 80, address="192.0.2.6"),))}, routes_others=())
    assert _block(text, "map published_at_tcp") == [
        "type ipv4_addr . inet_service : ipv4_addr . inet_service",
        "elements = { 192.0.2.5 . 80 : 198.18.0.1 . 8000, 192.0.2.6 . 80 : 198.18.0.2 . 80 }",
    ]
    assert _block(text, "map published6_at_tcp") == [
        "type ipv6_addr . inet_service : ipv6_addr . inet_service",
        "elements = { 2001:db8::5 . 80 : fd72:696e:6766::1 . 8000 }",
    ]
    assert _block(text, "set served_at_tcp")[1] == 'elements = { "rz1" . 192.0.2.5 . 80 . 8000, "rz2" . 192.0.2.6 . 80 . 80 }'
    assert _block(text, "set served6_at_tcp")[1] == 'elements = { "rz1" . 2001:db8::5 . 80 . 8000 }'
    assert _block(text, "map published_tcp")[1] == "elements = { 443 : 198.18.0.1 . 443 }"
    assert _block(text, "set served_tcp")[1] == 'elements = { "rz1" . 443 . 443 }'


def test_rules_that_never_were_publish_nothing() -> None:
    assert moved_udp_ports("", ruleset({"a": Link(1, (Port(53, 53, "udp"),))}, routes_others=())) == {53}


def test_without_zones_there_is_nothing_published() -> None:
    assert "elements" not in ruleset({}, routes_others=())


def test_the_order_of_zones_and_ports_does_not_show() -> None:
    assert ruleset({"a": Link(1, (Port(1, 1), Port(2, 2))), "b": Link(2)}, routes_others=()) == ruleset(
        {"b": Link(2), "a": Link(1, (Port(2, 2), Port(1, 1)))}, routes_others=()
    )


def test_only_the_table_of_ports_and_sources_differs_between_hosts() -> None:
    one, other = ruleset({}, routes_others=()), ruleset({"a": Link(1, (Port(80, 80),))}, routes_others=())
    assert set(one.splitlines()) < set(other.splitlines())


@pytest.mark.parametrize("chain", ["forward", "input"])
def test_what_no_rule_lets_through_is_dropped(chain: str) -> None:
    lines = _block(ruleset({"a": Link(1)}, routes_others=()), f"chain {chain}")
    assert lines[-1] == "drop"
    assert lines[1].startswith('iifname != "rz*"')  # What is no business of zones passes first.


def test_a_forged_source_is_dropped_before_anything_else_looks_at_it() -> None:
    assert _block(ruleset({"a": Link(1)}, routes_others=()), "chain spoofed") == [
        "type filter hook prerouting priority -450; policy accept;",
        'iifname "rz*" iifname . ip saddr != @sources drop',
        'iifname "rz*" iifname . ip6 saddr != @sources6 drop',
    ]


def test_each_packet_is_judged_by_what_its_connection_may_begin_now() -> None:
    networks = Networks(
        egress=(Traffic("10.0.0.0/8", ("53/udp", "80/tcp")), Traffic("192.0.2.0/24"), Traffic("2001:db8::/32")),
        ingress=(Traffic("db", ("1-9/tcp",)),),
    )
    text = ruleset({"a": Link(1, networks=networks, servers=("2001:db8::53",)), "db": Link(2), "c": Link(3)}, routes_others=())
    assert _block(text, "chain forward")[-2:] == ["ct direction vmap { original : jump forth, reply : jump back }", "drop"]
    assert _block(text, "map starting") == [
        "type ifname : verdict",
        'elements = { "rz1" : jump from_rz1, "rz2" : jump from_rz2 }',
    ]
    assert _block(text, "chain from_rz1") == [
        "ct reply ip saddr 198.18.0.0/16 return",
        "ct reply ip6 saddr fd72:696e:6766::/64 return",
        "ct reply ip6 saddr 2001:db8::53 meta l4proto tcp ct reply proto-src 53 accept",
        "ct reply ip6 saddr 2001:db8::53 meta l4proto udp ct reply proto-src 53 accept",
        "ct reply ip6 saddr 2001:db8::53 ct state related accept",
        "ct reply ip saddr 10.0.0.0/8 meta l4proto udp ct reply proto-src 53 accept",
        "ct reply ip saddr 10.0.0.0/8 meta l4proto tcp ct reply proto-src 80 accept",
        "ct reply ip saddr 10.0.0.0/8 ct state related accept",
        "ct reply ip saddr 192.0.2.0/24 accept",
        "ct reply ip6 saddr 2001:db8::/32 accept",
    ]
    assert _block(text, "chain from_rz2") == [
        "ct reply ip saddr 198.18.0.1 meta l4proto tcp ct reply proto-src 1-9 accept",
        "ct reply ip saddr 198.18.0.1 ct state related accept",
        "ct reply ip6 saddr fd72:696e:6766::1 meta l4proto tcp ct reply proto-src 1-9 accept",
        "ct reply ip6 saddr fd72:696e:6766::1 ct state related accept",
    ]


def test_the_two_directions_of_a_connection_differ_in_its_ends_alone() -> None:
    text = ruleset({"a": Link(1, (Port(8080, 80),))}, routes_others=())
    forth, back = (_block(text, f"chain {chain}") for chain in ("forth", "back"))
    swapped = {"iifname": "oifname", "oifname": "iifname"}
    assert back[2:] == [" ".join(swapped.get(word, word) for word in line.split()) for line in forth[2:]]
    assert back[:2] == [line.replace("original", "reply") for line in forth[:2]]
    assert forth[0] == 'ct state related iifname "rz*" iifname . ct original ip saddr != @sources drop'
    assert _block(text, "set served_tcp")[1] == 'elements = { "rz1" . 8080 . 80 }'
    assert _block(text, "set servers")[1] == 'elements = { "rz1" }'


@pytest.mark.parametrize(
    ("routes", "first"),
    [
        ((), []),
        (("ipv4",), ['meta nfproto ipv4 iifname != "rz*" oifname != "rz*" accept']),
        (
            ("ipv6", "ipv4"),
            ['meta nfproto ipv4 iifname != "rz*" oifname != "rz*" accept', 'meta nfproto ipv6 iifname != "rz*" oifname != "rz*" accept'],
        ),
    ],
)
def test_a_host_stays_the_router_that_it_was_and_becomes_no_other(routes: tuple[str, ...], first: list[str]) -> None:
    lines = _block(ruleset({"a": Link(1)}, routes_others=routes), "chain forward")
    assert lines[1 : len(first) + 2] == [*first, 'iifname != "rz*" oifname != "rz*" drop']
