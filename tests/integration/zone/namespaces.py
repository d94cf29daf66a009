"""A host, two zones and machines outside, as network namespaces: says in JSON which connections come about.

Run by ``test_network`` as root of a namespace of its own, so nothing of this machine's network changes. The links of the zones
are set up by the host's own script ``vif``, the rules are those of the library; only Xen's tool stack is made up.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.attack.programs import arp
from ansible_collections.ringfence.zones.plugins.module_utils.spec.fields import Networks, Port, Traffic
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.zone import firewall, network
from ansible_collections.ringfence.zones.plugins.module_utils.zone.network import Link

VIF = Path(__file__).parents[3] / "roles" / "runtime" / "files" / "vif"
ROUTER = "fe80::2"
"""Link-local address of the machine outside, which announces itself as a router to the host."""
THIRD = 4
"""The index of the third zone."""
STORE = Store(Path("/run/store"))
PATIENCE = 0.5
"""Seconds after which a packet counts as dropped."""

UPLINK_MTU, FURTHER_MTU, LEAST_MTU = 1400, 1300, 1280

_IPV6_TRANSPARENT = 75
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


@dataclasses.dataclass(frozen=True)
class Family:
    """The addresses of one family: of the host, of the machines outside, beyond and far, of zones and of what they have for a gateway.

    ``second`` is that of the host in the network of the machine beyond.
    """

    name: str
    kind: socket.AddressFamily
    host: str
    outside: str
    beyond: str
    far: str
    second: str
    network: str
    zone: Callable[[int], str]
    gateway: str


FAMILIES = (
    Family(
        "IPv4",
        socket.AF_INET,
        "10.9.0.1",
        "10.9.0.2",
        "10.8.0.2",
        "10.6.0.2",
        "10.8.0.1",
        "10.9.0.0/24",
        network.address,
        network.GATEWAY,
    ),
    Family(
        "IPv6",
        socket.AF_INET6,
        "fd00:9::1",
        "fd00:9::2",
        "fd00:8::2",
        "fd00:6::2",
        "fd00:8::1",
        "fd00:9::/64",
        network.address6,
        f"{network.GATEWAY6}%eth0",
    ),
)


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


def add_zone(index: int, fakes: Path, *, asks: bool = False) -> None:
    """What Xen's tool stack, the script ``vif`` and the zone's init do.

    :param asks: it asks for the host's MAC address, as no zone has to, and has no IPv6.
    """
    name, address, mac = f"zone{index}", network.address(index), network.mac(index)
    run("ip", "netns", "add", name)
    run("ip", "link", "add", f"vif{index}.0", "type", "veth", "peer", "name", "eth0", "address", mac, "netns", name)
    (fakes / "xenstore-read").write_text(f"#!/bin/sh\nprintf '%s\\n' {network.interface(index)} {address} {mac}\n")
    run("sh", str(VIF), "online", vif=f"vif{index}.0", XENBUS_PATH="backend", PATH=f"{fakes}:{os.environ['PATH']}")
    commands = f"link set lo up\naddress add {address} peer {network.GATEWAY} dev eth0\nlink set eth0 up arp {'on' if asks else 'off'}\n"
    commands += f"route add default via {network.GATEWAY}\n"
    if not asks:
        with inside(name):
            Path("/proc/sys/net/ipv6/conf/eth0/addr_gen_mode").write_text("1")
            Path("/proc/sys/net/ipv6/conf/eth0/accept_ra").write_text("0")
        commands += f"address add {network.address6(index)}/128 dev eth0\nroute add default via {network.GATEWAY6} dev eth0\n"
    run("ip", "-netns", name, "-batch", "-", stdin=commands)


def add_machine(name: str, addresses: tuple[str, ...], gateways: tuple[str, ...]) -> None:
    """A machine in one of the host's networks, which takes the host for its router."""
    run("ip", "netns", "add", name)
    run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
    own, hosts = "link set lo up\nlink set eth0 up\n", f"link set lo up\nlink set {name} up\n"
    for address, gateway in zip(addresses, gateways, strict=True):
        length = "64 nodad" if ":" in address else "24"
        # The host may not yet be one to ask.
        hosts += f"address replace {gateway}/{length} dev {name}\n"
        own += f"address add {address}/{length} dev eth0\nroute add default via {gateway}\n"
    run("ip", "-batch", "-", stdin=hosts)
    run("ip", "-netns", name, "-batch", "-", stdin=own)


def add_far() -> None:
    """A machine with two routers on the way: the links to and between them take less than its own, and than those of zones."""
    run("ip", "netns", "add", "middle")
    run("ip", "netns", "add", "far")
    for name in ("outside", "middle", "far"):
        with inside(name):
            # A router asks for its neighbours in the name of its link-local address, which need not be tried first.
            for switch, value in (("ipv6/conf/default/accept_dad", "0"), ("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")):
                Path("/proc/sys/net", switch).write_text(value)
    for name, neighbour in (("middle", "outside"), ("far", "middle")):
        run("ip", "-netns", neighbour, "link", "add", f"to_{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
    links = {
        "host": f"link set outside mtu {UPLINK_MTU}\n",
        "outside": f"link set eth0 mtu {UPLINK_MTU}\nlink set to_middle mtu {FURTHER_MTU} up\n",
        "middle": f"link set eth0 mtu {FURTHER_MTU} up\nlink set to_far up\n",
        "far": "link set eth0 up\n",
    }
    for length, start in (("24", "10.{}.0."), ("64 nodad", "fd00:{}::")):
        outer, seven, six = (start.format(number) for number in (9, 7, 6))
        prefix = f"{six}0/24" if "." in six else f"{six}/64"
        links["host"] += f"route add {prefix} via {outer}2\n"
        links["outside"] += f"address add {seven}1/{length} dev to_middle\nroute add {prefix} via {seven}2\n"
        links["middle"] += f"address add {seven}2/{length} dev eth0\nroute add default via {seven}1\n"
        links["middle"] += f"address add {six}1/{length} dev to_far\n"
        links["far"] += f"address add {six}2/{length} dev eth0\nroute add default via {six}1\n"
    for name, commands in links.items():
        run("ip", "-netns", name, "-batch", "-", stdin=commands)


def serve(name: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """A socket that waits in a namespace, for both families."""
    with inside(name):
        server = socket.socket(socket.AF_INET6, kind)
    server.settimeout(PATIENCE)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", port))
    if kind == socket.SOCK_STREAM:
        server.listen()
    return server


def connects(name: str, address: str, port: int) -> bool:
    """Whether a TCP connection from a namespace is accepted."""
    with inside(name):
        client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        with client:
            client.settimeout(PATIENCE)
            try:
                client.connect((address, port))
            except OSError:
                return False
            return True


def answers(server: socket.socket, client: socket.socket, address: str, port: int) -> bool:
    """Whether a datagram to ``port`` of the host reaches ``server``, and its answer ``client``."""
    try:
        client.sendto(b"question", (address, port))
        _question, sender = server.recvfrom(100)
        server.sendto(b"answer", sender)
        answer, whose = client.recvfrom(100)
        return (answer, *whose[:2]) == (b"answer", address, port)
    except OSError:
        return False


def receives_forged(client: socket.socket, family: Family) -> bool:
    """Whether the outside takes a datagram of zone 1 for one of zone 2, with which it has just spoken."""
    with inside("zone1"):
        forger = socket.socket(family.kind, socket.SOCK_DGRAM)
    with forger:
        _may_forge(forger)
        forger.bind((family.zone(2), 53))
        forger.sendto(b"forged", (family.outside, client.getsockname()[1]))
        try:
            return client.recv(100) == b"forged"
        except OSError:
            return False


def joins_forged(family: Family, identification: int) -> bool:
    """Whether the host takes for one datagram what zone 1 sends as its second fragment, and the machine outside as its first."""
    with socket.socket(family.kind, socket.SOCK_DGRAM) as server:
        if family.kind == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_UDP, 102, 1)  # UDP_NO_CHECK6_RX, for there is no checksum.
        server.settimeout(PATIENCE)
        server.bind((family.host, 0))
        first = struct.pack("!HHHH", 4000, server.getsockname()[1], 24, 0) + b"genuine "
        _send_fragment("zone1", family, identification, b"forged  ", begins=len(first), more=False)
        _send_fragment("outside", family, identification, first, begins=0, more=True)
        try:
            return server.recv(100) == b"genuine forged  "
        except OSError:
            return False


def _send_fragment(name: str, family: Family, identification: int, data: bytes, *, begins: int, more: bool) -> None:
    """Send a fragment of a UDP datagram to the host in the name of the machine outside. The kernel fills in IPv4's length and checksum."""
    source, target = (socket.inet_pton(family.kind, address) for address in (family.outside, family.host))
    if family.kind == socket.AF_INET:
        place = more << 13 | begins // 8
        header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, identification, place, 64, socket.IPPROTO_UDP, 0, source, target)
    else:
        header = struct.pack("!IHBB16s16s", 6 << 28, 8 + len(data), socket.IPPROTO_FRAGMENT, 64, source, target)
        header += struct.pack("!BBHI", socket.IPPROTO_UDP, 0, begins | more, identification)
    with inside(name), socket.socket(family.kind, socket.SOCK_RAW, socket.IPPROTO_RAW) as sender:
        sender.sendto(header + data, (family.host, 0))
    time.sleep(0.1)


def _may_forge(sender: socket.socket) -> None:
    """Let a socket have any source address."""
    if sender.family == socket.AF_INET:
        sender.setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT
    else:
        sender.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)


def send_icmp6(name: str, source: str, target: str, message: bytes) -> None:
    """Send a message of neighbour discovery from a namespace's eth0. The kernel fills in the checksum."""
    with inside(name), socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sender:
        link = socket.if_nametoindex("eth0")
        _may_forge(sender)
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, link)
        sender.bind((source, 0, 0, link if source.startswith("fe80") else 0))
        sender.sendto(message, (target, 0, 0, link))
    time.sleep(0.1)


def announce_router(name: str, source: str) -> None:
    """A router advertisement (RFC 4861, 4.2) with a lifetime of half an hour."""
    send_icmp6(name, source, "ff02::1", struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0))


def claim_address(name: str, address: str, asked: str) -> None:
    """A neighbour solicitation (RFC 4861, 4.3) from ``address``, which a host that has ``asked`` answers, and remembers."""
    option = bytes([1, 1, 2, 0, 0, 0, 0, 99])
    message = struct.pack("!BBHI", 135, 0, 0, 0) + socket.inet_pton(socket.AF_INET6, asked) + option
    send_icmp6(name, address, "ff02::1:ff00:1", message)


def of_host(*argv: str) -> str:
    """What ``ip -6`` says of the host."""
    return subprocess.run(["ip", "-6", *argv], check=True, capture_output=True).stdout.decode()


def routed_by(interface: str) -> bool:
    """Whether the host has a default route from a router's announcement on an interface."""
    return "proto ra" in of_host("route", "show", "default", "dev", interface)


def of_ipv6_on(interface: str, parameter: str, value: str | None = None) -> str:
    """A parameter of the host's kernel for an interface, which is set if there is a value."""
    path = Path("/proc/sys/net/ipv6/conf") / interface / parameter
    if value is not None:
        path.write_text(value)
    return path.read_text().strip()


def find_closed(family: Family) -> dict[str, bool]:
    """Who reaches whom if ports are published, and nothing else is declared."""
    with inside("outside"):
        client = socket.socket(family.kind, socket.SOCK_DGRAM)
    with client, serve("zone2", 53, socket.SOCK_DGRAM) as server:
        client.settimeout(PATIENCE)
        client.bind(("", 0))
        found = {
            "outside to a published port": connects("outside", family.host, 8080),
            "host to a published port": connects("host", family.host, 8080),
            "outside to a published UDP port": answers(server, client, family.host, 53),
            "outside to the host": connects("outside", family.host, 22),
            "outside to a port that is not published": connects("outside", family.host, 81),
            "outside to a zone's own address": connects("outside", family.zone(1), 80),
            "outside through the host": connects("outside", family.beyond, 80),
            "zone to another zone": connects("zone1", family.zone(2), 80),
            "zone to a published port of another zone": connects("zone1", family.host, 8081),
            "zone to its gateway": connects("zone1", family.gateway, 22),
            "zone to the host": connects("zone1", family.host, 22),
            "zone to the outside": connects("zone1", family.outside, 80),
            "zone with a forged source to the outside": receives_forged(client, family),
            "zone with a forged fragment to the host": joins_forged(family, 1),
        }
        run("nft", "flush", "chain", "inet", "ringfence", "spoofed")
        found["without the check of sources: zone with a forged fragment to the host"] = joins_forged(family, 2)
        found["without the check of sources alone: zone with a forged source to the outside"] = receives_forged(client, family)
        run("nft", "flush", "chain", "inet", "ringfence", "forward")
        found["without the check of sources, and of what is declared: zone with a forged source to the outside"] = receives_forged(
            client, family
        )
    return found


def find_at_addresses(family: Family) -> dict[str, bool]:
    """Who reaches whom if ports are published at one address of the host, and one port at two of them."""
    at_one, nowhere = Port(8090, 80, address=family.host), Port(8091, 80, address=family.beyond)
    load(one=Link(1, (at_one, nowhere)), two=Link(2, (Port(53, 53, "udp", family.host),)))
    with _datagrams("outside", family) as client, serve("zone2", 53, socket.SOCK_DGRAM) as server:
        found = {
            "at one address: outside to it": connects("outside", family.host, 8090),
            "at one address: host to it": connects("host", family.host, 8090),
            "at one address: outside to its UDP port": answers(server, client, family.host, 53),
            "at one address: beyond to the other": connects("beyond", family.second, 8090),
            "at one address: outside to the other, by its card": connects("outside", family.second, 8090),
            "at one address: host to the other": connects("host", family.second, 8090),
            "at one address: beyond to it, by the other's card": connects("beyond", family.host, 8090),
            "at one address: zone to it": connects("zone2", family.host, 8090),
            "at no address of the host: outside to it": connects("outside", family.beyond, 8091),
            "at no address of the host: host to it": connects("host", family.beyond, 8091),
        }
    # Only the second zone listens on 82.
    load(one=Link(1, (at_one,)), two=Link(2, (Port(8090, 82, address=family.second),)))
    with serve("zone2", 82):
        found |= {
            "at two addresses: outside to the one": connects("outside", family.host, 8090),
            "at two addresses: beyond to the other": connects("beyond", family.second, 8090),
            "at two addresses: host to the one": connects("host", family.host, 8090),
            "at two addresses: host to the other": connects("host", family.second, 8090),
        }
    return found


def find_moved_at_addresses(family: Family) -> dict[str, bool]:
    """What becomes of conversations with a port that is published at an address, and then at another one alone."""
    client, server = _datagrams("outside", family), _datagrams("zone1", family)
    load()
    client.sendto(b"question", (family.host, 89))
    load(one=Link(1, tuple(Port(89, 89, "udp", address) for address in (family.host, family.second))))
    with client, server:
        server.bind(("", 89))
        client.sendto(b"question", (family.host, 89))
        found = {"moved: outside to a port at an address that has been published meanwhile": _hears(server)}
    talk = converse("outside", family, (family.host, 89), "zone1")
    load(one=Link(1, (Port(89, 89, "udp", family.host),)))
    found["taken away: outside to a port at an address that is published still"] = talk.asks()
    load(one=Link(1, (Port(89, 89, "udp", family.second),)))
    found["taken away: outside to a port at an address that was published"] = talk.answers()
    talk.client.close()
    talk.server.close()
    return found


def find_declared(family: Family) -> dict[str, bool]:
    """Who reaches whom if connections are declared."""
    return {
        "declared: zone to the outside": connects("zone1", family.outside, 80),
        "declared: zone to its name server": connects("zone1", family.beyond, 53),
        "declared: zone to the zone that lets it in": connects("zone1", family.zone(2), 80),
        "declared: outside to a published port": connects("outside", family.host, 8080),
        "declared: zone to another port of the outside": connects("zone1", family.outside, 81),
        "declared: zone to another network": connects("zone1", family.beyond, 80),
        "declared: zone to another port of the zone that lets it in": connects("zone1", family.zone(2), 81),
        "declared: zone back to the one that it lets in": connects("zone2", family.zone(1), 80),
        "declared: another zone to the outside": connects("zone2", family.outside, 80),
        "declared: zone to the host, whose address is in the network": connects("zone1", family.host, 22),
    }


@dataclasses.dataclass(frozen=True)
class Conversation:
    """Datagrams between two namespaces, in which both sides have spoken. ``called`` is the address and port that the client called."""

    client: socket.socket
    server: socket.socket
    called: tuple[str, int]

    def asks(self) -> bool:
        """Whether what the client says comes to the server."""
        self.client.sendto(b"question", self.called)
        return _hears(self.server)

    def answers(self) -> bool:
        """Whether what the server says comes to the client."""
        self.server.send(b"answer")
        return _hears(self.client)


def _hears(listener: socket.socket) -> bool:
    try:
        return bool(listener.recv(100))
    except TimeoutError:
        return False


def _datagrams(place: str, family: Family) -> socket.socket:
    with inside(place):
        end = socket.socket(family.kind, socket.SOCK_DGRAM)
    end.settimeout(PATIENCE)
    return end


def converse(caller: str, family: Family, called: tuple[str, int], place: str) -> Conversation:
    """Begin a conversation with a namespace, whose port is the one that is called."""
    client, server = _datagrams(caller, family), _datagrams(place, family)
    server.bind(("", called[1]))
    client.sendto(b"question", called)
    server.connect(server.recvfrom(100)[1])
    server.send(b"answer")
    client.recv(100)
    return Conversation(client, server, called)


def refuses(caller: str, family: Family, called: tuple[str, int]) -> bool:
    """Whether a client hears that nobody listens: an ICMP error, which belongs to what it has said."""
    with _datagrams(caller, family) as client:
        client.connect(called)
        client.send(b"question")
        return _error_of(client) == errno.ECONNREFUSED


def _error_of(client: socket.socket) -> int | None:
    try:
        client.recv(100)
    except OSError as error:
        return error.errno
    return None


def load(**links: Link) -> None:
    """Load the rules as a converge does."""
    firewall.load(STORE, network.ruleset(links, routes_others=()))


def find_unreachable(family: Family) -> dict[str, bool]:
    """Whether a zone ends what another one says to a third, by an ICMP error in its own name."""
    third, port = f"zone{THIRD}", 98
    load(one=Link(1), two=Link(2), three=Link(THIRD, networks=Networks(ingress=(Traffic("one", (f"{port}/udp",)),))))
    with _datagrams("zone1", family) as client, _datagrams(third, family) as server:
        server.bind(("", port))
        client.connect((family.zone(THIRD), port))
        client.send(b"question")
        server.recv(100)

        def hears_of(sender: str) -> bool:
            _send_error(sender, family, client.getsockname()[:2], client.getpeername()[:2])
            return _error_of(client) == errno.ECONNREFUSED

        return {
            "declared: zone hears from another one that a third does not listen": hears_of("zone2"),
            "declared: zone hears from the one that lets it in that it does not listen": hears_of(third),
        }


def find_errors_to_host(family: Family) -> dict[str, bool]:
    """Which ICMP errors of a zone reach the host's own connections: with the zone, and with a machine outside."""
    load(one=Link(1, (Port(86, 86, "udp"),)))
    found = {
        "host hears that a zone does not listen": refuses("host", family, (family.zone(1), 87)),
        "host hears that nobody listens at a published port": refuses("host", family, (family.host, 86)),
    }
    with _datagrams("host", family) as to_zone, _datagrams("host", family) as to_other:
        for client, peer in ((to_zone, family.zone(1)), (to_other, family.outside)):
            client.connect((peer, 88))

        def hears_of(client: socket.socket, *, narrow: bool) -> bool:
            place = "zone1" if client is to_zone else "outside"
            with serve(place, 88, socket.SOCK_DGRAM) as server:
                client.send(b"question")
                server.recv(100)
            _send_error("zone1", family, client.getsockname()[:2], client.getpeername()[:2], narrow=narrow)
            return _error_of(client) == (errno.EMSGSIZE if narrow else errno.ECONNREFUSED)

        found |= {
            "host hears from a zone that the way to it is narrow": hears_of(to_zone, narrow=True),
            "host hears from a zone that another machine does not listen": hears_of(to_other, narrow=False),
            "host hears from a zone that the way to another machine is narrow": hears_of(to_other, narrow=True),
        }
        run("nft", "flush", "chain", "inet", "ringfence", "input")
        found |= {
            "without the check of errors: host hears from a zone that another machine does not listen": hears_of(to_other, narrow=False),
            "without the check of errors: host hears from a zone that the way to another machine is narrow": hears_of(
                to_other, narrow=True
            ),
        }
    run("ip", "-6" if family.kind == socket.AF_INET6 else "-4", "route", "flush", "cache")
    return found


def _send_error(sender: str, family: Family, caller: tuple[str, int], called: tuple[str, int], *, narrow: bool = False) -> None:
    """Send ``caller`` the error (RFC 792, RFC 4443) that ``called`` does not listen, or that the way to it is narrow.

    The kernel fills in IPv6's checksum.
    """
    source, target = (socket.inet_pton(family.kind, address) for address, _port in (caller, called))
    datagram = struct.pack("!HHHH", caller[1], called[1], 16, 0) + b"question"
    if family.kind == socket.AF_INET:
        quoted = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 36, 1, 0, 64, socket.IPPROTO_UDP, 0, source, target)
        quoted = quoted[:10] + _checksum(quoted) + quoted[12:] + datagram
        message, protocol = struct.pack("!BBHI", *((3, 4, 0, LEAST_MTU) if narrow else (3, 3, 0, 0))) + quoted, socket.IPPROTO_ICMP
        message = message[:2] + _checksum(message) + message[4:]
    else:
        quoted = struct.pack("!IHBB16s16s", 6 << 28, len(datagram), socket.IPPROTO_UDP, 64, source, target) + datagram
        message, protocol = struct.pack("!BBHI", *((2, 0, 0, LEAST_MTU) if narrow else (1, 4, 0, 0))) + quoted, socket.IPPROTO_ICMPV6
    with inside(sender), socket.socket(family.kind, socket.SOCK_RAW, protocol) as raw:
        raw.sendto(message, (caller[0], 0))


def _checksum(data: bytes) -> bytes:
    """The checksum of the Internet (RFC 1071) of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)


def find_moved(family: Family) -> dict[str, bool]:
    """Where the datagrams of one sender go while a port of the host is published, and given to another zone."""
    client, *servers = (_datagrams(place, family) for place in ("outside", "zone1", "zone2"))
    for server in servers:
        server.bind(("", 99))

    def reaches(server: socket.socket) -> bool:
        client.sendto(b"question", (family.host, 99))
        return _hears(server)

    load()
    found = {"moved: outside to a port that is not published yet": reaches(servers[0])}
    load(one=Link(1, (Port(99, 99, "udp"),)))
    found["moved: outside to a port that has been published meanwhile"] = reaches(servers[0])
    load(one=Link(1), two=Link(2, (Port(99, 99, "udp"),)))
    found["moved: outside to a port that has been given to another zone meanwhile"] = reaches(servers[1])
    for end in (client, *servers):
        end.close()
    return found


def find_taken_away(family: Family) -> dict[str, bool]:
    """What becomes of conversations when what let them be begun is declared no longer."""
    some, more = (Traffic(family.network, ports) for ports in (("90-91/udp",), ("92/udp",)))
    published = tuple(Port(port, port, "udp") for port in (93, 94, 95))
    lets_in = Networks(ingress=(Traffic("one", ("96/udp",)),))
    load(one=Link(1, networks=Networks(egress=(some, more))), two=Link(2, published, lets_in))
    taken = {
        "zone to the outside": converse("zone1", family, (family.outside, 90), "outside"),
        "zone to the zone that let it in": converse("zone1", family, (family.zone(2), 96), "zone2"),
        "outside to a port that was published": converse("outside", family, (family.host, 93), "zone2"),
    }
    kept = {
        "zone to the outside": converse("zone1", family, (family.outside, 92), "outside"),
        "outside to a published port": converse("outside", family, (family.host, 94), "zone2"),
    }
    found = {
        "declared: zone hears that nobody listens outside": refuses("zone1", family, (family.outside, 91)),
        "declared: outside hears that nobody listens in the zone": refuses("outside", family, (family.host, 95)),
    }
    load(one=Link(1, networks=Networks(egress=(more,))), two=Link(2, (Port(97, 93, "udp"), *published[1:])))
    found |= {f"taken away: {name}": talk.asks() for name, talk in taken.items()}
    found |= {f"taken away: answer, {name}": talk.answers() for name, talk in taken.items()}
    found |= {f"still declared: {name}": talk.asks() and talk.answers() for name, talk in kept.items()}
    load(another=Link(1))
    found["taken away: outside to the next zone with the address"] = kept["zone to the outside"].answers()
    for talk in (*taken.values(), *kept.values()):
        talk.client.close()
        talk.server.close()
    return found


def find_narrow(family: Family) -> dict[str, bool]:
    """Whether much comes through in both directions where links on the way take less than those at the ends."""
    load(one=Link(1, networks=Networks(egress=(Traffic(family.far, ("84/tcp",)),))), two=Link(2, (Port(8083, 84),)))
    found = {}
    for name, caller, called, place in (
        ("zone to a machine behind narrow links", "zone1", (family.far, 84), "far"),
        ("machine behind narrow links to a published port", "far", (family.host, 8083), "zone2"),
    ):
        # Who knows the path says so when it connects, and nobody has to be told.
        run("ip", "-netns", "far", "-6" if ":" in family.far else "-4", "route", "flush", "cache")
        with inside(caller):
            client = socket.socket(family.kind)
        with inside(place):
            server = socket.create_server(("", 84), family=family.kind)
        with client, server:
            client.settimeout(PATIENCE)
            client.connect(called)
            accepted = server.accept()[0]
            accepted.settimeout(PATIENCE)
            with accepted:
                found[f"{name}, what is sent"] = transfers(client, accepted)
                found[f"{name}, what is answered"] = transfers(accepted, client)
    return found


def transfers(source: socket.socket, target: socket.socket) -> bool:
    """Whether 100 kB come through, and because the sender was told of the narrowest link (RFC 1191, RFC 8201)."""
    with target.makefile("rb") as stream:
        try:
            for _part in range(10):
                source.sendall(bytes(10_000))
                if len(stream.read(10_000)) != 10_000:
                    return False
        except OSError:
            return False
    level, name = (socket.IPPROTO_IP, 14) if source.family == socket.AF_INET else (socket.IPPROTO_IPV6, 24)  # IP_MTU, IPV6_MTU
    return source.getsockopt(level, name) == FURTHER_MTU


def find_on_a_router(family: Family) -> dict[str, bool]:
    """Who reaches whom on a host that was a router before."""
    return {
        "on a router: outside through the host": connects("outside", family.beyond, 80),
        "on a router: outside to a zone's own address": connects("outside", family.zone(1), 80),
        "on a router: zone to the outside": connects("zone1", family.outside, 80),
    }


def find_without_rules(family: Family) -> dict[str, bool]:
    """Who reaches whom if nothing prevents it."""
    return {
        "without rules: outside through the host": connects("outside", family.beyond, 80),
        "without rules: zone to another zone": connects("zone1", family.zone(2), 80),
        "without rules: zone to the host": connects("zone1", family.host, 22),
        "without rules: zone to the outside": connects("zone1", family.outside, 80),
        "without rules: outside to a zone's own address": connects("outside", family.zone(1), 80),
    }


def find_announced(fakes: Path) -> dict[str, bool]:
    """What becomes of the host's own default route when zones are connected."""
    announce_router("outside", ROUTER)
    found = {"a router outside is taken before there are zones": routed_by("outside")}
    for index in (1, 2):
        add_zone(index, fakes)
    found["the host keeps its default route"] = routed_by("outside")
    run("ip", "-6", "route", "del", "default", "dev", "outside")
    announce_router("outside", ROUTER)
    found["a router outside is taken when there are zones"] = routed_by("outside")
    of_ipv6_on("outside", "accept_ra", "1")
    run("ip", "-6", "route", "del", "default", "dev", "outside")
    announce_router("outside", ROUTER)
    found["and if something else sets accept_ra to 1"] = routed_by("outside")
    return found


def find_claimed() -> dict[str, bool]:
    """What a zone gets by announcing a router, and by claiming the address of its peer; the rules are still those of closed zones."""
    peer, known = network.address6(2), of_host("neighbour", "show", "nud", "permanent")

    def claims() -> bool:
        announce_router("zone1", "fe80::bad")
        claim_address("zone1", peer, network.GATEWAY6)
        claimed = any(peer in line and "rz1" in line for line in of_host("neighbour", "show").splitlines())
        return claimed or routed_by("rz1") or known != of_host("neighbour", "show", "nud", "permanent")

    found = {"a zone's announcements": claims()}
    # With what the host's side of a link lacks on purpose, so that only the rules are in the way.
    run("ip", "address", "add", f"{network.GATEWAY6}/64", "dev", "rz1", "nodad")
    of_ipv6_on("rz1", "accept_ra", "2")
    found["a zone's announcements, against the rules alone"] = claims()
    run("nft", "delete", "table", "inet", "ringfence")
    announce_router("zone1", "fe80::bad")
    found["without rules: a zone's announcement of a router"] = routed_by("rz1")
    found["without rules: a zone's claim of another's address"] = claims() and peer in of_host("neighbour", "show", "dev", "rz1")
    run("ip", "address", "del", f"{network.GATEWAY6}/64", "dev", "rz1")
    run("ip", "-6", "route", "flush", "default", "dev", "rz1")
    return found


def find_asked() -> dict[str, bool]:
    """Whether the host keeps entries of machines in whose name a zone asks by ARP."""

    def kept() -> bool:
        with inside("zone1"):
            arp.attack("eth0", network.GATEWAY)
        known = subprocess.run(["ip", "neighbour", "show", "dev", "rz1"], check=True, capture_output=True).stdout.decode()
        return arp.NETWORK in known

    found = {"a zone's questions in foreign names": kept()}
    run("nft", "delete", "table", "arp", "ringfence")
    found["without rules: a zone's questions in foreign names"] = kept()
    return found


def main() -> None:
    """Set all of it up, and print who reaches whom."""
    fakes = Path("/run/fakes")
    run("mount", "-t", "tmpfs", "none", "/run")
    fakes.mkdir()
    STORE.root.mkdir()
    for name in ("xenstore-read", "xenstore-write"):
        (fakes / name).write_text("#!/bin/sh\n")
        (fakes / name).chmod(0o755)
    run("ip", "netns", "attach", "host", str(os.getpid()))
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    add_machine("outside", ("10.9.0.2", "fd00:9::2"), ("10.9.0.1", "fd00:9::1"))
    run("ip", "-netns", "outside", "address", "add", f"{ROUTER}/64", "dev", "eth0", "nodad")
    add_machine("beyond", ("10.8.0.2", "fd00:8::2"), ("10.8.0.1", "fd00:8::1"))
    closed = {"one": Link(1, (Port(8080, 80),)), "two": Link(2, (Port(8081, 80), Port(53, 53, "udp"))), "three": Link(3, (Port(8082, 80),))}
    egress = tuple(Traffic(family.network, ("80/tcp",)) for family in FAMILIES)
    servers = tuple(family.beyond for family in FAMILIES)
    declared = {
        "one": dataclasses.replace(closed["one"], networks=Networks(egress=egress), servers=servers),
        "two": dataclasses.replace(closed["two"], networks=Networks(ingress=(Traffic("one", ("80/tcp",)),))),
    }
    for _again in range(2):
        run("nft", "-f", "-", stdin=network.ruleset(closed, routes_others=()))
    found = find_announced(fakes)
    add_zone(3, fakes, asks=True)
    add_zone(THIRD, fakes)
    places = (("host", 22), ("outside", 80), ("outside", 81), ("beyond", 80), ("beyond", 53), ("zone1", 80), ("zone1", 81), ("zone2", 80))
    streams = [serve(*place) for place in (*places, ("zone2", 81), ("zone3", 80))]
    found["outside to a published port of a zone that asks for MAC addresses"] = connects("outside", FAMILIES[0].host, 8082)
    for family in FAMILIES:
        run("nft", "-f", "-", stdin=network.ruleset(closed, routes_others=()))
        found |= {f"{family.name}: {name}": result for name, result in find_closed(family).items()}
    for find, rules in (
        (find_declared, network.ruleset(declared, routes_others=())),
        (find_on_a_router, network.ruleset(closed, routes_others=("ipv4", "ipv6"))),
    ):
        run("nft", "-f", "-", stdin=rules)
        found |= {f"{family.name}: {name}": result for family in FAMILIES for name, result in find(family).items()}
    found |= {f"{family.name}: {name}": result for family in FAMILIES for name, result in find_taken_away(family).items()}
    found |= {f"{family.name}: {name}": result for family in FAMILIES for name, result in find_moved(family).items()}
    for find in (find_at_addresses, find_moved_at_addresses):
        found |= {f"{family.name}: {name}": result for family in FAMILIES for name, result in find(family).items()}
    for find in (find_unreachable, find_errors_to_host):
        found |= {f"{family.name}: {name}": result for family in FAMILIES for name, result in find(family).items()}
    add_far()
    found |= {f"{family.name}: {name}": result for family in FAMILIES for name, result in find_narrow(family).items()}
    run("nft", "-f", "-", stdin=network.ruleset(closed, routes_others=("ipv4",)))
    found["on a router for IPv4: outside through the host by IPv6"] = connects("outside", FAMILIES[1].beyond, 80)
    run("nft", "-f", "-", stdin=network.ruleset(closed, routes_others=()))
    found |= find_claimed()
    found |= find_asked()
    found |= {f"{family.name}: {name}": result for family in FAMILIES for name, result in find_without_rules(family).items()}
    # What the script does not do: the switch for all alone.
    of_ipv6_on("all", "forwarding", "1")
    found["with forwarding alone: the host keeps its default route"] = routed_by("outside")
    for stream in streams:
        stream.close()
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
