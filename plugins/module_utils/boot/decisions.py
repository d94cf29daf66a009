# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a machine boots into Xen, and what has to be done until it does. Pure decisions; :mod:`xen_host` observes and acts.

What GRUB boots by default has always been booted before: a Xen that was never tried, or whose parameters changed, is booted once, on
trial, and becomes the default only when the machine is back and healthy. Until then the default is plain Linux.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from ansible_collections.ringfence.zones.plugins.module_utils import debian
from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration
from ansible_collections.ringfence.zones.plugins.module_utils.host_files import HostFile

GRUB_FILE = "/etc/default/grub.d/zz-ringfence.cfg"
"""Sorts after the file of Debian's Xen packages, which makes an untried Xen the default."""

GRUB_ENVIRONMENT = "/boot/grub/grubenv"

TRIAL_MARKER = "/etc/ringfence/boot-trial.json"
"""Exists from the arming of a trial to its end. In /etc, because that is there even when no other file system is."""

TRIAL_TIMER = "ringfence-boot-trial.timer"

XENDOMAINS_SWITCH = "/etc/ringfence/xendomains"

PANIC_SECONDS = 30
"""After how long a dom0 kernel that panics, or whose initramfs finds no root, reboots."""

HARDENING = (
    # Microcode from dom0's initramfs, early.
    "ucode=scan",
    # 32-bit PV kernels run in ring 1, where the CPU's supervisor protections do not hold.
    "pv=no-32",
    # Grant tables version 2 and transitive grants are attack surface that Linux guests do not use.
    "gnttab=max-ver:1,no-transitive",
)
"""What the Xen project recommends for hosts of untrusted guests. Mitigations of speculation stay as Xen chooses them for the CPU."""

_MIB_FOR_ZONES = 512
"""Memory beside dom0's below which a host is of no use."""

_DISK_MIB = 1500
"""Free space that the packages need."""

_GRUB_FILE_SYSTEMS = ("ext2", "ext3", "ext4", "xfs", "vfat")
_NOT_OURS = ("placeholder", "no-real-mode", "edd=off")
"""What GRUB's script for Xen adds to Xen's command line by itself."""


@dataclass(frozen=True)
class Options:
    """What the operator declares. Memory in MiB; 0 CPUs means all."""

    dom0_memory: int
    dom0_cpus: int
    xen_options: tuple[str, ...]
    trial_timeout: int


@dataclass(frozen=True)
class Machine:
    """What the preflight looks at. Sizes in MiB."""

    container: bool
    distribution: str
    release: str
    architecture: str
    memory: int
    disk_free: int
    xen_installed: bool
    grub: bool
    grub_file_system: str
    grub_device_plain: bool
    grub_submenus: bool
    secure_boot: bool
    dom0_kernel: bool
    foreign_python: str
    """The Python that runs the tasks, if it is not Debian's; else empty."""
    hypervisor: str
    """What makes virtual machines here, or is in Xen's place, now; empty if nothing is."""


@dataclass(frozen=True)
class Entries:
    """The entries of grub.cfg that matter, by GRUB's ids; ``None`` where there is none."""

    linux: str | None
    xen: str | None
    xen_command_line: str
    dom0_command_line: str


@dataclass(frozen=True)
class Running:
    """What is booted now. Both command lines are those of the running system; ``xen`` is empty on plain Linux."""

    in_xen: bool
    xen: str
    linux: str


def parse_options(dom0_memory: str, dom0_cpus: int, xen_options: Sequence[str], trial_timeout: int) -> Options:
    """Validate what the operator declares.

    :raises InvalidDeclaration: with every fault.
    """
    problems = []
    matched = re.fullmatch(r"([1-9][0-9]*) ?(MiB|GiB)", dom0_memory)
    memory = int(matched[1]) * (1024 if matched[2] == "GiB" else 1) if matched else 0
    if memory < 768:
        problems.append(f"dom0_memory: '{dom0_memory}' is not a size of at least 768MiB, for example 1536MiB or 2GiB")
    if dom0_cpus < 0:
        problems.append(f"dom0_cpus: {dom0_cpus} is not a number of CPUs; 0 means all of them")
    for option in xen_options:
        if not re.fullmatch(r"[\x21\x23\x25\x26\x28-\x5b\x5d-\x5f\x61-\x7e]+", option):
            problems.append(
                f"xen_options: '{option}' is not one Xen option without blanks, quotes, '$' and backslashes, for example iommu=1"
            )
        if option.split("=")[0] in ("dom0_mem", "dom0_max_vcpus", "noreboot"):
            problems.append(f"xen_options: '{option}' is not accepted: dom0_memory and dom0_cpus size dom0, and Xen reboots when it fails")
    if trial_timeout < 60:
        problems.append(f"trial_timeout: {trial_timeout} is less than 60 seconds, in which no machine boots")
    if problems:
        raise InvalidDeclaration(problems)
    return Options(memory, dom0_cpus, tuple(xen_options), trial_timeout)


def preflight(machine: Machine, options: Options) -> list[str]:
    """Every reason why ``machine`` cannot become a Xen host: what was found, what is needed, what to do."""
    problems = []
    if machine.container:
        problems.append("this is a container: Xen needs a machine, virtual or not; give the inventory the machine itself")
    if machine.distribution != "debian" or machine.release not in debian.SUITES.values():
        problems.append(
            f"the distribution is {machine.distribution or 'unknown'} {machine.release or 'of no release'}:"
            " Debian 12 or 13 is needed; install or upgrade to one of them"
        )
    if machine.architecture != "x86_64":
        problems.append(f"the architecture is {machine.architecture}: x86_64 is needed")
    needed = options.dom0_memory + _MIB_FOR_ZONES
    if machine.memory < needed:
        problems.append(
            f"the machine has {machine.memory} MiB of memory: dom0 takes {options.dom0_memory} MiB of ringfence_host_dom0_memory, and"
            f" at least {_MIB_FOR_ZONES} MiB are needed for zones; lower it or add memory"
        )
    if not machine.xen_installed and machine.disk_free < _DISK_MIB:
        problems.append(f"{machine.disk_free} MiB are free on /: {_DISK_MIB} MiB are needed for packages; free some")
    if not machine.grub:
        problems.append("no GRUB (update-grub, grub-reboot, /boot/grub/grub.cfg) is found: it is needed to try Xen once; install GRUB")
    elif machine.grub_file_system not in _GRUB_FILE_SYSTEMS or not machine.grub_device_plain:
        problems.append(
            f"/boot/grub is on {machine.grub_file_system}{'' if machine.grub_device_plain else ' above LVM, RAID or LUKS'}: GRUB cannot"
            " write there, and a Xen that does not boot would be tried for ever; put /boot on a plain partition with ext4, xfs or vfat"
        )
    if not machine.grub_submenus:
        problems.append(
            "GRUB_DISABLE_SUBMENU is set in /etc/default/grub or /etc/default/grub.d: GRUB then has no entries for the newest Linux and the"
            " newest Xen, between which the default is chosen; remove the setting"
        )
    if machine.secure_boot:
        problems.append("Secure Boot is on: Debian's GRUB then does not start Xen; switch it off in the firmware")
    if not machine.dom0_kernel:
        problems.append("the running kernel cannot be Xen's dom0 (CONFIG_XEN_DOM0 is not in its configuration); install linux-image-amd64")
    if machine.foreign_python:
        problems.append(
            f"the tasks run with {machine.foreign_python}, which has none of Debian's packages (libvirt, seccomp); set"
            " ansible_python_interpreter: /usr/bin/python3 for this machine"
        )
    if machine.hypervisor:
        problems.append(
            f"{machine.hypervisor}: Xen cannot share a machine with another hypervisor; move these guests elsewhere and stop them, or use"
            " another machine"
        )
    return problems


def xen_arguments(options: Options, linux_command_line: str) -> list[str]:
    """Xen's command line. A serial console that Linux has, Xen gets as well, since it takes the port away from Linux."""
    arguments = [f"dom0_mem={options.dom0_memory}M,max:{options.dom0_memory}M"]
    if options.dom0_cpus:
        arguments.append(f"dom0_max_vcpus={options.dom0_cpus}")
    serial = _serial_console(linux_command_line)
    if serial:
        port = f"com{serial[0] + 1}"  # Xen counts from 1.
        arguments += [f"{port}={serial[1]},8n1", f"console={port},vga"]
    arguments += HARDENING
    named = {option.split("=")[0] for option in options.xen_options}
    return [argument for argument in arguments if argument.split("=")[0] not in named] + list(options.xen_options)


def dom0_arguments() -> list[str]:
    """What dom0's kernel gets beside what the operator's plain Linux gets."""
    return ["console=tty0", "console=hvc0", f"panic={PANIC_SECONDS}"]


def _serial_console(linux_command_line: str) -> tuple[int, str] | None:
    """Linux's number of its serial console, and the speed in baud, if it has one."""
    ports = re.findall(r"(?:^|\s)console=ttyS([01])(?:,([0-9]+))?", linux_command_line)
    # ttyS0 without a speed is 9600 baud (Documentation/admin-guide/serial-console.rst).
    return (int(ports[-1][0]), ports[-1][1] or "9600") if ports else None


def host_files(options: Options, linux_command_line: str) -> list[HostFile]:
    """Every file that makes a Debian machine this Xen host, the boot configuration first."""
    serial = _serial_console(linux_command_line)
    return [
        HostFile(GRUB_FILE, _grub_defaults(options, linux_command_line)),
        HostFile("/etc/systemd/system/ringfence-boot-trial.service", _TRIAL_SERVICE),
        HostFile(f"/etc/systemd/system/{TRIAL_TIMER}", _TRIAL_TIMER.format(seconds=options.trial_timeout)),
        HostFile("/etc/systemd/system/ringfence-xenconsoled.service", _XENCONSOLED),
        HostFile("/etc/systemd/system/libvirtd.service.d/ringfence.conf", _LIBVIRTD_AFTER_XEN),
        HostFile("/etc/systemd/system/xendomains.service.d/ringfence.conf", _NO_XENDOMAINS),
        HostFile("/etc/ringfence/console-logs.conf", _LOGROTATE),
        HostFile("/etc/systemd/system/ringfence-console-logs.service", _LOGROTATE_SERVICE),
        HostFile("/etc/systemd/system/ringfence-console-logs.timer", _LOGROTATE_TIMER),
        *([HostFile(f"/etc/systemd/system/serial-getty@ttyS{serial[0]}.service.d/ringfence.conf", _NO_GETTY)] if serial else []),
    ]


def _grub_defaults(options: Options, linux_command_line: str) -> str:
    return (
        "# Written by ringfence.zones; a change here is lost. Xen options of your own: ringfence_host_xen_options.\n"
        "# The default is the saved entry: plain Linux until a trial boot into Xen has ended well.\n"
        "GRUB_DEFAULT=saved\n"
        "GRUB_SAVEDEFAULT=false\n"
        'GRUB_CMDLINE_XEN_DEFAULT=""\n'
        f'GRUB_CMDLINE_XEN="{" ".join(xen_arguments(options, linux_command_line))}"\n'
        f'GRUB_CMDLINE_LINUX_XEN_REPLACE_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT {" ".join(dom0_arguments())}"\n'
    )


_NO_GETTY = """\
# Xen has taken the port: what it shows of this system is hvc0. A getty here would fail and be restarted for ever.
[Unit]
ConditionPathExists=!/proc/xen/capabilities
"""

_TRIAL_SERVICE = f"""\
[Unit]
Description=End of an unconfirmed boot into Xen: back to plain Linux
# Reached even when the boot ends in emergency mode.
DefaultDependencies=no
IgnoreOnIsolate=yes
ConditionPathExists={TRIAL_MARKER}
ConditionPathExists=/sys/hypervisor/properties/features

[Service]
Type=oneshot
# Plain Linux as a guest of another Xen has that file too, but not the feature of a host's system (XENFEAT_dom0, 11).
ExecCondition=/bin/sh -c '[ $$((0x$$(cat /sys/hypervisor/properties/features) >> 11 & 1)) = 1 ]'
# Xen is the default: it was confirmed, and what did it was killed before it took the deadline away.
ExecCondition=/bin/sh -c '! grep -q "^saved_entry=xen-" {GRUB_ENVIRONMENT}'
ExecStart=/usr/bin/systemctl --force reboot
"""

_TRIAL_TIMER = """\
[Unit]
Description=Deadline of a boot into Xen on trial
DefaultDependencies=no
IgnoreOnIsolate=yes

[Timer]
OnBootSec={seconds}
AccuracySec=1
"""

_XENCONSOLED = """\
[Unit]
Description=Xen's console daemon, which logs what guests print
# Without it a guest that prints waits for ever, so it is restarted. Debian's xen.service starts one, which gives way to this one.
After=xen.service
PartOf=xen.service
Before=libvirtd.service
ConditionPathExists=/proc/xen/capabilities

[Service]
ExecStartPre=-/usr/bin/pkill -x xenconsoled
ExecStartPre=/usr/bin/mkdir -p -m 0700 /var/log/xen/console
ExecStart=/bin/sh -c 'exec "$(/usr/lib/xen-common/bin/xen-dir)/bin/xenconsoled" -i --log=guest'
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
"""

_LIBVIRTD_AFTER_XEN = """\
[Unit]
# libvirtd looks for Xen only when it starts, and waits for upstream's unit, which Debian names otherwise.
After=xen.service
"""

_NO_XENDOMAINS = f"""\
[Unit]
# It would write every zone's memory to disk at shutdown and start it behind libvirt's back; libvirt starts and ends zones.
ConditionPathExists={XENDOMAINS_SWITCH}
"""

_LOGROTATE = """\
# What a zone writes to its console is kept up to this size, once more after a rotation.
/var/log/xen/console/*.log {
    size 1M
    rotate 1
    missingok
    notifempty
    sharedscripts
    postrotate
        pkill -HUP -x xenconsoled || true
    endscript
}
"""

_LOGROTATE_SERVICE = """\
[Unit]
Description=Bound the console logs of Xen guests

[Service]
Type=oneshot
ExecStart=/usr/sbin/logrotate --state /run/ringfence-console-logs.state /etc/ringfence/console-logs.conf
"""

_LOGROTATE_TIMER = """\
[Unit]
Description=Bound the console logs of Xen guests every minute

[Timer]
OnBootSec=60
OnUnitActiveSec=60

[Install]
WantedBy=timers.target
"""


def parse_entries(grub_cfg: str) -> Entries:
    """The newest plain Linux and the newest Linux on Xen of a grub.cfg that update-grub wrote."""
    linux = re.search(r"'(gnulinux-simple-[^']+)'|--id (gnulinux-simple-\S+)", grub_cfg)
    xen = re.search(r"^menuentry [^\n]*'(xen-gnulinux-simple-[^']+)' \{\n(.*?)^\}", grub_cfg, re.MULTILINE | re.DOTALL)
    hypervisor = re.search(r"^\s*multiboot2?\s+\S+ (.*)$", xen[2], re.MULTILINE) if xen else None
    kernel = re.search(r"^\s*module2?\s+\S*vmlinu\S+ (.*)$", xen[2], re.MULTILINE) if xen else None
    return Entries(
        linux=(linux[1] or linux[2]) if linux else None,
        xen=xen[1] if xen else None,
        xen_command_line=re.sub(r"^placeholder\s+|\s*\$\{xen_rm_opts\}", "", hypervisor[1]) if hypervisor else "",
        dom0_command_line=kernel[1].removeprefix("placeholder ") if kernel else "",
    )


def parse_environment(block: bytes) -> dict[str, str]:
    """The variables of a grubenv file."""
    lines = block.decode("utf-8", "replace").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def has_submenus(grub_defaults: str) -> bool:
    """Whether update-grub makes submenus, and before them the entries that :func:`parse_entries` finds, by the text of its settings."""
    values = re.findall(r"""^\s*(?:export\s+)?GRUB_DISABLE_SUBMENU=["']?(\w*)""", grub_defaults, re.MULTILINE)
    return not values or values[-1] not in ("true", "yes", "y")


def entry_is_current(entries: Entries, options: Options, linux_command_line: str) -> bool:
    """Whether grub.cfg has an entry that boots Xen as declared."""
    return (
        entries.linux is not None
        and entries.xen is not None
        and _words(entries.xen_command_line) == set(xen_arguments(options, linux_command_line))
        and set(dom0_arguments()) <= set(entries.dom0_command_line.split())
    )


def reasons_to_reboot(running: Running, options: Options) -> list[str]:
    """Why what is booted is not what is declared; empty if it is."""
    if not running.in_xen:
        return ["plain Linux is booted, not Xen"]
    wanted, actual = set(xen_arguments(options, running.linux)), _words(running.xen)
    reasons = [f"Xen was booted without {argument}" for argument in sorted(wanted - actual)]
    reasons += [f"Xen was booted with {argument}" for argument in sorted(actual - wanted)]
    reasons += [f"dom0 was booted without {argument}" for argument in dom0_arguments() if argument not in running.linux.split()]
    return reasons


def _words(xen_command_line: str) -> set[str]:
    return {word for word in shlex.split(xen_command_line) if word not in _NOT_OURS}
