"""The systemd units that the roles write."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    ("environment", "ends"),
    [
        ("saved_entry=gnulinux-simple-1\nnext_entry=xen-gnulinux-simple-1\n", True),
        ("saved_entry=xen-gnulinux-simple-1\n", False),
        (None, True),
    ],
)
def test_the_deadline_of_a_trial_ends_no_boot_of_a_xen_that_is_the_default(tmp_path: Path, environment: str | None, ends: bool) -> None:
    file = tmp_path / "grubenv"
    if environment is not None:
        file.write_text(f"# GRUB Environment Block\n{environment}")
    assert _is_met(decisions.GRUB_ENVIRONMENT, file) is ends


@pytest.mark.parametrize(("features", "ends"), [("001e28e0", True), ("001e20e0", False)])
def test_the_deadline_of_a_trial_leaves_plain_linux_that_is_a_guest_of_another_xen(tmp_path: Path, features: str, ends: bool) -> None:
    file = tmp_path / "features"
    file.write_text(f"{features}\n")
    assert _is_met("/sys/hypervisor/properties/features", file) is ends


def _is_met(path: str, file: Path) -> bool:
    """Whether the deadline's condition on a path is met, with a file in its place."""
    (condition,) = [line for line in units()["ringfence-boot-trial.service"] if line.startswith("ExecCondition=") and path in line]
    command = condition.partition("=")[2].replace(path, str(file)).replace("$$", "$")
    return subprocess.run(shlex.split(command), check=False).returncode == 0
