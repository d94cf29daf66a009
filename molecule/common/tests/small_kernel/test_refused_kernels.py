"""Kernels that really panic and hang on Xen are refused, and nothing of them is left."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from live import Live

_BREAK = Path(__file__).with_name("broken_kernel.py")


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("panic", ("failed: it ended; the last lines of its console: ", "Kernel panic - not syncing: VFS: Unable to mount root fs")),
        ("hang", ("failed: it was not up after 20 s; ",)),
    ],
)
def test_a_kernel_that_does_not_come_up_is_refused(live: Live, how: str, told: tuple[str, ...]) -> None:
    declared = live.variables["ringfence_kernels"]
    image = declared[0]["image"]
    before = live.facts()
    elf = f"/var/lib/ringfence/kernels/{image.rpartition('@sha256:')[2]}/vmlinux"
    live.run(
        f"rm -rf /root/broken; skopeo copy --quiet docker://{image} oci:/root/broken:broken\n"
        f"python3 -c {shlex.quote(_BREAK.read_text(encoding='utf-8'))} /root/broken {elf} {how}"
    )
    broken = {"name": "broken", "image": "oci:/root/broken:broken"}
    refused = live.module("kernels", {"kernels": [*declared, broken], "test_boot_timeout": 20 if how == "hang" else 120})
    assert refused["failed"]
    assert "kernel 'broken' (oci:/root/broken:broken): its test boot as pv guest " in refused["msg"]
    for part in told:
        assert part in refused["msg"]
    after = live.facts()
    assert (after["domains"], after["loops"], sorted(after["files"])) == (before["domains"], before["loops"], sorted(before["files"]))
    live.run("rm -rf /root/broken")
