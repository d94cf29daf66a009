# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which system calls a container may use: Docker's profile, resolved for one container. Pure.

Source of the rules: the format of Docker's and Podman's ``seccomp.json``, and ``linux.seccomp`` of the OCI runtime specification.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

PROFILE = "/usr/share/containers/seccomp.json"
"""Podman's copy of Docker's default profile, of Debian's package golang-github-containers-common."""

_ARCHITECTURE = "SCMP_ARCH_X86_64"
_ARCHES = frozenset({"amd64", "x32", "x86"})
"""Names that the profile gives to what an amd64 kernel runs."""

_ARGUMENT = ("index", "value", "valueTwo", "op")


def rules(profile: Mapping[str, Any], capabilities: Collection[str]) -> dict[str, Any]:
    """The object ``linux.seccomp`` for a container with these capabilities.

    :param profile: the content of ``seccomp.json``; some of its rules are only for holders of a capability, or for those without it.
    :param capabilities: names with ``CAP_``.
    """
    of_machine = next(entry for entry in profile["archMap"] if entry["architecture"] == _ARCHITECTURE)
    return {
        "defaultAction": profile["defaultAction"],
        **_errno(profile, "defaultErrnoRet"),
        "architectures": [_ARCHITECTURE, *of_machine["subArchitectures"]],
        "syscalls": [_rule(entry) for entry in profile["syscalls"] if _applies(entry, capabilities)],
    }


def _applies(entry: Mapping[str, Any], capabilities: Collection[str]) -> bool:
    includes, excludes = entry.get("includes") or {}, entry.get("excludes") or {}
    return (
        all(name in capabilities for name in includes.get("caps", ()))
        and not any(name in capabilities for name in excludes.get("caps", ()))
        and ("arches" not in includes or not _ARCHES.isdisjoint(includes["arches"]))
        and _ARCHES.isdisjoint(excludes.get("arches", ()))
    )


def _rule(entry: Mapping[str, Any]) -> dict[str, Any]:
    arguments = [{key: argument[key] for key in _ARGUMENT if key in argument} for argument in entry.get("args") or ()]
    return {
        "names": entry["names"],
        "action": entry["action"],
        **_errno(entry, "errnoRet"),
        **({"args": arguments} if arguments else {}),
    }


def _errno(entry: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {key: entry[key]} if key in entry else {}
