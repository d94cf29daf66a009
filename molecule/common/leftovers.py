"""What is on a host that has run all the time: of its zones what zones have, and of others nothing."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any


def check_that_nothing_is_left(
    after: Mapping[str, Any], before: Mapping[str, Any], zones: Mapping[str, Mapping[str, Any]], kept: Collection[str] = ("web",)
) -> None:
    """Compare what ``collect.py`` has found before and after.

    :param zones: the declared ones by name.
    :param kept: those that have run all the time.
    """
    numbers = {name: number for name, number in after["domains"].items() if name != "Domain-0"}
    assert set(numbers) == set(after["defined"]) == set(zones)
    assert {name: numbers[name] for name in kept} == {name: before["domains"][name] for name in kept}
    assert after["autostart"] == sorted(name for name, zone in zones.items() if zone.get("restart") in ("always", "unless-stopped"))
    own = sorted(path for path in after["loops"].values() if re.search("/(zones|volumes)/", path))
    mounted = [mount.partition(":")[0] for zone in zones.values() for mount in zone.get("volumes", ())]
    assert [re.sub(".*/ringfence/|-.*|.img", "", path) for path in own] == sorted(
        [*(f"volumes/{name}" for name in mounted), *(f"zones/{name}/writable" for name in zones)]
    )
    assert after["disks"] == {name: after["volumes"].get(name) for name in mounted}
    links = {f"rz{number}" for number in range(1, len(zones) + 1)}
    assert {link for link in after["links"] if re.match("rz|vif", link)} == links
    assert set(re.findall(r'"(rz\d+)"', after["network"])) == links
    # Of Xen's own domain there are entries too.
    nodes = {
        int(found[1]) for path in after["xenstore"] if (found := re.match(r"(?:/local/domain(?:/0/backend/\w+)?|/libxl)/(\d+)/", path))
    }
    assert nodes - {0} == set(numbers.values())
    assert [path for path in after["files"] if "/tmp/" in path or "/.new-" in path] == []
    # A refused change may be written down beside them.
    initrds = sorted(found[1] for path in after["files"] if (found := re.search(r"/zones/(\w+)/(?!refused)", path)))
    assert initrds == after["zones"] == [path.split("/")[-2] for path in after["layers"]] == sorted(zones)
    assert after["pages"] == {"8080": "page of web", "8081": "page of api"}
