# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernels of a host: which are deployed, and what the store holds of them.

In the store, ``kernels/HEX`` is an unpacked kernel by its image's digest, and ``kernels/names.json`` says what each name stands for
and which is the default.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.kernel import modules
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store

NAME = r"[a-z0-9][a-z0-9.-]{0,39}"
"""What the name of a kernel is like."""

NAME_TOLD = "1 to 40 of a-z, 0-9, '.' and '-', the first a letter or digit"
"""That, in words."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A deployed kernel.

    ``image`` is the reference it was declared with, ``digest`` (``sha256:…``) that of the image manifest, ``release`` what ``uname -r``
    says, ``modes`` the kinds of Xen guest it can be (``pv``, ``pvh``). ``modules`` has for each need of a zone
    (``modules.REQUIRED``, and those of ``OPTIONAL`` that it has) the files below ``directory/modules`` to load, in order; none if
    it is built in.
    """

    name: str
    image: str
    digest: str
    release: str
    modes: tuple[str, ...]
    modules: Mapping[str, tuple[str, ...]]
    directory: Path
    files: Mapping[str, str]
    """The digests of its files by their paths below ``directory``."""

    @property
    def vmlinux(self) -> Path:
        """The uncompressed kernel, for Xen to load."""
        return self.directory / "vmlinux"

    def load_order(self, needs: Iterable[str]) -> list[str]:
        """The files to load for ``needs``, names in ``modules``, in their order: each once and after those it depends on."""
        return list(dict.fromkeys(file for need in needs for file in self.modules[need]))


@dataclasses.dataclass(frozen=True)
class Target:
    """What a name stands for. The digest is unknown (``None``) only in a plan made without looking the image up."""

    image: str
    digest: str | None


@dataclasses.dataclass(frozen=True)
class Names:
    """What every name of a host stands for, and the name of the kernel for zones that name none."""

    kernels: Mapping[str, Target] = dataclasses.field(default_factory=dict)
    default: str | None = None

    def document(self) -> dict[str, Any]:
        """The form in which it is stored and shown."""
        return {"default": self.default, "kernels": {name: dataclasses.asdict(target) for name, target in sorted(self.kernels.items())}}


def deployed(store: Store) -> dict[str, Kernel]:
    """The kernels of this host by name.

    :raises RingfenceError: if the store lacks one of them or cannot be read.
    """
    return {name: load_named(store, name, target) for name, target in names(store).kernels.items()}


def names(store: Store) -> Names:
    """What every name of this host stands for.

    :raises RingfenceError: when the file is damaged.
    """
    path = store.kernels / "names.json"
    try:
        document = json.loads(path.read_bytes())
        return Names({name: Target(**target) for name, target in document["kernels"].items()}, document["default"])
    except FileNotFoundError:
        return Names()
    except (ValueError, KeyError, TypeError) as error:
        raise RingfenceError(f"{path} cannot be read: {error}; remove it and deploy the kernels again") from error


def named(store: Store) -> set[str]:
    """The digests for which names stand."""
    return {str(target.digest) for target in names(store).kernels.values()}


def stored(store: Store) -> set[str]:
    """The digests of all kernels in the store, whether a name stands for them or not."""
    return {f"sha256:{path.parent.name}" for path in store.kernels.glob("*/kernel.json")}


def expected(store: Store, planned: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Kernel], Kernel | None]:
    """The kernels of this host by name, and the default one, after a converge of kernels that was only tried, in check mode.

    :param planned: what it reported of each kernel: ``name``, ``image``, ``digest`` (``None`` if that is not known yet) and ``default``.
    :return: of a kernel that is not in the store, what is not known of it is taken to suit.
    """
    before, again = names(store), {row["name"] for row in planned}
    found = {name: load_named(store, name, target) for name, target in before.kernels.items() if name not in again}
    for row in planned:
        name, image, digest = row["name"], row["image"], row["digest"] or ""
        try:
            found[name] = read(directory(store, digest), name, image)
        except RingfenceError:
            anything: dict[str, tuple[str, ...]] = dict.fromkeys((*modules.REQUIRED, *modules.OPTIONAL), ())
            found[name] = Kernel(name, image, digest, "", ("pv", "pvh"), anything, directory(store, digest), {})
    chosen = next((row["name"] for row in planned if row["default"]), before.default)
    return found, found.get(chosen or "")


def directory(store: Store, digest: str) -> Path:
    """Where the kernel with this digest is, or would be."""
    return store.kernels / digest.removeprefix("sha256:")


def load(store: Store, digest: str) -> Kernel:
    """A kernel of the store, also one that no name stands for any more.

    :raises RingfenceError: when it is not there, or damaged.
    """
    known = next((name for name, target in names(store).kernels.items() if target.digest == digest), digest)
    return load_named(store, known, Target(known, digest))


def load_named(store: Store, name: str, target: Target) -> Kernel:
    """The kernel for which a name stands.

    :raises RingfenceError: when it is not there, or damaged.
    """
    return read(directory(store, str(target.digest)), name, target.image)


def read(directory: Path, name: str, image: str) -> Kernel:
    """The kernel in a directory.

    :raises RingfenceError: when it is not there, or damaged.
    """
    try:
        document = json.loads((directory / "kernel.json").read_bytes())
        modules = {need: tuple(order) for need, order in document["modules"].items()}
        return Kernel(
            name,
            image,
            document["digest"],
            document["release"],
            tuple(document["modes"]),
            modules,
            directory,
            {str(path): str(digest) for path, digest in document["files"].items()},
        )
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RingfenceError(f"kernel {name!r}: {directory} is damaged: {error}; deploy the kernels again") from error
