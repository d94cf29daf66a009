"""Runs on a Xen host as root: an image from its registry to a file system, by the collection and by hand, alternately.

``image_filesystem REFERENCE ROUNDS`` prints JSON. By hand is ``skopeo copy``, ``umoci unpack`` and ``mkfs.erofs`` with the same options.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.image import build, references, registry
from ansible_collections.ringfence.zones.plugins.module_utils.store import ROOT, Store
from ringfence_bench.on_host.floor import compared


def main() -> None:
    """Measure on the disk of the store, in a directory that is gone afterwards."""
    reference, rounds = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory(dir=ROOT) as directory:
        work = Path(directory)

        def by_collection() -> None:
            build.prepare(Store(work / "store"), registry.resolve(reference))
            shutil.rmtree(work / "store")

        def by_hand() -> None:
            _by_hand(reference, work / "hand")
            shutil.rmtree(work / "hand")

        peak = _peak(work, by_collection)  # Warm now.
        by_hand()
        times = compared(rounds, collection=by_collection, hand=by_hand)
        unpacked = build.prepare(Store(work / "store"), registry.resolve(reference)).sizes["unpacked"]
    print(json.dumps({**times, "peak_bytes": peak, "unpacked_bytes": unpacked}))


def _by_hand(reference: str, work: Path) -> None:
    work.mkdir()
    source = references.parse_reference(reference).for_skopeo()
    subprocess.run(["skopeo", "copy", "--quiet", source, f"oci:{work}/layout:image"], check=True)
    subprocess.run(["umoci", "unpack", "--image", f"{work}/layout:image", f"{work}/bundle"], stdout=subprocess.DEVNULL, check=True)
    options = [option for option in build.MAKERS["erofs"][1:] if option != "--tar=f"]
    subprocess.run(["mkfs.erofs", *options, f"{work}/rootfs.img", f"{work}/bundle/rootfs"], stdout=subprocess.DEVNULL, check=True)


def _peak(directory: Path, call: Callable[[], None]) -> int:
    """The bytes by which the free space of a disk was less, at most, while a call ran."""
    free, ended = [shutil.disk_usage(directory).free], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            free.append(shutil.disk_usage(directory).free)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        call()
    finally:
        ended.set()
        watcher.join()
    return free[0] - min(free)


if __name__ == "__main__":
    main()
