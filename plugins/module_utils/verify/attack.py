# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attack the promises of isolation on this host with two hostile zones of its own, and say what each attempt came to."""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.attack import answers, escapes, floods, images, remains
from ansible_collections.ringfence.zones.plugins.module_utils.attack.programs import arp, devices
from ansible_collections.ringfence.zones.plugins.module_utils.attack.programs.network import HONEST
from ansible_collections.ringfence.zones.plugins.module_utils.attack.result import EVERY, Attempt, compared
from ansible_collections.ringfence.zones.plugins.module_utils.attack.zones import (
    CLOSED,
    NAMES,
    OPEN,
    VOLUME,
    Told,
    Zones,
    escaping,
    run_quietly,
)
from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.host import boot_id
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.verify import observe
from ansible_collections.ringfence.zones.plugins.module_utils.verify.xenstore import read_nodes
from ansible_collections.ringfence.zones.plugins.module_utils.zone import files, network

_CANARY = Path("/run/ringfence-attack-canary")
_NODES = 2500
"""Nodes of xenstore; the quota of a domain is 1000."""

_REFERENCES, _PORTS = 640, 96
_METADATA = "169.254.169.254"
_LATENCY = 10.0
"""Seconds within which the other zone and the host have to answer while a kernel dies; an emulated CPU needs some."""

_RESTART = 120.0
_LONGEST = 1500
"""Seconds that an attack may take, without what it takes to clear it away."""

_FAULTS = (RingfenceError, OSError, ValueError, LookupError)
_BY_PROGRAM = {"kernel": 1, "escape": 5, "xenstore": 6, "sharing": 7, "hypercalls": 8, "devices": 5}


class _TimeIsOver(BaseException):
    """The attack has taken as long as it may. No ordinary exception: nothing on the way goes on after it."""


def attack(store: Store, promises: Collection[int]) -> tuple[list[Attempt], dict[int, str]]:
    """Attack, and leave nothing of it; if it cannot be removed, that is why a promise could not be attacked.

    :param promises: which to attack.
    :return: the attempts, and by promise why it could not be attacked.
    """
    with _interruptions_raised():
        try:
            campaign = _Campaign(store, promises)
            campaign.zones.clear()
        except _FAULTS as error:
            return [], {EVERY: str(error)}
        signal.alarm(_LONGEST)
        try:
            campaign.run()
        except _FAULTS as error:
            campaign.faults[EVERY] = str(error)
        except _TimeIsOver:
            campaign.faults.update(dict.fromkeys(campaign.unfinished, f"it was ended after {_LONGEST} s"))
        finally:
            signal.alarm(0)
            run_quietly(["rm", "-f", str(_CANARY)])
            campaign.clear()
    return campaign.attempts, campaign.faults


@contextlib.contextmanager
def _interruptions_raised() -> Iterator[None]:
    """Let what would end this process raise instead, so that the zones are removed."""

    def interrupt(number: int, _frame: Any) -> None:
        raise KeyboardInterrupt(f"signal {number}")

    def end(_number: int, _frame: Any) -> None:
        raise _TimeIsOver

    handlers = {signal.SIGTERM: interrupt, signal.SIGHUP: interrupt, signal.SIGALRM: end}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Watched:
    """Who has to answer while a kernel dies: how long its slowest answer took, and why one did not come."""

    def __init__(self) -> None:
        self.slowest = 0.0
        self.failed = ""

    def ask(self, question: Callable[[], object]) -> None:
        """Ask once; what fails has not answered."""
        began = time.monotonic()
        try:
            question()
        except _FAULTS as error:
            self.failed = self.failed or str(error)
        self.slowest = max(self.slowest, time.monotonic() - began)

    @property
    def missed(self) -> bool:
        """Whether an answer did not come, or came too late."""
        return bool(self.failed) or self.slowest > _LATENCY

    @property
    def told(self) -> str:
        """What its answers came to, in words."""
        return self.failed or f"it answered within {self.slowest:.1f} s"


class _Campaign:
    """One attack."""

    def __init__(self, store: Store, promises: Collection[int]) -> None:
        self.zones = Zones(store)
        self.store = store
        self.promises = promises
        self.unfinished = list(promises)
        self.attempts: list[Attempt] = []
        self.faults: dict[int, str] = {}
        self.token = secrets.token_hex(8)
        self.traces: set[str] = set()

    def run(self) -> None:
        self.zones.start()
        self.traces = self._traces()
        steps: dict[tuple[int, ...], Callable[[], None]] = {
            (1, 3, 5, 6, 7, 8): self._kernel_and_hypervisor,
            (9, 10): self._network,
            (4,): lambda: self.attempts.extend(escapes.attack(self.zones, self.token)),
            (13,): self._labels,
            (14, 22): lambda: self.attempts.extend(images.attack(self.zones.directory / "images")),
            (15,): lambda: self.attempts.extend(floods.load(self.zones, self.token)),
            (16,): lambda: self.attempts.extend(floods.console(self.zones, self.token)),
            (2, 11): self._panic,
            (17,): self._answers,
            (12,): lambda: self.attempts.extend(remains.on_disks(self.zones, self.token)),
        }
        for rows, step in steps.items():
            if not set(rows) & set(self.promises):
                continue
            try:
                step()
            except _FAULTS as error:
                self.faults.update(dict.fromkeys(rows, str(error)))
            self.unfinished = [number for number in self.unfinished if number not in rows]

    def _add(self, row: int, label: str, succeeded: bool | None, told: str, control: bool | None, control_told: str) -> None:
        self.attempts.append(Attempt(row, label, succeeded, told, control, control_told))

    # Promises 1, 3, 5, 6, 7, 8: what a kernel that was taken over can ask of the host and the hypervisor.

    def _kernel_and_hypervisor(self) -> None:
        canary = self.zones.directory / "canary"
        canary.write_text(self.token, encoding="ascii")
        escape = ("escape", {"token": self.token, "file": str(canary)})
        host = [boot_id(), Path("/proc/cmdline").read_text("utf-8").strip()]
        booted: dict[str, str] = {}
        shared: dict[str, dict[str, list[int]]] = {}
        for name in NAMES:
            said = self.zones.inside(name, [escape, ("sharing", {"share": self.token}), ("kernel", {"others": {}})])
            shared[name] = {"references": [int(_told_of(said, "sharing", "reference"))], "ports": [int(_told_of(said, "sharing", "port"))]}
            booted[name] = _told_of(said, "kernel", "boot")
        disks = [[name, major, minor, devices.sectors(Path("/dev") / name)] for name, major, minor in _disks()]
        for name, peer in (NAMES, NAMES[::-1]):
            number, own = self.zones.numbers[peer], self.zones.numbers[name]
            run(["xenstore-write", f"/local/domain/{number}/data/attack", "x", "/local/domain/0/ringfence-attack", "x"], timeout=20)
            share = {"domain": number, "references": list(range(_REFERENCES)), "ports": list(range(1, _PORTS)), "token": self.token}
            hypervisor = {"domain": number, "frame": _frame(number)}
            programs: list[tuple[str, dict[str, Any]]] = [
                escape,
                ("kernel", {"others": {"the host": host, "the other zone": [booted[peer]]}}),
                ("xenstore", {"requests": _requests(number), "nodes": _NODES, "below": f"/local/domain/{own}/data/attack"}),
                ("sharing", share),
                ("hypercalls", hypervisor),
                ("devices", {"disks": disks}),
            ]
            tried = self.zones.inside(name, programs)
            # Whether the trace that the zone left is the host's to see has to be asked before the control leaves one there.
            leaked = _canary() == self.token
            control = dict(programs)
            control["kernel"] = {"others": {"the host": host, "the other zone": [host[0]]}}
            control["sharing"] = {**share, **shared[peer]}
            control["xenstore"] = {"requests": _requests(number), "nodes": _NODES, "below": "/ringfence-attack"}
            without = self.zones.control(list(control.items()))
            for program, row in _BY_PROGRAM.items():
                found = {
                    label: told for label, told in tried.get(program, {}).items() if label not in ("escape", "boot", "reach the hypervisor")
                }
                hindered = tried.get("hypercalls", {}).get("reach the hypervisor", (True, ""))
                if program == "hypercalls" and hindered[0] is None:
                    found = {"reach the hypervisor": hindered}
                self.attempts += compared(row, name, found, without.get(program, {}))
            ran = tried.get("escape", {}).get("escape", (None, "it was not run"))
            # It ran: else nothing could have been left anywhere.
            self._add(
                3,
                f"{name}: leave a trace on the host",
                leaked if ran[0] else None,
                ran[1],
                _canary() == self.token,
                "its trace is on the host",
            )
            _CANARY.unlink(missing_ok=True)
            run_quietly(["xenstore-rm", "/local/domain/0/ringfence-attack"])

    # Promises 9 and 10.

    def _network(self) -> None:
        first, second = NAMES
        indices = [self.zones.definitions[name].index for name in NAMES]
        own, peer = (network.address(index) for index in indices)
        peer6, gateway = network.address6(indices[1]), network.GATEWAY
        send = {"own": own, "peer": peer, "gateway": gateway, "peer6": peer6, "port": str(OPEN)}
        with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
            port = listener.getsockname()[1]
            host = _own_address()
            targets: list[list[Any]] = [
                ["connect to the other zone beside what is declared", peer, CLOSED],
                ["connect to the other zone over IPv6 beside what is declared", peer6, CLOSED],
                ["connect to the host by its end of the link", gateway, port],
                ["connect to the host by its own address", host, port],
                ["connect to the metadata of clouds", _METADATA, 80],
            ]
            declared = ["connect as declared", peer, OPEN]
            heard: dict[str, Told] = {}

            def listen() -> None:
                with contextlib.suppress(*_FAULTS):
                    heard.update(self.zones.inside(second, [("network", {"listen": "eth0", "seconds": 20, "token": self.token})]))

            thread = threading.Thread(target=listen)
            thread.start()
            time.sleep(6)
            sent = self.zones.inside(
                first,
                [
                    ("network", {"send": {"interface": "eth0", **send}, "token": self.token, "connect": [declared, *targets]}),
                    ("arp", {"interface": "eth0", "target": gateway}),
                ],
            )
            kept = _neighbours(network.interface(indices[0]))
            thread.join()
            back = self.zones.inside(second, [("network", {"connect": [["connect to the zone that may come", own, OPEN]]})])
        addresses = [peer, peer6, gateway, host, _METADATA, own]
        with self.zones.unprotected_network(addresses) as namespace:
            servers = [_serving(namespace, port) for port in (OPEN, CLOSED, port, 80)]
            try:
                time.sleep(2)
                without = self.zones.control(
                    [
                        (
                            "network",
                            {
                                "send": {"interface": "a0", **send},
                                "listen": "a1",
                                "seconds": 2,
                                "token": self.token,
                                "connect": [declared, *targets, ["connect to the zone that may come", own, OPEN]],
                            },
                        ),
                        ("arp", {"interface": "a0", "target": gateway}),
                    ],
                    namespace,
                )["network"]
                kept_without = _neighbours("a1", "-n", namespace)
            finally:
                for server in servers:
                    server.kill()
                    server.wait()
        arrived, reached = heard.get("network", {}), sent["network"]
        honest = arrived.get(HONEST, (None, "nobody listened"))
        for label, (succeeded, told) in arrived.items():
            if label != HONEST:
                known = succeeded if succeeded or honest[0] else None
                self._add(
                    9, f"{first}: {label}", known, told if honest[0] else f"not even {HONEST} arrives", *without.get(label, (None, ""))
                )
        self._add(
            9,
            f"{first}: ask the host by ARP in the name of foreign machines",
            bool(kept) if "asked" in sent["arp"] else None,
            f"the host keeps entries of {kept} of them",
            bool(kept_without),
            f"without rules, of {kept_without}",
        )
        if not arrived:
            self.faults[9] = "nobody listened in the other zone"
        works = reached.get(str(declared[0]), (None, ""))[0]
        for label, (succeeded, told) in {**reached, **back["network"]}.items():
            if label != declared[0] and not label.startswith("sent "):
                known = succeeded if succeeded or works else None
                self._add(10, label, known, told if works else "not even what is declared answers", *without.get(label, (None, "")))

    # Promise 13.

    def _labels(self) -> None:
        name = NAMES[1]
        self.zones.inside(
            name,
            [
                escaping(self.token),
                ("labels", {"disk": "/attack/dev/xvdc", "sectors": devices.labels().hex()}),
            ],
        )
        layer = files.writable(self.store, self.zones.definitions[name])
        with open(layer, "rb") as handle:
            arrived = handle.read(1024) == devices.labels()
        loops = json.loads(run(["losetup", "--list", "--json", "--output", "NAME,BACK-FILE"]))["loopdevices"]
        device = next(Path(loop["name"]) for loop in loops if loop["back-file"] == str(layer))
        found = _looked_at(device)
        plain = Path("/var/tmp/ringfence-attack.img")
        try:
            with open(plain, "wb") as handle:
                handle.write(devices.labels())
                handle.truncate(8 << 20)
            ordinary = run(["losetup", "--find", "--show", str(plain)]).decode().strip()
            try:
                known = _looked_at(Path(ordinary))
            finally:
                run(["losetup", "--detach", ordinary])
        finally:
            plain.unlink(missing_ok=True)
        self._add(13, f"{name}: have the host read its labels", bool(found) if arrived else None, found or "the host knows nothing of them",
                  bool(known), f"of the same disk elsewhere it knows {known}")  # fmt: skip

    # Promise 17.

    def _answers(self) -> None:
        first, second = NAMES
        self.attempts += answers.of_commands(self.zones, second)
        self.attempts += answers.of_the_ssh_server(self.zones, first, self.token)

    # Promises 2 and 11.

    def _panic(self) -> None:
        first, second = NAMES
        before, peer = self.zones.numbers[first], network.address(self.zones.definitions[second].index)
        other, host, stop = _Watched(), _Watched(), threading.Event()
        frames = remains.frames(self.zones, first)
        _told_of(self.zones.inside(first, [("memory", {"fill": f"{self.token}-before"})]), "memory", "fill memory")

        def ask_other() -> None:
            with socket.create_connection((peer, OPEN), timeout=_LATENCY) as connection:
                connection.recv(16)

        def watch() -> None:
            while not stop.is_set():
                other.ask(ask_other)
                host.ask(lambda: run(["xl", "list"], timeout=60))
                time.sleep(0.3)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            with contextlib.suppress(RingfenceError):
                self.zones.inside(first, [escaping(self.token), ("panic", {})], timeout=25)
            deadline = time.monotonic() + _RESTART
            running = False
            while not running and time.monotonic() < deadline:
                time.sleep(0.5)
                self.zones.look()
                record = files.read_record(self.store, self.zones.definitions[first])
                running = self.zones.numbers[first] != before and record is not None and record.state == "running"
        finally:
            stop.set()
            watcher.join()
        died = self.zones.numbers[first] != before
        control = "its kernel died" if died else "its kernel lives on"
        for label, watched in (("take the other zone along", other), ("take the host along", host)):
            self._add(2, f"{first}: {label}", watched.missed, watched.told, died, control)
        self._add(2, f"{first}: stay dead", not running if died else None, "it runs" if running else "it does not run", died, control)
        if died and running:
            self.attempts += remains.in_memory(self.zones, frames, self.token)
        else:
            self.faults[11] = f"{first} did not die and begin again, so nobody was given its memory"

    # Promise 21.

    def _traces(self) -> set[str]:
        """What of the zones is found on the host, in the words of where it is looked for."""
        found = {f"domain {name}" for name in NAMES if name in run(["xl", "list"], timeout=60).decode()}
        found |= {f"directory {path.name}" for path in self.store.zones.iterdir() if path.name in NAMES}
        found |= {f"loop device of {name}" for name in NAMES if f"/zones/{name}/" in run(["losetup", "--list"]).decode()}
        paths = [node.path for node in read_nodes(60) if node.path.startswith("/local/domain/")]
        found |= {f"node {path}" for path in paths for number in self.zones.numbers.values() if f"/{number}/" in path}
        indices = [definition.index for definition in self.zones.definitions.values()]
        found |= {f"link {network.interface(index)}" for index in indices if Path(f"/sys/class/net/{network.interface(index)}").exists()}
        rules = run(["nft", "list", "table", "inet", "ringfence"]).decode()
        return found | {f"rule for {network.address(index)}" for index in indices if network.address(index) in rules}

    def clear(self) -> None:
        """Remove what was made, and see whether something of it is left."""
        try:
            self.zones.clear()
            self._check_leftovers()
        except _FAULTS as error:
            row = 21 if 21 in self.promises else EVERY
            told = (
                f"what the attack has made could not be removed: {error}. Left may be the zones {' and '.join(NAMES)}, the volume {VOLUME}"
                f" and {self.zones.directory}; the next attack removes them first"
            )
            self.faults[row] = f"{self.faults[row]}; {told}" if row in self.faults else told

    def _check_leftovers(self) -> None:
        if not self.traces:
            return
        left = self._traces()
        kinds = {trace.split()[0] for trace in self.traces}
        for kind in ("domain", "directory", "loop", "node", "link", "rule"):
            still = sorted(trace for trace in left if trace.split()[0] == kind)
            self._add(
                21, f"leave a {kind}", bool(still), ", ".join(still) or "nothing is left", kind in kinds, "while they ran, it was found"
            )


def _told_of(said: dict[str, Told], program: str, label: str) -> str:
    try:
        return said[program][label][1]
    except KeyError:
        raise RingfenceError(f"the program {program} could not do its work: {said.get(program)}") from None


def _canary() -> str:
    try:
        return _CANARY.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _disks() -> list[tuple[str, int, int]]:
    """The host's own disks and partitions: those with something behind them, and no loop devices."""
    found = []
    for line in Path("/proc/partitions").read_text("ascii").splitlines()[2:]:
        major, minor, blocks, name = line.split()
        if int(blocks) > 4 and not name.startswith(("loop", "ram", "sr", "zram")):
            found.append((name, int(major), int(minor)))
    return found[:8]


def _frame(number: int) -> int:
    """A frame of a domain's memory: that of its page for xenstore, which the tool stack wrote down."""
    return int(run(["xenstore-read", f"/local/domain/{number}/store/ring-ref"], timeout=20).decode().strip())


def _requests(number: int) -> list[list[str]]:
    peer = f"/local/domain/{number}"
    return [
        ["read", f"{peer}/device/vif/0/mac", "", "read a node of the other zone"],
        ["write", f"{peer}/data/attack", "x", "write a node of the other zone"],
        ["open", f"{peer}/data/attack", "b0\0", "open a node of the other zone"],
        ["remove", f"{peer}/data/attack", "", "remove a node of the other zone"],
        ["write", "/local/domain/0/ringfence-attack", "x", "write a node of the host"],
        ["remove", "/local/domain/0/ringfence-attack", "", "remove a node of the host"],
    ]


def _own_address() -> str:
    """The address by which the host is known; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return network.GATEWAY


def _neighbours(interface: str, *options: str) -> int:
    """How many machines there are on a link, by the table of neighbours, in whose name ``arp`` has asked."""
    entries = json.loads(run(["ip", *options, "-json", "neighbour", "show", "dev", interface]) or b"[]")
    return sum(entry["dst"].startswith(arp.NETWORK) for entry in entries)


def _serving(namespace: str, port: int) -> Any:
    program = f"import socket\ns = socket.create_server(('', {port}), family=socket.AF_INET6, dualstack_ipv6=True)\nwhile True: s.accept()"
    return subprocess.Popen(["ip", "netns", "exec", namespace, "python3", "-S", "-c", program])


def _looked_at(device: Path) -> str:
    """What the host knows of a block device once it was told that it changed."""
    run(["udevadm", "trigger", "--settle", "--action=change", str(device)], timeout=60)
    return ", ".join(observe.traces(Path("/sys/block") / device.name))
