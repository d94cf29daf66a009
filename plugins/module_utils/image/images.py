# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images in the store of a host: one read-only file system file each, shared by every zone of that digest."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.image import references
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store, file_digest

DESCRIPTION = "image.json"
FILESYSTEM = "rootfs.img"


@dataclasses.dataclass(frozen=True)
class Image:
    """An image in the store.

    ``path`` is the file with its file system of type ``filesystem`` (as mount knows it). ``config`` is the configuration of the OCI
    image specification; ``passwd`` and ``group`` are those files of the image, empty if it has none. ``named_digest`` is the digest
    of what ``reference`` named: an index over architectures, or the image itself. ``sizes`` in bytes: ``compressed`` layers,
    ``unpacked`` layers, ``filesystem``.
    """

    digest: str
    named_digest: str
    reference: str
    filesystem: str
    path: Path
    config: dict[str, Any]
    passwd: str
    group: str
    sizes: dict[str, int]
    content: str
    """The digest of the file."""
    layers: Sequence[str] = ()
    """The digests of its layers, the lowest first; none if it was made by a version that kept no layers."""


def present(store: Store) -> set[str]:
    """The digests of all images in the store."""
    return {f"sha256:{path.parent.name}" for path in store.images.glob(f"*/{DESCRIPTION}")}


def is_present(store: Store, digest: str) -> bool:
    """Whether the store has the image with this digest, as far as can be told without reading all of it."""
    try:
        load(store, digest)
    except RingfenceError:
        return False
    return True


def is_whole(store: Store, digest: str) -> bool:
    """Whether the store has the image with this digest, and its file system is, read byte by byte, the one that was made."""
    try:
        image = load(store, digest)
        return file_digest(image.path) == image.content
    except (RingfenceError, OSError):
        return False


def load(store: Store, digest: str) -> Image:
    """The image with the manifest digest ``digest``.

    :raises RingfenceError: if the store does not hold it whole.
    """
    entry = directory(store, digest)
    try:
        described = json.loads((entry / DESCRIPTION).read_bytes())
        if (entry / FILESYSTEM).stat().st_size != described["sizes"]["filesystem"]:
            raise ValueError(f"{FILESYSTEM} has another size")
        return Image(path=entry / FILESYSTEM, **described)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RingfenceError(f"image {digest} in the store is not usable: {error}; converge again") from error


def find(store: Store, reference: str) -> Image | None:
    """The image that a reference by digest names, if the store holds it; needs no network.

    :raises references.InvalidReference: if ``reference`` is none.
    """
    pinned = references.parse_reference(reference).digest
    if pinned is None:
        return None
    digests = {digest for digest in present(store) if is_present(store, digest)}
    if pinned in digests:
        return load(store, pinned)
    # An index is what most people pin; which of its images was taken is written in the image.
    return next((image for image in (load(store, digest) for digest in sorted(digests)) if image.named_digest == pinned), None)


def directory(store: Store, digest: str) -> Path:
    """Where the image with this digest is, or would be."""
    return store.images / digest.removeprefix("sha256:")
