"""What an error tells of a zone's console, and how its lines are shown and followed."""

from __future__ import annotations

import threading
import tracemalloc
from pathlib import Path

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.zone import console
from ansible_collections.ringfence.zones.plugins.module_utils.zone.console import lines_of, tail

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


def test_the_console_of_a_zone_that_has_ended_is_told_after_its_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "guest-web.log"
    monkeypatch.setattr(console, "console_log", lambda _name: log)
    assert console.console_tail("web") == "none was logged"
    log.with_name("guest-web.log.1").write_bytes(b"its last words\n")
    assert console.console_tail("web") == "its last words"
    log.write_bytes(b"anew\n")
    assert console.console_tail("web") == "anew"


def test_an_empty_console_is_told() -> None:
    assert tail(b"\n\n", 8) == "empty"


def test_what_a_container_has_not_ended_with_a_line_feed_is_not_the_kernels(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"[    0.000001] Kernel panic[   12.345678] reboot: Power down\r\nno time\r\n")
    kernel, container = ([*lines_of(log, 9, follow=False, of_kernel=of_kernel)] for of_kernel in (True, False))
    assert kernel == ["[   12.345678] reboot: Power down", "no time"]
    assert container == ["[    0.000001] Kernel panic"]


@pytest.mark.parametrize("rotated", ["all", "a part", "nothing"])
@pytest.mark.parametrize(
    ("of_kernel", "expected"), [(True, ["[    0.000001] it\\x1b failed"]), (False, ["999", "1000"]), (None, ["999", "1000"])]
)
def test_the_last_lines_are_of_the_kind_that_is_wanted_also_after_a_rotation(
    tmp_path: Path, rotated: str, of_kernel: bool | None, expected: list[str]
) -> None:
    """However many of the other kind came since. A rotation may cut a line."""
    log, before = tmp_path / "log", tmp_path / "log.1"
    text = b"[    0.000001] it\x1b failed\r\n" + b"".join(b"%d\n" % number for number in range(1001))
    if rotated == "all":
        before.write_bytes(text)
    elif rotated == "a part":
        before.write_bytes(text[:-2])
        log.write_bytes(text[-2:])
    else:
        log.write_bytes(text)
    assert list(lines_of(log, 2, follow=False, of_kernel=of_kernel)) == expected


def test_a_log_that_was_rotated_is_followed_into_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_POLL", 0.01)
    log, before = tmp_path / "log", tmp_path / "log.1"
    before.write_bytes(b"old\n")
    lines = lines_of(log, 9, follow=True)
    assert next(lines) == "old"
    log.write_bytes(b"new\n")
    assert next(lines) == "new"
    lines.close()  # type: ignore[attr-defined]
    assert list(lines_of(log, 9, follow=False)) == ["old", "new"]


def test_of_a_line_without_an_end_only_a_part_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as handle:
        handle.truncate(100 << 20)
    tracemalloc.start()
    try:
        assert len(list(lines_of(log, 2, follow=False))) == 2
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def test_logs_are_followed_past_a_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_POLL", 0.01)
    log = tmp_path / "log"

    def later(path: Path, text: bytes) -> None:
        def append() -> None:
            with path.open("ab") as handle:
                handle.write(text)

        threading.Timer(0.05, append).start()

    log.write_bytes(b"old\nlast\n")
    lines = lines_of(log, 1, follow=True)
    assert next(lines) == "last"
    later(log, b"more\n")
    assert next(lines) == "more"
    # Xen's console daemon does not know of it yet.
    later(log.rename(tmp_path / "log.1"), b"late\nunfin")
    assert next(lines) == "late"
    later(log, b"ished\nnew\n")
    assert [next(lines), next(lines)] == ["unfinished", "new"]
    later(log, b"newer\n")
    assert next(lines) == "newer"
    lines.close()  # type: ignore[attr-defined]


def test_a_line_without_an_end_is_shown_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_LONGEST", 3)
    log = tmp_path / "log"
    log.write_bytes(b"old\n")
    lines = lines_of(log, 1, follow=True)
    assert next(lines) == "old"
    log.write_bytes(b"old\nfour\x1b")
    assert next(lines) == "four\\x1b"
    lines.close()  # type: ignore[attr-defined]


def test_no_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RingfenceError, match="there is no log yet"):
        next(lines_of(tmp_path / "none", 1, follow=False))
