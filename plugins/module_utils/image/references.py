# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""References of OCI images: what the text means, as Docker and Compose read it. Pure."""

from __future__ import annotations

import dataclasses
import functools
import re

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError

ACCEPTED = (
    "[docker://][HOST[:PORT]/]NAME[:TAG][@sha256:DIGEST], oci:/DIRECTORY[:TAG], oci-archive:/FILE[:TAG] or docker-archive:/FILE[:NAME:TAG]"
)
"""The forms of an image reference, for error messages."""

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_OTHER_THAN_DIGEST = r"@(?!(?i:sha\d+:)|$)"
"""What ends a user and a password, in which there may be anything."""
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]{{1,5}})?")
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")


class ImageError(RingfenceError):
    """An image cannot be had. Each subclass is one reason that a caller may tell apart."""


class InvalidReference(ImageError):
    """The text is not an image reference."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """Where an image is.

    ``name`` is ``HOST/PATH`` for ``docker`` and an absolute path for the other transports. ``tag`` is what selects an image there;
    a ``digest`` (``docker`` only) wins over the tag, as in Docker.
    """

    transport: str
    name: str
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        prefix = "" if self.transport == "docker" else f"{self.transport}:"
        return f"{prefix}{self.name}{f':{self.tag}' if self.tag else ''}{f'@{self.digest}' if self.digest else ''}"

    def for_skopeo(self, digest: str | None = None) -> str:
        """The reference in skopeo's syntax, which does not know a tag beside a digest; ``digest`` narrows it down."""
        if self.transport != "docker":
            return f"{self.transport}:{self.name}{f':{self.tag}' if self.tag else ''}"
        pinned = digest or self.digest
        return f"docker://{self.name}" + (f"@{pinned}" if pinned else f":{self.tag}")


def redacted(text: str) -> str:
    """``text`` without what lets somebody in: user and password in an address, and what follows an address's ``?``.

    Registries redirect to storage with signed addresses, and skopeo repeats those in its errors.
    """
    text = re.sub(rf"((?:^|[\s'\"(])(?:[a-z-]+:(?://)?)?)[^\s/'\"]+{_OTHER_THAN_DIGEST}", r"\1***@", text)
    return re.sub(r"(https?://[^\s?'\"]+\?)[^\s'\"\\]+", r"\1***", text)


@functools.cache
def parse_reference(text: str) -> Reference:
    """Read an image reference as Docker and Compose do; ``nginx`` is ``docker.io/library/nginx:latest``.

    :raises InvalidReference: naming the text, the faulty part and what is accepted.
    """
    for transport in ("oci", "oci-archive", "docker-archive"):
        if text.startswith(f"{transport}:"):
            return _parse_local(text, transport, text[len(transport) + 1 :])
    return _parse_docker(text, text.removeprefix("docker://"))


def recorded(reference: str, digest: str) -> str:
    """The reference to the image that ``reference`` meant when it was resolved to ``digest``: a tag may mean another one by now."""
    parsed = parse_reference(reference)
    return f"{parsed.name}@{digest}" if parsed.transport == "docker" and parsed.digest is None else reference


def _parse_docker(text: str, rest: str) -> Reference:
    shown, found = re.subn(rf"(?s).*{_OTHER_THAN_DIGEST}", "***@", text)
    if found:
        raise InvalidReference(
            f"image {shown!r}: only a digest follows '@'; credentials do not belong in a reference, from where they get into logs; log in "
            f"on the host (skopeo login); accepted: {ACCEPTED}"
        )
    rest, at, digest = rest.partition("@")
    if at and not DIGEST.fullmatch(digest):
        raise _invalid(text, f"digest {digest!r} is not sha256: and 64 lower-case hexadecimal digits")
    host, path = "docker.io", rest
    first, slash, remainder = rest.partition("/")
    # Docker's rule: the first component is a host if it looks like one, else it is part of a Docker Hub name.
    if slash and (first == "localhost" or "." in first or ":" in first or first != first.lower()):
        host, path = first, remainder
    path, colon, tag = path.partition(":")
    if host in ("docker.io", "index.docker.io"):
        host = "docker.io"
        path = path if "/" in path else f"library/{path}"
    if not _HOST.fullmatch(host):
        raise _invalid(text, f"{host!r} is not a registry host")
    if colon and not _TAG.fullmatch(tag):
        raise _invalid(text, f"tag {tag!r} is not 1 to 128 letters, digits, '_', '.', '-'")
    if not _PATH.fullmatch(path):
        raise _invalid(text, f"name {path.removeprefix('library/')!r} is not made of lower-case letters, digits and single separators")
    return Reference("docker", f"{host}/{path}", tag or (None if digest else "latest"), digest or None)


def _parse_local(text: str, transport: str, rest: str) -> Reference:
    path, colon, tag = rest.partition(":")
    if not path.startswith("/"):
        raise _invalid(text, f"{path!r} is not an absolute path on the host")
    if any(character in rest for character in "@\0\n"):
        raise _invalid(text, "a path takes no '@', and a digest is only for registries")
    if colon and not tag:
        raise _invalid(text, "the tag after ':' is empty")
    return Reference(transport, path, tag or None)


def _invalid(text: str, fault: str) -> InvalidReference:
    return InvalidReference(f"image {redacted(text)!r}: {fault}; accepted: {ACCEPTED}")
