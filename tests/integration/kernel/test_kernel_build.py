"""The role that builds a kernel, as a play runs it, without a build."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("source", "planned"), [("ringfence-no-source", False), ("dpkg", True)])
def test_check_mode_needs_no_source(tmp_path: Path, source: str, planned: bool) -> None:
    variables = {
        "ringfence_kernel_build_source": source,
        "ringfence_kernel_build_directory": str(tmp_path / "built"),
        "ringfence_kernel_build_destination": f"oci:{tmp_path}/kernel:1",
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
    }
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local", "--check"]
    # What apt installs depends on its lists.
    argv += ["--start-at-task", "Ask for the version of the source", "-e", json.dumps(variables), "ringfence.zones.kernel_image"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("changed=3" if planned else "changed=0") in done.stdout
    assert not any(tmp_path.iterdir())
