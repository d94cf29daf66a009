"""Where the lab keeps its files."""

from __future__ import annotations

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
IMAGE_FILES = Path(__file__).resolve().parents[1] / "image"
"""What is laid over the packages of an image."""

OVMF_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
OVMF_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")


def cache_directory() -> Path:
    """Built images and the lab's ssh key: ``$RINGFENCE_LAB_CACHE``, or ``ringfence-lab`` in the user's cache folder."""
    if chosen := os.environ.get("RINGFENCE_LAB_CACHE"):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ.get("HOME", "/"), ".cache")
    return Path(base) / "ringfence-lab"


def run_directory() -> Path:
    """One directory per host: ``$RINGFENCE_LAB_RUN``, or ``build/lab`` of this checkout, so that checkouts do not collide."""
    return Path(os.environ.get("RINGFENCE_LAB_RUN") or CHECKOUT / "build" / "lab").absolute()
