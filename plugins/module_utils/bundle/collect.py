# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Collects a bundle: looks everything up, compares with what is there, and fetches only what is missing.

What is in the bundle's own directories and not in its manifest is deleted; all else in the directory is left alone.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils import debian, disk_space
from ansible_collections.ringfence.zones.plugins.module_utils.bundle import collection_archive, debian_archive
from ansible_collections.ringfence.zones.plugins.module_utils.bundle import manifest as bundle_manifest
from ansible_collections.ringfence.zones.plugins.module_utils.bundle.debian_archive import Download
from ansible_collections.ringfence.zones.plugins.module_utils.bundle.manifest import DIRECTORIES, File, Manifest, Since
from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration, RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.image import oci_layout, registry
from ansible_collections.ringfence.zones.plugins.module_utils.store import digest_of, sync, sync_tree, write_atomically

ARCHITECTURE = "amd64"
"""Of hosts; the name is the same for Debian and OCI."""

_FOR_ANSIBLE = ("python3-apt",)
"""What modules need on a host beside the packages of :mod:`debian`."""

_USUAL = ("?or(?priority(required),?priority(important),?priority(standard))", "openssh-server")
"""What a host has beside, as Debian's installer leaves it: without them others could not be upgraded, which they need in exact versions,
as systemd-timesyncd needs a library of systemd."""


@dataclasses.dataclass(frozen=True)
class Declared:
    """What hosts need.

    ``images`` are references of images and kernels. ``packages`` are, by name of :data:`debian.SUITES`, those beside what the roles
    install.
    """

    images: Sequence[str]
    packages: Mapping[str, Sequence[str]]
    collection: Path
    archives: Mapping[str, str]


@dataclasses.dataclass
class Content:
    """Where the files of a bundle come from, by path. ``images`` are those whose blobs are in ``files`` and come from a registry."""

    files: dict[str, File] = dataclasses.field(default_factory=dict)
    given: dict[str, bytes | Path] = dataclasses.field(default_factory=dict)
    downloads: dict[str, Download] = dataclasses.field(default_factory=dict)
    images: list[registry.Resolved] = dataclasses.field(default_factory=list)

    def give(self, path: str, content: bytes | Path) -> None:
        """Add a file that is here already."""
        self.given[path] = content
        self.files[path] = (
            debian_archive.described(content) if isinstance(content, Path) else File(len(content), hashlib.sha256(content).hexdigest())
        )


@dataclasses.dataclass(frozen=True)
class Report:
    """What was collected, or would be. ``missing`` are the paths that were not there; ``before`` is ``None`` if there was no bundle."""

    changed: bool
    before: Manifest | None
    after: Manifest
    digest: str
    missing: list[str]


def collect(directory: Path, declared: Declared, since: Path | None, *, check: bool) -> Report:
    """Make ``directory`` the bundle of what is declared; with ``check`` only look it all up.

    :param since: the manifest of the bundle that this one builds on.
    :raises InvalidDeclaration: with every image that cannot be had.
    :raises RingfenceError: when something cannot be looked up or fetched; the directory then has no manifest.
    """
    suites = sorted(declared.packages)
    if not suites:
        raise RingfenceError(f"packages: no suite is named; accepted: {', '.join(debian.SUITES)}; name those of your hosts")
    earlier = _read_earlier(since, directory) if since else None
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        content, images = _look_up(declared, suites, work)
        files = _without_earlier(content.files, earlier[0].files if earlier else {})
        problems = bundle_manifest.unfit(files)
        if problems:
            raise RingfenceError(f"bundle {directory}: {'; '.join(problems)}")
        missing = [path for path, file in files.items() if not file.earlier and bundle_manifest.fault(directory, file.stored(path), file)]
        surplus = _surplus(directory, files)
        before = _read_before(directory)
        after = Manifest(
            directory.name,
            bundle_manifest.now(),
            ARCHITECTURE,
            tuple(suites),
            images,
            files,
            earlier[1] if earlier else None,
        )
        if before and dataclasses.replace(after, created=before.created) == before:
            after = before
        changed = bool(missing or surplus) or after != before
        if changed and not check:
            with disk_space.full_told(f"bundle {directory}", directory), _large_files_told(directory):
                disk_space.require(f"bundle {directory}", sum(files[path].size for path in missing), directory)
                _fetch(directory, content, files, missing, work / suites[0])
                for path in _surplus(directory, files):
                    path.unlink()
                write_atomically(directory / bundle_manifest.NAME, after.content(), 0o644)
    return Report(changed, before, after, digest_of(after.content()), missing)


def _read_earlier(path: Path, directory: Path) -> tuple[Manifest, Since]:
    if path.name != bundle_manifest.NAME:
        raise RingfenceError(f"since {path}: the manifest of a bundle is a file {bundle_manifest.NAME}; name that of the earlier one")
    if path.parent.resolve() == directory.resolve():
        raise RingfenceError(f"since {path}: a bundle cannot build on itself; collect into another directory")
    manifest, content = bundle_manifest.read(path.parent)
    return manifest, Since(manifest.name, digest_of(content))


def _read_before(directory: Path) -> Manifest | None:
    try:
        return bundle_manifest.read(directory)[0]
    except RingfenceError:
        return None  # none yet, or half written, or of another version: it is written anew


def _look_up(declared: Declared, suites: Sequence[str], work: Path) -> tuple[Content, dict[str, str]]:
    """Everything that belongs into the bundle, and what each reference names; in ``work``, a directory for each suite is apt's."""
    content = Content()
    images = _look_up_images(declared.images, content)
    for suite in suites:
        (work / suite).mkdir()
        # Not together with the usual ones: a host may have others instead, as chrony.
        packages = [*debian.packages(debian.SUITES[suite]), *_FOR_ANSIBLE, *declared.packages[suite]]
        here, downloads = debian_archive.look_up(work / suite, suite, ARCHITECTURE, declared.archives, (packages, _USUAL))
        for path, file in here.items():
            content.give(path, file)
        content.downloads.update(downloads)
        content.files.update({path: download.file for path, download in downloads.items()})
    (work / "collection").mkdir()
    archive = collection_archive.archive(declared.collection, work / "collection")
    content.give(f"collections/{archive.name}", archive)
    return content, images


def _look_up_images(references: Sequence[str], content: Content) -> dict[str, str]:
    def look_up(reference: str) -> tuple[registry.Resolved, bytes | None] | RingfenceError:
        try:
            resolved = registry.resolve(reference, ARCHITECTURE)
            return resolved, registry.named_document(resolved) if resolved.named_digest != resolved.digest else None
        except RingfenceError as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(look_up, sorted(set(references))))
    problems = [str(one) for one in found if isinstance(one, RingfenceError)]
    if problems:
        raise InvalidDeclaration(problems)
    images, tags = {}, {}
    for resolved, index in (one for one in found if not isinstance(one, RingfenceError)):
        images[str(resolved.reference)] = resolved.named_digest
        if index is not None:
            content.give(_blob(resolved.named_digest), index)
        # Of manifests in Docker's format too: skopeo 1.9 finds no others in a layout, and later ones take this.
        tags[_tag(resolved)] = {"mediaType": oci_layout.MANIFEST, "digest": resolved.digest, "size": resolved.size}
        content.files.update(_blobs(resolved))
        content.images.append(resolved)
    for name, file in oci_layout.frame(tags).items():
        content.give(f"images/{name}", file)
    return images


def _blobs(resolved: registry.Resolved) -> dict[str, File]:
    """The blobs of an image: its manifest, its configuration and its layers."""
    described: list[dict[str, Any]] = [resolved.manifest["config"], *resolved.manifest["layers"]]
    blobs = {_blob(entry["digest"]): File(int(entry["size"]), str(entry["digest"]).removeprefix("sha256:")) for entry in described}
    return {_blob(resolved.digest): File(resolved.size, resolved.digest.removeprefix("sha256:")), **blobs}


def _tag(image: registry.Resolved) -> str:
    """The tag of an image in the bundle: :func:`registry.resolve_in_layout` finds it by that."""
    return image.digest.removeprefix("sha256:")


def _blob(digest: str) -> str:
    return f"images/{oci_layout.blob(digest)}"


def _without_earlier(files: Mapping[str, File], earlier: Mapping[str, File]) -> dict[str, File]:
    """The files of a bundle, those marked that the earlier one lists with the same content."""
    return {
        path: dataclasses.replace(file, earlier=path in earlier and earlier[path].sha256 == file.sha256)
        for path, file in sorted(files.items())
    }


def _surplus(directory: Path, files: Mapping[str, File]) -> list[Path]:
    """Files in the bundle's own directories that do not belong to it."""
    kept = {name for path, file in files.items() if not file.earlier for name in file.stored(path)}
    there = [path for name in DIRECTORIES for path in sorted((directory / name).rglob("*")) if not path.is_dir() or path.is_symlink()]
    return [path for path in there if str(path.relative_to(directory)) not in kept]


def _fetch(directory: Path, content: Content, files: Mapping[str, File], missing: Sequence[str], settings: Path) -> None:
    """Bring the missing files into the directory, which has no manifest meanwhile.

    :param settings: the directory of :func:`debian_archive.look_up`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / bundle_manifest.NAME).unlink(missing_ok=True)
    for path in missing:
        for name in (path, *files[path].stored(path)):
            (directory / name).unlink(missing_ok=True)
    wanted = set(missing)
    for image in content.images:
        if wanted & _blobs(image).keys():
            _fetch_image(directory, image)
    downloads = {directory / path: download for path, download in content.downloads.items() if path in wanted}
    debian_archive.fetch(settings, downloads)
    # Last: skopeo writes an index of its own.
    for path, source in content.given.items():
        if not files[path].earlier:
            write_atomically(directory / path, source.read_bytes() if isinstance(source, Path) else source, 0o644)
    for path in missing:
        _split(directory, path, files[path])
        fault = bundle_manifest.fault(directory, files[path].stored(path), files[path])
        if fault:
            raise RingfenceError(f"bundle {directory}: {path} {fault} after it was fetched; run again")
    # What the manifest will list survives a power cut, also what an earlier, killed run has fetched.
    for name in DIRECTORIES:
        if (directory / name).is_dir():
            sync_tree(directory / name)
    sync(directory)


def _fetch_image(directory: Path, image: registry.Resolved) -> None:
    layout = directory / "images"
    # What a run that was killed has left of skopeo's own.
    for leftover in layout.glob("oci-put-blob*"):
        leftover.unlink()
    registry.fetch(image, layout, _tag(image))


def _split(directory: Path, path: str, file: File) -> None:
    """Put parts in the place of a file that is too large for FAT32."""
    names = file.stored(path)
    if names == [path]:
        return
    with open(directory / path, "rb") as whole:
        for name in names:
            with open(directory / name, "wb") as part:
                left = bundle_manifest.PART
                while left and (block := whole.read(min(left, 1024 * 1024))):
                    left -= part.write(block)
    (directory / path).unlink()


@contextmanager
def _large_files_told(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        raise RingfenceError(
            f"bundle {directory}: its file system has no file of that size ({error}); collect on another disk, and copy the bundle then"
        ) from error
