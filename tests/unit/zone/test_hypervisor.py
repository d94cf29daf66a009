"""What an error tells of a zone's console."""

from __future__ import annotations

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.zone.hypervisor import tail

_REGISTERS = [f"[   11.70] R{number:02}: 0000000000000000" for number in range(40)]


def test_the_last_lines_are_told_with_their_control_characters_escaped() -> None:
    assert tail(b"first\nsecond\r\n\n\x1b[2J third \xff\n", 2) == "second | \\x1b[2J third \\ufffd"


def test_a_crash_is_told_before_the_last_lines() -> None:
    lines = [
        "an earlier line",
        "[   11.69] BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "[   11.69] Oops: Oops: 0002 [#1] PREEMPT SMP",
        "[   11.69] RIP: e030:example+0x10/0x20",
        *_REGISTERS,
        "[   11.70] Kernel panic - not syncing: Fatal exception in interrupt",
        "[   11.70] Kernel Offset: disabled",
    ]
    assert tail("\n".join(lines).encode(), 2) == " | ".join([*lines[1:4], "...", *lines[-2:]])


@pytest.mark.parametrize("since", [0, 1, 20])
def test_a_crash_before_the_zone_was_started_anew_is_not_told(since: int) -> None:
    crash = ["BUG: of yesterday", *_REGISTERS, "Kernel panic - not syncing: yesterday", "Rebooting in 1 seconds.."]
    lines = ["BUG: older", "Rebooting in 1 seconds..", *crash, *_REGISTERS[:since]]
    told = tail("\n".join(lines).encode(), 4)
    assert ("yesterday" in told.partition(" | ")[0], "older" in told) == (since == 0, False)
    assert told.split(" | ")[-4:] == lines[-4:]


def test_what_a_zone_makes_of_it_has_a_bound() -> None:
    told = tail(b"BUG: " * 10 + b"x" * 5000 + b"\n" + b"BUG: \n" * 2000, 8)
    assert len(told) < 13 * 170


def test_an_empty_console_is_told() -> None:
    assert tail(b"\n\n", 8) == "empty"
