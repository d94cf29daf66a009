"""Tests of the module_utils ``oci_runtime``."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.oci_runtime import process_arguments, resolve_user, runtime_config
from ansible_collections.ringfence.zones.plugins.module_utils.spec import Zone

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
app:x:1000:1001:An app:/home/app:/bin/sh
short:x:1002:1002
1000:x:7:7::/:
"""
GROUP = """\
root:x:0:
adm:x:4:root,app
tty:x:5:
video:x:44:app
app:x:1001:app
staff:x:2000:other
"""
IMAGE: dict[str, Any] = {"Entrypoint": ["/entry", "-e"], "Cmd": ["serve", "-c"]}


def _zone(**fields: Any) -> Zone:
    return Zone(name="web", image="web", **fields)


def _config(image: dict[str, Any] | None = None, passwd: str = PASSWD, **fields: Any) -> dict[str, Any]:
    return runtime_config(_zone(**fields), IMAGE if image is None else image, passwd, GROUP)


def _environment(config: dict[str, Any]) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in config["process"]["env"])


# As Docker's reference has it, "Understand how CMD and ENTRYPOINT interact", and Compose's "entrypoint".
@pytest.mark.parametrize(
    ("declared", "image", "arguments"),
    [
        ({}, IMAGE, ["/entry", "-e", "serve", "-c"]),
        ({"command": ("other",)}, IMAGE, ["/entry", "-e", "other"]),
        ({"command": ()}, IMAGE, ["/entry", "-e"]),
        ({"entrypoint": ("/own",)}, IMAGE, ["/own"]),
        ({"entrypoint": ("/own",), "command": ("other",)}, IMAGE, ["/own", "other"]),
        ({"entrypoint": (), "command": ("other",)}, IMAGE, ["other"]),
        ({}, {"Cmd": ["serve"]}, ["serve"]),
        ({}, {"Entrypoint": ["/entry"], "Cmd": None}, ["/entry"]),
        ({"command": ("other",)}, {}, ["other"]),
        ({}, {}, []),
        ({"entrypoint": ()}, IMAGE, []),
    ],
)
def test_entrypoint_and_command_go_together_as_in_docker(declared: dict[str, Any], image: dict[str, Any], arguments: list[str]) -> None:
    assert process_arguments(_zone(**declared), image) == arguments


@pytest.mark.parametrize(("image", "declared"), [({}, {}), (IMAGE, {"entrypoint": ()}), ({"Entrypoint": [], "Cmd": None}, {})])
def test_without_a_command_there_is_nothing_to_run(image: dict[str, Any], declared: dict[str, Any]) -> None:
    with pytest.raises(RingfenceError, match="command: the image names no command to run; declare command or entrypoint"):
        _config(image, **declared)


@pytest.mark.parametrize(
    ("user", "resolved"),
    [
        ("", {"uid": 0, "gid": 0, "additionalGids": [4]}),
        ("root", {"uid": 0, "gid": 0, "additionalGids": [4]}),
        ("0", {"uid": 0, "gid": 0, "additionalGids": [4]}),
        ("app", {"uid": 1000, "gid": 1001, "additionalGids": [4, 44]}),
        ("1000", {"uid": 1000, "gid": 1001, "additionalGids": [4, 44]}),  # The first match of name or number, as in Docker.
        ("app:", {"uid": 1000, "gid": 1001, "additionalGids": [4, 44]}),
        ("app:staff", {"uid": 1000, "gid": 2000}),
        ("app:2000", {"uid": 1000, "gid": 2000}),
        ("app:0", {"uid": 1000, "gid": 0}),
        ("app:7777", {"uid": 1000, "gid": 7777}),
        (":staff", {"uid": 0, "gid": 2000}),
        ("daemon", {"uid": 1, "gid": 1}),
        ("short", {"uid": 1002, "gid": 1002}),
        ("4242", {"uid": 4242, "gid": 0}),
        ("4242:4243", {"uid": 4242, "gid": 4243}),
        ("2147483647", {"uid": 2147483647, "gid": 0}),
    ],
)
def test_a_user_is_resolved_as_in_docker(user: str, resolved: dict[str, Any]) -> None:
    assert resolve_user(user, PASSWD, GROUP) == resolved


@pytest.mark.parametrize(("user", "resolved"), [("", {"uid": 0, "gid": 0}), ("0", {"uid": 0, "gid": 0}), ("7:8", {"uid": 7, "gid": 8})])
def test_numbers_need_no_accounts_in_the_image(user: str, resolved: dict[str, Any]) -> None:
    assert resolve_user(user, "", "") == resolved


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("nobody", "user 'nobody' is not in the image's /etc/passwd; name one that is, or a numeric id up to 2147483647"),
        ("2147483648", "user '2147483648' is not"),
        ("-1", "user '-1' is not"),
        ("\u0661", "user '\u0661' is not"),
        ("9" * 5000, "user '999"),
        ("app:nogroup", "group 'nogroup' is not in the image's /etc/group; name one that is, or a numeric id up to 2147483647"),
        ("app:2147483648", "group '2147483648' is not"),
    ],
)
def test_who_is_not_in_the_image_is_told(user: str, message: str) -> None:
    with pytest.raises(RingfenceError, match=message):
        resolve_user(user, PASSWD, GROUP)


@pytest.mark.parametrize(
    "line", ["app:x:one:1:::", "app:x::1:::", "app:x:-5:1:::", "app:x:4294967296:1:::", "app:x:1:g:::", "app:x:1", "app", ":::", "\0:\0:\0"]
)
def test_a_line_of_accounts_that_is_not_usable_is_passed_over(line: str) -> None:
    assert resolve_user("app", f"{line}\n{PASSWD}", f"{line}\n{GROUP}")["uid"] == 1000
    with pytest.raises(RingfenceError, match="user 'app' is not in the image"):
        resolve_user("app", line, "")
    with pytest.raises(RingfenceError, match="group 'app' is not in the image"):
        resolve_user("0:app", "", line.replace("app:x:1:g:::", "app:x:g:").replace("app:x:one:1:::", "app:x:one:"))


def test_variables_are_dockers_then_the_images_then_the_declared() -> None:
    image = {**IMAGE, "Env": ["PATH=/image", "A=image", "B=image=2", "no-value", "C="]}
    assert _environment(_config(image, environment={"A": "declared", "D": "x\ny"})) == {
        "PATH": "/image",
        "HOSTNAME": "web",
        "A": "declared",
        "B": "image=2",
        "C": "",
        "D": "x\ny",
        "HOME": "/root",
    }


def test_without_variables_there_are_dockers() -> None:
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert _environment(_config()) == {"PATH": path, "HOSTNAME": "web", "HOME": "/root"}


@pytest.mark.parametrize(
    ("user", "passwd", "home"),
    [
        ("", PASSWD, "/root"),
        ("", "", "/"),
        ("app", PASSWD, "/home/app"),
        ("1000:0", PASSWD, "/home/app"),
        ("short", PASSWD, "/"),
        ("4242", PASSWD, "/"),
    ],
)
def test_home_is_the_users(user: str, passwd: str, home: str) -> None:
    assert _environment(_config({**IMAGE, "User": user}, passwd))["HOME"] == home


def test_a_home_of_the_image_or_the_declaration_is_kept() -> None:
    assert _environment(_config({**IMAGE, "Env": ["HOME=/srv"]}))["HOME"] == "/srv"
    assert _environment(_config(environment={"HOME": "/srv"}))["HOME"] == "/srv"


@pytest.mark.parametrize(("directory", "expected"), [(None, "/"), ("", "/"), ("/srv", "/srv"), ("srv", "/srv")])
def test_the_working_directory_is_absolute(directory: str | None, expected: str) -> None:
    assert _config({**IMAGE, "WorkingDir": directory})["process"]["cwd"] == expected


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("Cmd", "serve", "Cmd of its configuration is 'serve'; it has to be a list of strings"),
        ("Cmd", [1], "Cmd of its configuration is"),
        ("Cmd", ["\0"], "Cmd of its configuration is"),
        ("Entrypoint", {"a": "b"}, "Entrypoint of its configuration is"),
        ("Env", ["A=1", None], "Env of its configuration is"),
        ("Env", 5, "Env of its configuration is '5'"),
        ("User", 1000, "User of its configuration is '1000'; it has to be a string"),
        ("WorkingDir", ["/"], "WorkingDir of its configuration is"),
    ],
)
def test_an_image_whose_configuration_is_not_as_specified_is_refused(key: str, value: Any, message: str) -> None:
    with pytest.raises(RingfenceError, match=f"^image: {message}"):
        _config({**IMAGE, key: value})


def test_a_long_value_of_an_image_is_told_in_part() -> None:
    with pytest.raises(RingfenceError) as caught:
        _config({**IMAGE, "Cmd": "x" * 100_000})
    assert len(str(caught.value)) < 200


def test_the_container_has_what_docker_gives_and_no_network_of_its_own() -> None:
    config = _config({**IMAGE, "User": "app"})
    process, linux = config["process"], config["linux"]
    assert config["hostname"] == "web"
    assert config["root"] == {"path": "/run/ringfence/root", "readonly": False}
    assert process["args"] == ["/entry", "-e", "serve", "-c"]
    assert process["user"] == {"uid": 1000, "gid": 1001, "additionalGids": [4, 44]}
    assert set(process["capabilities"]) == {"bounding", "effective", "permitted"}
    assert len(process["capabilities"]["bounding"]) == 14
    assert not {"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_MODULE", "CAP_SYS_RAWIO"} & set(process["capabilities"]["bounding"])
    assert {namespace["type"] for namespace in linux["namespaces"]} == {"pid", "ipc", "uts", "mount", "cgroup"}
    assert {"/proc/kcore", "/sys/firmware"} <= set(linux["maskedPaths"])
    assert "/proc/sys" in linux["readonlyPaths"]
    assert linux["resources"]["devices"][0] == {"allow": False, "access": "rwm"}


def test_no_mount_gives_devices_or_set_user_ids() -> None:
    mounts = {mount["destination"]: mount for mount in _config()["mounts"]}
    assert list(mounts)[:2] == ["/proc", "/dev"]  # What is mounted below /dev comes after it.
    assert all("nosuid" in mount["options"] for mount in mounts.values())
    assert {name for name, mount in mounts.items() if "nodev" not in mount["options"]} == {"/dev", "/dev/pts"}
    assert {name for name, mount in mounts.items() if "ro" in mount["options"]} == {"/sys", "/sys/fs/cgroup"}
    bound = {name: mount["source"] for name, mount in mounts.items() if mount["type"] == "bind"}
    assert bound == {f"/etc/{name}": f"/run/ringfence/etc/{name}" for name in ("hosts", "hostname", "resolv.conf")}
