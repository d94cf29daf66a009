"""Runs ``ansible-test sanity`` without containers and without network services other than a Python package index.

Fails if a test gave a warning, as one that was skipped does, if a listed test did not run, or if there is a list of ignored findings.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tree import BUILD, VENV_BIN, copy_collection

PIP_VERSION = "24.2"
"""The pip that the pinned ansible-core installs into the environments of its tests."""

BOOTSTRAP = """\
import runpy, sys
wheel = {wheel!r}
sys.path.insert(0, wheel)
options = [option for option in sys.argv[1:] if option.startswith("--") and option not in ("--no-setuptools", "--no-wheel")]
sys.argv[1:] = ["install", *options, wheel]
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
"""Stands for the script that ansible-test would download from a server of its own: it installs pip out of pip's wheel."""


def prepare_home(home: Path) -> None:
    """Make a home directory in which ansible-test finds its pip and which keeps its environments for the next run."""
    cache = home / ".ansible" / "test" / "cache"
    script = cache / f"get_pip_{PIP_VERSION.replace('.', '_')}.py"
    if script.exists():
        return
    cache.mkdir(parents=True, exist_ok=True)
    # pip's own settings and downloads stay those of the user.
    for name in (".config", ".cache"):
        link, own = home / name, Path.home() / name
        if own.is_dir() and not link.exists():
            link.symlink_to(own)
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(home), f"pip=={PIP_VERSION}"]
    subprocess.run(download, check=True)
    (wheel,) = home.glob(f"pip-{PIP_VERSION}-*.whl")
    script.write_text(BOOTSTRAP.format(wheel=str(wheel)), encoding="utf-8")


def not_run(listed: str, output: str) -> list[str]:
    """Return what ``output`` of a run does not prove to have been run of the tests that ``--list-tests`` printed in ``listed``."""
    wanted = re.findall(r"^([a-z0-9-]+)$", listed, flags=re.MULTILINE)
    ran = set(re.findall(r'^Running sanity test "([^"]+)"', output, flags=re.MULTILINE))
    missing = [f"did not run: {test}" for test in wanted if test not in ran]
    if not wanted:
        missing.append("ansible-test listed no test")
    # A test whose program is missing says so in a warning and counts as run. Only the one about the locale is harmless.
    warnings = [line for line in output.splitlines() if line.startswith("WARNING: ") and "Using locale" not in line]
    return missing + [line for line in warnings if "Reviewing previous" not in line]


def main() -> int:
    home = BUILD / "ansible-test"
    prepare_home(home)
    collection = copy_collection(home)
    ignores = sorted(path.name for path in (collection / "tests" / "sanity").glob("ignore*"))
    if ignores:
        print(f"tests/sanity holds lists of ignored findings: {', '.join(ignores)}; mend the findings instead")
        return 1
    # ansible-test lists the files of the repository it stands in; in the checkout's, the copy would be an ignored folder.
    subprocess.run(["git", "init", "--quiet"], cwd=collection, check=True)
    environment = {**os.environ, "HOME": str(home), "PATH": f"{VENV_BIN}{os.pathsep}{os.environ['PATH']}"}

    def sanity(*options: str) -> subprocess.CompletedProcess[str]:
        command = ["ansible-test", "sanity", "--color", "no", *options]
        return subprocess.run(command, cwd=collection, env=environment, capture_output=True, text=True, check=False)

    listed = sanity("--list-tests").stdout
    local = ("--local", "--python", f"{sys.version_info.major}.{sys.version_info.minor}")
    # The environments first and by themselves, so that the output of the tests is not lost among pip's.
    primed = sanity("--prime-venvs", *local)
    if primed.returncode != 0:
        print(primed.stdout + primed.stderr)
        return primed.returncode
    run = sanity(*local)
    output = run.stdout + run.stderr
    print(output)
    missing = not_run(listed, output)
    print("\n".join(missing) if missing else "every listed sanity test ran")
    return run.returncode or bool(missing)


if __name__ == "__main__":
    sys.exit(main())
