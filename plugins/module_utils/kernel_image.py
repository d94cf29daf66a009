# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packages a Debian kernel as an OCI image in the field's layout (see ``kernel_layout``)."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils import boot_image, kernel_layout, oci_layout, registry
from ansible_collections.ringfence.zones.plugins.module_utils.command import CommandFailed, run
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError

_PACKAGING = "1"
"""Counts the ways this module has packaged kernels: raised when the same package becomes another image than before."""

_ARCHITECTURES = {"amd64": "x86_64"}
"""Debian's names, which are also OCI's, to the kernel's."""

_RELEASE = "ringfence.zones.kernel.release"
_SOURCE = "ringfence.zones.kernel.source"


@dataclasses.dataclass(frozen=True)
class DebianKernel:
    """A kernel package. ``path`` is the file; ``None`` if apt would have to download it. ``sha256`` is that of the file, in hex."""

    package: str
    version: str
    architecture: str
    sha256: str
    path: Path | None = None


@dataclasses.dataclass(frozen=True)
class Published:
    """The image at the destination: its digest, and what else is known of it from its annotations."""

    digest: str
    annotations: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What packaging changed, or would. ``after`` is ``None`` if that is not known before it is done."""

    changed: bool
    reference: registry.Reference
    before: Published | None
    after: Published | None


def package(source: DebianKernel, destination: str, flavor: str, *, check: bool) -> Outcome:
    """Bring the image of kernel ``source`` to ``destination``, unless what is there was packaged from the same input.

    :param destination: ``docker://NAME[:TAG]``, ``oci:/DIRECTORY[:TAG]`` or ``oci-archive:/FILE[:TAG]``; without a tag it is ``latest``.
    :raises RingfenceError: if the package is no kernel for zones, or the destination cannot be read or written.
    """
    reference = _destination(destination)
    if source.architecture not in _ARCHITECTURES:
        raise RingfenceError(
            f"package {source.package} is for {source.architecture}; kernels can be packaged for {', '.join(_ARCHITECTURES)}"
        )
    wanted = _annotations(source, flavor)
    before = _published(reference, source.architecture)
    if before and wanted.items() <= before.annotations.items():
        return Outcome(False, reference, before, before)
    if check:
        return Outcome(True, reference, before, None)
    with tempfile.TemporaryDirectory(prefix="ringfence-kernel-") as directory:
        work = Path(directory)
        annotations, files = _build(source.path or _download(source, work), source, flavor, wanted, work)
        digest = oci_layout.write_layout(work / "layout", files, source.architecture, annotations, "kernel")
        after = Published(digest, annotations)
        if before == after:
            return Outcome(False, reference, before, after)
        _copy(work / "layout", reference)
    return Outcome(True, reference, before, after)


def from_file(path: Path) -> DebianKernel:
    """Describe a package file.

    :raises RingfenceError: if it is no Debian package.
    """
    if not path.is_file():
        raise RingfenceError(f"deb {path}: there is no such file")
    try:
        fields = _fields(run(["dpkg-deb", "--field", str(path), "Package", "Version", "Architecture"]))
    except CommandFailed as error:
        raise RingfenceError(f"deb {path}: not a Debian package that can be read: {error}") from error
    with open(path, "rb") as handle:
        sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
    return DebianKernel(fields["Package"], fields["Version"], fields["Architecture"], sha256, path)


def from_apt(name: str) -> DebianKernel:
    """Describe the package that apt would install by ``name``, following a metapackage such as ``linux-image-amd64`` to its kernel.

    :raises RingfenceError: if apt knows no such package.
    """
    fields = _apt_fields(name)
    # A metapackage depends on the kernel of the day, whose name begins with a version.
    if kernel := re.search(r"\blinux-image-\d[^\s,(]*", fields.get("Depends", "")):
        fields = _apt_fields(kernel[0])
    return DebianKernel(fields["Package"], fields["Version"], fields["Architecture"], fields["SHA256"])


def upstream_version(version: str) -> str:
    """The Linux version in a Debian version: ``1:6.12.9-1~bpo12+1`` → ``6.12.9``."""
    return version.rpartition(":")[2].rpartition("-")[0] or version


def _apt_fields(name: str) -> dict[str, str]:
    try:
        return _fields(run(["apt-cache", "show", "--no-all-versions", "--", name]))
    except CommandFailed as error:
        raise RingfenceError(f"package {name!r}: apt does not know it; check the name, or run apt-get update ({error})") from error


def _fields(stanza: bytes) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9-]+): *(.*)$", stanza.decode("utf-8", "replace"), re.MULTILINE))


def _annotations(source: DebianKernel, flavor: str) -> dict[str, str]:
    """What identifies the input of an image, as annotations of its manifest."""
    return {
        kernel_layout.FORMAT: "1",
        "dev.edera.kernel.version": upstream_version(source.version),
        "dev.edera.kernel.flavor": flavor,
        "org.opencontainers.image.title": source.package,
        "org.opencontainers.image.version": source.version,
        _SOURCE: f"sha256:{source.sha256}",
        "ringfence.zones.kernel.packaging": _PACKAGING,
    }


def _destination(text: str) -> registry.Reference:
    reference = registry.parse_reference(text)
    if reference.transport == "docker-archive" or reference.digest:
        accepted = "docker://NAME[:TAG], oci:/DIRECTORY[:TAG], oci-archive:/FILE[:TAG]"
        raise RingfenceError(f"destination {text!r}: an image cannot be written there; accepted: {accepted}")
    return dataclasses.replace(reference, tag=reference.tag or "latest")


def _published(reference: registry.Reference, architecture: str) -> Published | None:
    try:
        found = registry.resolve(str(reference), architecture)
    except registry.ImageNotFound:
        return None
    return Published(found.digest, found.manifest.get("annotations") or {})


def _download(source: DebianKernel, work: Path) -> Path:
    directory = work / "download"
    directory.mkdir()
    run(["env", f"--chdir={directory}", "apt-get", "--quiet", "download", f"{source.package}={source.version}"], timeout=3600)
    (path,) = directory.glob("*.deb")
    with open(path, "rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    if digest != source.sha256:
        raise RingfenceError(f"package {source.package} {source.version}: the download has the digest {digest} instead of {source.sha256}")
    return path


def _build(
    deb: Path, source: DebianKernel, flavor: str, annotations: Mapping[str, str], work: Path
) -> tuple[dict[str, str], dict[str, bytes | Path]]:
    """The annotations and the files of the image."""
    tree = work / "deb"
    run(["dpkg-deb", "--extract", str(deb), str(tree)])
    what = f"package {source.package} {source.version}"
    images = list((tree / "boot").glob("vmlinuz-*"))
    if len(images) != 1:
        raise RingfenceError(f"{what} holds {len(images)} files boot/vmlinuz-*; a kernel package (linux-image-…) holds one")
    image = images[0].read_bytes()
    try:
        boot = boot_image.unpack(image)
        boot_image.require_modes(boot)
        config = (tree / "boot" / f"config-{boot.release}").read_bytes()
    except (boot_image.InvalidKernel, OSError) as error:
        raise RingfenceError(f"{what}: {error}") from error
    metadata = {
        "KERNEL_ARCH": _ARCHITECTURES[source.architecture],
        "KERNEL_VERSION": upstream_version(source.version),
        "KERNEL_UNAME_R": boot.release,
        "KERNEL_FLAVOR": flavor,
        "KERNEL_CONFIG": f"sha256:{hashlib.sha256(config).hexdigest()}",
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
    else:
        modules.mkdir()
    for link in ("build", "source"):
        (modules / link).unlink(missing_ok=True)
    addons = work / "addons"
    addons.mkdir()
    os.rename(modules, addons / "modules")
    squashfs = work / "addons.squashfs"
    # The variable sets every time in the file system. zstd is unpacked nine times as fast as xz, at 1.2 times its size.
    options = ["-noappend", "-all-root", "-no-xattrs", "-no-progress", "-quiet", "-comp", "zstd", "-Xcompression-level", "6"]
    run(["env", "SOURCE_DATE_EPOCH=0", "mksquashfs", str(addons), str(squashfs), *options], timeout=1800)
    return squashfs


def _copy(layout: Path, reference: registry.Reference) -> None:
    source = f"oci:{layout}:kernel"
    try:
        if reference.transport == "oci-archive":
            # skopeo does not replace an archive, and a reader of the old one shall not see half of the new one.
            unfinished = f"{reference.name}.new-{os.getpid()}"
            try:
                run(["skopeo", "copy", "--quiet", "--preserve-digests", source, f"oci-archive:{unfinished}:{reference.tag}"], timeout=3600)
                os.replace(unfinished, reference.name)
            finally:
                Path(unfinished).unlink(missing_ok=True)
        else:
            run(["skopeo", "copy", "--quiet", "--preserve-digests", source, reference.for_skopeo()], timeout=3600)
    except (CommandFailed, OSError) as error:
        raise RingfenceError(f"destination {reference}: cannot be written: {error}") from error


def result(source: DebianKernel, outcome: Outcome) -> dict[str, Any]:
    """The result of the module ``kernel_image``."""
    after = outcome.after
    digest = after.digest if after else None
    pinned = f"{outcome.reference.name}@{digest}" if outcome.reference.transport == "docker" and digest else str(outcome.reference)
    return {
        "changed": outcome.changed,
        "image": pinned,
        "digest": digest,
        "package": source.package,
        "package_version": source.version,
        "release": after.annotations.get(_RELEASE) if after else None,
        "annotations": dict(after.annotations) if after else None,
    }
