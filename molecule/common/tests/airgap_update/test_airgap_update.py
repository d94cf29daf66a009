"""After an incremental bundle: what it brought runs beside what was there."""

from __future__ import annotations

import json
from collections.abc import Callable

from live import Live


def test_the_second_bundle_has_little(live: Live, show: Callable[[str], None]) -> None:
    sizes = {name: int(live.run(f"du -sm /srv/bundles/{name}").split()[0]) for name in ("first", "second")}
    assert sizes["second"] < sizes["first"] / 3
    manifest = json.loads(live.run("cat /var/lib/ringfence/bundle/current/manifest.json"))
    assert (manifest["name"], manifest["since"]["name"]) == ("second", "first")
    left_out = [path for path, file in manifest["files"].items() if file["earlier"]]
    assert len(left_out) > 100
    show(f"first bundle {sizes['first']} MB, second {sizes['second']} MB, {len(left_out)} files left out")


def test_the_new_zone_runs_beside_the_old_one(live: Live) -> None:
    assert set(live.declared) == {"web", "cache"}
    assert live.page_from_outside() == "page of web"
    assert live.in_zone("cache", "redis-cli ping") == "PONG\n"


def test_the_host_upgrades_what_the_bundle_has_newer(live: Live) -> None:
    """The packages of hosts in the lab may all be as new as the bundle's, so one is made older first."""
    live.run(
        "cd $(mktemp -d)\n"
        "dpkg-deb --raw-extract /var/lib/ringfence/bundle/current/debian/pool/main/c/conntrack-tools/conntrack_*.deb tree\n"
        "sed -i 's/^Version: .*/Version: 1:0.1/' tree/DEBIAN/control\n"
        "dpkg-deb --build tree older.deb\n"
        "dpkg --install --force-downgrade older.deb"
    )
    upgrade = "APT_CONFIG=/var/lib/ringfence/bundle/current/apt/apt.conf apt-get --quiet --assume-yes {} upgrade --with-new-pkgs"

    def newer() -> list[str]:
        told = live.run(upgrade.format("--simulate"))
        return [line.split()[1] for line in told.splitlines() if line.startswith("Inst ")]

    assert "conntrack" in newer()
    live.run(upgrade.format(""))
    assert newer() == []
    assert live.run("dpkg-query --show --showformat='${Status} ${Version}' conntrack") != "install ok installed 1:0.1"
