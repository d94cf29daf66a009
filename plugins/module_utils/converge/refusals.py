# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes of zones that were taken back: they are not tried again until the declaration is another one, or the operator says so."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.converge.plan import RECREATE, RESTART, Step
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store, write_atomically
from ansible_collections.ringfence.zones.plugins.module_utils.zone import files
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import Definition


def reason(store: Store, step: Step) -> str | None:
    """Why a change is not tried again: it was taken back before, and the declaration is still the same."""
    if step.definition is None or step.action not in (RESTART, RECREATE):
        return None
    try:
        document = json.loads(_path(store, step.name).read_bytes())
    except (OSError, ValueError):
        return None
    if document.get("definition") != _identity(step.definition):
        return None
    return f"not tried again, because it was taken back before: {document.get('error')}; change the declaration, or set retry"


def remember(store: Store, definition: Definition, error: str) -> None:
    """Write down that a definition was taken back, and why."""
    refused = {"definition": _identity(definition), "error": error[:2000]}
    write_atomically(_path(store, definition.zone.name), json.dumps(refused).encode())


def forget(store: Store, name: str) -> None:
    """A zone has been started as it is declared: what was refused before may be tried again."""
    _path(store, name).unlink(missing_ok=True)


def _path(store: Store, name: str) -> Path:
    return files.directory(store, name) / "refused.json"


def _identity(definition: Definition) -> str:
    """A digest of what the operator declared, with every name resolved, and of what else a zone is started anew for."""
    # Its peers follow from what other zones declare.
    declared = [{**definition.fields, "peers": None}, definition.secrets, definition.runtime]
    return hashlib.sha256(json.dumps(declared, sort_keys=True, default=str).encode()).hexdigest()
