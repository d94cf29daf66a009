"""The table of all that was measured. Pure.

Nothing is judged: an emulated machine's times say nothing by themselves, and a ratio is for people to judge.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ringfence_bench.many_tasks import LOOP
from ringfence_bench.on_host.one_start import MEMORY_MIB
from ringfence_bench.tools import ROWS

HEAD = ("measured", "value", "floor", "ratio", "goal")
MODES = ("pv", "pvh")

Row = tuple[str, str, str, str, str]


def table(results: Mapping[str, Any]) -> str:
    """All rows, each column as wide as its widest cell."""
    rows = [
        HEAD,
        *_one_zone(results),
        *_small_kernel(results),
        *_image(results),
        *_many_zones(results),
        *_starts(results),
        *_channel(results),
        *_site(results),
        *_work(results),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def growth(call_seconds: Mapping[int, float]) -> list[tuple[int, int, float]]:
    """Milliseconds that each zone more takes, from one count of zones to the next larger one."""
    counts = sorted(call_seconds)
    return [(fewer, more, (call_seconds[more] - call_seconds[fewer]) / (more - fewer) * 1000) for fewer, more in itertools.pairwise(counts)]


def _compared(label: str, value: float, floor: float, goal: str, digits: int = 2) -> Row:
    return (label, f"{value:.{digits}f}", f"{floor:.{digits}f}", f"{value / floor:.2f}", goal)


def _one_zone(results: Mapping[str, Any]) -> Sequence[Row]:
    rows: list[Row] = []
    for mode in MODES:
        found = results[mode]
        rows.append(
            _compared(f"zone start, {mode}: to the first output, s", found["zone_start_seconds"], found["bare_start_seconds"], "≤ 1.5", 1)
        )
        taken = (found["bare_available_kib"] - found["zone_available_kib"]) / 1024
        rows.append((f"zone memory, {mode}: above a do-nothing init, MiB", f"{taken:.1f}", "0", "", "≤ 6"))
    return rows


def _small_kernel(results: Mapping[str, Any]) -> Sequence[Row]:
    """The floor is Debian's kernel in the same zone."""
    rows, small = [], results["small_kernel"]
    for mode, goal in zip(MODES, ("≤ 0.5", "≤ 0.4"), strict=True):
        debian, own = results[mode], small[mode]
        label = f"zone start, {mode}: small kernel and Debian's, s"
        rows.append(_compared(label, own["zone_start_seconds"], debian["zone_start_seconds"], goal, 1))
        label = f"bare domain, {mode}: small kernel and Debian's, s"
        rows.append(_compared(label, own["bare_start_seconds"], debian["bare_start_seconds"], "", 1))
        taken = [MEMORY_MIB - found["bare_available_kib"] / 1024 for found in (own, debian)]
        rows.append(_compared(f"memory of {MEMORY_MIB} MiB taken, {mode}: small kernel and Debian's", taken[0], taken[1], "≤ 0.45", 1))
    sizes = small["image_bytes"]
    return [*rows, _compared("kernel image: small and Debian's, MB", sizes["small"] / 1e6, sizes["debian"] / 1e6, "≤ 0.45", 1)]


def _image(results: Mapping[str, Any]) -> Sequence[Row]:
    found = results["image"]
    label = "image to file system, and by skopeo, umoci, mkfs.erofs, s"
    return [
        _compared(label, found["collection_seconds"], found["hand_seconds"], "≤ 1.3", 1),
        _compared(
            "image to file system: most disk, and unpacked, MB", found["peak_bytes"] / 1e6, found["unpacked_bytes"] / 1e6, "≤ 2.5", 0
        ),
    ]


def _many_zones(results: Mapping[str, Any]) -> Sequence[Row]:
    rows = []
    driver = {int(count): found for count, found in results["many_zones"].items()}
    real = results["many_starts"]
    for label, found in (("50 zones, test driver", driver[50]), (f"{real['zones']} zones, Xen", real)):
        rows.append(_compared(f"no change, {label}: call and list, ms", *_ms(found, "converge_call", "bare_call"), "≤ 2", 1))
        rows.append(_compared(f"no change, {label}: with Python's start, ms", *_ms(found, "converge", "bare"), "≤ 2", 0))
    tasks = results["many_tasks"]
    quicker = tasks["loop_seconds"] / tasks["call_seconds"]
    label = f"no change: task for {real['zones']} zones, loop of {LOOP} virt tasks, s"
    rows.append((label, f"{tasks['call_seconds']:.1f}", f"{tasks['loop_seconds']:.1f}", f"1/{quicker:.0f}", "≤ 1/30"))
    for fewer, more, each in growth({count: found["converge_call_seconds"] for count, found in driver.items()}):
        rows.append((f"no change, test driver: each zone from {fewer} to {more}, ms", f"{each:.2f}", "", "", "linear"))
    return rows


def _ms(found: Mapping[str, float], value: str, floor: str) -> tuple[float, float]:
    return found[f"{value}_seconds"] * 1000, found[f"{floor}_seconds"] * 1000


def _starts(results: Mapping[str, Any]) -> Sequence[Row]:
    found = results["many_starts"]
    label = f"start of {found['zones']} zones, and one by one, {found['cpus']} CPU of the host, s"
    memory = (f"memory of the host for each of {found['zones']} zones, MiB", f"{found['host_kib_for_zone'] / 1024:.1f}", "0", "", "≤ 3")
    return [_compared(label, found["together_seconds"], found["singly_seconds"], "≤ 0.7 on 2", 1), memory]


def _channel(results: Mapping[str, Any]) -> Sequence[Row]:
    found = results["channel"]
    label = "command in a zone, and ssh login to the host, ms"
    return [_compared(label, *_ms(found, "channel", "login"), "≤ 1.5", 0)]


def _site(results: Mapping[str, Any]) -> Sequence[Row]:
    return [
        ("zone base, MB", f"{results['base_bytes'] / 1e6:.1f}", "", "", "≤ 10"),
        ("site on a converged host: tasks", str(results["site_tasks"]), "", "", "≤ 15"),
        ("site on a converged host: changed", str(results["site_changed"]), "", "", "0"),
        ("site on a converged host, s", f"{results['site_seconds']:.0f}", "", "", "≤ 60"),
        ("host from snapshot to ssh, s", f"{results['restore_seconds']:.1f}", "", "", "≤ 10"),
    ]


def _work(results: Mapping[str, Any]) -> Sequence[Row]:
    """The floor is the same container under crun on the host; here more is better."""
    rows = []
    for mode in MODES:
        figures = results["work"][mode]
        for tool, row in ROWS.items():
            rows.append(_compared(f"work, {mode}: {row.label}", figures["zone"][tool], figures["container"][tool], "≥ 0.9", 1))
    return rows
