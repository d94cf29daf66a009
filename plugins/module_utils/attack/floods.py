# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Let one zone take as much as it can get, and measure meanwhile how fast the other zone and the host answer.

The control of a flood is that there was one: how much the zone says it has taken, of what the host cannot see.
"""

from __future__ import annotations

import dataclasses
import functools
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.attack.result import Attempt
from ansible_collections.ringfence.zones.plugins.module_utils.attack.zones import NAMES, OPEN, Told, Zones, escaping
from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.zone import network
from ansible_collections.ringfence.zones.plugins.module_utils.zone.console import console_end, console_log, halves, lines_of

_LOAD, _CONSOLE = 15, 16
_SECONDS = 10
"""How long each flood takes."""

MOST = 3.0
"""How many times longer than on an idle host the other zone's median answer may take."""

_UNNOTICED = 0.01
"""Seconds which are not told apart."""

_PATIENCE = 10.0
"""Seconds within which each single answer has to come."""

_PAUSE = 0.05
"""Seconds between two questions to the other zone."""

_LEAST = {"cpu": 16, "memory": 32, "disk": 4, "packets": 1000, "events": 1000, "xenstore": 100, "console": 50_000}
"""By kind how much makes a flood: processes, MiB, MiB, packets, events, requests, bytes."""

_MOST_CONSOLE = 1 << 20
"""Bytes a second that may reach the host's disk, whose logs are bounded every minute."""


def load(zones: Zones, token: str) -> list[Attempt]:
    """Flood, one kind after the other."""
    peer = network.address(zones.definitions[NAMES[1]].index)
    floods: dict[str, tuple[str, _Watched]] = {}
    idle = [_watched(peer, _idle)]
    if min(idle[0].delays) >= _PATIENCE:
        raise RingfenceError(f"{NAMES[1]} does not answer within {_PATIENCE:g} s, and nothing floods yet")
    for kind in _LEAST:
        watched = _watched(peer, functools.partial(_flood, zones, token, kind))
        floods[kind] = _amount(watched.said), watched
    idle.append(_watched(peer, _idle))
    # What else happens on this machine, or on the one that emulates it, is no zone's doing.
    usual = max(statistics.median(watched.delays) for watched in idle)
    return [attempt for kind, flooded in floods.items() for attempt in _judged(kind, *flooded, usual)]


def _flood(zones: Zones, token: str, kind: str) -> dict[str, Told]:
    """Let the first zone flood, and return what it says."""
    name, peer = NAMES
    targets = {
        "packets": network.address(zones.definitions[peer].index),
        "xenstore": f"/local/domain/{zones.numbers[name]}/name",
        "console": "/attack/dev/hvc0",
    }
    parameters = {"kind": kind, "seconds": _SECONDS, "target": targets.get(kind, "")}
    return zones.inside(name, [escaping(token), ("flood", parameters)], timeout=_SECONDS + 12 * _PATIENCE)


def _amount(said: dict[str, Told]) -> str:
    """How much a flood was, by what its program says."""
    return next(iter(said["flood"].values()))[1]


def _judged(kind: str, amount: str, watched: _Watched, usual: float) -> list[Attempt]:
    first, median, worst = NAMES[0], statistics.median(watched.delays), max(watched.delays)
    real = amount.isdigit() and int(amount) >= _LEAST[kind]
    control = f"the flood was real: {amount}" if real else f"there was no flood: {amount}"
    slow = worst >= _PATIENCE or median > max(MOST * usual, _UNNOTICED)
    told = f"it answers within {_ms(median)}, {_ms(worst)} at worst; idle {_ms(usual)}"
    host = f"it answers within {_ms(watched.host)}"
    return [
        Attempt(_LOAD, f"{first}: slow the other zone down by a flood of {kind}", slow, told, real, control),
        Attempt(_LOAD, f"{first}: hinder the host by a flood of {kind}", watched.host >= _PATIENCE, host, real, control),
    ]


def console(zones: Zones, token: str) -> list[Attempt]:
    """Flood the console alone, and see what that has done to the logs."""
    first, second = NAMES
    before, other = _console_size(first), _log(second)
    _flood(zones, token, "console")
    grown = _console_size(first) - before
    file = {"kind": "console", "seconds": 1, "target": "/attack/console"}
    elsewhere = _amount(zones.control([("flood", file)]))
    (zones.directory / "control" / "rootfs" / "attack" / "console").unlink(missing_ok=True)
    raw = console_end(first, 4096)
    shown = "\n".join(lines_of(console_log(first), 20, follow=False))
    return [
        Attempt(
            _CONSOLE,
            f"{first}: fill the host's disk by the console",
            grown > _SECONDS * _MOST_CONSOLE,
            f"{grown} bytes came to the disk in {_SECONDS} s",
            elsewhere.isdigit() and int(elsewhere) > _MOST_CONSOLE,
            f"into a file it writes {elsewhere} bytes in 1 s",
        ),
        Attempt(
            _CONSOLE,
            f"{first}: change the other zone's log",
            not _log(second).startswith(other),
            "what was in it is in it",
            grown > 0,
            f"its own has grown by {grown} bytes",
        ),
        Attempt(
            _CONSOLE,
            f"{first}: control the terminal that shows its log",
            "\x1b" in shown,
            "its escape sequences are shown as text",
            b"\x1b" in raw,
            "they are in the log",
        ),
    ]


@dataclasses.dataclass
class _Watched:
    """How long answers of the other zone took during a flood, the longest of the host's, and what the flooding zone said."""

    delays: list[float]
    host: float
    said: dict[str, Told]


def delays_during(answers: Sequence[tuple[float, float]], ended: float) -> list[float]:
    """How long the answers took that were waited for during a flood: one that took all of it too.

    It ended about when the zone said so; before it began, the zone had to be asked for it.

    :param answers: when each was asked for, and how long it took.
    :param ended: when the zone said that it had flooded.
    """
    return [delay for asked, delay in answers if asked + delay > ended - _SECONDS and asked < ended - 1]


def _idle() -> dict[str, Told]:
    time.sleep(_SECONDS)
    return {}


def _watched(peer: str, action: Callable[[], dict[str, Told]]) -> _Watched:
    """Carry out an action, and meanwhile ask the other zone, and now and then the host."""
    hosts: list[float] = []
    answers: list[tuple[float, float]] = []
    with ThreadPoolExecutor(2) as pool:
        acting = pool.submit(action)
        asking = pool.submit(_ask_host, acting, hosts)
        while not acting.done():
            answers.append((time.monotonic(), _delay(peer)))
            time.sleep(_PAUSE)
        ended = time.monotonic()
        asking.result()
    delays = delays_during(answers, ended)
    if not delays:
        raise RingfenceError(f"{NAMES[0]} ended its flood too early: {acting.result()}")
    return _Watched(delays, max(hosts), acting.result())


def _ask_host(acting: Future[Any], told: list[float]) -> None:
    while not told or not acting.done():
        asked = time.monotonic()
        run(["xl", "list"], timeout=6 * _PATIENCE)
        told.append(time.monotonic() - asked)
        time.sleep(2)


def _delay(peer: str) -> float:
    began = time.monotonic()
    try:
        with socket.create_connection((peer, OPEN), timeout=_PATIENCE) as connection:
            connection.recv(16)
    except OSError:
        return _PATIENCE
    return time.monotonic() - began


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _console_size(name: str) -> int:
    """Bytes of a zone's logs, with the one before the last rotation."""
    log = console_log(name)
    return sum(path.stat().st_size for path in halves(log) if path.exists())


def _log(name: str) -> bytes:
    path: Path = console_log(name)
    return path.read_bytes() if path.exists() else b""
