"""Tests of the program that interrupts converges, with libvirt's own test driver and a converge that makes known changes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_COMMON = Path(__file__).parents[2] / "molecule" / "common"

_SCRIPT = """
import json, os, shutil, sys, tempfile, time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
import interrupted_converge as program
from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store, write_atomically

program.STORE = Store(Path(sys.argv[2]))
program.ELSEWHERE = ("/dev/", "/proc/", f"{sys.argv[2]}/tmp/", f"{sys.argv[2]}/lock")
program.READS = {"sh -c"}
DOMAIN = "<domain type='test'><name>zone</name><memory>8192</memory><os><type>hvm</type></os></domain>"

def converge(store, zones, *_more, **_options):
    if zones:
        raise RingfenceError("it fails")
    with store.lock(), store.workspace() as workspace:
        (store.root / "known").read_text()
        (workspace / "file").write_text("no change")
        tempfile.TemporaryFile(dir=store.tmp).close()
        run(["sh", "-c", "sleep 0.2"])
        run(["prlimit", "--fsize=1000", "true", "--override-arch=amd64", "is one"])
        (store.root / "zones").mkdir(exist_ok=True)
        (store.root / "zones").mkdir(exist_ok=True)
        write_atomically(store.root / "zones" / "initrd-0123456789ab", b"")
        os.replace(workspace / "file", store.root / "file")
        os.replace(store.root / "file", workspace / "file")
        (store.root / "missing").unlink(missing_ok=True)
        connection = program.libvirt.open("test:///default")
        domain = connection.defineXML(DOMAIN)
        domain.setAutostart(1)
        domain.create()
        time.sleep(0.01)
        time.sleep(0.01)
        domain.destroy()
        shutil.rmtree(store.root / "zones")
    return SimpleNamespace(zones=[{"name": "zone", "action": "create"}], changed=True, failures=[])

program.converge = SimpleNamespace(converge=converge, Policy=lambda **_options: None)
declared = {"zones": json.loads(sys.argv[3]), "volumes": {}, "secrets": {}}
print(json.dumps(program.converged(declared, *json.loads(sys.argv[4]))))
"""

_CHANGES = [
    "run true is one",
    "make zones",
    "write zones/.new-initrd-…",
    "rename zones/initrd-…",
    "rename file",
    "withdraw file",
    "define zone",
    "autostart zone",
    "start zone",
    "wait",
    "end zone",
    "delete zones/initrd-…",
    "delete zones",
]
_WHOLE = {"actions": {"zone": "create"}, "changed": True, "failures": []}


def _converged(root: Path, *interruption: Any, zones: list[str] | None = None) -> dict[str, Any]:
    (root / "known").touch()
    arguments = [str(_COMMON), str(root), json.dumps(zones or []), json.dumps(interruption)]
    done = subprocess.run([sys.executable, "-c", _SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_each_change_is_counted_and_nothing_else(tmp_path: Path) -> None:
    assert _converged(tmp_path) == {"changes": _CHANGES, "reached": False, **_WHOLE}


@pytest.mark.parametrize("number", [1, 4, len(_CHANGES)])
def test_a_converge_ends_before_a_change(tmp_path: Path, number: int) -> None:
    assert _converged(tmp_path, number) == {"changes": _CHANGES[: number - 1], "reached": True}
    assert (tmp_path / "zones").is_dir() == (number > 2)


def test_a_converge_ends_after_a_change_of_a_name(tmp_path: Path) -> None:
    assert _converged(tmp_path, "after start zone") == {"changes": _CHANGES[:9], "reached": True}


def test_a_moment_after_the_last_change_is_not_reached(tmp_path: Path) -> None:
    assert _converged(tmp_path, len(_CHANGES) + 1)["reached"] is False


def test_a_command_is_run_instead_and_the_converge_goes_on(tmp_path: Path) -> None:
    told = _converged(tmp_path, "after start zone", ["touch", str(tmp_path / "happened")])
    assert (told["reached"], {key: told[key] for key in _WHOLE}) == (True, _WHOLE)
    assert (tmp_path / "happened").is_file()


def test_a_converge_that_fails_says_why(tmp_path: Path) -> None:
    told = _converged(tmp_path, 1, zones=["one"])
    assert told == {"changes": [], "reached": False, "actions": {}, "changed": False, "failures": ["it fails"]}
