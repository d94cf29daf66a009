"""The checkout as the checks see it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The root of the repository, which is the root of the collection."""

BUILD = ROOT / "build"
"""Everything that a command generates. Ignored by git."""

VENV_BIN = ROOT / ".venv" / "bin"


def files(root: Path = ROOT) -> list[Path]:
    """Return all files of the checkout, committed or not, but nothing that git ignores; relative to ``root`` and sorted.

    :raises subprocess.CalledProcessError: if ``root`` lies in no git repository.
    """
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=root, capture_output=True, check=True, text=True
    )
    # A file deleted but not yet committed is still listed.
    return sorted(path for name in set(listed.stdout.split("\0")) if name and ((root / (path := Path(name))).is_file()))


def copy_collection(parent: Path) -> Path:
    """Copy the files of the checkout to ``parent``/ansible_collections/ringfence/zones, replacing what was there.

    Tools that resolve links, or that take in whatever lies beside the sources, work on such a copy.

    :returns: the root of the copy.
    """
    copy = parent / "ansible_collections" / "ringfence" / "zones"
    shutil.rmtree(copy, ignore_errors=True)
    for file in files():
        target = copy / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, target, follow_symlinks=False)
    return copy
