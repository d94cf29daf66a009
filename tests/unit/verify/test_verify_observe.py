"""Tests of the library's ``verify.observe`` and the module ``verify``: whatever answers or does not, each row has a clear result."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import made_up_host
import pytest
import yaml
from made_up_host import Host, digest, reference
from test_verify import NODES, OPTIONS
from test_zones_module import _run

from ansible_collections.ringfence.zones.plugins.module_utils.command import CommandFailed
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.verify import advisories, observe, promises, surface
from ansible_collections.ringfence.zones.plugins.module_utils.zone import firewall
from ansible_collections.ringfence.zones.plugins.module_utils.zone.hypervisor import Described
from ansible_collections.ringfence.zones.plugins.modules import verify as module

LISTED = "Name ID Mem VCPUs State Time(s)\nDomain-0 0 1536 2 r----- 9.1\nweb {number} 128 1 -b---- 3.1\n"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A Xen host with the running zone web, whose programs answer."""
    made = made_up_host.make(tmp_path / "store", monkeypatch)
    made.publish("1")
    secret = {"secrets": [{"source": "password", "target": "/run/password"}]}
    made.converge({"name": "web", "image": reference("1"), **secret}, secrets={"password": "correct horse"})
    domain = made.hypervisor.domains["web"]
    described = [Described("web", "11111111-1111-1111-1111-111111111111", domain.number, domain.xml, domain.autostart)]

    def run(argv: Sequence[str], **_options: Any) -> bytes:
        answers = {"xl list": LISTED.format(number=domain.number), "ip -json": "[]", "xl dmesg": "x\nSMT off\n"}
        made.commands.append(argv[0])
        return answers[" ".join(argv[:2])].encode()

    monkeypatch.setattr(made.hypervisor, "describe", lambda: described, raising=False)
    monkeypatch.setattr(observe, "booted_into_xen", lambda: True)
    monkeypatch.setattr(observe, "Hypervisor", lambda: made.hypervisor)
    monkeypatch.setattr(observe, "run", run)
    monkeypatch.setattr(observe, "read_nodes", lambda _patience: NODES)
    monkeypatch.setattr(observe, "xl_info", lambda: {"xen_version": "4.20", "xen_commandline": "ucode=scan"})
    monkeypatch.setattr(observe, "_xen_image", lambda _versions: "xen-4.20-amd64")
    monkeypatch.setattr(observe, "_advisories_named", lambda _versions: frozenset({523}))
    monkeypatch.setattr(surface, "measure", lambda *_arguments: {"zone": 1})
    monkeypatch.setattr(firewall, "listed", lambda: (made.table or "").replace("    ", "\t"))
    monkeypatch.setattr(firewall, "as_listed", lambda text: text.replace("    ", "\t"))
    made.commands.clear()
    return made


def _fail(*_arguments: Any, **_options: Any) -> Any:
    raise CommandFailed("it does not answer")


def _results(host: Host) -> dict[int, str]:
    return {row["number"]: row["result"] for row in promises.rows(observe.observe(host.store, OPTIONS))}


def test_a_host_is_looked_at_and_nothing_is_written(host: Host) -> None:
    before = host.snapshot()
    facts = observe.observe(host.store, OPTIONS)
    assert facts.unread == {}
    assert [zone.name for zone in facts.running_zones] == ["web"]
    assert facts.rules == facts.wanted_rules != ""
    assert facts.kept_as_wanted
    assert [(secret.zone, secret.name, secret.content) for secret in facts.secrets] == [("web", "password", b"correct horse")]
    assert facts.xen_log == ["SMT off"]
    assert facts.versions["images"] == [{"digest": digest("1"), "reference": reference("1")}]
    assert host.snapshot() == before
    # Each process costs time on a slow machine.
    assert len(host.commands) <= 6


def test_a_file_of_the_store_that_is_gone_or_open_is_told(host: Host) -> None:
    kernel = host.store.kernels / ("a" * 64) / "vmlinux"
    assert any(f"kernel {digest('a')}: " in fault and "vmlinux" in fault for fault in observe.observe(host.store, OPTIONS).store_faults)
    kernel.write_bytes(b"kernel")
    image = host.store.images / ("1" * 64) / "rootfs.img"
    image.chmod(0o666)
    (fault,) = observe.observe(host.store, OPTIONS).store_faults
    expected = "can be written by others than root" if os.getuid() == 0 else "belongs to the user"
    assert expected in fault
    image.write_bytes(b"other files")
    assert any("has another size" in fault for fault in observe.observe(host.store, OPTIONS).store_faults)


@pytest.mark.parametrize(
    ("silence", "untested"),
    [
        ({"Hypervisor": _fail}, {1, 5, 6, 9, 10, 13, 19, 20, 21, 22, 23}),
        ({"read_nodes": _fail}, {6, 21, 23}),
        ({"run": _fail}, {9, 21}),
        ({"xl_info": _fail}, {24}),
    ],
    ids=["libvirt", "xenstore", "every program", "xl info"],
)
def test_what_does_not_answer_leaves_rows_untested(
    host: Host, monkeypatch: pytest.MonkeyPatch, silence: dict[str, Callable[..., Any]], untested: set[int]
) -> None:
    before = {number for number, result in _results(host).items() if result == "not_tested"}
    for name, function in silence.items():
        monkeypatch.setattr(observe, name, function)
    found = _results(host)
    assert {number for number, result in found.items() if result == "not_tested"} - before == untested - before
    assert untested <= {number for number, result in found.items() if result == "not_tested"}


def test_a_libvirt_that_hangs_is_not_waited_for(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()
    monkeypatch.setattr(observe, "_PATIENCE", 0.2)
    monkeypatch.setattr(observe, "Hypervisor", lambda: end.wait(60))
    began = time.monotonic()
    facts = observe.observe(host.store, OPTIONS)
    end.set()
    assert time.monotonic() - began < 30
    assert "libvirt does not answer within 0.2 s" in facts.unread["domains"]


def test_a_zone_whose_metadata_cannot_be_read_is_told(host: Host) -> None:
    domain = host.hypervisor.domains["web"]
    domain.xml = domain.xml.replace('"index":1', '"index":')
    facts = observe.observe(host.store, OPTIONS)
    assert [zone.definition for zone in facts.zones] == [None]
    (row,) = (row for row in promises.rows(facts) if row["number"] == 20)
    assert (row["result"], row["why"]) == ("not_tested", "zone web: its metadata cannot be read, so nobody knows what is declared")


def test_metadata_that_is_well_formed_and_nonsense_ends_in_no_traceback(host: Host) -> None:
    domain = host.hypervisor.domains["web"]
    domain.xml = domain.xml.replace('"index":1', '"index":"1"').replace('"image":"sha256:', '"image":{"a":"\\u001b"},"image_":"')
    domain.xml = domain.xml.replace('"image_"', '"runtime"')
    facts = observe.observe(host.store, OPTIONS)
    assert [zone.definition is None for zone in facts.zones] == [False]
    told = promises.report(facts, "now")
    assert told["zones"][0]["image"] == {"a": "\\x1b"}
    (row,) = (row for row in told["rows"] if row["number"] == 21)
    assert row["result"] == "broken" or row["why"]


def test_a_damaged_kernel_leaves_the_other_versions(host: Host) -> None:
    (host.store.kernels / "names.json").write_text("{")
    facts = observe.observe(host.store, OPTIONS)
    assert (facts.versions["kernels"], facts.versions["xen"]) == (None, "4.20")
    assert "names.json cannot be read" in facts.unread["versions.kernels"]


def test_a_converge_that_is_running_makes_it_wait_for_its_end(host: Host) -> None:
    with open(host.store.root / "lock", "w", encoding="ascii") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        facts = observe.observe(host.store, OPTIONS)
    assert f"a converge of this host is running (process {os.getpid()})" in facts.unread["steady"]
    assert "steady" not in observe.observe(host.store, OPTIONS).unread


def test_what_an_interrupted_run_left_is_told(host: Host) -> None:
    (host.store.tmp / "left").mkdir(parents=True)
    assert observe.observe(host.store, OPTIONS).unfinished == [str(host.store.tmp / "left")]


def test_a_host_that_changes_meanwhile_is_looked_at_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([{0: "Domain-0"}, {0: "Domain-0", 5: "web"}, {0: "Domain-0", 5: "web"}, {0: "Domain-0", 5: "web"}])
    monkeypatch.setattr(observe, "_xen_domains", lambda: next(answers))
    assert "steady" not in observe.observe(host.store, OPTIONS).unread
    changing = ({0: "Domain-0", number: "web"} for number in range(1, 99))
    monkeypatch.setattr(observe, "_xen_domains", lambda: next(changing))
    assert "zones started or ended meanwhile" in observe.observe(host.store, OPTIONS).unread["steady"]


def test_a_loop_device_and_what_was_seen_of_it_are_found(tmp_path: Path) -> None:
    device = tmp_path / "loop7"
    for directory in ("loop", "loop7p1", "holders/dm-0"):
        (device / directory).mkdir(parents=True)
    (device / "loop" / "partscan").write_text("1\n")
    assert sorted(observe.traces(device)) == ["partition loop7p1", "the kernel looks for partitions", "used by dm-0"]
    assert observe.traces(tmp_path / "loop8") == []


def test_processes_of_this_machine_are_found_by_their_names() -> None:
    (own,) = (process for process in observe._processes() if process.number == os.getpid())
    assert any("python" in name or "pytest" in name for name in own.names)
    assert b"\0" not in own.arguments


def test_a_listing_of_rules_that_is_not_understood_is_not_compared(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _results(host)[10] == "held"
    for function in ("listed", "as_listed"):
        monkeypatch.setattr(firewall, function, lambda *_text: "{}")
    assert _results(host)[10] == "not_tested"


def test_each_version_is_described(host: Host) -> None:
    text = (Path(__file__).parents[3] / "docs" / "verify.md").read_text(encoding="utf-8")
    versions = observe.observe(host.store, OPTIONS).versions
    assert [key for key in versions if f"`versions.{key}`" not in text] == []


def test_versions_of_packages_are_those_of_dpkg() -> None:
    installed, removed = "Status: install ok installed", "Status: deinstall ok config-files"
    status = (
        f"Package: crun\n{installed}\nVersion: 1.21-1\n\nPackage: skopeo\n{removed}\nVersion: 1\n\nPackage: bash\n{installed}\nVersion: 5\n"
    )
    assert observe._packages(status) == {"crun": "1.21-1"}


# The module.


@pytest.mark.parametrize("check", [False, True])
def test_a_host_without_xen_has_a_clear_result_for_each_row(tmp_path: Path, capsys: pytest.CaptureFixture[str], check: bool) -> None:
    result = _run(module, capsys, store=str(tmp_path / "store"), _ansible_check_mode=check)
    told = result["report"]
    assert result["changed"] is False
    assert {row["number"] for row in told["rows"] if row["result"] == "broken"} == {24}
    untested = [row["why"] for row in told["rows"] if row["result"] == "not_tested"]
    assert len(untested) == 23
    assert all("this host is not booted into Xen" in why or "needs depth attack" in why for why in untested)
    assert told["rows"][23]["why"] == "plain Linux is booted, not Xen"
    assert list(tmp_path.iterdir()) == []
    documented = yaml.safe_load(module.RETURN)["report"]["contains"]
    assert set(told) == set(documented)
    assert set(told["rows"][0]) == set(documented["rows"]["contains"])


def test_a_declaration_of_the_host_that_is_not_accepted_fails_the_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert "dom0_memory: '1MiB' is not a size" in _run(module, capsys, dom0_memory="1MiB")["msg"]


def test_the_library_tells_a_missing_table_from_an_nft_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(output: str) -> Callable[..., bytes]:
        def run(*_arguments: Any, **_options: Any) -> bytes:
            raise CommandFailed("nft failed", output)

        return run

    monkeypatch.setattr(firewall, "run", answer("Error: No such file or directory\nlist table inet ringfence\n"))
    assert firewall.listed() == ""
    monkeypatch.setattr(firewall, "run", answer("Operation not permitted"))
    with pytest.raises(RingfenceError, match="nft failed"):
        firewall.listed()
    assert firewall.kept(Store(Path("/nonexistent"))) == ""


def test_a_host_without_documentation_names_no_advisories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advisories, "xen_package", lambda _versions: ("xen-hypervisor-0.0-none", "1"))
    assert observe._advisories_named({}) == frozenset()
