"""Images of real services do not notice that Docker is not there. Comes after the tests of ``removal``: zone web runs beside."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from live import GROWN, Live

_VOLUMES = {"data": GROWN, "pgdata": {"size": "192MiB"}, "redis": {"size": "32MiB"}}
_CHECK = {"start_period": "3m", "start_interval": "2s", "interval": "20s"}
_ZONES: dict[str, dict[str, Any]] = {
    "postgres": {
        "memory": "256MiB",
        "environment": {"POSTGRES_PASSWORD": "correct horse"},
        "volumes": ["pgdata:/var/lib/postgresql/data"],
        "healthcheck": _CHECK,
    },
    "legacy": {"memory": "96MiB", "stop_grace_period": "1s"},
    "node": {"memory": "192MiB"},
    "redis": {"volumes": ["redis:/data"], "healthcheck": {"test": ["CMD", "redis-cli", "ping"], **_CHECK}},
    "java": {"memory": "384MiB", "healthcheck": {"test": ["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8082/"], **_CHECK}},
}


def _zone(live: Live, name: str, **changed: Any) -> dict[str, Any]:
    return {"name": name, "image": live.variables["images"][name], "virtualization": "pv", **_ZONES[name], **changed}


@pytest.fixture(scope="module")
def zone(live: Live, request: pytest.FixtureRequest) -> Iterator[str]:
    """One zone at a time: the next replaces it."""
    name: str = request.param
    done = live.converge(_zone(live, name), **_VOLUMES)
    assert not done["failed"], done
    yield name
    removed = live.converge({"name": name, "state": "absent"}, **_VOLUMES)
    assert not removed["failed"], removed


def _program(code: bytes) -> str:
    """A static program of these instructions, as words of a shell: one segment, 64-bit ELF."""
    start, size = 0x400000, 120 + len(code)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, start + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, start, start, size, size, 0x1000)
    return base64.b64encode(header + segment + code).decode()


# time() at its fixed address of before 2011, then exit(time < 2**30); without the address the program ends by SIGSEGV.
_ASKS_FOR_THE_TIME = bytes.fromhex("31ff 48c7c0 000460ff ffd0 48c1e81e 4885c0 0f94c0 0fb6f8 b83c000000 0f05")


@pytest.mark.parametrize("zone", ["postgres"], indirect=True)
def test_postgres_answers_and_keeps_its_data_over_a_new_container(live: Live, zone: str) -> None:
    query = "psql -U postgres -Atc"
    live.in_zone(zone, f"{query} 'create table kept (line text)'; {query} \"insert into kept values ('of before')\"")
    owners = live.in_zone(zone, "id -u; stat -c '%U %a' . /var/lib/postgresql/data; grep ^Uid: /proc/1/status").split()
    assert owners == ["0", "root", "755", "postgres", "700", "Uid:", "999", "999", "999", "999"]
    again = live.converge(_zone(live, zone, environment={"POSTGRES_PASSWORD": "another"}), **_VOLUMES)
    assert (again["failed"], [entry["action"] for entry in again["zones"]]) == (False, ["restart"]), again
    assert live.in_zone(zone, f"{query} 'select line from kept'") == "of before\n"
    # Its stop signal is SIGINT, with which it ends in order.
    assert "database system was interrupted" not in live.run(f"zonectl logs {zone}")


@pytest.mark.parametrize("zone", ["legacy"], indirect=True)
def test_a_userland_of_before_runs_its_scripts_and_daemons(live: Live, zone: str) -> None:
    page, libraries = live.in_zone(zone, "wget -q -O - http://127.0.0.1/; ls / | grep -c ^lib || true").splitlines()
    assert (page, libraries) == ("page of legacy", "0")
    assert "rcS: started on 6.12." in live.in_zone(zone, "cat /var/log/messages")
    # Its df reads /etc/mtab.
    assert "% /\n" in live.in_zone(zone, "cat /tmp/df")
    assert int(live.in_zone(zone, "kill -0 $(cat /var/run/counter.pid) && wc -l </var/log/counter")) >= 1
    program = _program(_ASKS_FOR_THE_TIME)
    assert live.in_zone(zone, f"echo {program} | base64 -d >/tmp/old; chmod +x /tmp/old; /tmp/old; echo $?") == "0\n"
    # The control: a program that does ask an address where nothing is.
    control = _program(_ASKS_FOR_THE_TIME.replace(bytes.fromhex("000460ff"), bytes.fromhex("000470ff")))
    assert live.in_zone(zone, f"echo {control} | base64 -d >/tmp/old; /tmp/old || echo $?").endswith("139\n")


@pytest.mark.parametrize("zone", ["node"], indirect=True)
def test_node_finds_user_groups_directory_and_environment(live: Live, zone: str) -> None:
    said = json.loads(live.in_zone(zone, "wget -q -O - http://127.0.0.1/"))
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert said == {
        "user": [1000, 1000, [29, 1000]],
        "directory": "/srv/app",
        "umask": 0o022,
        "environment": {"HOME": "/home/node", "HOSTNAME": "node", "NODE_ENV": "production", "PATH": path},
    }
    assert live.in_zone(zone, "pwd; sed -n 's/^Max processes *//p' /proc/1/limits").split()[:3] == ["/srv/app", "unlimited", "unlimited"]
    assert "node: standard output opened by name" in live.run(f"zonectl logs {zone}")


@pytest.mark.parametrize("zone", ["redis"], indirect=True)
def test_redis_keeps_what_it_was_told_as_its_user(live: Live, zone: str) -> None:
    said = live.in_zone(zone, "redis-cli set key value; redis-cli save; redis-cli get key; stat -c %U dump.rdb; pwd").split()
    assert said == ["OK", "OK", "value", "redis", "/data"]


@pytest.mark.parametrize("zone", ["java"], indirect=True)
def test_java_serves_for_a_user_that_its_image_does_not_know(live: Live, zone: str) -> None:
    said = live.in_zone(zone, "id -u; id -g; pwd; wget -q -O - http://127.0.0.1:8082/")
    assert said.split()[:3] == ["1001", "0", "/opt/h2"]
    assert "H2 Group" in said
