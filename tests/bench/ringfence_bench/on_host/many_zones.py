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

from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import parse_zones
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.zone import files as zone_files
from ansible_collections.ringfence.zones.plugins.module_utils.zone import firewall
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import Definition, Files, domain_xml
from ringfence_bench.on_host import no_change
from ringfence_bench.on_host.floor import BARE, compared, list_domains

_IMAGE = no_change.IMAGE
_KERNEL, _BASE = ("sha256:" + digit * 64 for digit in "ac")
_RECORD = b"ringfence-record-1 state=running exit=- restarts=0 health=none oom=0\n"
_NODE = (
    "<cpu><mhz>1000</mhz><model>i686</model><active>2</active><nodes>1</nodes><sockets>1</sockets><cores>2</cores><threads>1</threads></cpu>"
    "<memory>33554432</memory>"
)


def main() -> None:
    """Measure."""
    rounds = int(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="ringfence-bench-") as directory:
        counts = [int(count) for count in sys.argv[2:]]
        print(json.dumps({count: _measure(Path(directory) / str(count), count, rounds) for count in counts}))


def _measure(root: Path, count: int, rounds: int) -> dict[str, float]:
    _make(root, count)
    converged = [sys.executable, no_change.__file__, str(root), str(count)]
    bare = [sys.executable, "-c", BARE, no_change.uri(root)]
    no_change.run(root, count)
    return compared(
        rounds,
        converge=lambda: subprocess.run(converged, check=True),
        bare=lambda: subprocess.run(bare, check=True),
        converge_call=lambda: no_change.run(root, count),
        bare_call=lambda: list_domains(no_change.uri(root)),
    )


def _make(root: Path, count: int) -> None:
    """A store and a driver in which all of these zones run as declared."""
    store = Store(root)
    for path, content in _store_files().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    zones = parse_zones(no_change.declared(count))
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
            "modes": ["pv", "pvh"],
            "modules": {},
            "files": {},
        },
        f"images/{image}/image.json": {**described, "config": {"config": {"Cmd": ["serve"]}}, "sizes": sizes, "content": ""},
        f"images/{image}/rootfs.img": "",
        f"runtime/{base}/runtime.json": {"digest": _BASE, "filesystem": "erofs"},
        "runtime/current.json": {"digest": _BASE},
    }


if __name__ == "__main__":
    main()
