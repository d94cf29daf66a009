"""Packages the demo's kernels: Debian's for virtual machines, a third of the size of those for any machine."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.image import oci_layout, registry
from ansible_collections.ringfence.zones.plugins.module_utils.kernel import package as kernel_image
from ansible_collections.ringfence.zones.plugins.module_utils.kernel import sources
from ringfence_demo.cache import TAG, layout

_PACKAGE = "linux-image-cloud-amd64"
_BUILD_CODE = (Path(__file__), Path(kernel_image.__file__), Path(sources.__file__), Path(oci_layout.__file__))


def build(name: str, suite: str, cache: Path) -> Path:
    """The OCI layout of a suite's kernel, from ``cache`` if it was packaged before by the same code.

    The kernel is that of the day it is first packaged.
    """

    def package(work: Path) -> None:
        with _apt_of(suite, work / "apt"):
            source = sources.from_apt(_PACKAGE)
            kernel_image.package(source, f"oci:{work}/layout:{TAG}", "zone", check=False)

    document = json.dumps([name, suite, _PACKAGE, registry.host_architecture()])
    key = hashlib.sha256(document.encode() + b"".join(path.read_bytes() for path in _BUILD_CODE)).hexdigest()[:16]
    return layout(cache / "kernels" / f"{name}-{key}", package)


@contextmanager
def _apt_of(suite: str, directory: Path) -> Iterator[None]:
    """Let apt see the packages of ``suite``, with its state in ``directory``, whatever this machine's own release is."""
    for name in ("lists/partial", "archives/partial"):
        (directory / name).mkdir(parents=True)
    (directory / "status").touch()
    signed = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    archives = (f"debian {suite}", f"debian-security {suite}-security")
    (directory / "sources.list").write_text("".join(f"deb {signed} http://deb.debian.org/{archive} main\n" for archive in archives))
    settings = {
        "APT::Architecture": registry.host_architecture(),
        # Another user could not write here.
        "APT::Sandbox::User": "root",
        "Dir::Cache": directory,
        "Dir::Etc::sourcelist": directory / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State": directory,
        "Dir::State::status": directory / "status",
    }
    (directory / "apt.conf").write_text("".join(f'{key} "{value}";\n' for key, value in settings.items()))
    before = os.environ.get("APT_CONFIG")
    os.environ["APT_CONFIG"] = str(directory / "apt.conf")
    try:
        run(["apt-get", "--quiet", "update", "--error-on=any"])
        yield
    finally:
        del os.environ["APT_CONFIG"]
        if before is not None:
            os.environ["APT_CONFIG"] = before
