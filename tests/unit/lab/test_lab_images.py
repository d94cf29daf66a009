"""What an image is made of, and when the cache has it."""

from __future__ import annotations

import io
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ringfence_lab import disk, images, keys, programs
from ringfence_lab.errors import LabError
from ringfence_lab.keys import lab_key
from ringfence_lab.progress import Progress

CUSTOMIZATION = {"customize.sh": b"true", "root/etc/hostname": b"debian\n"}


def digest(suite: str = "trixie", key: str = "ssh-ed25519 A", customization: dict[str, bytes] | None = None, code: bytes = b"code") -> str:
    """The digest of an image, all but the given ingredients being the same."""
    return images.image_digest(suite, key, CUSTOMIZATION if customization is None else customization, code)


def test_the_same_ingredients_make_the_same_image() -> None:
    assert digest() == digest(key="ssh-ed25519 A\n")


@pytest.mark.parametrize(
    "other",
    [
        digest(suite="bookworm"),
        digest(key="ssh-ed25519 B"),
        digest(customization={**CUSTOMIZATION, "customize.sh": b"false"}),
        digest(customization={**CUSTOMIZATION, "root/etc/more": b""}),
        digest(code=b"other"),
    ],
)
def test_every_ingredient_makes_another_image(other: str) -> None:
    assert other != digest()


def test_another_package_list_makes_another_image(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest()
    monkeypatch.setattr(images, "PACKAGES", (*images.PACKAGES, "hello"))
    assert digest() != before


def test_overlaid_files_belong_to_root_and_keep_their_executable_bit(tmp_path: Path) -> None:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/plain").write_text("x")
    (tmp_path / "root/etc/program").write_text("y")
    (tmp_path / "root/etc/program").chmod(0o700)
    (tmp_path / "customize.sh").write_text("z")
    with tarfile.open(fileobj=io.BytesIO(images.overlay_archive(tmp_path, "ssh-ed25519 A\n"))) as archive:
        modes = {member.name: (member.mode, member.uid, member.gid) for member in archive}
        keys = archive.extractfile("root/.ssh/authorized_keys")
        assert keys is not None
        assert keys.read() == b"ssh-ed25519 A\n"
    assert modes["etc/plain"] == (0o644, 0, 0)
    assert modes["etc/program"] == (0o755, 0, 0)
    assert modes["ringfence-lab-customize"] == (0o755, 0, 0)
    assert modes["root/.ssh"] == (0o700, 0, 0)
    assert modes["root/.ssh/authorized_keys"] == (0o600, 0, 0)


def test_a_cached_image_is_not_built_again_and_a_changed_one_replaces_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built: list[str] = []

    def compose(suite: str, _key: str, image: Path, _progress: Progress) -> None:
        built.append(suite)
        image.write_text("image")

    monkeypatch.setattr(images, "_compose", compose)
    monkeypatch.setattr(images, "_require_tools", lambda _cache: None)
    progress = Progress("test", io.StringIO())
    first = images.build("debian13", tmp_path, progress)
    assert images.build("debian13", tmp_path, progress) == first
    other = images.build("debian12", tmp_path, progress)
    monkeypatch.setattr(images, "PACKAGES", (*images.PACKAGES, "hello"))
    second = images.build("debian13", tmp_path, progress)
    assert built == ["trixie", "bookworm", "trixie"]
    assert sorted(tmp_path.glob("*.raw")) == sorted([other, second])


def test_a_failed_build_leaves_nothing_but_its_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_arguments: object, **_keywords: object) -> bytes:
        raise LabError("mmdebstrap failed")

    lab_key(tmp_path)
    monkeypatch.setattr(images, "run", fail)
    monkeypatch.setattr(images, "_require_tools", lambda _cache: None)
    with pytest.raises(LabError, match=r"building debian13-[0-9a-f]+\.raw failed: mmdebstrap failed"):
        images.build("debian13", tmp_path, Progress("test", io.StringIO()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["debian13.lock", "id_ed25519", "id_ed25519.pub", "key.lock"]


def test_the_partitions_do_not_overlap_and_leave_room_for_the_second_table() -> None:
    rows = [line for line in disk.partition_table().splitlines() if line.startswith("start")]
    (esp_start, esp_size), (root_start, root_size) = [tuple(int(field.split("=")[1]) for field in row.split(", ")[:2]) for row in rows]
    assert esp_start + esp_size == root_start
    assert root_start + root_size <= 12 * 2**30 // 512 - 33


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_SEARCH_PATH", "/nowhere")
    with pytest.raises(LabError) as caught:
        programs.require(["qemu-img", "mcopy", "mkfs.ext4"], {Path("/nowhere/OVMF.fd"): "ovmf"})
    assert str(caught.value) == (
        "missing on this machine: /nowhere/OVMF.fd, mcopy, mkfs.ext4, qemu-img;"
        " install with: apt-get install e2fsprogs mtools ovmf qemu-utils"
    )


def test_a_full_disk_is_named_with_what_is_needed(tmp_path: Path) -> None:
    programs.require_space(tmp_path / "not" / "yet", 1, "a test")
    with pytest.raises(LabError, match=rf"^{tmp_path} has \d+ MiB free, a test needs 1000000000 MiB"):
        programs.require_space(tmp_path / "not" / "yet", 10**9, "a test")


def test_a_failed_program_is_told_with_its_last_words() -> None:
    with pytest.raises(LabError, match=r"sh failed with exit status 3: one \| two"):
        programs.run(["sh", "-c", "echo one >&2; echo two >&2; exit 3"])


def test_hosts_that_start_side_by_side_have_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def slowly(argv: list[str]) -> None:
        made.append(argv[-1])
        Path(argv[-1]).write_text("private")
        time.sleep(0.2)
        Path(f"{argv[-1]}.pub").write_text("public")

    monkeypatch.setattr(keys, "run", slowly)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _number: lab_key(tmp_path).with_suffix(".pub").read_text(), range(2)))
    assert (found, len(made)) == (["public", "public"], 1)
