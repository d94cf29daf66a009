"""The partitions of a lab disk, and how they are filled without root and without a loop device."""

from __future__ import annotations

import os
from pathlib import Path

from ringfence_lab.programs import run

ROOT_UUID = "72696e67-6665-4e63-8565-7a6f6e657321"
ESP_SERIAL = "52464C42"
"""The volume serial; its file system UUID is 5246-4C42."""

_SECTOR = 512
_ESP_START, _ESP_SECTORS = 2048, 64 * 2048
_ROOT_START = _ESP_START + _ESP_SECTORS
_SIZE_GIB = 12
_END_RESERVE = 2048
"""Sectors kept free at the end for the backup GPT."""


def partition_table() -> str:
    """The input of sfdisk: a GPT with an EFI system partition and a root partition."""
    total = _SIZE_GIB * 2**30 // _SECTOR
    root_sectors = total - _ROOT_START - _END_RESERVE
    return f"label: gpt\nstart={_ESP_START}, size={_ESP_SECTORS}, type=uefi\nstart={_ROOT_START}, size={root_sectors}, type=linux\n"


def make_disk(root_archive: Path, disk: Path, work: Path) -> None:
    """Write the raw, sparse ``disk`` from a tar archive of the root file system; ``/boot/efi`` of it becomes the ESP.

    :param work: an empty directory for the unpacked tree.
    :raises LabError: when a tool fails.
    """
    with open(disk, "wb") as handle:
        handle.truncate(_SIZE_GIB * 2**30)
    run(["sfdisk", "--quiet", str(disk)], stdin=partition_table().encode())
    run(["mkfs.vfat", "-F", "32", "-s", "1", "-i", ESP_SERIAL, "-n", "ESP", "--offset", str(_ESP_START), str(disk), str(_ESP_SECTORS // 2)])
    root_kib = (_SIZE_GIB * 2**30 // _SECTOR - _ROOT_START - _END_RESERVE) // 2
    offset = _ROOT_START * _SECTOR
    script = (
        'set -e; tar --extract --numeric-owner --same-owner --preserve-permissions --xattrs --file "$1" --directory "$2"; '
        'cp -r "$2/boot/efi/EFI" "$3"; rm -r "$2/boot/efi/EFI"; '
        f'mkfs.ext4 -q -F -U {ROOT_UUID} -L root -m 1 -E offset={offset},lazy_itable_init=1,lazy_journal_init=1 -d "$2" "$4" {root_kib}k'
    )
    tree, esp = work / "tree", work / "EFI"
    tree.mkdir()
    # Without root, fakeroot remembers the owners between tar and mkfs.
    prefix = [] if os.geteuid() == 0 else ["fakeroot"]
    run([*prefix, "sh", "-c", script, "sh", str(root_archive), str(tree), str(esp), str(disk)])
    run(["mcopy", "-s", "-i", f"{disk}@@{_ESP_START * _SECTOR}", str(esp), "::"])
