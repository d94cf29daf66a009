"""QEMU's command line, and which accelerator this machine can really use."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ringfence_lab.paths import OVMF_CODE

PROGRAM = "qemu-system-x86_64"

_TCG_CPU = "EPYC,-smap,-rdtscp,-monitor,-xsave"
"""A model with emulated SVM and NPT, for PVH. Without SMAP: QEMU 7.2's IRET reads a user stack as supervisor, and a PV dom0
dies at its first instructions. Without RDTSCP: a PVH guest loops on it. Without MONITOR: Xen's idle loop faults on MWAIT.
Without XSAVE, and so without AVX: Xen switches FPU registers lazily on AMD, and QEMU's XSAVE and XRSTOR do not raise #NM while
CR0.TS is set (its FXSAVE does), so domains would save and restore each other's registers."""

_PROBE_SECONDS = 5.0

DISK_NODE = "disk"
EFI_NODE = "efivars"


@dataclass(frozen=True)
class Forward:
    """A TCP port of this machine's loopback that leads to a port of the host."""

    host_port: int
    guest_port: int


@dataclass(frozen=True)
class Machine:
    """What QEMU is started with. Paths are relative to the host's run directory, which is QEMU's working directory."""

    name: str
    uuid: str
    memory_mib: int
    cpus: int
    forwards: tuple[Forward, ...]
    network: bool
    virtualization: bool = True
    """Whether its CPU has hardware virtualization; most cloud instances have none, and Xen can only run PV guests there."""


def command_line(machine: Machine, accelerator: str, *, paused: bool = False) -> list[str]:
    """The arguments that start ``machine`` in the background.

    ``cache.no-flush``: what the guest flushes stays in this machine's memory, which outlives QEMU; only a power cut of this
    machine itself would lose it.

    :param accelerator: ``kvm`` or ``tcg``.
    :param paused: do not run the CPUs yet, because a snapshot is to be loaded.
    """
    network = f"user,id=net,hostname={machine.name}"
    if not machine.network:
        network += ",restrict=on"
    for forward in machine.forwards:
        network += f",hostfwd=tcp:127.0.0.1:{forward.host_port}-:{forward.guest_port}"
    unsafe = "cache.no-flush=on,cache.direct=off"
    cpu = ["-accel", "kvm", "-cpu", "host"] if accelerator == "kvm" else ["-accel", "tcg,thread=multi", "-cpu", _TCG_CPU]
    if not machine.virtualization:
        cpu[-1] += ",-svm,-vmx"
    return [
        PROGRAM,
        "-name",
        machine.name,
        "-uuid",
        machine.uuid,
        "-nodefaults",
        "-no-user-config",
        *cpu,
        "-machine",
        # Devices nobody uses cost the guest drivers to load.
        "q35,sata=off,smbus=off,i8042=off,vmport=off",
        "-smp",
        str(machine.cpus),
        "-m",
        str(machine.memory_mib),
        "-display",
        "none",
        "-rtc",
        "base=utc",
        "-drive",
        f"if=pflash,unit=0,format=raw,readonly=on,file={OVMF_CODE}",
        "-blockdev",
        f"driver=qcow2,node-name={EFI_NODE},{unsafe},file.driver=file,file.filename=efivars.qcow2",
        "-machine",
        f"pflash1={EFI_NODE}",
        "-blockdev",
        f"driver=qcow2,node-name={DISK_NODE},{unsafe},discard=unmap,file.driver=file,file.filename=disk.qcow2",
        "-device",
        f"virtio-blk-pci,drive={DISK_NODE},bootindex=0",
        "-netdev",
        network,
        "-device",
        "virtio-net-pci,id=nic,netdev=net,romfile=",
        "-device",
        "virtio-rng-pci",
        "-chardev",
        "file,id=console,path=console.log,append=on",
        "-serial",
        "chardev:console",
        "-qmp",
        "unix:qmp.sock,server=on,wait=off",
        "-pidfile",
        "qemu.pid",
        "-daemonize",
        *(["-S"] if paused else []),
    ]


def kvm_works(device: Path = Path("/dev/kvm"), modules: Path = Path("/sys/module")) -> bool:
    """Whether a host of the lab really runs under KVM here.

    The device may exist and QEMU still abort when it sets up the CPU. And the host needs virtualization of its own, for PVH zones:
    ``kvm_intel`` and ``kvm_amd`` nest it, which is their parameter ``nested``; a KVM without hardware behind it cannot even start UEFI.
    """
    nested = any(
        parameter.read_text(encoding="ascii").strip() in ("Y", "1")
        for parameter in (modules / vendor / "parameters/nested" for vendor in ("kvm_intel", "kvm_amd"))
        if parameter.exists()
    )
    return nested and os.access(device, os.R_OK | os.W_OK) and firmware_speaks("kvm")


def firmware_speaks(accelerator: str) -> bool:
    """Whether the firmware of an empty guest gets as far as its first words on the debug port."""
    with tempfile.TemporaryDirectory() as directory:
        words = Path(directory) / "words"
        process = subprocess.Popen(
            [
                *(PROGRAM, "-nodefaults", "-no-user-config", "-machine", "q35", "-m", "64", "-display", "none"),
                *("-accel", accelerator, "-cpu", "host" if accelerator == "kvm" else "max"),
                *("-chardev", f"file,id=words,path={words}", "-device", "isa-debugcon,iobase=0x402,chardev=words"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until = time.monotonic() + _PROBE_SECONDS
            while process.poll() is None and time.monotonic() < until:
                if words.exists() and b"SeaBIOS" in words.read_bytes():
                    return True
                time.sleep(0.05)
            return False
        finally:
            process.kill()
            process.wait()
