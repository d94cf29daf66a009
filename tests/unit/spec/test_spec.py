"""Tests of the library's ``spec.zone``."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import yaml

from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration
from ansible_collections.ringfence.zones.plugins.module_utils.spec.fields import Device, Healthcheck, Mount, Networks, Port, Secret, Traffic
from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import FIELDS, Volume, Zone, parse_declaration, parse_zones
from ansible_collections.ringfence.zones.plugins.modules import zones as module

IMAGE = f"registry.example/web@sha256:{'1' * 64}"
NAME = "1 to 40 characters a-z, 0-9 and '-', the first and the last no '-'"
REFERENCE = "accepted: [docker://][HOST[:PORT]/]NAME[:TAG][@sha256:DIGEST]"
SIZE = "a size with its unit, at least 32MiB"
CPUS = "a whole number of virtual CPUs from 1 to 64"
UNENDED = "a quote or a backslash in it has nothing to end it: add what is missing, or write a list"
WORDS = "a string, or a list of strings, for example ['nginx', '-g', 'daemon off;']; quote numbers and booleans"
VARIABLES = "a mapping of names to strings or numbers (or a list of NAME=value); quote booleans"
PORTS = "a list of '[ADDRESS:]HOST:ZONE[/udp]' with ports from 1 to 65535"
NOT_ROUTED = "because what is sent there is not routed on to a zone"
RESTART = "one of no, on-failure, on-failure:COUNT, always, unless-stopped"
USER = "a user or uid, with ':' and a group or gid if need be"
PATH = "an absolute path in the container, without '..'"
LABELS = "a mapping of names to strings or numbers, or a list of NAME=value"
TMPFS = "a path, or a list of PATH or PATH:size=64m,mode=1777,uid=0,gid=0 (also ro, exec, suid, dev)"
LIMITS = "a mapping of as, core, cpu, data"
SYSCTLS = "a mapping of kernel parameters to strings or numbers"
HOSTS = "a list of 'name=address', or a mapping of names to addresses"
SECRETS = "a list of names of secrets, or of {source: NAME, target: /path or NAME, uid: 0, gid: 0, mode: '0440'}"
DEVICES = (
    "a list of SOURCE, SOURCE:TARGET or SOURCE:TARGET:rwm, where SOURCE is /dev/fuse, /dev/kmsg, /dev/net/tun of the zone's own kernel"
)
HEALTH = "a mapping with test, interval, timeout, retries, start_period, start_interval or disable"
DEPENDS = "a list of zones, or a mapping such as {db: {condition: service_healthy}} (or service_started)"
EGRESS = "egress as a list of {to: …, ports: […]}, with a network such as 10.0.0.0/8 or 2001:db8::/32 and ports such as 1883, '53/udp'"
INGRESS = "ingress as a list of {from: …, ports: […]}, with the name of a zone and ports such as 1883, '53/udp' or '8000-8010/tcp'"
VOLUMES = "a list of at most 20 'VOLUME:/path' or 'VOLUME:/path:ro'"
KERNEL = "the name of a deployed kernel, 1 to 40 of a-z, 0-9, '.' and '-', the first a letter or digit"

# The value of one field of an otherwise valid zone, how the error shows it, and what it says is accepted.
REFUSED: list[tuple[str, Any, str, str]] = [
    ("name", "", "''", NAME),
    ("name", "Web", "'Web'", NAME),
    ("name", "web_1", "'web_1'", NAME),
    ("name", "web.example", "'web.example'", NAME),
    ("name", "-web", "'-web'", NAME),
    ("name", "web-", "'web-'", NAME),
    ("name", "w" * 41, repr("w" * 41), NAME),
    ("name", "web\n", r"'web\n'", NAME),
    ("name", "../web", "'../web'", NAME),
    ("name", 7, "7", NAME),
    ("state", "running", "'running'", "one of present, absent"),
    ("state", True, "True", "one of present, absent"),
    ("image", "", "''", "an image reference, for example"),
    ("image", ["nginx"], "['nginx']", "an image reference, for example"),
    ("image", "registry.example/Web", "'registry.example/Web'", REFERENCE),
    ("image", "registry.example/web@sha256:12", "digest 'sha256:12'", REFERENCE),
    ("image", "registry.example/web:", "'registry.example/web:'", REFERENCE),
    ("image", "oci:web", "'oci:web'", REFERENCE),
    ("image", "-f", "'-f'", REFERENCE),
    ("kernel", "Stable", "'Stable'", KERNEL),
    ("kernel", "../stable", "'../stable'", KERNEL),
    ("kernel", 6.12, "6.12", KERNEL),
    ("virtualization", "hvm", "'hvm'", "one of auto, pv, pvh"),
    ("virtualization", "PVH", "'PVH'", "one of auto, pv, pvh"),
    ("memory", 128, "128", SIZE),
    ("memory", "128", "'128'", SIZE),
    ("memory", "31MiB", "'31MiB'", SIZE),
    ("memory", "-128MiB", "'-128MiB'", SIZE),
    ("memory", "1.5GiB", "'1.5GiB'", SIZE),
    ("memory", "1TiB", "'1TiB'", SIZE),
    ("memory", "9" * 5000 + "MiB", "'9999", SIZE),
    *(("cpu_shares", value, repr(value), "a whole number from 2 to 262144") for value in (1, 262145, 1.5, True, "many", "-5")),
    ("cpus", 0, "0", CPUS),
    ("cpus", 65, "65", CPUS),
    ("cpus", 0.5, "0.5", CPUS),
    ("cpus", True, "True", CPUS),
    ("cpus", "two", "'two'", CPUS),
    ("cpus", "9" * 5000, "'9999", CPUS),
    ("entrypoint", 'sh -c "date', "'sh -c \"date'", UNENDED),
    ("entrypoint", [7], "[7]", WORDS),
    ("command", "echo it's", '"echo it\'s"', UNENDED),
    ("command", "echo \\", r"'echo \\'", UNENDED),
    ("command", "a\0b", r"'a\x00b'", WORDS),
    ("command", 7, "7", WORDS),
    ("command", ["sleep", 10], "['sleep', 10]", WORDS),
    ("command", ["yes", True], "['yes', True]", WORDS),
    ("command", ["a\0b"], r"['a\x00b']", WORDS),
    ("command", {"nginx": None}, "{'nginx': None}", WORDS),
    ("env_file", "web.env", "'web.env'", "an absolute path on the host"),
    ("env_file", ["/web.env", 7], "['/web.env', 7]", "an absolute path on the host"),
    ("env_file", {"required": False}, "{'required': False}", "an absolute path on the host"),
    ("env_file", {"path": "/web.env", "required": "no"}, "{'path': '/web.env', 'required': 'no'}", "{path: /file, required: false}"),
    ("env_file", {"path": "/web.env", "format": "raw"}, "{'path': '/web.env', 'format': 'raw'}", "{path: /file, required: false}"),
    ("environment", "A=1", "'A=…'", VARIABLES),
    ("environment", ["A"], "['A']", VARIABLES),
    ("environment", ["=1"], "['=…']", VARIABLES),
    ("environment", {"": "1"}, "{'': '…'}", VARIABLES),
    ("environment", {"A=B": "1"}, "{'A=B': '…'}", VARIABLES),
    ("environment", {1: "1"}, "{1: '…'}", VARIABLES),
    ("environment", {"A": True}, "{'A': '…'}", f"{VARIABLES}; A is a bool"),
    ("environment", {"A": None}, "{'A': '…'}", f"{VARIABLES}; A is a NoneType"),
    ("environment", {"A": ["1"]}, "{'A': '…'}", f"{VARIABLES}; A is a list"),
    ("environment", {"A": "\0"}, "{'A': '…'}", VARIABLES),
    ("ports", "8080:80", "'8080:80'", PORTS),
    ("ports", [80], "[80]", PORTS),
    ("ports", ["80"], "['80']", PORTS),
    ("ports", ["0:80"], "['0:80']", PORTS),
    ("ports", ["80:65536"], "['80:65536']", PORTS),
    ("ports", ["8080:80/sctp"], "['8080:80/sctp']", PORTS),
    ("ports", ["127.0.0.1:8080:80"], "['127.0.0.1:8080:80']", NOT_ROUTED),
    ("ports", ["[::1]:8080:80"], "['[::1]:8080:80']", NOT_ROUTED),
    ("ports", ["[fe80::1]:8080:80"], "['[fe80::1]:8080:80']", NOT_ROUTED),
    ("ports", ["224.0.0.1:8080:80"], "['224.0.0.1:8080:80']", NOT_ROUTED),
    ("ports", ["0.0.0.0:8080:80"], "['0.0.0.0:8080:80']", "leave 0.0.0.0 out for all addresses"),
    ("ports", ["[::]:8080:80"], "['[::]:8080:80']", "leave [::] out for all addresses"),
    ("ports", ["192.0.2.256:8080:80"], "['192.0.2.256:8080:80']", PORTS),
    ("ports", ["2001:db8::5:8080:80"], "['2001:db8::5:8080:80']", PORTS),
    ("ports", ["[192.0.2.5]:8080:80"], "['[192.0.2.5]:8080:80']", PORTS),
    ("ports", ["192.0.2.5::80"], "['192.0.2.5::80']", PORTS),
    ("ports", ["8000-8010:80"], "['8000-8010:80']", PORTS),
    ("ports", ["\u0661:80"], "['\u0661:80']", PORTS),
    ("ports", [{"published": 8080, "target": 80}], "[{'published': 8080, 'target': 80}]", PORTS),
    ("restart", "never", "'never'", RESTART),
    ("restart", True, "True", RESTART),
    ("restart", "on-failure:", "'on-failure:'", RESTART),
    ("restart", "on-failure:-1", "'on-failure:-1'", RESTART),
    ("restart", "on-failure:" + "9" * 10, "'on-failure:9999999999'", RESTART),
    ("restart", ["always"], "['always']", RESTART),
    ("user", "", "''", USER),
    ("user", "a b", "'a b'", USER),
    ("user", "app:", "'app:'", USER),
    ("user", True, "True", USER),
    ("user", 1.5, "1.5", USER),
    ("working_dir", "srv", "'srv'", PATH),
    ("working_dir", "/srv/../etc", "'/srv/../etc'", PATH),
    ("working_dir", "/a\0", r"'/a\x00'", PATH),
    ("hostname", "www_1", "'www_1'", "a host name of at most 63"),
    ("hostname", "w" * 64, repr("w" * 64), "a host name of at most 63"),
    ("hostname", "www\n", r"'www\n'", "a host name of at most 63"),
    ("labels", "site", "'site'", LABELS),
    ("labels", {"": "1"}, "{'': '1'}", LABELS),
    ("labels", {"site": ["north"]}, "{'site': ['north']}", LABELS),
    ("labels", {"site": "\x1b[2J"}, r"{'site': '\x1b[2J'}", LABELS),
    ("read_only", "yes", "'yes'", "true or false"),
    ("read_only", 1, "1", "true or false"),
    ("cap_add", "NET_ADMIN", "'NET_ADMIN'", "a list of ALL or of Linux capabilities: AUDIT_CONTROL"),
    ("cap_add", ["NET_ADMINN"], "['NET_ADMINN']", "a list of ALL or of Linux capabilities: AUDIT_CONTROL"),
    ("cap_drop", [21], "[21]", "a list of ALL or of Linux capabilities: AUDIT_CONTROL"),
    ("tmpfs", "run", "'run'", TMPFS),
    ("tmpfs", ["/run:size=x"], "['/run:size=x']", TMPFS),
    ("tmpfs", ["/run:mode=755,lazytime"], "['/run:mode=755,lazytime']", TMPFS),
    ("tmpfs", ["/run", "/run:size=1m"], "['/run', '/run:size=1m']", TMPFS),
    ("tmpfs", ["/"], "['/']", TMPFS),
    ("tmpfs", 7, "7", TMPFS),
    ("ulimits", {"files": 10}, "{'files': 10}", LIMITS),
    ("ulimits", {"nofile": "many"}, "{'nofile': 'many'}", LIMITS),
    ("ulimits", {"nofile": {"soft": 10}}, "{'nofile': {'soft': 10}}", LIMITS),
    ("ulimits", {"nofile": {"soft": 10, "hard": 5}}, "{'nofile': {'soft': 10, 'hard': 5}}", "soft at most hard"),
    ("ulimits", {"nofile": {"soft": -1, "hard": 5}}, "{'nofile': {'soft': -1, 'hard': 5}}", "soft at most hard"),
    ("ulimits", ["nofile=10"], "['nofile=10']", LIMITS),
    ("sysctls", {"somaxconn": 1}, "{'somaxconn': 1}", SYSCTLS),
    ("sysctls", {"net..core": 1}, "{'net..core': 1}", SYSCTLS),
    ("sysctls", {"net/core/somaxconn": 1}, "{'net/core/somaxconn': 1}", SYSCTLS),
    ("sysctls", {"vm.swappiness": "1\n2"}, r"{'vm.swappiness': '1\n2'}", SYSCTLS),
    ("sysctls", {"vm.swappiness": True}, "{'vm.swappiness': True}", SYSCTLS),
    ("sysctls", ["vm.swappiness"], "['vm.swappiness']", SYSCTLS),
    ("stop_signal", "SIGSTOPP", "'SIGSTOPP'", "a signal by name or number"),
    ("stop_signal", 32, "32", "a signal by name or number"),
    ("stop_signal", True, "True", "a signal by name or number"),
    ("stop_signal", "9" * 5000, "'9999", "a signal by name or number"),
    ("ulimits", {"nofile": 2**63}, "{'nofile': 9223372036854775808}", LIMITS),
    ("secrets", [{"source": "s", "target": "/"}], "[{'source': 's'", "target with the name of a file"),
    ("secrets", [{"source": "s", "target": ""}], "[{'source': 's'", "target with the name of a file"),
    ("ports", ["[::ffff:c000:205]:80:80"], "['[::ffff:c000:205]:80:80']", "192.0.2.5 for [::ffff:c000:205]"),
    ("networks", {"egress": [{"to": "::ffff:10.0.0.0/104"}]}, "{'egress'", "a network such as 10.0.0.0/8"),
    ("healthcheck", {"test": "\ud800"}, "{'test'", "a string, or a list of strings"),
    ("stop_grace_period", 10, "10", "a time of whole seconds with its unit"),
    ("stop_grace_period", "", "''", "a time of whole seconds with its unit"),
    ("stop_grace_period", "1.5s", "'1.5s'", "a time of whole seconds with its unit"),
    ("stop_grace_period", "10 s", "'10 s'", "a time of whole seconds with its unit"),
    ("dns", "dns.example", "'dns.example'", "an IP address, or a list of at most three"),
    ("dns", ["192.0.2.1"] * 4, "['192.0.2.1', '192.0.2.1'", "an IP address, or a list of at most three"),
    ("dns", "fe80::1%eth0", "'fe80::1%eth0'", "an IP address, or a list of at most three"),
    ("dns", 7, "7", "an IP address, or a list of at most three"),
    ("extra_hosts", ["db"], "['db']", HOSTS),
    ("extra_hosts", ["db=192.0.2.256"], "['db=192.0.2.256']", HOSTS),
    ("extra_hosts", {"db\n": "192.0.2.1"}, r"{'db\n': '192.0.2.1'}", HOSTS),
    ("extra_hosts", {"db": None}, "{'db': None}", HOSTS),
    ("secrets", "password", "'password'", SECRETS),
    ("secrets", ["../password"], "['../password']", SECRETS),
    ("secrets", [{"target": "/a"}], "[{'target': '/a'}]", SECRETS),
    ("secrets", [{"source": "a", "mode": 440}], "[{'source': 'a', 'mode': 440}]", SECRETS),
    ("secrets", [{"source": "a", "mode": "0999"}], "[{'source': 'a', 'mode': '0999'}]", SECRETS),
    ("secrets", [{"source": "a", "uid": "app"}], "[{'source': 'a', 'uid': 'app'}]", SECRETS),
    ("secrets", [{"source": "a", "target": "../a"}], "[{'source': 'a', 'target': '../a'}]", PATH),
    ("secrets", ["a", {"source": "b", "target": "a"}], "['a', {'source': 'b', 'target': 'a'}]", "each target once"),
    ("devices", "/dev/fuse", "'/dev/fuse'", DEVICES),
    ("devices", [{"source": "/dev/fuse"}], "[{'source': '/dev/fuse'}]", DEVICES),
    ("devices", ["/dev/sda"], "['/dev/sda']", "a device of the host's hardware (PCI, block, serial) cannot be given to a zone yet"),
    ("devices", ["fuse"], "['fuse']", DEVICES),
    ("devices", ["/dev/fuse:"], "['/dev/fuse:']", PATH),
    ("devices", ["/dev/fuse:rw"], "['/dev/fuse:rw']", PATH),
    ("devices", ["/dev/fuse:/fuse"], "['/dev/fuse:/fuse']", "TARGET a path of its own below /dev"),
    ("devices", ["/dev/fuse:/dev"], "['/dev/fuse:/dev']", "TARGET a path of its own below /dev"),
    ("devices", ["/dev/fuse:/dev/null"], "['/dev/fuse:/dev/null']", "TARGET a path of its own below /dev"),
    ("devices", ["/dev/fuse:/dev/pts/7"], "['/dev/fuse:/dev/pts/7']", "TARGET a path of its own below /dev"),
    ("devices", ["/dev/fuse:/dev/../etc/fuse"], "['/dev/fuse:/dev/../etc/fuse']", PATH),
    ("devices", ["/dev/fuse:/dev/fuse:"], "['/dev/fuse:/dev/fuse:']", DEVICES),
    ("devices", ["/dev/fuse:/dev/fuse:rx"], "['/dev/fuse:/dev/fuse:rx']", DEVICES),
    ("devices", ["/dev/fuse:/dev/fuse:r:w"], "['/dev/fuse:/dev/fuse:r:w']", DEVICES),
    ("devices", ["/dev/fuse", "/dev/fuse:/dev/a"], "['/dev/fuse', '/dev/fuse:/dev/a']", "each source and each path once"),
    ("devices", ["/dev/fuse:/dev/a", "/dev/kmsg:/dev/a"], "['/dev/fuse:/dev/a', '/dev/kmsg:/dev/a']", "each source and each path once"),
    ("devices", ["/dev/fuse:/dev/a", "/dev/kmsg:/dev/a/b"], "['/dev/fuse:/dev/a', ", "each source and each path once"),
    ("healthcheck", ["CMD", "true"], "['CMD', 'true']", HEALTH),
    ("healthcheck", {"tests": "true"}, "{'tests': 'true'}", HEALTH),
    ("healthcheck", {"test": ["true"]}, "{'test': ['true']}", "CMD, CMD-SHELL or NONE"),
    ("healthcheck", {"test": ["CMD"]}, "{'test': ['CMD']}", "CMD, CMD-SHELL or NONE"),
    ("healthcheck", {"test": []}, "{'test': []}", "CMD, CMD-SHELL or NONE"),
    ("healthcheck", {"test": 1}, "{'test': 1}", "a list of strings"),
    ("healthcheck", {"interval": 10}, "{'interval': 10}", "a time of whole seconds with its unit"),
    ("healthcheck", {"interval": "0s"}, "{'interval': '0s'}", "interval of at least 1s"),
    ("healthcheck", {"retries": 0}, "{'retries': 0}", "retries from 1 to 1000"),
    ("healthcheck", {"disable": "yes"}, "{'disable': 'yes'}", HEALTH),
    ("depends_on", "db", "'db'", DEPENDS),
    ("depends_on", ["Db"], "['Db']", DEPENDS),
    ("depends_on", {"db": None}, "{'db': None}", DEPENDS),
    ("depends_on", {"db": {"condition": "healthy"}}, "{'db': {'condition': 'healthy'}}", DEPENDS),
    ("depends_on", {"db": {"condition": "service_started", "restart": True}}, "{'db': {'condition'", DEPENDS),
    ("networks", ["egress"], "['egress']", "a mapping with egress and ingress"),
    ("networks", {"egres": []}, "{'egres': []}", "a mapping with egress and ingress"),
    ("networks", {"egress": "10.0.0.0/8"}, "{'egress': '10.0.0.0/8'}", EGRESS),
    ("networks", {"egress": [{"to": "10.0.0.1/8"}]}, "{'egress': [{'to': '10.0.0.1/8'}]}", EGRESS),
    ("networks", {"egress": [{"to": "mqtt.example"}]}, "{'egress': [{'to': 'mqtt.example'}]}", EGRESS),
    ("networks", {"egress": [{"to": "2001:db8::1/32"}]}, "{'egress': [{'to': '2001:db8::1/32'}]}", EGRESS),
    ("networks", {"egress": [{"to": "fe80::1%a drop"}]}, "{'egress': [{'to': 'fe80::1%a drop'}]}", EGRESS),
    ("networks", {"egress": [{"ports": [80]}]}, "{'egress': [{'ports': [80]}]}", EGRESS),
    ("networks", {"egress": [{"to": "10.0.0.0/8", "port": 80}]}, "{'egress': [{'to': '10.0.0.0/8', 'port': 80}]}", EGRESS),
    ("networks", {"egress": [{"to": "10.0.0.0/8", "ports": 80}]}, "{'egress': [{'to': '10.0.0.0/8', 'ports': 80}]}", EGRESS),
    ("networks", {"egress": [{"to": "10.0.0.0/8", "ports": ["0"]}]}, "{'egress': [{'to': '10.0.0.0/8', 'ports': ['0']}]}", EGRESS),
    ("networks", {"egress": [{"to": "10.0.0.0/8", "ports": ["9-8"]}]}, "{'egress': [{'to': '10.0.0.0/8', 'ports': ['9-8']}]}", EGRESS),
    ("networks", {"ingress": [{"from": "Web"}]}, "{'ingress': [{'from': 'Web'}]}", INGRESS),
    ("networks", {"ingress": [{"to": "web"}]}, "{'ingress': [{'to': 'web'}]}", INGRESS),
    ("volumes", "data:/srv", "'data:/srv'", VOLUMES),
    ("volumes", ["data"], "['data']", VOLUMES),
    ("volumes", ["/srv/data:/srv"], "['/srv/data:/srv']", VOLUMES),
    ("volumes", ["data:srv"], "['data:srv']", PATH),
    ("volumes", ["data:/"], "['data:/']", "not at /"),
    ("volumes", ["data:/srv:z"], "['data:/srv:z']", VOLUMES),
    ("volumes", ["data:/srv", "logs:/srv/"], "['data:/srv', 'logs:/srv/']", "each path once"),
    ("volumes", ["data:/a", "data:/b"], "['data:/a', 'data:/b']", "each volume once"),
    ("volumes", [f"v{number}:/{number}" for number in range(21)], "['v0:/0'", VOLUMES),
]


def _zone(**fields: Any) -> dict[str, Any]:
    return {"name": "web", "image": IMAGE, **fields}


def _problems(*declared: Any) -> list[str]:
    with pytest.raises(InvalidDeclaration) as caught:
        parse_zones(list(declared))
    assert str(caught.value) == "; ".join(caught.value.problems)
    return caught.value.problems


@pytest.mark.parametrize(("field", "value", "shown", "accepted"), REFUSED)
def test_a_refused_value_is_told_with_zone_field_value_and_what_is_accepted(field: str, value: Any, shown: str, accepted: str) -> None:
    problems = _problems(_zone(**{field: value}))
    assert len(problems) == 1
    label = f"zone {value}: " if field == "name" and value else "zone number 1: " if field == "name" else "zone web: "
    assert problems[0].startswith(f"{label}{field}")
    assert shown in problems[0]
    assert accepted in problems[0]
    assert len(problems[0]) < 700


def test_each_field_has_a_refused_value() -> None:
    assert {field for field, *_rest in REFUSED} == set(FIELDS)


@pytest.mark.parametrize(
    ("misspelt", "hint"),
    [
        ("kernal", "did you mean kernel?"),
        ("Memory", "did you mean memory?"),
        ("mem", "did you mean memory?"),
        ("port", "did you mean ports?"),
        ("restart_policy", "did you mean restart?"),
        ("environments", "did you mean environment?"),
        ("entry_point", "did you mean entrypoint?"),
        ("cmd", "did you mean command?"),
        ("xyz", f"accepted: {', '.join(FIELDS)}"),
        (1, f"accepted: {', '.join(FIELDS)}"),
    ],
)
def test_an_unknown_field_is_told_with_the_nearest_valid_one(misspelt: Any, hint: str) -> None:
    assert _problems({**_zone(), misspelt: "x"}) == [f"zone web: unknown field {misspelt}; {hint}"]


@pytest.mark.parametrize("entry", ["web", 7, None, ["web"]])
def test_a_zone_that_is_no_mapping_is_refused(entry: Any) -> None:
    assert _problems(_zone(), entry) == [f"zone number 2: {entry!r} is not accepted; a zone is a mapping with name and image"]


@pytest.mark.parametrize(
    ("entry", "problems"),
    [
        ({"image": IMAGE}, ["zone number 1: name is missing; each zone needs one"]),
        ({"name": "web"}, ["zone web: image is missing; name the OCI image that the zone runs"]),
        ({"name": "web", "image": None}, ["zone web: image is missing; name the OCI image that the zone runs"]),
        ({"state": "absent"}, ["zone number 1: name is missing; each zone needs one"]),
    ],
)
def test_what_is_missing_is_told(entry: dict[str, Any], problems: list[str]) -> None:
    assert _problems(entry) == problems


def test_every_fault_of_every_zone_is_told_at_once() -> None:
    problems = _problems(_zone(cpus=0, kernal="a"), _zone(name="db", memory="1"), _zone(name="db", ports=["1:1"]))
    assert [problem.partition(":")[0] for problem in problems] == ["zone web", "zone web", "zone db"]


def test_a_name_is_declared_once() -> None:
    assert _problems(_zone(), _zone(state="absent")) == ["zone web: name: declared twice; names are unique on a host"]


@pytest.mark.parametrize("second", ["db", "web"])
def test_a_port_of_the_host_leads_to_one_zone_and_port(second: str) -> None:
    ports = ["8080:80/tcp", "8080:80/udp"] if second == "db" else ["8080:80", "8080:80/udp", "8080:81"]
    declared = [_zone(ports=ports)] + ([_zone(name="db", ports=["8080:81/tcp"])] if second == "db" else [])
    assert _problems(*declared) == [
        f"zone {second}: ports: '8080:81/tcp' is not accepted; zone web publishes 8080/tcp; choose another",
    ]


@pytest.mark.parametrize(
    ("first", "second", "had"),
    [
        ("8080:80", "192.0.2.5:8080:81/tcp", "8080/tcp"),
        ("192.0.2.5:8080:80", "8080:81/tcp", "192.0.2.5:8080/tcp"),
        ("[2001:db8::5]:8080:80", "8080:81/tcp", "[2001:db8::5]:8080/tcp"),
        ("[2001:db8::5]:8080:80", "[2001:db8::5]:8080:81/tcp", "[2001:db8::5]:8080/tcp"),
    ],
)
def test_a_port_at_an_address_is_a_part_of_that_at_all_addresses(first: str, second: str, had: str) -> None:
    assert _problems(_zone(ports=[first]), _zone(name="db", ports=[second])) == [
        f"zone db: ports: '{second}' is not accepted; zone web publishes {had}; choose another",
    ]


def test_zones_publish_one_port_at_addresses_of_their_own() -> None:
    ports = ["192.0.2.5:8080:80", "192.0.2.6:8080:80", "[2001:db8::5]:8080:80"]
    assert [zone.ports for zone in parse_zones([_zone(name=f"z{at}", ports=[port]) for at, port in enumerate(ports)])] == [
        (Port(8080, 80, "tcp", address),) for address in ("192.0.2.5", "192.0.2.6", "2001:db8::5")
    ]


@pytest.mark.parametrize("port", ["8080:80/tcp", "192.0.2.5:8080:80/tcp", "[2001:db8::5]:53:53/udp"])
def test_a_port_is_shown_as_it_is_declared(port: str) -> None:
    assert [str(found) for found in FIELDS["ports"].parse([port])] == [port]


def test_ports_of_absent_zones_are_free() -> None:
    zones = parse_zones([_zone(ports=["8080:80"]), _zone(name="db", state="absent", ports=["8080:81"])])
    assert [zone.name for zone in zones] == ["web", "db"]


def test_a_long_value_is_shown_in_part() -> None:
    (problem,) = _problems(_zone(name="w" * 10_000, image=IMAGE))
    assert "w" * 70 + "..." in problem.partition("name: ")[2]


def test_the_least_declaration_takes_the_defaults() -> None:
    assert parse_zones([_zone()]) == [Zone(name="web", image=IMAGE)]
    assert parse_zones([{"name": "web", "state": "absent"}]) == [Zone(name="web", state="absent")]
    assert parse_zones([]) == []


def test_a_null_is_as_if_the_field_were_not_there() -> None:
    assert parse_zones([_zone(**dict.fromkeys(set(FIELDS) - {"name", "image"}))]) == [Zone(name="web", image=IMAGE)]


@pytest.mark.parametrize(
    ("field", "value", "parsed"),
    [
        ("name", "a", "a"),
        ("name", "0" * 40, "0" * 40),
        ("name", "web-1", "web-1"),
        ("kernel", "debian-6.12", "debian-6.12"),
        ("virtualization", "pvh", "pvh"),
        ("memory", "32MiB", 32),
        ("memory", "65536KiB", 64),
        ("memory", "128m", 128),
        ("memory", "128mb", 128),
        ("memory", "128 MiB ", 128),
        ("memory", "2GiB", 2048),
        ("memory", "2g", 2048),
        ("cpus", 64, 64),
        ("cpu_shares", 2, 2),
        ("cpu_shares", "262144", 262144),
        ("cpus", "2", 2),
        ("entrypoint", [], ()),
        ("entrypoint", "", ()),
        ("entrypoint", "/bin/sh -c", ("/bin/sh", "-c")),
        ("command", "nginx -g 'daemon off;'", ("nginx", "-g", "daemon off;")),
        ("command", 'echo "$HOME" a\\ b | cat # &', ("echo", "$HOME", "a b", "|", "cat", "#", "&")),
        ("command", ["sh", "-c", "echo 'a b'\n"], ("sh", "-c", "echo 'a b'\n")),
        ("environment", {"B": 1, "A": "x=y", "C": 1.5, "D": ""}, {"A": "x=y", "B": "1", "C": "1.5", "D": ""}),
        ("environment", ["B=1", "A=x=y"], {"A": "x=y", "B": "1"}),
        ("ports", ["8080:80"], (Port(8080, 80, "tcp"),)),
        ("ports", ["9:9/udp", "8:8/tcp", "8:8"], (Port(8, 8, "tcp"), Port(9, 9, "udp"))),
        ("ports", ["192.0.2.5:8080:80/udp"], (Port(8080, 80, "udp", "192.0.2.5"),)),
        ("ports", ["[2001:DB8:0::5]:8080:80", "[2001:db8::5]:8080:80/tcp"], (Port(8080, 80, "tcp", "2001:db8::5"),)),
        ("ports", [], ()),
        ("restart", "on-failure", "on-failure"),
        ("restart", "on-failure:3", "on-failure:3"),
        ("restart", "unless-stopped", "unless-stopped"),
        ("state", "present", "present"),
        ("user", 1000, "1000"),
        ("user", "app:staff", "app:staff"),
        ("working_dir", "//srv//web/", "/srv/web"),
        ("hostname", "www.example", "www.example"),
        ("labels", ["b=2", "a"], {"a": "", "b": "2"}),
        ("labels", {"site": 7}, {"site": "7"}),
        ("read_only", True, True),
        ("cap_add", ["cap_net_admin", "SYS_TIME", "NET_ADMIN"], ("NET_ADMIN", "SYS_TIME")),
        ("cap_drop", ["CHOWN", "all"], ("ALL",)),
        ("tmpfs", "/run/", ("/run",)),
        ("tmpfs", ["/tmp:size=64m,mode=1777", "/run"], ("/run", "/tmp:size=64m,mode=1777")),
        ("ulimits", {"nproc": 10, "core": {"soft": 0, "hard": -1}}, {"core": (0, -1), "nproc": (10, 10)}),
        ("sysctls", {"net.core.somaxconn": 1024}, {"net.core.somaxconn": "1024"}),
        ("sysctls", ["kernel.sem=250 32000 100 128"], {"kernel.sem": "250 32000 100 128"}),
        ("stop_signal", "SIGUSR1", "USR1"),
        ("stop_signal", "quit", "QUIT"),
        ("stop_signal", 3, "QUIT"),
        ("stop_grace_period", "1m30s", 90),
        ("stop_grace_period", "2h", 7200),
        ("stop_grace_period", "0s", 0),
        ("volumes", ["b:/srv/b:ro", "a:/srv"], (Mount("/srv", "a"), Mount("/srv/b", "b", read_only=True))),
        (
            "networks",
            {"egress": [{"to": "10.0.0.0/8", "ports": [1883, "53/udp", "8000-8010", "7-7/tcp"]}, {"to": "0.0.0.0/0"}], "ingress": None},
            Networks(egress=(Traffic("0.0.0.0/0"), Traffic("10.0.0.0/8", ("1883/tcp", "53/udp", "7/tcp", "8000-8010/tcp")))),
        ),
        ("networks", {"ingress": [{"from": "web", "ports": []}]}, Networks(ingress=(Traffic("web"),))),
        ("networks", {"egress": [{"to": "2001:DB8::/32"}, {"to": "::/0"}]}, Networks(egress=(Traffic("2001:db8::/32"), Traffic("::/0")))),
        ("healthcheck", {"test": "redis-cli ping"}, Healthcheck(test=("/bin/sh", "-c", "redis-cli ping"))),
        ("healthcheck", {"test": ["CMD-SHELL", "true"], "retries": 2}, Healthcheck(test=("/bin/sh", "-c", "true"), retries=2)),
        ("healthcheck", {"test": ["CMD", "/a", "b"], "interval": "1m", "timeout": "3s"}, Healthcheck(("/a", "b"), 60, 3)),
        ("healthcheck", {"test": ["NONE"]}, Healthcheck(test=())),
        ("healthcheck", {"disable": True, "test": "true"}, Healthcheck(test=())),
        ("healthcheck", {"start_period": "0s", "start_interval": "1s"}, Healthcheck(start_period=0, start_interval=1)),
        ("dns", "192.0.2.53", ("192.0.2.53",)),
        ("dns", ["2001:DB8::1", "192.0.2.53"], ("2001:db8::1", "192.0.2.53")),
        ("extra_hosts", ["db=192.0.2.1", "a:2001:db8::1", "b=[2001:db8::2]"], {"a": "2001:db8::1", "b": "2001:db8::2", "db": "192.0.2.1"}),
        ("image", "nginx", "nginx"),
        ("image", "oci-archive:/srv/web.tar", "oci-archive:/srv/web.tar"),
    ],
)
def test_an_accepted_value_has_one_canonical_form(field: str, value: Any, parsed: Any) -> None:
    (zone,) = parse_zones([_zone(**{field: value})])
    assert getattr(zone, field) == parsed


def test_what_yaml_1_1_reads_as_false_is_the_restart_policy_no() -> None:
    (declared,) = yaml.safe_load(f"- {{name: web, image: '{IMAGE}', restart: no}}")
    assert declared["restart"] is False
    assert parse_zones([declared])[0].restart == "no"


def test_the_order_in_which_variables_and_ports_are_declared_means_nothing() -> None:
    one = parse_zones([_zone(environment={"A": "1", "B": "2"}, ports=["1:1", "2:2"])])
    other = parse_zones([_zone(environment=["B=2", "A=1"], ports=["2:2", "1:1/tcp"])])
    assert one == other
    assert list(one[0].environment) == list(other[0].environment)


def test_each_field_of_the_table_is_one_of_the_declaration() -> None:
    assert [field.name for field in dataclasses.fields(Zone)] == list(FIELDS)


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        (["db", "cache"], {"cache": "service_started", "db": "service_started"}),
        ({"db": {"condition": "service_healthy"}}, {"db": "service_healthy"}),
    ],
)
def test_what_a_zone_depends_on_is_declared(value: Any, parsed: dict[str, str]) -> None:
    zones = parse_zones([_zone(depends_on=value), _zone(name="db"), _zone(name="cache")])
    assert zones[0].depends_on == parsed
    assert _problems(_zone(depends_on=["db"]), _zone(name="db", state="absent")) == [
        "zone web: depends_on: 'db' is not accepted; no such zone is declared as present"
    ]


def test_secrets_are_files_of_the_container() -> None:
    declared = ["a", {"source": "b", "target": "/etc/key", "uid": 7, "gid": "8", "mode": "0440"}, {"source": "a", "target": "c"}]
    zones, _volumes = parse_declaration([_zone(secrets=declared)], {}, {"a": "1", "b": "2"})
    assert zones[0].secrets == (
        Secret("/etc/key", "b", 7, 8, "0440"),
        Secret("/run/secrets/a", "a"),
        Secret("/run/secrets/c", "a"),
    )


def test_devices_are_nodes_of_the_zone_s_kernel_with_composes_syntax() -> None:
    declared = ["/dev/net/tun", "/dev/fuse:/dev//filesystems/fuse:wr", "/dev/kmsg:/dev/log"]
    (zone,) = parse_zones([_zone(devices=declared)])
    assert zone.devices == (
        Device("/dev/fuse", "/dev/filesystems/fuse", "rw"),
        Device("/dev/kmsg", "/dev/log", "rwm"),
        Device("/dev/net/tun", "/dev/net/tun", "rwm"),
    )
    assert parse_zones([_zone(devices=[str(device) for device in zone.devices])]) == [zone]


def test_a_secret_that_is_named_is_declared_and_never_shown() -> None:
    with pytest.raises(InvalidDeclaration) as caught:
        parse_declaration([_zone(secrets=["a"])], {}, {"b": ["hidden"], "": "hidden"})
    assert [problem.partition(";")[0] for problem in caught.value.problems] == [
        "secret b: it is not accepted",
        "secret : it is not accepted",
        "zone web: secrets: 'a' is not declared",
    ]
    assert "hidden" not in str(caught.value)


def test_zones_that_wait_for_each_other_are_refused() -> None:
    declared = [_zone(name="a", depends_on=["b"]), _zone(name="b", depends_on=["c"]), _zone(name="c", depends_on=["a"]), _zone()]
    assert _problems(*declared) == ["zone a: depends_on: a, b, c wait for each other; take one dependency out"]


def test_a_zone_that_is_let_in_is_declared() -> None:
    networks = {"ingress": [{"from": "db"}]}
    assert _problems(_zone(networks=networks)) == ["zone web: networks: ingress from db is not accepted; no such zone is declared"]
    parse_zones([_zone(networks=networks), _zone(name="db")])


def _volume_problems(volumes: dict[Any, Any], *zones: dict[str, Any]) -> list[str]:
    with pytest.raises(InvalidDeclaration) as caught:
        parse_declaration(list(zones), volumes, {})
    return caught.value.problems


def test_volumes_have_a_name_and_a_size() -> None:
    declared = {"data": {"size": "1GiB"}, "old": {"state": "absent"}, "logs": {"size": "16MiB", "state": None}}
    _zones, volumes = parse_declaration([_zone(volumes=["data:/srv"])], declared, {})
    assert volumes == [Volume("data", size=1024), Volume("old", "absent"), Volume("logs", size=16)]


SIZE_OF_VOLUME = "accepted: a size with its unit, at least 16MiB, for example 128MiB, 512m or 2GiB"


@pytest.mark.parametrize(
    ("name", "entry", "problem"),
    [
        ("data", None, "volume data: None is not accepted; a volume is a mapping with size, for example {size: 1GiB}"),
        ("data", "1GiB", "volume data: '1GiB' is not accepted; a volume is a mapping with size, for example {size: 1GiB}"),
        ("data", {}, "volume data: size is missing; each volume needs one, for example 1GiB"),
        ("data", {"size": "1MiB"}, f"volume data: size: '1MiB' is not accepted; {SIZE_OF_VOLUME}"),
        ("data", {"size": 1024}, f"volume data: size: 1024 is not accepted; {SIZE_OF_VOLUME}"),
        ("data", {"size": "1GiB", "state": "gone"}, "volume data: state: 'gone' is not accepted; accepted: one of present, absent"),
        ("data", {"size": "1GiB", "siz": 1}, "volume data: unknown field siz; did you mean size?"),
        ("data", {"size": "1GiB", "driver": "local"}, "volume data: unknown field driver; accepted: state, size"),
        ("../data", {"size": "1GiB"}, f"volume ../data: name: '../data' is not accepted; accepted: {NAME}"),
        (7, {"size": "1GiB"}, f"volume 7: name: 7 is not accepted; accepted: {NAME}"),
    ],
)
def test_a_refused_volume_is_told(name: Any, entry: Any, problem: str) -> None:
    assert _volume_problems({name: entry}) == [problem]


def test_a_volume_that_is_mounted_is_declared() -> None:
    assert _volume_problems({}, _zone(volumes=["data:/srv"])) == [
        "zone web: volumes: data is not declared; declare it with its size among the volumes"
    ]


def test_a_volume_that_is_mounted_is_not_deleted() -> None:
    assert _volume_problems({"data": {"state": "absent"}}, _zone(volumes=["data:/srv"])) == [
        "volume data: state: 'absent' is not accepted; zone web uses it"
    ]


def test_a_volume_has_one_user() -> None:
    declared = {"data": {"size": "1GiB"}}
    assert _volume_problems(declared, _zone(volumes=["data:/srv"]), _zone(name="db", volumes=["data:/srv:ro"])) == [
        "zone db: volumes: data is not accepted; zone web has it, and a volume has one user"
    ]
    parse_declaration([_zone(volumes=["data:/srv"]), _zone(name="db", volumes=["data:/srv"], state="absent")], declared, {})


CHANGES = {
    "live": "A change is applied while the zone runs.",
    "resize": "A change is applied while the zone runs, within what it was started with",
    "restart": "A change restarts the zone.",
    "recreate": "A change recreates the zone with a fresh writable layer.",
}


@pytest.mark.parametrize("field", FIELDS)
def test_the_module_documents_each_field_and_what_its_change_costs(field: str) -> None:
    entries = yaml.safe_load(module.DOCUMENTATION)["options"]["zones"]["description"]
    told = [entry for entry in entries if f"C({field})" in entry.partition(":")[0]]
    assert len(told) == 1, f"option zones has to have one line about {field}"
    costs = [change for change, sentence in CHANGES.items() if sentence in told[0]]
    assert costs == ([] if FIELDS[field].change == "identity" else [FIELDS[field].change])


def test_the_module_documents_no_field_that_there_is_not() -> None:
    entries = yaml.safe_load(module.DOCUMENTATION)["options"]["zones"]["description"]
    heads = [entry.partition(":")[0] for entry in entries if entry.startswith("C(")]
    documented = [name.partition(")")[0] for head in heads for name in head.split("C(")[1:]]
    assert documented == list(FIELDS)


def test_ports_of_a_network_are_numbers() -> None:
    """A 0 before one would make it octal for nft."""
    declared = {"egress": [{"to": "10.0.0.0/8", "ports": ["0100", "08-0010/udp"]}]}
    assert parse_zones([_zone(networks=declared)])[0].networks.egress == (Traffic("10.0.0.0/8", ("100/tcp", "8-10/udp")),)


def test_one_place_of_the_container_has_one_thing() -> None:
    fields = {"tmpfs": ["/data"], "volumes": ["data:/data"], "secrets": [{"source": "key", "target": "/data"}]}
    assert _problems(_zone(**fields)) == [
        "zone web: tmpfs: /data is not accepted; it is in volumes too; choose another place",
        "zone web: secrets: /data is not accepted; it is in volumes too; choose another place",
    ]


def test_a_secret_that_has_no_encoding_is_refused_without_being_told() -> None:
    with pytest.raises(InvalidDeclaration, match=r"^secret key: it is not accepted; accepted: a name .* and a text$"):
        parse_declaration([], {}, {"key": "hidden\udcff"})
