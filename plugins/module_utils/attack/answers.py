# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Let a zone answer the host with what is hostile: too much, too late, and in the place of its ssh server."""

from __future__ import annotations

import subprocess
import threading
import time

from ansible_collections.ringfence.zones.plugins.module_utils.attack.programs.answer import DIRECTORY
from ansible_collections.ringfence.zones.plugins.module_utils.attack.result import Attempt
from ansible_collections.ringfence.zones.plugins.module_utils.attack.zones import NAMES, Zones, escaping
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.zone import channel

_ROW = 17
_LIMIT = 10_000
_TIMEOUT = 15
_LATE = 40
"""Seconds after which what had to end within ``_TIMEOUT`` has not."""

_PYTHON = ("/usr/bin/python3", "-S", "-c")
_AS_SSH_SERVER = (
    f"exec {DIRECTORY}</run; /bin/busybox chroot /proc/$1/root /usr/bin/python3 -S /attack/answer.py </dev/null >/dev/null 2>&1"
)
"""What the zone's kernel does as root outside the container: it has the descriptor of a directory that the container does not see."""


def attack(zones: Zones, token: str) -> list[Attempt]:
    """Answer to commands, and in the place of the ssh server."""
    first, second = NAMES
    return [*_of_commands(zones, second), *_of_the_ssh_server(zones, first, token)]


def _of_commands(zones: Zones, name: str) -> list[Attempt]:
    """Commands that answer without end, and not at all."""
    number = zones.numbers[name]
    flood = channel.execute(name, number, [*_PYTHON, "print('\\x1b[2J{{ 1 }}' * 60000)"], timeout=60, limit=_LIMIT)
    more = len(flood.stdout) + len(flood.stderr) > 2 * _LIMIT
    kept = f"{len(flood.stdout)} bytes were kept"
    attempts = [Attempt(_ROW, f"{name}: answer without end", more, kept, flood.truncated, "it answered more than was kept")]
    said, seconds = _given_up(zones, name, [*_PYTHON, "import time; time.sleep(60)"])
    late, told = not said or seconds > _LATE, f"given up after {seconds:.0f} s"
    return [*attempts, Attempt(_ROW, f"{name}: never answer", late, told, bool(said), "it did not answer")]


def _of_the_ssh_server(zones: Zones, name: str, token: str) -> list[Attempt]:
    """Answers in the place of the ssh server. After this, nothing can be told to the zone any more."""
    zones.inside(name, [escaping(token, then=_AS_SSH_SERVER)])
    raw = _raw(zones.numbers[name])
    said, seconds = _given_up(zones, name, ["true"])
    control = b"\x1b" in raw and len(raw) > _LIMIT
    control_told = f"{len(raw)} bytes with escape sequences came instead of ssh's"
    late, told = not said or seconds > _LATE, f"given up after {seconds:.0f} s: {said}"
    return [
        Attempt(_ROW, f"{name}: hold the host by what is no ssh server", late, told, control, control_told),
        Attempt(_ROW, f"{name}: control the terminal by what is no ssh server", "\x1b" in said, said, control, control_told),
    ]


def _given_up(zones: Zones, name: str, argv: list[str]) -> tuple[str, float]:
    """The error of a command that shall not end well, empty if there is none; and after how many seconds it came."""
    began = time.monotonic()
    try:
        channel.execute(name, zones.numbers[name], argv, timeout=_TIMEOUT, limit=_LIMIT)
    except RingfenceError as error:
        return str(error), time.monotonic() - began
    return "", time.monotonic() - began


def _raw(number: int) -> bytes:
    """The first of what comes on the way to the ssh server, without ssh."""
    with subprocess.Popen(channel.proxy(number), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        ending = threading.Timer(_TIMEOUT, process.kill)
        ending.start()
        try:
            return process.stdout.read(4 * _LIMIT) if process.stdout else b""
        finally:
            ending.cancel()
            process.kill()
