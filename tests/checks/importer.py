"""Builds the collection and imports it with galaxy-importer, as Galaxy would.

galaxy-importer succeeds when it skips a check whose program it does not find, so every warning fails here, and its
result must name every module and role. ansible-lint, which it would run too, has a check of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tree import BUILD, ROOT, copy_collection

IMPORTER_BIN = BUILD / "importer" / "bin"


def content_of(root: Path) -> set[tuple[str, str]]:
    """Return type and name of each module and role that the collection in ``root`` holds."""
    modules = {("module", path.stem) for path in root.glob("plugins/modules/*.py")}
    roles = {("role", path.parent.parent.name) for path in root.glob("roles/*/meta/argument_specs.yml")}
    return modules | roles


def problems(log: str, result: dict[str, Any], expected: set[tuple[str, str]]) -> list[str]:
    """Return what shows that the importer complained, skipped a check, or did not see part of the collection."""
    found = [line for line in log.splitlines() if line.startswith(("WARNING", "ERROR", "CRITICAL")) or "skipping" in line.lower()]
    imported = {(part["content_type"], part["name"]) for part in result["contents"]}
    documented = {(part["content_type"], part["content_name"]) for part in result["docs_blob"]["contents"] if part["doc_strings"]}
    found += [f"not imported: {kind} {name}" for kind, name in sorted(expected - imported)]
    found += [f"imported without documentation: module {name}" for kind, name in sorted(expected - documented) if kind == "module"]
    return found


def main() -> int:
    work = BUILD / "galaxy"
    collection = copy_collection(work)
    environment = {
        **os.environ,
        "PATH": f"{IMPORTER_BIN}{os.pathsep}{os.environ['PATH']}",
        "GALAXY_IMPORTER_RUN_ANSIBLE_LINT": "false",
        "GALAXY_IMPORTER_TMP_ROOT_DIR": str(work),
        "GALAXY_IMPORTER_ANSIBLE_LOCAL_TMP": str(work / "tmp"),
    }
    for old in work.glob("*.tar.gz"):
        old.unlink()
    build = ["ansible-galaxy", "collection", "build", "--output-path", str(work)]
    subprocess.run(build, cwd=collection, env=environment, check=True)
    (artifact,) = work.glob("*.tar.gz")
    run = subprocess.run(
        [str(IMPORTER_BIN / "python"), "-m", "galaxy_importer.main", artifact.name],
        cwd=work,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(run.stdout)
    if run.returncode != 0:
        return run.returncode
    result = json.loads((work / "importer_result.json").read_text(encoding="utf-8"))
    found = problems(run.stdout, result, content_of(ROOT))
    print("\n".join(found) if found else f"Galaxy would import {artifact.name} with its {len(result['contents'])} parts")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
