# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attack the promises of isolation on this host with two hostile zones of its own, and say what each attempt came to."""

from __future__ import annotations

import contextlib
import secrets
import signal
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.attack import (
    answers,
    escapes,
    floods,
    hypervisor,
    images,
    labels,
    network,
    panic,
    remains,
)
from ansible_collections.ringfence.zones.plugins.module_utils.attack.result import EVERY, Attempt
from ansible_collections.ringfence.zones.plugins.module_utils.attack.zones import FAULTS, NAMES, VOLUME, Zones
from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.verify import observe
from ansible_collections.ringfence.zones.plugins.module_utils.verify.xenstore import read_nodes
from ansible_collections.ringfence.zones.plugins.module_utils.zone.network import address, interface

_LONGEST = 1500
"""Seconds that an attack may take, without what it takes to clear it away."""


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
        except FAULTS as error:
            return [], {EVERY: str(error)}
        signal.alarm(_LONGEST)
        try:
            campaign.run()
        except FAULTS as error:
            campaign.faults[EVERY] = str(error)
        except _TimeIsOver:
            campaign.faults.update(dict.fromkeys(campaign.unfinished, f"it was ended after {_LONGEST} s"))
        finally:
            signal.alarm(0)
            hypervisor.clear()
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
        zones, token = self.zones, self.token
        steps: dict[tuple[int, ...], Callable[[], Iterable[Attempt]]] = {
            (1, 3, 5, 6, 7, 8): lambda: hypervisor.attack(zones, token),
            (9, 10): lambda: network.attack(zones, token),
            (4,): lambda: escapes.attack(zones, token),
            (13,): lambda: labels.attack(zones, token, observe.traces),
            (14, 22): lambda: images.attack(zones.directory / "images"),
            (15,): lambda: floods.load(zones, token),
            (16,): lambda: floods.console(zones, token),
            (2, 11): lambda: panic.attack(zones, token),
            (17,): lambda: answers.attack(zones, token),
            (12,): lambda: remains.on_disks(zones, token),
        }
        for rows, step in steps.items():
            if not set(rows) & set(self.promises):
                continue
            try:
                for attempt in step():  # What was found before a step fails counts.
                    self.attempts.append(attempt)
            except FAULTS as error:
                self.faults.update(dict.fromkeys(rows, str(error)))
            self.unfinished = [number for number in self.unfinished if number not in rows]

    def _traces(self) -> set[str]:
        """What of the zones is found on the host, in the words of where it is looked for."""
        found = {f"domain {name}" for name in NAMES if name in run(["xl", "list"], timeout=60).decode()}
        found |= {f"directory {path.name}" for path in self.store.zones.iterdir() if path.name in NAMES}
        found |= {f"loop device of {name}" for name in NAMES if f"/zones/{name}/" in run(["losetup", "--list"]).decode()}
        paths = [node.path for node in read_nodes(60) if node.path.startswith("/local/domain/")]
        found |= {f"node {path}" for path in paths for number in self.zones.numbers.values() if f"/{number}/" in path}
        indices = [definition.index for definition in self.zones.definitions.values()]
        found |= {f"link {interface(index)}" for index in indices if Path(f"/sys/class/net/{interface(index)}").exists()}
        rules = run(["nft", "list", "table", "inet", "ringfence"]).decode()
        return found | {f"rule for {address(index)}" for index in indices if address(index) in rules}

    def clear(self) -> None:
        """Remove what was made, and see whether something of it is left."""
        try:
            self.zones.clear()
            self._check_leftovers()
        except FAULTS as error:
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
            control_told = "while they ran, it was found"
            self.attempts.append(
                Attempt(21, f"leave a {kind}", bool(still), ", ".join(still) or "nothing is left", kind in kinds, control_told)
            )
