# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Send what has no business on the network, and connect to what is not declared."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.attack.programs import arp
from ansible_collections.ringfence.zones.plugins.module_utils.attack.programs.network import HONEST
from ansible_collections.ringfence.zones.plugins.module_utils.attack.result import Attempt
from ansible_collections.ringfence.zones.plugins.module_utils.attack.zones import CLOSED, FAULTS, NAMES, OPEN, Told, Zones
from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.zone import network

_FORGE, _CONNECT = 9, 10
_METADATA = "169.254.169.254"


def attack(zones: Zones, token: str) -> Iterator[Attempt]:
    """Have the first zone send and connect, and the second one listen."""
    first, second = NAMES
    indices = [zones.definitions[name].index for name in NAMES]
    own, peer = (network.address(index) for index in indices)
    peer6, gateway = network.address6(indices[1]), network.GATEWAY
    send = {"own": own, "peer": peer, "gateway": gateway, "peer6": peer6, "port": str(OPEN)}
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        port = listener.getsockname()[1]
        host = _own_address()
        targets: list[list[Any]] = [
            ["connect to the other zone beside what is declared", peer, CLOSED],
            ["connect to the other zone over IPv6 beside what is declared", peer6, CLOSED],
            ["connect to the host by its end of the link", gateway, port],
            ["connect to the host by its own address", host, port],
            ["connect to the metadata of clouds", _METADATA, 80],
        ]
        declared = ["connect as declared", peer, OPEN]
        heard: dict[str, Told] = {}

        def listen() -> None:
            with contextlib.suppress(*FAULTS):
                heard.update(zones.inside(second, [("network", {"listen": "eth0", "seconds": 20, "token": token})]))

        thread = threading.Thread(target=listen)
        thread.start()
        time.sleep(6)
        sent = zones.inside(
            first,
            [
                ("network", {"send": {"interface": "eth0", **send}, "token": token, "connect": [declared, *targets]}),
                ("arp", {"interface": "eth0", "target": gateway}),
            ],
        )
        kept = _neighbours(network.interface(indices[0]))
        thread.join()
        back = zones.inside(second, [("network", {"connect": [["connect to the zone that may come", own, OPEN]]})])
    addresses = [peer, peer6, gateway, host, _METADATA, own]
    with zones.unprotected_network(addresses) as namespace:
        servers = [_serving(namespace, port) for port in (OPEN, CLOSED, port, 80)]
        try:
            time.sleep(2)
            without = zones.control(
                [
                    (
                        "network",
                        {
                            "send": {"interface": "a0", **send},
                            "listen": "a1",
                            "seconds": 2,
                            "token": token,
                            "connect": [declared, *targets, ["connect to the zone that may come", own, OPEN]],
                        },
                    ),
                    ("arp", {"interface": "a0", "target": gateway}),
                ],
                namespace,
            )["network"]
            kept_without = _neighbours("a1", "-n", namespace)
        finally:
            for server in servers:
                server.kill()
                server.wait()
    arrived, reached = heard.get("network", {}), sent["network"]
    honest = arrived.get(HONEST, (None, "nobody listened"))
    for label, (succeeded, told) in arrived.items():
        if label != HONEST:
            known = succeeded if succeeded or honest[0] else None
            why = told if honest[0] else f"not even {HONEST} arrives"
            yield Attempt(_FORGE, f"{first}: {label}", known, why, *without.get(label, (None, "")))
    yield Attempt(
        _FORGE,
        f"{first}: ask the host by ARP in the name of foreign machines",
        bool(kept) if "asked" in sent["arp"] else None,
        f"the host keeps entries of {kept} of them",
        bool(kept_without),
        f"without rules, of {kept_without}",
    )
    if not arrived:
        yield Attempt(_FORGE, f"{second}: listen", None, "nobody listened in the other zone", None, "")
    works = reached.get(str(declared[0]), (None, ""))[0]
    for label, (succeeded, told) in {**reached, **back["network"]}.items():
        if label != declared[0] and not label.startswith("sent "):
            known = succeeded if succeeded or works else None
            why = told if works else "not even what is declared answers"
            yield Attempt(_CONNECT, label, known, why, *without.get(label, (None, "")))


def _own_address() -> str:
    """The address by which the host is known; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return network.GATEWAY


def _neighbours(interface: str, *options: str) -> int:
    """How many machines there are on a link, by the table of neighbours, in whose name ``arp`` has asked."""
    entries = json.loads(run(["ip", *options, "-json", "neighbour", "show", "dev", interface]) or b"[]")
    return sum(entry["dst"].startswith(arp.NETWORK) for entry in entries)


def _serving(namespace: str, port: int) -> Any:
    program = f"import socket\ns = socket.create_server(('', {port}), family=socket.AF_INET6, dualstack_ipv6=True)\nwhile True: s.accept()"
    return subprocess.Popen(["ip", "netns", "exec", namespace, "python3", "-S", "-c", program])
