"""Tests of the library's ``zone.oci_runtime``."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.spec.fields import Device, Healthcheck, Mount
from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Zone
from ansible_collections.ringfence.zones.plugins.module_utils.zone.oci_runtime import (
    Health,
    health,
    kernel_parameters,
    process_arguments,
    resolve_user,
    runtime_config,
)

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
PROFILE: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []}],
    "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}}],
}
IMAGE: dict[str, Any] = {"Entrypoint": ["/entry", "-e"], "Cmd": ["serve", "-c"]}


def _zone(**fields: Any) -> Zone:
    return Zone(name="web", image="web", **fields)


def _config(image: dict[str, Any] | None = None, passwd: str = PASSWD, **fields: Any) -> dict[str, Any]:
    return runtime_config(_zone(**fields), IMAGE if image is None else image, passwd, GROUP, PROFILE)


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
        ("", {"uid": 0, "gid": 0, "additionalGids": [0, 4]}),
        ("root", {"uid": 0, "gid": 0, "additionalGids": [0, 4]}),
        ("0", {"uid": 0, "gid": 0, "additionalGids": [0, 4]}),
        ("app", {"uid": 1000, "gid": 1001, "additionalGids": [1001, 4, 44]}),
        ("1000", {"uid": 1000, "gid": 1001, "additionalGids": [1001, 4, 44]}),  # A number is never a name, as in Docker.
        ("01000", {"uid": 1000, "gid": 1001, "additionalGids": [1001, 4, 44]}),
        ("7", {"uid": 7, "gid": 7, "additionalGids": [7]}),
        ("app:", {"uid": 1000, "gid": 1001, "additionalGids": [1001, 4, 44]}),
        ("app:staff", {"uid": 1000, "gid": 2000, "additionalGids": [2000]}),
        ("app:2000", {"uid": 1000, "gid": 2000, "additionalGids": [2000]}),
        ("app:0", {"uid": 1000, "gid": 0, "additionalGids": [0]}),
        ("app:7777", {"uid": 1000, "gid": 7777, "additionalGids": [7777]}),
        (":staff", {"uid": 0, "gid": 2000, "additionalGids": [2000]}),
        ("daemon", {"uid": 1, "gid": 1, "additionalGids": [1]}),
        ("short", {"uid": 1002, "gid": 1002, "additionalGids": [1002]}),
        ("4242", {"uid": 4242, "gid": 0, "additionalGids": [0]}),
        ("4242:4243", {"uid": 4242, "gid": 4243, "additionalGids": [4243]}),
        ("2147483647", {"uid": 2147483647, "gid": 0, "additionalGids": [0]}),
    ],
)
def test_a_user_is_resolved_as_in_docker(user: str, resolved: dict[str, Any]) -> None:
    assert resolve_user(user, PASSWD, GROUP) == resolved


@pytest.mark.parametrize(
    ("user", "resolved"),
    [
        ("", {"uid": 0, "gid": 0, "additionalGids": [0]}),
        ("0", {"uid": 0, "gid": 0, "additionalGids": [0]}),
        ("7:8", {"uid": 7, "gid": 8, "additionalGids": [8]}),
    ],
)
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
        ("WorkingDir", "/\ud800", "WorkingDir of its configuration is"),
        ("Cmd", ["echo", "\udfff"], "Cmd of its configuration is"),
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
    assert process["user"] == {"uid": 1000, "gid": 1001, "additionalGids": [1001, 4, 44]}
    assert len(process["capabilities"]["bounding"]) == 14
    assert not {"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_MODULE", "CAP_SYS_RAWIO"} & set(process["capabilities"]["bounding"])
    assert {namespace["type"] for namespace in linux["namespaces"]} == {"pid", "ipc", "uts", "mount", "cgroup"}
    assert {"/proc/kcore", "/sys/firmware"} <= set(linux["maskedPaths"])
    assert "/proc/sys" in linux["readonlyPaths"]
    assert (linux["devices"], linux["resources"]["devices"]) == ([], [{"allow": False, "access": "rwm"}])


def test_devices_are_nodes_that_the_container_may_open_as_declared() -> None:
    linux = _config(
        devices=(Device("/dev/fuse", "/dev/fs/fuse", "r"), Device("/dev/kmsg", "/dev/kmsg"), Device("/dev/net/tun", "/dev/tun"))
    )["linux"]
    root = {"uid": 0, "gid": 0}
    assert linux["devices"] == [
        {"path": "/dev/fs/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666, **root},
        {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o644, **root},
        {"path": "/dev/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o666, **root},
    ]
    assert linux["resources"]["devices"] == [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "r"},
        {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "rwm"},
        {"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rwm"},
    ]


def test_no_mount_gives_devices_or_set_user_ids() -> None:
    mounts = {mount["destination"]: mount for mount in _config()["mounts"]}
    assert list(mounts)[:2] == ["/proc", "/dev"]  # What is mounted below /dev comes after it.
    assert all("nosuid" in mount["options"] for mount in mounts.values())
    assert {name for name, mount in mounts.items() if "nodev" not in mount["options"]} == {"/dev", "/dev/pts"}
    assert {name for name, mount in mounts.items() if "ro" in mount["options"]} == {"/sys", "/sys/fs/cgroup"}
    bound = {name: mount["source"] for name, mount in mounts.items() if mount["type"] == "bind"}
    assert bound == {f"/etc/{name}": f"/run/ringfence/etc/{name}" for name in ("hosts", "hostname", "resolv.conf")}


# As moby's oci/defaults.go, daemon/container_operations_unix.go (networkMounts) and daemon/oci_linux.go (WithMounts) have them.
@pytest.mark.parametrize(
    ("destination", "kind", "options"),
    [
        ("/proc", "proc", {"nosuid", "noexec", "nodev"}),
        ("/dev", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}),
        ("/dev/pts", "devpts", {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}),
        ("/dev/shm", "tmpfs", {"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}),
        ("/dev/mqueue", "mqueue", {"nosuid", "noexec", "nodev"}),
        ("/sys", "sysfs", {"nosuid", "noexec", "nodev", "ro"}),
        ("/sys/fs/cgroup", "cgroup", {"nosuid", "noexec", "nodev", "ro"}),
    ],
)
def test_file_systems_of_the_kernel_are_mounted_as_in_docker(destination: str, kind: str, options: set[str]) -> None:
    for read_only in (False, True):
        mounted = _mounted(_config(read_only=read_only), destination)
        assert (mounted["type"], set(mounted["options"]) - {"relatime"}) == (kind, options)


def test_a_read_only_container_cannot_write_to_the_files_of_its_network() -> None:
    for name in ("hosts", "hostname", "resolv.conf"):
        for read_only, access in ((False, "rw"), (True, "ro")):
            options = set(_mounted(_config(read_only=read_only), f"/etc/{name}")["options"])
            assert options & {"ro", "rw"} == {access}


def _mounted(config: dict[str, Any], destination: str) -> dict[str, Any]:
    (found,) = [mount for mount in config["mounts"] if mount["destination"] == destination]
    return {key: value for key, value in found.items() if key != "destination"}


def test_what_is_declared_goes_before_what_the_image_says() -> None:
    image = {**IMAGE, "User": "root", "WorkingDir": "/image"}
    config = _config(image, user="app:staff", working_dir="/srv", hostname="www.example", read_only=True)
    assert config["process"]["user"] == {"uid": 1000, "gid": 2000, "additionalGids": [2000]}
    assert config["process"]["cwd"] == "/srv"
    assert (config["hostname"], _environment(config)["HOSTNAME"]) == ("www.example", "www.example")
    assert config["root"]["readonly"] is True


# As Docker combines them (daemon, "TweakCapabilities").
@pytest.mark.parametrize(
    ("add", "drop", "has", "lacks"),
    [
        (("NET_ADMIN",), (), {"NET_ADMIN", "CHOWN"}, {"SYS_ADMIN"}),
        ((), ("CHOWN",), {"KILL"}, {"CHOWN"}),
        (("CHOWN",), ("ALL",), {"CHOWN"}, {"KILL"}),
        ((), ("ALL",), set(), {"CHOWN", "KILL"}),
        (("ALL",), ("SYS_ADMIN",), {"NET_ADMIN", "CHOWN", "BPF"}, {"SYS_ADMIN"}),
    ],
)
def test_capabilities_are_combined_as_in_docker(add: tuple[str, ...], drop: tuple[str, ...], has: set[str], lacks: set[str]) -> None:
    sets = _config(cap_add=add, cap_drop=drop)["process"]["capabilities"]
    assert sets["bounding"] == sets["effective"] == sets["permitted"]
    assert _config(cap_add=add, cap_drop=drop, user="app")["process"]["capabilities"] == {"bounding": sets["bounding"]}
    names = {name.removeprefix("CAP_") for name in sets["bounding"]}
    assert has <= names
    assert not lacks & names


def test_limits_are_those_of_the_runtime_specification() -> None:
    limits = _config(ulimits={"core": (0, -1), "nofile": (10, 20)})["process"]["rlimits"]
    assert limits == [
        {"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20},
        {"type": "RLIMIT_NPROC", "soft": 2**64 - 1, "hard": 2**64 - 1},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 2**64 - 1},
    ]


def test_memory_is_mounted_with_the_options_of_docker_unless_others_are_declared() -> None:
    config = _config(tmpfs=("/run", "/tmp:exec,size=64m"))
    assert _mounted(config, "/run")["options"] == ["nosuid", "noexec", "nodev"]
    assert _mounted(config, "/tmp")["options"] == ["nosuid", "nodev", "exec", "size=64m"]


def test_volumes_are_mounted_parents_first() -> None:
    image = {**IMAGE, "Volumes": {"/srv/cache": {}, "/data": {}}}
    mounts = (Mount("/data", "data"), Mount("/srv", "www", read_only=True))
    config = _config(image, volumes=mounts, tmpfs=("/srv/run",))
    assert [mount["destination"] for mount in config["mounts"]][-4:] == ["/data", "/srv", "/srv/cache", "/srv/run"]
    assert _mounted(config, "/srv") == {"type": "bind", "source": "/run/ringfence/data/www", "options": ["rbind", "ro"]}
    assert _mounted(config, "/srv/cache")["source"] == "/run/ringfence/data/_image-1"


@pytest.mark.parametrize("named", [["/srv"], {"srv": {}}, {"/a\nxvdd rw x /b": {}}])
def test_volumes_of_an_image_are_absolute_paths(named: Any) -> None:
    with pytest.raises(RingfenceError, match="image: Volumes of its configuration is "):
        _config({**IMAGE, "Volumes": named})


def test_the_container_s_own_parameters_are_in_its_configuration_and_the_zone_s_are_not() -> None:
    zone = _zone(sysctls={"kernel.shmmax": "1", "vm.swappiness": "0", "fs.mqueue.msg_max": "5"})
    assert runtime_config(zone, IMAGE, PASSWD, GROUP, PROFILE)["linux"]["sysctl"] == {"kernel.shmmax": "1", "fs.mqueue.msg_max": "5"}
    network = {"net/ipv4/ip_unprivileged_port_start": "0", "net/ipv4/ping_group_range": "0 2147483647"}
    assert kernel_parameters(zone) == {**network, "vm/swappiness": "0"}
    declared = _zone(sysctls={"net.ipv4.ip_unprivileged_port_start": "1024"})
    assert kernel_parameters(declared) == {**network, "net/ipv4/ip_unprivileged_port_start": "1024"}


CHECKED = {**IMAGE, "Healthcheck": {"Test": ["CMD", "/check"], "Interval": 10 * 10**9, "Timeout": 5 * 10**8, "Retries": 0}}


@pytest.mark.parametrize(
    ("declared", "image", "expected"),
    [
        (None, IMAGE, None),
        (None, CHECKED, Health(("/check",), 10, 1, 3, 0, 5)),
        (Healthcheck(interval=60, start_period=90), CHECKED, Health(("/check",), 60, 1, 3, 90, 5)),
        (Healthcheck(test=("/own",), retries=1), CHECKED, Health(("/own",), 10, 1, 1, 0, 5)),
        (Healthcheck(test=()), CHECKED, None),
        (Healthcheck(test=("/own",)), IMAGE, Health(("/own",), 30, 30, 3, 0, 5)),
        (None, {**IMAGE, "Healthcheck": {"Test": ["NONE"]}}, None),
        (None, {**IMAGE, "Healthcheck": {"Test": ["CMD", "/c"], "StartPeriod": 10**400}}, Health(("/c",), 30, 30, 3, 3600, 5)),
        (None, {**IMAGE, "Healthcheck": {"Test": ["CMD-SHELL", "true"]}}, Health(("/bin/sh", "-c", "true"), 30, 30, 3, 0, 5)),
    ],
)
def test_a_health_check_is_the_declared_one_over_the_image_s(
    declared: Healthcheck | None, image: dict[str, Any], expected: Health | None
) -> None:
    assert health(_zone(healthcheck=declared), image) == expected


@pytest.mark.parametrize("described", ["true", {"Test": ["true"]}, {"Test": 1}])
def test_a_health_check_of_an_image_is_as_specified(described: Any) -> None:
    with pytest.raises(RingfenceError, match="image: Healthcheck of its configuration is "):
        health(_zone(), {**IMAGE, "Healthcheck": described})


@pytest.mark.parametrize(("added", "calls"), [((), []), (("SYS_ADMIN",), ["mount"]), (("ALL",), ["mount"])])
def test_system_calls_are_filtered_by_the_capabilities_that_the_container_has(added: tuple[str, ...], calls: list[str]) -> None:
    rules = _config(cap_add=added)["linux"]["seccomp"]
    assert rules["defaultAction"] == "SCMP_ACT_ERRNO"
    assert [name for rule in rules["syscalls"] for name in rule["names"]] == calls
