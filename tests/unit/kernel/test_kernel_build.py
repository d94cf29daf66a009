"""What the build of the small kernel does around the compiler, which is made up."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_BUILD = Path(__file__).parents[3] / "roles" / "kernel_build" / "files" / "build"

_PROGRAMS = {
    # Also called by dpkg-deb.
    "tar": """
[ "$1" = -xf ] || exec /usr/bin/tar "$@"
touch "$4/Makefile"
""",
    "make": """
while [ "$1" != -C ]; do shift; done
case $* in
*allnoconfig) cp "$2/../zone.config" "$2/.config" ;;
*kernelrelease) echo 6.12.1 ;;
*bzImage) mkdir -p "$2/arch/x86/boot"; echo kernel >"$2/arch/x86/boot/bzImage" ;;
esac
""",
    "sync": """
echo "$1: $(ls kernel.deb*)" >>synced
""",
}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in _PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    place = tmp_path / "place"
    place.mkdir()
    (place / "zone.config").write_text("CONFIG_XEN=y\n")
    (place / "none.patch").touch()
    shutil.copy(_BUILD, place)
    return place


def _build(directory: Path) -> None:
    argv = [str(directory / "build"), "linux-source-6.12", "6.12.1-1", str(directory)]
    subprocess.run(["sh", "-c", 'umask 077; exec "$@"', "sh", *argv], check=True)


def test_the_package_is_on_the_disk_before_it_has_its_name(directory: Path) -> None:
    _build(directory)
    assert (directory / "synced").read_text() == "kernel.deb.new: kernel.deb.new\n.: kernel.deb\n"


def test_the_umask_does_not_matter(directory: Path) -> None:
    _build(directory)
    listed = subprocess.run(["dpkg-deb", "--contents", str(directory / "kernel.deb")], check=True, capture_output=True, text=True).stdout
    assert [line.split()[0] for line in listed.splitlines()] == ["drwxr-xr-x", "drwxr-xr-x", "-rw-r--r--", "-rw-r--r--"]
