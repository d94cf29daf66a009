"""Images that were built before, as OCI layouts."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

TAG = "latest"


def layout(path: Path, build: Callable[[Path], None]) -> Path:
    """``path``, which ``build(directory)`` makes as ``directory/layout`` unless it is there. It appears at once and whole.

    Of several processes that ask for it at the same time, one builds, and the others wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.parent / f".{path.name}.lock", "w", encoding="ascii") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not path.is_dir():
            work = Path(tempfile.mkdtemp(prefix=".build-", dir=path.parent))
            try:
                build(work)
                os.rename(work / "layout", path)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return path
