# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ``zonectl`` on a host: look at zones, enter them, stop and start them. What is declared stays Ansible's.

Exit status: that of the command for ``exec``, 1 for an error, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.errors import FAILURES, RingfenceError, printable, told
from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Zone
from ansible_collections.ringfence.zones.plugins.module_utils.store import ROOT, Store
from ansible_collections.ringfence.zones.plugins.module_utils.zone import channel, files, state
from ansible_collections.ringfence.zones.plugins.module_utils.zone.console import console_log, lines_of
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import starts_with_host
from ansible_collections.ringfence.zones.plugins.module_utils.zone.hypervisor import Hypervisor

_COLUMNS = ("name", "state", "health", "restarts", "virtualization", "memory", "address", "ports", "kernel_release", "image")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command."""
    options = _parser().parse_args(argv)
    # What zones print need not be in the character set of the terminal.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        status: int = options.run(options)
    except (KeyboardInterrupt, BrokenPipeError):
        return 130
    except FAILURES as error:
        sys.stderr.write(f"zonectl: {told(error)}\n")
        return 1
    return status


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, each column as wide as its widest cell. No cell can reach a terminal with a control character."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in shown) for column in range(len(shown[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zonectl", description="Look at the zones of this host, enter, stop and start them.")
    parser.set_defaults(store=Store(ROOT))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str, *, zone: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.set_defaults(run=run, wrong_usage=command.error)
        if zone:
            command.add_argument("zone", metavar="ZONE")
        return command

    listing = add("list", _list, "list the zones", zone=False)
    listing.add_argument("--json", action="store_true", help="as JSON, with all that zone_info returns")
    add("inspect", _inspect, "show all that is known of a zone, as JSON")
    logs = add("logs", _logs, "show what a zone's kernel and container have printed")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    kinds = logs.add_mutually_exclusive_group()
    kinds.add_argument("-k", "--kernel", action="store_const", dest="of_kernel", const=True, help="only of its kernel and its init")
    kinds.add_argument("-c", "--container", action="store_const", dest="of_kernel", const=False, help="only of its container")
    logs.add_argument("-n", "--lines", type=int, default=100, metavar="N", help="the last N lines; default 100")
    execute = add("exec", _exec, "run a command in a zone's container")
    execute.add_argument("-i", "--interactive", action="store_true", help="pass standard input on")
    execute.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
    execute.add_argument("argv", nargs=argparse.REMAINDER, metavar="COMMAND")
    add("connect", _connect, "connect to a zone's ssh server over standard input and output, as a ProxyCommand of ssh")
    add("start", _start, "start a zone that does not run")
    add("stop", _stop, "stop a zone in order; the next converge starts it again")
    add("restart", _restart, "stop and start a zone")
    top = add("top", _top, "show what the running zones use", zone=False)
    top.add_argument("--once", action="store_true", help="once, and not every two seconds")
    return parser


def _zones(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    return {zone["name"]: zone for zone in state.zones(options.store, Hypervisor())}


def _zone(options: argparse.Namespace) -> dict[str, Any]:
    found = _zones(options)
    if options.zone not in found:
        raise RingfenceError(f"zone {options.zone}: not on this host; its zones are: {', '.join(sorted(found)) or 'none'}")
    return found[options.zone]


def _list(options: argparse.Namespace) -> int:
    found = list(_zones(options).values())
    if options.json:
        _say(json.dumps(found, indent=2))
        return 0
    rows = [[column.upper().replace("_", " ") for column in _COLUMNS]]
    _say(table(rows + [[_cell(zone, column) for column in _COLUMNS] for zone in found]))
    return 0


def _cell(zone: dict[str, Any], column: str) -> str:
    value = zone.get(column)
    if isinstance(value, list):
        return ",".join(map(str, value)) or "-"
    # Of a digest, its algorithm and twelve digits.
    return "-" if value is None else str(value)[:19] if column == "image" else str(value)


def _inspect(options: argparse.Namespace) -> int:
    _say(json.dumps(_zone(options), indent=2))
    return 0


def _logs(options: argparse.Namespace) -> int:
    _zone(options)
    for line in lines_of(console_log(options.zone), max(1, options.lines), follow=options.follow, of_kernel=options.of_kernel):
        _say(line)
    return 0


def _exec(options: argparse.Namespace) -> int:
    argv = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
    if not argv:
        options.wrong_usage("name a command, for example: zonectl exec web -- ps")
    number = Hypervisor().zone_domain_id(options.zone)
    return channel.attach(options.zone, number, argv, stdin=options.interactive, tty=options.tty)


def _connect(options: argparse.Namespace) -> int:
    argv = channel.proxy(Hypervisor().zone_domain_id(options.zone))
    os.execv(argv[0], argv)


def _start(options: argparse.Namespace) -> int:
    if _zone(options)["domain_id"] is not None:
        raise RingfenceError(f"zone {options.zone}: it runs")
    hypervisor = Hypervisor()
    definition = hypervisor.observe()[0][options.zone].definition
    if definition is None:
        raise RingfenceError(f"zone {options.zone}: its metadata cannot be read; the next converge makes it anew")
    files.forget_record(options.store, definition)
    hypervisor.set_autostart(options.zone, starts_with_host(definition.zone))
    hypervisor.start(options.zone)
    return 0


def _stop(options: argparse.Namespace) -> int:
    if _end(options).get("restart") == "unless-stopped":
        Hypervisor().set_autostart(options.zone, False)
    return 0


def _end(options: argparse.Namespace) -> dict[str, Any]:
    """Stop a zone, which stays declared to start with the host: a restart that is killed between its halves is no stop."""
    zone = _zone(options)
    Hypervisor().stop(options.zone, zone.get("stop_grace_period", Zone.stop_grace_period) + files.POWER_OFF)
    return zone


def _restart(options: argparse.Namespace) -> int:
    _end(options)
    return _start(options)


def _top(options: argparse.Namespace) -> int:
    hypervisor = Hypervisor()
    before, then = hypervisor.cpu_seconds(), time.monotonic()
    while True:
        time.sleep(2)
        now, elapsed = hypervisor.cpu_seconds(), time.monotonic() - then
        rows = [["NAME", "STATE", "CPU %", "MEMORY MIB", "CPUS"]]
        for zone in _zones(options).values():
            used = (now.get(zone["name"], 0) - before.get(zone["name"], now.get(zone["name"], 0))) / elapsed * 100
            rows.append([zone["name"], zone["state"], f"{used:.1f}", _cell(zone, "memory"), _cell(zone, "cpus")])
        _say(("" if options.once else "\x1b[H\x1b[2J") + table(rows))
        if options.once:
            return 0
        before, then = now, time.monotonic()
