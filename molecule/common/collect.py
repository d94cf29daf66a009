"""Runs on the host: prints what the tests compare, as one JSON object. One login and one Python for all of it.

Arguments: the published ports to wait for, because after a boot zones start one after another.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

STORE = Path("/var/lib/ringfence")
LIBVIRT = Path("/etc/libvirt/libxl")
PAGES = (8080, 8081)


def output(*argv: str) -> str:
    """What a program prints; nothing if it fails or is missing."""
    try:
        return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout
    except FileNotFoundError:
        return ""


def text(path: str | Path) -> str:
    """The content of a file; nothing if there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def domains() -> dict[str, int]:
    """Xen's domains: name to number."""
    rows = [line.split() for line in output("xl", "list").splitlines()[1:]]
    return {row[0]: int(row[1]) for row in rows}


def page(port: int) -> str:
    """What a published port answers at the host's own address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("10.0.2.2", 1))
        address = probe.getsockname()[0]
    try:
        with socket.create_connection((address, port), 10) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = connection.makefile("rb").read()
    except OSError as error:
        return f"no answer: {error}"
    # A connection that ends without a word: the server was still starting.
    return answer.partition(b"\r\n\r\n")[2].decode().strip() or "no answer: it was empty"


def traces(device: str) -> list[str]:
    """What shows that the host looked for a file system or partitions on a block device."""
    number = text(Path("/sys/block") / device / "dev").strip()
    found = [line for line in text(f"/run/udev/data/b{number}").splitlines() if re.match(r"E:ID_(FS|PART)_", line)]
    found += [str(link) for link in Path("/dev/disk").glob("by-*/*") if link.resolve().name == device]
    return found + [line for line in text("/run/blkid/blkid.tab").splitlines() if f"/dev/{device}<" in line]


deadline = time.monotonic() + 300
while any(page(int(port)).startswith("no answer") for port in sys.argv[1:]) and time.monotonic() < deadline:
    time.sleep(2)

loops = [line.split() for line in output("losetup", "--list", "--noheadings", "--raw", "--output", "NAME,BACK-FILE").splitlines()]
info = dict(re.findall(r"^(\w+)[ \t]*:[ \t]*(.*)$", output("xl", "info"), re.MULTILINE))
environment = dict(line.partition("=")[::2] for line in text("/boot/grub/grubenv").splitlines())

print(
    json.dumps(
        {
            "boot_id": text("/proc/sys/kernel/random/boot_id").strip(),
            "release": output("uname", "-r").strip(),
            "linux_command_line": text("/proc/cmdline").strip(),
            "xen_version": info.get("xen_version", ""),
            "free_memory": info.get("free_memory", ""),
            "xen_command_line": info.get("xen_commandline", ""),
            "control_domain": "control_d" in text("/proc/xen/capabilities"),
            "saved_entry": environment.get("saved_entry", ""),
            "next_entry": environment.get("next_entry", ""),
            "trial": [str(path) for path in Path("/etc").glob("**/*boot-trial*") if path.suffix == ".json" or path.is_symlink()],
            "failed_units": output("systemctl", "list-units", "--failed", "--plain", "--no-legend").split("\n")[:-1],
            "memory": dict(re.findall(r"^(MemTotal|MemAvailable):\s+(\d+)", text("/proc/meminfo"), re.MULTILINE)),
            "domains": domains(),
            "defined": sorted(path.stem for path in LIBVIRT.glob("*.xml")),
            "autostart": sorted(path.stem for path in LIBVIRT.glob("autostart/*.xml")),
            "qemu": output("pgrep", "-a", "qemu").splitlines(),
            "loops": {name: backing for name, backing in loops if backing.startswith(str(STORE))},
            "disks": {
                Path(backing).stem: int(text(f"/sys/block/{Path(name).name}/size")) * 512
                for name, backing in loops
                if backing.startswith(str(STORE / "volumes"))
            },
            "traces": [trace for name, backing in loops if backing.startswith(str(STORE)) for trace in traces(Path(name).name)],
            "links": [path.name for path in Path("/sys/class/net").iterdir()],
            "managed": {row[1]: row[4] for row in map(str.split, output("networkctl", "--no-legend", "list").splitlines()) if row},
            "routes": output("ip", "route").splitlines(),
            "network": output("nft", "list", "table", "inet", "ringfence"),
            "xenstore": [line.partition(" = ")[0] for line in output("xenstore-ls", "-f").splitlines()],
            "files": {
                str(path): [path.stat().st_size, path.stat().st_mtime]
                for path in STORE.glob("**/*")
                # The first is written by its zone, the second by everyone.
                if path.is_file() and not path.name.startswith(("writable-", "lock")) and path.parent.name != "volumes"
            },
            "volumes": {path.stem: path.stat().st_size for path in STORE.glob("volumes/*.img")},
            "zones": sorted(path.name for path in STORE.glob("zones/*")),
            "layers": sorted(str(path) for path in STORE.glob("zones/*/writable-*")),
            "pages": {port: page(port) for port in PAGES},
        }
    )
)
