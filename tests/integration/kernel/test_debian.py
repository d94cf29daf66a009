"""Debian's kernels, from their packages through a registry into a store, by the modules as a play runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.kernel.initrd import build_initrd
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.kernels import deployed, names
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.modules import OPTIONAL, REQUIRED
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store

SUITES = {"bookworm": "6.1", "trixie": "6.12"}
"""Debian's suites and the Linux versions that they have."""


def _module(name: str, arguments: dict[str, Any], *, apt: Path | None = None, check: bool = False) -> dict[str, Any]:
    """Run a module of the collection on this machine, and return its result."""
    environment = {**os.environ, "ANSIBLE_LOCALHOST_WARNING": "false", "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false"}
    if apt:
        environment["APT_CONFIG"] = str(apt)
    ansible = Path(sys.executable).with_name("ansible")
    command = [str(ansible), "localhost", "-m", f"ringfence.zones.{name}", "-a", json.dumps(arguments), *(["--check"] if check else [])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    status, _arrow, result = done.stdout.partition(" => ")
    assert status.endswith(("SUCCESS", "CHANGED")), done.stdout + done.stderr
    return dict(json.loads(result))


def test_debian_kernels_become_kernels_of_a_host(apt: dict[str, Path], registry_address: str, tmp_path: Path) -> None:
    images = {}
    for suite, version in SUITES.items():
        arguments: dict[str, Any] = {"package": "linux-image-amd64", "destination": f"docker://{registry_address}/kernels/debian:{suite}"}
        expected = _module("kernel_image", arguments, apt=apt[suite], check=True)
        assert (expected["changed"], expected["digest"]) == (True, None)
        first = _module("kernel_image", arguments, apt=apt[suite])
        assert first["changed"]
        assert first["package"] == f"linux-image-{first['release']}"
        assert first["annotations"]["dev.edera.kernel.version"].startswith(f"{version}.")
        second = _module("kernel_image", arguments, apt=apt[suite])
        assert {**first, "changed": False} == second
        images[suite] = first

    declared = [{"name": suite, "image": image["image"]} for suite, image in images.items()]
    arguments = {"kernels": [*declared[:-1], {**declared[-1], "default": True}], "store": str(tmp_path / "store")}
    assert _module("kernels", arguments, check=True)["changed"]
    assert _module("kernels", arguments)["changed"]
    result = _module("kernels", arguments)
    assert not result["changed"]
    assert result["kernels"] == [
        {
            "name": suite,
            "image": image["image"],
            "digest": image["digest"],
            "release": image["release"],
            "modes": ["pv", "pvh"],
            "default": suite == "trixie",
            "changed": False,
        }
        for suite, image in images.items()
    ]

    store = Store(tmp_path / "store")
    assert names(store).default == "trixie"
    for kernel in deployed(store).values():
        order = kernel.load_order(REQUIRED)
        assert order.index("jbd2.ko") < order.index("ext4.ko")
        assert order.index("crc32c_generic.ko") < order.index("libcrc32c.ko") < order.index("erofs.ko")
        archive = build_initrd(kernel, b"#!/bin/sh\n", kernel.directory / "kernel.json", dict.fromkeys(order, ""))
        assert len(archive) < 6_000_000
        assert kernel.load_order(OPTIONAL)[-1] == "xen-privcmd.ko"
        with open(kernel.vmlinux, "rb") as handle:
            assert handle.read(4) == b"\x7fELF"


def test_a_package_makes_the_same_image_anywhere_and_another_for_another_flavor(apt: dict[str, Path], tmp_path: Path) -> None:
    layout = {"package": "linux-image-cloud-amd64", "destination": f"oci:{tmp_path}/layout:1"}
    archive = {**layout, "destination": f"oci-archive:{tmp_path}/archive.tar:1"}
    first, second = (_module("kernel_image", arguments, apt=apt["trixie"]) for arguments in (layout, archive))
    assert (first["changed"], second["changed"]) == (True, True)
    assert first["digest"] == second["digest"]
    assert not _module("kernel_image", archive, apt=apt["trixie"])["changed"]
    assert _module("kernel_image", {**archive, "flavor": "zone-test"}, apt=apt["trixie"], check=True)["changed"]
