"""The check program shell finds scripts by suffix and by first line."""

from __future__ import annotations

from pathlib import Path

import pytest
from shell import is_shell_script


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("init", "#!/bin/sh\n", True),
        ("run", "#!/usr/bin/env bash\n", True),
        ("init", "#!/bin/busybox sh\n", True),
        ("library.sh", "f() { :; }\n", True),
        ("program", "#!/usr/bin/python3\n", False),
        ("text", "sh\n", False),
    ],
)
def test_is_shell_script(tmp_path: Path, name: str, content: str, expected: bool) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    assert is_shell_script(path) is expected
