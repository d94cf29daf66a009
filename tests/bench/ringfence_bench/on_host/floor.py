"""What the scripts on the host share: the floor of a converge, measuring several things alternately, and the host's memory."""

from __future__ import annotations

import contextlib
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt

BARE = """
import sys, libvirt
connection = libvirt.open(sys.argv[1])
for domain in connection.listAllDomains():
    try:
        domain.name(), domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, "urn:ringfence:zone:1", libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    except libvirt.libvirtError:
        pass
"""
"""The floor as a program: it lists the domains and reads their metadata."""


def list_domains(uri: str) -> None:
    """The floor as a call within this process."""
    connection = libvirt.open(uri)
    for domain in connection.listAllDomains():
        domain.name()
        with contextlib.suppress(libvirt.libvirtError):
            domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, "urn:ringfence:zone:1", libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    connection.close()


def seconds(call: Callable[[], Any]) -> float:
    """How long a call takes."""
    began = time.monotonic()
    call()
    return time.monotonic() - began


def compared(rounds: int, **calls: Callable[[], Any]) -> dict[str, float]:
    """The median time of each call, ``NAME_seconds``. They take turns, so that a busy moment of the machine meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _round in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return {f"{name}_seconds": statistics.median(values) for name, values in times.items()}


def available_of_host() -> int:
    """KiB that the host's own system has for programs, without what it only keeps in its caches."""
    Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")
    matched = re.search(r"^MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    if matched is None:
        raise SystemExit("/proc/meminfo has no MemAvailable")
    return int(matched[1])
