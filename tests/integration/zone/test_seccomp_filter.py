"""Tests of ``seccomp_filter`` with libseccomp, and with the kernel, which runs what it makes. Debian's Python has the library."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

_PROGRAM = """
import ctypes, json, os, sys
from ansible_collections.ringfence.zones.plugins.module_utils.zone import seccomp_filter

class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]

code = seccomp_filter.compiled(json.load(sys.stdin))
libc = ctypes.CDLL(None, use_errno=True)
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(Program(len(code) // 8, code))) == 0

def errno(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return error.errno
    return 0

print(json.dumps([errno(os.getpriority, os.PRIO_PROCESS, 0), errno(os.getpriority, os.PRIO_PGRP, 0),
    errno(os.getpriority, os.PRIO_USER, 0), errno(os.sched_yield), errno(os.getgroups)]))
"""
_PYTHON = "/usr/bin/python3"


def _rules(*rules: dict[str, Any]) -> dict[str, Any]:
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"action": "SCMP_ACT_ERRNO", **rule} for rule in rules],
    }


def _which(value: int) -> dict[str, Any]:
    return {"index": 0, "value": value, "op": "SCMP_CMP_EQ"}


@pytest.mark.parametrize(
    ("rules", "errors"),
    [
        (_rules(), [0, 0, 0, 0, 0]),
        (_rules({"names": ["sched_yield"]}, {"names": ["getgroups"], "errnoRet": 38}), [0, 0, 0, 1, 38]),
        (_rules({"names": ["no_such_call", "sched_yield"]}), [0, 0, 0, 1, 0]),
        (_rules({"names": ["getpriority"], "args": [_which(0)], "errnoRet": 22}), [22, 0, 0, 0, 0]),
        # Of one argument they are alternatives, of several conditions.
        (_rules({"names": ["getpriority"], "args": [_which(0), _which(1)]}), [1, 1, 0, 0, 0]),
        (_rules({"names": ["getpriority"], "args": [_which(0), {"index": 1, "value": 5, "op": "SCMP_CMP_GE"}]}), [0, 0, 0, 0, 0]),
        (_rules({"names": ["getpriority"], "args": [{**_which(2), "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}]}), [0, 0, 1, 0, 0]),
    ],
)
def test_the_kernel_refuses_what_the_rules_refuse(rules: dict[str, Any], errors: list[int]) -> None:
    done = subprocess.run([_PYTHON, "-c", _PROGRAM], input=json.dumps(rules), stdout=subprocess.PIPE, text=True, check=True)
    assert json.loads(done.stdout) == errors


def test_an_unknown_action_is_refused() -> None:
    program = "from ansible_collections.ringfence.zones.plugins.module_utils.zone import seccomp_filter; import json, sys; "
    rules = {**_rules(), "defaultAction": "SCMP_ACT_TRACE"}
    command = [_PYTHON, "-c", program + "seccomp_filter.compiled(json.load(sys.stdin))"]
    done = subprocess.run(command, input=json.dumps(rules), stderr=subprocess.PIPE, text=True, check=False)
    assert "RingfenceError: profile of system calls: action 'SCMP_ACT_TRACE' is not known; accepted are" in done.stderr
