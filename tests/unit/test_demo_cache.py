"""The demo's images are built once, also by scenarios that begin at the same time."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ringfence_demo.cache import layout


def test_of_several_that_ask_at_once_one_builds(tmp_path: Path) -> None:
    built: list[Path] = []

    def build(work: Path) -> None:
        built.append(work)
        time.sleep(0.2)
        (work / "layout").mkdir()
        (work / "layout" / "index.json").write_text("{}")

    path = tmp_path / "images" / "nginx-1"
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _number: layout(path, build), range(2))) == [path, path]
    assert len(built) == 1
    assert (path / "index.json").read_text() == "{}"


def test_a_build_that_failed_leaves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    def fail(work: Path) -> None:
        (work / "part").mkdir()
        raise OSError

    def build(work: Path) -> None:
        (work / "layout").mkdir()

    path = tmp_path / "nginx-1"
    with pytest.raises(OSError):  # noqa: PT011
        layout(path, fail)
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_dir()] == []
    assert layout(path, build).is_dir()
