# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes this machine a Xen host in three steps, as :mod:`decisions` has it: prepare, (install packages,) arm, (reboot,) confirm."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import struct
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils import debian, disk_space, host_files
from ansible_collections.ringfence.zones.plugins.module_utils.boot import decisions
from ansible_collections.ringfence.zones.plugins.module_utils.command import CommandFailed, run
from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration, RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.host import boot_id, os_release, xl_info
from ansible_collections.ringfence.zones.plugins.module_utils.store import sync, write_atomically
from ansible_collections.ringfence.zones.plugins.module_utils.zone.hypervisor import Hypervisor, booted_into_xen

_EXT4_IOC_CHECKPOINT = 0x4004662B
"""Has ext4 write its journal out (Linux 5.15, include/uapi/linux/ext4.h)."""

_GRUB_CFG = Path("/boot/grub/grub.cfg")
_GRUB_ENVIRONMENT = Path(decisions.GRUB_ENVIRONMENT)
_GRUB_DEFAULTS = Path("/etc/default/grub")
_BLOCK_DEVICES = Path("/sys/dev/block")
_PROC_NET = Path("/proc/net")
_MARKER = Path(decisions.TRIAL_MARKER)
_TIMER_LINK = Path("/etc/systemd/system/sysinit.target.wants") / decisions.TRIAL_TIMER
_SECURE_BOOT = Path("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c")
_DPKG_JOURNAL = Path("/var/lib/dpkg/updates")
_HYPERVISORS = {"kvm_intel": "KVM", "kvm_amd": "KVM", "vboxdrv": "VirtualBox", "vmmon": "VMware"}
"""Kernel modules of hypervisors, which virtual machines hold while they run."""
_MIB = 1024 * 1024
_LOCK_SECONDS = 600.0
"""How long somebody else may install packages before it is a fault."""
_REBOOT_SECONDS = 60.0
"""How long after a trial was armed the run that did it may still be about to reboot the machine."""
_SETTLE_SECONDS = 300.0
"""How long a booted system may take to start its units before its health is judged."""
_ROUTE_SECONDS = 30.0
"""How long after that a default route may still come: by a router's announcement, for one."""
_RTF_REJECT = 0x0200
"""Of a route that leads nowhere (include/uapi/linux/route.h)."""


@dataclass
class Outcome:
    """What a step did, or would do in check mode."""

    changes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    changed: bool = False
    pending: list[str] = field(default_factory=list)
    """Why a reboot is needed."""
    armed: bool = False
    """The next boot is a trial."""
    unconfirmed: bool = False
    """Xen runs as declared, or will after the reboot, and has to be confirmed."""
    packages: list[str] = field(default_factory=list)
    """What has to be installed between :func:`prepare` and :func:`arm`."""


def prepare(options: decisions.Options, *, check: bool) -> Outcome:
    """Check the machine, then make plain Linux its default, so that installing Xen changes nothing of what it boots.

    :raises InvalidDeclaration: with every reason why the machine cannot become a Xen host; nothing was changed.
    """
    machine = _observe_machine()
    problems = decisions.preflight(machine, options)
    if problems:
        raise InvalidDeclaration(problems)
    trusted = _xen_is_trusted()
    files = decisions.host_files(options, _running().linux if trusted else _trial_linux())
    if trusted:
        # A changed boot configuration waits for a trial of its own.
        files = [file for file in files if file.path != decisions.GRUB_FILE]
    changes = host_files.outdated(files)
    missing, automatic, interrupted = _packages(machine.release)
    if check and missing:
        changes = {**changes, "packages": ("", "".join(f"{name}\n" for name in missing))}
    linux = _entries().linux
    retarget = not trusted and linux is not None and _saved_entry() != linux
    if not check:
        host_files.write(files)
        if retarget:
            _set_grub("grub-set-default", str(linux))
        if automatic:
            run(["apt-mark", "manual", *automatic])
        if interrupted:
            _finish_installation()
    return Outcome(changes=changes, changed=bool(changes) or retarget or bool(automatic) or interrupted, packages=missing)


def arm(options: decisions.Options, *, reboot: bool, check: bool) -> Outcome:
    """Make GRUB's entry for Xen as declared and, if it has to be booted and ``reboot`` allows it, the next boot a trial of it.

    A Xen that is trusted already is left as it is until a reboot is allowed. Where none is allowed, a trial that an earlier run armed is
    called off, so that whoever boots the machine next gets its default.

    :raises RingfenceError: when GRUB does not get the entry, or a trial has failed and :func:`confirm` was not reached to tell of it.
    """
    running = _running()
    marker = _read_marker()
    # A run was killed, or the power was cut, between the two last steps of confirm(); or a run was ended between arm() and its reboot.
    ended = bool(marker) and (_xen_is_default() or (not reboot and _is_left_armed(marker)))
    if ended:
        marker = {}
        if not check:
            _disarm()
    if marker and not running.in_xen and marker["boot"] != boot_id():
        if not check:
            _disarm()
        raise RingfenceError(_fallback_report(marker))
    pending = decisions.reasons_to_reboot(running, options)
    if pending and _xen_is_trusted() and not reboot:
        return Outcome(changed=ended, pending=pending)
    linux = _trial_linux() if pending else running.linux
    files = decisions.host_files(options, linux)
    changes = host_files.outdated(files)
    update = decisions.GRUB_FILE in changes or not decisions.entry_is_current(_entries(), options, linux)
    unconfirmed = not pending and not _xen_is_default()
    outcome = Outcome(changes=changes, changed=bool(changes) or update or ended, pending=pending, unconfirmed=unconfirmed)
    if check:
        outcome.changed |= bool(pending) and reboot
        return outcome
    if pending:
        _default_to_linux()
    host_files.write(files)
    if update:
        run(["update-grub"])
        if pending and decisions.host_files(options, _trial_linux()) != files:
            # It was the first to see a serial console in the operator's /etc/default/grub.
            linux = _trial_linux()
            host_files.write(decisions.host_files(options, linux))
            run(["update-grub"])
        if not decisions.entry_is_current(_entries(), options, linux):
            raise RingfenceError(
                f"update-grub made no entry in {_GRUB_CFG} that boots Xen as declared; look for settings of GRUB_CMDLINE_XEN and"
                f" GRUB_CMDLINE_LINUX_XEN_REPLACE in /etc/default/grub.d that sort after {decisions.GRUB_FILE}, and remove them"
            )
    if pending and reboot:
        _arm_trial(options)
        outcome.armed = outcome.unconfirmed = outcome.changed = True
    return outcome


def confirm(options: decisions.Options, *, check: bool) -> Outcome:
    """Make a healthy Xen that was booted on trial the default.

    :raises RingfenceError: when the machine is back on plain Linux, or Xen is not healthy, with the evidence.
    """
    marker = _read_marker()
    if not booted_into_xen():
        if not check:
            _disarm()
        raise RingfenceError(_fallback_report(marker))
    with contextlib.suppress(CommandFailed):
        # Exits with a failure when some unit failed; what matters is asked below.
        run(["systemctl", "is-system-running", "--wait"], timeout=_SETTLE_SECONDS)
    problems = decisions.reasons_to_reboot(_running(), options)
    try:
        Hypervisor()
    except RingfenceError as error:
        problems.append(str(error))
    for family in _lost_routes(marker):
        problems.append(f"there is no {family} default route any more; compare the names of the interfaces with their configuration")
    if problems:
        raise RingfenceError(
            f"Xen is booted on trial but not healthy: {'; '.join(problems)}. Failed units: {_failed_units()}. It is not made the default:"
            f" the machine goes back to plain Linux {options.trial_timeout} s after its boot (see {decisions.TRIAL_MARKER})"
        )
    xen = _entries().xen
    if xen is None:
        raise RingfenceError(f"{_GRUB_CFG} has no entry for Xen any more; run update-grub, then the play again")
    changed = bool(marker) or _saved_entry() != xen
    if changed and not check:
        _set_grub("grub-set-default", xen)
        _disarm()
    return Outcome(changed=changed)


def _arm_trial(options: decisions.Options) -> None:
    entries = _entries()
    marker = {
        "armed_at": time.time(),
        "boot": boot_id(),
        "xen": entries.xen_command_line,
        "default_routes": sorted(_default_routes()),
        "timeout": options.trial_timeout,
    }
    write_atomically(_MARKER, json.dumps(marker, indent=2).encode() + b"\n", 0o644)
    _TIMER_LINK.parent.mkdir(parents=True, exist_ok=True)
    if not _TIMER_LINK.is_symlink():
        _TIMER_LINK.symlink_to(f"../{decisions.TRIAL_TIMER}")
    sync(_TIMER_LINK.parent)  # No trial without its deadline, also after a power cut.
    _set_grub("grub-reboot", str(entries.xen))


def _is_left_armed(marker: Mapping[str, Any]) -> bool:
    """Whether the machine was not rebooted into the trial, and nobody is about to do it."""
    return marker["boot"] == boot_id() and abs(time.time() - float(marker["armed_at"])) > _REBOOT_SECONDS


def _disarm() -> None:
    if _environment().get("next_entry", "").startswith("xen-"):
        _set_grub("grub-editenv", "-", "unset", "next_entry")  # Before its deadline goes.
    for path in (_TIMER_LINK, _MARKER):
        if os.path.lexists(path):
            path.unlink()
            sync(path.parent)


def _default_to_linux() -> None:
    linux = _entries().linux
    if linux is None:
        raise RingfenceError(f"{_GRUB_CFG} has no entry for plain Linux to fall back to; run update-grub and look why there is none")
    if _saved_entry() != linux:
        _set_grub("grub-set-default", linux)


def _fallback_report(marker: Mapping[str, Any]) -> str:
    if not marker:
        return "plain Linux is booted, and no trial of Xen was armed; run the play again"
    armed_at = float(marker["armed_at"])
    report = f"the trial boot into Xen failed; the machine is back on plain Linux, its default. Tried: Xen with '{marker['xen']}'. "
    boots = _xen_boots_since(armed_at)
    if not boots:
        return report + (
            "The journal has no boot under Xen: Xen, or dom0's kernel or initramfs, stopped before dom0's system ran. Look at the machine's"
            " screen or serial console during a boot of GRUB's entry 'with Xen hypervisor', and at the options"
        )
    boot = boots[-1]
    return report + (
        f"dom0's system was reached, but not confirmed within {marker['timeout']} s (boot {boot}). Its last errors:"
        f" {' | '.join(_errors_of_boot(boot)) or 'none'}. Look at: journalctl -b {boot}"
    )


def _xen_boots_since(since: float) -> list[str]:
    """The boots of which the journal holds a kernel's greeting from under Xen."""
    matches = ["_TRANSPORT=kernel", "--grep=Hypervisor detected: Xen|paravirtualized kernel on Xen"]
    try:
        answer = run(["journalctl", "--quiet", "--no-pager", "--output=json", f"--since=@{since - 5:.0f}", *matches], timeout=120)
    except CommandFailed:
        return []
    return list(dict.fromkeys(json.loads(line)["_BOOT_ID"] for line in answer.splitlines()))


def _errors_of_boot(boot: str) -> list[str]:
    argv = ["journalctl", "--quiet", "--no-pager", "--output=cat", "--priority=err", "--lines=8", f"_BOOT_ID={boot}"]
    try:
        return run(argv, timeout=120).decode("utf-8", "replace").splitlines()
    except CommandFailed as error:
        return [str(error)]


def _failed_units() -> str:
    try:
        listed = run(["systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager"]).decode("utf-8", "replace")
    except CommandFailed as error:
        return str(error)
    return ", ".join(line.split()[0] for line in listed.splitlines() if line.strip()) or "none"


def _running() -> decisions.Running:
    in_xen = booted_into_xen()
    return decisions.Running(
        in_xen=in_xen,
        xen=xl_info().get("xen_commandline", "") if in_xen else "",
        linux=Path("/proc/cmdline").read_text(encoding="utf-8").strip(),
    )


def _trial_linux() -> str:
    """The command line that dom0's kernel gets from GRUB on trial; that of this boot, if there is no entry for it yet."""
    return _entries().dom0_command_line or _running().linux


def _entries() -> decisions.Entries:
    try:
        return decisions.parse_entries(_GRUB_CFG.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return decisions.parse_entries("")


def _environment() -> dict[str, str]:
    try:
        return decisions.parse_environment(_GRUB_ENVIRONMENT.read_bytes())
    except FileNotFoundError:
        return {}


def _set_grub(*argv: str) -> None:
    """Change GRUB's environment so that GRUB finds it changed, also after a power cut.

    It writes the file to a new place, and GRUB reads ext4 without its journal: until the journal is written out, GRUB finds the old one.
    """
    run(argv)
    # Another file system than ext4 does not know it.
    with contextlib.suppress(OSError), _GRUB_ENVIRONMENT.open("rb") as file:
        fcntl.ioctl(file, _EXT4_IOC_CHECKPOINT, struct.pack("I", 0))


def _saved_entry() -> str:
    return _environment().get("saved_entry", "")


def _xen_is_default() -> bool:
    """Whether a boot into Xen has been confirmed before and is what GRUB does by itself."""
    return _saved_entry().startswith("xen-")


def _xen_is_trusted() -> bool:
    """Whether Xen has been confirmed before, or this is a Xen host already, by other hands and not by a trial that is under way."""
    return _xen_is_default() or (booted_into_xen() and not _MARKER.exists())


def _packages(release: str) -> tuple[list[str], list[str], bool]:
    """What has to be installed, what is there only because others needed it, and whether dpkg was interrupted when it installed something.

    apt takes away what only others needed, when it takes those away.
    """
    told = run(["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n"]).decode()
    states = dict(line.split() for line in told.splitlines())
    missing = [name for name in debian.packages(release) if states.get(name) != "installed"]
    chosen = run(["apt-mark", "showmanual"]).decode().split()
    automatic = [name for name in debian.packages(release) if name not in chosen and name not in missing]
    halves = {"half-installed", "unpacked", "half-configured", "triggers-awaited"} & set(states.values())
    interrupted = bool(halves) or any(path.name.isdigit() for path in _DPKG_JOURNAL.iterdir())
    # While nothing is missing, it is not for us to finish what somebody else may be doing now.
    return missing, automatic, interrupted and bool(missing)


def _finish_installation() -> None:
    """What apt demands before it installs anything. As with apt's own lock, whoever is at work is waited for."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            run(["env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--configure", "-a", "--force-confold"], timeout=1800)
            return
        except CommandFailed as error:
            if "by another process" not in error.output or time.monotonic() > deadline:
                raise
        time.sleep(5)


def _read_marker() -> dict[str, Any]:
    try:
        marker: dict[str, Any] = json.loads(_MARKER.read_bytes())
    except FileNotFoundError:
        return {}
    return marker


def _lost_routes(marker: Mapping[str, Any]) -> list[str]:
    """The families of the default routes that the machine had before the trial, and has no more."""
    deadline = time.monotonic() + _ROUTE_SECONDS
    while (lost := sorted(set(marker.get("default_routes", ())) - _default_routes())) and time.monotonic() < deadline:
        time.sleep(1)
    return lost


def _default_routes() -> set[str]:
    """The families in which this host has a default route."""
    found = {
        # Destination and mask are none; the first line has the names of the columns.
        "IPv4": (row[1] == row[7] == "00000000" for row in _routes("route")),
        # The length of the prefix is none; the kernel's own entry, which rejects, is always there.
        "IPv6": (row[1] == "00" and not int(row[8], 16) & _RTF_REJECT for row in _routes("ipv6_route")),
    }
    return {family for family, defaults in found.items() if any(defaults)}


def _routes(table: str) -> list[list[str]]:
    try:
        lines = (_PROC_NET / table).read_text(encoding="ascii").splitlines()
    except FileNotFoundError:  # The family is switched off.
        return []
    return [line.split() for line in lines if line.strip()]


def _observe_machine() -> decisions.Machine:
    release = os_release()
    file_system, device = _mount_of(Path("/boot/grub"))
    return decisions.Machine(
        container=Path("/run/systemd/container").exists(),
        distribution=release.get("ID", ""),
        release=release.get("VERSION_ID", ""),
        architecture=os.uname().machine,
        memory=_whole(int(xl_info()["total_memory"]) if booted_into_xen() else _linux_memory()),
        disk_free=disk_space.free(Path("/")) // _MIB,
        xen_installed=any(Path("/boot").glob("xen-*")),
        grub=_GRUB_CFG.exists() and all(_installed(program) for program in ("update-grub", "grub-reboot", "grub-set-default")),
        grub_file_system=file_system,
        grub_device_plain=_is_plain(device),
        grub_submenus=decisions.has_submenus(_grub_defaults()),
        secure_boot=_SECURE_BOOT.exists() and _SECURE_BOOT.read_bytes()[-1:] == b"\x01",
        dom0_kernel=booted_into_xen() or _kernel_has("CONFIG_XEN_DOM0=y"),
        foreign_python="" if debian.PYTHON_PACKAGES in sys.path else sys.executable,
        hypervisor="" if booted_into_xen() else _hypervisor(Path("/")),
    )


def _hypervisor(root: Path) -> str:
    """The hypervisor that a machine has which is no Xen host."""
    if (root / "etc" / "pve").is_dir():
        return "this is a host of Proxmox VE"
    # A PV guest has no hardware of its own for another Xen; an HVM or PVH guest does as any virtual machine.
    if _read_word(root / "sys" / "hypervisor" / "guest_type") == "PV":
        return "this is a PV guest of another Xen"
    for module, name in _HYPERVISORS.items():
        # Each virtual machine holds the module.
        if _read_word(root / "sys" / "module" / module / "refcnt") not in ("", "0"):
            return f"virtual machines of {name} run here (kernel module {module} is in use)"
    return ""


def _read_word(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _whole(memory: int) -> int:
    """MiB that are built in: firmware and kernel keep some of it, so neither Linux nor Xen tells of all."""
    return -(-memory // 256) * 256


def _linux_memory() -> int:
    """MiB that Linux tells of, without Xen."""
    matched = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    return int(matched[1]) // 1024 if matched else 0


def _mount_of(path: Path) -> tuple[str, str]:
    """The type of the file system that holds ``path``, and its device as major:minor."""
    best = ("", "none", "0:0")
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split()
        mount_point, device = fields[4], fields[2]
        inside = path == Path(mount_point) or Path(mount_point) in path.parents
        if inside and len(mount_point) >= len(best[0]):
            best = (mount_point, fields[fields.index("-") + 1], device)
    return best[1], best[2]


def _is_plain(device: str) -> bool:
    """Whether a block device, major:minor, is a disk or a partition of one, not of what LVM, LUKS or md make."""
    directory = (_BLOCK_DEVICES / device).resolve()
    disk = directory.parent if (directory / "partition").exists() else directory
    return not any((disk / kind).exists() for kind in ("dm", "md"))


def _grub_defaults() -> str:
    """The settings of update-grub, in its order."""
    paths = [_GRUB_DEFAULTS, *sorted(Path(f"{_GRUB_DEFAULTS}.d").glob("*.cfg"))]
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in paths if path.is_file())


def _installed(program: str) -> bool:
    return any((Path(directory) / program).exists() for directory in ("/usr/sbin", "/usr/bin", "/sbin", "/bin"))


def _kernel_has(setting: str) -> bool:
    config = Path("/boot") / f"config-{os.uname().release}"
    return config.exists() and setting in config.read_text(encoding="utf-8", errors="replace").splitlines()
