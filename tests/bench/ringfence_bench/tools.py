"""Reads the figure that counts from what sysbench, dd, fio and iperf3 print. More is always better. Pure."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


def sysbench_cpu(text: str) -> float:
    """Events per second of ``sysbench cpu``."""
    return _number(r"events per second:\s*([\d.]+)", text)


def sysbench_memory(text: str) -> float:
    """MiB per second of ``sysbench memory``."""
    return _number(r"transferred \(([\d.]+) MiB/sec\)", text)


def dd_syscalls(text: str) -> float:
    """System calls per second of a ``dd bs=1``, which reads and writes once for each byte."""
    matched = re.search(r"^(\d+) bytes.* copied, ([\d.e+-]+) s,", text, re.MULTILINE)
    if matched is None:
        raise ValueError(f"not what dd prints: {text[:200]!r}")
    return 2 * int(matched[1]) / float(matched[2])


def fio_bandwidth(way: str) -> Callable[[str], float]:
    """MiB per second of fio's ``read`` or ``write``."""
    return lambda text: json.loads(text)["jobs"][0][way]["bw_bytes"] / 2**20


def fio_operations(way: str) -> Callable[[str], float]:
    """Operations per second of fio's ``read`` or ``write``."""
    return lambda text: json.loads(text)["jobs"][0][way]["iops"]


def iperf3(text: str) -> float:
    """Mbit per second that arrived."""
    return json.loads(text)["end"]["sum_received"]["bits_per_second"] / 1e6


@dataclass(frozen=True)
class Row:
    """How a tool's figure is named in the table, and read."""

    label: str
    read: Callable[[str], float]


ROWS: dict[str, Row] = {
    "cpu": Row("CPU, primes/s", sysbench_cpu),
    "syscalls": Row("system calls/s", dd_syscalls),
    "memory": Row("memory written, MiB/s", sysbench_memory),
    "write": Row("disk written and synced, MiB/s", fio_bandwidth("write")),
    "read": Row("disk read, MiB/s", fio_bandwidth("read")),
    "randread": Row("disk, random reads of 4 KiB/s", fio_operations("read")),
    "randwrite": Row("disk, random synced writes of 4 KiB/s", fio_operations("write")),
    "receive": Row("network, host to it, Mbit/s", iperf3),
    "send": Row("network, it to host, Mbit/s", iperf3),
}
"""By the names under which ``on_host.work`` returns what the tools printed."""


def figures(printed: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, dict[str, float]]:
    """The median figure of each tool in each place, from what ``on_host.work`` returned."""
    return {
        place: {tool: statistics.median(ROWS[tool].read(text) for text in texts) for tool, texts in tools.items()}
        for place, tools in printed.items()
    }


def _number(pattern: str, text: str) -> float:
    matched = re.search(pattern, text)
    if matched is None:
        raise ValueError(f"{pattern} is not in {text[:200]!r}")
    return float(matched[1])
