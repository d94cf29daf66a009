# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""OCI images where they are published: which manifest a reference names, and how its blobs get here.

All transfers are skopeo's, so mirrors, certificates, credentials, signatures and registries without TLS follow the
containers files that the host already has (``registries.conf``, ``policy.json``, ``auth.json``, ``certs.d``).
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.command import CommandFailed, run
from ansible_collections.ringfence.zones.plugins.module_utils.image import layers
from ansible_collections.ringfence.zones.plugins.module_utils.image.oci_layout import TAG, blob, oci_architecture
from ansible_collections.ringfence.zones.plugins.module_utils.image.references import (
    DIGEST,
    ImageError,
    Reference,
    parse_reference,
    redacted,
)
from ansible_collections.ringfence.zones.plugins.module_utils.store import digest_of

_INSPECT_TIMEOUT = 180.0
_COPY_TIMEOUT = 4 * 3600.0
_RETRIES = 3
"""How often skopeo begins again, with the blobs that are there, after 1, 2, 4 s: when the connection breaks, and the registry is busy."""
_MAX_DOCUMENT = 4 * 1024 * 1024
"""Bytes of a manifest or an image configuration; the bound that registries and containerd use too."""
_LEAST_LIMIT = 64 * 1024 * 1024
"""Bytes that each file of skopeo's may have in any case: what it keeps of its own, about where blobs were seen, grows on a host."""
_MAX_DEPTH = 100


class ImageNotFound(ImageError):
    """The registry or the file answers, and has no such image."""


class IncompleteIndex(ImageError):
    """The index is there, and an image that it lists is not."""


class RegistryUnreachable(ImageError):
    """The registry gives no answer that could be used."""


class CredentialsRefused(ImageError):
    """The registry wants other credentials; registries say the same of repositories that do not exist."""


class DigestMismatch(ImageError):
    """What came is not what its digest says."""


class SignatureRefused(ImageError):
    """The host's policy asks for a signature, and the image has none that satisfies it."""


class WrongArchitecture(ImageError):
    """The image exists, but not for this host."""


@dataclasses.dataclass(frozen=True)
class Resolved:
    """One image for one architecture.

    ``digest`` is that of the image manifest, ``named_digest`` that of what the reference names: the same, or the index over
    several architectures. ``manifest`` and ``config`` are the parsed documents of the OCI image specification (or Docker's
    schema 2, which has the same fields); ``size`` is that of the manifest in bytes. ``source`` is where the blobs are, if that is not
    where ``reference`` says.
    """

    reference: Reference
    digest: str
    named_digest: str
    architecture: str
    manifest: dict[str, Any]
    config: dict[str, Any]
    size: int
    source: Reference | None = None

    @property
    def layers(self) -> list[str]:
        """The digests of its layers, the lowest first; one may be there more than once."""
        return [layer["digest"] for layer in self.manifest["layers"]]

    @property
    def largest(self) -> int:
        """The size of its largest blob in bytes, as its manifest says."""
        return max(entry["size"] for entry in (self.manifest["config"], *self.manifest["layers"]))

    @property
    def is_remote(self) -> bool:
        """Whether its blobs are in a registry, and not in files of this machine."""
        return (self.source or self.reference).transport == "docker"


def host_architecture() -> str:
    """The OCI name of this machine's architecture, such as ``amd64``."""
    return oci_architecture(platform.machine())


def resolve(reference: str, architecture: str | None = None) -> Resolved:
    """Find the image that ``reference`` names for ``architecture`` (an OCI name; default: this host's). Fetches no layer.

    :raises ImageError: a subclass by reason; the documents are checked against their digests.
    """
    parsed = parse_reference(reference)
    wanted = architecture or host_architecture()
    if parsed.transport in ("oci", "oci-archive"):
        return _resolve_layout(parsed, wanted)
    return _resolve_remote(parsed, wanted)


def resolve_in_layout(reference: str, layout: Path, digest: str) -> Resolved:
    """Find the image that ``reference`` names in an OCI layout which holds a copy of it, and not where the reference says.

    :param digest: of what the reference names, an image or an index; in the layout's index, the image is tagged by the hex part of its own.
    :raises ImageError: a subclass by reason; the documents are checked against their digests.
    """
    parsed = parse_reference(reference)
    read = _layout_reader(parsed, Reference("oci", str(layout)))
    resolved = _resolve_blobs(parsed, digest, read, host_architecture())
    return dataclasses.replace(resolved, source=Reference("oci", str(layout), tag=resolved.digest.removeprefix("sha256:")))


def named_document(resolved: Resolved) -> bytes:
    """What the reference of a resolved image names: the index over architectures, or the image's own manifest.

    :raises ImageError: a subclass by reason; the document is checked against its digest.
    """
    raw = _inspect(resolved.reference, "--raw", digest=resolved.named_digest)
    _verify(resolved.reference, "manifest", resolved.named_digest, raw)
    return raw


def fetch(resolved: Resolved, into: Path, tag: str = "image", blobs: Path | None = None) -> Path:
    """Copy a resolved image into the OCI layout in the directory ``into``, unchanged and with all digests checked.

    No blob gets larger than the manifest says of the largest: skopeo writes all that comes, and looks at its digest when that ends.

    :param into: a new directory, or a layout, of which the blobs that it has are not fetched again.
    :param blobs: where the blobs are instead of in ``into``, on the same file system. Each appears there when it is whole.
    :return: ``into``; the manifest is the one with ``resolved.digest``.
    :raises ImageError: a subclass by reason. ``into`` may then hold a part; it is the caller's to remove.
    """
    source = (resolved.source or resolved.reference).for_skopeo(resolved.digest)
    options = [f"--override-arch={resolved.architecture}", "--override-os=linux"]
    if blobs:
        options.append(f"--dest-shared-blob-dir={blobs}")
    # Of an archive skopeo may unpack all that is in it, other images too.
    limit = max(resolved.largest, _LEAST_LIMIT) if (resolved.source or resolved.reference).transport in ("docker", "oci") else None
    _copy(resolved.reference, source, into, tag, *options, limit=limit)
    # skopeo checks every blob on its way; which manifest it took for an archive or a tag is for us to check.
    index = json.loads((into / "index.json").read_bytes())
    copied = [entry["digest"] for entry in index["manifests"] if _tag_of(entry) == tag]
    if copied != [resolved.digest]:
        raise DigestMismatch(
            f"image {resolved.reference} has changed while it was fetched: resolved as {resolved.digest}, copied as {', '.join(copied)}; "
            "run again, and declare it by digest (NAME@sha256:…)"
        )
    return into


def fetch_all(reference: Reference, into: Path, tag: str) -> None:
    """Copy what ``reference`` names, for all architectures, into the OCI layout ``into`` under ``tag``, unchanged.

    :raises ImageError: a subclass by reason. ``into`` may then hold a part; it is the caller's to remove.
    """
    _copy(reference, reference.for_skopeo(), into, tag, "--all")


def _copy(reference: Reference, source: str, into: Path, tag: str, *options: str, limit: int | None = None) -> None:
    """Copy from ``source`` into the OCI layout ``into``.

    :param limit: bytes of each file that skopeo may write.
    """
    # Signatures are checked as the host's policy says. A layout cannot hold them, and skopeo would fail over that.
    argv = [] if limit is None else ["prlimit", f"--fsize={limit}"]
    argv += ["skopeo", "copy", "--quiet", f"--retry-times={_RETRIES}", "--preserve-digests", "--remove-signatures", *options]
    try:
        run([*argv, source, f"oci:{into}:{tag}"], timeout=_COPY_TIMEOUT)
    except CommandFailed as error:
        raise _explain(reference, error) from error


def _resolve_remote(reference: Reference, architecture: str) -> Resolved:
    raw = _inspect(reference, "--raw")
    named_digest = reference.digest or digest_of(raw)
    _verify(reference, "the registry's manifest", named_digest, raw)
    document = _parse_document(reference, raw)
    digest = _choose(reference, document, architecture) if "manifests" in document else named_digest
    with ThreadPoolExecutor(2) as pool:  # each skopeo takes seconds of start-up on a slow host
        config = pool.submit(_inspect, reference, "--config", "--raw", digest=digest)
        manifest = raw if digest == named_digest else _listed(reference, digest, lambda: _inspect(reference, "--raw", digest=digest))
    return _resolved(reference, architecture, digest, named_digest, manifest, lambda unused: config.result())


def _resolve_layout(reference: Reference, architecture: str) -> Resolved:
    read = _layout_reader(reference, reference)
    entries = _layout_entries(reference, read)
    found = [entry for entry in entries if reference.tag in (None, _tag_of(entry))]
    if len(found) != 1:
        tags = ", ".join(str(_tag_of(entry) or "(untagged)") for entry in entries)
        raise ImageNotFound(f"image {reference}: {len(found)} images there match; name one of the tags: {tags or '(there are none)'}")

    return _resolve_blobs(reference, str(found[0].get("digest")), read, architecture)


def _resolve_blobs(reference: Reference, named_digest: str, read: Callable[[str], bytes], architecture: str) -> Resolved:
    """Find an image by the digest of what names it in the files of an OCI layout."""

    def read_blob(digest: str) -> bytes:
        if not DIGEST.fullmatch(digest):
            raise DigestMismatch(f"image {reference}: {digest!r} is not a sha256 digest")
        return read(blob(digest))

    digest = named_digest
    raw = read_blob(digest)
    document = _parse_document(reference, raw)
    if "manifests" in document:
        _verify(reference, "index", named_digest, raw)
        digest = _choose(reference, document, architecture)
        raw = _listed(reference, digest, lambda: read_blob(digest))
    return _resolved(reference, architecture, digest, named_digest, raw, read_blob)


def layout_tags(layout: Reference) -> list[str | None]:
    """The tags of the images in an OCI layout or an archive of one; ``None`` for an image without.

    :raises ImageError: when there is none, or it is damaged.
    """
    return [_tag_of(entry) for entry in _layout_entries(layout, _layout_reader(layout, layout))]


def _layout_entries(reference: Reference, read: Callable[[str], bytes]) -> list[dict[str, Any]]:
    return _entries(reference, _parse_document(reference, read("index.json")))


def _tag_of(descriptor: dict[str, Any]) -> str | None:
    return (descriptor.get("annotations") or {}).get(TAG)


def _resolved(
    reference: Reference, architecture: str, digest: str, named_digest: str, raw: bytes, read_config: Callable[[str], bytes]
) -> Resolved:
    _verify(reference, "manifest", digest, raw)
    manifest = _parse_document(reference, raw)
    if not isinstance(manifest.get("config"), dict) or not isinstance(manifest.get("layers"), list):
        raise ImageError(
            f"image {reference}: manifest {digest} has the media type {manifest.get('mediaType', '(none)')}; "
            "accepted: OCI image manifests and Docker's schema 2"
        )
    _check_descriptors(reference, manifest)
    config_digest = manifest["config"]["digest"]
    raw_config = read_config(config_digest)
    _verify(reference, "configuration", config_digest, raw_config)
    config = _parse_document(reference, raw_config)
    for where, key in ((manifest, "annotations"), (config, "config")):
        if not isinstance(where.get(key) or {}, dict):
            raise ImageError(f"image {reference}: {key} of its manifest or configuration is {where[key]!r:.200}; accepted: an object")
    found = f"{config.get('os', 'linux')}/{oci_architecture(str(config.get('architecture', architecture)))}"
    if found != f"linux/{architecture}":
        raise WrongArchitecture(f"image {reference} is for {found}; this host needs linux/{architecture}")
    return Resolved(reference, digest, named_digest, architecture, manifest, config, len(raw))


def _check_descriptors(reference: Reference, manifest: dict[str, Any]) -> None:
    """Check what a manifest says of its configuration and its layers.

    :raises ImageError: if that is not what the specification says, or a layer is elsewhere.
    """
    for name, entry in (("configuration", manifest["config"]), *((f"layer {n}", entry) for n, entry in enumerate(manifest["layers"], 1))):
        digest, size = (entry.get("digest"), entry.get("size")) if isinstance(entry, dict) else (None, None)
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            raise ImageError(f"image {reference}: the digest of its {name} is {digest!r:.100}; accepted: sha256: and 64 hexadecimal digits")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ImageError(f"image {reference}: the size of its {name} is {size!r:.100}; accepted: a number of bytes")
        # skopeo does not copy such a layer into a layout.
        if entry.get("urls"):
            raise ImageError(
                f"image {reference}: its {name}, {digest}, is not distributed with it, but from other addresses (urls); "
                "use an image that has all of its layers"
            )


def _entries(reference: Reference, index: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of an index, which are objects, as are their platforms and annotations."""
    entries = index.get("manifests") or []
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and all(isinstance(entry.get(key) or {}, dict) for key in ("platform", "annotations")) for entry in entries
    ):
        raise ImageError(f"image {reference}: its index is damaged: manifests is not a list of objects with objects in them")
    return entries


def _choose(reference: Reference, index: dict[str, Any], architecture: str) -> str:
    """The digest of the image manifest for ``architecture`` in an index."""
    offered = []
    for entry in _entries(reference, index):
        where = entry.get("platform") or {}
        name = f"{where.get('os')}/{oci_architecture(str(where.get('architecture')))}"
        if name == f"linux/{architecture}":
            return str(entry.get("digest"))
        if not name.startswith("unknown/"):  # build attestations
            offered.append(name)
    raise WrongArchitecture(
        f"image {reference} is offered for {', '.join(sorted(set(offered))) or 'no platform'}; this host needs linux/{architecture}"
    )


def _listed(reference: Reference, digest: str, read: Callable[[], bytes]) -> bytes:
    """The manifest ``digest``, which an index lists."""
    try:
        return read()
    except ImageNotFound as error:
        raise IncompleteIndex(
            f"image {reference}: its index lists {digest}, which is not there; publish all of its images again under another tag ({error})"
        ) from error


def _inspect(reference: Reference, *options: str, digest: str | None = None) -> bytes:
    try:
        output = run(["skopeo", "inspect", *options, reference.for_skopeo(digest)], timeout=_INSPECT_TIMEOUT)
    except CommandFailed as error:
        raise _explain(reference, error) from error
    return output


def _layout_reader(reference: Reference, layout: Reference) -> Callable[[str], bytes]:
    """A reader of the small files of an OCI layout, which is a directory or a tar archive of one.

    :param reference: the image, for errors.
    """

    def from_directory(name: str) -> bytes:
        with open(os.path.join(layout.name, name), "rb") as handle:
            return handle.read(_MAX_DOCUMENT + 1)

    def from_archive(name: str) -> bytes:
        # As a layer: tarfile has no bounds, and loops on negative sizes.
        with layers.merged([Path(layout.name)]) as root:
            content = layers.read_file(root, name, _MAX_DOCUMENT)
        if content is None:
            raise FileNotFoundError(f"{name} is not in the archive")
        return content

    read = from_directory if layout.transport == "oci" else from_archive

    def checked(name: str) -> bytes:
        try:
            return read(name)
        except OSError as error:
            raise ImageNotFound(f"image {reference}: {name} cannot be read from {layout.name}: {error}") from error
        except layers.LayerError as error:
            raise ImageError(
                f"image {reference}: {layout.name} is no archive of an image layout, which is a tar file that is not compressed: {error}"
            ) from error

    return checked


def _verify(reference: Reference, what: str, digest: str, content: bytes) -> None:
    if digest_of(content) != digest:
        raise DigestMismatch(f"image {reference}: {what} {digest} has the digest {digest_of(content)}; it was damaged or tampered with")


def _parse_document(reference: Reference, content: bytes) -> dict[str, Any]:
    if len(content) > _MAX_DOCUMENT:
        raise ImageError(f"image {reference}: a manifest or configuration of more than {_MAX_DOCUMENT} bytes; that is not an image")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"image {reference}: its manifest or configuration is not JSON: {error}") from error
    # What Python can read it may not be able to write, or to read again where less of its stack is left.
    level = [document]
    for _depth in range(_MAX_DEPTH):
        level = [child for node in level for child in (node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())]
    if level:
        raise ImageError(f"image {reference}: its manifest or configuration is nested in more than {_MAX_DEPTH} levels")
    if not isinstance(document, dict):
        raise ImageError(f"image {reference}: its manifest or configuration is not a JSON object")
    return document


_CAUSES: tuple[tuple[str, type[ImageError], str], ...] = (
    (
        r"sigstore disabled",
        SignatureRefused,
        "{policy} asks for a sigstore signature, which this host's skopeo is built not to check; use Debian 13 on the host, or GPG",
    ),
    (
        r"Source image rejected",
        SignatureRefused,
        "{policy} refuses it; sign the image with a key that the policy names, or change what the policy says of this registry",
    ),
    (
        r"loading trust policy|invalid policy",
        ImageError,
        "{policy} cannot be used; write a valid one (docs/trust.md), or install Debian's (package golang-github-containers-common)",
    ),
    (r"no space left on device|disk quota", ImageError, "the disk is full; make room"),
    (
        r"file too large",
        ImageError,
        "a blob is larger than what its manifest says, or than a file of that disk can be; publish the image again, or use another disk",
    ),
    (
        r"server gave HTTP response to HTTPS client",
        RegistryUnreachable,
        "the registry speaks no TLS; if that is meant, say insecure = true for it in /etc/containers/registries.conf",
    ),
    (
        r"remote error: tls: .*certificate|client certificate",
        CredentialsRefused,
        "the registry wants a client's certificate; put client.cert and client.key below /etc/containers/certs.d/HOST:PORT/",
    ),
    (r"x509:|certificate", RegistryUnreachable, "its certificate is not trusted; put its CA below /etc/containers/certs.d/HOST:PORT/"),
    (r"does not match|did not match|mismatch", DigestMismatch, "the content does not match its digest; it was damaged or tampered with"),
    (
        r"manifest unknown|name unknown|no descriptor found|opening file .*no such file|not found in|does not exist|StatusCode: 404",
        ImageNotFound,
        "there is no such image; check name, tag and digest",
    ),
    (
        r"unauthorized|authentication required|denied|invalid username/password|StatusCode: 40[13]",
        CredentialsRefused,
        "access is refused; log in on the host (skopeo login), or check that the image exists",
    ),
    (
        r"dial |no such host|i/o timeout|unreachable|connection re|deadline exceeded|EOF|no end after|pinging"
        r"|(StatusCode|HTTP status): 5|toomanyrequests",
        RegistryUnreachable,
        "the registry gives no usable answer; check its address, the network and the proxy",
    ),
)
"""What skopeo (1.9 to 1.18) says, why that is, and what to do; the first match counts."""


def policy_file() -> Path:
    """The file that says which images this host accepts; skopeo takes the user's own before the host's."""
    own = Path.home() / ".config" / "containers" / "policy.json"
    return own if own.exists() else Path("/etc/containers/policy.json")


def said(error: CommandFailed) -> str:
    """What a failed skopeo says, without what lets somebody in."""
    message = error.output or str(error)
    logged = re.findall(r'msg="((?:[^"\\]|\\.)*)"', message)
    return redacted((logged[-1] if logged else message).replace('\\"', '"'))


def _explain(reference: Reference, error: CommandFailed) -> ImageError:
    cause = said(error)
    for pattern, kind, advice in _CAUSES:
        if re.search(pattern, cause):
            return kind(f"image {reference}: {advice.format(policy=policy_file())} ({cause})")
    return ImageError(f"image {reference}: {cause}")
