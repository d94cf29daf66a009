"""Bundles: what a manifest may say, how files are named and kept, and which bundle fits which host."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.bundle import (
    collect,
    collection_archive,
    debian_archive,
    install,
    installed,
    manifest,
)
from ansible_collections.ringfence.zones.plugins.module_utils.bundle.manifest import File, Manifest, Since
from ansible_collections.ringfence.zones.plugins.module_utils.command import CommandFailed
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.image import registry
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store, digest_of

DIGEST = "a" * 64
MANIFEST = Manifest(
    "2026-12",
    "2026-12-01T12:00:00Z",
    "amd64",
    ("trixie",),
    {"registry.example/web:1": f"sha256:{DIGEST}"},
    {"images/oci-layout": File(3, hashlib.sha256(b"abc").hexdigest()), "debian/a.deb": File(1, DIGEST, earlier=True)},
    Since("2026-11", f"sha256:{DIGEST}"),
)


def changed(**fields: Any) -> bytes:
    """The manifest with some fields changed, or left out where the value is ``None``."""
    document = {**json.loads(MANIFEST.content()), **fields}
    return json.dumps({name: value for name, value in document.items() if value is not None or name == "since"}).encode()


def write(directory: Path, path: str = "images/oci-layout") -> bytes:
    """Write a whole bundle of one file, and return the content of its manifest."""
    (directory / path).parent.mkdir(parents=True)
    (directory / path).write_bytes(b"abc")
    content = dataclasses.replace(MANIFEST, files={path: MANIFEST.files["images/oci-layout"]}).content()
    (directory / "manifest.json").write_bytes(content)
    return content


def test_what_is_written_is_read() -> None:
    assert manifest.parse(MANIFEST.content(), Path("/b/manifest.json")) == MANIFEST
    assert manifest.parse(changed(since=None), Path("/b/manifest.json")).since is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "/b/manifest.json is no manifest of a bundle: .*; copy the bundle again"),
        (b"[]", "has the schema None; accepted is 1"),
        (b"[" * 100_000, "is no manifest of a bundle: .*recursion"),
        (changed(schema=2), "has the schema 2; accepted is 1; collect with this version"),
        (changed(suites=None), "is no manifest of a bundle: 'suites'"),
        (changed(more=1), "is no manifest of a bundle: .*'more'"),
        (changed(files={"a": {"size": 1}}), "is no manifest of a bundle: .*'sha256'"),
        (changed(files={"a": {"size": "1", "sha256": DIGEST}}), "a has the size '1'"),
        (changed(files={"a": {"size": 1, "sha256": "abc"}}), "the sha256 'abc'"),
        (changed(files={"../a": {"size": 1, "sha256": DIGEST}}), r"'\.\./a' cannot be a file of a bundle"),
        (changed(files={"/etc/passwd": {"size": 1, "sha256": DIGEST}}), "'/etc/passwd' cannot be a file of a bundle"),
        (changed(files={"apt/cache/archives/a_1_all.deb": {"size": 1, "sha256": DIGEST}}), "'apt/cache/archives/a_1_all.deb' cannot be"),
    ],
)
def test_what_is_no_manifest_is_told(content: bytes, message: str) -> None:
    with pytest.raises(RingfenceError, match=message):
        manifest.parse(content, Path("/b/manifest.json"))


def test_names_fit_a_stick() -> None:
    good = ["debian/pool/main/g/gcc-14/libgcc-s1_14.2.0-19_amd64.deb", "debian/pool/a_1.0~rc1+b2%3a_all.deb", "images/index.json"]
    assert manifest.unfit(good) == []
    names = ["a:b", "a\\b", "a b", "a/", "/a", "a//b", "./a", "a/..", ".hidden", "end.", "x" * 201, "a?", "ä", ""]
    bad = [*(f"debian/{name}" for name in names), "/debian/a", "./debian/a", "debian", "other/a", "Debian/a", "manifest.json"]
    assert manifest.unfit(bad) == [f"{path!r} cannot be a file of a bundle" for path in bad]
    same = ["images/a/One", "images/a/one"]
    assert manifest.unfit([*same, "images/b"]) == [f"{path!r} differs from another file only by case" for path in same]


def test_what_is_collected_is_where_a_bundle_has_its_files() -> None:
    assert set(debian_archive.ARCHIVES) < set(manifest.DIRECTORIES)
    assert "apt" not in manifest.DIRECTORIES


def test_apt_begins_with_nothing_of_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if a manifest could name a file there."""
    monkeypatch.setattr(debian_archive, "update", lambda settings: None)
    monkeypatch.setattr(manifest, "unfit", lambda paths: [])
    source, store = tmp_path / "bundle", Store(tmp_path / "store")
    write(source, "apt/cache/archives/a_1_all.deb")
    report = install.install(store, source, None, "trixie", "amd64", check=False)
    assert report.copied == ["apt/cache/archives/a_1_all.deb"]
    assert [path for path in report.apt_config.parent.rglob("*") if path.suffix == ".deb"] == []
    assert report.apt_config.exists()


@pytest.mark.parametrize(
    ("size", "names"),
    [(0, ["f"]), (manifest.PART, ["f"]), (manifest.PART + 1, ["f.001", "f.002"]), (4 * 1024**3, ["f.001", "f.002"])],
)
def test_large_files_are_kept_in_parts_that_fat32_takes(size: int, names: list[str]) -> None:
    assert File(size, DIGEST).stored("f") == names
    assert manifest.PART < 2**32


def test_faults_of_a_file(tmp_path: Path) -> None:
    file = File(3, hashlib.sha256(b"abc").hexdigest())
    assert manifest.fault(tmp_path, ["f"], file) == "is missing"
    (tmp_path / "f").write_bytes(b"abc")
    assert manifest.fault(tmp_path, ["f"], file) is None
    (tmp_path / "f").write_bytes(b"abd")
    assert str(manifest.fault(tmp_path, ["f"], file)).startswith("is damaged: 3 bytes with sha256 ")
    (tmp_path / "f").write_bytes(b"abcd")
    assert manifest.fault(tmp_path, ["f"], file) == "is damaged: more than 3 bytes"
    (tmp_path / "link").symlink_to("f")
    assert manifest.fault(tmp_path, ["link"], file) == "cannot be read: link is no regular file"
    for name, content in (("f.001", b"ab"), ("f.002", b"c")):
        (tmp_path / name).write_bytes(content)
    assert manifest.fault(tmp_path, ["f.001", "f.002"], file) is None


def test_an_index_is_found_in_a_release_file() -> None:
    release = f"MD5Sum:\n {'b' * 32} 1 main/binary-amd64/Packages.xz\nSHA256:\n {DIGEST}  12345 main/binary-amd64/Packages.xz\n"
    assert debian_archive._listed_in_release(release, "main/binary-amd64/Packages.xz") == File(12345, DIGEST)
    with pytest.raises(RingfenceError, match=r"does not list main/binary-arm64/Packages\.xz, which Debian's do; use another mirror"):
        debian_archive._listed_in_release(release, "main/binary-arm64/Packages.xz")


def test_a_hosts_apt_knows_nothing_but_the_bundle(tmp_path: Path) -> None:
    pool = "debian/pool/main"
    paths = [f"{pool}/e/e2fsprogs/logsave_1.47.2-3+b3_amd64.deb", "images/index.json", f"{pool}/c/crun/crun_1.21-1~x_all.deb"]
    settings = debian_archive.host_settings(tmp_path / "apt", Path("/var/lib/ringfence/bundle/current"), "trixie", "amd64", paths)
    sources = (tmp_path / "apt" / "sources.list").read_text().splitlines()
    where = "file:/var/lib/ringfence/bundle/current"
    assert [line.partition("] ")[2] for line in sources] == [
        f"{where}/debian trixie main",
        f"{where}/debian trixie-updates main",
        f"{where}/debian-security trixie-security main",
    ]
    assert all(f"[signed-by={debian_archive.KEYRING} target=Packages by-hash=no]" in line for line in sources)
    assert "trusted" not in "".join(sources)
    assert 'Dir::Etc::sourceparts "-";' in settings.read_text()
    assert (tmp_path / "apt" / "preferences").read_text().split("\n\n") == [
        "Package: *\nPin: release c=main\nPin-Priority: -1",
        "Package: logsave\nPin: version /^([0-9]+:)?1\\.47\\.2\\-3\\+b3$/\nPin-Priority: 500",
        "Package: crun\nPin: version /^([0-9]+:)?1\\.21\\-1\\~x$/\nPin-Priority: 500\n",
    ]


@pytest.mark.parametrize(("now", "told"), [("2026-11-30T00:00:00Z", True), ("2026-12-02T00:00:00Z", False)])
def test_a_clock_that_is_behind_is_told(now: str, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_settings: Path) -> None:
        raise CommandFailed("apt-get failed: Not live until 2026-12-01T11:00:00Z")

    monkeypatch.setattr(debian_archive, "update", refused)
    monkeypatch.setattr(manifest, "now", lambda: now)
    write(tmp_path / "bundle")
    with pytest.raises(RingfenceError, match="its lists of packages are refused: apt-get failed: Not live until") as caught:
        install.install(Store(tmp_path / "store"), tmp_path / "bundle", None, "trixie", "amd64", check=False)
    advice = f"clock says {now}, and the bundle is of 2026-12-01T12:00:00Z: set the clock, then run again"
    assert (advice in str(caught.value)) is told


def test_a_manifest_with_another_digest_is_not_parsed(tmp_path: Path) -> None:
    content = b"["
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(RingfenceError, match=rf"its manifest has the digest {digest_of(content)} instead of sha256:{DIGEST};"):
        manifest.read(tmp_path, f"sha256:{DIGEST}")
    with pytest.raises(RingfenceError, match="is no manifest of a bundle"):
        manifest.read(tmp_path, digest_of(content))


def test_of_a_file_that_is_too_large_no_more_is_copied_than_it_should_have(tmp_path: Path) -> None:
    """Else a sparse file on a stick could fill the host's disk."""
    source, store = tmp_path / "bundle", Store(tmp_path / "store")
    write(source)
    with open(source / "images" / "oci-layout", "r+b") as handle:
        handle.truncate(8 * 1024**2)
    with pytest.raises(RingfenceError, match="images/oci-layout is damaged: more than 3 bytes; copy the bundle again"):
        install.install(store, source, None, "trixie", "amd64", check=False)
    assert [path.name for path in store.root.rglob("*") if path.is_file()] == ["lock"]


def test_the_medium_can_be_taken_out_if_the_digest_says_which_bundle_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian_archive, "update", lambda settings: None)
    store, source = Store(tmp_path / "store"), tmp_path / "bundle"

    def run(digest: str | None, *, check: bool = False) -> install.Report:
        return install.install(store, source, digest, "trixie", "amd64", check=check)

    with pytest.raises(RingfenceError, match=r"bundle \S+/bundle does not exist; collect it to the end, then copy all of it$"):
        run(None)
    digest = digest_of(write(source))
    run(None)
    source.rename(tmp_path / "away")
    for check in (True, False):
        again = run(digest, check=check)
        assert (again.changed, again.after, again.copied) == (False, digest, [])
    with pytest.raises(RingfenceError, match=rf"does not exist; .*; to go on with the installed one, declare its digest, {digest}"):
        run(None)
    with pytest.raises(RingfenceError, match=rf"does not exist; .*; the installed one is not the declared one: it has the digest {digest}"):
        run(f"sha256:{DIGEST}")
    # What is left where the medium was mounted is an empty directory.
    source.mkdir()
    assert not run(digest).changed
    source.rmdir()
    (installed.current(store) / "images" / "oci-layout").write_bytes(b"")
    with pytest.raises(RingfenceError, match="does not exist, and images/oci-layout of this host's copy is damaged or missing, 1 files"):
        run(digest)
    (tmp_path / "away").rename(source)
    assert run(digest).changed


def test_apts_lists_survive_a_power_cut_before_they_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else apt would find them shortened, and take them for those of the bundle."""
    store, synced = Store(tmp_path / "store"), []
    monkeypatch.setattr(debian_archive, "update", lambda settings: (settings.parent / "lists" / "made").touch())

    def sync_tree(directory: Path) -> None:
        if (directory / "lists" / "made").exists():
            synced.append((directory.name, installed.current(store).exists()))

    monkeypatch.setattr(install, "sync_tree", sync_tree)
    write(tmp_path / "bundle")
    for _again in range(2):
        install.install(store, tmp_path / "bundle", None, "trixie", "amd64", check=False)
    assert synced == [("apt", False)]


@pytest.mark.parametrize("content", [None, b"", MANIFEST.content()])
def test_a_damaged_manifest_of_the_hosts_copy_is_mended(content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian_archive, "update", lambda settings: None)
    store, source = Store(tmp_path / "store"), tmp_path / "bundle"
    good = write(source)

    def run(*, check: bool = False) -> bool:
        return install.install(store, source, digest_of(good), "trixie", "amd64", check=check).changed

    assert run()
    path = installed.current(store) / "manifest.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    source.rename(tmp_path / "away")
    with pytest.raises(RingfenceError, match=r"and manifest\.json of this host's copy is damaged or missing; mount the medium again"):
        run()
    (tmp_path / "away").rename(source)
    assert [run(check=True), run(), run()] == [True, True, False]
    assert path.read_bytes() == good


def test_a_bundle_is_for_a_suite(tmp_path: Path) -> None:
    declared = collect.Declared([], {}, tmp_path, {})
    with pytest.raises(RingfenceError, match="packages: no suite is named; accepted: bookworm, trixie; name those of your hosts"):
        collect.collect(tmp_path / "bundle", declared, None, check=True)


def test_packages_are_asked_of_their_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, set[str]] = {}

    def look_up(
        _work: Path, suite: str, _architecture: str, _archives: object, packages: tuple[list[str], ...]
    ) -> tuple[dict[str, Any], ...]:
        asked[suite] = set(packages[0])
        return {}, {}

    monkeypatch.setattr(debian_archive, "look_up", look_up)
    monkeypatch.setattr(collection_archive, "archive", lambda _root, work: Path(shutil.copy(__file__, work)))
    declared = collect.Declared([], {"bookworm": ["chrony"], "trixie": ["ansible-core"]}, tmp_path, {})
    collect.collect(tmp_path / "bundle", declared, None, check=True)
    assert {suite: packages & {"ansible-core", "chrony", "crun"} for suite, packages in asked.items()} == {
        "bookworm": {"chrony", "crun"},
        "trixie": {"ansible-core", "crun"},
    }


def test_the_missing_earlier_bundle_is_named(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "oci-layout").write_bytes(b"abc")
    (tmp_path / "manifest.json").write_bytes(MANIFEST.content())
    message = rf"builds on the bundle '2026-11' \(manifest sha256:{DIGEST}\): debian/a\.deb is neither in it nor on this host, 1 files"
    with pytest.raises(RingfenceError, match=message):
        install.install(Store(tmp_path / "store"), tmp_path, None, "trixie", "amd64", check=True)


def test_a_host_without_a_bundle_asks_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(registry, "resolve", asked.append)
    installed.resolve(Store(tmp_path), "registry.example/web:1")
    current = installed.current(Store(tmp_path))
    current.mkdir(parents=True)
    (current / "manifest.json").write_bytes(MANIFEST.content())
    # In neither the list of references, nor, though it is there, among the files.
    for reference in ("registry.example/web:2", "registry.example/web:1"):
        installed.resolve(Store(tmp_path), reference)
    assert asked == ["registry.example/web:1", "registry.example/web:2", "registry.example/web:1"]
