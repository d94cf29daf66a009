"""Tests of the library's ``verify.promises`` and ``verify.facts``: a host on which each promise holds, weakened in one way."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.attack.result import Attempt
from ansible_collections.ringfence.zones.plugins.module_utils.boot import decisions
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.initrd import Entry, cpio_archive
from ansible_collections.ringfence.zones.plugins.module_utils.spec.fields import Secret
from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Zone
from ansible_collections.ringfence.zones.plugins.module_utils.verify import promises
from ansible_collections.ringfence.zones.plugins.module_utils.verify.facts import (
    Domain,
    Facts,
    Link,
    Loop,
    Neighbour,
    Node,
    Process,
    parse_asked,
    parse_domains,
    parse_neighbours,
    parse_rules,
    secrets_in,
)
from ansible_collections.ringfence.zones.plugins.module_utils.verify.facts import Secret as Content
from ansible_collections.ringfence.zones.plugins.module_utils.zone import network
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import Definition, Files, domain_xml

STORE = "/var/lib/ringfence"
DIGEST = {digit: digit * 64 for digit in "abce"}
LINUX = "root=/dev/vda1 console=ttyS0,115200 console=tty0 console=hvc0 panic=30"
OPTIONS = decisions.parse_options("1536MiB", 0, [], 600)
UUIDS = {"web": "11111111-1111-1111-1111-111111111111", "db": "22222222-2222-2222-2222-222222222222"}

# What Xen's tools make for two domains, shortened; the letter of the owner is for all others.
_NODES = """\
/tool = ""  . . . . . . . . . . . . . . . . . . . . . . . .  (n0)
/local/domain/0/name = "Domain-0"  . . . . . . . . . . . .  (r0)
/local/domain/0/backend/vif = ""  . . . . . . . . . . . . . (n0)
/local/domain/0/backend/vif/3 = ""  . . . . . . . . . . . . (n0)
/local/domain/0/backend/vif/3/0/mac = "00:16:3e:00:00:01"  . .  (n0,r3)
/local/domain/3 = ""  . . . . . . . . . . . . . . . . . . .  (n0,r3)
/local/domain/3/name = "web"   (n0,r3)
/local/domain/3/device/vif/0/state = "4"   (n3,r0)
/local/domain/3/data/open = "to all"   (b3)
/local/domain/4/name = "db"   (n0,r4)
/local/domain/4/control/shutdown = ""   (n4)
/vm/11111111-1111-1111-1111-111111111111/name = "web"   (n0,r3)
/vm/22222222-2222-2222-2222-222222222222/name = "db"   (n0,r4)
/libxl/3/type = "pv"   (n0)
"""


def nodes(listing: str) -> list[Node]:
    """Nodes that are written as ``xenstore-ls -fp`` lists them."""
    found = re.findall(r'^(\S+) = "(.*)"[ .]*\((\S+)\)$', listing, re.MULTILINE)
    return [Node(path, value.encode(), tuple((one[0], int(one[1:])) for one in access.split(","))) for path, value, access in found]


NODES = nodes(_NODES)

UDEV = (Path(__file__).parents[3] / "roles/runtime/files/udev.rules").read_text(encoding="utf-8")


def definition(name: str, index: int, **fields: Any) -> Definition:
    """A zone's definition; zone db has a secret."""
    secrets = {"secrets": (Secret("/run/secrets/password", "password", 0, 0, "0400"),)} if name == "db" else {}
    prints = {"password": "f" * 32} if name == "db" else {}
    zone = Zone(name, image=f"registry.example/{name}", **{"restart": "always", **secrets, **fields})
    return Definition(zone, f"sha256:{DIGEST['a']}", f"sha256:{DIGEST['b']}", "pv", f"sha256:{DIGEST['e']}", index, secrets=prints)


def domain(name: str, index: int, number: int | None) -> Domain:
    """A zone as libvirt has it."""
    of = definition(name, index)
    paths = {f"runtime/{DIGEST['e']}/base": False, f"images/{DIGEST['a']}/rootfs": False, f"zones/{name}/writable-aaaaaaaaaaaa": True}
    disks = tuple((Path(f"{STORE}/{path}.img"), writable) for path, writable in paths.items())
    files = Files(Path(f"{STORE}/kernels/{DIGEST['b']}/vmlinux"), Path(f"{STORE}/zones/{name}/initrd-0"), disks)
    return Domain(name, UUIDS[name], number, domain_xml(of, files), autostart=True, zone=True, definition=of)


def listed(*of: Definition) -> str:
    """The table of zones in nft's indentation."""
    links = {one.zone.name: network.Link(one.index) for one in of}
    return network.ruleset(links, routes_others=()).replace("    ", "\t")


def loops() -> list[Loop]:
    """The loop devices of two running zones."""
    shared = [
        Loop("loop0", f"{STORE}/images/{DIGEST['a']}/rootfs.img", True, ()),
        Loop("loop1", f"{STORE}/runtime/{DIGEST['e']}/base.img", True, ()),
    ]
    own = [Loop(f"loop{place}", f"{STORE}/zones/{name}/writable-aaaaaaaaaaaa.img", False, ()) for place, name in ((2, "web"), (3, "db"))]
    return shared + own


def healthy() -> Facts:
    """A host with two running zones on which whatever can be observed is as it should be."""
    links, neighbours = {}, []
    for index in (1, 2):
        name = network.interface(index)
        switches = {f"ipv4/conf/{name}/proxy_arp": "0", f"ipv6/conf/{name}/accept_ra": "0"}
        links[name] = Link(network.mac(index), "", (), switches)
        neighbours += [Neighbour(of(index), name, network.mac(index), True) for of in (network.address, network.address6)]
    rules = listed(definition("web", 1), definition("db", 2))
    return Facts(
        STORE,
        OPTIONS,
        in_xen=True,
        running=decisions.Running(True, " ".join(decisions.xen_arguments(OPTIONS, LINUX)), LINUX),
        xen_domains={0: "Domain-0", 3: "web", 4: "db"},
        domains=[domain("web", 1, 3), domain("db", 2, 4)],
        nodes=list(NODES),
        quota="quota-activate = true\n",
        processes=[Process(1, ("/usr/lib/systemd/systemd", "/sbin/init", "systemd"), b"/sbin/init "), Process(2, ("qemu-ga",), b"")],
        links=links,
        neighbours=neighbours,
        rules=rules,
        wanted_rules=rules,
        loops=loops(),
        udev_rules=UDEV,
        console_logs={"guest-web.log": 1024 * 1024},
        rotation_enabled=True,
        rotation_age=30,
        uptime=10000,
        zone_directories=["db", "web"],
        store_files=[f"image sha256:{DIGEST['a']}"],
        secrets=[Content("db", "password", b"correct & horse\n")],
    )


def results(facts: Facts) -> dict[int, str]:
    """The result of each row."""
    return {row["number"]: row["result"] for row in promises.rows(facts)}


def broken(facts: Facts) -> list[int]:
    """The rows that are broken."""
    return [number for number, result in results(facts).items() if result == "broken"]


NEEDS_ATTACK = {2, 3, 4, 7, 8, 11, 12, 14, 15, 17}


def test_on_a_healthy_host_everything_that_can_be_observed_holds_and_nothing_else() -> None:
    found = results(healthy())
    assert list(found) == list(range(1, 25))
    assert found == {number: "not_tested" if number in NEEDS_ATTACK else "held" for number in found}


def test_what_needs_an_attack_says_so() -> None:
    for row in promises.rows(healthy()):
        assert (row["why"] is None) == (row["result"] == "held")
        if row["number"] in NEEDS_ATTACK:
            assert row["why"].startswith("needs depth attack")


def _zone(facts: Facts, name: str, **values: Any) -> None:
    facts.domains = [dataclasses.replace(one, **values) if one.name == name else one for one in facts.domains]


def _xml(facts: Facts, old: str, new: str) -> None:
    assert old in facts.domains[0].xml
    _zone(facts, "web", xml=facts.domains[0].xml.replace(old, new, 1))


def _device(facts: Facts, text: str) -> None:
    _xml(facts, "</devices>", f"{text}</devices>")


def _link(facts: Facts, **values: Any) -> None:
    facts.links["rz1"] = dataclasses.replace(facts.links["rz1"], **values)


def _rule(facts: Facts, chain: str, rule: str) -> None:
    head = f"\tchain {chain} {{\n"
    assert head in facts.rules
    facts.rules = facts.rules.replace(head, f"{head}\t\t{rule}\n")


def _node(facts: Facts, line: str) -> None:
    (node,) = nodes(line)
    facts.nodes = [one for one in facts.nodes if one.path != node.path] + [node]


def _loop(facts: Facts, **values: Any) -> None:
    facts.loops[0] = dataclasses.replace(facts.loops[0], **values)


def _without_restart(facts: Facts) -> None:
    _zone(facts, "web", definition=definition("web", 1, restart="no"))


def _bare_secret(facts: Facts) -> None:
    _zone(facts, "db", definition=dataclasses.replace(definition("db", 2), secrets={"password": "correct horse"}))


WEAKENED: list[tuple[str, Callable[[Facts], Any], list[int]]] = [
    ("a kernel that is no file of the store", lambda facts: _xml(facts, f"{STORE}/kernels/", "/boot/"), [1]),
    ("no kernel of the host's choice", lambda facts: _xml(facts, "<kernel>", "<was>".replace("was", "loader") + "</loader><kernel>/"), [1]),
    ("two zones in one domain", lambda facts: _zone(facts, "db", number=3), [1, 21]),
    ("a directory of the host", lambda facts: _device(facts, '<filesystem type="mount"/>'), [5]),
    ("a device of the host", lambda facts: _device(facts, '<hostdev mode="subsystem" type="pci"/>'), [5]),
    ("a passed through device that only libxl knows", lambda facts: _zone(facts, "web", asked=frozenset({"pcidevs"})), [5]),
    ("a disk of the host", lambda facts: _xml(facts, f"{STORE}/images/{DIGEST['a']}/rootfs.img", "/dev/sda"), [5]),
    ("a shared disk that may be written", lambda facts: _xml(facts, "<readonly />", ""), [5]),
    ("the writable layer of another zone", lambda facts: _xml(facts, "zones/web/writable", "zones/db/writable"), [5, 21]),
    ("a volume of two zones", lambda facts: _volume(facts, "web", "db"), [5]),
    ("a node that another zone may write", lambda facts: _node(facts, '/local/domain/3/name = "web"   (n0,r3,w4)'), [6]),
    ("a node that another zone may read", lambda facts: _node(facts, '/local/domain/3/name = "web"   (n0,r3,r4)'), [6]),
    ("a node that everyone may read", lambda facts: _node(facts, '/local/domain/3/name = "web"   (r0,n3)'), [6]),
    ("a node of the host that a zone may write", lambda facts: _node(facts, '/tool/x = ""   (n0,b4)'), [6]),
    ("a node of the host that everyone may write", lambda facts: _node(facts, '/tool/x = ""   (w0)'), [6]),
    ("a node of the host that a zone owns", lambda facts: _node(facts, '/tool/x = ""   (n4)'), [6]),
    ("a backend that another zone may read", lambda facts: _node(facts, '/local/domain/0/backend/vif/3/0/mac = ""   (n0,r4)'), [6]),
    ("a zone's other names that another may read", lambda facts: _node(facts, f'/vm/{UUIDS["web"]}/name = "web"   (n0,r4)'), [6]),
    ("no quotas", lambda facts: setattr(facts, "quota", "quota-activate = false\n"), [6]),
    ("a driver domain", lambda facts: _zone(facts, "web", asked=frozenset({"driver_domain"})), [8]),
    ("a rule before the check of sources", lambda facts: _rule(facts, "spoofed", "accept"), [9]),
    ("a source too many", lambda facts: setattr(facts, "rules", facts.rules.replace('"rz1" . 198.18.0.1', '"rz1" . 198.18.0.2', 1)), [9]),
    ("a bridge", lambda facts: _link(facts, bridge="br0"), [9]),
    ("an interface on a bridge", lambda facts: _xml(facts, 'type="ethernet"', 'type="bridge"'), [9]),
    ("another MAC address", lambda facts: _link(facts, mac="00:16:3e:00:00:07"), [9]),
    ("an IPv6 address on a link", lambda facts: _link(facts, inet6=("fe80::1",)), [9]),
    ("answers for others' addresses", lambda facts: _link(facts, settings={"ipv4/conf/rz1/proxy_arp": "1"}), [9]),
    ("a link that is gone", lambda facts: facts.links.pop("rz1"), [9]),
    ("no entry of a zone", lambda facts: facts.neighbours.pop(0), [9]),
    ("a learned entry", lambda facts: facts.neighbours.append(Neighbour("198.18.0.9", "rz1", network.mac(1), False)), [9]),
    ("an entry of another's address", lambda facts: facts.neighbours.append(Neighbour("198.18.0.9", "rz1", network.mac(2), True)), [9]),
    ("a rule that accepts", lambda facts: _rule(facts, "forward", "accept"), [10]),
    ("a chain of others in the table", lambda facts: setattr(facts, "rules", f"{facts.rules}\tchain more {{\n\t\taccept\n\t}}\n"), [10]),
    ("other rules for the next boot", lambda facts: setattr(facts, "kept_as_wanted", False), [10]),
    ("no table", lambda facts: setattr(facts, "rules", ""), [9, 10]),
    ("a file system that udev saw", lambda facts: _loop(facts, traces=("E:ID_FS_TYPE=ext4",)), [13]),
    ("no rule for udev", lambda facts: setattr(facts, "udev_rules", ""), [13]),
    ("a rule for udev that is commented out", lambda facts: setattr(facts, "udev_rules", UDEV.replace("\nSUB", "\n#SUB")), [13]),
    ("a console log without bounds", lambda facts: facts.console_logs.update({"guest-db.log": 10**9}), [16]),
    ("a timer that is off", lambda facts: setattr(facts, "rotation_enabled", False), [16]),
    ("a timer that does not run", lambda facts: setattr(facts, "rotation_age", None), [16]),
    ("a timer that ran long ago", lambda facts: setattr(facts, "rotation_age", 4000.0), [16]),
    ("other settings of the logs", lambda facts: facts.outdated.append("/etc/ringfence/console-logs.conf"), [16]),
    ("a device model", lambda facts: facts.processes.append(Process(9, ("/usr/bin/qemu-system-i386",), b"")), [18]),
    ("a device model by its first argument", lambda facts: facts.processes.append(Process(9, ("/x", "qemu-dm", "x"), b"")), [18]),
    ("a device model by the kernel's name", lambda facts: facts.processes.append(Process(9, ("/x", "x", "qemu-system-i38"), b"")), [18]),
    ("nested virtualization", lambda facts: _zone(facts, "web", asked=frozenset({"nested_hvm"})), [19]),
    ("CPU settings", lambda facts: _xml(facts, "<devices>", '<cpu mode="host-passthrough"/><devices>'), [19]),
    ("another action on a crash", lambda facts: _xml(facts, "<on_crash>restart", "<on_crash>preserve"), [20]),
    ("a zone that does not start with the host", lambda facts: _zone(facts, "web", autostart=False), [20]),
    ("a restart that is not declared", _without_restart, [20]),
    ("a domain that libvirt does not know", lambda facts: facts.xen_domains.update({7: "(null)"}), [21]),
    ("a domain that Xen does not know", lambda facts: facts.xen_domains.pop(4), [21]),
    ("a node of a domain that is gone", lambda facts: _node(facts, '/local/domain/0/backend/vbd/9/1 = ""   (n0)'), [21]),
    ("an interface of a domain that is gone", lambda facts: facts.links.update({"vif9.0": Link("", "", (), {})}), [21]),
    ("a link of no zone", lambda facts: facts.links.update({"rz9": Link("", "", (), {})}), [21]),
    ("a loop device of no zone", lambda facts: facts.loops.append(Loop("loop9", f"{STORE}/zones/old/w.img", False, ())), [21]),
    ("a loop device of a volume of no zone", lambda facts: facts.loops.append(Loop("loop9", f"{STORE}/volumes/x.img", False, ())), [21]),
    ("a loop device of a deleted file", lambda facts: _loop(facts, file=f"{STORE}/images/x/rootfs.img (deleted)"), [21]),
    ("a directory of no zone", lambda facts: facts.zone_directories.append("old"), [21]),
    ("an interrupted run", lambda facts: facts.unfinished.append(f"{STORE}/tmp/x"), [21]),
    ("an image that is not whole", lambda facts: facts.store_faults.append("image sha256:a: rootfs.img has another size"), [22]),
    ("a shared loop device that may be written", lambda facts: _loop(facts, read_only=False), [22]),
    ("a secret in the XML", lambda facts: _xml(facts, "console=hvc0", "console=hvc0 password=correct &amp; horse"), [23]),
    ("a secret in xenstore", lambda facts: _node(facts, '/local/domain/3/data/x = "correct & horse"   (n3)'), [23]),
    ("a secret in the process list", lambda facts: facts.processes.append(Process(9, ("sh",), b"sh -c correct & horse")), [23]),
    ("a secret in the metadata", _bare_secret, [23]),
    ("plain Linux", lambda facts: setattr(facts, "running", decisions.Running(False, "", LINUX)), [24]),
    ("an option of Xen too many", lambda facts: setattr(facts, "running", _with(facts, "spec-ctrl=no")), [24]),
    ("other parameters for the next boot", lambda facts: facts.outdated.append(decisions.GRUB_FILE), [24]),
]


def _volume(facts: Facts, *names: str) -> None:
    disk = f'<disk type="file" device="disk"><source file="{STORE}/volumes/data.img"/></disk></devices>'
    for zone in facts.domains:
        if zone.name in names:
            _zone(facts, zone.name, xml=zone.xml.replace("</devices>", disk))


def _with(facts: Facts, option: str) -> decisions.Running:
    assert facts.running
    return dataclasses.replace(facts.running, xen=f"{facts.running.xen} {option}")


@pytest.mark.parametrize(("weaken", "expected"), [row[1:] for row in WEAKENED], ids=[row[0] for row in WEAKENED])
def test_a_weakened_host_turns_exactly_the_right_rows_red(weaken: Callable[[Facts], Any], expected: list[int]) -> None:
    facts = healthy()
    weaken(facts)
    assert broken(facts) == expected
    told = {row["number"]: row for row in promises.rows(facts)}
    assert all(told[number]["why"] and told[number]["evidence"] for number in expected)


def test_every_row_that_is_judged_can_be_broken() -> None:
    judged = {promise.number for promise in promises.PROMISES if promise.judge}
    assert judged == {number for _name, _weaken, expected in WEAKENED for number in expected}


def test_each_source_that_cannot_be_read_makes_rows_not_tested_with_the_reason() -> None:
    used = {need for promise in promises.PROMISES for need in promise.needs}
    assert used <= {field.name for field in dataclasses.fields(Facts)}
    for need in sorted(used):
        facts = healthy()
        facts.unread[need] = f"{need}: does not answer"
        touched = {row["number"] for row in promises.rows(facts) if row["result"] == "not_tested" and need in (row["why"] or "")}
        assert touched == {promise.number for promise in promises.PROMISES if need in promise.needs}
        assert broken(facts) == []


def test_a_host_without_zones_has_a_clear_result_for_each_row() -> None:
    facts = healthy()
    facts.domains, facts.nodes, facts.links, facts.zone_directories, facts.loops, facts.secrets = [], [], {}, [], [], []
    facts.xen_domains = {0: "Domain-0"}
    rows = {row["number"]: row for row in promises.rows(facts)}
    assert {number for number, row in rows.items() if row["result"] == "held"} == {16, 18, 21, 24}
    assert rows[10]["why"] == rows[1]["why"] == "no zone is on this host"


def test_zones_that_do_not_run_are_judged_by_what_is_defined() -> None:
    facts = healthy()
    facts.domains = [dataclasses.replace(one, number=None) for one in facts.domains]
    facts.nodes, facts.links, facts.loops, facts.xen_domains = [], {}, [], {0: "Domain-0"}
    found = {row["number"]: row for row in promises.rows(facts)}
    assert {number for number, row in found.items() if row["result"] == "held"} == {10, 16, 18, 20, 21, 22, 23, 24}
    assert found[1]["why"] == "no zone runs on this host"


@pytest.mark.parametrize(("number", "result"), [(None, "held"), (3, "broken")])
def test_only_a_zone_that_was_stopped_by_hand_need_not_start_with_the_host(number: int | None, result: str) -> None:
    facts = healthy()
    facts.domains = [dataclasses.replace(one, number=number, autostart=False) for one in facts.domains[:1]]
    facts.domains = [dataclasses.replace(one, definition=definition(one.name, 1, restart="unless-stopped")) for one in facts.domains]
    assert results(facts)[20] == result


def test_a_zone_whose_metadata_cannot_be_read_leaves_open_what_needs_it() -> None:
    facts = healthy()
    _zone(facts, "web", definition=None)
    rows = {row["number"]: row for row in promises.rows(facts)}
    opened = {number for number, row in rows.items() if row["result"] == "not_tested"} - NEEDS_ATTACK
    assert opened == {9, 10, 20, 21, 22, 23}
    assert all("zone web: its metadata cannot be read" in rows[number]["why"] for number in opened)
    assert broken(facts) == []
    # What is broken all the same is told before what is not known.
    facts.rules = ""
    assert broken(facts) == [9, 10]


def test_what_is_not_found_at_all_does_not_count_as_faultless() -> None:
    facts = healthy()
    facts.loops = facts.loops[:-1]
    facts.nodes = [node for node in facts.nodes if "/4/" not in node.path and "2222" not in node.path]
    rows = {row["number"]: row for row in promises.rows(facts)}
    assert {number for number, row in rows.items() if row["result"] == "not_tested"} - NEEDS_ATTACK == {6, 13}
    assert "zone db: xenstore lists no node of it" in rows[6]["why"]


def test_a_host_without_secrets_has_not_tested_them() -> None:
    facts = healthy()
    _zone(facts, "db", definition=dataclasses.replace(definition("db", 2), secrets={}))
    facts.secrets = []
    assert results(facts)[23] == "not_tested"


def test_a_short_secret_is_not_looked_for() -> None:
    facts = healthy()
    facts.secrets = [Content("db", "password", b"web")]
    assert results(facts)[23] == "not_tested"


def test_a_secret_is_never_told() -> None:
    facts = healthy()
    facts.processes.append(Process(9, ("sh",), b"sh -c correct & horse"))
    told = promises.report(facts, "now")
    assert "horse" not in str(told)
    assert told["summary"]["broken"] == 1


def test_evidence_is_bounded_and_inert() -> None:
    facts = healthy()
    facts.processes += [Process(number, (f"qemu-\x1b[31m{{{{ 1 }}}}\u202e{'x' * 999}",), b"") for number in range(100, 200)]
    (row,) = (row for row in promises.rows(facts) if row["number"] == 18)
    assert len(row["evidence"]) == 21
    assert row["evidence"][-1] == "and 80 more"
    assert all(len(line) <= 240 and line.isascii() and line.isprintable() for line in (*row["evidence"], row["why"]))


def test_the_report_says_what_it_is() -> None:
    facts = healthy()
    facts.versions = {"xen": "4.20\n", "packages": {"crun": "1.21"}, "runtime": None}
    facts.xen_log = ["a\x07b"] * 100
    told = promises.report(facts, "2026-01-01T00:00:00Z")
    assert (told["schema"], told["depth"], told["date"]) == (1, "observe", "2026-01-01T00:00:00Z")
    assert told["summary"] == {"held": 14, "broken": 0, "not_tested": 10}
    assert told["versions"] == {"xen": "4.20\\n", "packages": {"crun": "1.21"}, "runtime": None}
    assert told["information"]["xen_log"] == ["a\\x07b"] * 60
    assert [zone["name"] for zone in told["zones"]] == ["db", "web"]


def test_promises_that_were_not_to_be_attacked_are_judged_by_what_was_observed() -> None:
    attempt = Attempt(9, "a: forge", True, "it arrives", True, "it arrives")
    found = {row["number"]: row for row in promises.rows(healthy(), promises.Attacks([attempt], {}, {9}))}
    assert (found[9]["depth"], found[9]["result"]) == ("attack", "broken")
    assert (found[10]["depth"], found[10]["result"]) == ("observe", "held")
    assert found[2]["why"].startswith("needs depth attack")


def test_the_documentation_describes_each_key_and_each_promise() -> None:
    text = (Path(__file__).parents[3] / "docs" / "verify.md").read_text(encoding="utf-8")
    told = promises.report(healthy(), "now")
    keys = [*told, *(f"rows[].{key}" for key in told["rows"][0]), *(f"information.{key}" for key in told["information"])]
    assert [key for key in keys if f"`{key}`" not in text] == []
    assert [key for key in told["zones"][0] if f"`{key}`" not in text] == []
    rows = re.findall(r"^\| (\d+) \| ", text, re.MULTILINE)
    assert [int(number) for number in rows] == [promise.number for promise in promises.PROMISES if promise.judge]
    attacks = ", ".join(str(promise.number) for promise in promises.PROMISES if not promise.judge)
    assert f"The promises {' and '.join(attacks.rsplit(', ', 1))} need attacks." in text


# Formats of other programs.


def test_domains_are_read_with_names_that_have_blanks() -> None:
    text = (
        "Name                                        ID   Mem VCPUs\tState\tTime(s)\n"
        "Domain-0                                     0  1536     2     r-----     100.1\n"
        "my own vm                                   12   128     1     -b----       3.1\n"
    )
    assert parse_domains(text) == {0: "Domain-0", 12: "my own vm"}
    with pytest.raises(ValueError, match="does not list this host"):
        parse_domains("")


def test_neighbours_are_those_with_an_address() -> None:
    text = b'[{"dst":"198.18.0.1","dev":"rz1","lladdr":"00:16:3E:00:00:01","state":["PERMANENT"]},{"dst":"1","dev":"e","state":["FAILED"]}]'
    assert parse_neighbours(text) == [Neighbour("198.18.0.1", "rz1", "00:16:3e:00:00:01", True)]
    assert parse_neighbours(b"") == []


def test_what_libxl_was_asked_for_is_found_wherever_it_is() -> None:
    plain = b'{"c_info":{"type":"pv"},"b_info":{"nested_hvm":"<default>","type.pv":{}},"disks":[{"a":1}],"pcidevs":[]}'
    assert parse_asked(plain) == frozenset()
    assert parse_asked(plain + b"\0") == frozenset()  # As libxl writes it.
    extra = b'{"c_info":{"driver_domain":"True"},"b_info":{"type.hvm":{"nested_hvm":true}},"pcidevs":[{"dev":1}]}'
    assert parse_asked(extra) == {"driver_domain", "nested_hvm", "pcidevs"}


def test_elements_of_a_set_have_no_order() -> None:
    one, other = (f"table inet t {{\n\tset s {{\n\t\telements = {{ {text} }}\n\t}}\n}}\n" for text in ("1 . 2, 3", "3,\n\t\t\t     1 . 2"))
    assert parse_rules(one) == parse_rules(other) != parse_rules(one.replace("3", "4"))


def test_secrets_are_found_in_an_initrd() -> None:
    before = cpio_archive([Entry("init", 0o100755, b"#!x")])
    entries = [Entry(f"zone/secrets/{number}", 0o100400, content) for number, content in enumerate((b"first", b"second\0\n"))]
    assert secrets_in(before + cpio_archive([Entry("zone", 0o40700), *entries])) == {0: b"first", 1: b"second\0\n"}
    assert secrets_in(before) == {}
