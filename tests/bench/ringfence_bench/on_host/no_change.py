"""The program that :mod:`many_zones` measures: one converge that changes nothing, by the library alone, on libvirt's test driver.

``no_change STORE COUNT``. It imports nothing but what it needs, as the floor does.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.converge import converge
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.zone.hypervisor import Hypervisor

IMAGE = "sha256:" + "b" * 64


class _Host(Hypervisor):
    """The test driver, which runs no Xen guests, with the guests of Xen."""

    def modes(self) -> tuple[str, ...]:
        super().modes()
        return ("pv", "pvh")


def run(root: Path, count: int) -> None:
    """One call of the module's library; what it would change is an error, for then something else is measured."""
    setattr(converge, "Hypervisor", lambda: _Host(uri(root)))  # noqa: B010
    report = converge.converge(Store(root), declared(count), {}, {}, converge.Policy(), check=False)
    if report.changed or report.failures or len(report.zones) != count:
        raise SystemExit(f"the converge of {count} zones was to change nothing: {report.zones[:1]} {report.failures[:3]}")


def uri(root: Path) -> str:
    return f"test://{root}/node.xml"


def declared(count: int) -> list[dict[str, Any]]:
    """Zones as they are in practice: a published port, variables, a limit."""
    return [
        {
            "name": f"zone-{number}",
            "image": f"registry.example/app@{IMAGE}",
            "virtualization": "pv",
            "memory": "64MiB",
            "environment": {"MODE": "production", "NUMBER": str(number)},
            "ports": [f"{20000 + number}:80"],
            "restart": "unless-stopped",
            "networks": {"egress": [{"to": "10.0.0.0/8", "ports": [1883]}]},
        }
        for number in range(count)
    ]


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
