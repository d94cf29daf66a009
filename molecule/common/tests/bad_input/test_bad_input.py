"""Declarations that cannot be carried out on a live host: each gets a clear error, and nothing is changed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live import Live

from ansible_collections.ringfence.zones.plugins.module_utils.image import oci_layout
from ringfence_demo.cli import cache_directory

Table = list[tuple[str, dict[str, Any], str]]
"""One call of the module, which reports all faults at once: name, fields beside the image, what the error says."""

INVALID: Table = [
    ("typo", {"memmory": "1GiB"}, "unknown field memmory; did you mean memory?"),
    ("Bad_Name", {}, "'Bad_Name' is not accepted; accepted: 1 to 40 characters"),
    ("little", {"memory": "1KiB"}, "memory: '1KiB' is not accepted; accepted: a size with its unit, at least 32MiB"),
    ("twice", {}, "zone twice: name: declared twice; names are unique on a host"),
    ("twice", {}, "zone twice: name: declared twice; names are unique on a host"),
]
IMPOSSIBLE: Table = [
    ("kernel", {"kernel": "nope"}, "kernel: 'nope' is not deployed on this host; accepted: debian12, debian13"),
    ("missing", {"image": "{registry}/missing:1"}, "/missing:1: there is no such image"),
    ("unreachable", {"image": "10.0.2.2:9/web:1"}, "10.0.2.2:9/web:1: the registry gives no usable answer"),
    ("damaged", {"image": "{registry}/damaged:1"}, "it was damaged or tampered with"),
    ("arm", {"image": "{registry}/arm:1"}, "/arm:1 is for linux/arm64; this host needs linux/amd64"),
    ("host-port", {"ports": ["22:80"]}, "ports: 22:80/tcp is not accepted; a program of the host listens on 22/tcp"),
    ("zone-port", {"ports": ["8080:80"]}, "ports: 8080:80/tcp is not accepted; zone web publishes 8080/tcp"),
]
TOO_LARGE: Table = [("large", {"memory": "64GiB"}, "(large 65536MiB) need 65544 MiB with Xen's overhead, and this host has")]


@pytest.fixture(scope="module")
def registry(live: Live, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The registry, with an image of another architecture, and one whose configuration was changed after it was pushed."""
    address = str(live.variables["registry"])
    port = address.rpartition(":")[2]
    for name, architecture in (("arm", "arm64"), ("damaged", "amd64")):
        directory = tmp_path_factory.mktemp(name) / "layout"
        oci_layout.write_layout(directory, {"etc/name": name.encode()}, architecture, {}, "1")
        target = f"docker://127.0.0.1:{port}/{name}:1"
        subprocess.run(["skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{directory}:1", target], check=True)
    blobs = cache_directory() / f"registry-{port}" / "data" / "docker" / "registry" / "v2" / "blobs" / "sha256"
    _damage(blobs, directory)
    return address


def _damage(blobs: Path, layout: Path) -> None:
    """Change one letter of an image's configuration in a registry's storage."""
    for blob in (layout / "blobs" / "sha256").iterdir():
        content = blob.read_bytes()
        if b'"rootfs"' in content:
            (blobs / blob.name[:2] / blob.name / "data").write_bytes(content.replace(b'"linux"', b'"Linux"'))


@pytest.fixture(scope="module", autouse=True)
def unchanged(live: Live, facts: dict[str, Any]) -> Iterator[None]:
    """After all tests of this file the host is as before."""
    yield
    after = live.facts(*live.declared)
    for kind in ("boot_id", "domains", "loops", "links", "routes", "network", "zones", "volumes", "files", "pages"):
        assert after[kind] == facts[kind]


@pytest.fixture(scope="module")
def errors(live: Live, registry: str) -> dict[str, str]:
    """The error of each table's declaration."""
    messages = {}
    for table, rows in (("invalid", INVALID), ("impossible", IMPOSSIBLE), ("too large", TOO_LARGE)):
        zones = [
            {"name": name, "image": live.declared["web"]["image"], **{key: _filled(value, registry) for key, value in fields.items()}}
            for name, fields, _error in rows
        ]
        result = live.converge(*zones)
        assert result["failed"], result
        assert not result.get("changed"), result
        messages[table] = result["msg"]
    return messages


def _filled(value: Any, registry: str) -> Any:
    return value.replace("{registry}", registry) if isinstance(value, str) else value


@pytest.mark.parametrize(
    ("table", "error"),
    [
        *(("invalid", error) for _name, _fields, error in INVALID[:-1]),
        *(("impossible", error) for _name, _fields, error in IMPOSSIBLE),
        *(("too large", error) for _name, _fields, error in TOO_LARGE),
    ],
)
def test_the_error_says_what_is_wrong(errors: dict[str, str], table: str, error: str) -> None:
    assert error in errors[table]


def test_libvirt_does_not_run(live: Live) -> None:
    units = "libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirtd.service"
    live.run(f"systemctl stop {units}")
    result = live.converge(*live.declared.values())
    live.run(f"systemctl start {units}")
    assert result["failed"], result
    assert "libvirt does not answer at xen:///system" in result["msg"]
    assert "see `systemctl status libvirtd` and start it" in result["msg"]
