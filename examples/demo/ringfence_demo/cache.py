"""Images that were built before, as OCI layouts."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

TAG = "latest"


def layout(path: Path, build: Callable[[Path], None]) -> Path:
    """``path``, which ``build(directory)`` makes as ``directory/layout`` unless it is there. It appears at once and whole."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".build-", dir=path.parent))
        try:
            build(work)
            os.rename(work / "layout", path)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return path
