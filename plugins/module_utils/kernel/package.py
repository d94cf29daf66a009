# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packages a kernel as an OCI image in the field's layout (see :mod:`layout`).

A destination holds one image for each architecture: what is there for another one stays, and an index over both takes the tag.
"""

from __future__ import annotations

import dataclasses
import gzip
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.command import CommandFailed, run
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.image import oci_layout, references, registry
from ansible_collections.ringfence.zones.plugins.module_utils.kernel import boot_image, sources
from ansible_collections.ringfence.zones.plugins.module_utils.kernel import layout as kernel_layout
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.modules import built_in
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.sources import Source
from ansible_collections.ringfence.zones.plugins.module_utils.store import UNFINISHED, digest_of, sync

_PACKAGING = "1"
"""Counts the ways this module has packaged kernels: raised when the same package becomes another image than before."""

_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
"""Debian's names, which are also OCI's, to the kernel's."""

_TAG, _OTHERS = "kernel", "others"
"""Tags of the layout in which the image is made: the image or the index, and what is at the destination."""

_RELEASE = "ringfence.zones.kernel.release"
_SOURCE = "ringfence.zones.kernel.source"


@dataclasses.dataclass(frozen=True)
class Published:
    """The image for one architecture at the destination: its digest, and what else is known of it from its annotations.

    ``index`` is the digest of the index over several architectures that it is in, ``None`` if it stands alone.
    """

    digest: str
    annotations: Mapping[str, str]
    index: str | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What packaging changed, or would. ``after`` is ``None`` if that is not known before it is done."""

    changed: bool
    reference: references.Reference
    before: Published | None
    after: Published | None


def package(source: Source, destination: str, flavor: str, *, check: bool) -> Outcome:
    """Bring the image of kernel ``source`` to ``destination``, unless what is there was packaged from the same input.

    What ``destination`` holds for other architectures stays, in one index with the image.

    :param destination: ``docker://NAME[:TAG]``, ``oci:/DIRECTORY[:TAG]`` or ``oci-archive:/FILE[:TAG]``; without a tag it is ``latest``.
    :raises RingfenceError: if the package is no kernel for zones, or the destination cannot be read or written.
    """
    reference = _destination(destination)
    if source.architecture not in _ARCHITECTURES:
        raise RingfenceError(
            f"package {source.package} is for {source.architecture}; kernels can be packaged for {', '.join(_ARCHITECTURES)}"
        )
    wanted = _annotations(source, flavor)
    before, is_shared = _published(reference, source.architecture)
    if before and wanted.items() <= before.annotations.items():
        return Outcome(False, reference, before, before)
    if reference.transport == "oci-archive":
        _require_no_others(reference)
    if check:
        return Outcome(True, reference, before, None)
    with tempfile.TemporaryDirectory(prefix="ringfence-kernel-") as directory:
        work = Path(directory)
        annotations, files = _build(source, flavor, wanted, work)
        layout = work / "layout"
        digest = oci_layout.write_layout(layout, files, source.architecture, annotations, _TAG)
        index = None
        if is_shared:
            registry.fetch_all(reference, layout, _OTHERS)
            index = oci_layout.join_index(layout, _TAG, _OTHERS)
        _copy(layout, reference)
    return Outcome(True, reference, before, Published(digest, annotations, index))


def upstream_version(version: str) -> str:
    """The Linux version in a Debian version: ``1:6.12.9-1~bpo12+1`` → ``6.12.9``."""
    return version.rpartition(":")[2].rpartition("-")[0] or version


def _annotations(source: Source, flavor: str) -> dict[str, str]:
    """What identifies the input of an image, as annotations of its manifest."""
    return {
        kernel_layout.FORMAT: "1",
        "dev.edera.kernel.version": upstream_version(source.version),
        "dev.edera.kernel.flavor": flavor,
        "org.opencontainers.image.title": source.package,
        "org.opencontainers.image.version": source.version,
        _SOURCE: source.digest,
        "ringfence.zones.kernel.packaging": _PACKAGING,
    }


def _destination(text: str) -> references.Reference:
    reference = references.parse_reference(text)
    if reference.transport == "docker-archive" or reference.digest:
        accepted = "docker://NAME[:TAG], oci:/DIRECTORY[:TAG], oci-archive:/FILE[:TAG]"
        raise RingfenceError(f"destination {text!r}: an image cannot be written there; accepted: {accepted}")
    return dataclasses.replace(reference, tag=reference.tag or "latest")


def _published(reference: references.Reference, architecture: str) -> tuple[Published | None, bool]:
    """What the destination has for ``architecture``, and whether that is shared: an index, or the image for another architecture."""
    try:
        found = registry.resolve(str(reference), architecture)
    except registry.ImageNotFound:
        return None, False
    except registry.WrongArchitecture:
        return None, True
    index = found.named_digest if found.named_digest != found.digest else None
    return Published(found.digest, found.manifest.get("annotations") or {}, index), index is not None


def _require_no_others(reference: references.Reference) -> None:
    """Check that an archive has no image of another tag: it is written anew as a whole, and that image would be lost."""
    try:
        tags = registry.layout_tags(reference)
    except registry.ImageNotFound:
        return
    others = sorted(tag or "(untagged)" for tag in tags if tag != reference.tag)
    if others:
        raise RingfenceError(
            f"destination {reference}: the file has other images, {', '.join(others)}, and an archive is written anew with one image; "
            "name a file for each tag, or delete this one; a registry or oci:/DIRECTORY takes several tags"
        )


def _build(source: Source, flavor: str, annotations: Mapping[str, str], work: Path) -> tuple[dict[str, str], dict[str, bytes | Path]]:
    """The annotations and the files of the image."""
    tree = sources.unpacked(source, work)
    images = list((tree / "boot").glob("vmlinuz-*"))
    if len(images) != 1:
        raise RingfenceError(f"{source} holds {len(images)} files boot/vmlinuz-*; a kernel package (linux-image-…) holds one")
    image = images[0].read_bytes()
    try:
        if source.architecture == "arm64":
            boot = boot_image.unpack_arm64(image)
            image = gzip.compress(boot.kernel, mtime=0)
        else:
            boot = boot_image.unpack(image)
            boot_image.require_modes(boot)
        config = (tree / "boot" / f"config-{boot.release}").read_bytes()
        if "XEN" not in built_in(config.decode("utf-8", "replace")):
            raise boot_image.InvalidKernel(
                f"kernel {boot.release} is not built to be a guest of Xen: its configuration has no CONFIG_XEN=y; use one that has"
            )
    except (boot_image.InvalidKernel, OSError) as error:
        raise RingfenceError(f"{source}: {error}") from error
    metadata = {
        "KERNEL_ARCH": _ARCHITECTURES[source.architecture],
        "KERNEL_VERSION": upstream_version(source.version),
        "KERNEL_UNAME_R": boot.release,
        "KERNEL_FLAVOR": flavor,
        "KERNEL_CONFIG": digest_of(config),
    }
    files: dict[str, bytes | Path] = {
        kernel_layout.IMAGE: image,
        kernel_layout.CONFIG: gzip.compress(config, mtime=0),
        kernel_layout.METADATA: "".join(f"{key}={value}\n" for key, value in metadata.items()).encode(),
        kernel_layout.ADDONS: _addons(tree, boot.release, work),
    }
    return {**annotations, _RELEASE: boot.release}, files


def _addons(tree: Path, release: str, work: Path) -> Path:
    """The squashfs of the modules, with the indexes that a package leaves to its installation."""
    base = work / "base"
    modules = base / "usr" / "lib" / "modules" / release
    modules.parent.mkdir(parents=True)
    # Older kmod looks below lib/, newer below usr/lib/.
    (base / "lib").symlink_to("usr/lib")
    shipped = [path for path in (tree / "lib/modules" / release, tree / "usr/lib/modules" / release) if path.is_dir()]
    if shipped:
        os.rename(shipped[0], modules)
        run(["depmod", "--basedir", str(base), release])
        for index in modules.glob("modules.*"):
            index.chmod(0o644)
    else:
        modules.mkdir()
    # Like the mode of depmod's files, in the image's digest: not as the umask of this machine would have it.
    modules.chmod(0o755)
    for link in ("build", "source"):
        (modules / link).unlink(missing_ok=True)
    addons = work / "addons"
    addons.mkdir()
    addons.chmod(0o755)
    os.rename(modules, addons / "modules")
    squashfs = work / "addons.squashfs"
    # The variable sets every time in the file system. zstd is unpacked nine times as fast as xz, at 1.2 times its size.
    options = ["-noappend", "-all-root", "-no-xattrs", "-no-progress", "-quiet", "-comp", "zstd", "-Xcompression-level", "6"]
    run(["env", "SOURCE_DATE_EPOCH=0", "mksquashfs", str(addons), str(squashfs), *options], timeout=1800)
    return squashfs


def _copy(layout: Path, reference: references.Reference) -> None:
    source = f"oci:{layout}:{_TAG}"
    copy = ["skopeo", "copy", "--quiet", "--all", "--preserve-digests", source]
    try:
        if reference.transport == "oci-archive":
            # skopeo does not replace an archive, and a reader of the old one shall not see half of the new one.
            archive = Path(reference.name)
            unfinished = archive.with_name(f"{UNFINISHED}{archive.name}")
            unfinished.unlink(missing_ok=True)
            try:
                run([*copy, f"oci-archive:{unfinished}:{reference.tag}"], timeout=3600)
                sync(unfinished)
                os.replace(unfinished, archive)
                sync(archive.parent)
            finally:
                unfinished.unlink(missing_ok=True)
        else:
            run([*copy, reference.for_skopeo()], timeout=3600)
    except CommandFailed as error:
        raise RingfenceError(f"destination {reference}: cannot be written: {registry.said(error)}") from error
    except OSError as error:
        raise RingfenceError(f"destination {reference}: cannot be written: {error}") from error


def result(source: Source, outcome: Outcome) -> dict[str, Any]:
    """The result of the module ``kernel_image``."""
    after = outcome.after
    named = (after.index or after.digest) if after else None
    pinned = f"{outcome.reference.name}@{named}" if outcome.reference.transport == "docker" and named else str(outcome.reference)
    return {
        "changed": outcome.changed,
        "image": pinned,
        "digest": after.digest if after else None,
        "index": after.index if after else None,
        "package": source.package,
        "package_version": source.version,
        "release": after.annotations.get(_RELEASE) if after else None,
        "annotations": dict(after.annotations) if after else None,
    }
