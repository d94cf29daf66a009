"""A host, two zones and machines outside, as network namespaces: says in JSON which connections come about.

Run by ``test_network`` as root of a namespace of its own, so nothing of this machine's network changes. The links of the zones
are set up by the host's own script ``vif``, the rules are those of the library; only Xen's tool stack is made up.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils import network
from ansible_collections.ringfence.zones.plugins.module_utils.fields import Networks, Port, Traffic
from ansible_collections.ringfence.zones.plugins.module_utils.network import Link

VIF = Path(__file__).parents[2] / "roles" / "runtime" / "files" / "vif"
HOST, OUTSIDE = "10.9.0.1", "10.9.0.2"
BEYOND = "10.8.0.2"
PATIENCE = 0.5
"""Seconds after which a packet counts as dropped."""

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def run(*argv: str, stdin: str = "", **environment: str) -> None:
    """Run a program that has to succeed."""
    subprocess.run(argv, input=stdin.encode(), check=True, env={**os.environ, **environment})


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """Be in the network namespace ``name``; a socket stays in the one in which it was made."""
    with open("/proc/self/ns/net", "rb") as home, open(f"/run/netns/{name}", "rb") as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def add_zone(index: int, fakes: Path) -> None:
    """What Xen's tool stack, the script ``vif`` and the zone's init do."""
    name, address = f"zone{index}", network.address(index)
    run("ip", "netns", "add", name)
    run("ip", "link", "add", f"vif{index}.0", "type", "veth", "peer", "name", "eth0", "netns", name)
    (fakes / "xenstore-read").write_text(f"#!/bin/sh\nprintf '%s\\n' {network.interface(index)} {address}\n")
    run("sh", str(VIF), "online", vif=f"vif{index}.0", XENBUS_PATH="backend", PATH=f"{fakes}:{os.environ['PATH']}")
    commands = f"link set lo up\nlink set eth0 up\naddress add {address}/32 dev eth0\nroute add {network.GATEWAY} dev eth0\n"
    run("ip", "-netns", name, "-batch", "-", stdin=f"{commands}route add default via {network.GATEWAY}\n")


def add_machine(name: str, address: str, gateway: str) -> None:
    """A machine in one of the host's networks, which takes the host for its router."""
    run("ip", "netns", "add", name)
    run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
    run("ip", "-batch", "-", stdin=f"link set lo up\nlink set {name} up\naddress add {gateway}/24 dev {name}\n")
    commands = f"link set lo up\nlink set eth0 up\naddress add {address}/24 dev eth0\nroute add default via {gateway}\n"
    run("ip", "-netns", name, "-batch", "-", stdin=commands)


def serve(name: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """A socket that waits in a namespace."""
    with inside(name):
        server = socket.socket(socket.AF_INET, kind)
    server.settimeout(PATIENCE)
    server.bind(("0.0.0.0", port))
    if kind == socket.SOCK_STREAM:
        server.listen()
    return server


def connects(name: str, address: str, port: int) -> bool:
    """Whether a TCP connection from a namespace is accepted."""
    with inside(name):
        client = socket.socket()
    with client:
        client.settimeout(PATIENCE)
        try:
            client.connect((address, port))
        except OSError:
            return False
        return True


def answers(server: socket.socket, client: socket.socket, port: int) -> bool:
    """Whether a datagram to ``port`` of the host reaches ``server``, and its answer ``client``."""
    try:
        client.sendto(b"question", (HOST, port))
        _question, sender = server.recvfrom(100)
        server.sendto(b"answer", sender)
        return client.recvfrom(100) == (b"answer", (HOST, port))
    except OSError:
        return False


def receives_forged(client: socket.socket) -> bool:
    """Whether the outside takes a datagram of zone 1 for one of zone 2, with which it has just spoken."""
    with inside("zone1"):
        forger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with forger:
        forger.setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT: any source address
        forger.bind((network.address(2), 53))
        forger.sendto(b"forged", (OUTSIDE, client.getsockname()[1]))
        try:
            return client.recv(100) == b"forged"
        except OSError:
            return False


def main() -> None:
    """Set all of it up, and print who reaches whom."""
    fakes = Path("/run/fakes")
    run("mount", "-t", "tmpfs", "none", "/run")
    fakes.mkdir()
    for name in ("xenstore-read", "xenstore-write"):
        (fakes / name).write_text("#!/bin/sh\n")
        (fakes / name).chmod(0o755)
    run("ip", "netns", "attach", "host", str(os.getpid()))
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    add_machine("outside", OUTSIDE, HOST)
    add_machine("beyond", BEYOND, "10.8.0.1")
    closed = {"one": Link(1, (Port(8080, 80),)), "two": Link(2, (Port(8081, 80), Port(53, 53, "udp")))}
    declared = {
        "one": dataclasses.replace(closed["one"], networks=Networks(egress=(Traffic("10.9.0.0/24", ("80/tcp",)),)), servers=(BEYOND,)),
        "two": dataclasses.replace(closed["two"], networks=Networks(ingress=(Traffic("one", ("80/tcp",)),))),
    }
    for _again in range(2):
        run("nft", "-f", "-", stdin=network.ruleset(closed, routes_others=False))
    for index in (1, 2):
        add_zone(index, fakes)
    places = (("host", 22), ("outside", 80), ("outside", 81), ("beyond", 80), ("beyond", 53), ("zone1", 80), ("zone1", 81), ("zone2", 80))
    streams = [serve(*place) for place in (*places, ("zone2", 81))]
    with serve("zone2", 53, socket.SOCK_DGRAM) as server, serve("outside", 0, socket.SOCK_DGRAM) as client:
        found = {
            "outside to a published port": connects("outside", HOST, 8080),
            "host to a published port": connects("host", HOST, 8080),
            "outside to a published UDP port": answers(server, client, 53),
            "outside to the host": connects("outside", HOST, 22),
            "outside to a port that is not published": connects("outside", HOST, 81),
            "outside to a zone's own address": connects("outside", network.address(1), 80),
            "outside through the host": connects("outside", BEYOND, 80),
            "zone to another zone": connects("zone1", network.address(2), 80),
            "zone to a published port of another zone": connects("zone1", HOST, 8081),
            "zone to its gateway": connects("zone1", network.GATEWAY, 22),
            "zone to the host": connects("zone1", HOST, 22),
            "zone to the outside": connects("zone1", OUTSIDE, 80),
            "zone with a forged source to the outside": receives_forged(client),
        }
        run("nft", "flush", "chain", "inet", "ringfence", "spoofed")
        found["without the check of sources: zone with a forged source to the outside"] = receives_forged(client)
    run("nft", "-f", "-", stdin=network.ruleset(declared, routes_others=False))
    found |= {
        "declared: zone to the outside": connects("zone1", OUTSIDE, 80),
        "declared: zone to its name server": connects("zone1", BEYOND, 53),
        "declared: zone to the zone that lets it in": connects("zone1", network.address(2), 80),
        "declared: outside to a published port": connects("outside", HOST, 8080),
        "declared: zone to another port of the outside": connects("zone1", OUTSIDE, 81),
        "declared: zone to another network": connects("zone1", BEYOND, 80),
        "declared: zone to another port of the zone that lets it in": connects("zone1", network.address(2), 81),
        "declared: zone back to the one that it lets in": connects("zone2", network.address(1), 80),
        "declared: another zone to the outside": connects("zone2", OUTSIDE, 80),
        "declared: zone to the host, whose address is in the network": connects("zone1", HOST, 22),
    }
    run("nft", "-f", "-", stdin=network.ruleset(closed, routes_others=True))
    found["on a router: outside through the host"] = connects("outside", BEYOND, 80)
    found["on a router: outside to a zone's own address"] = connects("outside", network.address(1), 80)
    found["on a router: zone to the outside"] = connects("zone1", OUTSIDE, 80)
    run("nft", "delete", "table", "inet", "ringfence")
    found["without rules: outside through the host"] = connects("outside", BEYOND, 80)
    found["without rules: zone to another zone"] = connects("zone1", network.address(2), 80)
    found["without rules: zone to the host"] = connects("zone1", HOST, 22)
    found["without rules: zone to the outside"] = connects("zone1", OUTSIDE, 80)
    found["without rules: outside to a zone's own address"] = connects("outside", network.address(1), 80)
    for stream in streams:
        stream.close()
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
