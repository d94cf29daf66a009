"""Runs on a host as root: converges that are interrupted when they are about to change something, and what the next ones make of it.

The collection's library has to be on its path.

``interrupted_converge COLLECT STEPS``: the first is the text of ``collect.py``, the second a JSON list, each of an object with

``declared``
    what the module ``zones`` takes: zones, volumes, secrets
``moment``
    a number N: before the Nth change; or ``after NAME``: when the change of this name is done, and the next one is about to begin
``instead``
    a command that is run at the moment; if it is empty, the converge ends there, as by SIGKILL
``then``
    what is declared afterwards

Prints a JSON list with an object for each: ``changes``, the names of those that the converge had begun; ``reached``, whether it came to
the moment; and if so ``completed`` and ``again``, what two converges of ``then`` did, and ``facts``, what ``collect.py`` finds after them.

A change is a call of libvirt that changes a domain, a program that does more than read, a file or directory of the host that is made,
written, renamed or deleted, and the first look at whether a zone has done what it was asked to. It is Python that tells of files and
programs, so no place in the collection can forget to.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import libvirt

from ansible_collections.ringfence.zones.plugins.module_utils.converge import converge
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store

STORE = Store()

DOMAIN = {
    "setAutostart": "autostart",
    "create": "start",
    "shutdown": "stop",
    "destroy": "end",
    "undefine": "undefine",
    "setMemoryFlags": "resize memory of",
    "setVcpusFlags": "resize CPUs of",
}
"""The methods of libvirt's domains that change something, and what they are called here."""

READS = {"losetup --list", "mkfs.erofs --help", "nft list", "skopeo inspect", "xl domid", "xl info", "xl vcpu-list"}
"""Programs, with their first argument, that change nothing."""

ELSEWHERE = ("/dev/", "/proc/", "/tmp/", str(STORE.tmp), f"{STORE.root}/lock")
"""Files that are no change: of the system, temporary, and the store's workspaces, which each converge begins by deleting as a whole."""


class Changes:
    """Counts the changes of this process, and lets something happen at one moment."""

    def __init__(self, moment: int | str | None, happens: Callable[[], None]) -> None:
        self.moment = moment
        self.happens = happens
        self.begun: list[str] = []

    def watch(self) -> None:
        """Count from now on, to the end of the process."""
        for method, told in DOMAIN.items():
            self._wrap(libvirt.virDomain, method, lambda domain, *_more, told=told: f"{told} {domain.name()}")
        self._wrap(libvirt.virConnect, "defineXML", lambda _connection, xml: f"define {re.findall('<name>(.*?)</name>', xml)[0]}")
        self._wrap(time, "sleep", lambda _seconds: "wait" if _sleeper() != "subprocess" else None)
        sys.addaudithook(self._heard)

    def _wrap(self, where: Any, method: str, name: Callable[..., str | None]) -> None:
        call = getattr(where, method)

        def change(*arguments: Any) -> Any:
            told = name(*arguments)
            if told:
                self._begin(told)
            return call(*arguments)

        setattr(where, method, change)

    def _heard(self, event: str, arguments: Any) -> None:
        """Of Python: see "Audit events table" in its documentation."""
        if event == "open":
            path, _mode, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR):
                self._begin_file("write", path)
        elif event == "os.rename":
            source, target, *_directories = arguments
            self._begin_file(*(("rename", target) if is_change(target) else ("withdraw", source)))
        elif event == "os.mkdir" and not os.path.isdir(arguments[0]):
            self._begin_file("make", arguments[0])
        elif event in ("os.remove", "os.rmdir"):
            self._begin_file("delete", absolute(*arguments))
        elif event == "subprocess.Popen":
            # Options of skopeo come before what it is to do, and its limits before that.
            passed_over = ("prlimit", "--fsize=", "--override-")
            program = " ".join([word for word in map(str, arguments[1]) if not word.startswith(passed_over)][:2])
            if program not in READS:
                self._begin(f"run {program}")

    def _begin_file(self, what: str, path: Any) -> None:
        if is_change(path) and (what != "delete" or os.path.lexists(path)):
            # The names of files have digests in them.
            self._begin(f"{what} {re.sub('[0-9a-f]{12,}', '…', os.fspath(path).removeprefix(f'{STORE.root}/'))}")

    def _begin(self, name: str) -> None:
        last = self.begun[-1] if self.begun else "nothing"
        if name == last == "wait":
            return
        if self.moment in (len(self.begun) + 1, f"after {last}"):
            self.moment = None
            self.happens()
        self.begun.append(name)


def _sleeper() -> str:
    """The module that sleeps: that of the function which has called what is wrapped around it."""
    return str(sys._getframe(3).f_globals["__name__"])


def is_change(path: Any) -> bool:
    """Whether a file is one of those that count; an open file, by its number, has been counted."""
    # The directory itself too: a file without a name is opened by it.
    return isinstance(path, str | os.PathLike) and not f"{os.fspath(path)}/".startswith(ELSEWHERE)


def absolute(path: Any, directory: int) -> Any:
    """A path that is told relative to an open directory."""
    return os.path.join(os.readlink(f"/proc/self/fd/{directory}"), path) if directory >= 0 else path


def converged(declared: dict[str, Any], moment: int | str | None = None, instead: Sequence[str] = ()) -> dict[str, Any]:
    """What a converge in a process of its own did; unless it was killed, this has ``actions`` by zone, ``changed`` and ``failures``."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            run(declared, moment, instead, writing)
            status = 0
        finally:
            if status:
                traceback.print_exc()
            # Whatever else the process would do at its end is its parent's.
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as lines:
        told = {key: value for line in lines for key, value in json.loads(line).items()}
    _process, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL), "a converge has failed"
    return told


def run(declared: dict[str, Any], moment: int | str | None, instead: Sequence[str], writing: int) -> None:
    """Converge, and tell of it."""

    def happens() -> None:
        if instead:
            subprocess.run(instead, stdout=subprocess.DEVNULL, check=True)
        else:
            tell()
            os.kill(os.getpid(), signal.SIGKILL)

    def tell(**results: Any) -> None:
        document = {"changes": changes.begun, "reached": moment is not None and changes.moment is None, **results}
        os.write(writing, f"{json.dumps(document)}\n".encode())

    changes = Changes(moment, happens)
    changes.watch()
    try:
        report = converge.converge(
            STORE, declared["zones"], declared["volumes"], declared["secrets"], converge.Policy(keep_unused=0), check=False
        )
        actions = {zone["name"]: zone["action"] for zone in report.zones}
        tell(actions=actions, changed=report.changed, failures=report.failures)
    except RingfenceError as error:
        tell(actions={}, changed=False, failures=[str(error)])


def main() -> None:
    """Take the steps."""
    # What Python compiles is no change of a converge.
    sys.dont_write_bytecode = True
    collect, steps = sys.argv[1], json.loads(sys.argv[2])
    results = []
    for step in steps:
        result = converged(step["declared"], step["moment"], step["instead"])
        if result["reached"]:
            result.update(completed=converged(step["then"]), again=converged(step["then"]))
            result["facts"] = json.loads(subprocess.run([sys.executable, "-c", collect], stdout=subprocess.PIPE, check=True).stdout)
        results.append(result)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
