# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A registry with TLS of a CA of its own and with a password, and mirrors: the containers files of a host say how it is reached."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import shlex
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.image import build, images, oci_layout, references, registry
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ringfence_demo import server

USER, PASSWORD = "puller", "hunter2-secret"
HTPASSWD = f"{USER}:$2b$04$LFRC0Qm3BGvLJxMNaP5wZOcQCvOuJnUBkOoFvg4AXmBKmSqeaEx0m\n"
"""The hash is bcrypt's of ``PASSWORD``, the only kind that docker-registry takes."""
WRONG = "letmein-secret"
NOWHERE = "registry.invalid"
"""A registry that does not exist: RFC 2606 keeps the name from everybody."""


def encoded(password: str) -> str:
    """User and password as they are in ``auth.json`` and on the wire."""
    return base64.b64encode(f"{USER}:{password}".encode()).decode()


def assert_untold(password: str, *texts: str) -> None:
    for text in texts:
        assert password not in text
        assert encoded(password) not in text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Private:
    """The registry, and the files of its CA."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.address = f"127.0.0.1:{free_port()}"
        (directory / "htpasswd").write_text(HTPASSWD)
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        self._openssl("req", "-x509", *key, "-subj", "/CN=CA", "-keyout", "ca.key", "-out", "ca.crt")
        for name, extensions in (("server", "subjectAltName=IP:127.0.0.1"), ("client", "extendedKeyUsage=clientAuth")):
            (directory / "extensions").write_text(extensions)
            self._openssl("req", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
            signed = ["-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extensions"]
            self._openssl("x509", *signed, "-out", f"{name}.cert")

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.directory, check=True, stderr=subprocess.DEVNULL)

    def push(self, layout: Path, name: str) -> None:
        """Push the image tagged ``1`` of a layout."""
        certificates = self.directory / "certificates"
        certificates.mkdir(exist_ok=True)
        shutil.copy(self.directory / "ca.crt", certificates)
        access = ["--dest-cert-dir", str(certificates), "--dest-creds", f"{USER}:{PASSWORD}"]
        target = f"docker://{self.address}/{name}:1"
        subprocess.run(["skopeo", "copy", "--quiet", "--preserve-digests", *access, f"oci:{layout}:1", target], check=True)

    def damage(self, digest: str) -> None:
        """Change what is stored under a digest, and keep its size."""
        (stored,) = (path for path in self.directory.rglob("data") if path.parent.name == digest[7:])
        stored.write_bytes(stored.read_bytes()[:-1] + b" ")

    def start(self, **settings: str) -> None:
        """Start it with TLS and a password; ``settings`` are more of docker-registry's variables."""
        variables = {
            "HTTP_TLS_CERTIFICATE": f"{self.directory}/server.cert",
            "HTTP_TLS_KEY": f"{self.directory}/server.key",
            "AUTH": "htpasswd",
            "AUTH_HTPASSWD_REALM": "test",
            "AUTH_HTPASSWD_PATH": f"{self.directory}/htpasswd",
            **settings,
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(f"REGISTRY_{name}", value)
            assert server.start(self.directory, int(self.address.partition(":")[2]))

    def stop(self) -> None:
        server.stop(self.directory)


class Host:
    """The containers files of root on a host."""

    def __init__(self, home: Path) -> None:
        self.containers = home / ".config" / "containers"
        self.containers.mkdir(parents=True)
        self.registries = self.containers / "registries.conf"
        self.auth = self.containers / "auth.json"
        self.calls = home / "calls"

    def trust(self, private: Private, *client: str) -> None:
        """Have the registry's CA, and a certificate for its clients."""
        directory = self.containers / "certs.d" / private.address
        directory.mkdir(parents=True, exist_ok=True)
        for name in ("ca.crt", *client):
            shutil.copy(private.directory / name, directory)

    def log_in(self, private: Private) -> None:
        """As the documentation says."""
        argv = ["skopeo", "login", "--authfile", str(self.auth), "--username", USER, "--password-stdin", private.address]
        subprocess.run(argv, input=PASSWORD.encode(), check=True, stdout=subprocess.DEVNULL)

    def mirror(self, location: str, mirror: str, *, insecure: bool = False) -> None:
        """Declare the mirror of a registry."""
        text = f'[[registry]]\nlocation = "{location}"\n[[registry.mirror]]\nlocation = "{mirror}"\ninsecure = {str(insecure).lower()}\n'
        self.registries.write_text(text)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image, tagged ``1``."""
    directory = tmp_path_factory.mktemp("image") / "layout"
    oci_layout.write_layout(directory, {"app/file": b"content"}, registry.host_architecture(), {}, "1")
    return directory


@contextlib.contextmanager
def running(directory: Path) -> Iterator[Private]:
    directory.mkdir()
    made = Private(directory)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@contextlib.contextmanager
def lying(layout: Path) -> Iterator[str]:
    """A registry without TLS and password, which says of the image in a layout that it is the one that was asked for; its address."""
    digest = digest_of(layout)

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = digest if "/manifests/" in self.path else self.path.rpartition("/")[2]
            content = b"" if self.path == "/v2/" else (layout / oci_layout.blob(asked)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def private(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Private]:
    with running(tmp_path_factory.mktemp("private") / "registry") as made:
        made.push(layout, "team/app")
        yield made


@pytest.fixture
def mirror(layout: Path, tmp_path: Path) -> Iterator[Private]:
    """A second registry with the same image below another name, which a test may damage or stop."""
    with running(tmp_path / "mirror") as made:
        made.push(layout, "copies/team/app")
        yield made


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host that knows nothing of the registries, and writes down how skopeo is called."""
    made = Host(tmp_path / "home")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for variable in ("XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "REGISTRY_AUTH_FILE"):
        monkeypatch.delenv(variable, raising=False)
    skopeo = shutil.which("skopeo")
    assert skopeo
    wrapper = tmp_path / "bin" / "skopeo"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {shlex.quote(str(made.calls))}\nexec {skopeo} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(wrapper.parent), prepend=":")
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def digest_of(layout: Path) -> str:
    return registry.resolve(f"oci:{layout}:1").digest


def fetched(store: Store, reference: str) -> str:
    """The digest of an image that was fetched."""
    image = build.prepare(store, registry.resolve(reference))
    assert images.is_whole(store, image.digest)
    return image.digest


def test_the_ca_and_the_password_of_a_host_are_used(private: Private, host: Host, store: Store, layout: Path) -> None:
    reference = f"{private.address}/team/app:1"
    with pytest.raises(registry.RegistryUnreachable, match=r"not trusted; put its CA below /etc/containers/certs\.d/HOST:PORT/"):
        registry.resolve(reference)
    host.trust(private)
    with pytest.raises(registry.CredentialsRefused, match=r"access is refused; log in on the host \(skopeo login\)"):
        registry.resolve(reference)
    host.log_in(private)
    assert fetched(store, reference) == digest_of(layout)
    assert host.auth.stat().st_mode & 0o077 == 0
    assert_untold(PASSWORD, host.calls.read_text())


def test_a_wrong_password_is_refused_and_not_told(private: Private, host: Host) -> None:
    host.trust(private)
    host.auth.write_text(json.dumps({"auths": {private.address: {"auth": encoded(WRONG)}}}))
    with pytest.raises(registry.CredentialsRefused) as caught:
        registry.resolve(f"{private.address}/team/app:1")
    assert_untold(WRONG, str(caught.value), host.calls.read_text())


@pytest.mark.parametrize("entry", [f'"{USER}:{WRONG}"', f"{USER}:{WRONG}", f'"{encoded(WRONG)}'], ids=["plain", "no JSON", "cut"])
def test_a_damaged_file_of_credentials_is_not_told(entry: str, private: Private, host: Host) -> None:
    host.trust(private)
    host.auth.write_text(f'{{"auths": {{"{private.address}": {{"auth": {entry}}}}}}}')
    with pytest.raises(references.ImageError) as caught:
        registry.resolve(f"{private.address}/team/app:1")
    assert_untold(WRONG, str(caught.value))


@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
def test_the_password_of_a_proxy_is_not_told(scheme: str, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"{scheme}://{USER}:{WRONG}@127.0.0.1:{free_port()}")
    with pytest.raises(registry.RegistryUnreachable, match=r"the network and the proxy .*proxyconnect") as caught:
        registry.resolve(f"{NOWHERE}/team/app:1")
    assert_untold(WRONG, str(caught.value), host.calls.read_text())


def test_a_client_s_certificate_is_used(layout: Path, host: Host, store: Store, tmp_path: Path) -> None:
    wanted = r"wants a client's certificate; put client\.cert and client\.key below /etc/containers/certs\.d/HOST:PORT/"
    with running(tmp_path / "registry") as closed:
        closed.push(layout, "team/app")
        closed.stop()
        closed.start(HTTP_TLS_CLIENTCAS=f"[{closed.directory}/ca.crt]")
        for files in ((), ("client.cert",)):
            host.trust(closed, *files)
            with pytest.raises(registry.CredentialsRefused, match=wanted):
                registry.resolve(f"{closed.address}/team/app:1")
        host.trust(closed, "client.cert", "client.key")
        host.log_in(closed)
        assert fetched(store, f"{closed.address}/team/app:1") == digest_of(layout)


def test_a_mirror_stands_for_a_registry_that_is_not_there(private: Private, host: Host, layout: Path, store: Store) -> None:
    host.trust(private)
    host.log_in(private)
    host.mirror(NOWHERE, private.address)
    assert fetched(store, f"{NOWHERE}/team/app:1") == digest_of(layout)
    host.mirror(NOWHERE, f"127.0.0.1:{free_port()}")
    with pytest.raises(registry.RegistryUnreachable, match=f"Mirrors also failed: .*{NOWHERE}"):
        registry.resolve(f"{NOWHERE}/team/app:1")


def test_a_mirror_that_gives_nothing_is_passed_over(private: Private, mirror: Private, host: Host, layout: Path, tmp_path: Path) -> None:
    """One that is gone, whose certificate is not trusted, that refuses, and that does not have the image."""
    host.trust(private)
    host.log_in(private)
    host.mirror(private.address, f"{mirror.address}/none")
    steps: tuple[Callable[[], None], ...] = (mirror.stop, mirror.start, lambda: host.trust(mirror), lambda: host.log_in(mirror))
    for number, step in enumerate(steps):
        step()
        assert fetched(Store(tmp_path / f"store-{number}"), f"{private.address}/team/app:1") == digest_of(layout)


@pytest.mark.parametrize("what", ["config", "layer"])
def test_damaged_content_of_a_mirror_is_refused(what: str, private: Private, mirror: Private, host: Host, store: Store) -> None:
    for each in (private, mirror):
        host.trust(each)
        host.log_in(each)
    host.mirror(private.address, f"{mirror.address}/copies")
    resolved = registry.resolve(f"{private.address}/team/app:1")
    reference = f"{private.address}/team/app@{resolved.digest}"
    mirror.damage({"config": resolved.manifest["config"], "layer": resolved.manifest["layers"][0]}[what]["digest"])
    with pytest.raises(registry.DigestMismatch, match="damaged or tampered with"):
        fetched(store, reference)
    assert images.present(store) == set()
    host.registries.unlink()
    assert fetched(store, reference) == resolved.digest


def test_a_mirror_that_gives_another_manifest_is_refused(private: Private, host: Host, layout: Path, store: Store, tmp_path: Path) -> None:
    """docker-registry checks the manifests that it has; this one answers each question for one with its own."""
    oci_layout.write_layout(tmp_path / "forged", {"app/file": b"forged"}, registry.host_architecture(), {}, "1")
    host.trust(private)
    host.log_in(private)
    with lying(tmp_path / "forged") as address:
        host.mirror(private.address, address, insecure=True)
        assert registry.resolve(f"{private.address}/team/app:1").digest == digest_of(tmp_path / "forged")
        with pytest.raises(registry.DigestMismatch, match="damaged or tampered with"):
            fetched(store, f"{private.address}/team/app@{digest_of(layout)}")
    assert images.present(store) == set()
