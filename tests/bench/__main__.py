"""``make bench``: ratios against a floor measured in the same run, on the demo's host. A table, and JSON in ``build/bench/``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import yaml

from ringfence_bench import host, many_tasks, tools
from ringfence_bench.on_host import one_start
from ringfence_bench.on_host.floor import seconds
from ringfence_bench.table import MODES, table

_ROUNDS = 3
_COUNTS = ("10", "50", "200")
_TOGETHER = 8


def main() -> None:
    """Measure on the demo's host, which must have been converged; it is put back afterwards."""
    if not (host.DEMO / "inventory.yml").exists():
        raise SystemExit("error: there is no demo host to measure on; run `make demo` first")
    host.RESULTS.mkdir(parents=True, exist_ok=True)
    references = host.RESULTS / "references.yml"
    # The registry that the demo's host knows; what the demo has built is taken from its cache.
    up = ["up", "--also=tests/bench/images.py", f"--host={host.REGISTRY_THERE}", f"--references={references}"]
    subprocess.run([sys.executable, "examples/demo", *up], check=True)
    images = yaml.safe_load(references.read_text(encoding="utf-8"))["demo_images"]
    results: dict[str, Any] = {"restore_seconds": seconds(host.restore)}
    try:
        for measure in (_site, _one_zone, _small_kernel, _image, _many_zones, _work):
            results.update(measure(images))
    finally:
        (host.RESULTS / "bench.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        host.restore()
    print(table(results))


def _site(_images: dict[str, str]) -> dict[str, Any]:
    """The whole site on a host on which it has nothing to do."""
    found: dict[str, Any] = {}
    found["site_seconds"] = seconds(lambda: found.update(output=host.playbook("playbooks/site.yml", "-e", "@examples/demo/zones.yml")))
    recap = re.search(r"ok=(\d+)\s+changed=(\d+).*skipped=(\d+)", found.pop("output"))
    if recap is None:
        raise SystemExit("error: ansible-playbook printed no recap")
    found.update(zip(("site_tasks", "site_changed", "site_tasks_skipped"), map(int, recap.groups()), strict=True))
    found["base_bytes"] = max(int(line) for line in host.ssh("stat -c %s /var/lib/ringfence/runtime/*/base.img").split())
    return found


def _one_zone(_images: dict[str, str]) -> dict[str, Any]:
    """A zone's start and its memory."""
    return _starts("debian13")


def _starts(kernel: str) -> dict[str, Any]:
    """The start and the memory of a zone on a kernel, by the way in which it is virtualized."""
    found = {}
    for mode in MODES:
        host.playbook("tests/bench/playbooks/one_zone.yml", bench_mode=mode, bench_kernel=kernel, bench_measure=one_start.MEASURE)
        found[mode] = host.measure("one_start", "bench", str(_ROUNDS))
    return found


def _small_kernel(_images: dict[str, str]) -> dict[str, Any]:
    """The same on the kernel of ``kernel_build``. To build that takes a quarter of an hour, once."""
    archive = (host.RESULTS / "small-kernel.tar").absolute()
    build = ["ansible-playbook", "playbooks/kernel_image.yml", "-e", f"ringfence_kernel_build_destination=oci-archive:{archive}"]
    subprocess.run(build, stdout=subprocess.DEVNULL, check=True)
    host.playbook("tests/bench/playbooks/small_kernel.yml", bench_kernel_archive=str(archive))
    debian = host.references()["demo_kernels"]["debian13"].replace(host.REGISTRY_THERE, host.REGISTRY_HERE)
    sizes = {"small": _bytes(f"oci-archive:{archive}"), "debian": _bytes("--tls-verify=false", f"docker://{debian}")}
    return {"small_kernel": {"image_bytes": sizes, **_starts("small")}}


def _bytes(*image: str) -> int:
    """Of the layers of an image, as they travel."""
    raw = subprocess.run(["skopeo", "inspect", "--raw", *image], stdout=subprocess.PIPE, check=True).stdout
    return sum(layer["size"] for layer in json.loads(raw)["layers"])


def _image(images: dict[str, str]) -> dict[str, Any]:
    """An image to its file system. The host gets umoci for that, until it is put back."""
    host.ssh("apt-get -qq update && apt-get -qq -y install umoci >&2")
    return {"image": host.measure("image_filesystem", images["nginx"], str(_ROUNDS))}


def _many_zones(images: dict[str, str]) -> dict[str, Any]:
    """Several zones, and the channel to one of them."""
    idle: dict[str, Any] = {
        "image": images["nginx"],
        "virtualization": "pv",
        "memory": "96MiB",
        "command": ["sleep", "100000"],
        "stop_signal": "KILL",
    }
    zones: list[dict[str, Any]] = [{"name": f"bench-{number}", **idle} for number in range(_TOGETHER)]
    host.playbook("tests/bench/playbooks/zones.yml", bench_zones=zones)
    return {
        "channel": host.measure("channel_login", str(zones[0]["name"]), "10"),
        "many_tasks": many_tasks.measure(zones),
        "many_starts": host.measure("many_starts", "2", json.dumps(zones)),
        "many_zones": host.measure("many_zones", str(_ROUNDS), *_COUNTS),
    }


def _work(images: dict[str, str]) -> dict[str, Any]:
    """What a program gets done in a zone."""
    found = {}
    for mode in MODES:
        zone: dict[str, Any] = {"name": "work", "image": images["bench"], "virtualization": mode, "memory": "256MiB", "stop_signal": "KILL"}
        host.playbook("tests/bench/playbooks/zones.yml", bench_zones=[zone])
        found[mode] = tools.figures(host.measure("work", zone["name"], "2"))
    return {"work": found}


if __name__ == "__main__":
    main()
