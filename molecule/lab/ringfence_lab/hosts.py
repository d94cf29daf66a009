"""The hosts of one run directory: one directory each, holding all that is known of the host."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ringfence_lab import ports, processes, qemu
from ringfence_lab.errors import LabError
from ringfence_lab.paths import OVMF_CODE, OVMF_VARS
from ringfence_lab.programs import require, require_space, run
from ringfence_lab.progress import Progress
from ringfence_lab.qemu import Forward, Machine
from ringfence_lab.qmp import Qmp
from ringfence_lab.ssh import Ssh

SSH_PORT = 22
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_START_MIB = 3000
_BOOT_SECONDS = 600
_POWEROFF_SECONDS = 180
_SAY_EVERY = 10.0
_IDLE_ATTEMPTS = 1200
_IDLE_PAUSE = 0.05
_EMERGENCY = "You are in emergency mode"


@dataclass(frozen=True)
class Config:
    """What a host is, as kept in ``host.json``."""

    machine: Machine
    image: str
    key: str
    accelerator: str = ""


class Host:
    """One host of the lab, running or not."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = directory.name
        self._pid_file = directory / "qemu.pid"

    # -- what is known ---------------------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether the host was made, running or not."""
        return (self.directory / "host.json").exists()

    @property
    def config(self) -> Config:
        """What the host is.

        :raises LabError: when there is no such host.
        """
        try:
            stored: dict[str, Any] = json.loads((self.directory / "host.json").read_text())
        except FileNotFoundError as error:
            raise LabError(f"no host named {self.name} in {self.directory.parent}; make it with: up {self.name}") from error
        machine = stored.pop("machine")
        machine["forwards"] = tuple(Forward(**forward) for forward in machine["forwards"])
        return Config(machine=Machine(**machine), **stored)

    @property
    def running(self) -> bool:
        """Whether this host's QEMU is alive; a stale pid file does not count."""
        pid = processes.read_pid(self._pid_file)
        return pid is not None and self.exists and processes.runs_with(pid, self.config.machine.uuid)

    @property
    def ssh(self) -> Ssh:
        """How to reach the host."""
        config = self.config
        port = next(forward.host_port for forward in config.machine.forwards if forward.guest_port == SSH_PORT)
        return Ssh(port=port, key=Path(config.key), known_hosts=self.directory / "known_hosts")

    def console(self) -> str:
        """All that the host wrote to its serial console."""
        path = self.directory / "console.log"
        return path.read_bytes().decode("utf-8", "replace") if path.exists() else ""

    def snapshots(self) -> list[str]:
        """The tags of the host's snapshots, oldest first."""
        answer = run(["qemu-img", "info", "--force-share", "--output=json", str(self.directory / "disk.qcow2")])
        return [snapshot["name"] for snapshot in json.loads(answer).get("snapshots", [])]

    def summary(self) -> dict[str, object]:
        """One row of ``list``."""
        config = self.config
        return {
            "name": self.name,
            "state": "running" if self.running else "stopped",
            "ssh_port": self.ssh.port,
            "forwards": [asdict(forward) for forward in config.machine.forwards if forward.guest_port != SSH_PORT],
            "accelerator": config.accelerator,
            "memory_mib": config.machine.memory_mib,
            "image": config.image,
            "directory": str(self.directory),
        }

    # -- what changes it -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Let one lab command at a time change this host."""
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        with open(self.directory.parent / f".{self.name}.lock", "w", encoding="ascii") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def create(self, image: Path, key: Path, machine: Machine, *, cached: bool) -> None:
        """Make the host's directory: a disk over ``image``, firmware variables, ``host.json``.

        :param cached: the image is the cache's, which may prune it: keep a link to it. Else it is the user's own.
        """
        require(["qemu-img"], {OVMF_VARS: "ovmf"})
        unfinished = self.directory.parent / f".{self.name}.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        base = _link_or_copy(image, unfinished / "base.raw").name if cached else str(image)
        form = json.loads(run(["qemu-img", "info", "--output=json", str(image)]))["format"]
        run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", base, "disk.qcow2"], cwd=unfinished)
        # QEMU saves a running machine only when all of its writable drives can hold snapshots.
        run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(OVMF_VARS), str(unfinished / "efivars.qcow2")])
        shutil.rmtree(self.directory, ignore_errors=True)
        os.rename(unfinished, self.directory)
        self._write(Config(machine=machine, image=str(image), key=str(key)))

    def create_from(self, source: Host, tag: str, machine: Machine) -> None:
        """Make the host's directory as a copy of ``source`` with its snapshot ``tag``, from which it can be restored.

        A source that runs is stopped while its disk is copied: QEMU then writes out what it holds back of the disk's tables.

        :param machine: its memory and CPUs have to be those of the snapshot.
        :raises LabError: when the source has no such snapshot, or space is short.
        """
        source.require_snapshot(tag)
        require_space(self.directory.parent, _START_MIB, "a copy of a host")
        unfinished = self.directory.parent / f".{self.name}.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        with source.stopped():
            for name in ("disk.qcow2", "efivars.qcow2"):
                run(["cp", "--sparse=always", "--reflink=auto", str(source.directory / name), str(unfinished / name)])
        if (source.directory / "base.raw").exists():
            _link_or_copy(source.directory / "base.raw", unfinished / "base.raw")
        shutil.rmtree(self.directory, ignore_errors=True)
        os.rename(unfinished, self.directory)
        self._write(replace(source.config, machine=machine))

    def start(self, progress: Progress, *, snapshot: str | None = None, first: str = "true") -> None:
        """Start QEMU, from power on or from ``snapshot``, and wait until ssh answers.

        :param first: a command to run on the host as soon as that is possible after power on.
        :raises LabError: when a port is taken, space is short, QEMU fails, or ssh does not answer in time.
        """
        require([qemu.PROGRAM, "ssh"], {OVMF_CODE: "ovmf"})
        require_space(self.directory, _START_MIB, "a running host")
        config = self._with_ssh_port(self.config)
        for forward in config.machine.forwards:
            ports.require_free(forward.host_port)
        config = replace(config, accelerator="kvm" if qemu.kvm_works() else "tcg")
        self._write(config)
        progress.say(
            f"starting QEMU with {'KVM' if config.accelerator == 'kvm' else 'TCG (no usable KVM: everything is about ten times slower)'},"
            f" {config.machine.memory_mib} MiB, {config.machine.cpus} CPUs"
        )
        self._pid_file.unlink(missing_ok=True)
        # A file for its output: the process in the background would hold a pipe open.
        log = self.directory / "qemu.log"
        run(qemu.command_line(config.machine, config.accelerator, paused=snapshot is not None), cwd=self.directory, log=log)
        if snapshot is None:
            self._wait(progress, lambda: first)
            return
        try:
            with self.qmp() as control:
                control.run_job("snapshot-load", {"tag": snapshot, "vmstate": qemu.DISK_NODE, "devices": [qemu.DISK_NODE, qemu.EFI_NODE]})
                control.execute("cont")
        except LabError:
            self.cut_power()
            raise
        # The guest's clock stood still since the snapshot.
        self._wait(progress, lambda: f"date --utc --set=@{time.time():.0f}")

    def reconfigure(self, machine: Machine) -> None:
        """Keep ``machine`` for the next start."""
        self._write(replace(self.config, machine=machine))

    def _wait(self, progress: Progress, remote: Callable[[], str]) -> None:
        """Wait until the command that ``remote`` returns, asked anew at each attempt, succeeds on the host over ssh.

        :raises LabError: when QEMU ends or the time is over, with the last line of the console.
        """
        until = time.monotonic() + _BOOT_SECONDS
        say_at = time.monotonic() + _SAY_EVERY
        ssh = self.ssh
        while not (ssh.server_speaks() and ssh.succeeds(remote())):
            if not self.running:
                raise LabError(f"{self.name}: QEMU ended; see {self.directory / 'qemu.log'} and: console {self.name}")
            if _EMERGENCY in self.console()[-4000:]:
                raise LabError(f"{self.name} stopped in systemd's emergency mode; see: console {self.name}")
            if time.monotonic() > until:
                raise LabError(
                    f"{self.name}: ssh does not answer after {_BOOT_SECONDS} s; last on the console: {last_line(self.console())}"
                )
            if time.monotonic() > say_at:
                progress.say(f"waiting for ssh; last on the console: {last_line(self.console())}")
                say_at += _SAY_EVERY
            time.sleep(0.2)
        progress.say(f"ssh answers on port {ssh.port}")

    def qmp(self) -> Qmp:
        """A connection to the host's QEMU.

        :raises LabError: when it does not run.
        """
        name = self.config.machine.name
        if not self.running:
            raise LabError(f"{name} is not running; start it with: up {name}")
        return Qmp(self.directory)

    def save_snapshot(self, tag: str) -> None:
        """Save the running host, memory and disks, under ``tag``; an older one of that name is replaced."""
        nodes = [qemu.DISK_NODE, qemu.EFI_NODE]
        with self.qmp() as control:
            if tag in self.snapshots():
                control.run_job("snapshot-delete", {"tag": tag, "devices": nodes})
            if self.config.accelerator == "tcg":
                self._stop_when_idle(control)
            try:
                control.run_job("snapshot-save", {"tag": tag, "vmstate": qemu.DISK_NODE, "devices": nodes})
            finally:
                control.execute("cont")

    def restore_snapshot(self, tag: str, progress: Progress) -> None:
        """Put the host, running or not, back to ``tag``. QEMU is started anew, so no connection from before survives."""
        self.require_snapshot(tag)
        self.cut_power()
        self.start(progress, snapshot=tag)

    def require_snapshot(self, tag: str) -> None:
        """Check that there is a snapshot ``tag``.

        :raises LabError: with the tags that there are.
        """
        if tag not in self.snapshots():
            raise LabError(f"{self.name} has no snapshot {tag}; it has: {', '.join(self.snapshots()) or 'none'}")

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Let a host that runs stand still, with its disk written out; one that is off is off."""
        if not self.running:
            yield
            return
        with self.qmp() as control:
            control.execute("stop")
            try:
                yield
            finally:
                control.execute("cont")

    def reset(self) -> None:
        """Press the reset button."""
        with self.qmp() as control:
            control.execute("system_reset")

    def cut_power(self) -> None:
        """End QEMU at once. What the guest had flushed to its disk is kept, what it had only in memory is lost."""
        pid = processes.read_pid(self._pid_file)
        if pid is not None and self.exists:
            processes.kill(pid, self.config.machine.uuid)
        self._pid_file.unlink(missing_ok=True)

    def shut_down(self, progress: Progress) -> None:
        """Let the host power itself off; cut the power when it does not."""
        if self.running:
            progress.say("powering off")
            if not (self.ssh.server_speaks() and self.ssh.succeeds("systemctl poweroff", 30)):
                with self.qmp() as control:
                    control.execute("system_powerdown")
            pid = processes.read_pid(self._pid_file)
            if pid is not None and not processes.wait_end(pid, self.config.machine.uuid, _POWEROFF_SECONDS):
                progress.say(f"still on after {_POWEROFF_SECONDS} s: cutting the power")
        self.cut_power()
        progress.say("is off")

    def destroy(self) -> None:
        """End the host and delete all of it."""
        self.cut_power()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _stop_when_idle(self, control: Qmp) -> None:
        """Let the host stand still at a moment at which no CPU is within a guest of its own.

        QEMU's emulated SVM saves such a CPU, and refuses to load it (``cpu_post_load`` asks for KVM's nested state). An idle one is
        halted, and then it is Xen itself that has halted it.
        """
        for _attempt in range(_IDLE_ATTEMPTS):
            control.execute("stop")
            if "HLT=0" not in control.execute("human-monitor-command", {"command-line": "info registers -a"}):
                return
            control.execute("cont")
            time.sleep(_IDLE_PAUSE)
        raise LabError(f"{self.name} is never idle, so that a snapshot could not be restored; wait until it has come to rest")

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _with_ssh_port(self, config: Config) -> Config:
        """``config`` with a forward to sshd: on the port of the last start if it is free, so that open inventories stay valid."""
        recorded = next((forward.host_port for forward in config.machine.forwards if forward.guest_port == SSH_PORT), None)
        others = tuple(forward for forward in config.machine.forwards if forward.guest_port != SSH_PORT)
        forwards = (Forward(ports.choose(recorded), SSH_PORT), *others)
        return replace(config, machine=replace(config.machine, forwards=forwards))

    def _write(self, config: Config) -> None:
        unfinished = self.directory / "host.json.new"
        unfinished.write_text(json.dumps(asdict(config), indent=2) + "\n")
        os.replace(unfinished, self.directory / "host.json")


def find_host(directory: Path, name: str) -> Host:
    """The host ``name`` of a run directory, made or not.

    :raises LabError: when the name cannot be one.
    """
    if not _NAME.fullmatch(name):
        raise LabError(f"'{name}' cannot name a host: letters a-z, digits and inner dashes, at most 40")
    return Host(directory / name)


def all_hosts(directory: Path) -> list[Host]:
    """Every host of a run directory."""
    return [host for path in sorted(directory.glob("*")) if (host := Host(path)).exists]


def new_machine(name: str, memory_mib: int, cpus: int, forwards: tuple[Forward, ...], network: bool, virtualization: bool) -> Machine:
    """A machine with an identity of its own, by which its process is recognized."""
    return Machine(name, str(uuid.uuid4()), memory_mib, cpus, forwards, network, virtualization)


def last_line(console: str) -> str:
    """The last line of a console that says something, without control sequences, at most 100 characters."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x20-\x7e\n]", "", console[-4000:])
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    return lines[-1][:100] if lines else "nothing yet"


def _link_or_copy(image: Path, target: Path) -> Path:
    try:
        os.link(image, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        require_space(target.parent, _START_MIB, "a copy of the image")
        run(["cp", "--sparse=always", "--reflink=auto", str(image), str(target)])
    return target
