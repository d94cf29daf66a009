"""Tests of the library's ``zone.domain``."""

from __future__ import annotations

import dataclasses
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.spec.fields import Device, Port
from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Zone
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import (
    NAMESPACE,
    Definition,
    Files,
    domain_xml,
    metadata,
    parse_metadata,
    starts_with_host,
)

FULL = Zone(
    name="web",
    image="registry.example/web",
    kernel="stable",
    virtualization="auto",
    memory=256,
    cpus=2,
    entrypoint=("sh",),
    command=("-c", "echo '<&>\"]]>' \x1b[31m\n", "\udcff\U0001f600"),
    environment={"A": "</ringfence:zone>", "B": "\x01"},
    ports=(Port(8080, 80), Port(53, 53, "udp")),
    restart="unless-stopped",
    devices=(Device("/dev/fuse", "/dev/fuse", "r"), Device("/dev/net/tun", "/dev/net/tun")),
)
DEFINITION = Definition(FULL, f"sha256:{'1' * 64}", f"sha256:{'2' * 64}", "pvh", f"sha256:{'3' * 64}", 300)
FILES = Files(Path("/k/vmlinux"), Path("/z/initrd"), ((Path("/base.img"), False), (Path("/image.img"), False), (Path("/w.img"), True)))


def _with(**changes: Any) -> Definition:
    return dataclasses.replace(DEFINITION, zone=dataclasses.replace(FULL, **changes))


def _xml(definition: Definition = DEFINITION, uuid: str | None = None) -> ET.Element:
    return ET.fromstring(domain_xml(definition, FILES, uuid))


@pytest.mark.parametrize("definition", [DEFINITION, dataclasses.replace(DEFINITION, zone=Zone(name="web", image="nginx"))])
def test_a_definition_is_found_again_in_the_domain(definition: Definition) -> None:
    element = _xml(definition).find(f"metadata/{{{NAMESPACE}}}zone")
    assert element is not None
    assert parse_metadata(element.text or "") == definition


def test_a_port_at_an_address_comes_back_and_one_without_is_what_it_was() -> None:
    at_one = _with(ports=(Port(80, 80, address="192.0.2.5"),))
    assert parse_metadata(metadata(at_one)) == at_one
    before = _with(ports=(Port(80, 80),))
    assert parse_metadata(metadata(before).replace('"address":"",', "")) == before
    assert before.fields["ports"] == ["80:80/tcp"]


def test_metadata_of_a_version_with_fewer_fields_is_read() -> None:
    document = json.loads(metadata(DEFINITION))
    del document["zone"]["restart"], document["zone"]["devices"]
    assert parse_metadata(json.dumps(document)) == _with(restart="no", devices=())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        '"zone"',
        "{}",
        '{"zone": null}',
        '{"zone": {}}',
        '{"zone": "web"}',
        metadata(DEFINITION).replace('"index":300', '"number":300'),
        metadata(DEFINITION).replace('"memory"', '"later"'),
        metadata(DEFINITION).replace('"ulimits":{}', '"ulimits":{"core":1}'),
        metadata(DEFINITION).replace('"protocol"', '"kind"'),
        metadata(DEFINITION).replace('"permissions"', '"cgroup"'),
    ],
)
def test_what_is_no_metadata_is_told(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_metadata(text)


@pytest.mark.parametrize(("shares", "expected"), [(2, 1), (1023, 255), (1024, 256), (262144, 65535)])
def test_shares_are_a_weight_of_xen(shares: int, expected: int) -> None:
    zone = dataclasses.replace(DEFINITION.zone, cpu_shares=shares)
    assert _xml(dataclasses.replace(DEFINITION, zone=zone)).findtext("cputune/shares") == str(expected)


def test_the_domain_has_the_resources_that_are_declared() -> None:
    domain = _xml()
    assert domain.attrib == {"type": "xen"}
    assert [domain.findtext(tag) for tag in ("name", "memory", "currentMemory", "vcpu")] == ["web", "256", "256", "2"]
    assert [element.get("unit") for tag in ("memory", "currentMemory") for element in domain.iterfind(tag)] == ["MiB", "MiB"]


@pytest.mark.parametrize(("mode", "kind", "machine"), [("pv", "linux", "xenpv"), ("pvh", "xenpvh", "xenpvh")])
def test_the_mode_is_told_to_libvirt(mode: str, kind: str, machine: str) -> None:
    element = _xml(dataclasses.replace(DEFINITION, mode=mode)).find("os/type")
    assert element is not None
    assert (element.text, element.attrib) == (kind, {"arch": "x86_64", "machine": machine})


def test_the_kernel_is_booted_directly() -> None:
    domain = _xml()
    assert (domain.findtext("os/kernel"), domain.findtext("os/initrd")) == ("/k/vmlinux", "/z/initrd")
    arguments = (domain.findtext("os/cmdline") or "").split()
    assert {"console=hvc0", "panic=1", "vsyscall=xonly", "xen_blkfront.max_queues=1"} <= set(arguments)


def test_the_disks_are_raw_in_order_and_need_no_qemu() -> None:
    disks = _xml().findall("devices/disk")
    assert [disk.find("driver").attrib for disk in disks] == [{"name": "phy", "type": "raw"}] * 3  # type: ignore[union-attr]
    sources = [(disk.find("source").get("file"), disk.find("target").get("dev")) for disk in disks]  # type: ignore[union-attr]
    assert sources == [("/base.img", "xvda"), ("/image.img", "xvdb"), ("/w.img", "xvdc")]
    assert [disk.find("readonly") is None for disk in disks] == [False, False, True]


def test_the_devices_are_disks_one_link_and_one_console() -> None:
    devices = _xml().find("devices")
    assert devices is not None
    assert [device.tag for device in devices] == ["disk", "disk", "disk", "interface", "console"]
    link = devices[3]
    found = {child.tag: child.attrib for child in link}
    assert found == {
        "mac": {"address": "00:16:3e:00:01:2c"},
        "ip": {"address": "198.18.1.44", "family": "ipv4"},
        "target": {"dev": "rz300"},
        "script": {"path": "/usr/lib/ringfence/vif"},
    }


@pytest.mark.parametrize(
    ("restart", "action", "starts"),
    [
        ("no", "destroy", False),
        ("on-failure", "restart", False),
        ("on-failure:3", "restart", False),
        ("always", "restart", True),
        ("unless-stopped", "restart", True),
    ],
)
def test_the_restart_policy_is_left_to_the_hypervisor(restart: str, action: str, starts: bool) -> None:
    domain = _xml(_with(restart=restart))
    assert [domain.findtext(tag) for tag in ("on_poweroff", "on_reboot", "on_crash")] == ["destroy", action, action]
    assert starts_with_host(_with(restart=restart).zone) is starts


def test_a_domain_that_is_replaced_keeps_its_uuid() -> None:
    uuid = "6695eb01-f6a4-8304-79aa-97f2502e193f"
    assert _xml(uuid=uuid).findtext("uuid") == uuid
    assert _xml().find("uuid") is None
