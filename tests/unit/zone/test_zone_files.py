"""Tests of the library's ``zone.files`` on a made-up host. The initrd is read by the cpio program."""

from __future__ import annotations

import dataclasses
import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import made_up_host
import pytest
from made_up_host import Host, digest

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.image import images
from ansible_collections.ringfence.zones.plugins.module_utils.kernel import kernels
from ansible_collections.ringfence.zones.plugins.module_utils.spec.fields import Device, Healthcheck, Mount, Port, Secret
from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Zone
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.zone import files as zone_files
from ansible_collections.ringfence.zones.plugins.module_utils.zone import make, runtime
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import Definition, metadata, parse_metadata
from ansible_collections.ringfence.zones.plugins.module_utils.zone.files import Record
from ansible_collections.ringfence.zones.plugins.module_utils.zone.oci_runtime import runtime_config

ZONE = Zone(name="web", image="web", environment={"A": "it's"})
LAYER = 1024 * 1024 * 1024


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host with the image 1."""
    made = made_up_host.make(tmp_path / "store", monkeypatch)
    made_up_host.add_image(made.store, digest("1"), {"Cmd": ["serve"], "StopSignal": "SIGQUIT; reboot"})
    return made


SECRETS = {"password": "hunter2"}


def _definition(zone: Zone = ZONE) -> Definition:
    return Definition(zone, digest("1"), digest("a"), "pvh", digest("e"), 300)


def _write(host: Host, zone: Zone = ZONE) -> Path:
    kernel = kernels.deployed(host.store)["stable"]
    make.write(host.store, _definition(zone), kernel, images.load(host.store, digest("1")), runtime.current(host.store), SECRETS)
    make.make_writable(host.store, _definition(zone), fresh=False)
    return host.store.zones / zone.name


def _initrd(own: Path) -> bytes:
    (initrd,) = own.glob("initrd-*")
    return initrd.read_bytes()


def _unpacked(initrd: bytes, into: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of the files of an initrd's archives, one after the other as Linux reads them."""
    into.mkdir()
    while initrd:
        end = initrd.index(b"TRAILER!!!\0") + 14
        archive, initrd = initrd[:end], initrd[end:]
        command = ["cpio", "--extract", "--make-directories", "--preserve-modification-time", "--unconditional", "--quiet"]
        subprocess.run([*command, "--nonmatching", "dev/*"], input=archive, cwd=into, check=True)
    files = [path for path in into.rglob("*") if path.is_file()]
    return {str(path.relative_to(into)): (path.stat().st_mode & 0o777, path.read_bytes()) for path in files}


def test_the_initrd_has_what_the_zone_boots_from_and_its_configuration(host: Host, tmp_path: Path) -> None:
    files = _unpacked(_initrd(_write(host)), tmp_path / "unpacked")
    assert {path: mode for path, (mode, _content) in files.items()} == {
        "init": 0o755,
        "bin/busybox": 0o755,
        "bin/sh": 0o755,
        "modules": 0o644,
        "etc/modprobe.conf": 0o644,
        "lib/modules/6.12-stable/modules.dep": 0o644,
        "lib/modules/6.12-stable/xen-netfront.ko": 0o644,
        "zone/settings": 0o600,
        "zone/config.json": 0o600,
        "zone/fstab": 0o600,
        "zone/health": 0o600,
        "zone/record/crashes": 0o600,
        "zone/record/exit": 0o600,
        "zone/record/health": 0o600,
        "zone/record/oom": 0o600,
        "zone/record/restarts": 0o600,
        "zone/record/state": 0o600,
        "zone/modules/gntdev.ko": 0o600,
        "zone/modules/order": 0o600,
        "zone/sysctls": 0o600,
        "zone/volumes": 0o600,
        "zone/etc/hostname": 0o644,
        "zone/etc/hosts": 0o644,
        "zone/etc/resolv.conf": 0o644,
    }
    assert files["init"][1] == b"#!boot e"
    assert files["bin/sh"] == files["bin/busybox"]
    assert files["modules"][1] == b"xen-netfront\n"
    assert files["etc/modprobe.conf"][1] == b"options xen-netfront max_queues=1\n"
    # What only the channel needs is loaded when the container runs.
    assert files["zone/modules/order"][1] == b"gntdev.ko\n"
    assert b"/dev/xvdb /image erofs ro 0 0\n" in files["zone/fstab"][1]
    config = runtime_config(ZONE, {"Cmd": ["serve"]}, "", "", made_up_host.PROFILE)
    # In base64: "program".
    assert json.loads(files["zone/config.json"][1]) == {**config, "annotations": {"run.oci.seccomp_bpf_data": "cHJvZ3JhbQ=="}}
    assert files["zone/etc/hostname"][1] == b"web\n"
    assert files["zone/etc/hosts"][1] == b"127.0.0.1\tlocalhost\n::1\tlocalhost\n198.18.1.44\tweb\n"
    assert {"base", "zone", "zone/root", "zone/data", "zone/disks"} <= {
        str(path.relative_to(tmp_path / "unpacked")) for path in (tmp_path / "unpacked").rglob("*") if path.is_dir()
    }
    assert (tmp_path / "unpacked" / "zone" / "output").is_fifo()


def test_volumes_are_disks_in_the_order_in_which_the_zone_mounts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = made_up_host.make(tmp_path / "store", monkeypatch)
    config = {"Cmd": ["serve"], "Volumes": {"/var/cache/web/": {}, "/srv": {}, "/run/web": {}}}
    made_up_host.add_image(host.store, digest("1"), config)
    mounts = (Mount("/srv", "data"), Mount("/srv/logs", "logs", read_only=True))
    zone = dataclasses.replace(ZONE, volumes=mounts, tmpfs=("/run/web:size=1m",))
    files = _unpacked(_initrd(_write(host, zone)), tmp_path / "unpacked")
    assert files["zone/volumes"][1] == b"xvdd rw data /srv\nxvde ro logs /srv/logs\n- rw _image-2 /var/cache/web\n"
    disks = zone_files.files(host.store, _definition(zone), Path("k"), Path("i"), Path("b")).disks
    assert disks[3:] == ((host.store.volumes / "data.img", True), (host.store.volumes / "logs.img", False))


def test_the_drivers_of_declared_devices_are_loaded_before_the_container_begins(host: Host, tmp_path: Path) -> None:
    """With what the kernel has built in, or every kernel has, there is nothing to load."""
    nodes = ("/dev/fuse", "/dev/kmsg", "/dev/net/tun")
    zone = dataclasses.replace(ZONE, devices=tuple(Device(node, node) for node in nodes))
    files = _unpacked(_initrd(_write(host, zone)), tmp_path / "unpacked")
    assert files["modules"][1] == b"xen-netfront tun\n"
    assert files["lib/modules/6.12-stable/tun.ko"][1] == b"tun"
    assert files["zone/modules/order"][1] == b"gntdev.ko\n"
    assert [node["path"] for node in json.loads(files["zone/config.json"][1])["linux"]["devices"]] == list(nodes)


def test_a_secret_is_a_file_of_its_owner_and_nowhere_else(host: Host) -> None:
    secret = Secret("/run/secrets/db", "password", uid=999, gid=998, mode="0440")
    initrd = _initrd(_write(host, dataclasses.replace(ZONE, secrets=(secret,))))
    assert initrd.count(b"hunter2") == 1
    own = initrd[initrd.index(b"TRAILER!!!") + 14 :].lstrip(b"\0")
    listed = subprocess.run(["cpio", "-tvn", "--quiet"], input=own, stdout=subprocess.PIPE, check=True).stdout.decode()
    (line,) = [line.split() for line in listed.splitlines() if line.endswith("zone/secrets/0")]
    assert (line[0], line[2], line[3]) == ("-r--r-----", "999", "998")


def test_a_fingerprint_tells_contents_apart_on_one_host(host: Host, tmp_path: Path) -> None:
    assert zone_files.fingerprint(host.store, "a", check=True)
    assert not (host.store.root / "secrets.key").exists()
    first = zone_files.fingerprint(host.store, "a", check=False)
    assert zone_files.fingerprint(host.store, "a", check=True) == first
    assert zone_files.fingerprint(host.store, "b", check=False) != first
    assert zone_files.fingerprint(Store(tmp_path / "other"), "a", check=False) != first


def test_a_health_check_is_one_command_and_its_times(host: Host, tmp_path: Path) -> None:
    checked = dataclasses.replace(ZONE, healthcheck=Healthcheck(test=("/bin/sh", "-c", "curl -f 'http://[::1]/'"), interval=7))
    files = _unpacked(_initrd(_write(host, checked)), tmp_path / "unpacked")
    command = [
        "exec",
        "crun",
        "exec",
        "--pid-file",
        "/run/ringfence/health.pid",
        "--cwd",
        "/",
        "app",
        "/bin/sh",
        "-c",
        "curl -f 'http://[::1]/'",
    ]
    assert shlex.split(files["zone/health"][1].decode()) == command
    settings = dict(word.split("=", 1) for word in shlex.split(files["zone/settings"][1].decode()))
    assert {key: value for key, value in settings.items() if key.startswith("HEALTH_")} == {
        "HEALTH_INTERVAL": "7",
        "HEALTH_TIMEOUT": "30",
        "HEALTH_RETRIES": "3",
        "HEALTH_START_PERIOD": "0",
        "HEALTH_START_INTERVAL": "5",
    }


def test_names_addresses_and_parameters_are_those_of_the_declaration(host: Host, tmp_path: Path) -> None:
    declared = {
        "hostname": "www.example",
        "dns": ("192.0.2.53", "2001:db8::53"),
        "extra_hosts": {"db": "192.0.2.1"},
        "sysctls": {"kernel.shmmax": "1", "net.core.somaxconn": "1024", "net.ipv4.tcp_rmem": "1 2 3"},
        "stop_signal": "INT",
        "stop_grace_period": 90,
    }
    written = _write(host, dataclasses.replace(ZONE, **declared))  # type: ignore[arg-type]
    files = {path: content.decode("latin-1") for path, (_mode, content) in _unpacked(_initrd(written), tmp_path / "u").items()}
    assert files["zone/etc/hostname"] == "www.example\n"
    assert files["zone/etc/hosts"].splitlines()[2:] == ["198.18.1.44\twww.example", "192.0.2.1\tdb"]
    assert files["zone/etc/resolv.conf"] == "nameserver 192.0.2.53\nnameserver 2001:db8::53\n"
    # What belongs to a namespace of the container is in its configuration.
    assert files["zone/sysctls"].splitlines()[-2:] == ["net/core/somaxconn 1024", "net/ipv4/tcp_rmem 1 2 3"]
    assert json.loads(files["zone/config.json"])["linux"]["sysctl"] == {"kernel.shmmax": "1"}
    assert {"STOP_SIGNAL=INT", "STOP_GRACE=90"} <= set(files["zone/settings"].splitlines())


@pytest.mark.parametrize(
    ("restart", "name", "limit"), [("no", "no", "0"), ("on-failure", "on-failure", "0"), ("on-failure:3", "on-failure", "3")]
)
def test_the_settings_are_words_of_a_shell(host: Host, tmp_path: Path, restart: str, name: str, limit: str) -> None:
    written = _write(host, dataclasses.replace(ZONE, restart=restart))
    _mode, settings = _unpacked(_initrd(written), tmp_path / "unpacked")["zone/settings"]
    assert dict(word.split("=", 1) for word in shlex.split(settings.decode())) == {
        "BASE_FILESYSTEM": "erofs",
        "ADDRESS": "198.18.1.44",
        "GATEWAY": "169.254.1.1",
        "ADDRESS6": "fd72:696e:6766::300",
        "GATEWAY6": "fe80::1",
        "RESTART": name,
        "RESTART_LIMIT": limit,
        "STOP_SIGNAL": "SIGQUIT; reboot",
        "STOP_GRACE": "10",
        "RECORD_BLOCK": "262144",
        "WORKING_DIR": "/",
    }
    script = tmp_path / "settings"
    script.write_bytes(settings)
    ran = subprocess.run(["sh", "-c", f'. {script}; printf %s "$STOP_SIGNAL"'], stdout=subprocess.PIPE, check=True)
    assert ran.stdout == b"SIGQUIT; reboot"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"Cmd": ["serve"], "StopSignal": 15}, "image: StopSignal of its configuration is '15'; it has to be a string"),
        (["serve"], r"image: config of its configuration is \"\['serve'\]\"; it has to be an object"),
        ({}, "command: the image names no command to run"),
    ],
)
def test_an_image_that_makes_no_zone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Any, message: str) -> None:
    host = made_up_host.make(tmp_path / "store", monkeypatch)
    made_up_host.add_image(host.store, digest("1"), config)
    with pytest.raises(RingfenceError, match=f"^{message}"):
        _write(host)


def test_only_the_host_reads_the_files_of_a_zone(host: Host) -> None:
    own = _write(host)
    assert {path.name.partition("-")[0]: path.stat().st_mode & 0o777 for path in (own, *own.iterdir())} == {
        "web": 0o700,
        "initrd": 0o600,
        "writable": 0o600,
    }


def test_the_writable_layer_is_sparse_and_has_a_block_for_the_record(host: Host) -> None:
    layer = made_up_host.only(host.store, _write(host).name, "writable").stat()
    assert layer.st_size == LAYER + 4096
    assert layer.st_blocks * 512 < 1024 * 1024
    assert host.commands == ["mkfs.ext4"]


def test_writing_again_keeps_what_the_zone_wrote(host: Host) -> None:
    written = made_up_host.only(host.store, _write(host).name, "writable")
    made_up_host.write_record(host.store, "web", b"own")
    before = written.stat().st_ino
    host.commands.clear()
    _write(host)
    assert written.stat().st_ino == before
    assert host.commands == []
    make.make_writable(host.store, _definition(), fresh=True)
    assert written.stat().st_ino != before
    assert zone_files.read_record(host.store, _definition()) is None


def test_a_zone_is_whole_with_all_of_its_files_only(host: Host) -> None:
    assert zone_files.look(host.store, _definition()) == zone_files.Found(False)
    _write(host)
    assert zone_files.look(host.store, _definition()) == zone_files.Found(True)
    for kind in ("initrd", "writable"):
        made_up_host.only(host.store, "web", kind).unlink()
        assert zone_files.look(host.store, _definition()) == zone_files.Found(False)
        _write(host)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"ports": (Port(80, 80),)}, True),
        ({"labels": {"a": "b"}}, True),
        ({"memory": 256}, True),
        ({"cpus": 2}, True),
        ({"cpu_shares": 2}, True),
        ({"environment": {}}, False),
        ({"healthcheck": Healthcheck(test=("true",))}, False),
    ],
)
def test_each_definition_that_a_restart_is_for_has_an_initrd_of_its_own(host: Host, changes: dict[str, Any], same: bool) -> None:
    changed = _definition(dataclasses.replace(ZONE, **changes))
    path = zone_files.initrd(host.store, changed)
    assert (path == zone_files.initrd(host.store, _definition())) is same
    assert path == zone_files.initrd(host.store, parse_metadata(metadata(changed)))


def test_what_a_definition_does_not_use_is_deleted(host: Host) -> None:
    own = _write(host)
    used = set(own.iterdir())
    _write(host, dataclasses.replace(ZONE, user="1"))
    (own / "refused.json").touch()
    (own / "writable-0.img").touch()
    zone_files.note_shares(host.store, "web", 512)
    assert zone_files.look(host.store, _definition()).shares == (512,)
    zone_files.note_stop(host.store, "web", 7)
    assert zone_files.look(host.store, _definition()).stopping == 7
    (own / ".new-initrd-0").touch()  # A run was killed while it wrote this.
    zone_files.tidy(host.store, _definition())
    assert set(own.iterdir()) == {*used, own / "refused.json"}


@pytest.mark.parametrize("text", ["", "another-boot 7"])
def test_a_stop_that_was_not_written_down_or_ended_with_its_boot_is_none(host: Host, text: str) -> None:
    (_write(host) / "stopping").write_text(text)
    assert zone_files.look(host.store, _definition()).stopping is None


def test_a_stop_that_cannot_be_written_down_is_no_error(host: Host) -> None:
    zone_files.note_stop(host.store, "web", 7)
    assert not (host.store.zones / "web").exists()


def test_removing_a_zone_leaves_the_others_and_may_be_repeated(host: Host) -> None:
    _write(host)
    _write(host, dataclasses.replace(ZONE, name="db"))
    zone_files.remove(host.store, "web")
    zone_files.remove(host.store, "web")
    assert [path.name for path in host.store.zones.iterdir()] == ["db"]


def test_the_domain_boots_from_the_files_that_are_written(host: Host) -> None:
    _write(host)
    files = zone_files.files(host.store, _definition(), Path("/kernel"), Path("/image"), Path("/base"))
    assert (files.kernel, files.initrd) == (Path("/kernel/vmlinux"), made_up_host.only(host.store, "web", "initrd"))
    assert files.disks == ((Path("/base"), False), (Path("/image"), False), (made_up_host.only(host.store, "web", "writable"), True))
    assert files.initrd.is_file()


@pytest.mark.parametrize(
    ("written", "record"),
    [
        (b"state=running exit=- restarts=0 health=none oom=0 crashes=0\n", Record("running", None, 0)),
        (b"state=running exit=- restarts=4 health=none oom=0\n", Record("running", None, 4)),
        (b"state=exited exit=0 restarts=12 health=none oom=0 crashes=0\n", Record("exited", 0, 12)),
        (b"state=failed exit=125 restarts=0 health=none oom=0 crashes=0\n" + bytes(4000), Record("failed", 125, 0)),
        (b"state=restarting exit=1 restarts=999999999 health=none oom=0 crashes=0\n  ", Record("restarting", 1, 999999999)),
        (b"state=stopped exit=137 restarts=0 health=none oom=0 crashes=0\n", Record("stopped", 137, 0)),
        (b"state=running exit=- restarts=0 health=healthy oom=0 crashes=0\n", Record("running", None, 0, "healthy")),
        (b"state=exited exit=137 restarts=0 health=none oom=2 crashes=1\n", Record("exited", 137, 0, "none", 2, 1)),
    ],
)
def test_a_record_is_read(host: Host, written: bytes, record: Record) -> None:
    _write(host)
    made_up_host.write_record(host.store, "web", b"ringfence-record-1 " + written)
    assert zone_files.read_record(host.store, _definition()) == record
    zone_files.forget_record(host.store, _definition())
    assert zone_files.read_record(host.store, _definition()) is None


@pytest.mark.parametrize(
    "written",
    [
        b"",
        b"\xff" * 4096,
        b"ringfence-record-1 ",
        b"ringfence-record-1 state=running exit=- restarts=0 health=none oom=0 crashes=0",
        b"ringfence-record-2 state=running exit=- restarts=0 health=none oom=0 crashes=0\n",
        b" ringfence-record-1 state=running exit=- restarts=0 health=none oom=0 crashes=0\n",
        b"ringfence-record-1 state=owned exit=- restarts=0 health=none oom=0 crashes=0\n",
        b"ringfence-record-1 state=running\x1b[31m exit=- restarts=0 health=none oom=0 crashes=0\n",
        b"ringfence-record-1 state=running exit=1000 restarts=0 health=none oom=0 crashes=0\n",
        b"ringfence-record-1 state=running exit=-1 restarts=0 health=none oom=0 crashes=0\n",
        b"ringfence-record-1 state=running exit=- restarts=1000000000 health=none oom=0 crashes=0\n",
        b"ringfence-record-1 state=running exit=- restarts=-1 health=none oom=0 crashes=0\n",
        "ringfence-record-1 state=running exit=\u0661 restarts=0 health=none oom=0 crashes=0\n".encode(),
        b"ringfence-record-1 state=running  exit=- restarts=0 health=none oom=0 crashes=0\n",
        b"ringfence-record-1 state=running exit=- restarts=0 health=none oom=0 crashes=0\x00\n",
        b"ringfence-record-1 state=running exit=- restarts=0\n",
        b"ringfence-record-1 state=running exit=- restarts=0 health=fine oom=0 crashes=0\n",
        b"ringfence-record-1 state=running exit=- restarts=0 health=none oom=1000000000 crashes=0\n",
        b"ringfence-record-1 state=running exit=- restarts=0 health=none oom=0 crashes=1000000000\n",
        b"ringfence-record-1 state=running exit=- restarts=0 health=none oom=0 crashes=\n",
        b"\n" * 4096,
        b"0" * 4096 + b"ringfence-record-1 state=running exit=- restarts=0 health=none oom=0 crashes=0\n",
    ],
)
def test_a_record_that_is_not_well_formed_is_none(host: Host, written: bytes) -> None:
    _write(host)
    made_up_host.write_record(host.store, "web", written)
    assert zone_files.read_record(host.store, _definition()) is None


def test_a_zone_without_files_has_no_record(host: Host) -> None:
    assert zone_files.read_record(host.store, _definition()) is None
    _write(host)
    made_up_host.only(host.store, "web", "writable").write_bytes(b"short")
    assert zone_files.read_record(host.store, _definition()) is None
