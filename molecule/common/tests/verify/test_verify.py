"""What ``verify`` finds on a live host: nothing broken, and exactly what is broken on purpose."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from live import Live

_AUTOSTART = "python3 -c \"import libvirt; libvirt.open('xen:///system').lookupByName('web').setAutostart({})\""
_NAME_OF_WEB = "xenstore-chmod /local/domain/$(xl domid web)/name n0 r$(xl domid web)"
_UDEV_RULE = "/etc/udev/rules.d/60-loop-ringfence.rules"
_GRUB_FILE = "/etc/default/grub.d/zz-ringfence.cfg"

_NEEDS_ATTACK = {2, 3, 4, 7, 8, 11, 12, 14, 15, 17}

ONE_BY_ONE = {
    "a rule that accepts": (10, "nft insert rule inet ringfence forward accept", "nft -f /var/lib/ringfence/network.nft"),
    "no check of sources": (9, "nft flush chain inet ringfence spoofed", "nft -f /var/lib/ringfence/network.nft"),
    "a node that a peer may write": (6, f"{_NAME_OF_WEB} b$(xl domid api)", _NAME_OF_WEB),
    "a process with the name of a device model": (
        18,
        "cp /usr/bin/sleep /root/qemu-system-i386; setsid --fork /root/qemu-system-i386 600 >/dev/null 2>&1 </dev/null",
        "pkill -x qemu-system-i38; rm /root/qemu-system-i386",
    ),
}
"""By what is weakened: the row that it breaks, how it is done, and the way back."""

AT_ONCE = {
    9: ("ip neighbour replace 198.18.0.99 lladdr 00:16:3e:00:00:63 dev rz1 nud stale", "ip neighbour del 198.18.0.99 dev rz1"),
    13: (f"mv {_UDEV_RULE} /root/", f"mv /root/{_UDEV_RULE.rpartition('/')[2]} {_UDEV_RULE}"),
    16: ("systemctl disable ringfence-console-logs.timer", "systemctl enable ringfence-console-logs.timer"),
    20: (_AUTOSTART.format(0), _AUTOSTART.format(1)),
    21: ("mkdir /var/lib/ringfence/zones/gone", "rmdir /var/lib/ringfence/zones/gone"),
    22: ("chmod o+w /var/lib/ringfence/images/*/rootfs.img", "chmod o-w /var/lib/ringfence/images/*/rootfs.img"),
    23: (
        "setsid --fork sh -c 'echo $$ >/run/verify.pid; sleep 600; : {secret}' >/dev/null 2>&1 </dev/null",
        "kill -- -$(cat /run/verify.pid); rm /run/verify.pid",
    ),
    24: (f"echo '# more' >>{_GRUB_FILE}", f"sed -i '$d' {_GRUB_FILE}"),
}
"""By row that it breaks: how it is done, and the way back."""


def _report(live: Live) -> dict[str, Any]:
    result = live.module("verify", {})
    assert not result["failed"], result
    assert not result["changed"]
    report: dict[str, Any] = result["report"]
    return report


def _broken(report: dict[str, Any]) -> dict[int, list[str]]:
    return {row["number"]: row["evidence"] for row in report["rows"] if row["result"] == "broken"}


def test_what_can_be_observed_holds(live: Live, show: Callable[[str], None]) -> None:
    began = time.monotonic()
    report = _report(live)
    seconds = time.monotonic() - began
    assert _broken(report) == {}
    untested = {row["number"]: row["why"] for row in report["rows"] if row["result"] == "not_tested"}
    assert set(untested) == _NEEDS_ATTACK, untested
    assert report["information"]["unread"] == {}
    assert report["versions"]["xen"].startswith("4.")
    assert {zone["name"]: zone["running"] for zone in report["zones"]} == {"web": True, "api": True}
    assert seconds < 60
    show(f"verified in {seconds:.0f} s: {report['summary']}")


@pytest.mark.parametrize("weakened", ONE_BY_ONE)
def test_what_is_weakened_is_told_by_its_row_alone(live: Live, weakened: str) -> None:
    row, weaken, restore = ONE_BY_ONE[weakened]
    live.run(weaken)
    try:
        broken = _broken(_report(live))
    finally:
        live.run(restore)
    assert set(broken) == {row}, broken


def test_many_weaknesses_are_told_by_their_rows_and_gone_when_they_are(live: Live) -> None:
    secret = live.variables["ringfence_secrets"]["password"].strip()
    undo = []
    try:
        for weaken, restore in AT_ONCE.values():
            undo.append(restore)
            live.run(weaken.replace("{secret}", secret))
        broken = _broken(_report(live))
    finally:
        for restore in undo:
            live.run(restore)
    assert set(broken) == set(AT_ONCE), broken
    assert secret not in str(broken)
    assert _broken(_report(live)) == {}


def test_a_libvirt_that_does_not_answer_leaves_rows_untested_and_none_broken(live: Live) -> None:
    live.run("systemctl kill --signal=STOP libvirtd.service")
    try:
        report = _report(live)
    finally:
        live.run("systemctl kill --signal=CONT libvirtd.service")
    assert _broken(report) == {}
    untested = {row["number"]: row["why"] for row in report["rows"] if row["result"] == "not_tested"}
    assert set(untested) == _NEEDS_ATTACK | {1, 5, 6, 9, 10, 13, 19, 20, 21, 22, 23}
    assert "libvirt does not answer within 20 s" in untested[1]
