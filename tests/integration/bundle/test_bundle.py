"""From a real registry and an archive of packages to a bundle, and from there to a host that has neither."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.ringfence.zones.plugins.module_utils import debian, disk_space
from ansible_collections.ringfence.zones.plugins.module_utils import store as store_module
from ansible_collections.ringfence.zones.plugins.module_utils.bundle import collect as bundle_collect
from ansible_collections.ringfence.zones.plugins.module_utils.bundle import collection_archive, debian_archive
from ansible_collections.ringfence.zones.plugins.module_utils.bundle import install as bundle_install
from ansible_collections.ringfence.zones.plugins.module_utils.bundle import installed as bundled
from ansible_collections.ringfence.zones.plugins.module_utils.bundle import manifest as bundle_manifest
from ansible_collections.ringfence.zones.plugins.module_utils.command import CommandFailed
from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration, RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.image import build, registry
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store, digest_of

Collect = Callable[..., bundle_collect.Report]


def install(store: Store, bundle: Path, digest: str | None = None, *, check: bool = False) -> bundle_install.Report:
    return bundle_install.install(store, bundle, digest, "trixie", "amd64", check=check)


def listing(bundle: Path) -> dict[str, tuple[int, int]]:
    """The files of a directory, with what tells whether one was written anew."""
    return {str(path.relative_to(bundle)): (path.stat().st_mtime_ns, path.stat().st_ino) for path in bundle.rglob("*") if path.is_file()}


def blobs(bundle: Path) -> set[str]:
    return {path.name for path in (bundle / "images" / "blobs" / "sha256").iterdir()}


def test_from_registry_to_a_host_without_network(collect: Collect, registry_server: Any, bundles: Path, store: Store) -> None:
    digest = registry_server.push("web", b"page")
    pinned, tagged = f"{registry_server.address}/web@{digest}", f"{registry_server.address}/web:1"
    would = collect("first", pinned, tagged, check=True)
    assert (would.changed, would.before, bundles.exists()) == (True, None, False)
    report = collect("first", pinned, tagged)
    assert sorted(report.missing) == sorted(would.missing) == sorted(report.after.files)
    assert report.after.images == {pinned: digest, tagged: digest}

    assert install(store, bundles / "first", check=True).changed
    assert not store.root.exists()
    installed = install(store, bundles / "first", report.digest)
    assert (installed.changed, installed.before, installed.after) == (True, None, report.digest)
    again = install(store, bundles / "first")
    assert (again.changed, again.copied) == (False, [])

    # Neither network nor medium.
    registry_server.stop()
    shutil.rmtree(bundles)
    for reference in (pinned, tagged, f"elsewhere.example/other@{digest}"):
        image = build.prepare(store, bundled.resolve(store, reference))
        assert image.digest == digest
    with pytest.raises(registry.RegistryUnreachable):
        bundled.resolve(store, f"{registry_server.address}/web:2")
    # apt has the packages, with those that nobody named, and checks their signature.
    environment = {**os.environ, "APT_CONFIG": str(installed.apt_config)}
    found = subprocess.run(["apt-cache", "policy", "libtool1", "bash"], env=environment, stdout=subprocess.PIPE, check=True, text=True)
    assert f"file:{store.root}/bundle/{report.digest[7:]}/debian trixie/main" in found.stdout
    assert "http" not in found.stdout
    subprocess.run(["apt-get", "download", "squashfs-tools", "libtool1"], env=environment, cwd=store.root, check=True)
    # The collection can be installed.
    (path,) = bundled.current(store).glob("collections/*.tar.gz")
    argv = ["ansible-galaxy", "collection", "install", "--offline", "--force", "--collections-path", str(store.root / "galaxy"), str(path)]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    assert os.access(store.root / "galaxy/ansible_collections/ringfence/zones/program", os.X_OK)


def test_what_the_collecting_machine_prefers_is_not_what_hosts_need(collect: Collect, apt_conf_d: Path, tmp_path: Path) -> None:
    (tmp_path / "preferences").write_text("Package: libtool1\nPin: release *\nPin-Priority: -1\n")
    (apt_conf_d / "90default").write_text('APT::Default-Release "bookworm";\n')
    assert "debian/pool/main/l/libtool1/libtool1_1.0-1+deb13u1_amd64.deb" in collect("first").missing


def test_an_upgrade_takes_what_the_bundle_has(collect: Collect, bundles: Path, store: Store, tmp_path: Path) -> None:
    """The indexes list more, and that is not there. What needs the same library in one version is, also beside what it conflicts with."""
    collect("first", packages=("chrony",))
    environment = {**os.environ, "APT_CONFIG": str(install(store, bundles / "first").apt_config)}
    status = tmp_path / "status"
    stanza = "Package: {}\nStatus: install ok installed\nVersion: 9:0.9-1\nArchitecture: amd64\nMaintainer: nobody\nDescription: made up\n"
    status.write_text("\n".join(stanza.format(name) for name in ("extra", "squashfs-tools", "systemd-timesyncd")))
    argv = ["apt-get", "--simulate", "-o", f"Dir::State::status={status}", "upgrade", "--with-new-pkgs"]
    told = subprocess.run(argv, env=environment, check=True, capture_output=True, text=True)
    assert set(re.findall(r"^Inst (\S+)", told.stdout, re.MULTILINE)) == {"libtool1", "squashfs-tools", "systemd-timesyncd"}
    assert not re.findall(r"^W:.*", told.stderr, re.MULTILINE)


def test_the_commands_without_a_control_node(collect: Collect, archive: Any, bundles: Path, tmp_path: Path) -> None:
    """Those of docs/airgap.md, with an apt that has nothing but Debian's own settings, and on which nothing is installed."""
    collect("first", packages=("extra",))
    page = (Path(__file__).parents[3] / "docs" / "airgap.md").read_text()
    script = page[page.index("bundle=/media") : page.index("ansible-galaxy collection install")]
    for said, here in {
        "/media/usb/2026-11": bundles / "first",
        "/usr/share/keyrings/debian-archive-keyring.gpg": archive.keyring,
        "/etc/apt/sources.list.d": tmp_path,
        "$only install": "$only --simulate install",
        "ansible-core": "extra",
    }.items():
        assert said in script
        script = script.replace(said, str(here))
    for name in ("state/lists/partial", "cache/archives/partial", "parts"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    (tmp_path / "state" / "status").touch()
    settings = {"Dir::State": "state", "Dir::State::status": "state/status", "Dir::Cache": "cache", "Dir::Etc::parts": "parts"}
    lines = [f'{name} "{tmp_path}/{path}";\n' for name, path in settings.items()]
    (tmp_path / "plain.conf").write_text("".join(['APT::Architecture "amd64";\nAPT::Sandbox::User "root";\n', *lines]))
    environment = {**os.environ, "APT_CONFIG": str(tmp_path / "plain.conf")}
    done = subprocess.run(["sh", "-ec", script], env=environment, check=False, capture_output=True, text=True)
    assert (done.returncode, re.findall(r"^[WE]:.*", done.stderr, re.MULTILINE)) == (0, [])
    assert re.findall(r"^Inst (\S+)", done.stdout, re.MULTILINE) == ["extra"]


def test_what_the_host_has_set_for_apt_does_not_keep_the_bundle_from_it(
    collect: Collect, bundles: Path, store: Store, apt_conf_d: Path
) -> None:
    """Indexes that a bundle lacks, as appstream and apt-file ask for them, and a release that comes before all pins."""
    collect("first")
    (apt_conf_d / "50appstream").write_text(
        'Acquire::IndexTargets::deb::DEP-11 { MetaKey "$(COMPONENT)/dep11/Components-$(NATIVE_ARCHITECTURE).yml"; '
        'ShortDescription "c"; Description "d"; };\nAcquire::Languages { "en"; };\n'
    )
    (apt_conf_d / "90default").write_text('APT::Default-Release "stable";\n')
    environment = {**os.environ, "APT_CONFIG": str(install(store, bundles / "first").apt_config)}
    policy, settings = (
        subprocess.run(argv, env=environment, check=True, capture_output=True, text=True).stdout
        for argv in (["apt-cache", "policy", "extra", "crun"], ["apt-config", "dump"])
    )
    assert re.findall(r"Candidate: (\S+)$", policy, re.MULTILINE) == ["(none)", "9:1.0-1+deb13u1"]
    assert "DEP-11" in settings


def test_a_run_without_a_change_writes_nothing(collect: Collect, registry_server: Any, bundles: Path) -> None:
    registry_server.push("web", b"page")
    collect("first", "web:1")
    before = listing(bundles / "first")
    assert [collect("first", "web:1", check=check).changed for check in (True, False)] == [False, False]
    assert listing(bundles / "first") == before


def test_a_run_that_was_broken_off_is_taken_up(collect: Collect, registry_server: Any, bundles: Path, store: Store) -> None:
    registry_server.push("web", b"page")
    first = collect("first", "web:1")
    bundle = bundles / "first"
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    del manifest["created"]
    # As it is when a run is killed: no manifest, a blob too little, one half written, skopeo's and our own unfinished files.
    (bundle / "manifest.json").unlink()
    deb, half = sorted(path for path in manifest["files"] if path.endswith(".deb"))[:2]
    (bundle / deb).unlink()
    (bundle / half).write_bytes((bundle / half).read_bytes()[:100])
    layer = max((bundle / "images/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    layer.write_bytes(b"")
    (bundle / "images" / "oci-put-blob123").write_bytes(b"half")
    with pytest.raises(RingfenceError, match=r"bundle \S+/first is half written: it has no manifest\.json, which comes last"):
        install(store, bundle)
    kept = listing(bundle)
    again = collect("first", "web:1")
    assert sorted(again.missing) == sorted([deb, half, f"images/blobs/sha256/{layer.name}"])
    after = listing(bundle)
    assert {path for path in kept if path.startswith("debian/pool") and kept[path] != after.get(path)} == {half}
    assert again.after.files == first.after.files
    assert set(after) == {"manifest.json", *manifest["files"]}
    assert install(store, bundle).changed


def test_what_a_manifest_lists_is_on_the_disk(
    collect: Collect, registry_server: Any, bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry_server.push("web", b"page")
    bundle = bundles / "first"
    synced: set[str] = set()

    def sync(path: Path) -> None:
        if not (bundle / "manifest.json").exists():
            synced.add(str(path.relative_to(bundle)))

    monkeypatch.setattr(bundle_collect, "sync", sync)
    monkeypatch.setattr(store_module, "sync", sync)
    report = collect("first", "web:1")
    assert synced >= {*report.after.files, ".", "images/blobs/sha256", "debian/pool/main"}
    # A run that was killed has fetched everything.
    (bundle / "manifest.json").unlink()
    synced.clear()
    assert collect("first", "web:1").missing == []
    assert synced >= report.after.files.keys()


def test_an_index_is_found_by_its_digest(collect: Collect, registry_server: Any, bundles: Path, store: Store, tmp_path: Path) -> None:
    layout = tmp_path / "index"
    entries = []
    for architecture in ("arm64", "amd64"):
        digest = registry_server.push("multi", architecture.encode(), architecture, architecture)
        pushed = f"oci:{tmp_path}/multi-{architecture}-{architecture}:{architecture}"
        subprocess.run(["skopeo", "copy", "--quiet", "--preserve-digests", pushed, f"oci:{layout}:{architecture}"], check=True)
        size = (layout / "blobs/sha256" / digest[7:]).stat().st_size
        media_type = "application/vnd.oci.image.manifest.v1+json"
        entries.append({"mediaType": media_type, "digest": digest, "size": size, "platform": {"os": "linux", "architecture": architecture}})
    index = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}).encode()
    named = digest_of(index)
    (layout / "blobs/sha256" / named[7:]).write_bytes(index)
    described = {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": named, "size": len(index)}
    tagged = {**described, "annotations": {"org.opencontainers.image.ref.name": "1"}}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [tagged]}))
    registry_server.copy(f"oci:{layout}:1", "multi:1")
    collect("first", f"multi@{named}", f"oci:{layout}:1")
    install(store, bundles / "first")
    registry_server.stop()
    shutil.rmtree(layout)
    for reference in (f"{registry_server.address}/multi@{named}", f"oci:{layout}:1"):
        resolved = bundled.resolve(store, reference)
        assert (resolved.named_digest, resolved.digest) == (named, entries[1]["digest"])
        assert build.prepare(store, resolved).named_digest == named
    # Whoever writes a bundle cannot give another image to a digest that the inventory names.
    blob = bundled.current(store) / "images/blobs/sha256" / named[7:]
    blob.write_bytes(index.replace(entries[1]["digest"].encode(), entries[0]["digest"].encode()))
    with pytest.raises(registry.DigestMismatch):
        bundled.resolve(store, f"{registry_server.address}/multi@{named}")


def test_an_image_with_a_manifest_of_docker(collect: Collect, registry_server: Any, bundles: Path, store: Store, tmp_path: Path) -> None:
    registry_server.push("web", b"page")
    target = f"docker://{registry_server.address}/docker:1"
    subprocess.run(["skopeo", "copy", "--quiet", "--format=v2s2", f"oci:{tmp_path}/web-1-amd64:1", target], check=True)
    report = collect("first", "docker:1")
    install(store, bundles / "first")
    registry_server.stop()
    resolved = bundled.resolve(store, f"{registry_server.address}/docker:1")
    assert resolved.manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert build.prepare(store, resolved).digest in report.after.images.values()


def test_an_incremental_bundle_has_only_what_is_new(
    collect: Collect, registry_server: Any, archive: Any, bundles: Path, store: Store
) -> None:
    kept = registry_server.push("kept", b"kept")
    old = registry_server.push("web", b"old", "1")
    first = collect("first", f"kept@{kept}", "web:1")
    new = registry_server.push("web", b"new", "2")
    archive.versions["skopeo"] = "9:2.0"
    archive.publish()
    second = collect("second", f"kept@{kept}", "web:2", since="first")
    there = set(listing(bundles / "second"))
    assert {path for path in there if path.endswith(".deb")} == {"debian/pool/main/s/skopeo/skopeo_2.0_amd64.deb"}
    assert new[7:] in blobs(bundles / "second")
    assert not blobs(bundles / "second") & blobs(bundles / "first")
    assert second.after.since == bundle_manifest.Since("first", first.digest)
    assert not collect("second", f"kept@{kept}", "web:2", since="first").changed

    with pytest.raises(RingfenceError, match=rf"builds on the bundle 'first' \(manifest {first.digest}\): \S+ is neither in it nor on"):
        install(store, bundles / "second")
    assert not bundled.current(store).exists()
    install(store, bundles / "first")
    shutil.rmtree(bundles / "first")
    report = install(store, bundles / "second")
    assert set(report.copied) == there - {"manifest.json"}
    assert not install(store, bundles / "second").changed
    registry_server.stop()
    for digest in (kept, new):
        assert build.prepare(store, bundled.resolve(store, f"any.example/name@{digest}")).digest == digest
    # What only the first one needed is gone from the host.
    assert not (bundled.current(store) / "images/blobs/sha256" / old[7:]).exists()
    assert sorted(path.name for path in (store.root / "bundle").iterdir()) == sorted([second.digest[7:], "current"])


def test_both_bundles_on_one_medium_in_one_directory(collect: Collect, registry_server: Any, bundles: Path, store: Store) -> None:
    registry_server.push("web", b"old", "1")
    collect("first", "web:1")
    registry_server.push("web", b"new", "2")
    collect("second", "web:1", "web:2", since="first")
    shutil.copytree(bundles / "first", bundles / "merged")
    shutil.copytree(bundles / "second", bundles / "merged", dirs_exist_ok=True)
    assert install(store, bundles / "merged").changed


def test_a_damaged_file_is_named_and_nothing_changes(collect: Collect, registry_server: Any, bundles: Path, store: Store) -> None:
    registry_server.push("web", b"old", "1")
    collect("first", "web:1")
    before = install(store, bundles / "first")
    registry_server.push("web", b"new", "2")
    report = collect("second", "web:2")
    blob = next(path for path in report.after.files if "blobs" in path and path not in before.manifest.files)
    content = (bundles / "second" / blob).read_bytes()
    (bundles / "second" / blob).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RingfenceError, match=rf"bundle \S+/second: {blob} is damaged: {len(content)} bytes with sha256 \w+ instead of"):
        install(store, bundles / "second")
    assert not install(store, bundles / "first", check=True).changed
    (bundles / "second" / blob).unlink()
    with pytest.raises(RingfenceError, match=rf"is not complete: {blob} is missing, 1 files in all; copy it again"):
        install(store, bundles / "second", check=True)
    (bundles / "second" / blob).symlink_to("/etc/hostname")
    with pytest.raises(RingfenceError, match="is no regular file"):
        install(store, bundles / "second")
    (bundles / "second" / blob).unlink()
    (bundles / "second" / blob).write_bytes(content)
    assert install(store, bundles / "second").changed


def test_the_copy_on_the_host_is_repaired(collect: Collect, registry_server: Any, bundles: Path, store: Store) -> None:
    digest = registry_server.push("web", b"page")
    collect("first", "web:1")
    install(store, bundles / "first")
    blob = bundled.current(store) / "images/blobs/sha256" / digest[7:]
    blob.write_bytes(blob.read_bytes() + b" ")
    with pytest.raises(registry.DigestMismatch):
        bundled.resolve(store, f"{registry_server.address}/web:1")
    report = install(store, bundles / "first")
    assert (report.changed, report.copied) == (True, [f"images/blobs/sha256/{digest[7:]}"])
    assert bundled.resolve(store, f"{registry_server.address}/web:1").digest == digest


def test_bundles_that_are_not_for_this_host(collect: Collect, registry_server: Any, bundles: Path, store: Store) -> None:
    registry_server.push("web", b"page")
    report = collect("first", "web:1")
    with pytest.raises(InvalidDeclaration) as caught:
        bundle_install.install(store, bundles / "first", None, "bookworm", "arm64", check=False)
    assert len(caught.value.problems) == 2
    assert "first is for amd64, and this host is arm64; collect one for it" in str(caught.value)
    assert "has packages of trixie, and this host runs bookworm; collect one with ringfence_bundle_suite" in str(caught.value)
    other = f"sha256:{'0' * 64}"
    with pytest.raises(RingfenceError, match=rf"its manifest has the digest {report.digest} instead of {other}; it is another bundle"):
        install(store, bundles / "first", other)
    with pytest.raises(RingfenceError, match="bundle /nowhere does not exist"):
        install(store, Path("/nowhere"))
    assert not store.root.exists()


def test_full_disks_are_told(collect: Collect, registry_server: Any, bundles: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    registry_server.push("web", b"page")
    with monkeypatch.context() as small:
        small.setattr(disk_space, "free", lambda _directory: 1000)
        with pytest.raises(RingfenceError, match=r"/first needs \d+ bytes below \S+/first, and 1000 bytes are free there; make room"):
            collect("first", "web:1")
        assert not bundles.exists()
    collect("first", "web:1")
    with monkeypatch.context() as small:
        small.setattr(disk_space, "free", lambda _directory: 1000)
        with pytest.raises(RingfenceError, match=r"/first needs \d+ bytes below \S+/store, and 1000 bytes are free there; make room"):
            install(store, bundles / "first")

    def full(*_arguments: object) -> Iterator[bytes]:
        yield b"x"
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as filling:
        filling.setattr(bundle_manifest, "blocks", full)
        with pytest.raises(RingfenceError, match=r"the disk below \S+/store is full; make room and run again"):
            install(store, bundles / "first")

    def no_room(_settings: Path) -> None:
        raise CommandFailed("apt-get failed with exit status 100", "E: Write error - write (28: No space left on device)")

    with monkeypatch.context() as filling:
        filling.setattr(debian_archive, "update", no_room)
        with pytest.raises(RingfenceError, match=r"/first: no room for its lists of packages; make room and run again \(apt-get failed"):
            install(store, bundles / "first")
    assert not bundled.current(store).exists()
    # The copy is there; what is missing is room for apt's lists.
    with monkeypatch.context() as small:
        small.setattr(disk_space, "free", lambda _directory: 1000)
        with pytest.raises(RingfenceError, match=rf"/first needs {debian_archive.LISTS} bytes below \S+/store, and 1000 bytes are free"):
            install(store, bundles / "first", check=True)
    report = install(store, bundles / "first")
    assert (report.changed, report.copied) == (True, [])


def test_a_copy_that_was_broken_off_is_taken_up(
    collect: Collect, registry_server: Any, bundles: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry_server.push("web", b"old", "1")
    old = collect("old", "web:1")
    install(store, bundles / "old")
    new = registry_server.push("web", b"new", "2")
    archive_of_new = collect("new", "web:2", packages=("extra",))
    would = install(store, bundles / "new", check=True).copied
    pulled = f"images/blobs/sha256/{new[7:]}"
    blocks = bundle_manifest.blocks

    def until_it_is_pulled(directory: Path, names: list[str], file: bundle_manifest.File) -> Iterator[bytes]:
        for block in blocks(directory, names, file):
            if directory == bundles / "new" and names == [pulled]:
                yield block[:10]
                raise OSError(errno.EIO, "Input/output error")
            yield block

    with monkeypatch.context() as stick:
        stick.setattr(bundle_manifest, "blocks", until_it_is_pulled)
        with pytest.raises(RingfenceError, match=rf"bundle \S+/new: {pulled} cannot be read: "):
            install(store, bundles / "new")
    assert install(store, bundles / "old", old.digest, check=True).changed is False
    left = install(store, bundles / "new", check=True).copied
    assert pulled in left
    assert 1 <= len(left) < len(would)

    kept = listing(store.root / "bundle" / archive_of_new.digest[7:])
    assert install(store, bundles / "new").copied == left
    after = listing(bundled.current(store))
    assert {path: after.get(path) for path in kept} == kept
    assert {path for path in after if not path.startswith("apt/")} == {"manifest.json", *archive_of_new.after.files}
    assert not install(store, bundles / "new").changed


def test_what_is_left_of_another_bundle_is_deleted(
    collect: Collect, registry_server: Any, bundles: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its room is needed, and with that which the installed one needs."""
    registry_server.push("web", b"page")
    first = collect("first", "web:1")
    install(store, bundles / "first")
    collect("second", "web:1", packages=("extra",))

    def refused(_settings: Path) -> None:
        raise CommandFailed("apt-get failed with exit status 100", "E: not signed")

    with monkeypatch.context() as bad:
        bad.setattr(debian_archive, "update", refused)
        with pytest.raises(RingfenceError, match="its lists of packages are refused"):
            install(store, bundles / "second")
    assert len(list((store.root / "bundle").iterdir())) == 3
    assert not install(store, bundles / "first").changed
    assert {path.name for path in (store.root / "bundle").iterdir()} == {first.digest[7:], "current"}
    assert install(store, bundles / "second").changed


def test_large_files_are_kept_in_parts(
    collect: Collect, registry_server: Any, bundles: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(300_000)
    registry_server.push("web", content)
    monkeypatch.setattr(bundle_manifest, "PART", 100_000)
    report = collect("first", "web:1")
    assert max(path.stat().st_size for path in (bundles / "first").rglob("*") if path.name != "manifest.json") == 100_000
    assert not collect("first", "web:1").changed
    install(store, bundles / "first")
    assert report.after.files.keys() <= listing(bundled.current(store)).keys()
    registry_server.stop()
    image = build.prepare(store, bundled.resolve(store, f"{registry_server.address}/web:1"))
    assert image.sizes["unpacked"] > len(content)


def test_a_bundle_travels_on_fat32(collect: Collect, registry_server: Any, bundles: Path, store: Store, tmp_path: Path) -> None:
    registry_server.push("web", b"page")
    collect("first", "web:1")
    image = tmp_path / "stick.img"
    with open(image, "wb") as handle:
        handle.truncate(64 * 1024 * 1024)
    subprocess.run(["mkfs.vfat", "-F", "32", str(image)], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["mcopy", "-s", "-i", str(image), str(bundles / "first"), "::"], check=True)
    (tmp_path / "stick").mkdir()
    subprocess.run(["mcopy", "-s", "-i", str(image), "::first", str(tmp_path / "stick")], check=True)
    assert listing(tmp_path / "stick" / "first").keys() == listing(bundles / "first").keys()
    assert install(store, tmp_path / "stick" / "first").changed


def test_the_policy_of_the_host_decides_over_images_of_a_bundle(
    collect: Collect, registry_server: Any, bundles: Path, store: Store
) -> None:
    registry_server.push("web", b"page")
    collect("first", "web:1")
    install(store, bundles / "first")
    reference = f"{registry_server.address}/web:1"
    policy = Path(os.environ["HOME"]) / ".config/containers/policy.json"
    policy.write_text('{"default": [{"type": "reject"}]}')
    with pytest.raises(registry.SignatureRefused, match=rf"image {reference}: {policy} refuses it"):
        build.prepare(store, bundled.resolve(store, reference))
    # What the example accepts is the bundle, and no other directory.
    example = (Path(__file__).parents[3] / "examples" / "trust" / "bundle.json").read_text()
    policy.write_text(example.replace("/var/lib/ringfence", str(store.root)))
    shutil.copytree(bundled.current(store) / "images", store.root / "other")
    tag = bundled.resolve(store, reference).digest[7:]
    with pytest.raises(registry.SignatureRefused):
        build.prepare(store, registry.resolve(f"oci:{store.root}/other:{tag}"))
    assert build.prepare(store, bundled.resolve(store, reference)).reference == reference


def test_the_policy_of_the_control_node_decides_what_is_collected(collect: Collect, registry_server: Any, bundles: Path) -> None:
    registry_server.push("web", b"page")
    policy = Path(os.environ["HOME"]) / ".config/containers/policy.json"
    policy.write_text('{"default": [{"type": "reject"}]}')
    with pytest.raises(registry.SignatureRefused, match="refuses it"):
        collect("first", "web:1")
    assert not (bundles / "first" / "manifest.json").exists()


def test_packages_that_debian_did_not_sign_are_refused(collect: Collect, registry_server: Any, bundles: Path, store: Store) -> None:
    registry_server.push("web", b"page")
    report = collect("first", "web:1")
    # Somebody changes an index, and writes its digest into the manifest.
    path = "debian/dists/trixie/InRelease"
    changed = (bundles / "first" / path).read_bytes().replace(b"Suite: stable", b"Suite: staple")
    (bundles / "first" / path).write_bytes(changed)
    files = {**report.after.files, path: debian_archive.described(bundles / "first" / path)}
    manifest = bundle_manifest.Manifest(**{**vars(report.after), "files": files})
    (bundles / "first" / "manifest.json").write_bytes(manifest.content())
    with pytest.raises(RingfenceError, match=r"its lists of packages are refused: .*(?s:.)*(BADSIG|invalid|not signed)"):
        install(store, bundles / "first")
    assert not bundled.current(store).exists()


def test_what_cannot_be_had_is_named(collect: Collect, registry_server: Any, bundles: Path) -> None:
    registry_server.push("web", b"page")
    with pytest.raises(InvalidDeclaration) as caught:
        collect("first", "web:2", "none:1", "web:1")
    assert [problem.split(":2: ")[0].split(":1: ")[0] for problem in caught.value.problems] == [
        f"image {registry_server.address}/none",
        f"image {registry_server.address}/web",
    ]
    with pytest.raises(RingfenceError, match=r"packages of trixie: .*(?s:.)*Unable to locate package no-such-package"):
        collect("first", "web:1", packages=("no-such-package",))
    with pytest.raises(RingfenceError, match=r"bundle \S+/missing does not exist"):
        collect("first", "web:1", since="missing")
    with pytest.raises(RingfenceError, match=r"since \S+/missing: the manifest of a bundle is a file manifest\.json; name that"):
        bundle_collect._read_earlier(bundles / "missing", bundles / "first")
    with pytest.raises(RingfenceError, match="a bundle cannot build on itself"):
        collect("first", "web:1", since="first")
    assert not bundles.exists()
    assert "debian/pool/main/e/extra/extra_1.0-1+deb13u1_amd64.deb" in collect("first", "web:1", packages=("extra",)).missing


def test_files_of_others_in_the_directory_are_left_alone(collect: Collect, registry_server: Any, bundles: Path) -> None:
    registry_server.push("web", b"page")
    collect("first", "web:1")
    (bundles / "first" / "notes.txt").write_text("mine")
    (bundles / "first" / "images" / "stale").write_text("of an earlier run")
    assert collect("first", "web:1").changed
    assert (bundles / "first" / "notes.txt").exists()
    assert not (bundles / "first" / "images" / "stale").exists()


def test_an_installed_collection_is_packed_as_a_checkout_is(checkout: Path, tmp_path: Path) -> None:
    for name in ("built", "again", "packed", "installed"):
        (tmp_path / name).mkdir()
    built = collection_archive.archive(checkout, tmp_path / "built")
    assert collection_archive.archive(checkout, tmp_path / "again").read_bytes() == built.read_bytes()
    subprocess.run(["tar", "-xf", built, "-C", tmp_path / "installed"], check=True)
    assert collection_archive.archive(tmp_path / "installed", tmp_path / "packed").read_bytes() == built.read_bytes()
    with pytest.raises(RingfenceError, match=r"neither MANIFEST\.json nor galaxy\.yml"):
        collection_archive.archive(tmp_path, tmp_path / "none")


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_what_debian_has(suite: str, tmp_path: Path) -> None:
    """Debian's archive, looked up and not fetched, but for one small package."""
    addresses = debian_archive.archive_addresses("http://deb.debian.org/debian", "http://deb.debian.org/debian-security/")
    packages = debian.packages(debian.SUITES[suite])
    here, downloads = debian_archive.look_up(tmp_path, suite, "amd64", addresses, [packages, bundle_collect._USUAL])
    assert len(here) == 3
    names = {path.rpartition("/")[2].partition("_")[0] for path in downloads if path.endswith(".deb")}
    assert {"xen-system-amd64", "libvirt-daemon-driver-xen", "skopeo", "libc6", "util-linux", "systemd-timesyncd"} <= names
    assert bundle_manifest.unfit([*here, *downloads]) == []
    assert not {name for name in names if name.startswith("qemu-system")}
    (smallest, download) = min(((path, one) for path, one in downloads.items() if path.endswith(".deb")), key=lambda row: row[1].file.size)
    debian_archive.fetch(tmp_path, {tmp_path / "mirror" / smallest: download})
    assert debian_archive.described(tmp_path / "mirror" / smallest) == download.file


def test_the_playbook_finds_the_images_of_all_hosts(tmp_path: Path) -> None:
    """Nobody listens on port 1, so it fails, and names what it has looked for."""
    one = {"ringfence_zones": [{"name": "web", "image": "127.0.0.1:1/web:1"}, {"name": "old", "state": "absent"}]}
    two = {"ringfence_zones": [{"name": "web", "image": "127.0.0.1:1/{{ web }}:2"}], "web": "other"}
    kernels = {"ringfence_kernels": [{"name": "stable", "image": "127.0.0.1:1/kernel:1"}]}
    hosts = {"one": one, "two": two, "bare": {}}
    # As the inventory plugin adds it; it is no host, whatever its variables.
    zones = {"hosts": {"web.one": {"ringfence_zones": [{"name": "web", "image": "127.0.0.1:1/zone:1"}]}}}
    inventory = {"all": {"children": {"xen_hosts": {"hosts": hosts, "vars": kernels}, "zones": zones}}}
    (tmp_path / "inventory.yml").write_text(json.dumps(inventory))
    argv = [
        "ansible-playbook",
        "-i",
        str(tmp_path / "inventory.yml"),
        "ringfence.zones.bundle",
        "-e",
        f"ringfence_bundle_directory={tmp_path}/b",
    ]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False, env={**os.environ, "ANSIBLE_STDOUT_CALLBACK": "minimal"})
    assert done.returncode == 2
    named = re.findall(r"image (127\.0\.0\.1:1/\S+): the registry gives no usable answer", done.stdout)
    assert sorted(set(named)) == ["127.0.0.1:1/kernel:1", "127.0.0.1:1/other:2", "127.0.0.1:1/web:1"]
    assert not (tmp_path / "b").exists()


def test_the_playbook_asks_each_suite_for_the_packages_of_its_hosts(tmp_path: Path) -> None:
    (play,) = yaml.safe_load((Path(__file__).parents[3] / "playbooks" / "bundle.yml").read_text())
    play["tasks"] = [{"ansible.builtin.debug": {"msg": play["tasks"][0]["ringfence.zones.bundle"]["packages"]}}]
    old = {"ringfence_bundle_suite": "bookworm", "ringfence_bundle_packages": ["chrony"]}
    hosts = {"one": {"ringfence_bundle_packages": ["git", "ansible-core"]}, "two": {"ringfence_bundle_packages": ["git"]}, "bare": {}}
    (tmp_path / "inventory.json").write_text(json.dumps({"all": {"hosts": {**hosts, "old": old}}}))
    (tmp_path / "play.json").write_text(json.dumps([play]))
    argv = ["ansible-playbook", "-i", str(tmp_path / "inventory.json"), str(tmp_path / "play.json")]
    environment = {**os.environ, "ANSIBLE_STDOUT_CALLBACK": "minimal"}
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    told = json.loads(done.stdout[done.stdout.index("=> {") + 3 :])["msg"]
    assert told == {"bookworm": ["chrony"], "trixie": ["ansible-core", "git"]}
