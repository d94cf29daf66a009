"""Tests of how ``verify`` compares the loaded nftables table, with nft itself and in a network namespace of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ENVIRONMENT = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "PYTHONPATH": os.pathsep.join(sys.path)}
PROGRAM = """
import json, sys
from ansible_collections.ringfence.zones.plugins.module_utils.zone import firewall, network
from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.spec.fields import Networks, Port, Traffic
from ansible_collections.ringfence.zones.plugins.module_utils.verify.promises import _differences
from ansible_collections.ringfence.zones.plugins.module_utils.verify.facts import Facts

egress = (Traffic("192.0.2.0/24", ("80/tcp", "443/tcp")), Traffic("2001:db8::/32", ()))
ways = Networks(egress=egress, ingress=(Traffic("zone9", ("80/tcp",)),))
links = {f"zone{n}": network.Link(n, (Port(8000 + n, 80), Port(53 + n, 53, "udp")), ways, ("192.0.2.1",)) for n in range(1, 41)}
text = network.ruleset(links, routes_others=("ipv4",))
facts = Facts("", None, wanted_rules=firewall.as_listed(text))
states = {}
facts.rules = firewall.listed()
states["absent"] = _differences(facts, lambda part: True)
run(["nft", "-f", "-"], stdin=text.encode())
for change in ("", *sys.argv[1:]):
    if change:
        run(["sh", "-c", change])
    facts.rules = firewall.listed()
    states[change or "loaded"] = _differences(facts, lambda part: True)
    run(["nft", "-f", "-"], stdin=text.encode())
print(json.dumps(states))
"""
CHANGES = {
    "nft insert rule inet ringfence forward accept": "chain forward",
    "nft add rule inet ringfence forward accept": "chain forward",
    "nft flush chain inet ringfence spoofed": "chain spoofed",
    "nft add chain inet ringfence mine": "chain mine",
    "nft add table inet ringfence '{ flags dormant; }'": "table inet ringfence",
    "nft add table arp ringfence '{ flags dormant; }'": "table arp ringfence",
    "nft add element inet ringfence sources '{ \"rz1\" . 198.18.0.2 }'": "set sources",
    "nft flush chain arp ringfence asking": "chain asking",
    "nft add element arp ringfence senders '{ \"rz1\" . 198.18.0.2 }'": "set senders",
    "nft add element inet ringfence published_tcp '{ 22 : 198.18.0.1 . 22 }'": "map published_tcp",
}


@pytest.fixture(scope="module")
def states() -> dict[str, list[str]]:
    """Where the loaded table differs from the one that is demanded, after each change of it."""
    argv = ["unshare", "--map-root-user", "--net", sys.executable, "-c", PROGRAM, *CHANGES]
    done = subprocess.run(argv, capture_output=True, env=ENVIRONMENT, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def test_a_table_as_demanded_differs_in_nothing(states: dict[str, list[str]]) -> None:
    assert states["loaded"] == []


def test_a_table_that_is_not_loaded_is_told(states: dict[str, list[str]]) -> None:
    assert states["absent"] == ["the nftables table inet ringfence is not loaded"]


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_is_told_by_the_part_that_it_is_in(states: dict[str, list[str]], change: str) -> None:
    (told,) = states[change]
    assert told.startswith(f"{CHANGES[change]}: is not ")


def test_the_playbook_writes_reports_and_fails_where_a_promise_is_broken(tmp_path: Path) -> None:
    """This machine has no Xen, and a second one does not answer."""
    local = "ansible_connection=local ansible_become=false"
    (tmp_path / "inventory").write_text(
        f"this {local} ansible_python_interpreter={sys.executable}\ngone ansible_host=127.0.0.1 ansible_port=1 ansible_become=false\n"
    )
    argv = [
        str(Path(sys.executable).with_name("ansible-playbook")),
        "-i",
        "inventory",
        "ringfence.zones.verify",
        "-e",
        "ringfence_verify_directory=out",
    ]
    environment = {**ENVIRONMENT, "PWD": str(tmp_path), "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, env=environment, timeout=120, check=False, encoding="utf-8")
    assert done.returncode == 2, done.stdout + done.stderr
    assert '"gone  no report: it was not reached"' in done.stdout
    # How many security advisories may apply depends on the machine.
    assert re.search(r'"this     0       1          23 {2,}\d+  broken: 24"', done.stdout), done.stdout
    assert "changed=0" in done.stdout
    assert "changed=1" not in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["this.html", "this.json"]
    report = json.loads((tmp_path / "out" / "this.json").read_text())
    assert (report["host"], report["schema"], report["summary"]["broken"]) == ("this", 1, 1)
    assert "Isolation of this" in (tmp_path / "out" / "this.html").read_text()
