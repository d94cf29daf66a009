# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Installs a bundle on a host without network: verifies all of it, keeps a copy, and lets apt take packages from there.

``/var/lib/ringfence/bundle/HEX`` is a bundle by the digest of its manifest, whole: with what it builds on. In its ``apt/`` is a
configuration of apt that knows nothing but this bundle; the host's own sources of packages stay as they are. ``current`` is a link to the
installed one. Another one beside it is a copy that was broken off: the next run goes on with it, or deletes it if it is not wanted.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils import disk_space
from ansible_collections.ringfence.zones.plugins.module_utils.bundle import debian_archive, installed
from ansible_collections.ringfence.zones.plugins.module_utils.bundle import manifest as bundle_manifest
from ansible_collections.ringfence.zones.plugins.module_utils.bundle.manifest import File, Manifest
from ansible_collections.ringfence.zones.plugins.module_utils.command import CommandFailed
from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration, RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.store import (
    UNFINISHED,
    Store,
    digest_of,
    remove_tree,
    sync,
    sync_tree,
    write_atomically,
)


@dataclasses.dataclass(frozen=True)
class Report:
    """What was installed, or would be: digests of the manifests ``before`` and ``after``, and the paths that were ``copied``."""

    changed: bool
    before: str | None
    after: str
    manifest: Manifest
    copied: list[str]
    apt_config: Path


def install(store: Store, source: Path, digest: str | None, suite: str, architecture: str, *, check: bool) -> Report:
    """Make the bundle in the directory ``source`` the one of this host; with ``check`` only say whether that would change something.

    :param digest: that of the manifest, if the operator knows it by another way. The installed bundle with it needs no ``source``.
    :param suite: Debian's name of this host's release.
    :param architecture: of this host.
    :raises RingfenceError: when the bundle is not for this host, not complete, or damaged. What was installed before stays.
    """
    manifest, content = _read(store, source, digest)
    _require_fit(source, manifest, suite, architecture)
    if check:
        return _install(store, source, manifest, content, suite, check=True)
    with store.lock():
        return _install(store, source, manifest, content, suite, check=False)


def _read(store: Store, source: Path, digest: str | None) -> tuple[Manifest, bytes]:
    try:
        return bundle_manifest.read(source, digest)
    except bundle_manifest.BundleNotFound as error:
        before = _installed(store)
        if before is None:
            raise
        if digest is None:
            # The installed one may be another than the one meant: a path does not say which bundle it is.
            raise RingfenceError(f"{error}; to go on with the installed one, declare its digest, {before}") from error
        if digest != before:
            raise RingfenceError(f"{error}; the installed one is not the declared one: it has the digest {before}") from error
        try:
            return bundle_manifest.read(installed.current(store), digest)
        except RingfenceError as damage:
            raise RingfenceError(
                f"bundle {source} does not exist, and manifest.json of this host's copy is damaged or missing; mount the medium again"
            ) from damage


def _require_fit(source: Path, manifest: Manifest, suite: str, architecture: str) -> None:
    problems = []
    if manifest.architecture != architecture:
        problems.append(f"bundle {source} is for {manifest.architecture}, and this host is {architecture}; collect one for it")
    if suite not in manifest.suites:
        problems.append(
            f"bundle {source} has packages of {', '.join(manifest.suites)}, and this host runs {suite or 'no release of Debian'}; "
            "collect one with ringfence_bundle_suite of this host"
        )
    if problems:
        raise InvalidDeclaration(problems)


def _install(store: Store, source: Path, manifest: Manifest, content: bytes, suite: str, *, check: bool) -> Report:
    after = digest_of(content)
    before = _installed(store)
    target = installed.root(store) / after.removeprefix("sha256:")
    held = installed.current(store)
    if not check:
        # First: what was broken off and is not wanted any more may have the room that is needed.
        _delete_others(store, held.name, target.name, held.resolve().name)
    places = {path: _place(path, file, (target, held)) for path, file in manifest.files.items()}
    absent = [path for path, place in places.items() if place is None]
    _require_present(source, manifest, absent)
    own = File(len(content), target.name)
    changed = before != after or bool(absent) or bundle_manifest.fault(target, [bundle_manifest.NAME], own) is not None
    needed = sum(manifest.files[path].size for path in absent) + (debian_archive.LISTS if before != after else 0)
    disk_space.require(f"bundle {source}", needed, store.root)
    if not check:
        with disk_space.full_told(f"bundle {source}", store.root):
            if changed:
                _fill(source, manifest, content, places, target)
            if before != after:
                # What apt finds there it takes for its own: packages by their size alone.
                remove_tree(target / "apt")
            settings = debian_archive.host_settings(target / "apt", target, suite, manifest.architecture, manifest.files)
        try:
            debian_archive.update(settings)
        except CommandFailed as error:
            if error.is_full_disk:
                raise RingfenceError(f"bundle {source}: no room for its lists of packages; make room and run again ({error})") from error
            now = bundle_manifest.now()
            late = f"; this host's clock says {now}, and the bundle is of {manifest.created}: set the clock, then run again"
            raise RingfenceError(
                f"bundle {source}: its lists of packages are refused: {error}{late if now < manifest.created else ''}"
            ) from error
        if changed:
            sync_tree(target / "apt")
        _point_to(store, target)
        _delete_others(store, held.name, target.name)
    return Report(changed, before, after, manifest, absent, held / "apt" / "apt.conf")


def _installed(store: Store) -> str | None:
    """The digest of the installed bundle's manifest."""
    try:
        return f"sha256:{os.readlink(installed.current(store))}"
    except FileNotFoundError:
        return None


def _require_present(source: Path, manifest: Manifest, absent: list[str]) -> None:
    """Check that the bundle has what the host has not. Nothing of it has been read yet but the names."""
    if absent and not source.is_dir():
        raise RingfenceError(
            f"bundle {source} does not exist, and {absent[0]} of this host's copy is damaged or missing, {len(absent)} files in all; "
            "mount the medium again"
        )
    lacking = [path for path in absent if not manifest.files[path].earlier and not _stored(source, path, manifest.files[path])]
    if lacking:
        raise RingfenceError(f"bundle {source} is not complete: {lacking[0]} is missing, {len(lacking)} files in all; copy it again")
    elsewhere = [path for path in absent if manifest.files[path].earlier and not _stored(source, path, manifest.files[path])]
    if elsewhere and manifest.since:
        raise RingfenceError(
            f"bundle {source} builds on the bundle {manifest.since.name!r} (manifest {manifest.since.digest}): {elsewhere[0]} is neither "
            f"in it nor on this host, {len(elsewhere)} files in all; install {manifest.since.name!r} first"
        )


def _stored(source: Path, path: str, file: File) -> bool:
    return all((source / name).is_file() for name in file.stored(path))


def _place(path: str, file: File, directories: Iterable[Path]) -> Path | None:
    """The first of these directories that has the file, whole."""
    return next((directory for directory in directories if bundle_manifest.fault(directory, [path], file) is None), None)


def _fill(source: Path, manifest: Manifest, content: bytes, places: Mapping[str, Path | None], target: Path) -> None:
    """Make the directory ``target`` hold the bundle: what the host has as links, and copies, each verified on its way.

    What a run that is broken off has copied is there for the next one.

    :param places: where on the host each file is.
    """
    for directory in (target.parent, target):
        directory.mkdir(mode=0o700, exist_ok=True)
    for path, file in manifest.files.items():
        place, to = places[path], target / path
        if place == target:
            continue
        to.parent.mkdir(parents=True, exist_ok=True)
        if place is None:
            _copy(source, path, file, to)
        else:
            to.unlink(missing_ok=True)
            os.link(place / path, to)
    sync_tree(target)
    write_atomically(target / bundle_manifest.NAME, content)


def _copy(source: Path, path: str, file: File, to: Path) -> None:
    # Not into the file itself: an installed bundle may have it under another name.
    unfinished = to.with_name(f"{UNFINISHED}{to.name}")
    try:
        with open(unfinished, "wb") as copy:
            for block in bundle_manifest.blocks(source, file.stored(path), file):
                copy.write(block)
        os.replace(unfinished, to)
    except bundle_manifest.Damaged as error:
        raise RingfenceError(f"bundle {source}: {path} {error}; copy the bundle again") from error
    except OSError as error:
        if disk_space.is_full(error):
            raise
        raise RingfenceError(f"bundle {source}: {path} cannot be read: {error}; copy the bundle again") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _point_to(store: Store, target: Path) -> None:
    """Make ``target`` the installed bundle."""
    link = installed.current(store)
    if _installed(store) != f"sha256:{target.name}":
        unfinished = link.with_name(f"{UNFINISHED}{link.name}")
        unfinished.unlink(missing_ok=True)
        unfinished.symlink_to(target.name)
        os.replace(unfinished, link)
        sync(link.parent)


def _delete_others(store: Store, *kept: str) -> None:
    """Delete what else there is beside the bundles with these names."""
    root = installed.root(store)
    for other in root.iterdir() if root.is_dir() else ():
        if other.name not in kept:
            with store.workspace() as workspace:
                os.rename(other, workspace / other.name)
