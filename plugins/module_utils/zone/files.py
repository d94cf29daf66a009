# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a zone boots from on the host, ``zones/NAME/``: its initrd, which carries its configuration, and its writable layer.

The configuration travels in the initrd rather than on a disk: a disk more costs every start of every zone a third of a second on a slow
machine, and what is in the initrd cannot be changed from inside, so that a restart always begins from what the host wrote.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

from ansible_collections.ringfence.zones.plugins.module_utils.host import boot_id
from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import FIELDS
from ansible_collections.ringfence.zones.plugins.module_utils.store import UNFINISHED, Store, remove_tree, write_atomically
from ansible_collections.ringfence.zones.plugins.module_utils.zone import volumes
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import Definition, Files

POWER_OFF = 5
"""Seconds that a zone has to power off once its container has ended."""

BLOCK = 4096
WRITABLE_BLOCKS = 1024 * 1024 * 1024 // BLOCK
"""Size of the writable layer, sparse; one block more holds the record."""

_NOT_IN_INITRD = ("live", "resize")
"""What a change of the fields costs of which the initrd holds nothing."""

_EMPTY_REPLACES = ("entrypoint", "command")
"""The fields of which an empty value is one: it takes the place of the image's."""

_SHARES = "cpu_shares-"
_STOPPING = "stopping"
_HOSTS = "hosts"

_RECORD = re.compile(
    rb"ringfence-record-1 state=(running|restarting|stopped|exited|failed) exit=(\d{1,3}|-) restarts=(\d{1,9})"
    rb" health=(none|starting|healthy|unhealthy) oom=(\d{1,9})"
    rb"(?: crashes=(\d{1,9}))?\n"
)
"""A zone runs on with the base that it was started with, and one of an earlier version counts no crashes."""


class Record(NamedTuple):
    """What a zone last said of its container.

    Its state, how it exited (``None`` if it has not), how often it was restarted; ``starting``, ``healthy``, ``unhealthy`` or ``none`` if
    nothing checks it; how often the zone's kernel had killed a process for lack of memory; and how often the zone ended without a word
    while the container ran, because its kernel panicked or the host lost its power.
    """

    state: str
    exit_status: int | None
    restarts: int
    health: str = "none"
    oom_kills: int = 0
    crashes: int = 0


def directory(store: Store, name: str) -> Path:
    """Where the files of a zone are."""
    return store.zones / name


def initrd(store: Store, definition: Definition) -> Path:
    """Where the initrd of a definition is."""
    return directory(store, definition.zone.name) / _initrd_name(definition)


def _initrd_name(definition: Definition) -> str:
    """The file name of the initrd of a definition.

    Each has a name of its own, so that what a zone is defined to be and what it boots cannot differ, whenever a run is killed.
    """
    # What has no value is left out, so that a field which a later version adds is no difference.
    told = {
        name: value
        for name, value in definition.fields.items()
        if (value or (value is not None and name in _EMPTY_REPLACES)) and (name not in FIELDS or FIELDS[name].change not in _NOT_IN_INITRD)
    }
    identity = json.dumps([told, definition.runtime, definition.index, definition.secrets], sort_keys=True)
    return f"initrd-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def writable(store: Store, definition: Definition) -> Path:
    """Where the writable layer of a zone over this image is."""
    return directory(store, definition.zone.name) / _writable_name(definition)


def _writable_name(definition: Definition) -> str:
    return f"writable-{definition.image.removeprefix('sha256:')[:12]}.img"


def files(store: Store, definition: Definition, kernel_directory: Path, image: Path, base: Path) -> Files:
    """The files that the domain of a zone refers to."""
    disks = [(base, False), (image, False), (writable(store, definition), True)]
    disks += [(volumes.path(store, mount.volume), not mount.read_only) for mount in definition.zone.volumes]
    return Files(kernel_directory / "vmlinux", initrd(store, definition), tuple(disks))


class Found(NamedTuple):
    """What there is of a zone's files.

    Whether its own are there; those that it does not use: of a definition before, or of a run that was killed; the ``cpu_shares`` that
    such a run was giving it; Xen's number of it if such a run was stopping it; and whether such a run was writing its ``/etc/hosts``.
    """

    whole: bool
    stale: tuple[str, ...] = ()
    shares: tuple[int, ...] = ()
    stopping: int | None = None
    hosts_unsure: bool = False


def look(store: Store, definition: Definition) -> Found:
    """Look at the files of a zone."""
    used = {_initrd_name(definition), _writable_name(definition)}
    try:
        with os.scandir(f"{store.zones}/{definition.zone.name}") as entries:
            found = {entry.name: entry.path for entry in entries}
    except FileNotFoundError:
        return Found(False)
    # What was being written when a run was killed has another name: see write_atomically.
    ours = ("initrd-", "writable-", _SHARES, _STOPPING, _HOSTS, UNFINISHED)
    stale = tuple(path for name, path in found.items() if name.startswith(ours) and name not in used)
    shares = tuple(int(name.removeprefix(_SHARES)) for name in found if name.startswith(_SHARES))
    stopping = _read_stop(found[_STOPPING]) if _STOPPING in found else None
    return Found(used <= set(found), stale, shares, stopping, _HOSTS in found)


def tidy(store: Store, definition: Definition) -> None:
    """Delete the files of a zone that this definition does not use."""
    for path in look(store, definition).stale:
        os.unlink(path)


def note_shares(store: Store, name: str, shares: int) -> None:
    """Write down the ``cpu_shares`` that a running zone is about to be given, until it is defined so.

    What it has is not asked for: that takes libvirt as long as all the rest of a zone that stays as it is.
    """
    (directory(store, name) / f"{_SHARES}{shares}").touch()


def note_hosts(store: Store, name: str) -> None:
    """Write down that the ``/etc/hosts`` of a running zone is about to be written, until it is defined so. Nobody looks into the zone."""
    (directory(store, name) / _HOSTS).touch()


def note_stop(store: Store, name: str, number: int) -> None:
    """Write down that a running zone is about to be asked to stop, until its step is done.

    When this run is killed, the zone goes on to stop, and is found running until it has. Xen gives its number to no other domain of this
    boot. A zone that has lost its directory will be made anew; and a disk that is full is no reason not to stop one.
    """
    with contextlib.suppress(OSError):
        (directory(store, name) / _STOPPING).write_text(f"{boot_id()} {number}", encoding="ascii")


def _read_stop(path: str) -> int | None:
    """The number that a run has written down; ``None`` if it was killed before that, or the host has been started anew since."""
    with open(path, encoding="ascii") as file:
        boot, _blank, number = file.read().partition(" ")
    return int(number) if boot == boot_id() else None


def remove(store: Store, name: str) -> None:
    """Delete the files of a zone; its volumes are elsewhere, and stay."""
    remove_tree(directory(store, name))


def forget_record(store: Store, definition: Definition) -> None:
    """Clear the record before a start, so that what is read later is of this start."""
    with open(writable(store, definition), "r+b") as handle:
        handle.seek(WRITABLE_BLOCKS * BLOCK)
        handle.write(bytes(BLOCK))


def read_record(store: Store, definition: Definition) -> Record | None:
    """The zone's record; ``None`` if it has written none that is well-formed. The zone wrote it, so nothing else of it is believed."""
    try:
        # Not by Path, whose parts take longer to put together than the file to read.
        handle = os.open(f"{store.zones}/{definition.zone.name}/{_writable_name(definition)}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            matched = _RECORD.match(os.pread(handle, BLOCK, WRITABLE_BLOCKS * BLOCK))
        finally:
            os.close(handle)
    except OSError:
        return None
    if not matched:
        return None
    status = None if matched[2] == b"-" else int(matched[2])
    return Record(matched[1].decode(), status, int(matched[3]), matched[4].decode(), int(matched[5]), int(matched[6] or 0))


def fingerprint(store: Store, content: str, *, check: bool) -> str:
    """What tells two contents of a secret apart, and says nothing of them: it is keyed with a random number of this host.

    :param check: make no key; a host that has none has no fingerprint either, with which this one could be compared.
    """
    key = store.root / "secrets.key"
    try:
        salt = key.read_bytes()
    except FileNotFoundError:
        salt = os.urandom(32)
        if not check:
            write_atomically(key, salt)
    return hmac.new(salt, content.encode(), "sha256").hexdigest()[:32]
