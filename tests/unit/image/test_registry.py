# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""References are read as Docker reads them, layouts are resolved without a program, and skopeo's words are understood."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.command import CommandFailed
from ansible_collections.ringfence.zones.plugins.module_utils.image import oci_layout, references, registry
from ansible_collections.ringfence.zones.plugins.module_utils.store import digest_of

DIGEST = "sha256:" + "0123456789abcdef" * 4

ACCEPTED = {
    "nginx": "docker://docker.io/library/nginx:latest",
    "nginx:1.27": "docker://docker.io/library/nginx:1.27",
    "library/nginx": "docker://docker.io/library/nginx:latest",
    "docker.io/nginx": "docker://docker.io/library/nginx:latest",
    "index.docker.io/nginx": "docker://docker.io/library/nginx:latest",
    "team/app": "docker://docker.io/team/app:latest",
    "docker://team/app:1": "docker://docker.io/team/app:1",
    "localhost/app": "docker://localhost/app:latest",
    "localhost:5000/app:1": "docker://localhost:5000/app:1",
    "registry.example/app": "docker://registry.example/app:latest",
    "registry.example:5000/a/b/c:v1.2-rc.3_x": "docker://registry.example:5000/a/b/c:v1.2-rc.3_x",
    "10.0.2.2:5000/app": "docker://10.0.2.2:5000/app:latest",
    "[2001:db8::1]:5000/app": "docker://[2001:db8::1]:5000/app:latest",
    "MYHOST/app": "docker://MYHOST/app:latest",
    f"registry.example/app@{DIGEST}": f"docker://registry.example/app@{DIGEST}",
    f"registry.example/app:1@{DIGEST}": f"docker://registry.example/app@{DIGEST}",
    "a__b/c-d--e.f": "docker://docker.io/a__b/c-d--e.f:latest",
    "oci:/srv/layout": "oci:/srv/layout",
    "oci:/srv/layout:v1": "oci:/srv/layout:v1",
    "oci-archive:/srv/image.tar:v1": "oci-archive:/srv/image.tar:v1",
    "docker-archive:/srv/image.tar": "docker-archive:/srv/image.tar",
    "docker-archive:/srv/image.tar:team/app:1": "docker-archive:/srv/image.tar:team/app:1",
}


@pytest.mark.parametrize("text", ACCEPTED)
def test_accepted_reference(text: str) -> None:
    reference = references.parse_reference(text)
    assert reference.for_skopeo() == ACCEPTED[text]
    assert references.parse_reference(str(reference)) == reference


REFUSED = {
    "": "name ''",
    "Nginx": "name 'Nginx'",
    "a b": "name 'a b'",
    "nginx:": "tag ''",
    "nginx:-x": "tag '-x'",
    "nginx:" + "x" * 129: "tag 'x",
    "http://registry.example/app": "'http:' is not a registry host",
    "registry.example:port/app": "'registry.example:port' is not a registry host",
    "-registry.example/app": "'-registry.example' is not a registry host",
    "registry.example/": "name ''",
    "registry.example/App": "name 'App'",
    "registry.example/../app": "name '../app'",
    "nginx@": "digest ''",
    "nginx@sha256:abc": "digest 'sha256:abc'",
    f"nginx@{DIGEST.upper()}": "digest 'SHA256",
    f"nginx@{DIGEST.replace('sha256', 'sha512')}": "digest 'sha512",
    "oci:layout": "'layout' is not an absolute path",
    "oci:": "'' is not an absolute path",
    "oci:/srv/layout:": "the tag after ':' is empty",
    f"oci:/srv/layout@{DIGEST}": "a digest is only for registries",
    "docker-archive:image.tar": "'image.tar' is not an absolute path",
    "nginx\n": "name 'nginx\\n'",
    "--option": "name '--option'",
}


@pytest.mark.parametrize("text", REFUSED)
def test_refused_reference(text: str) -> None:
    with pytest.raises(references.InvalidReference) as caught:
        references.parse_reference(text)
    assert REFUSED[text] in str(caught.value)
    assert "accepted: [docker://]" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "docker://bob:hunter2@r.example/a:1",
        "bob:hunter2@r.example/a",
        f"bob:hun@ter2@r.example/a@{DIGEST}",
        "docker://bob:hun/ter2@r.example/a:1",
        f"bob:hun/\nter2@r.example/a@{DIGEST}",
        "https://bob:hun'ter2@r.example/a",
    ],
)
def test_credentials_in_a_reference_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(references.InvalidReference, match=r"credentials do not belong in a reference.*skopeo login") as caught:
        references.parse_reference(text)
    assert not re.search("bob|hun|ter2", str(caught.value))


SAID = {
    'Get "https://bob:hunter2@r.example/v2/": dial': 'Get "https://***@r.example/v2/": dial',
    "https://cdn.example/b?Signature=hunter2&Key=1: 403": "https://cdn.example/b?***",
    f"reading docker://r.example/a@{DIGEST}: EOF": f"reading docker://r.example/a@{DIGEST}: EOF",
    "mail to a directory oci:/srv/a@b stays": "mail to a directory oci:/srv/a@b stays",
}


@pytest.mark.parametrize("said", SAID)
def test_what_lets_somebody_in_is_taken_out_of_errors(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_arguments: Any, **_options: Any) -> bytes:
        raise CommandFailed(f"skopeo failed: {said}", said)

    monkeypatch.setattr(registry, "run", failing)
    with pytest.raises(references.ImageError) as caught:
        registry.resolve("r.example/a:1")
    assert SAID[said] in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("r.example/a:1", f"r.example/a@{DIGEST}"),
        (f"r.example/a:1@{DIGEST}", f"r.example/a:1@{DIGEST}"),
        ("oci:/srv/a:1", "oci:/srv/a:1"),
    ],
)
def test_what_a_tag_meant_is_asked_for_by_digest(text: str, expected: str) -> None:
    assert references.recorded(text, DIGEST) == expected


def layout(directory: Path, architecture: str = "amd64", tag: str = "1") -> str:
    layer = directory.with_suffix(".layer")
    layer.write_bytes(bytes(1024))
    return oci_layout.write_image(directory, layer, {"Cmd": ["x"]}, architecture, {}, tag)


def index_over(directory: Path, platforms: list[dict[str, str] | None], tag: str) -> str:
    """Put an index over the one image of a layout beside it, and return the index's digest."""
    top = json.loads((directory / "index.json").read_bytes())
    image = {key: value for key, value in top["manifests"][0].items() if key != "annotations"}
    document = {"schemaVersion": 2, "manifests": [{**image, **({"platform": where} if where else {})} for where in platforms]}
    content = json.dumps(document).encode()
    digest = digest_of(content)
    (directory / "blobs" / "sha256" / digest[7:]).write_bytes(content)
    top["manifests"].append({"digest": digest, "size": len(content), "annotations": {"org.opencontainers.image.ref.name": tag}})
    (directory / "index.json").write_text(json.dumps(top))
    return digest


def test_layout(tmp_path: Path) -> None:
    digest = layout(tmp_path / "layout")
    for reference in (f"oci:{tmp_path}/layout", f"oci:{tmp_path}/layout:1"):
        resolved = registry.resolve(reference, "amd64")
        assert (resolved.digest, resolved.named_digest, resolved.architecture) == (digest, digest, "amd64")
        assert resolved.config["config"] == {"Cmd": ["x"]}
        assert len(resolved.manifest["layers"]) == 1


def test_archive(tmp_path: Path) -> None:
    digest = layout(tmp_path / "layout")
    archive = shutil.make_archive(str(tmp_path / "image"), "tar", tmp_path / "layout")
    assert registry.resolve(f"oci-archive:{archive}:1", "amd64").digest == digest


NO_ARCHIVES: dict[str, tuple[Callable[[bytes], bytes], type[references.ImageError], str]] = {
    "negative size": (
        lambda archive: header(b"\xff" * 12) + archive,
        references.ImageError,
        r"is no archive of an image layout.*the number",
    ),
    "compressed": (gzip.compress, references.ImageError, "is no archive of an image layout, which is a tar file that is not compressed"),
    "cut": (lambda archive: archive[:1500], references.ImageError, "is no archive of an image layout.*ends in the middle"),
    "large index": (lambda archive: archive[:0] + document("index.json", 5_000_000), references.ImageError, "at most 4194304 are accepted"),
    "nothing": (lambda archive: archive[:0], registry.ImageNotFound, "index.json is not in the archive"),
}


def header(size: bytes, name: str = "a") -> bytes:
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    block[124:136], block[148:156] = size, b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def document(name: str, size: int) -> bytes:
    return header(b"%011o\0" % size, name) + bytes(size + -size % 512)


@pytest.mark.parametrize("case", NO_ARCHIVES)
def test_what_is_no_archive_of_a_layout_is_told(case: str, tmp_path: Path) -> None:
    layout(tmp_path / "layout")
    archive = Path(shutil.make_archive(str(tmp_path / "image"), "tar", tmp_path / "layout"))
    change, kind, message = NO_ARCHIVES[case]
    archive.write_bytes(change(archive.read_bytes()))
    with pytest.raises(kind, match=message):
        registry.resolve(f"oci-archive:{archive}:1", "amd64")


def test_index(tmp_path: Path) -> None:
    digest = layout(tmp_path / "layout", architecture="arm64")
    attestation = {"os": "unknown", "architecture": "unknown"}
    named = index_over(tmp_path / "layout", [attestation, {"os": "linux", "architecture": "aarch64"}], "both")
    resolved = registry.resolve(f"oci:{tmp_path}/layout:both", "arm64")
    assert (resolved.digest, resolved.named_digest) == (digest, named)
    with pytest.raises(registry.WrongArchitecture, match=r"is offered for linux/arm64; this host needs linux/amd64"):
        registry.resolve(f"oci:{tmp_path}/layout:both", "amd64")


def test_index_without_an_image_that_it_lists(tmp_path: Path) -> None:
    digest = layout(tmp_path / "layout")
    index_over(tmp_path / "layout", [{"os": "linux", "architecture": "amd64"}], "index")
    (tmp_path / "layout" / "blobs" / "sha256" / digest[7:]).unlink()
    with pytest.raises(registry.IncompleteIndex, match=rf"its index lists {digest}, which is not there; publish all"):
        registry.resolve(f"oci:{tmp_path}/layout:index", "amd64")


def damage(change: Callable[[bytes], bytes], which: int) -> Callable[[Path], None]:
    """Change the document that is the ``which``-th in size."""

    def do(directory: Path) -> None:
        documents = sorted((directory / "blobs" / "sha256").iterdir(), key=lambda path: (path.stat().st_size, path.name))
        documents[which].write_bytes(change(documents[which].read_bytes()))

    return do


def edit_index(**changes: Any) -> Callable[[Path], None]:
    def do(directory: Path) -> None:
        index = json.loads((directory / "index.json").read_bytes())
        index["manifests"][0].update(changes)
        (directory / "index.json").write_text(json.dumps(index))

    return do


def overwrite_index(content: bytes) -> Callable[[Path], None]:
    def do(directory: Path) -> None:
        (directory / "index.json").write_bytes(content)

    return do


BROKEN: dict[str, tuple[Callable[[Path], None], type[references.ImageError], str]] = {
    "configuration changed": (damage(lambda content: content + b" ", 0), registry.DigestMismatch, "configuration sha256:.* has the digest"),
    "manifest changed": (damage(lambda content: content + b" ", 1), registry.DigestMismatch, "manifest sha256:.* has the digest"),
    "manifest missing": (edit_index(digest=DIGEST), registry.ImageNotFound, "blobs/sha256/0123.* cannot be read"),
    "path for a digest": (edit_index(digest="sha256:../../../etc/passwd"), registry.DigestMismatch, "is not a sha256 digest"),
    "no layout": (lambda directory: (directory / "index.json").unlink(), registry.ImageNotFound, "index.json cannot be read"),
    "index is no JSON": (overwrite_index(b"{"), references.ImageError, "is not JSON"),
    "tag with an escape": (
        edit_index(annotations={"org.opencontainers.image.ref.name": "\x1b[2J\x07"}),
        registry.ImageNotFound,
        r"name one of the tags: \\x1b\[2J\\x07$",
    ),
    "index is nested too deep for Python": (overwrite_index(b"[" * 100_000), references.ImageError, "is not JSON: maximum recursion"),
    "index is nested too deep": (overwrite_index(b'{"a":' * 200 + b"1" + b"}" * 200), references.ImageError, "more than 100 levels"),
    "index of numbers": (overwrite_index(b'{"manifests": [1]}'), references.ImageError, "its index is damaged: manifests is not a list"),
    "index of nothing": (overwrite_index(b'{"manifests": null}'), registry.ImageNotFound, "there are none"),
    "platform is a list": (edit_index(platform=[1]), references.ImageError, "its index is damaged"),
    "annotations are a text": (edit_index(annotations="x"), references.ImageError, "its index is damaged"),
    "index is a list": (overwrite_index(b"[]"), references.ImageError, "not a JSON object"),
    "huge index": (
        overwrite_index(b" " * 5_000_000),
        references.ImageError,
        "more than 4194304 bytes",
    ),
    "other tag": (
        edit_index(annotations={"org.opencontainers.image.ref.name": "2"}),
        registry.ImageNotFound,
        r"0 images there match; name one of the tags: 2",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_layout(case: str, tmp_path: Path) -> None:
    layout(tmp_path / "layout")
    change, kind, message = BROKEN[case]
    change(tmp_path / "layout")
    with pytest.raises(kind, match=message):
        registry.resolve(f"oci:{tmp_path}/layout:1", "amd64")


DESCRIBED: dict[str, tuple[dict[str, Any], str]] = {
    "no size": ({"layers": [{"digest": DIGEST}]}, "the size of its layer 1 is None; accepted: a number of bytes"),
    "negative size": ({"layers": [{"digest": DIGEST, "size": -1}]}, "the size of its layer 1 is -1"),
    "size in words": ({"layers": [{"digest": DIGEST, "size": 1}, {"digest": DIGEST, "size": "1"}]}, "the size of its layer 2 is '1'"),
    "true size": ({"layers": [{"digest": DIGEST, "size": True}]}, "the size of its layer 1 is True"),
    "no digest": ({"layers": [{"size": 1}]}, "the digest of its layer 1 is None; accepted: sha256:"),
    "digest that leads out": ({"layers": [{"digest": "sha256:../x", "size": 1}]}, r"the digest of its layer 1 is 'sha256:\.\./x'"),
    "layer that is no object": ({"layers": ["x"]}, "the digest of its layer 1 is None"),
    "layer from elsewhere": (
        {"layers": [{"digest": DIGEST, "size": 1, "urls": ["https://elsewhere.example/layer"]}]},
        rf"its layer 1, {DIGEST}, is not distributed with it, but from other addresses \(urls\); use an image that has all",
    ),
    "configuration that is no object": ({"config": "x"}, "has the media type"),
    "configuration without a size": ({"config": {"digest": DIGEST}}, "the size of its configuration is None"),
    "layers that are no list": ({"layers": {}}, "has the media type"),
    "annotations that are no object": (
        {"annotations": ["x"]},
        r"annotations of its manifest or configuration is \['x'\]; accepted: an object",
    ),
}


def with_manifest(directory: Path, changes: dict[str, Any]) -> str:
    """Put another manifest into a layout, and return the reference to it."""
    blobs = directory / "blobs" / "sha256"
    top = json.loads((directory / "index.json").read_bytes())
    manifest = json.loads((blobs / top["manifests"][0]["digest"][7:]).read_bytes())
    content = json.dumps({**manifest, **changes}).encode()
    digest = digest_of(content)
    (blobs / digest[7:]).write_bytes(content)
    edit_index(digest=digest)(directory)
    return f"oci:{directory}:1"


@pytest.mark.parametrize("case", DESCRIBED)
def test_a_manifest_that_cannot_be_used_is_told(case: str, tmp_path: Path) -> None:
    layout(tmp_path / "layout")
    changes, message = DESCRIBED[case]
    with pytest.raises(references.ImageError, match=message):
        registry.resolve(with_manifest(tmp_path / "layout", changes), "amd64")


def test_a_configuration_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    layout(tmp_path / "layout")
    content = json.dumps({"architecture": "amd64", "os": "linux", "config": [1]}).encode()
    digest = digest_of(content)
    (tmp_path / "layout/blobs/sha256" / digest[7:]).write_bytes(content)
    reference = with_manifest(tmp_path / "layout", {"config": {"digest": digest, "size": len(content)}})
    with pytest.raises(references.ImageError, match=r"config of its manifest or configuration is \[1\]; accepted: an object"):
        registry.resolve(reference, "amd64")


def test_image_of_another_architecture(tmp_path: Path) -> None:
    layout(tmp_path / "layout", architecture="s390x")
    with pytest.raises(registry.WrongArchitecture, match=r"is for linux/s390x; this host needs linux/amd64"):
        registry.resolve(f"oci:{tmp_path}/layout:1", "amd64")


REASONS: dict[str, tuple[type[references.ImageError], str]] = {
    "reading manifest 1 in r.example/a: received unexpected HTTP status: 500 Internal Server Error": (
        registry.RegistryUnreachable,
        "check its address",
    ),
    "reading manifest 9 in r.example/a: manifest unknown: manifest unknown": (registry.ImageNotFound, "check name, tag and digest"),
    "reading manifest 9 in r.example/a: name unknown: repository name not known to registry": (registry.ImageNotFound, "check name"),
    'pinging container registry r.example: Get \\"https://r.example/v2/\\": dial tcp 192.0.2.1:443: i/o timeout': (
        registry.RegistryUnreachable,
        "check its address",
    ),
    'pinging container registry r.example: Get \\"https://r.example/v2/\\": dial tcp: lookup r.example: no such host': (
        registry.RegistryUnreachable,
        "check its address",
    ),
    "pinging container registry r.example: received unexpected HTTP status: 503 Service Unavailable": (
        registry.RegistryUnreachable,
        "check its address",
    ),
    'Get \\"https://r.example/v2/\\": http: server gave HTTP response to HTTPS client': (registry.RegistryUnreachable, "insecure = true"),
    'Get \\"https://r.example/v2/\\": x509: certificate signed by unknown authority': (registry.RegistryUnreachable, "certs.d"),
    'Get \\"https://r.example/v2/\\": remote error: tls: bad certificate': (registry.CredentialsRefused, "put client.cert and client.key"),
    "missing key client.key for client certificate client.cert.": (registry.CredentialsRefused, "put client.cert and client.key"),
    "reading manifest 1 in r.example/a: unauthorized: authentication required": (registry.CredentialsRefused, "skopeo login"),
    "reading manifest latest in docker.io/x/y: requested access to the resource is denied": (registry.CredentialsRefused, "skopeo login"),
    "writing blob: storing blob to file: write /x: no space left on device": (references.ImageError, "the disk is full"),
    "Error reading blob sha256:1: Digest did not match, expected sha256:1, got sha256:2": (registry.DigestMismatch, "damaged or tampered"),
    "Source image rejected: A signature was required, but no signature exists": (registry.SignatureRefused, "policy.json refuses it; sign"),
    "Source image rejected: Debian-local change: sigstore disabled": (
        registry.SignatureRefused,
        "use Debian 13 on the host, or GPG",
    ),
    "Error loading trust policy: open /etc/containers/policy.json: no such file or directory": (references.ImageError, "cannot be used"),
    "something new": (references.ImageError, "something new"),
}


@pytest.mark.parametrize("said", REASONS)
def test_reason_of_a_failure(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    line = f'time="2026-01-01T00:00:00Z" level=fatal msg="Error parsing image name \\"docker://r.example/a:1\\": {said}"'

    def failing(*_arguments: Any, **_options: Any) -> bytes:
        raise CommandFailed(f"skopeo failed: {line}", line)

    monkeypatch.setattr(registry, "run", failing)
    kind, advice = REASONS[said]
    with pytest.raises(references.ImageError) as caught:
        registry.resolve("r.example/a:1")
    assert caught.type is kind
    assert str(caught.value).startswith("image r.example/a:1: ")
    assert advice in str(caught.value)
    assert said.replace("\\", "") in str(caught.value)
