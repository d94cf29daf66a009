"""Tests of the inventory plugin ``zones``. A made-up ssh stands for the hosts."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible import context  # type: ignore[attr-defined]

from ansible_collections.ringfence.zones.plugins.inventory.zones import of_zone, to_host

SSH = """#!/bin/sh
for command; do :; done
echo "$@" >>"$ANSWERS/asked"
case "$*" in
*" one "*) cat "$ANSWERS/one" ;;
*" two "*) cat "$ANSWERS/two" ;;
*) echo "no route to host" >&2; exit 255 ;;
esac
"""
HOSTS = """
all:
  vars: {domain: example}
  children:
    xen_hosts:
      hosts:
        one: {site: a}
        two: {ansible_host: "two"}
    others:
      hosts: {three: {}}
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An inventory, and hosts that answer."""
    inventory, answers, programs = tmp_path / "inventory", tmp_path / "answers", tmp_path / "bin"
    for directory in (inventory, answers, programs):
        directory.mkdir()
    (programs / "ssh").write_text(SSH)
    (programs / "ssh").chmod(0o755)
    (inventory / "10-hosts.yml").write_text(HOSTS)
    (inventory / "20-zones.ringfence.yml").write_text("plugin: ringfence.zones.zones\n")
    (answers / "one").write_text(json.dumps([{"name": "web", "labels": {"tier": "web", "app.kind": "shop/1"}}, {"name": "db"}]))
    (answers / "two").write_text(json.dumps([{"name": "web", "state": "{{ lookup('pipe', 'id') }}"}]))
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("ANSWERS", str(answers))
    return tmp_path


@dataclasses.dataclass
class Listed:
    """What ansible-inventory shows: groups that zones are in, variables by zone, and what it says besides."""

    groups: dict[str, list[str]]
    variables: dict[str, dict[str, Any]]
    said: str


def _list(site: Path, *, succeeds: bool = True) -> Listed:
    collections = Path(__file__).parents[2] / "build"
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-inventory"), "-i", site / "inventory", "--list"],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(collections), "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "1", "COLUMNS": "500"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) is succeeds, done.stderr
    shown = json.loads(done.stdout) if succeeds else {"_meta": {"hostvars": {}}}
    variables = shown.pop("_meta")["hostvars"]
    groups = {name: group.get("hosts", []) for name, group in shown.items() if name == "zones" or name.startswith("label_")}
    return Listed(groups, variables, done.stderr)


def _shown(site: Path, variable: str, *options: str) -> str:
    """What a playbook prints that shows a variable of zone web.two."""
    play = [{"hosts": "web.two", "gather_facts": False, "tasks": [{"ansible.builtin.debug": {"var": variable}}]}]
    (site / "play.yml").write_text(json.dumps(play))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", site / "inventory", *options, site / "play.yml"],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(Path(__file__).parents[2] / "build")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_zones_are_in_the_inventory_with_groups_from_their_labels(site: Path) -> None:
    listed = _list(site)
    assert listed.groups == {
        "zones": ["web.one", "db.one", "web.two"],
        "label_tier_web": ["web.one"],
        "label_app_kind_shop_1": ["web.one"],
    }
    variables = listed.variables["web.one"]
    assert variables["ringfence_host"] == {"__ansible_unsafe": "one"}
    assert variables["ringfence_zone"]["labels"]["tier"] == {"__ansible_unsafe": "web"}
    assert "WARNING" not in listed.said


@pytest.mark.parametrize(("with_plugin", "playbook"), [(True, "site"), (True, "verify"), (False, "site")])
def test_the_playbooks_are_for_hosts_and_not_for_their_zones(site: Path, with_plugin: bool, playbook: str) -> None:
    if not with_plugin:
        (site / "inventory" / "20-zones.ringfence.yml").unlink()
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", site / "inventory", "--list-hosts", f"ringfence.zones.{playbook}"],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(Path(__file__).parents[2] / "build")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.partition("hosts (3):")[2].split()) == ["one", "three", "two"]
    assert "Could not match" not in done.stderr


def test_only_hosts_of_the_group_are_asked(site: Path) -> None:
    (site / "inventory" / "20-zones.ringfence.yml").write_text("plugin: ringfence.zones.zones\ngroup: others\n")
    assert "zones" not in _list(site).groups
    asked = (site / "answers" / "asked").read_text().splitlines()
    assert [line.split(" -- ")[1].split()[0] for line in asked] == ["three"]


def test_what_a_host_answers_is_no_template(site: Path) -> None:
    """A playbook shows it as it is."""
    assert "{{ lookup('pipe', 'id') }}" in _shown(site, "ringfence_zone.state")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("no such command", "its answer is not JSON"),
        ("{}", "its answer is not a list of zones"),
        ('[{"name": "../web"}]', "its answer is not a list of zones"),
        ('["web"]', "its answer is not a list of zones"),
    ],
)
def test_a_host_that_answers_something_else_is_reported_and_the_others_are_listed(site: Path, answer: str, told: str) -> None:
    (site / "answers" / "one").write_text(answer)
    listed = _list(site)
    assert listed.groups["zones"] == ["web.two"]
    assert f"ringfence.zones.zones: the zones of host one are not in the inventory: {told}" in listed.said


def test_a_host_that_cannot_be_reached_is_reported_with_what_ssh_said(site: Path) -> None:
    (site / "inventory" / "10-hosts.yml").write_text("xen_hosts: {hosts: {far: {}}}\n")
    assert "zones of host far are not in the inventory: ssh exited with 255: no route to host" in _list(site).said


def test_a_host_that_hangs_is_given_up(site: Path) -> None:
    (site / "bin" / "ssh").write_text("#!/bin/sh\nexec sleep 60\n")
    (site / "inventory" / "20-zones.ringfence.yml").write_text("plugin: ringfence.zones.zones\ntimeout: 1\n")
    said = _list(site).said
    assert all(f"host {name} are not in the inventory: no answer within 1 s" in said for name in ("one", "two"))


def test_a_group_that_is_not_there_is_an_error(site: Path) -> None:
    (site / "inventory" / "10-hosts.yml").write_text("others: {hosts: {three: {}}}\n")
    assert "group: 'xen_hosts' is not in the inventory" in _list(site, succeeds=False).said


def test_variables_of_the_host_are_used_with_their_templates_resolved(site: Path) -> None:
    variables = "{ansible_host: '{{ domain }}', domain: one, ansible_become: true, ansible_user: admin}"
    (site / "inventory" / "10-hosts.yml").write_text(f"xen_hosts: {{hosts: {{first: {variables}}}}}\n")
    (site / "inventory" / "group_vars").mkdir()
    (site / "inventory" / "group_vars" / "xen_hosts.yml").write_text("ansible_port: 2022\n")
    assert _list(site).groups["zones"] == ["web.first", "db.first"]
    asked = (site / "answers" / "asked").read_text()
    assert "-p 2022 -l admin -- one sudo -n /usr/local/sbin/zonectl list --json\n" in asked


@pytest.mark.parametrize("kind", ["ini", "yml"])
def test_variables_count_in_the_order_of_ansible(site: Path, kind: str) -> None:
    """Each host has a variable of each level below the one that counts for it, also where the sources do not name the group all."""
    hosts = {name: {"ansible_port": 4} for name in ("e", "f")} | {name: {} for name in ("b", "c", "d")}
    if kind == "yml":
        groups: dict[str, Any] = {"lower": {"hosts": dict.fromkeys("def")}, "aa_upper": {"children": {"lower": None}, "hosts": {"c": None}}}
        text = json.dumps({**groups, "xen_hosts": {"hosts": hosts, "vars": {"ansible_user": "group"}}})
    else:
        text = "[xen_hosts]\nb\nc\nd\ne ansible_port=4\nf ansible_port=4\n[lower]\nd\ne\nf\n[aa_upper:children]\nlower\n[aa_upper]\nc\n"
    (site / "inventory" / "10-hosts.yml").unlink()
    (site / "inventory" / f"10-hosts.{kind}").write_text(text)
    for name, port in {"group_vars/all": 1, "group_vars/aa_upper": 2, "group_vars/lower": 3, "host_vars/f": 5}.items():
        path = site / "inventory" / f"{name}.yml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"ansible_port: {port}\nansible_user: file\n")
    _list(site)
    asked = (site / "answers" / "asked").read_text().splitlines()
    found = {line.split(" -- ")[1].split()[0]: line.split(" -- ")[0].partition("-p ")[2] for line in asked}
    assert found == {name: f"{port} -l file" for port, name in enumerate("bcdef", 1)}


def test_the_group_all_has_every_host_and_zones_keep_their_source(site: Path) -> None:
    (site / "inventory" / "10-hosts.yml").unlink()
    (site / "inventory" / "10-hosts").write_text("one\n[xen_hosts]\ntwo\n")
    (site / "inventory" / "20-zones.ringfence.yml").write_text("plugin: ringfence.zones.zones\ngroup: all\n")
    assert _list(site).groups["zones"] == ["web.one", "db.one", "web.two"]
    assert "20-zones.ringfence.yml" in _shown(site, "inventory_file", "-uadmin", "-eansible_port=7")
    assert "-p 7 -l admin -- two" in (site / "answers" / "asked").read_text()


def test_variables_that_say_nothing_of_the_way_to_a_host_need_not_be_known(site: Path) -> None:
    variables = "{ansible_become_password: '{{ asked_for }}'}"
    (site / "inventory" / "10-hosts.yml").write_text(f"xen_hosts: {{hosts: {{one: {variables}}}}}\n")
    listed = _list(site)
    assert listed.groups["zones"] == ["web.one", "db.one"]
    assert "WARNING" not in listed.said


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("ansible_host: '{{ unknown }}'", "'unknown' is undefined"),
        ('ansible_ssh_common_args: "-o \'ProxyJump=a"', "No closing quotation"),
        ("ansible_become: perhaps", "'perhaps' is not a valid boolean"),
    ],
)
def test_a_host_whose_variables_are_faulty_is_reported_and_the_others_are_listed(site: Path, variable: str, told: str) -> None:
    (site / "inventory" / "10-hosts.yml").write_text(f"xen_hosts: {{hosts: {{one: {{{variable}}}, two: {{}}}}}}\n")
    listed = _list(site)
    assert listed.groups["zones"] == ["web.two"]
    said = listed.said.partition("the zones of host one are not in the inventory: its variables do not say how to reach it: ")[2]
    assert told in said.splitlines()[0]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "ssh -T -o BatchMode=yes -- one id -u"),
        ({"ansible_host": "192.0.2.1", "ansible_port": 2}, "ssh -T -o BatchMode=yes -p 2 -- 192.0.2.1 id -u"),
        ({"ansible_user": "admin", "ansible_become": "yes"}, "ssh -T -o BatchMode=yes -l admin -- one sudo -n id -u"),
        ({"ansible_ssh_private_key_file": "/my key"}, "ssh -T -o BatchMode=yes -i /my key -- one id -u"),
        ({"ansible_ssh_common_args": "-o 'ProxyJump=a b'"}, "ssh -T -o BatchMode=yes -o ProxyJump=a b -- one id -u"),
        ({"ansible_ssh_host_key_checking": False}, "ssh -T -o BatchMode=yes -o StrictHostKeyChecking=no -- one id -u"),
        ({"ansible_connection": "local"}, "id -u"),
        ({"ansible_connection": "ansible.builtin.local"}, "id -u"),
        ({"ansible_connection": "local", "ansible_become": True}, "sudo -n id -u"),
    ],
)
def test_a_host_is_reached_as_its_variables_say(variables: dict[str, Any], expected: str) -> None:
    assert " ".join(to_host("one", variables, ["id", "-u"])) == expected


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, "id -u"), ({"ansible_connection": "ssh"}, "ssh -T -o BatchMode=yes -- one id -u")],
)
def test_the_command_line_says_how_where_no_variable_does(
    variables: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "CLIARGS", {"connection": "ansible.builtin.local"})
    assert " ".join(to_host("one", variables, ["id", "-u"])) == expected


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, "-l admin -i /key"), ({"ansible_user": "root", "ansible_private_key_file": "/my"}, "-l root -i /my")],
)
def test_user_and_key_of_the_command_line_count_where_no_variable_says_them(
    variables: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "CLIARGS", {"remote_user": "admin", "private_key_file": "/key"})
    assert " ".join(to_host("one", variables, ["true"])) == f"ssh -T -o BatchMode=yes {expected} -- one true"


@pytest.mark.parametrize("own", [platform.node(), "localhost"])
def test_under_ansible_pull_the_host_itself_is_asked_alone_and_without_ssh(site: Path, own: str) -> None:
    hosts = {own: {"ansible_become": True}, "one": {}, "two": {"ansible_connection": "ssh"}}
    (site / "inventory" / "10-hosts.yml").write_text(json.dumps({"xen_hosts": {"hosts": hosts}}))
    (site / "bin" / "sudo").write_text('#!/bin/sh\necho sudo "$@" >>"$ANSWERS/asked"\ncat "$ANSWERS/one"\n')
    (site / "bin" / "sudo").chmod(0o755)
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible"), "-i", site / "inventory", "-c", "local", "--list-hosts", "zones"],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(Path(__file__).parents[2] / "build")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[2:] == [f"web.{own}", f"db.{own}", "web.two"]
    assert "WARNING" not in done.stderr
    asked = (site / "answers" / "asked").read_text().splitlines()
    assert sorted(asked) == [
        "-T -o BatchMode=yes -- two /usr/local/sbin/zonectl list --json",
        "sudo -n /usr/local/sbin/zonectl list --json",
    ]


def test_a_zone_is_reached_through_its_host_by_ansibles_own_ssh_connection() -> None:
    to_zone = ["ssh", "-o", "ControlPath=/tmp/%C", "--", "one", "zonectl connect web"]
    variables = of_zone({"name": "web"}, "one", to_zone)
    options = shlex.split(variables["ansible_ssh_args"])
    (proxy,) = (option.partition("=")[2] for option in options if option.startswith("ProxyCommand="))
    assert shlex.split(proxy.replace("%%", "%")) == to_zone
    assert {"ServerAliveInterval=15", "ServerAliveCountMax=4"} <= set(options)
    assert (variables["ansible_connection"], variables["ansible_user"], variables["ansible_host"]) == ("ssh", "container", "web")
