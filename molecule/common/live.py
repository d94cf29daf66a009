"""What the tests ask of a live host, in few logins: each costs most of a second on an emulated CPU."""

from __future__ import annotations

import functools
import json
import os
import shlex
import tarfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_COLLECT = Path(__file__).with_name("collect.py")
_INTERRUPTED = Path(__file__).with_name("interrupted_converge.py")
_LIBRARY = Path(__file__).parents[2] / "plugins" / "module_utils"


GROWN = {"size": "48MiB"}
"""The volume ``data`` after the tests of ``declaration``, which make it larger; it never shrinks again."""

HOLDER_OF_THE_LOCK = "$(lslocks --raw --noheadings --output PID,PATH | sed -n 's, /var/lib/ringfence/lock$,,p')"
"""In a shell script: the process of a module that converges, or attacks."""


class Live:
    """A host that molecule has converged, and its zones."""

    def __init__(self, host: Any) -> None:
        self.host = host
        self.variables: dict[str, Any] = host.ansible.get_variables()

    @property
    def declared(self) -> dict[str, dict[str, Any]]:
        """The declared zones by name."""
        return {zone["name"]: zone for zone in self.variables["ringfence_zones"]}

    def run(self, script: str) -> str:
        """What a shell script prints on the host; it has to succeed."""
        done = self.host.run("bash -euc %s", script)
        assert done.rc == 0, f"exit status {done.rc}: {done.stderr}{done.stdout}"
        return str(done.stdout)

    def by_itself(self, script: str) -> None:
        """Let the host run a shell script, and do not wait for it."""
        self.run(f"setsid --fork bash -c {shlex.quote(script)} >/dev/null 2>&1 </dev/null")

    def into(self, zone: str) -> str:
        """The words of a shell script that log in to a zone as its root, outside the container; a command follows."""
        unknown = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
        return f"ssh -F none {unknown} -o ProxyCommand='zonectl connect {zone}' root@{zone}"

    def facts(self, *zones: str) -> dict[str, Any]:
        """What ``collect.py`` finds when the pages of these zones are there; after a boot that takes a while."""
        ports = [port.partition(":")[0] for zone in zones for port in self.declared[zone]["ports"]]
        done = self.host.run("python3 -c %s " + " ".join(ports), _COLLECT.read_text(encoding="utf-8"))
        assert done.rc == 0, done.stderr
        facts: dict[str, Any] = json.loads(done.stdout)
        return facts

    def module(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The result of one of the collection's modules, whether it failed or not."""
        try:
            result: dict[str, Any] = self.host.ansible(f"ringfence.zones.{name}", json.dumps(arguments) if arguments else None, check=False)
        except self.host.ansible.AnsibleException as failure:
            result = failure.result
        # Ansible's ad-hoc command does not always say it; no module of the collection has a message unless it failed.
        return {**result, "failed": "msg" in result}

    def converge(self, *zones: dict[str, Any], **volumes: dict[str, Any]) -> dict[str, Any]:
        """The result of converging zones, with the declared volumes and those that are given."""
        return self.module("zones", self._declaration(zones, volumes))

    def interrupted(
        self,
        moment: int | str,
        *zones: dict[str, Any],
        instead: Sequence[str] = (),
        then: Sequence[dict[str, Any]] = (),
        **volumes: dict[str, Any],
    ) -> dict[str, Any]:
        """A step of :meth:`converge_interrupted`: converging likewise, killed at a moment of ``interrupted_converge.py``.

        :param instead: a command that is run at the moment, and the converge goes on.
        :param then: the zones that are declared after that; the same ones if none are given.
        """
        declared = {"declared": self._declaration(zones, volumes), "then": self._declaration(then or zones, volumes)}
        return {"moment": moment, "instead": instead, **declared}

    def converge_interrupted(self, *steps: dict[str, Any]) -> list[dict[str, Any]]:
        """What ``interrupted_converge.py`` tells of steps."""
        programs = (_INTERRUPTED.read_text(encoding="utf-8"), _COLLECT.read_text(encoding="utf-8"))
        done = self.host.run("PYTHONPATH=%s python3 -c %s %s %s", self._library, *programs, json.dumps(steps))
        assert done.rc == 0, done.stderr
        results: list[dict[str, Any]] = json.loads(done.stdout)
        return results

    @functools.cached_property
    def _library(self) -> str:
        """Where on the host the collection's library is, for a program that imports it: the host has only what its command needs."""
        archive = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "library.tar"
        with tarfile.open(archive, "w") as tar:
            for path in sorted(_LIBRARY.rglob("*.py")):
                tar.add(path, f"ansible_collections/ringfence/zones/plugins/module_utils/{path.relative_to(_LIBRARY)}")
        place = "/run/ringfence-library"
        self.run(f"mkdir -p {place}")
        self.host.ansible("ansible.builtin.unarchive", json.dumps({"src": str(archive), "dest": place}), check=False)
        return place

    def _declaration(self, zones: Sequence[dict[str, Any]], volumes: dict[str, dict[str, Any]]) -> dict[str, Any]:
        declared = {"volumes": {**self.variables["ringfence_volumes"], **volumes}, "secrets": self.variables["ringfence_secrets"]}
        return {"zones": list(zones), **declared}

    def in_zone(self, zone: str, script: str) -> str:
        """What a shell script prints in a zone's container; it has to succeed."""
        result = self.module("zone_exec", {"name": zone, "argv": ["sh", "-euc", script]})
        assert result.get("rc") == 0, result
        return str(result["stdout"])

    def page_from_outside(self) -> str:
        """What zone web's published port answers on the machine that the host runs on."""
        with urllib.request.urlopen(self.variables["page"], timeout=30) as answer:
            content: bytes = answer.read()
        return content.decode().strip()

    def converges(self) -> list[dict[str, Any]]:
        """The runs of converge.yml on this host, oldest first."""
        lines = (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "runs.jsonl").read_text(encoding="utf-8").splitlines()
        return [run for run in map(json.loads, lines) if run["playbook"] == "converge.yml"]
