"""Tests of ``network`` and of the host's script ``vif`` with the kernel's own network stack and nftables."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.spec.fields import Networks, Port, Traffic
from ansible_collections.ringfence.zones.plugins.module_utils.zone.network import Link, ruleset

ENVIRONMENT = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "PYTHONPATH": os.pathsep.join(sys.path)}
VIF = Path(__file__).parents[3] / "roles" / "runtime" / "files" / "vif"
# Root of its own user and network namespace may do all of it, and reaches nothing of this machine.
APART = ("unshare", "--map-root-user", "--net", "--mount")

OF_EACH_FAMILY = {
    "outside to a published port",
    "host to a published port",
    "outside to a published UDP port",
    "outside to the host",
    "on a router: outside through the host",
    "at one address: outside to it",
    "at one address: host to it",
    "at one address: outside to its UDP port",
    "at two addresses: outside to the one",
    "at two addresses: beyond to the other",
    "at two addresses: host to the one",
    "at two addresses: host to the other",
    "moved: outside to a port at an address that has been published meanwhile",
    "taken away: outside to a port at an address that is published still",
    "declared: zone to the outside",
    "declared: zone to its name server",
    "declared: zone to the zone that lets it in",
    "declared: outside to a published port",
    "declared: zone hears that nobody listens outside",
    "declared: outside hears that nobody listens in the zone",
    "declared: zone hears from the one that lets it in that it does not listen",
    "moved: outside to a port that has been published meanwhile",
    "moved: outside to a port that has been given to another zone meanwhile",
    "zone to a machine behind narrow links, what is sent",
    "zone to a machine behind narrow links, what is answered",
    "machine behind narrow links to a published port, what is sent",
    "machine behind narrow links to a published port, what is answered",
    "host hears that a zone does not listen",
    "host hears that nobody listens at a published port",
    "host hears from a zone that the way to it is narrow",
    "still declared: zone to the outside",
    "still declared: outside to a published port",
    # What the rules are there for: without them it would be possible.
    "without the check of sources, and of what is declared: zone with a forged source to the outside",
    "without the check of sources: zone with a forged fragment to the host",
    "without the check of errors: host hears from a zone that another machine does not listen",
    "without the check of errors: host hears from a zone that the way to another machine is narrow",
    "without rules: outside through the host",
    "without rules: zone to another zone",
    "without rules: zone to the host",
    "without rules: zone to the outside",
    "without rules: outside to a zone's own address",
}
NOT_OF_EITHER_FAMILY = {
    "outside to a port that is not published",
    "outside to a zone's own address",
    "outside through the host",
    "at one address: beyond to the other",
    "at one address: outside to the other, by its card",
    "at one address: host to the other",
    "at one address: beyond to it, by the other's card",
    "at one address: zone to it",
    "at no address of the host: outside to it",
    "at no address of the host: host to it",
    "taken away: outside to a port at an address that was published",
    "on a router: outside to a zone's own address",
    "on a router: zone to the outside",
    "declared: zone to another port of the outside",
    "declared: zone to another network",
    "declared: zone to another port of the zone that lets it in",
    "declared: zone back to the one that it lets in",
    "declared: another zone to the outside",
    "declared: zone to the host, whose address is in the network",
    "declared: zone hears from another one that a third does not listen",
    "moved: outside to a port that is not published yet",
    "taken away: zone to the outside",
    "taken away: zone to the zone that let it in",
    "taken away: outside to a port that was published",
    "taken away: answer, zone to the outside",
    "taken away: answer, zone to the zone that let it in",
    "taken away: answer, outside to a port that was published",
    "taken away: outside to the next zone with the address",
    "host hears from a zone that another machine does not listen",
    "host hears from a zone that the way to another machine is narrow",
    "zone to another zone",
    "zone to a published port of another zone",
    "zone to its gateway",
    "zone to the host",
    "zone to the outside",
    "zone with a forged source to the outside",
    "without the check of sources alone: zone with a forged source to the outside",
    "zone with a forged fragment to the host",
}
REACHABLE = {f"{family}: {connection}" for family in ("IPv4", "IPv6") for connection in OF_EACH_FAMILY} | {
    "outside to a published port of a zone that asks for MAC addresses",
    "a router outside is taken before there are zones",
    "a router outside is taken when there are zones",
    "and if something else sets accept_ra to 1",
    "the host keeps its default route",
    "without rules: a zone's announcement of a router",
    "without rules: a zone's claim of another's address",
    "without rules: a zone's questions in foreign names",
}
UNREACHABLE = {f"{family}: {connection}" for family in ("IPv4", "IPv6") for connection in NOT_OF_EITHER_FAMILY} | {
    "a zone's announcements",
    "a zone's questions in foreign names",
    "a zone's announcements, against the rules alone",
    "on a router for IPv4: outside through the host by IPv6",
    "with forwarding alone: the host keeps its default route",
}


@pytest.fixture(scope="module")
def found() -> dict[str, bool]:
    """Which connections come about between a host, two zones and machines outside."""
    program = Path(__file__).with_name("namespaces.py")
    done = subprocess.run([*APART, sys.executable, str(program)], capture_output=True, env=ENVIRONMENT, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, bool] = json.loads(done.stdout)
    assert set(found) == REACHABLE | UNREACHABLE
    return found


@pytest.mark.parametrize("connection", sorted(REACHABLE))
def test_what_is_published_is_reached(found: dict[str, bool], connection: str) -> None:
    assert found[connection]


@pytest.mark.parametrize("connection", sorted(UNREACHABLE))
def test_everything_else_is_dropped(found: dict[str, bool], connection: str) -> None:
    assert not found[connection]


@pytest.mark.parametrize(("switched_off", "addresses"), [("0", ["198.18.0.9", "fd72:696e:6766::9"]), ("1", ["198.18.0.9"])])
def test_a_link_is_set_up_on_a_host_that_has_ipv6_switched_off(tmp_path: Path, switched_off: str, addresses: list[str]) -> None:
    for name in ("xenstore-read", "xenstore-write"):
        (tmp_path / name).write_text("#!/bin/sh\nprintf '%s\\n' rz9 198.18.0.9 00:16:3e:00:00:09\n")
        (tmp_path / name).chmod(0o755)
    steps = (
        f"echo {switched_off} >/proc/sys/net/ipv6/conf/default/disable_ipv6",
        "nft add table inet ringfence",
        "ip link add vif9.0 type veth",
        f"PATH={tmp_path}:$PATH vif=vif9.0 XENBUS_PATH=backend sh {VIF} online >/dev/null",
        "for family in -4 -6; do ip $family neighbour show dev rz9 nud permanent; done",
    )
    done = subprocess.run([*APART, "sh", "-ec", "; ".join(steps)], capture_output=True, env=ENVIRONMENT, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [line.split()[0] for line in done.stdout.decode().splitlines()] == addresses


@pytest.mark.parametrize(
    "links",
    [
        {},
        {"a": Link(1)},
        {"a": Link(1, (Port(80, 80),)), "b": Link(2, (Port(53, 53, "udp"), Port(53, 53))), "c": Link(9999, (Port(65535, 65535),))},
        {
            "a": Link(1, (Port(80, 80, address="192.0.2.5"), Port(80, 80, address="2001:db8::5"))),
            "b": Link(2, (Port(80, 80, address="192.0.2.6"), Port(53, 53, "udp", "192.0.2.5"), Port(53, 5353, "udp", "2001:db8::5"))),
        },
        {
            "a": Link(1, networks=Networks(egress=(Traffic("0.0.0.0/0"), Traffic("10.0.0.0/8", ("53/udp", "80/tcp", "8000-8010/tcp"))))),
            "b": Link(2, networks=Networks(ingress=(Traffic("a"), Traffic("b", ("80/tcp",)), Traffic("gone")))),
            "c": Link(3, servers=("192.0.2.53", "192.0.2.54", "2001:db8::53")),
            "d": Link(4, networks=Networks(egress=(Traffic("::/0"), Traffic("2001:db8::/32", ("53/udp", "8000-8010/tcp"))))),
        },
    ],
    ids=["no zones", "no ports", "many", "at addresses", "declared connections"],
)
def test_nftables_takes_the_rules_again_and_again(links: dict[str, Link], tmp_path: Path) -> None:
    rules = tmp_path / "rules.nft"
    rules.write_text(ruleset(links, routes_others=()))
    load = f"nft -f {rules} && nft -c -f {rules} && nft -f {rules} && nft list tables"
    done = subprocess.run([*APART, "sh", "-c", load], capture_output=True, env=ENVIRONMENT, timeout=60, check=False)
    assert (done.returncode, done.stdout.decode()) == (0, "table inet ringfence\ntable arp ringfence\n"), done.stderr.decode()


def test_tables_of_others_stay_as_they_are(tmp_path: Path) -> None:
    rules = tmp_path / "rules.nft"
    rules.write_text(ruleset({"a": Link(1, (Port(80, 80, address="192.0.2.5"),))}, routes_others=()))
    script = (
        "nft 'table inet foreign { chain c { type nat hook prerouting priority 0; tcp dport 80 redirect to :81; }; }'; nft list ruleset; "
        f"nft -f {rules}; nft delete table inet ringfence; nft delete table arp ringfence; echo; nft list ruleset"
    )
    done = subprocess.run([*APART, "sh", "-ec", script], capture_output=True, env=ENVIRONMENT, timeout=60, check=False)
    before, _separator, after = done.stdout.decode().partition("}\n\n")
    assert "redirect" in before
    assert after == f"{before}}}\n", done.stderr.decode()


def test_whether_a_table_is_in_effect_is_asked_of_the_kernel() -> None:
    library = "from ansible_collections.ringfence.zones.plugins.module_utils.host import has_table"
    ask = shlex.join([sys.executable, "-c", f"{library}; print(has_table('inet', 'ringfence'), has_table('arp', 'ringfence'))"])
    steps = [ask, "nft add table ip ringfence", ask, "nft add table inet ringfence", ask, "nft add table arp ringfence", ask]
    steps += ["nft delete table inet ringfence", ask, "nft 'add table inet ringfence { flags dormant; }'", ask]
    steps += ["nft add table inet ringfence", ask]
    done = subprocess.run([*APART, "sh", "-euc", "; ".join(steps)], capture_output=True, env=ENVIRONMENT, timeout=60, check=False)
    answers = ["False False", "False False", "True False", "True True", "False True", "False True", "True True"]
    assert done.stdout.decode().splitlines() == answers, done.stderr
