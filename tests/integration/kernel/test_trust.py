"""The policy that a host has for images, with real signatures: what it asks for is accepted, everything else refused."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from ansible_collections.ringfence.zones.plugins.module_utils.image import build, oci_layout, registry
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.deploy import Declared, DeploymentFailed, converge
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.kernels import deployed
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store

MakeImage = Callable[..., tuple[str, str]]
EXAMPLES = Path(__file__).parents[3] / "examples" / "trust"


class Trust:
    """The containers files of a user, made of the examples, and two keys of each kind: ``good``, which is trusted, and ``other``."""

    def __init__(self, address: str, tmp_path: Path) -> None:
        self.address = address
        self.containers = Path(os.environ["HOME"]) / ".config" / "containers"
        self.keys = tmp_path / "keys"
        self.signatures = tmp_path / "signatures"
        self.gpg_home = tmp_path / "gnupg"
        for directory in (self.containers / "registries.d", self.keys, self.signatures, self.gpg_home):
            directory.mkdir(mode=0o700)

    def use(self, example: str) -> None:
        """Take one of the example policies, with this test's registry, keys and signatures."""
        self._copy(f"{example}.json", self.containers / "policy.json")

    def use_registries(self, example: str) -> None:
        self._copy(f"{example}.yaml", self.containers / "registries.d" / f"{example}.yaml")

    def _copy(self, name: str, to: Path) -> None:
        text = (EXAMPLES / name).read_text()
        text = text.replace("registry.example", self.address).replace("/etc/containers/keys", str(self.keys))
        to.write_text(text.replace("https://signatures.example", f"file://{self.signatures}"))

    def push(self, source: str, name: str, *options: str) -> str:
        """Push an image; returns its reference by tag."""
        reference = f"{self.address}/{name}"
        subprocess.run(
            ["skopeo", "copy", "--insecure-policy", "--preserve-digests", "--quiet", *options, source, f"docker://{reference}"], check=True
        )
        return reference

    def gpg_key(self, who: str) -> None:
        gpg = ["gpg", "--homedir", str(self.gpg_home), "--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback"]
        subprocess.run([*gpg, "--quick-gen-key", f"{who}@example", "rsa2048", "sign", "never"], check=True)
        subprocess.run([*gpg, "--armor", "--output", str(self.keys / f"{who}.gpg"), "--export", f"{who}@example"], check=True)

    def revoke_gpg_key(self, who: str) -> None:
        """Revoke a key, and put it where the policy looks for it as its owner would publish it now."""
        gpg = ["gpg", "--homedir", str(self.gpg_home), "--batch", "--quiet", "--yes"]
        listed = subprocess.run([*gpg, "--with-colons", "--list-keys", f"{who}@example"], stdout=subprocess.PIPE, check=True, text=True)
        fingerprint = next(line.split(":")[9] for line in listed.stdout.splitlines() if line.startswith("fpr:"))
        certificate = (self.gpg_home / "openpgp-revocs.d" / f"{fingerprint}.rev").read_bytes()
        # gpg keeps it with a colon before its first line, so that nobody imports it by mistake.
        subprocess.run([*gpg, "--import"], input=certificate.replace(b":-----BEGIN", b"-----BEGIN"), check=True)
        subprocess.run([*gpg, "--armor", "--output", str(self.keys / f"{who}.gpg"), "--export", f"{who}@example"], check=True)

    def sigstore_key(self, who: str) -> tuple[str, ...]:
        """Make a key; returns skopeo's options to sign with it."""
        passphrase = self.keys / "passphrase"
        passphrase.write_text("secret")
        prefix = str(self.keys / who)
        subprocess.run(["skopeo", "generate-sigstore-key", "--output-prefix", prefix, "--passphrase-file", str(passphrase)], check=True)
        return ("--sign-by-sigstore-private-key", f"{prefix}.private", "--sign-passphrase-file", str(passphrase))


@pytest.fixture(scope="module")
def trixie(apt: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the skopeo of Debian 13, with its own libraries; Debian 12's checks no sigstore signatures."""
    root = tmp_path_factory.mktemp("skopeo")
    environment = {**os.environ, "APT_CONFIG": str(apt["trixie"])}
    subprocess.run(
        ["apt-get", "--quiet", "--assume-yes", "--no-install-recommends", "--download-only", "install", "skopeo"],
        env=environment,
        check=True,
    )
    for package in (apt["trixie"].parent / "cache" / "archives").glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", str(package), str(root)], check=True)
    wrapper = root / "wrapper" / "skopeo"
    wrapper.parent.mkdir()
    loader = f"{root}/usr/lib64/ld-linux-x86-64.so.2 --library-path {root}/usr/lib/x86_64-linux-gnu"
    wrapper.write_text(f'#!/bin/sh\nexec {loader} {root}/usr/bin/skopeo "$@"\n')
    wrapper.chmod(0o755)
    return wrapper.parent


@pytest.fixture
def trust(registry_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trust]:
    made = Trust(registry_address, tmp_path)
    monkeypatch.setenv("GNUPGHOME", str(made.gpg_home))
    yield made
    subprocess.run(["gpgconf", "--kill", "all"], check=True)


def _deploy(store: Store, image: str) -> str:
    return str(converge(store, [Declared("stable", image)], check=False).kernels[0]["digest"])


def _refused(store: Store, image: str, why: str) -> None:
    with pytest.raises(DeploymentFailed) as caught:
        _deploy(store, image)
    message = str(caught.value)
    assert message.startswith(
        f"kernel 'stable' ({image}): image {image}: {os.environ['HOME']}/.config/containers/policy.json refuses it; sign"
    )
    assert why in message
    assert deployed(store) == {}


def test_a_gpg_signature_is_asked_for(trust: Trust, make_image: MakeImage, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    source, digest = make_image()
    for who in ("good", "other"):
        trust.gpg_key(who)
    trust.use_registries("gpg")
    good = trust.push(source, "kernels/good:1", "--sign-by", "good@example")
    unsigned = trust.push(source, "kernels/unsigned:1")
    other = trust.push(source, "kernels/other:1", "--sign-by", "other@example")
    trust.use("gpg")
    _refused(store, unsigned, "A signature was required, but no signature exists")
    _refused(store, other, "Source image rejected")
    _refused(store, source, "Running image oci:")
    assert _deploy(store, good) == digest
    # What refused them was the policy.
    trust.use("accept-everything")
    assert _deploy(Store(tmp_path / "second"), unsigned) == _deploy(Store(tmp_path / "third"), other) == digest


def test_a_gpg_key_that_was_revoked_signs_nothing_any_more(trust: Trust, make_image: MakeImage, tmp_path: Path) -> None:
    source, digest = make_image()
    trust.gpg_key("good")
    trust.use_registries("gpg")
    signed = trust.push(source, "kernels/good:1", "--sign-by", "good@example")
    trust.use("gpg")
    store = Store(tmp_path / "store")
    assert _deploy(store, signed) == digest
    trust.revoke_gpg_key("good")
    _refused(Store(tmp_path / "second"), signed, "Source image rejected")
    # What was accepted before stays.
    assert not converge(store, [Declared("stable", signed)], check=False).changed
    assert deployed(store)["stable"].digest == digest


def test_a_sigstore_key_that_the_policy_does_not_name_any_more_signs_nothing(
    trust: Trust, trixie: Path, make_image: MakeImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such keys have no revocation of their own: another one takes the place of the file."""
    monkeypatch.setenv("PATH", f"{trixie}:{os.environ['PATH']}")
    source, digest = make_image()
    trust.use_registries("sigstore")
    signed = trust.push(source, "kernels/good:1", *trust.sigstore_key("good"))
    trust.use("sigstore")
    assert _deploy(Store(tmp_path / "store"), signed) == digest
    trust.sigstore_key("new")
    (trust.keys / "new.pub").rename(trust.keys / "good.pub")
    _refused(Store(tmp_path / "second"), signed, "Source image rejected")


def test_a_sigstore_signature_is_asked_for(
    trust: Trust, trixie: Path, make_image: MakeImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{trixie}:{os.environ['PATH']}")
    store = Store(tmp_path / "store")
    source, digest = make_image()
    trust.use_registries("sigstore")
    good = trust.push(source, "kernels/good:1", *trust.sigstore_key("good"))
    other = trust.push(source, "kernels/other:1", *trust.sigstore_key("other"))
    unsigned = trust.push(source, "kernels/unsigned:1")
    signature = f"{digest.replace(':', '-')}.sig"
    replayed = trust.push(source, "kernels/replayed:1")
    trust.push(f"docker://{trust.address}/kernels/good:{signature}", f"kernels/replayed:{signature}")
    trust.use("sigstore")
    _refused(store, unsigned, "A signature was required, but no signature exists")
    _refused(store, other, "Source image rejected")
    _refused(store, replayed, "Source image rejected")
    assert _deploy(store, good) == digest
    trust.use("accept-everything")
    for number, image in enumerate((unsigned, other, replayed)):
        assert _deploy(Store(tmp_path / f"other-{number}"), image) == digest


def test_the_image_of_a_zone_is_held_to_the_same_policy(trust: Trust, tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    layer.write_bytes(bytes(1024))
    oci_layout.write_image(tmp_path / "image", layer, {"Cmd": ["app"]}, "amd64", {}, "1")
    trust.gpg_key("good")
    trust.use_registries("gpg")
    unsigned = trust.push(f"oci:{tmp_path}/image:1", "unsigned/app:1")
    signed = trust.push(f"oci:{tmp_path}/image:1", "app:1", "--sign-by", "good@example")
    trust.use("gpg")
    with pytest.raises(registry.SignatureRefused, match=rf"image {unsigned}: .*policy\.json refuses it"):
        build.prepare(Store(tmp_path / "store"), registry.resolve(unsigned))
    assert build.prepare(Store(tmp_path / "store"), registry.resolve(signed)).config["config"] == {"Cmd": ["app"]}


def test_a_policy_that_is_none_is_told(trust: Trust, make_image: MakeImage, tmp_path: Path) -> None:
    (trust.containers / "policy.json").write_text("{}")
    with pytest.raises(DeploymentFailed, match=r"policy\.json cannot be used; write a valid one"):
        _deploy(Store(tmp_path / "store"), make_image()[0])


def test_the_examples_are_those_of_the_documentation() -> None:
    page = (EXAMPLES.parents[1] / "docs" / "trust.md").read_text(encoding="utf-8")
    for path in EXAMPLES.iterdir():
        text = path.read_text(encoding="utf-8")
        assert f"](../examples/trust/{path.name})" in page
        json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
