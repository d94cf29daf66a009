# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compose's ``env_file``: variables of zones from files on the host, laid under what ``environment`` declares.

Source of the rules: the section "Env_file format" of the Compose specification. Of it, variables in values (``$NAME``) and names without
a value, which Compose takes from the shell of its caller, mean nothing here and are refused.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration
from ansible_collections.ringfence.zones.plugins.module_utils.spec.fields import Rejected
from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Zone

_LINE = (
    r"""(?x)(?:export\s+)?(?P<name>[^\s=:'"]+)\s*[=:]\s*"""
    r"""(?: '(?P<literal>[^']*)' | "(?P<double>(?:[^"\\]|\\.)*)" | (?P<plain>[^'"\s](?:(?!\s\#).)*?)? )\s*(?:(?<=\s)\#.*|(?<=['"])\#.*)?"""
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def merged(zones: Sequence[Zone]) -> list[Zone]:
    """The zones with the content of their files in ``environment``, and no ``env_file`` any more.

    :raises InvalidDeclaration: with every file that is missing or not as specified; no value is told.
    """
    problems: list[str] = []
    result = []
    for zone in zones:
        if not zone.env_file:
            result.append(zone)
            continue
        environment: dict[str, str] = {}
        for file in zone.env_file:
            try:
                environment.update(parse(Path(file.path).read_text(encoding="utf-8")))
            except FileNotFoundError:
                if file.required:
                    problems.append(f"zone {zone.name}: env_file: {file.path} is not on this host; put it there, or say required: false")
            except (OSError, UnicodeDecodeError) as error:
                problems.append(f"zone {zone.name}: env_file: {file.path} cannot be read: {getattr(error, 'strerror', '') or 'not UTF-8'}")
            except Rejected as rejected:
                problems.append(f"zone {zone.name}: env_file: {file.path}, {rejected}")
        result.append(dataclasses.replace(zone, environment=dict(sorted({**environment, **zone.environment}.items())), env_file=()))
    if problems:
        raise InvalidDeclaration(problems)
    return result


def parse(text: str) -> dict[str, str]:
    """The variables of a file.

    :raises Rejected: with the number of the first line that is not as specified.
    """
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        matched = re.fullmatch(_LINE, stripped)
        if not matched or "\0" in stripped:
            raise Rejected(f"line {number} is not accepted; accepted: NAME=value, NAME='value' or NAME=\"value\", on one line")
        literal, double, plain = matched["literal"], matched["double"], matched["plain"]
        if "$" in (double or plain or ""):
            raise Rejected(f"line {number} is not accepted; variables are not looked up in values: put a value with $ into single quotes")
        if double is not None:
            double = re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), double)
        found[matched["name"]] = next((value for value in (literal, double, plain) if value is not None), "")
    return found
