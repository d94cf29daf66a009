"""Runs shellcheck on every shell script of the checkout, whatever its name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tree import ROOT, files

_SHEBANG = re.compile(rb"#! ?(/usr)?/bin/(env )?(ba|da)?sh\b|#! ?/bin/busybox sh\b")


def is_shell_script(path: Path) -> bool:
    """Tell whether the file is a shell script, by its suffix or its first line."""
    if path.suffix == ".sh":
        return True
    with path.open("rb") as file:
        return _SHEBANG.match(file.readline(100)) is not None


def main() -> int:
    scripts = [str(path) for path in files() if is_shell_script(ROOT / path)]
    status = subprocess.run(["shellcheck", "--norc", "--", *scripts], cwd=ROOT, check=False).returncode
    if status == 0:
        print(f"{len(scripts)} scripts are clean")
    return status


if __name__ == "__main__":
    sys.exit(main())
