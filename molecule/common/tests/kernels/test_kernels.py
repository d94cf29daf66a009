"""Kernels on a live host: one is booted before it is accepted, a damaged one is repaired, and names come and go. Zones do not notice."""

from __future__ import annotations

from typing import Any

import pytest
from live import Live

_COPY = """
rm -rf /root/kernel
skopeo copy --quiet docker://%s oci:/root/kernel:copy
python3 - <<'PYTHON'
import hashlib, json, pathlib
layout = pathlib.Path("/root/kernel")
index = json.loads((layout / "index.json").read_bytes())
(entry,) = index["manifests"]
manifest = json.loads((layout / "blobs/sha256" / entry["digest"][7:]).read_bytes())
manifest["annotations"]["org.example.copy"] = "yes"
content = json.dumps(manifest).encode()
entry.update(digest="sha256:" + hashlib.sha256(content).hexdigest(), size=len(content))
(layout / "blobs/sha256" / entry["digest"][7:]).write_bytes(content)
(layout / "index.json").write_text(json.dumps(index))
PYTHON
"""
"""Makes the image of a kernel that this host has not seen yet."""

_DAMAGE = "printf x | dd of=/var/lib/ringfence/kernels/%s/vmlinux bs=1 seek=100000 conv=notrunc status=none"
_TRIAL = "ringfence.kernel-trial"


@pytest.fixture(scope="module")
def kernels(live: Live) -> list[dict[str, Any]]:
    """The declared kernels, and one more."""
    declared = list(live.variables["ringfence_kernels"])
    live.run(_COPY % declared[1]["image"])
    return [*declared, {"name": "copy", "image": "oci:/root/kernel:copy"}]


def test_a_kernel_that_does_not_come_up_is_refused(live: Live, kernels: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    refused = live.module("kernels", {"kernels": kernels, "test_boot_timeout": 1})
    assert refused["failed"]
    assert "kernel 'copy' (oci:/root/kernel:copy): its test boot as pv guest failed: it was not up after 1 s" in refused["msg"]
    after = live.facts()
    assert (after["domains"], after["loops"]) == (facts["domains"], facts["loops"])
    assert sorted(after["files"]) == sorted(facts["files"])


def test_one_that_does_is_deployed_once(live: Live, kernels: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    done = [live.module("kernels", {"kernels": kernels}) for _time in range(2)]
    assert [(result["failed"], result.get("changed")) for result in done] == [(False, True), (False, False)], done
    assert [row["modes"] for row in done[0]["kernels"]] == [["pv", "pvh"]] * 3
    after = live.facts()
    assert after["domains"] == facts["domains"]
    assert _TRIAL not in "".join(after["xenstore"])
    assert live.run(f"ls /var/log/xen/console | grep -c {_TRIAL} || true").strip() == "0"


def test_a_damaged_kernel_is_repaired(live: Live, kernels: list[dict[str, Any]]) -> None:
    (row,) = (row for row in live.module("kernels", {"kernels": kernels})["kernels"] if row["name"] == "copy")
    number = row["digest"].removeprefix("sha256:")
    sums = f"sha256sum /var/lib/ringfence/kernels/{number}/vmlinux"
    before = live.run(sums)
    live.run(_DAMAGE % number)
    assert live.run(sums) != before
    repaired = live.module("kernels", {"kernels": kernels, "test_boot": False})
    assert (repaired["failed"], repaired.get("changed")) == (False, True), repaired
    assert live.run(sums) == before


def test_names_that_zones_use_outlive_their_declaration(live: Live, kernels: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    first = kernels[0]
    done = live.module("kernels", {"kernels": [first], "prune": True})
    assert (done["failed"], done["undeclared"]) == (False, ["debian12"]), done
    again = live.module("kernels", {"kernels": kernels[:2]})
    assert (again["failed"], again["changed"], again["undeclared"]) == (False, False, []), again
    assert live.facts()["domains"] == facts["domains"]
