"""Tests of ``network`` and of the host's script ``vif`` with the kernel's own network stack and nftables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.network import ruleset
from ansible_collections.ringfence.zones.plugins.module_utils.spec import Port

ENVIRONMENT = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "PYTHONPATH": os.pathsep.join(sys.path)}
# Root of its own user and network namespace may do all of it, and reaches nothing of this machine.
APART = ("unshare", "--map-root-user", "--net", "--mount")

REACHABLE = {
    "outside to a published port",
    "host to a published port",
    "outside to a published UDP port",
    "outside to the host",
    "on a router: outside through the host",
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
    "published",
    [{}, {1: []}, {1: [Port(80, 80)], 2: [Port(53, 53, "udp"), Port(53, 53)], 9999: [Port(65535, 65535)]}],
    ids=["no zones", "no ports", "many"],
)
def test_nftables_takes_the_rules_again_and_again(published: dict[int, list[Port]], tmp_path: Path) -> None:
    rules = tmp_path / "rules.nft"
    rules.write_text(ruleset(published, routes_others=False))
    load = f"nft -f {rules} && nft -c -f {rules} && nft -f {rules} && nft list tables"
    done = subprocess.run([*APART, "sh", "-c", load], capture_output=True, env=ENVIRONMENT, timeout=60, check=False)
    assert (done.returncode, done.stdout.decode()) == (0, "table inet ringfence\n"), done.stderr.decode()
