"""Unit tests of ``firewall``: what is loaded, kept and forgotten, and what a run that is killed leaves. The kernel is made up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.command import CommandFailed
from ansible_collections.ringfence.zones.plugins.module_utils.spec.fields import Port
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.zone import firewall
from ansible_collections.ringfence.zones.plugins.module_utils.zone.network import Link, ruleset

CLOSED = ruleset({}, routes_others=())
OPEN = ruleset({"a": Link(1, (Port(514, 514, "udp"), Port(80, 80)))}, routes_others=())


class Kernel:
    """Stands for ``command.run``: notes what it is asked, and fails where it is told to."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.forgotten: list[tuple[str, str]] = []
        self.refuses: dict[str, BaseException] = {}

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout: float = 600) -> bytes:
        """Take a ruleset, or forget what is known of a port."""
        del timeout
        if argv[0] in self.refuses:
            raise self.refuses[argv[0]]
        if argv[0] == "nft":
            self.loaded.append((stdin or b"").decode())
        else:
            self.forgotten.append((argv[3], argv[-1]))
        return b""


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made_up = Kernel()
    monkeypatch.setattr(firewall, "run", made_up.run)
    monkeypatch.setattr(firewall, "has_table", lambda _family, _name: bool(made_up.loaded))
    return made_up


def _killed_while_it_forgot(store: Store, kernel: Kernel) -> None:
    """What is kept is closed, what is loaded is open."""
    firewall.load(store, CLOSED)
    kernel.refuses["conntrack"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        firewall.load(store, OPEN)
    kernel.refuses.clear()


def test_senders_to_a_udp_port_that_moved_are_forgotten_and_no_others(tmp_path: Path, kernel: Kernel) -> None:
    store = Store(tmp_path)
    firewall.load(store, OPEN)
    assert (kernel.forgotten, firewall.is_loaded(store, OPEN)) == ([("ipv4", "514"), ("ipv6", "514")], True)
    firewall.load(store, OPEN)
    assert len(kernel.forgotten) == 2


def test_that_there_was_nothing_to_forget_is_no_failure(tmp_path: Path, kernel: Kernel) -> None:
    none = "conntrack v1.4.7 (conntrack-tools): 0 flow entries have been deleted."
    kernel.refuses["conntrack"] = CommandFailed("conntrack failed with exit status 1", none)
    firewall.load(Store(tmp_path), OPEN)
    assert firewall.is_loaded(Store(tmp_path), OPEN)
    kernel.refuses["conntrack"] = CommandFailed("conntrack failed with exit status 1", "Operation not permitted")
    with pytest.raises(CommandFailed):
        firewall.load(Store(tmp_path), CLOSED)


def test_a_run_that_was_killed_while_it_forgot_is_repaired_whatever_is_declared_next(tmp_path: Path, kernel: Kernel) -> None:
    store = Store(tmp_path)
    _killed_while_it_forgot(store, kernel)
    assert (kernel.loaded[-1], firewall.kept(store), firewall.is_loaded(store, CLOSED)) == (OPEN, CLOSED, False)
    firewall.load(store, CLOSED)
    assert (kernel.forgotten, firewall.is_loaded(store, CLOSED)) == ([("ipv4", "514"), ("ipv6", "514")], True)


def test_rules_that_do_not_load_are_not_kept(tmp_path: Path, kernel: Kernel) -> None:
    store = Store(tmp_path)
    firewall.load(store, CLOSED)
    kernel.refuses["nft"] = CommandFailed("nft failed with exit status 1: no")
    with pytest.raises(CommandFailed):
        firewall.load(store, OPEN)
    assert (firewall.kept(store), firewall.is_loaded(store, CLOSED)) == (CLOSED, True)


def test_rules_that_do_not_load_leave_what_a_killed_run_has_loaded_to_be_repaired(tmp_path: Path, kernel: Kernel) -> None:
    store = Store(tmp_path)
    _killed_while_it_forgot(store, kernel)
    kernel.refuses = {"nft": CommandFailed("nft failed with exit status 1: no")}
    with pytest.raises(CommandFailed):
        firewall.load(store, ruleset({"b": Link(2)}, routes_others=()))
    assert not firewall.is_loaded(store, CLOSED)
    kernel.refuses.clear()
    firewall.load(store, CLOSED)
    assert (kernel.forgotten, firewall.is_loaded(store, CLOSED)) == ([("ipv4", "514"), ("ipv6", "514")], True)


@pytest.mark.parametrize(
    ("parameters", "ours", "expected"),
    [
        ({"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "0", "ipv6/conf/default/forwarding": "0"}, False, {"ipv4"}),
        ({"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv6/conf/default/forwarding": "0"}, True, set()),
        ({"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv6/conf/default/forwarding": "1"}, True, {"ipv6"}),
        ({"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv6/conf/default/forwarding": "1"}, False, {"ipv4", "ipv6"}),
        ({"ipv4/ip_forward": "0", "ipv6/conf/all/forwarding": "0", "ipv6/conf/default/forwarding": "1"}, False, set()),
        ({"ipv4/ip_forward": "0"}, False, set()),
        ({"ipv4/ip_forward": "1"}, False, {"ipv4"}),
    ],
)
def test_a_host_that_forwards_because_of_zones_is_no_router(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parameters: dict[str, str], ours: bool, expected: set[str]
) -> None:
    for name, value in parameters.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{value}\n")
    if ours:
        (tmp_path / "ours").touch()
    monkeypatch.setattr(firewall, "FORWARDING", tmp_path / "ours")
    monkeypatch.setattr(firewall, "Path", lambda path: tmp_path / Path(path).relative_to("/proc/sys/net"))
    assert firewall.routes_others() == expected
