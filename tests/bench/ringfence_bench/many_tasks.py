"""A loop of Ansible tasks, one for each domain, against one task for all zones: the collection it needs, and the times of the tasks."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path
from typing import Any

from ringfence_bench import host

LOOP = 50
_COLLECTION = "ansible_collections/community/libvirt/"


def measure(zones: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds of the loop, and of the one task, as Ansible itself takes them: its own start is in neither."""
    collections = _collections(host.RESULTS / "collections")
    with tempfile.TemporaryDirectory(prefix="ringfence-bench-") as directory:
        environment = {
            "ANSIBLE_CALLBACKS_ENABLED": "ansible.builtin.junit",
            "JUNIT_OUTPUT_DIR": directory,
            "JUNIT_HIDE_TASK_ARGUMENTS": "true",
            "ANSIBLE_COLLECTIONS_PATH": f"{Path('build').absolute()}:{collections.absolute()}",
        }
        host.playbook("tests/bench/playbooks/no_change.yml", environment=environment, bench_zones=zones, bench_loop=LOOP)
        (report,) = Path(directory).glob("*.xml")
        times = task_seconds(report.read_text(encoding="utf-8"))
    return {"loop_seconds": times["Measure the loop"], "call_seconds": times["Measure the call"]}


def task_seconds(report: str) -> dict[str, float]:
    """The seconds of each task that measures, from a report of Ansible's junit callback."""
    found = {}
    for case in ET.fromstring(report).iter("testcase"):
        matched = re.search(r": (Measure the \w+)", case.attrib["name"])
        if matched:
            found[matched[1]] = float(case.attrib["time"])
    return found


def _collections(directory: Path) -> Path:
    """A path of collections with community.libvirt alone, from the package that carries it."""
    if not (directory / _COLLECTION).is_dir():
        with tempfile.TemporaryDirectory(prefix="ringfence-bench-") as download:
            options = ["--quiet", "--no-deps", "--require-hashes", "--requirement", "tests/bench/requirements.txt"]
            subprocess.run([sys.executable, "-m", "pip", "download", *options, "--dest", download], check=True)
            (wheel,) = Path(download).glob("ansible-*.whl")
            unpacked = Path(download) / "unpacked"
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(unpacked, [name for name in archive.namelist() if name.startswith(_COLLECTION)])
            (directory / _COLLECTION).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(unpacked / _COLLECTION, directory / _COLLECTION)
    return directory
