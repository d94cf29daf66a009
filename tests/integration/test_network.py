"""Tests of ``network`` and of the host's script ``vif`` with the kernel's own network stack and nftables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.fields import Networks, Port, Traffic
from ansible_collections.ringfence.zones.plugins.module_utils.network import Link, ruleset

ENVIRONMENT = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "PYTHONPATH": os.pathsep.join(sys.path)}
# Root of its own user and network namespace may do all of it, and reaches nothing of this machine.
APART = ("unshare", "--map-root-user", "--net", "--mount")

REACHABLE = {
    "outside to a published port",
    "host to a published port",
    "outside to a published UDP port",
    "outside to the host",
    "on a router: outside through the host",
    "declared: zone to the outside",
    "declared: zone to its name server",
    "declared: zone to the zone that lets it in",
    "declared: outside to a published port",
    # What the rules are there for: without them it would be possible.
    "without the check of sources: zone with a forged source to the outside",
    "without rules: outside through the host",
    "without rules: zone to another zone",
    "without rules: zone to the host",
    "without rules: zone to the outside",
    "without rules: outside to a zone's own address",
}
UNREACHABLE = {
    "outside to a port that is not published",
    "outside to a zone's own address",
    "outside through the host",
    "on a router: outside to a zone's own address",
    "on a router: zone to the outside",
    "declared: zone to another port of the outside",
    "declared: zone to another network",
    "declared: zone to another port of the zone that lets it in",
    "declared: zone back to the one that it lets in",
    "declared: another zone to the outside",
    "declared: zone to the host, whose address is in the network",
    "zone to another zone",
    "zone to a published port of another zone",
    "zone to its gateway",
    "zone to the host",
    "zone to the outside",
    "zone with a forged source to the outside",
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


@pytest.mark.parametrize(
    "links",
    [
        {},
        {"a": Link(1)},
        {"a": Link(1, (Port(80, 80),)), "b": Link(2, (Port(53, 53, "udp"), Port(53, 53))), "c": Link(9999, (Port(65535, 65535),))},
        {
            "a": Link(1, networks=Networks(egress=(Traffic("0.0.0.0/0"), Traffic("10.0.0.0/8", ("53/udp", "80/tcp", "8000-8010/tcp"))))),
            "b": Link(2, networks=Networks(ingress=(Traffic("a"), Traffic("b", ("80/tcp",)), Traffic("gone")))),
            "c": Link(3, servers=("192.0.2.53", "192.0.2.54")),
        },
    ],
    ids=["no zones", "no ports", "many", "declared connections"],
)
def test_nftables_takes_the_rules_again_and_again(links: dict[str, Link], tmp_path: Path) -> None:
    rules = tmp_path / "rules.nft"
    rules.write_text(ruleset(links, routes_others=False))
    load = f"nft -f {rules} && nft -c -f {rules} && nft -f {rules} && nft list tables"
    done = subprocess.run([*APART, "sh", "-c", load], capture_output=True, env=ENVIRONMENT, timeout=60, check=False)
    assert (done.returncode, done.stdout.decode()) == (0, "table inet ringfence\n"), done.stderr.decode()
