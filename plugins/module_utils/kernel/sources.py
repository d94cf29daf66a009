# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a kernel that is packaged comes from: a Debian package, or the tree in which it was built."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.command import CommandFailed, run
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.modules import built_in
from ansible_collections.ringfence.zones.plugins.module_utils.store import digest_of, file_digest

_BUILT = {"amd64": ("X86_64", "x86", "bzImage"), "arm64": ("ARM64", "arm64", "Image")}
"""For each architecture the option that says so in a configuration, Linux' own name of it, and the boot image that its makefile builds."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A kernel. ``digest`` (``sha256:…``) is that of all that goes into its image.

    ``deb`` is the file of a package, ``None`` if apt would have to download it; ``tree`` that of a kernel which was built on this machine.
    """

    package: str
    version: str
    architecture: str
    digest: str
    deb: Path | None = None
    tree: Path | None = None

    def __str__(self) -> str:
        return f"tree {self.tree}" if self.tree else f"package {self.package} {self.version}"


def from_file(path: Path) -> Source:
    """Describe a package file.

    :raises RingfenceError: if it is no Debian package.
    """
    if not path.is_file():
        raise RingfenceError(f"deb {path}: there is no such file")
    try:
        fields = _fields(run(["dpkg-deb", "--field", str(path), "Package", "Version", "Architecture"]))
    except CommandFailed as error:
        raise RingfenceError(f"deb {path}: not a Debian package that can be read: {error}") from error
    return Source(fields["Package"], fields["Version"], fields["Architecture"], file_digest(path), deb=path)


def from_apt(name: str) -> Source:
    """Describe the package that apt would install by ``name``, following a metapackage such as ``linux-image-amd64`` to its kernel.

    :param name: with ``:ARCHITECTURE`` after it for another architecture than apt's own.

    :raises RingfenceError: if apt knows no such package, or has nowhere to download it from.
    """
    fields = _apt_fields(name)
    # A metapackage depends on the kernel of the day, whose name begins with a version.
    if kernel := re.search(r"\blinux-image-\d[^\s,(]*", fields.get("Depends", "")):
        fields = _apt_fields(f"{kernel[0]}:{fields['Architecture']}")
    if "SHA256" not in fields:  # It is installed, and in no list.
        raise RingfenceError(
            f"package {fields['Package']!r}: apt has no source to download version {fields['Version']} from; "
            "run apt-get update, or give the file by deb"
        )
    return Source(fields["Package"], fields["Version"], fields["Architecture"], f"sha256:{fields['SHA256']}")


def from_tree(path: Path) -> Source:
    """Describe a tree in which Linux' own makefile has built a kernel and its modules. It is called as bindeb-pkg calls its package.

    :raises RingfenceError: if there is none, or it is not built to its end.
    """
    try:
        config = (path / ".config").read_text(encoding="utf-8")
        release = (path / "include/config/kernel.release").read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise RingfenceError(f"tree {path}: no kernel has been built there: {error}; build it with make") from error
    architecture = next((name for name, (option, *_built) in _BUILT.items() if option in built_in(config)), None)
    if architecture is None:
        raise RingfenceError(f"tree {path}: configured for none of the architectures {', '.join(_BUILT)}")
    parts = [_boot_file(path, architecture), path / ".config", *(_modules(path) if "MODULES" in built_in(config) else ())]
    missing = [part for part in parts if not part.is_file()]
    if missing:
        raise RingfenceError(f"tree {path}: {missing[0].relative_to(path)} has not been built; build the kernel and its modules with make")
    told = [[str(part.relative_to(path)), file_digest(part)] for part in parts]
    digest = digest_of(json.dumps([release, told]).encode())
    return Source(f"linux-image-{release}", release, architecture, digest, tree=path)


def _boot_file(tree: Path, architecture: str) -> Path:
    """Where the makefile puts the boot image."""
    _option, name, image = _BUILT[architecture]
    return tree / "arch" / name / "boot" / image


def _modules(tree: Path) -> list[Path]:
    """The modules that a build lists, older ones as ``kernel/….ko`` and newer ones as ``….o`` (Linux, Documentation/kbuild/kbuild.rst)."""
    order = tree / "modules.order"
    if not order.is_file():
        return [order]
    listed = order.read_text(encoding="utf-8").split()
    return [tree / f"{line.removeprefix('kernel/').rpartition('.')[0]}.ko" for line in listed]


def unpacked(source: Source, work: Path) -> Path:
    """A directory with ``boot/vmlinuz-RELEASE``, ``boot/config-RELEASE`` and the modules, as a Debian package installs them.

    :param work: where there is room for it.
    :raises RingfenceError: if the source does not make it.
    """
    root = work / "kernel"
    if source.tree is None:
        run(["dpkg-deb", "--extract", str(source.deb or _download(source, work)), str(root)])
        return root
    (root / "boot").mkdir(parents=True)
    config = (source.tree / ".config").read_bytes()
    (root / "boot" / f"vmlinuz-{source.version}").write_bytes(_boot_file(source.tree, source.architecture).read_bytes())
    (root / "boot" / f"config-{source.version}").write_bytes(config)
    if "MODULES" in built_in(config.decode()):
        architecture = _BUILT[source.architecture][1]
        # As bindeb-pkg installs them. depmod follows when all are in their place.
        options = [f"ARCH={architecture}", f"INSTALL_MOD_PATH={root}", "INSTALL_MOD_STRIP=1", "DEPMOD=true"]
        try:
            run(["make", "--silent", f"--directory={source.tree}", *options, "modules_install"], timeout=1800)
        except CommandFailed as error:
            raise RingfenceError(f"tree {source.tree}: its modules cannot be installed: {error}") from error
    return root


def _apt_fields(name: str) -> dict[str, str]:
    try:
        return _fields(run(["apt-cache", "show", "--no-all-versions", "--", name]))
    except CommandFailed as error:
        raise RingfenceError(f"package {name!r}: apt does not know it; check the name, or run apt-get update ({error})") from error


def _fields(stanza: bytes) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9-]+): *(.*)$", stanza.decode("utf-8", "replace"), re.MULTILINE))


def _download(source: Source, work: Path) -> Path:
    directory = work / "download"
    directory.mkdir()
    run(
        ["env", f"--chdir={directory}", "apt-get", "--quiet", "download", f"{source.package}:{source.architecture}={source.version}"],
        timeout=3600,
    )
    (path,) = directory.glob("*.deb")
    digest = file_digest(path)
    if digest != source.digest:
        raise RingfenceError(f"package {source.package} {source.version}: the download has the digest {digest} instead of {source.digest}")
    return path
