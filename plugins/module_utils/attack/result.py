# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What attempts to break a promise say of it: held, broken, or not tested. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

EVERY = 0
"""Stands for every promise among the reasons why one could not be attacked."""

TESTED = {
    1: "The boot number and the command line of the kernel are compared with those of the host and of the other zone, from inside.",
    2: "The kernel of a zone is made to panic. Meanwhile the other zone and the host have to answer, and the zone has to start again.",
    3: "The zone's kernel is told to start a program on crashes, outside the container. The program leaves a trace in its file system.",
    4: "What starts programs in the container is lain in wait for and overwritten, each open directory tried as a way out, and the disks"
    " that all zones read written to. No file of the host may change.",
    5: "A node is made for each block device of the host and read; a file and sockets of the host are looked for, outside the container.",
    6: "Nodes of the other zone and of the host are read, written and opened in xenstore, and more nodes made than the quota allows.",
    7: "Memory and an event channel that the other zone shares with the host are tried to be taken, by trying all low numbers.",
    8: "Calls for the host alone are made: domctl, sysctl, platform_op, memory_op on another zone, and mapping its memory.",
    9: "Packets with foreign addresses of cards, IPv4, IPv6, ARP, neighbour discovery, routers and DHCP are sent. None may reach the other"
    " zone, and the host may keep nothing of whom it is asked by ARP in foreign names.",
    10: "The other zone, the host and the address of clouds' metadata are connected to, on ports that are not declared; one that is has to"
    " answer.",
    11: "A zone fills its memory with a pattern and dies. The next zone, which is given some of that memory, looks for it in all it has.",
    12: "A zone writes a pattern all over its disks and is removed with its volume. Made again, it looks for it.",
    13: "A partition table and a label of LVM are written to a zone's disk, and the host is told that the disk has changed.",
    14: "Images are fetched that lead out of their directory, take, delete or make files of the host, and grow beyond its disk.",
    15: "A zone takes CPU, memory, disk, network, events, xenstore and console as much as it can. Meanwhile the other zone's median answer"
    " may take three times as long as on an idle host, and no answer of it or the host 10 s.",
    16: "A zone writes to its console as fast as it can, with escape sequences. At most 1 MiB a second may reach the disk.",
    17: "Commands in a zone answer without end, with bytes that are no text, and not at all; and something else answers instead of its ssh"
    " server.",
    21: "Two zones are created and removed, one of them twice. Nothing of them may be left that was found while they ran.",
    22: "Images are fetched that were changed in one part, lack a signature that is asked for, or were changed in the store.",
}
"""By promise what the attack on it is."""


@dataclass(frozen=True)
class Attempt:
    """One attempt of a zone, and the same one without isolation, the control. ``None`` is one that could not be made."""

    row: int
    label: str
    succeeded: bool | None
    told: str
    control: bool | None
    control_told: str


def compared(
    row: int, zone: str, tried: Mapping[str, tuple[bool | None, str]], control: Mapping[str, tuple[bool | None, str]]
) -> list[Attempt]:
    """Attempts of a zone beside their controls, which have the same labels."""
    return [
        Attempt(row, f"{zone}: {label}", succeeded, told, *control.get(label, (None, "it was not made")))
        for label, (succeeded, told) in tried.items()
    ]


def judged(attempts: Sequence[Attempt]) -> tuple[str, str | None, list[str]]:
    """The result of a promise, why it is not held, and the evidence.

    An attempt that succeeded breaks it, whatever its control did. Else each attempt must have failed, and its control succeeded.
    """
    broken = [attempt for attempt in attempts if attempt.succeeded]
    if broken:
        lines = [f"{attempt.label}: succeeded: {attempt.told}" for attempt in broken]
        return "broken", lines[0], lines
    open_ = [f"{attempt.label}: could not be tried: {attempt.told}" for attempt in attempts if attempt.succeeded is None]
    open_ += [
        f"{attempt.label}: its control, without isolation, did not succeed: {attempt.control_told}"
        for attempt in attempts
        if attempt.succeeded is False and not attempt.control
    ]
    evidence = [
        f"{attempt.label}: refused: {attempt.told}; control: {attempt.control_told}" for attempt in attempts if attempt.succeeded is False
    ]
    if open_ or not attempts:
        return "not_tested", (open_ or ["nothing was tried"])[0], open_ + evidence
    return "held", None, evidence
