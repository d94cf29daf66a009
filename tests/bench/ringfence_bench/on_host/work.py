"""Runs on a Xen host as root: work inside a zone, and in the same container under crun on the host, by turns.

``work ZONE ROUNDS`` prints JSON: for ``zone`` and ``container``, for each tool what it printed in each round. The container has the same
image, configuration, and limit of memory; its writable layer is on the host's disk, as the zone's is, and its network a veth pair.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.image import images
from ansible_collections.ringfence.zones.plugins.module_utils.image.images import Image
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.zone import channel, make, network, runtime
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import Definition
from ansible_collections.ringfence.zones.plugins.module_utils.zone.hypervisor import Hypervisor

_NAME = "ringfence-bench"
_WORK = Path("/run/ringfence-bench-container")
_LAYER = Path("/var/lib/ringfence-bench")
_ADDRESSES = ("192.0.2.1", "192.0.2.2")
"""Of the host and of the container, from the range for documentation."""
_SECONDS = "10"
_TIMEOUT = 600

_FIO = ("fio", "--name=bench", "--filename=/bench.data", "--size=64M", "--ioengine=psync", "--output-format=json")
_FILE = {
    "write": (*_FIO, "--rw=write", "--bs=1M", "--end_fsync=1"),
    "read": (*_FIO, "--rw=read", "--bs=1M"),
    "randread": (*_FIO, "--rw=randread", "--bs=4k", "--time_based", f"--runtime={_SECONDS}"),
    "randwrite": (*_FIO, "--rw=randwrite", "--bs=4k", "--fdatasync=1", "--time_based", f"--runtime={_SECONDS}"),
}
"""In this order: the first makes the file."""

COMMANDS: dict[str, tuple[str, ...]] = {
    "cpu": ("sysbench", "cpu", "--threads=1", f"--time={_SECONDS}", "run"),
    "syscalls": ("dd", "if=/dev/zero", "of=/dev/null", "bs=1", "count=200000"),
    "memory": ("sysbench", "memory", "--memory-block-size=1M", "--memory-total-size=1T", f"--time={_SECONDS}", "run"),
    **_FILE,
}
"""What runs in both places, by the name of the row."""

Execute = Callable[[Sequence[str]], bytes]


def main() -> None:
    """Measure, clean up, and print."""
    name, rounds = sys.argv[1], int(sys.argv[2])
    store, hypervisor = Store(), Hypervisor()
    definition, number = hypervisor.observe()[0][name].definition, hypervisor.zone_domain_id(name)
    if definition is None:
        raise SystemExit(f"zone {name}: its metadata cannot be read")

    def in_zone(argv: Sequence[str]) -> bytes:
        answer = channel.execute(name, number, argv, timeout=_TIMEOUT)
        return _printed(argv, answer.exit_status, answer.stdout, answer.stderr)

    _clean()
    try:
        _start_container(_configuration(store, definition), images.load(store, definition.image))
        print(json.dumps(_compare(in_zone, network.address(definition.index), rounds)))
    finally:
        _clean()


def _compare(in_zone: Execute, address: str, rounds: int) -> dict[str, dict[str, list[str]]]:
    places = {"zone": (in_zone, address), "container": (_in_container, _ADDRESSES[1])}
    found: dict[str, dict[str, list[str]]] = {place: {} for place in places}
    for execute, _address in places.values():
        execute(["iperf3", "--server", "--daemon"])
    for _round in range(rounds):
        for tool, command in COMMANDS.items():
            for place, (execute, _address) in places.items():
                if tool in _FILE:
                    # The zone has no say in what the host keeps in memory of its disk; without this it would read that.
                    os.sync()
                    Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")
                found[place].setdefault(tool, []).append(execute(command).decode())
        for tool, options in (("receive", ()), ("send", ("--reverse",))):
            for place, (_execute, reached) in places.items():
                found[place].setdefault(tool, []).append(_iperf(reached, options).decode())
    return found


def _iperf(address: str, options: Sequence[str]) -> bytes:
    """iperf3 of the container's image in the host's network, to the server in the zone or the container."""
    state = json.loads(subprocess.run(["crun", "state", _NAME], check=True, capture_output=True).stdout)
    argv = ["nsenter", "--target", str(state["pid"]), "--mount", "--root", "--wd=/", "iperf3", "--client", address]
    return _run([*argv, "--time", _SECONDS, "--json", *options])


def _in_container(argv: Sequence[str]) -> bytes:
    return _run(["crun", "exec", _NAME, *argv])


def _run(argv: Sequence[str]) -> bytes:
    done = subprocess.run(argv, check=False, capture_output=True, timeout=_TIMEOUT, stdin=subprocess.DEVNULL)
    return _printed(argv, done.returncode, done.stdout, done.stderr)


def _printed(argv: Sequence[str], status: int, output: bytes, errors: bytes) -> bytes:
    """What a tool printed; dd prints its figures as errors."""
    if status != 0:
        raise SystemExit(f"{' '.join(argv)} exited with {status}: {(errors or output).decode('utf-8', 'replace')[-500:]}")
    return output or errors


def _configuration(store: Store, definition: Definition) -> dict[str, Any]:
    image, base = images.load(store, definition.image), runtime.load(store, definition.runtime)
    return configuration(make.container(definition.zone, image, base), definition.zone.memory)


def configuration(config: dict[str, Any], memory: int) -> dict[str, Any]:
    """A zone's container as one of the host: without the hook of the zone's init, a network of its own, the zone's memory (MiB)."""
    mounts = [{**mount, "source": mount["source"].replace("/run/ringfence/etc/", "/etc/")} for mount in config["mounts"]]
    linux = {
        **config["linux"],
        "namespaces": [*config["linux"]["namespaces"], {"type": "network", "path": f"/run/netns/{_NAME}"}],
        "resources": {**config["linux"]["resources"], "memory": {"limit": memory * 1024 * 1024}},
        "cgroupsPath": f"/{_NAME}",
    }
    kept = {key: value for key, value in config.items() if key != "hooks"}
    return {**kept, "root": {"path": str(_WORK / "root"), "readonly": False}, "mounts": mounts, "linux": linux}


def _start_container(config: dict[str, Any], image: Image) -> None:
    for path in (_WORK / "image", _WORK / "root", _LAYER / "upper", _LAYER / "work"):
        path.mkdir(parents=True)
    subprocess.run(["mount", "-t", image.filesystem, "-o", "loop,ro", str(image.path), str(_WORK / "image")], check=True)
    layers = f"lowerdir={_WORK / 'image'},upperdir={_LAYER / 'upper'},workdir={_LAYER / 'work'}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, str(_WORK / "root")], check=True)
    _link()
    (_WORK / "config.json").write_text(json.dumps(config), encoding="utf-8")
    # Its streams are not this script's: it outlives the command that starts it.
    command = ["crun", "run", "--detach", "--bundle", str(_WORK), _NAME]
    with (_WORK / "log").open("wb") as log:
        status = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False).returncode
    if status != 0:
        raise SystemExit(f"{' '.join(command)} exited with {status}: {(_WORK / 'log').read_text(encoding='utf-8', errors='replace')}")
    time.sleep(1)


def _link() -> None:
    host, inside = _ADDRESSES
    for command in (
        f"ip netns add {_NAME}",
        f"ip link add rfbench0 type veth peer name eth0 netns {_NAME}",
        f"ip address add {host}/24 dev rfbench0",
        "ip link set rfbench0 up",
        f"ip -n {_NAME} address add {inside}/24 dev eth0",
        f"ip -n {_NAME} link set eth0 up",
        f"ip -n {_NAME} link set lo up",
    ):
        subprocess.run(command.split(), check=True)


def _clean() -> None:
    """Take away what an earlier run, or this one, made."""
    for command in (
        f"crun delete --force {_NAME}",
        f"ip netns delete {_NAME}",
        f"umount {_WORK}/root",
        f"umount {_WORK}/image",
        f"rm -rf --one-file-system {_WORK} {_LAYER}",
    ):
        subprocess.run(command.split(), check=False, capture_output=True)


if __name__ == "__main__":
    main()
