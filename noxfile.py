"""Defines the antsibull-nox sessions of this collection; ``make lint`` runs them."""

from __future__ import annotations

import subprocess

import antsibull_nox
from antsibull_nox.sessions.license_check import add_license_check

antsibull_nox.load_antsibull_nox_toml()


def _outside_plugins() -> list[str]:
    """Return the paths of all files that are no plugins: those stand under LICENSE without a header each."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], capture_output=True, check=True, text=True
    )
    return [path for path in listed.stdout.split("\0") if path and not path.startswith("plugins/")]


add_license_check(run_reuse=False, license_check_extra_ignore_paths=_outside_plugins())
