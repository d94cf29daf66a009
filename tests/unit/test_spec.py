"""Tests of the module_utils ``spec``."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import yaml

from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration
from ansible_collections.ringfence.zones.plugins.module_utils.spec import FIELDS, Port, Zone, parse_zones
from ansible_collections.ringfence.zones.plugins.modules import zones as module

IMAGE = f"registry.example/web@sha256:{'1' * 64}"
NAME = "1 to 40 characters a-z, 0-9 and '-', the first and the last no '-'"
REFERENCE = "accepted: [docker://][HOST[:PORT]/]NAME[:TAG][@sha256:DIGEST]"
SIZE = "a size with its unit, at least 64MiB"
CPUS = "a whole number of virtual CPUs from 1 to 64"
WORDS = "a list of strings, for example ['nginx', '-g', 'daemon off;']; quote numbers and booleans"
VARIABLES = "a mapping of names to strings or numbers (or a list of NAME=value); quote booleans"
PORTS = "a list of 'HOST:ZONE' or 'HOST:ZONE/udp' with ports from 1 to 65535"
RESTART = "one of no, on-failure, on-failure:COUNT, always, unless-stopped"
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
    ("memory", "63MiB", "'63MiB'", SIZE),
    ("memory", "-128MiB", "'-128MiB'", SIZE),
    ("memory", "1.5GiB", "'1.5GiB'", SIZE),
    ("memory", "1TiB", "'1TiB'", SIZE),
    ("memory", "9" * 5000 + "MiB", "'9999", SIZE),
    ("cpus", 0, "0", CPUS),
    ("cpus", 65, "65", CPUS),
    ("cpus", 0.5, "0.5", CPUS),
    ("cpus", True, "True", CPUS),
    ("cpus", "two", "'two'", CPUS),
    ("cpus", "9" * 5000, "'9999", CPUS),
    ("entrypoint", "/bin/sh -c", "'/bin/sh -c'", WORDS),
    ("entrypoint", [7], "[7]", WORDS),
    ("command", "nginx", "'nginx'", WORDS),
    ("command", ["sleep", 10], "['sleep', 10]", WORDS),
    ("command", ["yes", True], "['yes', True]", WORDS),
    ("command", ["a\0b"], r"['a\x00b']", WORDS),
    ("command", {"nginx": None}, "{'nginx': None}", WORDS),
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
    ("ports", ["127.0.0.1:8080:80"], "['127.0.0.1:8080:80']", PORTS),
    ("ports", ["8000-8010:80"], "['8000-8010:80']", PORTS),
    ("ports", ["\u0661:80"], "['\u0661:80']", PORTS),
    ("ports", [{"published": 8080, "target": 80}], "[{'published': 8080, 'target': 80}]", PORTS),
    ("restart", "never", "'never'", RESTART),
    ("restart", True, "True", RESTART),
    ("restart", "on-failure:", "'on-failure:'", RESTART),
    ("restart", "on-failure:-1", "'on-failure:-1'", RESTART),
    ("restart", "on-failure:" + "9" * 10, "'on-failure:9999999999'", RESTART),
    ("restart", ["always"], "['always']", RESTART),
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
    assert len(problems[0]) < 400


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
        ("sysctls", f"accepted: {', '.join(FIELDS)}"),
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
        ("memory", "64MiB", 64),
        ("memory", "65536KiB", 64),
        ("memory", "128m", 128),
        ("memory", "128mb", 128),
        ("memory", "128 MiB ", 128),
        ("memory", "2GiB", 2048),
        ("memory", "2g", 2048),
        ("cpus", 64, 64),
        ("cpus", "2", 2),
        ("entrypoint", [], ()),
        ("command", ["sh", "-c", "echo 'a b'\n"], ("sh", "-c", "echo 'a b'\n")),
        ("environment", {"B": 1, "A": "x=y", "C": 1.5, "D": ""}, {"A": "x=y", "B": "1", "C": "1.5", "D": ""}),
        ("environment", ["B=1", "A=x=y"], {"A": "x=y", "B": "1"}),
        ("ports", ["8080:80"], (Port(8080, 80, "tcp"),)),
        ("ports", ["9:9/udp", "8:8/tcp", "8:8"], (Port(8, 8, "tcp"), Port(9, 9, "udp"))),
        ("ports", [], ()),
        ("restart", "on-failure", "on-failure"),
        ("restart", "on-failure:3", "on-failure:3"),
        ("restart", "unless-stopped", "unless-stopped"),
        ("state", "present", "present"),
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


CHANGES = {
    "live": "A change is applied while the zone runs.",
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
