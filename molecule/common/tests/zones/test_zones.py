"""A converged host and its zones; run once more after a reboot of the host, with no play in between."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live import Live

_PROBE = """
for target in {targets}; do
    (nc -w 3 ${{target%:*}} ${{target#*:}} -e true 2>/dev/null && echo $target open || echo $target closed) &
done
wait
"""


def test_a_converged_host_stays_as_it_is(live: Live, show: Callable[[str], None]) -> None:
    _bare, first, second, check = live.converges()
    assert (first["failed"], second["failed"], check["failed"]) == (0, 0, 0)
    assert (second["changed"], check["changed"]) == (0, 0)
    assert second["tasks"] <= 15
    show(f"converged in {first['seconds']:.0f} s; without a change {second['tasks']} tasks in {second['seconds']:.0f} s")


def test_xen_is_booted_as_declared_and_confirmed(facts: dict[str, Any], show: Callable[[str], None]) -> None:
    assert facts["control_domain"]
    options = set(facts["xen_command_line"].split())
    assert {"dom0_mem=1536M,max:1536M", "ucode=scan", "pv=no-32", "gnttab=max-ver:1,no-transitive"} <= options
    assert not [option for option in options if option.startswith("spec-ctrl")]
    assert {"console=hvc0", "panic=30"} <= set(facts["linux_command_line"].split())
    assert facts["saved_entry"].startswith("xen-gnulinux-")
    assert (facts["next_entry"], facts["trial"], facts["failed_units"]) == ("", [], [])
    show(f"Xen {facts['xen_version']}, Linux {facts['release']}, dom0 {_memory(facts['memory'])}")


@pytest.mark.parametrize(("name", "version"), [("web", "6.12."), ("api", "6.1.")])
def test_a_zone_runs_its_own_kernel(live: Live, show: Callable[[str], None], name: str, version: str) -> None:
    said = live.in_zone(name, "uname -r; cat /sys/hypervisor/guest_type /proc/meminfo")
    release, guest_type, *memory = said.splitlines()
    assert (release.startswith(version), guest_type) == (True, "PV"), said
    figures = dict(re.findall(r"^(MemTotal|MemAvailable):\s+(\d+)", "\n".join(memory), re.MULTILINE))
    assert int(figures["MemTotal"]) < 128 * 1024
    show(f"zone {name}: PV, Linux {release}, {_memory(figures)}")


def test_pages_are_served_through_published_ports(live: Live, facts: dict[str, Any]) -> None:
    assert facts["pages"] == {"8080": "page of web", "8081": "page of api"}
    assert live.page_from_outside() == "page of web"


def test_nothing_else_of_the_host_manages_the_links_of_zones(facts: dict[str, Any]) -> None:
    zones = {name: state for name, state in facts["managed"].items() if name.startswith("rz")}
    assert zones == {"rz1": "unmanaged", "rz2": "unmanaged"}
    # The control: systemd-networkd runs here, and has the host's own interface.
    assert facts["managed"]["enp0s2"] == "configured"
    assert sorted(route.split()[2] for route in facts["routes"] if route.startswith("198.18.")) == ["rz1", "rz2"]


def test_zones_need_no_qemu(facts: dict[str, Any]) -> None:
    assert set(facts["domains"]) == {"Domain-0", "web", "api"}
    assert facts["qemu"] == []


def test_the_network_of_a_zone_is_closed(live: Live) -> None:
    """To another zone, to the host at both of its addresses, and to the network; with the rules opened, the same probe gets through."""
    targets = [f"{_address(live, 'api')}:80", "169.254.1.1:22", "10.0.2.15:22", live.variables["registry"]]
    probe = _PROBE.format(targets=" ".join(targets))
    assert set(live.in_zone("web", probe).splitlines()) == {f"{target} closed" for target in targets}
    live.run(
        "nft insert rule inet ringfence forward accept; nft insert rule inet ringfence input accept;"
        "nft 'table ip opened { chain c { type nat hook postrouting priority 100; oifname != \"rz*\" masquerade; }; }'"
    )
    opened = live.in_zone("web", probe)
    live.run("nft delete table ip opened; nft -f /var/lib/ringfence/network.nft")
    assert set(opened.splitlines()) == {f"{target} open" for target in targets}
    assert set(live.in_zone("web", probe).splitlines()) == {f"{target} closed" for target in targets}


def test_zones_of_one_image_share_its_device(facts: dict[str, Any]) -> None:
    """And the zone base's: so the host has each in memory once."""
    shared = [Path(backing).relative_to("/var/lib/ringfence").parts[0] for backing in facts["loops"].values()]
    assert (shared.count("images"), shared.count("runtime")) == (1, 1)


def test_the_host_does_not_look_into_disks_of_zones(live: Live, facts: dict[str, Any]) -> None:
    """No file system, label or partition of them is known to udev or blkid; of another file's loop device it is."""
    assert len(facts["loops"]) >= 3
    assert facts["traces"] == []
    found = live.run(
        "file=/root/control.img; truncate -s 8M $file; mkfs.ext4 -q $file; device=$(losetup --find --show $file); udevadm settle;"
        " grep ID_FS_TYPE /run/udev/data/b$(cat /sys/block/${device#/dev/}/dev); losetup --detach $device; rm $file"
    )
    assert found.strip() == "E:ID_FS_TYPE=ext4"


def _address(live: Live, zone: str) -> str:
    (line,) = live.in_zone(zone, "ip -4 -o address show dev eth0").splitlines()
    return line.split()[3].partition("/")[0]


def _memory(figures: dict[str, str]) -> str:
    return f"{int(figures['MemTotal']) / 1024:.1f} MiB of memory, {int(figures['MemAvailable']) / 1024:.1f} MiB available"
