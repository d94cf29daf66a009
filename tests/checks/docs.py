"""Builds the collection's documentation into build/docs, strictly and without a network."""

from __future__ import annotations

import shutil
import subprocess
import sys

from tree import BUILD

_SETTINGS = """
# Other projects' indexes would have to be downloaded; references to them stay plain text.
intersphinx_mapping = {}
suppress_warnings = ["ref.ref"]
"""


def main() -> int:
    site = BUILD / "docs"
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    init = ["antsibull-docs", "sphinx-init", "--use-current", "--fail-on-error", "--dest-dir", str(site), "ringfence.zones"]
    subprocess.run(init, check=True)
    with (site / "conf.py").open("a", encoding="utf-8") as configuration:
        configuration.write(_SETTINGS)
    status = subprocess.run(["./build.sh"], cwd=site, check=False).returncode
    if status == 0:
        print("the documentation is build/docs/build/html/index.html")
    return status


if __name__ == "__main__":
    sys.exit(main())
