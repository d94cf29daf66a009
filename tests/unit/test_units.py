"""The systemd units that the roles write."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.boot import decisions

ROOT = Path(__file__).parents[2]


def units() -> dict[str, list[str]]:
    """The lines of each unit, by its name."""
    files = {path.name: path.read_text() for path in (ROOT / "roles/runtime/files").glob("ringfence-*.service")}
    files |= {Path(file.path).name: file.content for file in decisions.host_files(decisions.parse_options("1GiB", 0, [], 300), "quiet")}
    return {name: text.splitlines() for name, text in files.items() if name.endswith((".service", ".timer"))}


def test_what_the_network_waits_for_does_not_wait_for_sysinit() -> None:
    # cloud-init is after the network and before sysinit.target: systemd would break the cycle by leaving out one of the units.
    early = {name: lines for name, lines in units().items() if any("network-pre.target" in line for line in lines)}
    assert list(early) == ["ringfence-network.service"]
    for lines in early.values():
        assert "DefaultDependencies=no" in lines
        assert "Conflicts=shutdown.target" in lines
        assert [line for line in lines if line.startswith("Before=") and "shutdown.target" in line.split()]


def test_what_does_not_wait_for_the_local_file_systems_waits_for_the_one_that_it_reads() -> None:
    assert "RequiresMountsFor=/var/lib/ringfence" in units()["ringfence-network.service"]
