"""The command line."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ringfence_lab import images, ports
from ringfence_lab.errors import LabError
from ringfence_lab.hosts import SSH_PORT, Host, all_hosts, find_host, new_machine
from ringfence_lab.keys import lab_key
from ringfence_lab.paths import cache_directory, run_directory
from ringfence_lab.progress import Progress
from ringfence_lab.qemu import Forward

_DEFAULT_SUITE = "debian13"
_DEFAULT_MEMORY_MIB = 4096
_DEFAULT_CPUS = 1
"""Emulated CPUs that wait for each other while one of them has no turn on a busy machine cost far more than a second one brings."""


def main(arguments: Sequence[str]) -> int:
    """Run one verb; the exit status."""
    options = parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    root = argparse.ArgumentParser(prog="lab", description="Builds and runs Xen-capable Debian hosts in QEMU on this machine.")
    verbs = root.add_subparsers(required=True, metavar="VERB")

    verb = verbs.add_parser("build", help="build a bare Debian image, unless the cache has it, and print its path")
    verb.add_argument("image", choices=sorted(images.SUITES))
    verb.set_defaults(run=_build)

    verb = verbs.add_parser("key", help="print the path of the lab's ssh key, whose public half an image of your own must accept for root")
    verb.set_defaults(run=_key)

    verb = verbs.add_parser("up", help="make and start a host, and wait until ssh answers")
    verb.add_argument("name")
    verb.add_argument("--suite", choices=sorted(images.SUITES), help=f"the Debian of a new host (default {_DEFAULT_SUITE})")
    verb.add_argument("--image", type=Path, help="a disk image of your own for a new host, instead of --suite")
    verb.add_argument("--memory", type=_positive, metavar="MIB", help=f"default {_DEFAULT_MEMORY_MIB}")
    verb.add_argument("--cpus", type=_positive, metavar="N", help=f"default {_DEFAULT_CPUS}")
    verb.add_argument("--forward", type=_forward, action="append", metavar="HOSTPORT:GUESTPORT", help="of loopback; may be repeated")
    verb.add_argument("--no-network", action="store_true", help="the host reaches nothing outside; ssh and forwards still work")
    verb.add_argument("--no-virtualization", action="store_true", help="its CPU has no hardware virtualization: no PVH")
    verb.set_defaults(run=_up)

    verb = verbs.add_parser("ssh", help="a shell, or one command, as root on a host")
    verb.add_argument("name")
    verb.add_argument("command", nargs=argparse.REMAINDER)
    verb.set_defaults(run=_ssh)

    verb = verbs.add_parser("list", help="all hosts of this checkout")
    verb.add_argument("--json", action="store_true")
    verb.set_defaults(run=_list)

    verb = verbs.add_parser("inventory", help="an Ansible inventory (JSON, which is YAML) of these hosts")
    verb.add_argument("names", nargs="+", metavar="name")
    verb.set_defaults(run=_inventory)

    for name, function, text in (
        ("console", _console, "print what the host wrote to its serial console"),
        ("snapshots", _snapshots, "the snapshots of a host"),
        ("power-cut", _power_cut, "end a host as a mains failure would: what it had flushed to disk is kept"),
        ("reset", _reset, "press the reset button"),
        ("down", _down, "let a host power itself off, else cut the power"),
    ):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("name")
        verb.set_defaults(run=function)

    for name, function, text in (
        ("snapshot", _snapshot, "save a running host, memory and disk"),
        ("restore", _restore, "put a host back to a snapshot, running"),
    ):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("name")
        verb.add_argument("tag", type=_tag)
        verb.set_defaults(run=function)

    verb = verbs.add_parser("clone", help="make a host that can be restored to a snapshot of another one")
    verb.add_argument("source")
    verb.add_argument("tag", type=_tag)
    verb.add_argument("name")
    verb.set_defaults(run=_clone)

    verb = verbs.add_parser("destroy", help="end hosts and delete all of them")
    verb.add_argument("names", nargs="*", metavar="name")
    verb.add_argument("--all", action="store_true", help="every host of this checkout")
    verb.set_defaults(run=_destroy)
    return root


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def _forward(text: str) -> Forward:
    found = re.fullmatch(r"(\d{1,5}):(\d{1,5})", text)
    if not found or not all(0 < int(port) < 65536 for port in found.groups()):
        raise argparse.ArgumentTypeError(f"'{text}' is not HOSTPORT:GUESTPORT with ports from 1 to 65535")
    if int(found[2]) == SSH_PORT:
        raise argparse.ArgumentTypeError(f"port {SSH_PORT} of the host is forwarded by the lab itself; 'list' shows from where")
    return Forward(int(found[1]), int(found[2]))


def _tag(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text) or text.isdecimal():
        # QEMU would take a number for a snapshot's id.
        raise argparse.ArgumentTypeError(f"'{text}' cannot name a snapshot: letters, digits, '.', '_', '-', and not a mere number")
    return text


def _build(options: argparse.Namespace) -> int:
    print(images.build(options.image, cache_directory(), Progress(options.image)))
    return 0


def _key(_options: argparse.Namespace) -> int:
    print(lab_key(cache_directory()))
    return 0


def _up(options: argparse.Namespace) -> int:
    host = find_host(run_directory(), options.name)
    progress = Progress(host.name)
    with host.lock():
        if host.running:
            progress.say(f"is running, ssh on port {host.ssh.port}")
            return 0
        for forward in options.forward or []:
            ports.require_free(forward.host_port)
        if host.exists:
            _check_same_image(host, options)
            _apply_options(host, options)
            host.start(progress)
        else:
            _create(host, options, progress)
            # The lab's image has one name for all hosts; an image of the user's own is left as it is.
            rename = f"echo {host.name} >/etc/hostname && hostname {host.name} && echo 127.0.1.1 {host.name} >>/etc/hosts"
            host.start(progress, first=rename if options.image is None else "true")
    return 0


def _create(host: Host, options: argparse.Namespace, progress: Progress) -> None:
    if options.image is not None:
        if options.suite is not None:
            raise LabError("--image and --suite exclude each other: a host has one disk")
        if not options.image.is_file():
            raise LabError(f"{options.image}: no such image file")
        image = options.image.absolute()
    else:
        image = images.build(options.suite or _DEFAULT_SUITE, cache_directory(), progress)
    machine = new_machine(
        host.name,
        options.memory or _DEFAULT_MEMORY_MIB,
        options.cpus or _DEFAULT_CPUS,
        tuple(options.forward or ()),
        not options.no_network,
        not options.no_virtualization,
    )
    host.create(image, lab_key(cache_directory()), machine, cached=options.image is None)


def _check_same_image(host: Host, options: argparse.Namespace) -> None:
    """A host keeps the disk it was made with."""
    image = host.config.image
    if options.suite is not None and not Path(image).name.startswith(f"{options.suite}-"):
        raise LabError(f"{host.name} was made from {image}, not {options.suite}: destroy it first, or choose another name")
    if options.image is not None and str(options.image.absolute()) != image:
        raise LabError(f"{host.name} was made from {image}, not {options.image}: destroy it first, or choose another name")


def _apply_options(host: Host, options: argparse.Namespace) -> None:
    """Options given for a host that is off hold from this start on; those not given stay as they were."""
    machine = host.config.machine
    ssh_forward = tuple(forward for forward in machine.forwards if forward.guest_port == SSH_PORT)
    changed = replace(
        machine,
        memory_mib=options.memory or machine.memory_mib,
        cpus=options.cpus or machine.cpus,
        forwards=machine.forwards if options.forward is None else (*ssh_forward, *options.forward),
        network=not options.no_network,
        virtualization=machine.virtualization and not options.no_virtualization,
    )
    # QEMU restores a snapshot only into the machine it was taken of.
    if replace(changed, forwards=machine.forwards, network=machine.network) != machine and (kept := host.snapshots()):
        raise LabError(
            f"{host.name} has snapshots ({', '.join(kept)}), which need its {machine.memory_mib} MiB and {machine.cpus} CPUs as they are:"
            " leave --memory, --cpus and --no-virtualization out, or choose another name"
        )
    host.reconfigure(changed)


def _ssh(options: argparse.Namespace) -> int:
    host = find_host(run_directory(), options.name)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    with host.qmp():
        pass
    return subprocess.run(host.ssh.command(*command), check=False).returncode


def _list(options: argparse.Namespace) -> int:
    rows = [host.summary() for host in all_hosts(run_directory())]
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"{'NAME':16} {'STATE':8} {'SSH PORT':8} {'ACCEL':5} {'MIB':>6}  IMAGE")
    for row in rows:
        image = os.path.basename(str(row["image"]))
        print(f"{row['name']:16} {row['state']:8} {row['ssh_port']:<8} {row['accelerator']:5} {row['memory_mib']:>6}  {image}")
    return 0


def _inventory(options: argparse.Namespace) -> int:
    hosts = [find_host(run_directory(), name) for name in options.names]
    print(json.dumps({"all": {"hosts": {host.name: host.ssh.inventory() for host in hosts}}}, indent=2))
    return 0


def _console(options: argparse.Namespace) -> int:
    host = find_host(run_directory(), options.name)
    if not host.exists:
        raise LabError(f"no host named {host.name}")
    sys.stdout.write(host.console())
    return 0


def _snapshots(options: argparse.Namespace) -> int:
    for tag in find_host(run_directory(), options.name).snapshots():
        print(tag)
    return 0


def _snapshot(options: argparse.Namespace) -> int:
    host = find_host(run_directory(), options.name)
    progress = Progress(host.name)
    with host.lock():
        host.save_snapshot(options.tag)
    progress.say(f"snapshot {options.tag} taken")
    return 0


def _restore(options: argparse.Namespace) -> int:
    host = find_host(run_directory(), options.name)
    with host.lock():
        host.restore_snapshot(options.tag, Progress(host.name))
    return 0


def _power_cut(options: argparse.Namespace) -> int:
    host = find_host(run_directory(), options.name)
    with host.lock():
        host.cut_power()
    return 0


def _reset(options: argparse.Namespace) -> int:
    host = find_host(run_directory(), options.name)
    host.reset()
    return 0


def _clone(options: argparse.Namespace) -> int:
    source = find_host(run_directory(), options.source)
    host = find_host(run_directory(), options.name)
    if host.exists:
        raise LabError(f"there is a host {host.name} already: destroy it first, or choose another name")
    with host.lock(), source.lock():
        like = source.config.machine
        machine = new_machine(host.name, like.memory_mib, like.cpus, (), like.network, like.virtualization)
        host.create_from(source, options.tag, machine)
    Progress(host.name).say(f"is a copy of {source.name}; start it with: restore {host.name} {options.tag}")
    return 0


def _down(options: argparse.Namespace) -> int:
    host = find_host(run_directory(), options.name)
    with host.lock():
        host.shut_down(Progress(host.name))
    return 0


def _destroy(options: argparse.Namespace) -> int:
    if bool(options.names) == options.all:
        raise LabError("destroy needs either host names or --all")
    hosts = all_hosts(run_directory()) if options.all else [find_host(run_directory(), name) for name in options.names]
    for host in hosts:
        with host.lock():
            host.destroy()
    return 0
