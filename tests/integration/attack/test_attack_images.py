"""Hostile and tampered images, fetched by the programs themselves as root of a user namespace, and unpacked without care."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

ENVIRONMENT = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "PYTHONPATH": os.pathsep.join(sys.path)}
PROGRAM = """
import dataclasses, json, sys
from pathlib import Path
from ansible_collections.ringfence.zones.plugins.module_utils.attack.images import attack

print(json.dumps([dataclasses.asdict(attempt) for attempt in attack(Path(sys.argv[1]))]))
"""


@pytest.fixture(scope="module")
def attempts(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each attempt and its control came to."""
    directory = tmp_path_factory.mktemp("attack") / "images"
    argv = ["unshare", "--map-root-user", "--mount", sys.executable, "-c", PROGRAM, str(directory)]
    done = subprocess.run(argv, capture_output=True, env=ENVIRONMENT, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found: list[dict[str, Any]] = json.loads(done.stdout)
    assert {attempt["row"] for attempt in found} == {14, 22}
    return found


def test_no_image_does_harm(attempts: list[dict[str, Any]]) -> None:
    assert [attempt for attempt in attempts if attempt["succeeded"] is not False] == []


def test_each_does_without_care(attempts: list[dict[str, Any]]) -> None:
    # Root of a user namespace makes no devices.
    assert [attempt["label"] for attempt in attempts if not attempt["control"]] == ["image: make a device on the host"]


def test_an_image_is_refused_for_what_was_changed_and_nothing_else(attempts: list[dict[str, Any]]) -> None:
    told = {attempt["label"]: attempt["told"] for attempt in attempts}
    assert all(
        "tampered with" in told[f"image: run it with one byte more in its {part}"] for part in ("manifest", "configuration", "layer")
    )
    assert "policy.json refuses it" in told["image: run it without a signature where one is asked for"]
    assert "unpacks to more than" in told["image: fill the host's disk"]
