# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules for system calls as the program that Linux runs for each of them, made on the host by libseccomp.

crun would do the same at each start of a zone, and it is most of what crun does then. With the same library and the same order of calls
the program is the same, byte for byte.
"""

from __future__ import annotations

import errno
import json
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils import debian
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError

try:
    import seccomp
except ImportError:  # On a control node.
    seccomp = None

ANNOTATION = "run.oci.seccomp_bpf_data"
"""Of a container's configuration: crun takes the program from it, in base64, and makes none of ``linux.seccomp``."""


def compiled(rules: Mapping[str, Any]) -> bytes:
    """The program for an object ``linux.seccomp`` (:func:`seccomp.rules`).

    :raises RingfenceError: when the host lacks libseccomp's Python package, or the rules have an action that is not known here.
    """
    # Nearly all zones of a host have the same rules, and compiling takes a tenth of a second and more.
    return _compiled(json.dumps(rules))


@lru_cache(maxsize=16)
def _compiled(text: str) -> bytes:
    if seccomp is None:
        raise RingfenceError(debian.missing_python_package("seccomp"))
    rules = json.loads(text)
    default = _action(rules["defaultAction"], rules.get("defaultErrnoRet"))
    program = seccomp.SyscallFilter(default)
    for name in rules["architectures"]:
        architecture = getattr(seccomp.Arch, name.removeprefix("SCMP_ARCH_"))
        if not program.exist_arch(architecture):
            program.add_arch(architecture)
    for rule in rules["syscalls"]:
        action = _action(rule["action"], rule.get("errnoRet"))
        if action == default:
            continue
        for name in rule["names"]:
            _add(program, action, name, rule.get("args", ()))
    with tempfile.TemporaryFile() as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read()


def _add(program: Any, action: int, name: str, arguments: Any) -> None:
    number = seccomp.resolve_syscall(seccomp.Arch(), name)
    if number == -1:
        return  # This library does not know the call, and crun passes over it too: the default action holds.
    compared = [
        seccomp.Arg(
            argument["index"],
            getattr(seccomp, argument["op"].removeprefix("SCMP_CMP_")),
            argument["value"],
            argument.get("valueTwo", 0),
        )
        for argument in arguments
    ]
    indexes = [argument["index"] for argument in arguments]
    if len(set(indexes)) == len(indexes):
        program.add_rule(action, number, *compared)
        return
    # Several comparisons of one argument are alternatives.
    for comparison in compared:
        program.add_rule(action, number, comparison)


def _action(name: str, error: int | None) -> int:
    if name == "SCMP_ACT_ALLOW":
        return int(seccomp.ALLOW)
    if name == "SCMP_ACT_ERRNO":
        return int(seccomp.ERRNO(errno.EPERM if error is None else error))
    raise RingfenceError(f"profile of system calls: action {name!r} is not known; accepted are SCMP_ACT_ALLOW and SCMP_ACT_ERRNO")
