"""Runs mypy on every Python file of the checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tree import BUILD, ROOT, files


def as_imported(path: Path) -> str:
    """Return the path under which mypy shall see a file: plugins import each other as parts of ansible_collections."""
    if path.parts[0] == "plugins":
        path = (BUILD / "ansible_collections" / "ringfence" / "zones").relative_to(ROOT) / path
    return str(path)


def runs(paths: list[Path]) -> list[list[str]]:
    """Return the files of each run of mypy: one run for each ``__main__``, as they share that name, then all others."""
    programs = [path for path in paths if path.name == "__main__.py"]
    return [*([str(path)] for path in programs), [as_imported(path) for path in paths if path not in programs]]


def main() -> int:
    sources = [path for path in files() if path.suffix == ".py"]
    return max(subprocess.run(["mypy", "--", *run], cwd=ROOT, check=False).returncode for run in runs(sources))


if __name__ == "__main__":
    sys.exit(main())
