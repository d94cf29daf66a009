"""Tests of the library's ``zone.volumes``, with the host's own mkfs.ext4."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration
from ansible_collections.ringfence.zones.plugins.module_utils.spec.fields import MIB
from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Volume
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.zone import volumes
from ansible_collections.ringfence.zones.plugins.module_utils.zone.volumes import Change


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


def _converge(store: Store, *declared: Volume) -> list[str]:
    planned = volumes.changes(declared, volumes.existing(store))
    for change in planned:
        volumes.apply(store, change)
    return [change.action for change in planned]


def test_a_volume_takes_its_size_at_once_and_holds_a_file_system(store: Store) -> None:
    assert _converge(store, Volume("data", size=16)) == ["create"]
    file = store.volumes / "data.img"
    assert (file.stat().st_size, file.stat().st_mode & 0o777) == (16 * MIB, 0o600)
    assert file.stat().st_blocks * 512 >= 16 * MIB
    assert subprocess.run(["blkid", "-o", "value", "-s", "TYPE", str(file)], stdout=subprocess.PIPE, check=True).stdout == b"ext4\n"
    assert list(store.tmp.iterdir()) == []
    assert _converge(store, Volume("data", size=16)) == ["keep"]


def test_a_volume_grows_and_keeps_its_content(store: Store) -> None:
    _converge(store, Volume("data", size=16))
    before = (store.volumes / "data.img").read_bytes()
    assert _converge(store, Volume("data", size=24)) == ["grow"]
    after = (store.volumes / "data.img").read_bytes()
    assert (len(after), after[: len(before)] == before) == (24 * MIB, True)


def test_a_volume_that_is_larger_than_the_disk_of_its_zone_is_found(store: Store, tmp_path: Path) -> None:
    _converge(store, Volume("data", size=24), Volume("seen", size=16))
    deleted = f"{store.volumes / 'gone.img'} (deleted)"
    attached = {"loop0": store.volumes / "data.img", "loop1": store.volumes / "seen.img", "loop2": deleted, "loop3": "/other/data.img"}
    for name, file in attached.items():
        device = tmp_path / "block" / name
        (device / "loop").mkdir(parents=True)
        (device / "loop" / "backing_file").write_text(f"{file}\n")
        (device / "size").write_text(f"{16 * MIB // 512}\n")
    (tmp_path / "block" / "sda").mkdir()
    assert volumes.outgrown(store, tmp_path / "block") == {"data": Change("data", "grow", 16, 24)}


def test_a_volume_never_shrinks(store: Store) -> None:
    with pytest.raises(InvalidDeclaration) as caught:
        volumes.changes([Volume("data", size=16)], {"data": 24})
    assert caught.value.problems == ["volume data: size: 16MiB is not accepted; it has 24 MiB, and a volume never shrinks"]
    assert volumes.existing(store) == {}


def test_only_what_is_declared_absent_is_deleted(store: Store) -> None:
    _converge(store, Volume("data", size=16), Volume("old", size=16))
    assert _converge(store, Volume("data", "absent"), Volume("never", "absent")) == ["remove", "keep"]
    assert volumes.existing(store) == {"old": 16}
    assert _converge(store) == []
    assert volumes.existing(store) == {"old": 16}


def test_a_volume_that_the_disk_has_no_room_for_is_refused(store: Store) -> None:
    size = 2**40
    with pytest.raises(InvalidDeclaration) as caught:
        volumes.check_space(store, [Change("data", "grow", 16, size), Change("kept", "keep", size, size)])
    assert caught.value.problems[0].startswith(f"volumes: data {size} MiB: they need {size - 16} MiB more, and {store.root} has ")


def test_a_disk_that_is_full_meanwhile_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int, _offset: int, _length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match="No space left on device"):
        volumes.apply(store, Change("data", "create", None, 16))
    assert volumes.existing(store) == {}
    assert list(store.tmp.iterdir()) == []
