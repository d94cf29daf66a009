"""The demo's host, on which everything is measured."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

DEMO = Path("build/demo")
RESULTS = Path("build/bench")
REGISTRY_THERE, REGISTRY_HERE = "10.0.2.2:5055", "127.0.0.1:5055"
"""The demo's registry, as its host knows it and as this machine does."""

_LAB = [sys.executable, "molecule/lab"]
_PLACE = "/run/ringfence-bench"


def restore() -> None:
    """Put the host back to its snapshot, in which the demo is converged."""
    subprocess.run([*_LAB, "restore", "demo", "converged"], check=True)


def references() -> dict[str, dict[str, str]]:
    """The demo's images and kernels by name."""
    found: dict[str, dict[str, str]] = yaml.safe_load((DEMO / "references.yml").read_text(encoding="utf-8"))
    return found


def ssh(command: str, stdin: bytes = b"") -> bytes:
    """Run a command line on the host, and return what it prints."""
    return subprocess.run([*_LAB, "ssh", "demo", "--", command], input=stdin, check=True, stdout=subprocess.PIPE).stdout


def measure(script: str, *arguments: str) -> Any:
    """Run a script of ``on_host`` on the host with the collection's library, and return what it found."""
    command = f"mkdir -p {_PLACE} && tar -xf - -C {_PLACE} && PYTHONPATH={_PLACE} "
    return json.loads(ssh(command + shlex.join(["python3", "-m", f"ringfence_bench.on_host.{script}", *arguments]), _scripts()))


def playbook(path: str, *options: str, environment: Mapping[str, str] | None = None, **variables: Any) -> str:
    """Run a playbook on the host, and return what Ansible prints."""
    command = ["ansible-playbook", "-i", str(DEMO / "inventory.yml"), "-e", f"@{DEMO / 'references.yml'}", *options]
    command += ["-e", json.dumps(variables), path]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})})
    if done.returncode != 0:
        raise SystemExit(f"error: {shlex.join(command)} failed:\n{done.stdout}")
    return done.stdout


def _scripts() -> bytes:
    package = Path(__file__).parent
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in (package / "__init__.py", *sorted((package / "on_host").glob("*.py"))):
            archive.add(path, f"ringfence_bench/{path.relative_to(package)}")
        for path in sorted(Path("plugins/module_utils").rglob("*.py")):
            archive.add(path, f"ansible_collections/ringfence/zones/{path}")
    return buffer.getvalue()
