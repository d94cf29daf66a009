"""Finds and runs the programs that the lab is made of."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ringfence_lab.errors import LabError

PACKAGES: Mapping[str, str] = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "mcopy": "mtools",
    "sfdisk": "fdisk",
    "tar": "tar",
    "sh": "dash",
    "cp": "coreutils",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "fakeroot": "fakeroot",
    "newuidmap": "uidmap",
}
"""Program → the Debian package that carries it."""

_SEARCH_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
"""An ordinary user's PATH lacks the directories where Debian keeps mkfs and sfdisk."""


def require(programs: Iterable[str], files: Mapping[Path, str] | None = None) -> None:
    """Check that all ``programs``, and all ``files`` (path → Debian package), are installed.

    :raises LabError: naming everything that is missing and the one command that installs it.
    """
    missing = {program: PACKAGES[program] for program in programs if shutil.which(program, path=_SEARCH_PATH) is None}
    missing |= {str(path): package for path, package in (files or {}).items() if not path.exists()}
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        raise LabError(f"missing on this machine: {', '.join(sorted(missing))}; install with: apt-get install {packages}")


def run(argv: Sequence[str], *, stdin: bytes | None = None, log: Path | None = None, cwd: Path | None = None) -> bytes:
    """Run a program to its end and return its standard output; with ``log``, all output goes to that file instead.

    :raises LabError: when it fails, with the end of what it wrote.
    """
    program = shutil.which(argv[0], path=_SEARCH_PATH)
    if program is None:
        require([argv[0]])
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "PATH": _SEARCH_PATH}
    with open(log or os.devnull, "ab") as handle:
        done = subprocess.run(
            [program or argv[0], *argv[1:]],
            stdin=subprocess.DEVNULL if stdin is None else None,
            input=stdin,
            stdout=handle if log else subprocess.PIPE,
            stderr=subprocess.STDOUT if log else subprocess.PIPE,
            cwd=cwd,
            env=environment,
            check=False,
        )
    if done.returncode != 0:
        output = log.read_bytes() if log else done.stderr
        last = output.decode("utf-8", "replace").strip().splitlines()[-5:]
        where = f" (all of it: {log})" if log else ""
        raise LabError(f"{argv[0]} failed with exit status {done.returncode}{where}: {' | '.join(last) or 'no output'}")
    return done.stdout or b""


def require_space(directory: Path, needed_mib: int, purpose: str) -> None:
    """Check the free space of the file system that holds ``directory`` (or its nearest existing parent).

    :raises LabError: when fewer than ``needed_mib`` MiB are free.
    """
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    free_mib = shutil.disk_usage(existing).free // 2**20
    if free_mib < needed_mib:
        raise LabError(f"{existing} has {free_mib} MiB free, {purpose} needs {needed_mib} MiB: free some space or choose another place")
