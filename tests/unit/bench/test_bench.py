"""Tests of what ``make bench`` reads from tools, and of its table. The outputs are those of the tools, shortened."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Zone
from ansible_collections.ringfence.zones.plugins.module_utils.zone.oci_runtime import runtime_config
from ringfence_bench import many_tasks, table, tools
from ringfence_bench.on_host import work

CPU = "CPU speed:\n    events per second:  5152.84\n\nGeneral statistics:\n    total time:                          2.0002s\n"
MEMORY = "Total operations: 64656 (32311.66 per second)\n\n64656.00 MiB transferred (32311.66 MiB/sec)\n"
DD = "100+0 records in\n100+0 records out\n100 bytes copied, 5.5534e-05 s, 1.8 MB/s\n"
DD_LONG = "200000+0 records in\n200000+0 records out\n200000 bytes (200 kB, 195 KiB) copied, 0.5 s, 400 kB/s\n"
FIO = json.dumps({"fio version": "fio-3.33", "jobs": [{"write": {"bw_bytes": 2236962133, "iops": 2133.333333}}]})
IPERF = json.dumps({"end": {"sum_received": {"seconds": 2.000087, "bytes": 8838184960, "bits_per_second": 35351202062.710266}}})


@pytest.mark.parametrize(
    ("read", "text", "figure"),
    [
        (tools.sysbench_cpu, CPU, 5152.84),
        (tools.sysbench_memory, MEMORY, 32311.66),
        (tools.dd_syscalls, DD, 200 / 5.5534e-05),
        (tools.dd_syscalls, DD_LONG, 800000),
        (tools.fio_bandwidth("write"), FIO, 2236962133 / 2**20),
        (tools.fio_operations("write"), FIO, 2133.333333),
        (tools.iperf3, IPERF, 35351.20206271),
    ],
)
def test_the_figure_of_a_tool_is_read(read: Callable[[str], float], text: str, figure: float) -> None:
    assert read(text) == pytest.approx(figure)


@pytest.mark.parametrize("read", [tools.sysbench_cpu, tools.sysbench_memory, tools.dd_syscalls])
def test_what_a_tool_does_not_print_is_an_error(read: Callable[[str], float]) -> None:
    with pytest.raises(ValueError, match="FATAL"):
        read("FATAL: cannot")


def test_the_figure_of_several_rounds_is_their_median() -> None:
    slow, quick = (CPU.replace("5152.84", other) for other in ("1.0", "9999.0"))
    assert tools.figures({"zone": {"cpu": [slow, CPU, quick]}}) == {"zone": {"cpu": 5152.84}}


def test_every_tool_that_runs_has_a_row() -> None:
    assert list(tools.ROWS) == [*work.COMMANDS, "receive", "send"]


def test_the_seconds_of_tasks_are_those_of_ansible() -> None:
    cases = (("Gathering", 3), ("Measure the loop", 52.5), ("Measure the call name=web", 1.25))
    report = "".join(f'<testcase name="[demo] A play: {name}" time="{seconds}"/>' for name, seconds in cases)
    assert many_tasks.task_seconds(f"<testsuite>{report}</testsuite>") == {"Measure the loop": 52.5, "Measure the call": 1.25}


def test_growth_is_told_for_each_zone_more() -> None:
    found = table.growth({200: 0.3, 10: 0.01, 50: 0.05})
    assert [(fewer, more, round(each, 3)) for fewer, more, each in found] == [(10, 50, 1.0), (50, 200, 1.667)]


def test_the_container_of_the_host_is_that_of_the_zone_but_for_its_place() -> None:
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []}], "syscalls": []}
    config = runtime_config(Zone(name="work", image="x"), {"Cmd": ["sleep", "infinity"]}, "", "", profile)
    changed = work.configuration(config, 256)
    assert changed["process"] == config["process"]
    assert changed["linux"]["seccomp"] == config["linux"]["seccomp"]
    assert changed["linux"]["resources"]["memory"] == {"limit": 256 * 1024 * 1024}
    assert "hooks" not in changed
    assert "hooks" in config
    assert "/run/ringfence/" not in json.dumps(changed)


def test_the_table_has_a_row_for_each_goal() -> None:
    lines = table.table(_results()).splitlines()
    assert lines[0].split() == ["measured", "value", "floor", "ratio", "goal"]
    assert len({line.index("goal") if "goal" in line else lines[0].index("goal") for line in lines}) == 1
    told = {line.split("  ")[0]: line.split()[-3:] for line in lines}
    assert told["no change, 50 zones, test driver: call and list, ms"] == ["2.00", "≤", "2"]
    assert told["no change: task for 8 zones, loop of 50 virt tasks, s"] == ["1/50", "≤", "1/30"]
    assert told["start of 8 zones, and one by one, 1 CPU of the host, s"][-1] == "2"
    assert told["zone start, pvh: small kernel and Debian's, s"] == ["0.50", "≤", "0.4"]
    assert told["memory of 128 MiB taken, pv: small kernel and Debian's"] == ["0.25", "≤", "0.45"]
    assert told["image to file system: most disk, and unpacked, MB"] == ["2.00", "≤", "2.5"]
    assert told["work, pvh: CPU, primes/s"] == ["0.50", "≥", "0.9"]


def _results() -> dict[str, Any]:
    times = {"converge_seconds": 2.0, "bare_seconds": 1.0, "converge_call_seconds": 0.2, "bare_call_seconds": 0.1}
    one = {"zone_start_seconds": 3, "bare_start_seconds": 2, "bare_available_kib": 9, "zone_available_kib": 5}
    small = {"zone_start_seconds": 1.5, "bare_start_seconds": 1, "bare_available_kib": 126 * 1024}
    one["bare_available_kib"] = 120 * 1024
    work_done = {"zone": dict.fromkeys(tools.ROWS, 1.0), "container": dict.fromkeys(tools.ROWS, 2.0)}
    return {
        "pv": one,
        "pvh": one,
        "small_kernel": {"pv": small, "pvh": small, "image_bytes": {"small": 4e6, "debian": 10e6}},
        "image": {"collection_seconds": 2, "hand_seconds": 2, "peak_bytes": 2e6, "unpacked_bytes": 1e6},
        "many_zones": dict.fromkeys(("10", "50", "200"), times),
        "many_starts": {**times, "zones": 8, "cpus": 1, "together_seconds": 7, "singly_seconds": 10, "host_kib_for_zone": 7},
        "many_tasks": {"loop_seconds": 50, "call_seconds": 1},
        "channel": {"channel_seconds": 1, "login_seconds": 1},
        "base_bytes": 1,
        "site_tasks": 1,
        "site_changed": 0,
        "site_seconds": 1,
        "restore_seconds": 1,
        "work": {"pv": work_done, "pvh": work_done},
    }
