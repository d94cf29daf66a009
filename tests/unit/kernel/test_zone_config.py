"""The configuration of the small kernel has what a zone and its container need."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.kernel.modules import OPTIONAL, REQUIRED

_FILES = Path(__file__).parents[3] / "roles" / "kernel_build" / "files"
_CONFIG = (_FILES / "zone.config").read_text(encoding="utf-8")
_ON = set(re.findall(r"^CONFIG_(\w+)=y$", _CONFIG, re.MULTILINE))


@pytest.mark.parametrize("option", [*REQUIRED.values(), *(option for option in OPTIONAL.values() if option != "XEN_PRIVCMD")])
def test_it_has_built_in_what_hosts_ask_for(option: str) -> None:
    assert option in _ON


@pytest.mark.parametrize(
    "option",
    [
        *("XEN_PV", "XEN_PVH", "HVC_XEN", "HVC_XEN_FRONTEND", "XEN_BALLOON", "BLK_DEV_INITRD", "DEVTMPFS", "TMPFS"),
        # crun: namespaces, control groups, filters of system calls.
        *("UTS_NS", "IPC_NS", "USER_NS", "PID_NS", "NET_NS", "MEMCG", "CGROUP_PIDS", "CGROUP_BPF", "CPUSETS", "SECCOMP_FILTER"),
        # A zone's record is written to a disk that is mounted.
        "BLK_DEV_WRITE_MOUNTED",
        # The number of processes killed, in a zone's record; old programs, for which its command line has vsyscall=xonly.
        *("VM_EVENT_COUNTERS", "X86_VSYSCALL_EMULATION"),
    ],
)
def test_it_has_what_a_zone_and_crun_need(option: str) -> None:
    assert option in _ON


def test_no_module_can_be_loaded() -> None:
    assert "# CONFIG_MODULES is not set" in _CONFIG.splitlines()
    assert not re.findall(r"^CONFIG_\w+=m$", _CONFIG, re.MULTILINE)


def test_root_in_a_zone_can_make_no_hypercalls_of_its_own() -> None:
    """As with Debian's kernels, of which zones load neither as a module. XENFS selects XEN_PRIVCMD."""
    assert not {"XENFS", "XEN_PRIVCMD"} & (_ON | REQUIRED.keys() | set(REQUIRED.values()))


def test_no_partition_tables_are_read() -> None:
    """Linux has these two on unless told."""
    assert {"# CONFIG_MSDOS_PARTITION is not set", "# CONFIG_EFI_PARTITION is not set"} <= set(_CONFIG.splitlines())
    assert "PARTITION_ADVANCED" in _ON


def test_no_option_stands_there_twice() -> None:
    options = re.findall(r"^(?:# )?(CONFIG_\w+)", _CONFIG, re.MULTILINE)
    assert sorted(set(options)) == sorted(options)


def test_each_part_says_what_it_is_for() -> None:
    parts = _CONFIG.split("# --- ")[1:]
    assert len(parts) >= 7
    assert all("=y" in part for part in parts)
