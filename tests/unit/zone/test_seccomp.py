"""Tests of the library's ``zone.seccomp``."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.zone import seccomp_filter
from ansible_collections.ringfence.zones.plugins.module_utils.zone.seccomp import rules


def _entry(*names: str, **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", "args": None, "comment": "", "includes": {}, "excludes": {}, **more}


def _profile(*entries: dict[str, Any]) -> dict[str, Any]:
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "defaultErrno": "ENOSYS",
        "archMap": [
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
        ],
        "syscalls": list(entries),
    }


def test_what_is_not_named_is_refused_as_unknown_on_all_that_the_processor_runs() -> None:
    assert rules(_profile(_entry("read", "write")), ()) == {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"}],
    }


def test_arguments_and_errors_of_a_rule_are_kept() -> None:
    argument = {"index": 0, "value": 16, "valueTwo": 0, "op": "SCMP_CMP_EQ"}
    (rule,) = rules(_profile(_entry("socket", action="SCMP_ACT_ERRNO", args=[argument], errnoRet=22, errno="EINVAL")), ())["syscalls"]
    assert rule == {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22, "args": [argument]}


@pytest.mark.parametrize(
    ("conditions", "capabilities", "applies"),
    [
        ({"includes": {"caps": ["CAP_BPF"]}}, {"CAP_BPF"}, True),
        ({"includes": {"caps": ["CAP_BPF"]}}, {"CAP_KILL"}, False),
        ({"includes": {"caps": ["CAP_BPF", "CAP_KILL"]}}, {"CAP_KILL"}, False),
        ({"excludes": {"caps": ["CAP_BPF", "CAP_KILL"]}}, {"CAP_KILL"}, False),
        ({"excludes": {"caps": ["CAP_BPF"]}}, {"CAP_KILL"}, True),
        ({"includes": {"arches": ["arm64"]}}, (), False),
        ({"includes": {"arches": ["arm64", "x86"]}}, (), True),
        ({"excludes": {"arches": ["amd64"]}}, (), False),
        ({"excludes": {"arches": ["s390x"]}}, (), True),
        ({"includes": {"arches": ["amd64"], "caps": ["CAP_BPF"]}}, (), False),
        ({"includes": None, "excludes": None}, (), True),
    ],
)
def test_a_rule_may_ask_for_capabilities_and_processors(conditions: dict[str, Any], capabilities: set[str], applies: bool) -> None:
    assert bool(rules(_profile(_entry("bpf", **conditions)), capabilities)["syscalls"]) is applies


def test_a_host_without_the_library_is_told_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp_filter, "seccomp", None)
    monkeypatch.setattr(sys, "path", ["/usr/lib/python3/dist-packages"])
    with pytest.raises(RingfenceError, match=r"^python3-seccomp is not installed on this host; apply the role"):
        seccomp_filter.compiled(rules(_profile(), ()))
    monkeypatch.setattr(sys, "path", ["/usr/local/lib/python3/dist-packages"])
    with pytest.raises(
        RingfenceError, match=r"^\S+ does not find Debian's python3-seccomp; set ansible_python_interpreter: /usr/bin/python3"
    ):
        seccomp_filter.compiled(rules(_profile(), ()))
