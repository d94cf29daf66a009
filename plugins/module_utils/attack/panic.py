# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Have the kernel of a zone die, and see who notices."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

from ansible_collections.ringfence.zones.plugins.module_utils.attack import remains
from ansible_collections.ringfence.zones.plugins.module_utils.attack.result import Attempt
from ansible_collections.ringfence.zones.plugins.module_utils.attack.zones import FAULTS, NAMES, OPEN, Zones, escaping, told_of
from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.zone import files, network

_OTHERS, _MEMORY = 2, 11

_LATENCY = 10.0
"""Seconds within which the other zone and the host have to answer while a kernel dies; an emulated CPU needs some."""

_RESTART = 120.0


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
        except FAULTS as error:
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


def attack(zones: Zones, token: str) -> Iterator[Attempt]:
    """Fill the memory of the first zone, have its kernel panic, and look into the memory that it begins anew with."""
    first, second = NAMES
    before, peer = zones.numbers[first], network.address(zones.definitions[second].index)
    other, host, stop = _Watched(), _Watched(), threading.Event()
    frames = remains.frames(zones, first)
    told_of(zones.inside(first, [("memory", {"fill": f"{token}-before"})]), "memory", "fill memory")

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
            zones.inside(first, [escaping(token), ("panic", {})], timeout=25)
        deadline = time.monotonic() + _RESTART
        running = False
        while not running and time.monotonic() < deadline:
            time.sleep(0.5)
            zones.look()
            record = files.read_record(zones.store, zones.definitions[first])
            running = zones.numbers[first] != before and record is not None and record.state == "running"
    finally:
        stop.set()
        watcher.join()
    died = zones.numbers[first] != before
    control = "its kernel died" if died else "its kernel lives on"
    for label, watched in (("take the other zone along", other), ("take the host along", host)):
        yield Attempt(_OTHERS, f"{first}: {label}", watched.missed, watched.told, died, control)
    stays, told = not running if died else None, "it runs" if running else "it does not run"
    yield Attempt(_OTHERS, f"{first}: stay dead", stays, told, died, control)
    if died and running:
        yield from remains.in_memory(zones, frames, token)
    else:
        told = "it did not die and begin again, so nobody was given its memory"
        yield Attempt(_MEMORY, f"{first}: read what it was given", None, told, None, "")
