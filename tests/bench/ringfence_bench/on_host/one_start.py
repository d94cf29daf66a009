"""Runs on a Xen host as root: starts of a zone against starts of a bare domain of the same kernel, alternately, and their memory.

``one_start ZONE ROUNDS`` prints JSON. ZONE is a stopped or running zone whose container prints ``BENCH`` with its available
memory as its first output, and once more a while later. Standard library and python3-libvirt only.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import libvirt

_CONSOLES = Path("/var/log/xen/console")
_MARK = re.compile(rb"BENCH (\d+) kB")
_WORK = Path("/run/ringfence-bench")
_TIMEOUT = 180.0

MEMORY_MIB = 128
"""Of the bare domain, and of a zone that declares nothing else."""

MEASURE = (
    """awk '/^MemAvailable/ { free = $2 } $1 == "count:" { free += 4 * $2 } END { print "BENCH", free, "kB" }'"""
    " /proc/meminfo /proc/zoneinfo"
)
"""Prints the mark, in the zone and in the bare domain: MemAvailable, and the free pages in the lists that the kernel keeps for each CPU."""

_INIT = f"""#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox {MEASURE}
while :; do /bin/busybox sleep 1000; done
"""


def main() -> None:
    """Measure, clean up, and print."""
    name, rounds = sys.argv[1], int(sys.argv[2])
    connection = libvirt.open("xen:///system")
    domain = connection.lookupByName(name)
    os = ET.fromstring(domain.XMLDesc()).find("os")
    if os is None:
        raise SystemExit(f"{name} has no kernel")
    configuration = _bare_domain(os.findtext("kernel") or "", os.findtext("cmdline") or "", "pvh" in (os.findtext("type") or ""))
    # Once each beforehand: what both read is in the host's caches then, as after any start.
    _start_bare(configuration)
    _start_zone(domain)
    bare, zone = [], []
    for _round in range(rounds):
        bare.append(_start_bare(configuration))
        zone.append(_start_zone(domain))
    _stop(domain)
    print(
        json.dumps(
            {
                "zone_start_seconds": statistics.mean(seconds for seconds, _memory in zone),
                "bare_start_seconds": statistics.mean(seconds for seconds, _memory in bare),
                "zone_available_kib": zone[-1][1],
                "bare_available_kib": bare[-1][1],
            }
        )
    )


def _start_bare(configuration: Path) -> tuple[float, int]:
    """The seconds that the bare domain takes until its first output, and the KiB that it has available then; it is gone afterwards."""
    subprocess.run(["xl", "destroy", "bench-bare"], stderr=subprocess.DEVNULL, check=False)
    log = _Console("bench-bare")
    started = time.monotonic()
    subprocess.run(["xl", "create", "-q", str(configuration)], check=True)
    available = log.wait_for_mark()
    seconds = time.monotonic() - started
    subprocess.run(["xl", "destroy", "bench-bare"], check=True)
    time.sleep(3)
    return seconds, available


def _start_zone(domain: libvirt.virDomain) -> tuple[float, int]:
    """The seconds that the zone takes until its first output, and the KiB that it has available once its channel is up; it runs on."""
    _stop(domain)
    log = _Console(domain.name())
    started = time.monotonic()
    domain.create()
    log.wait_for_mark()
    seconds = time.monotonic() - started
    return seconds, log.wait_for_mark()


def _stop(domain: libvirt.virDomain) -> None:
    """In order, so that its next start finds a clean file system; then let the host come to rest."""
    if domain.isActive():
        domain.shutdown()
    while domain.isActive():
        time.sleep(0.5)
    subprocess.run(["udevadm", "settle"], check=True)
    time.sleep(3)


class _Console:
    """What a domain prints from now on, as xenconsoled logs it."""

    def __init__(self, name: str) -> None:
        self._path = _CONSOLES / f"guest-{name}.log"
        self._position = self._path.stat().st_size if self._path.exists() else 0

    def wait_for_mark(self) -> int:
        """Wait for the next mark, and return the KiB in it."""
        deadline = time.monotonic() + _TIMEOUT
        while time.monotonic() < deadline:
            # Cheap, because the zone starts on the same CPU.
            if self._path.exists() and self._path.stat().st_size > self._position:
                with open(self._path, "rb") as log:
                    log.seek(self._position)
                    matched = _MARK.search(log.read())
                if matched:
                    self._position += matched.end()
                    return int(matched[1])
            time.sleep(0.05)
        raise SystemExit(f"{self._path}: no mark within {_TIMEOUT:g} s")


def _bare_domain(kernel: str, command_line: str, pvh: bool) -> Path:
    """A domain of that kernel with an init that does nothing, and no device but its console."""
    root = _WORK / "root"
    for directory in ("bin", "dev", "proc"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    (root / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (root / "bin/busybox").chmod(0o755)
    (root / "init").write_text(_INIT, encoding="ascii")
    (root / "init").chmod(0o755)
    subprocess.run(["mknod", str(root / "dev/console"), "c", "5", "1"], stderr=subprocess.DEVNULL, check=False)
    subprocess.run(f"cd {root} && busybox find . | busybox cpio -o -H newc > ../initrd", shell=True, stderr=subprocess.DEVNULL, check=True)
    configuration = _WORK / "bare.cfg"
    lines = {
        "name": "bench-bare",
        "type": "pvh" if pvh else "pv",
        "kernel": kernel,
        "ramdisk": str(_WORK / "initrd"),
        "extra": command_line,
    }
    configuration.write_text(
        "".join(f'{key}="{value}"\n' for key, value in lines.items()) + f"memory={MEMORY_MIB}\nvcpus=1\n", encoding="utf-8"
    )
    return configuration


if __name__ == "__main__":
    main()
