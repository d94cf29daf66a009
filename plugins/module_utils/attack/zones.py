# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hostile zones of an attack: made of the host's own programs, started by the same converge as every zone, and removed in any case.

The control is the same container, with the same configuration, without the virtual machine: crun runs it on the host.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils import errors
from ansible_collections.ringfence.zones.plugins.module_utils.attack.programs import (
    answer,
    arp,
    disk,
    escape,
    flood,
    hypercalls,
    kernel,
    labels,
    memory,
    panic,
    run,
    serve,
    sharing,
    starter,
    xenstore,
)
from ansible_collections.ringfence.zones.plugins.module_utils.attack.programs import devices as devices_program
from ansible_collections.ringfence.zones.plugins.module_utils.attack.programs import network as network_program
from ansible_collections.ringfence.zones.plugins.module_utils.command import run as run_program
from ansible_collections.ringfence.zones.plugins.module_utils.converge import garbage
from ansible_collections.ringfence.zones.plugins.module_utils.converge.converge import Policy, converge
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.image import images, oci_layout, registry
from ansible_collections.ringfence.zones.plugins.module_utils.kernel import kernels
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.kernels import Kernel
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.zone import base, channel, make, runtime, volumes
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import Definition
from ansible_collections.ringfence.zones.plugins.module_utils.zone.hypervisor import Hypervisor

NAMES = ("ringfence-attack-1", "ringfence-attack-2")
OPEN, CLOSED = 7001, 7002
"""The ports on which both zones listen; the second zone declares that the first may come to ``OPEN``."""

VOLUME = "ringfence-attack"
"""The volume of the second zone."""

_VOLUME_SIZE = "16MiB"
_LABEL = {"ringfence.attack": "throw-away"}
"""Tells zones of an attack from those that somebody declared with their names."""

_PROGRAMS: tuple[ModuleType, ...] = (
    *(answer, arp, devices_program, disk, escape, flood, hypercalls, kernel, labels, memory, network_program),
    *(panic, run, serve, sharing, starter, xenstore),
)
_STANDARD = (
    "__future__ contextlib ctypes fcntl hashlib importlib ipaddress itertools json mmap os pathlib selectors signal socket stat struct sys"
    " time"
    " encodings.ascii encodings.idna"
)
_PYTHON = ("/usr/bin/python3", "-S")
_RUN = "/attack/run.py"
_TIMEOUT = 120
_MOST_ANSWER = 1 << 20
_DRIVER = "xen_privcmd"
"""What a kernel needs, by its name for a kernel's modules, to pass hypercalls on."""

_CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")

Told = dict[str, "tuple[bool | None, str]"]
"""What a program says, by the labels of its attempts."""

FAULTS = (*errors.FAULTS, LookupError)
"""What an attack may fail with when something else is there than it expects; the next one goes on."""


def escaping(token: str, **more: str) -> tuple[str, dict[str, str]]:
    """The program that goes on outside the container, for :meth:`Zones.inside`; it looks for no file of the host.

    :param token: of this attack.
    """
    return ("escape", {"token": token, "file": "/none", **more})


class Zones:
    """The zones of one attack."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.directory = store.root / "attack"
        self.hypervisor = Hypervisor()
        self.definitions: dict[str, Definition] = {}
        self.numbers: dict[str, int] = {}
        self._declared: dict[str, dict[str, Any]] = {}

    def clear(self) -> None:
        """Remove what there is of an attack, be it this one or one that was interrupted.

        :raises RingfenceError: when a zone or a volume that is not of an attack has one of the names.
        """
        observed, foreign = self.hypervisor.observe()
        for name in NAMES:
            zone = observed.get(name)
            strange = zone and (zone.definition is None or zone.definition.zone.labels != _LABEL)
            if name in foreign or strange:
                raise RingfenceError(f"{name} is the name of a zone of attacks, and of something else on this host; give that another name")
        has_volume = volumes.path(self.store, VOLUME).exists()
        if has_volume and not self.directory.exists():  # It is there as long as anything of an attack is.
            raise RingfenceError(f"{VOLUME} is the name of the volume of attacks, and of another one on this host; it has to be removed")
        if has_volume or any(name in observed for name in NAMES):
            self._remove(NAMES)
        run_quietly(["umount", "--lazy", str(self.directory / "images" / "store")])
        run_quietly(["ip", "netns", "delete", NAMES[0]])
        run_quietly(["crun", "delete", "--force", NAMES[0]])
        if "/attack/handler" in _CORE_PATTERN.read_text(encoding="ascii"):  # A control was killed; Linux begins with this value.
            _CORE_PATTERN.write_text("core", encoding="ascii")
        with self.store.lock():
            for digest in images.present(self.store):
                if images.load(self.store, digest).reference.startswith(f"oci:{self.directory}"):
                    garbage.delete(self.store, images.directory(self.store, digest))
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self) -> None:
        """Compose the image and start both zones: of the two kinds that the host can run one of each, and on two kernels if it has them."""
        self.directory.mkdir(mode=0o700)
        kinds = self.hypervisor.modes()
        used = chosen_kernels(kernels.names(self.store).default, kernels.deployed(self.store), kinds[-1])
        layer = self.directory / "layer.tar"
        _write_layer(layer, used)
        tree = self.directory / "control" / "rootfs"
        tree.mkdir(parents=True)
        run_program(["tar", "--extract", "--file", str(layer), "--directory", str(tree)])
        (self.directory / "image").mkdir()
        command = {"Cmd": [*_PYTHON, "/attack/serve.py", str(OPEN), str(CLOSED)]}
        oci_layout.write_image(self.directory / "image", layer, command, registry.host_architecture(), {}, "attack")
        common: dict[str, Any] = {
            "image": f"oci:{self.directory}/image:attack",
            "cap_add": ["ALL"],
            "labels": _LABEL,
            "restart": "on-failure:5",
            "stop_grace_period": "1s",
        }
        lets = {"ingress": [{"from": NAMES[0], "ports": [OPEN]}]}
        first = {**common, "name": NAMES[0], "virtualization": kinds[0]}
        mounts = [f"{VOLUME}:/attack/volume"]
        second = {**common, "name": NAMES[1], "virtualization": kinds[-1], "networks": lets, "volumes": mounts}
        if used:
            second["kernel"] = used[-1].name
        self._declared = {NAMES[0]: first, NAMES[1]: second}
        self._converge([first, second], {VOLUME: {"size": _VOLUME_SIZE}})
        self.look()

    def renew(self, name: str) -> None:
        """Remove a zone, the volume with the second one, and create it again."""
        self._remove([name])
        # The other one, which is as it was, is named by the second one's declaration.
        self._converge(list(self._declared.values()), {VOLUME: {"size": _VOLUME_SIZE}})
        self.look()

    def _remove(self, names: Sequence[str]) -> None:
        gone = {VOLUME: {"state": "absent"}} if NAMES[1] in names else {}
        self._converge([{"name": name, "state": "absent"} for name in names], gone)

    def look(self) -> None:
        """See under which numbers the zones run."""
        observed, _foreign = self.hypervisor.observe()
        for name in NAMES:
            zone = observed.get(name)
            if zone and zone.definition and zone.domain_id is not None:
                self.definitions[name], self.numbers[name] = zone.definition, zone.domain_id

    def inside(self, name: str, programs: Sequence[tuple[str, Mapping[str, Any]]], timeout: float = _TIMEOUT) -> dict[str, Told]:
        """What programs say that run in a zone; each is told with its parameters."""
        argv = [*_PYTHON, _RUN, json.dumps(programs)]
        answer = channel.execute(name, self.numbers[name], argv, timeout=timeout, limit=_MOST_ANSWER)
        return _read(name, answer.stdout, answer.stderr)

    def control(self, programs: Sequence[tuple[str, Mapping[str, Any]]], namespace: str = "", *, leaks: bool = False) -> dict[str, Told]:
        """What the same programs say in the same container on the host, without a virtual machine.

        :param namespace: a network namespace; else the container has the host's network, as the zone's has the zone's.
        :param leaks: leave a directory of the host open in the container.
        """
        definition = self.definitions[NAMES[0]]
        image = images.load(self.store, definition.image)
        config = make.container(definition.zone, image, runtime.load(self.store, definition.runtime))
        config["root"]["path"] = "rootfs"
        config["process"]["args"] = [*_PYTHON, _RUN, json.dumps(programs)]
        config["mounts"] = [mount for mount in config["mounts"] if mount["type"] != "bind"]
        del config["hooks"]
        if namespace:
            config["linux"]["namespaces"].append({"type": "network", "path": f"/run/netns/{namespace}"})
        bundle = self.directory / "control"
        (bundle / "config.json").write_text(json.dumps(config), encoding="utf-8")
        crun = ["crun", "run", "--bundle", str(bundle), NAMES[0]]
        if leaks:
            crun = ["sh", "-c", 'exec crun "$@" 3</sys/fs/cgroup', "crun", "run", "--preserve-fds=1", *crun[2:]]
        return _read("control", run_program(crun, timeout=_TIMEOUT), b"")

    @contextlib.contextmanager
    def unprotected_network(self, addresses: Sequence[str]) -> Iterator[str]:
        """A network namespace in which the interfaces ``a0`` and ``a1`` are joined, no rule is loaded, and these addresses are its own."""
        name = NAMES[0]
        run_program(["ip", "netns", "add", name])
        try:
            commands = ["link add a0 type veth peer name a1", "link set lo up", "link set a0 up", "link set a1 up"]
            commands.append("route add default dev a1")  # Else it answers nobody whose address it has no way to.
            commands += [f"address add {address} dev lo {'nodad' if ':' in address else ''}" for address in addresses]
            for command in commands:
                run_program(["ip", "-n", name, *command.split()])
            yield name
        finally:
            run_quietly(["ip", "netns", "delete", name])

    def _converge(self, declared: list[dict[str, Any]], sizes: dict[str, Any]) -> None:
        # Whatever images of the host's zones are unused stay: an attack deletes its own.
        report = converge(self.store, declared, sizes, {}, Policy(keep_unused=1_000_000, retry=True, start_timeout=240), check=False)
        if report.failures:
            raise RingfenceError("; ".join(report.failures))


def chosen_kernels(default: str | None, deployed: Mapping[str, Kernel], kind: str) -> list[Kernel]:
    """The default kernel, and another one for the second zone, of this kind, if there is one that passes hypercalls on too."""
    if default is None:
        return []
    first = deployed[default]
    others = [one for _name, one in sorted(deployed.items()) if one.digest != first.digest]
    return [first, *[one for one in others if kind in one.modes and _DRIVER in one.modules][:1]]


def told_of(said: Mapping[str, Told], program: str, label: str) -> str:
    """What a program says of an attempt without which the others cannot be made.

    :raises RingfenceError: when it says nothing.
    """
    try:
        return said[program][label][1]
    except KeyError:
        raise RingfenceError(f"the program {program} could not do its work: {said.get(program)}") from None


def run_quietly(argv: Sequence[str]) -> None:
    """Run a program that clears what may not be there."""
    with contextlib.suppress(RingfenceError):
        run_program(argv, timeout=30)


def _read(where: str, stdout: bytes, stderr: bytes) -> dict[str, Told]:
    try:
        return {
            str(program): {
                str(label): (succeeded if isinstance(succeeded, bool) else None, str(told)) for label, succeeded, told in attempts
            }
            for program, attempts in json.loads(stdout).items()
        }
    except (ValueError, AttributeError, TypeError) as error:
        said = ascii((stderr or stdout).decode("utf-8", "replace")[-200:])
        raise RingfenceError(f"{where}: the programs of attack did not end as they should: {said}") from error


def _write_layer(path: Path, used: Sequence[Kernel]) -> None:
    """The image's files: the host's Python with those of its modules that the programs use, the libraries, the programs, drivers."""
    files_of = "[[m.__file__, getattr(m, '__cached__', None)] for m in list(sys.modules.values()) if getattr(m, '__file__', None)]"
    listing = f"import {','.join(_STANDARD.split())}; print(json.dumps({files_of}))"
    python = Path(sys.executable).resolve()
    listed: list[list[str | None]] = json.loads(run_program([str(python), "-S", "-E", "-c", listing]))
    files = {Path(file) for pair in listed for file in pair if file and os.path.exists(file)} | {python, Path(os.__file__)}
    for binary in [file for file in files if file == python or ".so" in file.suffixes]:
        files |= {Path(library) for library in base.libraries(binary)}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, data: bytes = b"", mode: int = 0o755, kind: bytes = tarfile.REGTYPE, target: str = "", mtime: float = 0) -> None:
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.type, member.linkname, member.mtime = len(data), mode, kind, target, int(mtime)
            tar.addfile(member, io.BytesIO(data))

        for directory in ("usr/bin", "usr/lib", "usr/lib64", "tmp", "proc", "sys", "dev", "etc", "run", "attack"):
            add(directory, kind=tarfile.DIRTYPE)
        for name in ("bin", "lib", "lib64"):
            add(name, kind=tarfile.SYMTYPE, target=f"usr/{name}")
        for file in sorted(files):
            place = str(file) if str(file).startswith("/usr/") else f"/usr{file}"
            # Compiled modules hold the time of their sources.
            add(place.lstrip("/"), file.read_bytes(), mtime=file.stat().st_mtime)
        if python != Path("/usr/bin/python3"):
            add("usr/bin/python3", kind=tarfile.SYMTYPE, target=str(python))
        for program in _PROGRAMS:
            add(f"attack/{program.__name__.rpartition('.')[2]}.py", inspect.getsource(program).encode())
        for one in used:
            for file_name in one.modules.get(_DRIVER, ())[-1:]:  # None if it is built in.
                add(f"attack/xen-privcmd-{one.release}.ko", (one.directory / "modules" / file_name).read_bytes())
