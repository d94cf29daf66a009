# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The room on a disk: asked for before something is written, and told of when it ran out."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError


def free(directory: Path) -> int:
    """The bytes that are free where ``directory`` is, or will be made."""
    # Not by shutil, which a converge that changes nothing has no use for.
    disk = os.statvfs(next(parent for parent in (directory, *directory.parents) if parent.exists()))
    return disk.f_bavail * disk.f_frsize


def require(what: str, needed: int, directory: Path) -> None:
    """Check that ``needed`` bytes are free where ``directory`` is, or will be made.

    :raises RingfenceError: naming ``what`` needs them.
    """
    left = free(directory)
    if needed > left:
        raise RingfenceError(f"{what} needs {needed} bytes below {directory}, and {left} bytes are free there; make room")


def is_full(error: OSError) -> bool:
    """Whether it says that the disk, or the writer's part of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def full_told(what: str, directory: Path) -> Iterator[None]:
    """Tell of the disk of ``directory`` if it gets full while ``what`` is written there.

    :raises RingfenceError: in the place of that error.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise RingfenceError(f"{what}: the disk below {directory} is full; make room and run again") from error
