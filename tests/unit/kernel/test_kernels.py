"""Tests of the library's ``kernel.kernels`` that need no image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration, RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.image import registry
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.deploy import Declared, Policy, converge, declare, plan
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.kernels import Names, Target, deployed, names
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store

A, B = (f"sha256:{character * 64}" for character in "ab")
PINNED = f"registry.example/kernel@{A}"


def _stored(tmp_path: Path, default_name: str = "stable") -> Store:
    """A store with one kernel, ``stable``, that was declared by digest."""
    store = Store(tmp_path)
    directory = store.kernels / A.removeprefix("sha256:")
    directory.mkdir(parents=True)
    modules = {"xen_blkfront": ["blk.ko"], "erofs": ["crc.ko", "erofs.ko"], "ext4": ["crc.ko", "ext4.ko"], "overlay": []}
    kernel = {"digest": A, "release": "6.12.1", "modes": ["pv"], "modules": modules, "files": {}}
    (directory / "kernel.json").write_text(json.dumps(kernel))
    known = Names({"stable": Target(PINNED, A)}, default_name)
    (store.kernels / "names.json").write_text(json.dumps(known.document()))
    return store


def test_a_host_without_kernels_has_no_default(tmp_path: Path) -> None:
    assert deployed(Store(tmp_path)) == {}
    assert names(Store(tmp_path)).default is None


def test_a_deployed_kernel_says_what_it_is(tmp_path: Path) -> None:
    store = _stored(tmp_path)
    kernel = deployed(store)["stable"]
    assert (kernel.name, kernel.image, kernel.digest, kernel.release, kernel.modes) == ("stable", PINNED, A, "6.12.1", ("pv",))
    assert kernel.vmlinux == store.kernels / ("a" * 64) / "vmlinux"
    assert names(store).default == "stable"


def test_modules_are_loaded_once_and_only_for_what_is_needed(tmp_path: Path) -> None:
    kernel = deployed(_stored(tmp_path))["stable"]
    assert kernel.load_order(["ext4", "erofs"]) == ["crc.ko", "ext4.ko", "erofs.ko"]
    assert kernel.load_order([]) == []


@pytest.mark.parametrize("content", ["", "[]", '{"default": null}', '{"default": null, "kernels": {"a": {"tag": "b"}}}'])
def test_damaged_names_are_told(tmp_path: Path, content: str) -> None:
    store = _stored(tmp_path)
    (store.kernels / "names.json").write_text(content)
    with pytest.raises(RingfenceError, match=r"names\.json cannot be read"):
        deployed(store)


def test_a_kernel_missing_from_the_store_is_told(tmp_path: Path) -> None:
    store = _stored(tmp_path)
    (store.kernels / ("a" * 64) / "kernel.json").unlink()
    with pytest.raises(RingfenceError, match=r"kernel 'stable': .* is damaged: .*No such file"):
        deployed(store)


def test_declared_kernels_are_taken_over() -> None:
    assert declare([{"name": "debian-6.12", "image": "k:1"}, {"name": "b", "image": PINNED, "default": True}]) == [
        Declared("debian-6.12", "k:1"),
        Declared("b", PINNED, default=True),
    ]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"name": "Stable", "image": "k"}], "kernel 'Stable': name is not accepted"),
        ([{"name": "-a", "image": "k"}], "kernel '-a': name is not accepted"),
        ([{"name": "a" * 41, "image": "k"}], "name is not accepted; 1 to 40"),
        ([{"name": "a/b", "image": "k"}], "name is not accepted"),
        ([{"name": "a", "image": "Not A Reference"}], "kernel 'a': image 'Not A Reference': "),
        ([{"name": "a", "image": "k"}, {"name": "a", "image": "l"}], "kernel 'a': declared 2 times"),
        (
            [{"name": "a", "image": "k", "default": True}, {"name": "b", "image": "k", "default": True}],
            "kernels a, b: default is true for 2",
        ),
    ],
)
def test_a_faulty_declaration_is_refused(entries: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InvalidDeclaration, match=message):
        declare(entries)


def test_all_faults_of_a_declaration_are_told() -> None:
    with pytest.raises(InvalidDeclaration) as caught:
        declare([{"name": "A", "image": "k"}, {"name": "b", "image": "B@"}])
    assert len(caught.value.problems) == 2


def test_a_plan_keeps_names_that_are_not_declared() -> None:
    before = Names({"old": Target("o", B)}, "old")
    after = plan([Declared("new", "n")], {"new": A}, before, Policy())
    assert after.kernels == {"old": Target("o", B), "new": Target("n", A)}


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ([Declared("a", "k"), Declared("b", "k", default=True)], "b"),
        ([Declared("a", "k"), Declared("b", "k")], "a"),
        ([], "old"),
    ],
    ids=["marked", "first", "none"],
)
def test_the_default_is_the_marked_or_the_first_kernel(declared: list[Declared], expected: str) -> None:
    assert plan(declared, {"a": A, "b": A}, Names({"old": Target("o", B)}, "old"), Policy()).default == expected


@pytest.mark.parametrize("check", [True, False])
def test_a_deployed_digest_needs_no_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: bool) -> None:
    monkeypatch.setattr(registry, "resolve", lambda _reference: pytest.fail("looked up"))
    report = converge(_stored(tmp_path), [Declared("stable", PINNED)], check=check)
    assert (report.changed, report.undeclared) == (False, [])
    assert report.kernels == [
        {"name": "stable", "image": PINNED, "digest": A, "release": "6.12.1", "modes": ["pv"], "default": True, "changed": False}
    ]


def test_a_host_without_skopeo_is_checked_without_a_look_at_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    report = converge(Store(tmp_path / "store"), [Declared("stable", "registry.example/kernel:1")], check=True)
    assert report.changed
    assert [(row["digest"], row["changed"]) for row in report.kernels] == [(None, True)]
    assert not (tmp_path / "store").exists()


def test_names_that_are_not_declared_are_reported_and_stay(tmp_path: Path) -> None:
    store = _stored(tmp_path)
    report = converge(store, [], check=False)
    assert (report.changed, report.undeclared) == (False, ["stable"])
    assert list(deployed(store)) == ["stable"]


def test_images_that_cannot_be_had_are_all_named_and_nothing_changes(tmp_path: Path) -> None:
    store = _stored(tmp_path)
    before = (store.kernels / "names.json").read_bytes()
    declared = [Declared("one", f"oci:{tmp_path}/nothing"), Declared("two", f"oci-archive:{tmp_path}/nothing.tar")]
    with pytest.raises(InvalidDeclaration, match=r"kernel 'one': .*nothing.*; kernel 'two': .*nothing\.tar"):
        converge(store, declared, check=False)
    assert (store.kernels / "names.json").read_bytes() == before
