"""Tests of the library's ``store``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store, write_atomically


def _fail(_directory: Path) -> None:
    raise OSError(28, "No space left on device")


def test_an_entry_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    target = store.images / "1"

    def build(directory: Path) -> None:
        assert not target.exists()
        (directory / "part").mkdir()
        (directory / "part" / "file").write_text("content")
        (directory / "link").symlink_to("nowhere")

    assert store.publish(target, build) == target
    assert (target / "part" / "file").read_text() == "content"
    assert target.stat().st_mode & 0o777 == 0o700
    assert list(store.tmp.iterdir()) == []


def test_nothing_is_left_of_an_entry_that_fails(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        store.publish(store.images / "1", _fail)
    assert list(store.tmp.iterdir()) == []
    assert not store.images.exists()


def test_an_entry_that_exists_is_not_built_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (store.images / "1").mkdir(parents=True)
    assert store.publish(store.images / "1", _fail) == store.images / "1"


@pytest.mark.parametrize("directory", [".", "kernels", "runtime"])
def test_what_a_killed_writer_has_not_finished_goes(tmp_path: Path, directory: str) -> None:
    (tmp_path / directory).mkdir(exist_ok=True)
    (tmp_path / directory / ".new-network.loading").touch()
    (tmp_path / directory / "network.loading").touch()
    with Store(tmp_path).lock():
        assert [path.name for path in (tmp_path / directory).iterdir() if path.is_file() and path.name != "lock"] == ["network.loading"]


def test_one_writer_holds_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "a" / "store")
    with store.lock():
        with (
            pytest.raises(RingfenceError, match=r"another converge of this host is running \(it holds .*/store/lock\); run again"),
            store.lock(),
        ):
            pass
        (store.tmp / "kept").mkdir(parents=True)
    assert (store.tmp / "kept").is_dir()  # Whoever was refused has cleared nothing.


@pytest.mark.parametrize("linked", ["store", "store/volumes", "store/runtime"])
def test_a_store_behind_a_link_is_refused(tmp_path: Path, linked: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / linked).parent.mkdir(exist_ok=True)
    (tmp_path / linked).symlink_to(disk)
    with pytest.raises(RingfenceError, match=f"^{tmp_path}/{linked} is {disk}.* by a link, .*; mount"), Store(tmp_path / "store").lock():
        pass
    assert list(disk.iterdir()) == []


def test_a_writer_that_failed_leaves_the_store_to_the_next(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(OSError, match="No space left"), store.lock(), store.workspace() as workspace:
        _fail(workspace)
    (store.tmp / "half").mkdir(parents=True)
    with store.lock():
        assert not store.tmp.exists()


def test_a_workspace_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.workspace() as one, store.workspace() as other:
        assert one != other
        assert one.stat().st_mode & 0o777 == store.tmp.stat().st_mode & 0o777 == 0o700
        (one / "file").write_text("content")
    assert list(store.tmp.iterdir()) == []


def test_a_file_is_replaced_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "directory" / "file"
    write_atomically(path, b"one")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"one", 0o600)
    write_atomically(path, b"two", 0o755)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o755)
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_cannot_be_replaced_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    (path / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_atomically(path, b"one")
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_write_has_left_is_gone_after_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        """The end of a run at once."""

    def killed(*_arguments: object) -> None:
        raise Killed

    path = tmp_path / "file"
    write_atomically(path, b"one")
    with monkeypatch.context() as patched:
        # As after a kill, the file that was being written stays.
        for call in ("fsync", "unlink"):
            patched.setattr(os, call, killed)
        with pytest.raises(Killed):
            write_atomically(path, b"a longer one")
    assert (path.read_bytes(), len(list(tmp_path.iterdir()))) == (b"one", 2)
    write_atomically(path, b"two")
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"two", [path])
