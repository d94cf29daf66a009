"""Tests of ``domain`` against libvirt's own schema of domains."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Zone
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import Definition, Files, domain_xml

SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")
FILES = Files(Path("/k/vmlinux"), Path("/z/initrd"), ((Path("/base.img"), False), (Path("/w.img"), True)))


def _validate(xml: str, path: Path) -> subprocess.CompletedProcess[bytes]:
    path.write_text(xml, encoding="utf-8")
    return subprocess.run(["xmllint", "--noout", "--relaxng", str(SCHEMA), str(path)], capture_output=True, check=False)


@pytest.mark.parametrize("mode", ["pv", "pvh"])
@pytest.mark.parametrize("uuid", [None, "6695eb01-f6a4-8304-79aa-97f2502e193f"])
def test_libvirts_schema_accepts_a_zone(mode: str, uuid: str | None, tmp_path: Path) -> None:
    zone = Zone(name="web", image="web", environment={"A": "<&>\x01\U0001f600"}, restart="always")
    xml = domain_xml(Definition(zone, "sha256:1", "sha256:2", mode, "sha256:3", 1), FILES, uuid)
    done = _validate(xml, tmp_path / "domain.xml")
    assert done.returncode == 0, done.stderr.decode()
    assert _validate(xml.replace('bus="xen"', 'bus="none"'), tmp_path / "wrong.xml").returncode == 3
