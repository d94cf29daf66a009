"""What a zone is declared to be is what its container finds, and its volumes keep what is written to them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from live import GROWN, Live

_LOOK = r"""
echo hostname $(hostname)
echo somaxconn $(cat /proc/sys/net/core/somaxconn)
echo shmmni $(cat /proc/sys/kernel/shmmni)
echo nofile $(sed -n 's/^Max open files *//p' /proc/1/limits)
echo plc $(sed -n 's/ *plc$//p' /etc/hosts)
echo web $(sed -n 's/\tweb$//p' /etc/hosts)
echo dns $(cat /etc/resolv.conf)
echo root $(touch /file 2>&1 | sed 's/.*: //')
echo tmp $(sed -n 's/^tmpfs \/tmp tmpfs //p' /proc/mounts)
echo filled $(ls /usr/share/nginx)
echo secret $(stat -c '%a %u' /run/secrets/password) $(cat /run/secrets/password)
echo seccomp $(sed -n 's/^Seccomp:.//p' /proc/1/status)
echo capability $((0x$(sed -n 's/^CapBnd:.//p' /proc/1/status) >> 13 & 1))
"""
"""CAP_NET_RAW is capability 13 (linux/capability.h)."""

_OPEN = r"""
[ -e /dev/kmsg ] || mknod /dev/kmsg c 1 11
for how in {hows}; do
    (eval "exec 3$how" && echo opened) 2>&1 | sed 's/.*: //'
done
"""
"""A shell that cannot open a file for its descriptor 3 says why, and ends."""

_PROBE = """
for target in {targets}; do
    nc -w 5 ${{target%:*}} ${{target#*:}} -e true 2>/dev/null && echo $target open || echo $target closed
done
"""


_OUTSIDE = """
ip netns add outside
trap 'ip link delete rtout; kill $(jobs -p); ip netns delete outside' EXIT
ip link add rtout type veth peer name eth0 netns outside
ip address add fd00:99::1/64 dev rtout nodad
ip link set rtout up
ip -n outside address add fd00:99::2/64 dev eth0 nodad
ip -n outside link set eth0 up
ip netns exec outside python3 -c "
import urllib.request
print(urllib.request.urlopen('http://[fd00:99::1]:8081/', timeout=30).read().decode().strip())"
for port in 9000 9001; do
    ip netns exec outside python3 -m http.server --bind fd00:99::2 $port >/dev/null 2>&1 &
done
timeout 60 sh -c 'until [ $(ip netns exec outside ss -Hltn | wc -l) = 2 ]; do sleep 1; done'
for port in 9000 9001; do
    zonectl exec api -- nc -w 5 fd00:99::2 $port -e true </dev/null >/dev/null 2>&1 && echo $port open || echo $port closed
done
"""
"""A machine outside of the host, as a network namespace: it asks for the page of zone api, and is asked by it."""


@pytest.fixture(scope="module")
def found(live: Live) -> dict[str, str]:
    """What the container of zone api finds."""
    return dict(line.partition(" ")[::2] for line in live.in_zone("api", _LOOK).splitlines())


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("hostname", "api.example"),
        ("somaxconn", "256"),
        ("shmmni", "64"),
        ("nofile", "2048 2048 files"),
        ("plc", "192.0.2.7"),
        ("dns", "nameserver 10.0.2.3"),
        ("root", "Read-only file system"),
        ("secret", "400 33 correct horse"),
        ("seccomp", "2"),
        ("capability", "0"),
    ],
)
def test_the_container_finds_what_is_declared(found: dict[str, str], what: str, value: str) -> None:
    assert found[what] == value


def test_memory_is_mounted_as_declared(found: dict[str, str]) -> None:
    assert {"rw", "nosuid", "nodev", "noexec", "size=1024k"} <= set(found["tmp"].partition(" ")[0].split(","))


def test_a_fresh_volume_begins_with_what_the_image_has(found: dict[str, str]) -> None:
    assert "html" in found["filled"].split()


def test_declared_devices_are_there_and_no_others_can_be_opened(live: Live) -> None:
    """Zone api may only read fuse, and not write to kmsg, whose node it has made itself; zone web has that declared."""
    numbers = live.in_zone("api", "stat -c '%n %a %t:%T' /dev/net/tun /dev/fuse").splitlines()
    assert numbers == ["/dev/net/tun 666 a:c8", "/dev/fuse 666 a:e5"]
    opened = live.in_zone("api", _OPEN.format(hows="'<>/dev/net/tun' '</dev/fuse' '<>/dev/fuse' '>/dev/kmsg'")).splitlines()
    assert opened == ["opened", "opened", "Operation not permitted", "Operation not permitted"]
    assert live.in_zone("web", _OPEN.format(hows="'>/dev/kmsg'")) == "opened\n"


def test_declared_connections_are_open_and_no_others(live: Live, found: dict[str, str]) -> None:
    registry = live.variables["registry"]
    assert found["web"].startswith("198.18.0.")
    answers = live.in_zone("api", _PROBE.format(targets=f"web:80 {registry} web:81 10.0.2.2:22 10.0.2.15:22")).splitlines()
    assert answers == ["web:80 open", f"{registry} open", "web:81 closed", "10.0.2.2:22 closed", "10.0.2.15:22 closed"]


def test_a_zone_finds_the_names_of_its_peers_while_it_runs(live: Live, facts: dict[str, Any]) -> None:
    web, api = live.declared["web"], live.declared["api"]
    names = "cat /etc/hosts | cut -f 2"
    with_names = live.in_zone("api", names)
    assert "web" in with_names.split()
    shut = live.converge({**web, "networks": None}, api)
    assert not shut["failed"], shut
    assert {zone["name"]: zone["action"] for zone in shut["zones"]} == {"api": "live", "web": "live"}
    assert "web" not in live.in_zone("api", names).split()
    back = live.converge(web, api)
    assert not back["failed"], back
    assert live.in_zone("api", names) == with_names
    assert live.facts()["domains"] == facts["domains"]


def test_ipv6_leads_in_by_published_ports_and_out_as_declared(live: Live) -> None:
    web, api = live.declared["web"], live.declared["api"]
    assert live.run(_OUTSIDE).splitlines() == ["page of api", "9000 closed", "9001 closed"]
    egress = [*api["networks"]["egress"], {"to": "fd00:99::/64", "ports": [9000]}]
    try:
        opened = live.converge(web, {**api, "networks": {"egress": egress}})
        assert {zone["name"]: zone["action"] for zone in opened["zones"]} == {"api": "live", "web": "keep"}, opened
        assert live.run(_OUTSIDE).splitlines() == ["page of api", "9000 open", "9001 closed"]
    finally:
        back = live.converge(web, api)
        assert not back["failed"], back


def test_a_zone_uses_hardware_virtualization_if_it_may(live: Live) -> None:
    """All other zones here are PV: QEMU ends a PVH guest now and then, when it emulates the CPU."""
    web, api = live.declared["web"], live.declared["api"]
    own = {**api, "virtualization": "auto"}
    try:
        changed = live.converge(web, own)
        assert not changed["failed"], changed
        assert {zone["name"]: zone["action"] for zone in changed["zones"]} == {"api": "restart", "web": "keep"}
        assert changed["zones"][0]["reasons"] == ["virtualization pv → pvh"]
        assert live.in_zone("api", "cat /sys/hypervisor/guest_type; wget -q -O - http://web/").splitlines() == ["PVH", "page of web"]
        assert live.facts("api")["pages"]["8081"] == "page of api"
        again = live.converge(web, own)
        assert (again["failed"], again["changed"]) == (False, False), again
    finally:
        back = live.converge(web, api)
        assert not back["failed"], back
    assert live.in_zone("api", "cat /sys/hypervisor/guest_type") == "PV\n"


def test_a_zones_link_takes_whole_packets_of_ethernet(live: Live) -> None:
    assert live.run("cat /sys/class/net/rz1/mtu /sys/class/net/rz2/mtu").split() == ["1500", "1500"]
    assert [live.in_zone(zone, "cat /sys/class/net/eth0/mtu").strip() for zone in ("web", "api")] == ["1500", "1500"]


def test_a_volume_grows_and_outlives_its_zone(live: Live, facts: dict[str, Any]) -> None:
    """Its content is there when the zone has been removed, and made anew with a larger one; zone web does not notice."""
    live.in_zone("api", "echo kept > /srv/data/file; sync")
    web, api = live.declared["web"], live.declared["api"]
    shut = {**web, "networks": None}
    removed = live.converge(shut, {"name": "api", "state": "absent"})
    assert (removed["failed"], removed["changed"]) == (False, True), removed
    created = live.converge(web, api, data=GROWN)
    assert not created["failed"], created
    assert [volume["action"] for volume in created["volumes"]] == ["grow", "keep"]
    kept, size = live.in_zone("api", "cat /srv/data/file; df -k /srv/data | tail -n 1").splitlines()
    assert kept == "kept"
    assert 32 * 1024 < int(size.split()[1]) < 48 * 1024
    assert live.facts()["domains"]["web"] == facts["domains"]["web"]


def test_a_volume_is_a_disk_of_one_zone(live: Live) -> None:
    """Whoever starts another one that has it too: the host does not attach it."""
    volume, asked = "/var/lib/ringfence/volumes/data.img", "/local/domain/0/second-disk"
    told = live.run(
        f"xenstore-write {asked}/params {volume} {asked}/mode w; "
        f"! XENBUS_PATH={asked} /etc/xen/scripts/block add; "
        f"xenstore-read {asked}/hotplug-error; xenstore-rm {asked}; losetup --noheadings --raw --output NAME --associated {volume} | wc -l"
    )
    assert told.splitlines() == [f"the volume {volume} is a disk of another zone that runs", "1"]


def test_a_volume_never_shrinks(live: Live) -> None:
    refused = live.converge(*live.declared.values())
    assert (refused["failed"], refused["changed"]) == (True, False)
    assert "volume data: size: 32MiB is not accepted; it has 48 MiB, and a volume never shrinks" in refused["msg"]


def test_the_health_of_a_zone_is_told(live: Live) -> None:
    found = live.module("zone_info", {})
    assert {zone["name"]: (zone["state"], zone["health"]) for zone in found["zones"]} == {
        "api": ("running", "none"),
        "web": ("running", "healthy"),
    }


def test_the_command_on_the_host_shows_and_enters_zones(live: Live) -> None:
    listed, entered, log = live.run("zonectl list; echo ---; zonectl exec api -- hostname; echo ---; zonectl logs -n 1 web").split("---\n")
    rows = [line.split()[:3] for line in listed.splitlines()]
    assert rows == [["NAME", "STATE", "HEALTH"], ["api", "running", "none"], ["web", "running", "healthy"]]
    assert entered == "api.example\n"
    assert "GET / HTTP" in log


def test_memory_and_weight_change_while_a_zone_runs(live: Live) -> None:
    """What the zone's kernel and Xen say, and not only libvirt; the zone is the same one all the time."""
    web, api = live.declared["web"], live.declared["api"]
    look = "xl list api | tail -n 1 | awk '{print $2, $3}'; xl sched-credit2 -d api | tail -n 1 | awk '{print $NF, $(NF-1)}'"
    total = "sed -n 's/^MemTotal: *\\([0-9]*\\) kB$/\\1/p' /proc/meminfo"
    whole = int(live.in_zone("api", total))
    number = live.run("xl domid api").strip()
    for memory, shares, action in ((96, 2048, "live"), (96, 2048, "keep"), (128, 1024, "live"), (128, 1024, "keep")):
        done = live.converge(web, {**api, "memory": f"{memory}MiB", "cpu_shares": shares}, data=GROWN)
        assert not done["failed"], done
        found = {zone["name"]: (zone["action"], zone.get("domain_id")) for zone in done["zones"]}
        assert (done["changed"], found["api"]) == (action == "live", (action, int(number)))
        domain, size, *weight = live.run(look).split()
        assert (domain, abs(int(size) - memory) <= 4) == (number, True)
        assert str(shares // 4) in weight
        assert abs(whole - (128 - memory) * 1024 - int(live.in_zone("api", total))) <= 4 * 1024


def test_a_zone_gives_a_cpu_back_and_uses_it_again(live: Live) -> None:
    """Xen's own tool gives it: libvirt gives no more than the machine has, and that may be one."""
    job = {"name": "job", "image": live.variables["images"]["nginx"], "virtualization": "pv", "command": ["sleep", "1h"], "cpus": 2}
    online = "cat /sys/devices/system/cpu/online"
    assert not live.module("zones", {"zones": [job]})["failed"]
    assert live.in_zone("job", online) == "0-1\n"
    done = live.module("zones", {"zones": [{**job, "cpus": 1}]})
    assert (done["failed"], done["zones"][0]["action"], done["zones"][0]["reasons"]) == (False, "live", ["cpus 2 → 1"]), done
    assert live.in_zone("job", online) == "0\n"
    live.run("xl vcpu-set --ignore-host job 2")
    assert live.in_zone("job", f"until [ $({online}) = 0-1 ]; do sleep 0.2; done; {online}") == "0-1\n"
    removed = live.module("zones", {"zones": [{"name": "job", "state": "absent"}]})
    assert not removed["failed"], removed


def test_a_change_with_which_a_zone_does_not_come_up_is_taken_back(live: Live) -> None:
    web, api = live.declared["web"], live.declared["api"]
    sick = {**web, "healthcheck": {"test": ["CMD", "false"], "interval": "1s", "retries": 1}}
    failed = live.converge(sick, api, data=GROWN)
    assert (failed["failed"], [zone["failed"] for zone in failed["zones"]]) == (True, [False, True]), failed
    assert "zone web: restart: its health check fails" in failed["msg"]
    assert failed["msg"].endswith("the zone runs as before")
    refused = live.converge(sick, api, data=GROWN)
    assert (refused["failed"], refused["changed"]) == (True, False)
    assert "zone web: restart: not tried again, because it was taken back before: its health check fails" in refused["msg"]
    as_before = live.converge(web, api, data=GROWN)
    assert (as_before["failed"], as_before["changed"]) == (False, False), as_before
    assert live.page_from_outside() == "page of web"


def test_ansibles_own_ssh_connection_leads_into_a_zone(tmp_path: Path) -> None:
    """By the inventory plugin: through the host, to the shell of the container."""
    plugin = tmp_path / "zones.ringfence.yml"
    plugin.write_text("plugin: ringfence.zones.zones\ngroup: all\n")
    hosts = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "inventory"
    command: list[str | Path] = [Path(sys.executable).with_name("ansible"), "label_tier_front", "-i", hosts, "-i", plugin]
    command += ["-m", "ansible.builtin.raw", "-a", "cat /proc/sys/kernel/hostname; exit 3"]
    plain = {**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(command, env=plain, capture_output=True, text=True, check=False)
    assert re.search(r"^web\.molecule-\S+ \| FAILED \| rc=3 >>\s+web$", done.stdout, re.MULTILINE), done.stdout + done.stderr
