"""Tests of the library's ``attack.zones``: what the hostile zones run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.attack.zones import chosen_kernels
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.kernels import Kernel


def _kernel(name: str, digest: str, *modes: str, driver: bool = True) -> Kernel:
    return Kernel(name, name, digest, f"6-{name}", modes, {"xen_privcmd": ()} if driver else {}, Path(name), {})


_DEFAULT = _kernel("stable", "a", "pv", "pvh")


@pytest.mark.parametrize(
    ("others", "second"),
    [
        ([], []),
        ([_kernel("alias", "a", "pv", "pvh")], []),
        ([_kernel("old", "b", "pv")], []),
        ([_kernel("small", "c", "pvh", driver=False)], []),
        ([_kernel("old", "b", "pvh"), _kernel("new", "c", "pvh")], ["new"]),
    ],
    ids=["no other", "another name", "of another kind", "without hypercalls", "the first by name"],
)
def test_the_second_zone_has_another_kernel_if_it_can_do_the_same_with_it(others: list[Kernel], second: list[str]) -> None:
    used = chosen_kernels(_DEFAULT.name, {one.name: one for one in (_DEFAULT, *others)}, "pvh")
    assert [one.name for one in used] == ["stable", *second]


def test_a_host_without_kernels_has_none() -> None:
    assert chosen_kernels(None, {}, "pv") == []
