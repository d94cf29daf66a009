"""Tests of ``hypervisor`` with libvirt's own test driver, which keeps domains and runs none."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.command import CommandFailed
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.spec.fields import Port
from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Zone
from ansible_collections.ringfence.zones.plugins.module_utils.zone import hypervisor
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import Definition, Files, domain_xml, trial_xml
from ansible_collections.ringfence.zones.plugins.module_utils.zone.hypervisor import Hypervisor
from ansible_collections.ringfence.zones.plugins.module_utils.zone.observed import Observed, Running

FILES = Files(Path("/k/vmlinux"), Path("/z/initrd"), ((Path("/base.img"), False),))
DEFINITION = Definition(Zone(name="web", image="web"), "sha256:1", "sha256:2", "pv", "sha256:3", 1)
FOREIGN = "test"
"""The domain that every connection to the test driver begins with."""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Hypervisor]:
    """A connection to a test driver of its own."""
    node = tmp_path / "node.xml"
    node.write_text(
        f"<node><domain type='test'><name>{FOREIGN}</name><memory>8192</memory><os><type>hvm</type></os></domain>"
        "<cpu><mhz>1000</mhz><model>i686</model><active>2</active><nodes>1</nodes><sockets>1</sockets><cores>2</cores><threads>1</threads></cpu>"
        "<memory>3145728</memory></node>"
    )
    connected = Hypervisor(f"test://{node}")
    yield connected
    connected._connection.close()


def _xml(definition: Definition = DEFINITION, uuid: str | None = None) -> str:
    """The domain of a zone, as far as the test driver knows what it is made of."""
    xml = domain_xml(definition, FILES, uuid).replace('type="xen">', 'type="test">', 1).replace(">linux<", ">hvm<")
    return xml.replace(' arch="x86_64" machine="xenpv"', "")


def _define(host: Hypervisor, definition: Definition = DEFINITION) -> None:
    host.define(_xml(definition, host.uuid("web")), autostart=False)


def _lookup(host: Hypervisor, name: str = "web") -> libvirt.virDomain:
    return host._connection.lookupByName(name)


def test_a_zone_is_defined_started_stopped_and_forgotten(host: Hypervisor) -> None:
    assert host.observe() == ({}, {FOREIGN})
    assert (host.uuid("web"), host.domain_id("web")) == (None, None)
    _define(host)
    assert host.observe() == ({"web": Observed(DEFINITION)}, {FOREIGN})
    host.start("web")
    assert host.observe()[0]["web"].active
    assert host.domain_id("web") == host.zone_domain_id("web") == _lookup(host).ID()
    host.stop("web", 5)
    assert not host.observe()[0]["web"].active
    host.undefine("web")
    assert host.observe() == ({}, {FOREIGN})


def test_domains_are_described_whether_they_run_or_not(host: Hypervisor) -> None:
    _define(host)
    before = {domain.name: domain for domain in host.describe()}
    assert (before["web"].number, before["web"].autostart, before["web"].uuid) == (None, False, host.uuid("web"))
    assert "<kernel>/k/vmlinux</kernel>" in before["web"].xml
    assert before[FOREIGN].number is not None
    host.define(_xml(uuid=host.uuid("web")), autostart=True)
    host.start("web")
    after = {domain.name: domain for domain in host.describe()}
    assert (after["web"].number, after["web"].autostart) == (host.domain_id("web"), True)


def test_memory_and_cpus_of_a_zone_change_within_what_it_was_started_with(host: Hypervisor) -> None:
    _define(host, dataclasses.replace(DEFINITION, zone=dataclasses.replace(DEFINITION.zone, cpus=2)))
    assert (host.running("web"), host.running("none")) == (None, None)
    host.start("web")
    assert host.running("web") == Running(128, 128, 2, 2)
    host.set_memory("web", 96)
    host.set_cpus("web", 1)
    assert host.running("web") == Running(96, 128, 1, 2)
    assert (host.observe()[0]["web"].running, host.observe(most=True)[0]["web"].running) == (Running(96, 96, 1, 1), Running(96, 128, 1, 2))
    _define(host)
    assert host.running("web") == Running(96, 128, 1, 2)
    host.set_memory("web", 128)
    host.set_cpus("web", 2)
    assert host.running("web") == Running(128, 128, 2, 2)
    with pytest.raises(RingfenceError, match="libvirt cannot set the memory of zone web: "):
        host.set_memory("web", 129)
    with pytest.raises(RingfenceError, match="libvirt cannot set the CPUs of zone web: "):
        host.set_cpus("web", 3)
    assert host.running("web") == Running(128, 128, 2, 2)


LISTED = b"""\
Name                                ID  VCPU   CPU State   Time(s) Affinity (Hard / Soft)
web                                  1     0    0   r--       1.2  all / all
web                                  1     1    1   -b-       1.1  all / all
web                                  1     2    -   --p       0.1  all / all
"""


def test_what_libvirt_does_not_do_is_done_with_xl(host: Hypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(argv: list[str]) -> bytes:
        ran.append(argv)
        return LISTED

    monkeypatch.setattr(hypervisor, "run", run)
    monkeypatch.setattr(libvirt.virDomain, "schedulerType", lambda _domain: ("credit2", 2))
    _define(host)
    host.start("web")
    number = str(host.domain_id("web"))
    host.set_weight("web", 512)
    assert host.online_cpus("web") == 2
    assert ran == [["xl", "sched-credit2", "-d", number, "-w", "512"], ["xl", "vcpu-list", number]]


def test_what_is_asked_of_a_zone_that_is_gone_is_done(host: Hypervisor) -> None:
    host.stop("web", 5)
    host.undefine("web")
    _define(host)
    host.stop("web", 5)


def test_a_zone_that_runs_is_observed_as_it_was_last_defined(host: Hypervisor) -> None:
    _define(host)
    host.start("web")
    uuid = host.uuid("web")
    changed = dataclasses.replace(DEFINITION, zone=dataclasses.replace(DEFINITION.zone, ports=(Port(80, 80),)))
    _define(host, changed)
    assert host.observe()[0] == {"web": Observed(changed, _lookup(host).ID(), running=Running(128, 128, 1, 1))}
    assert host.uuid("web") == uuid


@pytest.mark.parametrize("autostart", [True, False])
def test_a_zone_starts_with_the_host_if_it_shall(host: Hypervisor, autostart: bool) -> None:
    host.define(_xml(), autostart=not autostart)
    host.define(_xml(uuid=host.uuid("web")), autostart=autostart)
    assert _lookup(host).autostart() == int(autostart)
    host.set_autostart("web", not autostart)
    assert _lookup(host).autostart() == int(not autostart)


def test_metadata_that_cannot_be_read_is_still_that_of_a_zone(host: Hypervisor) -> None:
    host.define(_xml().replace('{"image"', "damaged"), autostart=False)
    assert host.observe()[0] == {"web": Observed(None)}


def test_a_domain_that_is_only_running_is_foreign(host: Hypervisor) -> None:
    host._connection.createXML(_xml())
    assert host.observe() == ({}, {FOREIGN, "web"})


def test_of_a_transient_domain_nothing_is_left_when_it_ends(host: Hypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    known = {"xl domid trial"}

    def run(argv: list[str]) -> bytes:
        ran.append(" ".join(argv))
        if ran[-1] not in known:
            raise CommandFailed("no such domain")
        return b""

    monkeypatch.setattr(hypervisor, "run", run)
    xml = trial_xml("trial", "pv", 128, FILES).replace('type="xen">', 'type="test">', 1).replace(">linux<", ">hvm<")
    xml = xml.replace(' arch="x86_64" machine="xenpv"', "")
    known.add("xl destroy trial")
    host.run_transient("trial", xml)
    assert ran == ["xl domid trial", "xl destroy trial"]
    known.clear()
    first = host.domain_id("trial")
    assert host.observe() == ({}, {FOREIGN, "trial"})
    host.run_transient("trial", xml)  # Another one of the name is ended first.
    assert host.domain_id("trial") not in (None, first)
    listed = host._connection.listAllDomains()
    host.end("trial")
    assert (host.domain_id("trial"), host.uuid("trial")) == (None, None)
    with monkeypatch.context() as patched:
        patched.setattr(host._connection, "listAllDomains", lambda: listed)
        assert host.observe() == ({}, {FOREIGN})
    host.end("trial")
    with pytest.raises(RingfenceError, match="libvirt cannot start trial: "):
        host.run_transient("trial", xml.replace("<memory", "<broken"))


def test_a_zone_that_libvirt_starts_anew_while_it_is_removed_is_ended(host: Hypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(argv: list[str]) -> bytes:
        ran.append(argv)
        return b""

    monkeypatch.setattr(hypervisor, "run", run)
    _define(host)
    host.undefine("web")
    assert ran == [["xl", "domid", "web"], ["xl", "destroy", "web"]]


def test_a_zone_that_does_not_shut_down_is_ended(host: Hypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    _define(host)
    host.start("web")
    monkeypatch.setattr(libvirt.virDomain, "shutdown", lambda _domain: 0)
    began = time.monotonic()
    host.stop("web", 0.5)
    assert host.domain_id("web") is None
    assert 0.5 <= time.monotonic() - began < 5


def test_a_zone_that_cannot_be_asked_is_ended_at_once(host: Hypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_domain: libvirt.virDomain) -> int:
        raise libvirt.libvirtError("no")

    _define(host)
    host.start("web")
    monkeypatch.setattr(libvirt.virDomain, "shutdown", refuse)
    began = time.monotonic()
    host.stop("web", 60)
    assert host.domain_id("web") is None
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("logged", "told"),
    [
        ("libxl_dom.c:1:f: no memory", "libxl_dom.c:1:f: no memory"),
        (
            "libxl_dom.c:1:f: xc_dom_build_image failed: No such file or directory",
            "libxl_dom.c:1:f: xc_dom_build_image failed: No such file or directory; "
            "its kernel and initrd may need more memory than is declared",
        ),
    ],
)
def test_the_log_of_libxl_since_the_call_is_in_the_error(
    host: Hypervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: str, told: str
) -> None:
    log = tmp_path / "libxl.log"
    log.write_text("2026-01-01: libxl: of yesterday\n")
    monkeypatch.setattr(hypervisor, "_LIBXL_LOG", log)
    _define(host)
    host.start("web")

    def create(_domain: libvirt.virDomain) -> int:
        with open(log, "a") as handle:
            handle.write(f"2026-01-01: libxl: {logged}\nthe rest of something\n")
        raise libvirt.libvirtError("failed to create new domain")

    monkeypatch.setattr(libvirt.virDomain, "create", create)
    with pytest.raises(RingfenceError) as caught:
        host.start("web")
    assert str(caught.value).startswith("libvirt cannot start zone web: ")
    assert str(caught.value).endswith(f"; libxl: {told}")


def test_a_domain_that_libvirt_has_left_behind_is_ended_and_the_zone_started(host: Hypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    create = libvirt.virDomain.create

    def blocked(domain: libvirt.virDomain) -> int:
        if "xl destroy web" not in ran:
            raise libvirt.libvirtError("failed to create new domain")
        return int(create(domain))

    monkeypatch.setattr(hypervisor, "run", lambda argv: ran.append(" ".join(argv)))
    monkeypatch.setattr(libvirt.virDomain, "create", blocked)
    _define(host)
    host.start("web")
    assert (ran, host.domain_id("web") is None) == (["xl domid web", "xl destroy web"], False)


def test_a_zone_that_has_come_back_by_itself_is_started_as_it_is_defined_now(host: Hypervisor) -> None:
    _define(host)
    host.start("web")
    first = host.domain_id("web")
    host.start("web")
    assert host.domain_id("web") not in (None, first)


@pytest.mark.parametrize(
    "call",
    [
        lambda host: host.observe(),
        lambda host: host.describe(),
        lambda host: host.modes(),
        lambda host: host.domain_id("web"),
        lambda host: host.cpu_seconds(),
        lambda host: host.running("web"),
        lambda host: host.define(_xml(), autostart=False),
        lambda host: host.stop("web", 1),
        lambda host: host.end("web"),
        lambda host: host.undefine("web"),
    ],
)
def test_a_libvirt_that_has_gone_is_told(host: Hypervisor, monkeypatch: pytest.MonkeyPatch, call: Callable[[Hypervisor], object]) -> None:
    closed = libvirt.open("test:///default")
    closed.close()
    monkeypatch.setattr(host, "_connection", closed)
    with pytest.raises(RingfenceError, match="libvirt"):
        call(host)


@pytest.mark.parametrize("call", [lambda host: host.start("web"), lambda host: host.stop("web", 1), lambda host: host.running("web")])
def test_a_libvirt_that_goes_in_the_middle_of_a_call_is_told(
    host: Hypervisor, monkeypatch: pytest.MonkeyPatch, call: Callable[[Hypervisor], object]
) -> None:
    def gone(_domain: libvirt.virDomain) -> int:
        raise libvirt.libvirtError("gone")

    _define(host)
    host.start("web")
    for name in ("create", "info", "isActive"):
        monkeypatch.setattr(libvirt.virDomain, name, gone)
    with pytest.raises(RingfenceError, match="libvirt cannot say whether zone web runs: "):
        call(host)


def test_a_zone_that_is_not_there_or_does_not_run_is_told(host: Hypervisor) -> None:
    with pytest.raises(RingfenceError, match="zone db: not on this host; its zones are: none"):
        host.zone_domain_id("db")
    _define(host)
    with pytest.raises(RingfenceError, match="zone db: not on this host; its zones are: web"):
        host.zone_domain_id("db")
    with pytest.raises(RingfenceError, match=f"zone {FOREIGN}: not on this host"):
        host.zone_domain_id(FOREIGN)
    with pytest.raises(RingfenceError, match="zone web: does not run; start it by converging it"):
        host.zone_domain_id("web")


@pytest.mark.parametrize(
    ("machines", "modes"), [(("xenpv", "xenpvh", "xenfv"), ("pv", "pvh")), (("xenpv",), ("pv",)), (("xenfv",), ()), ((), ())]
)
def test_the_modes_are_those_of_the_capabilities(
    host: Hypervisor, monkeypatch: pytest.MonkeyPatch, machines: tuple[str, ...], modes: tuple[str, ...]
) -> None:
    guests = "".join(
        f"<guest><os_type>xen</os_type><arch name='x86_64'><machine>{machine}</machine></arch></guest>" for machine in machines
    )
    monkeypatch.setattr(libvirt.virConnect, "getCapabilities", lambda _connection: f"<capabilities>{guests}</capabilities>")
    assert host.modes() == modes


def test_free_memory_is_in_mib(host: Hypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirt.virConnect, "getFreeMemory", lambda _connection: 5 * 1024 * 1024 + 1)
    assert host.free_memory() == 5


def test_a_libvirt_that_does_not_answer_is_told() -> None:
    with pytest.raises(RingfenceError, match=r"libvirt does not answer at test:///none\.xml: .*; see `systemctl status libvirtd`"):
        Hypervisor("test:///none.xml")


def test_a_host_without_xen_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hypervisor, "booted_into_xen", lambda: False)
    with pytest.raises(RingfenceError, match="this host is not booted into Xen"):
        Hypervisor()


def test_a_host_without_the_binding_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hypervisor, "LIBVIRT_ERROR", ImportError("no"))
    with pytest.raises(RingfenceError, match="python3-libvirt"):
        Hypervisor("test:///default")
