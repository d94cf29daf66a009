# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Installs a bundle on a host without network: verifies all of it, keeps a copy, and lets apt take packages from there.

``/var/lib/ringfence/bundle/HEX`` is a bundle by the digest of its manifest, whole: with what it builds on. In its ``apt/`` is a
configuration of apt that knows nothing but this bundle; the host's own sources of packages stay as they are. ``current`` is a link to the
installed one.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils import disk_space
from ansible_collections.ringfence.zones.plugins.module_utils.bundle import debian_archive, installed
from ansible_collections.ringfence.zones.plugins.module_utils.bundle import manifest as bundle_manifest
from ansible_collections.ringfence.zones.plugins.module_utils.bundle.manifest import File, Manifest
from ansible_collections.ringfence.zones.plugins.module_utils.command import CommandFailed
from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration, RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store, remove_tree


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
        return bundle_manifest.read(installed.current(store), digest)


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
    after = bundle_manifest.digest_of(content)
    before = _installed(store)
    target = installed.root(store) / after.removeprefix("sha256:")
    held = installed.current(store)
    absent = [path for path, file in manifest.files.items() if bundle_manifest.fault(held, [path], file)]
    _require_present(source, manifest, absent)
    disk_space.require(f"bundle {source}", sum(manifest.files[path].size for path in absent), store.root)
    if not check:
        _publish(store, source, manifest, content, absent, target)
        if before != after:
            # What apt finds there it takes for its own: packages by their size alone.
            remove_tree(target / "apt")
        settings = debian_archive.host_settings(target / "apt", target, suite, manifest.architecture, manifest.files)
        try:
            debian_archive.update(settings)
        except CommandFailed as error:
            raise RingfenceError(f"bundle {source}: its lists of packages are refused: {error}") from error
        _point_to(store, target)
    return Report(bool(absent) or before != after, before, after, manifest, absent, held / "apt" / "apt.conf")


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


def _publish(store: Store, source: Path, manifest: Manifest, content: bytes, absent: list[str], target: Path) -> None:
    """Make the directory ``target``: of the files that the host has, as links, and of copies, each verified on its way."""
    if target.is_dir() and not absent:
        return
    held = installed.current(store)
    copied = set(absent)

    def build(entry: Path) -> None:
        for path, file in manifest.files.items():
            (entry / path).parent.mkdir(parents=True, exist_ok=True)
            if path in copied:
                _copy(source, path, file, entry / path)
            else:
                os.link(held.resolve() / path, entry / path)
        (entry / bundle_manifest.NAME).write_bytes(content)

    with disk_space.full_told(f"bundle {source}", store.root):
        store.publish(target, build, replace=True)


def _copy(source: Path, path: str, file: File, to: Path) -> None:
    with open(to, "wb") as copy:
        try:
            for block in bundle_manifest.blocks(source, file.stored(path), file):
                copy.write(block)
        except bundle_manifest.Damaged as error:
            raise RingfenceError(f"bundle {source}: {path} {error}; copy the bundle again") from error
        except OSError as error:
            if disk_space.is_full(error):
                raise
            raise RingfenceError(f"bundle {source}: {path} cannot be read: {error}; copy the bundle again") from error


def _point_to(store: Store, target: Path) -> None:
    """Make ``target`` the installed bundle, and delete others."""
    link = installed.current(store)
    if _installed(store) != f"sha256:{target.name}":
        unfinished = link.with_name(".new-current")
        unfinished.unlink(missing_ok=True)
        unfinished.symlink_to(target.name)
        os.replace(unfinished, link)
    for other in installed.root(store).iterdir():
        if other.name not in (target.name, link.name):
            with store.workspace() as workspace:
                os.rename(other, workspace / other.name)
