# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images of a host by its installed bundle, if it has one: what is in there needs no registry."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.bundle import manifest as bundle_manifest
from ansible_collections.ringfence.zones.plugins.module_utils.image import oci_layout, references, registry
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store


def root(store: Store) -> Path:
    """Where a host keeps its bundle."""
    return store.root / "bundle"


def current(store: Store) -> Path:
    """The installed bundle: a link, as its directory is named by the digest of its manifest."""
    return root(store) / "current"


def resolve(store: Store, reference: str) -> registry.Resolved:
    """Find the image that ``reference`` names for this host: in the installed bundle, or where the reference says.

    A reference by digest is found in the bundle whatever name it was collected under; others by what they meant when it was collected.

    :raises references.ImageError: a subclass by reason.
    """
    parsed = references.parse_reference(reference)
    bundle = current(store)
    if (bundle / bundle_manifest.NAME).exists():
        manifest, _content = bundle_manifest.read(bundle)
        digest = parsed.digest or manifest.images.get(str(parsed))
        if digest and f"images/{oci_layout.blob(digest)}" in manifest.files:
            return registry.resolve_in_layout(reference, bundle / "images", digest)
    return registry.resolve(reference)
