"""Runs on a host as root: a converge that changes nothing, of many zones, against a bare listing of the same domains.

``many_zones ROUNDS COUNT...`` prints JSON. libvirt's test driver stands for Xen, because no small host runs that many zones:
both sides ask the same driver, whose answers cost next to nothing, so that what is left is the library's own work. Standard library,
python3-libvirt and the collection's library only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils import converge, firewall, zone_files
from ansible_collections.ringfence.zones.plugins.module_utils.domain import Definition, Files, domain_xml
from ansible_collections.ringfence.zones.plugins.module_utils.hypervisor import Hypervisor
from ansible_collections.ringfence.zones.plugins.module_utils.spec import parse_zones
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ringfence_bench.on_host.floor import BARE, compared, list_domains

_KERNEL, _IMAGE, _BASE = ("sha256:" + digit * 64 for digit in "abc")
_RECORD = b"ringfence-record-1 state=running exit=- restarts=0 health=none oom=0\n"
_NODE = (
    "<cpu><mhz>1000</mhz><model>i686</model><active>2</active><nodes>1</nodes><sockets>1</sockets><cores>2</cores><threads>1</threads></cpu>"
    "<memory>33554432</memory>"
)


class _Host(Hypervisor):
    """The test driver, which runs no Xen guests, with the guests of Xen."""

    def modes(self) -> tuple[str, ...]:
        super().modes()
        return ("pv", "pvh")


def main() -> None:
    """Measure, or be the process that is measured."""
    if sys.argv[1] == "converge":
        _converge(Path(sys.argv[2]), int(sys.argv[3]))
        return
    rounds = int(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="ringfence-bench-") as directory:
        counts = [int(count) for count in sys.argv[2:]]
        print(json.dumps({count: _measure(Path(directory) / str(count), count, rounds) for count in counts}))


def _measure(root: Path, count: int, rounds: int) -> dict[str, float]:
    _make(root, count)
    converged = [sys.executable, __file__, "converge", str(root), str(count)]
    bare = [sys.executable, "-c", BARE, _uri(root)]
    _converge(root, count)
    return compared(
        rounds,
        converge=lambda: subprocess.run(converged, check=True),
        bare=lambda: subprocess.run(bare, check=True),
        converge_call=lambda: _converge(root, count),
        bare_call=lambda: list_domains(_uri(root)),
    )


def _converge(root: Path, count: int) -> None:
    """One call of the module's library; what it would change is an error, for then something else is measured."""
    setattr(converge, "Hypervisor", lambda: _Host(_uri(root)))  # noqa: B010
    report = converge.converge(Store(root), _declared(count), {}, {}, converge.Policy(), check=False)
    if report.changed or report.failures or len(report.zones) != count:
        raise SystemExit(f"the converge of {count} zones was to change nothing: {report.zones[:1]} {report.failures[:3]}")


def _uri(root: Path) -> str:
    return f"test://{root}/node.xml"


def _declared(count: int) -> list[dict[str, Any]]:
    """Zones as they are in practice: a published port, variables, a limit."""
    return [
        {
            "name": f"zone-{number}",
            "image": f"registry.example/app@{_IMAGE}",
            "virtualization": "pv",
            "memory": "64MiB",
            "environment": {"MODE": "production", "NUMBER": str(number)},
            "ports": [f"{20000 + number}:80"],
            "restart": "unless-stopped",
            "networks": {"egress": [{"to": "10.0.0.0/8", "ports": [1883]}]},
        }
        for number in range(count)
    ]


def _make(root: Path, count: int) -> None:
    """A store and a driver in which all of these zones run as declared."""
    store = Store(root)
    for path, content in _store_files().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    zones = parse_zones(_declared(count))
    indices = {name: number for number, name in enumerate(sorted(zone.name for zone in zones), 1)}
    definitions = [Definition(zone, _IMAGE, _KERNEL, "pv", _BASE, indices[zone.name]) for zone in zones]
    domains = []
    for definition in definitions:
        domains.append(_domain(definition, Files(Path("/vmlinux"), zone_files.initrd(store, definition), ())))
        zone_files.directory(store, definition.zone.name).mkdir(parents=True)
        zone_files.initrd(store, definition).touch()
        layer = zone_files.writable(store, definition)
        layer.touch()
        os.truncate(layer, 1024 * 1024 * 1024 + 4096)
        with open(layer, "r+b") as handle:
            handle.seek(1024 * 1024 * 1024)
            handle.write(_RECORD)
    (root / "node.xml").write_text(f"<node>{''.join(domains)}{_NODE}</node>", encoding="utf-8")
    (root / "network.nft").write_text(firewall.rules(definitions), encoding="utf-8")


def _domain(definition: Definition, files: Files) -> str:
    """The domain of a zone, as far as the test driver knows what it is made of."""
    xml = domain_xml(definition, files).replace('type="xen"', 'type="test"', 1).replace(">linux<", ">hvm<")
    return xml.replace(' arch="x86_64" machine="xenpv"', "")


def _store_files() -> dict[str, Any]:
    """What the store holds of one kernel, one image and one zone base, as far as a converge that changes nothing reads it."""
    kernel, image, base = (digest.removeprefix("sha256:") for digest in (_KERNEL, _IMAGE, _BASE))
    described = {"digest": _IMAGE, "named_digest": _IMAGE, "reference": "app", "filesystem": "erofs", "passwd": "", "group": ""}
    sizes = {"compressed": 0, "unpacked": 0, "filesystem": 0}
    return {
        "kernels/names.json": {"default": "stable", "kernels": {"stable": {"image": "kernel", "digest": _KERNEL}}},
        f"kernels/{kernel}/kernel.json": {
            "digest": _KERNEL,
            "release": "6.12",
            "version": "6.12",
            "flavor": "zone",
            "modes": ["pv", "pvh"],
            "modules": {},
        },
        f"images/{image}/image.json": {**described, "config": {"config": {"Cmd": ["serve"]}}, "sizes": sizes},
        f"images/{image}/rootfs.img": "",
        f"runtime/{base}/runtime.json": {"digest": _BASE, "filesystem": "erofs"},
        "runtime/current.json": {"digest": _BASE},
    }


if __name__ == "__main__":
    main()
