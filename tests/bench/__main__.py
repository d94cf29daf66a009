"""``make bench``: ratios against a floor measured in the same run, on the demo's host. A table, and JSON in ``build/bench/``.

Nothing is asserted: an emulated machine's times say nothing by themselves, and a ratio is for people to judge.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_DEMO = Path("build/demo")
_RESULTS = Path("build/bench")
_LAB = [sys.executable, "molecule/lab"]
_VARIABLES = ["-i", str(_DEMO / "inventory.yml"), "-e", f"@{_DEMO / 'references.yml'}"]
_ROUNDS = 3


def main() -> None:
    """Measure on the demo's host, which must have been converged."""
    if not (_DEMO / "inventory.yml").exists():
        raise SystemExit("error: there is no demo host to measure on; run `make demo` first")
    results: dict[str, Any] = {"restore_seconds": _timed([*_LAB, "restore", "demo", "converged"])}
    site = ["ansible-playbook", *_VARIABLES, "-e", "@examples/demo/zones.yml", "playbooks/site.yml"]
    began = time.monotonic()
    output = subprocess.run(site, check=True, capture_output=True, text=True).stdout
    results["site_seconds"] = time.monotonic() - began
    recap = re.search(r"ok=(\d+)\s+changed=(\d+).*skipped=(\d+)", output)
    if recap is None:
        raise SystemExit("error: ansible-playbook printed no recap")
    results["site_tasks"], results["site_changed"] = int(recap[1]), int(recap[2])
    results["site_tasks_skipped"] = int(recap[3])
    for mode in ("pv", "pvh"):
        subprocess.run(["ansible-playbook", *_VARIABLES, "-e", f"bench_mode={mode}", "tests/bench/bench.yml"], check=True)
        results[mode] = _on_host("bench")
    size = subprocess.run([*_LAB, "ssh", "demo", "--", "stat -c %s /var/lib/ringfence/runtime/*/base.img"], check=True, capture_output=True)
    results["base_bytes"] = max(int(line) for line in size.stdout.split())
    subprocess.run([*_LAB, "restore", "demo", "converged"], check=True)
    _RESULTS.mkdir(parents=True, exist_ok=True)
    (_RESULTS / "bench.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(_table(results))


def _on_host(zone: str) -> dict[str, float]:
    script = Path("tests/bench/on_host.py").read_bytes()
    command = [*_LAB, "ssh", "demo", "--", f"python3 - {shlex.quote(zone)} {_ROUNDS}"]
    answer: dict[str, float] = json.loads(subprocess.run(command, input=script, check=True, stdout=subprocess.PIPE).stdout)
    return answer


def _timed(command: list[str]) -> float:
    began = time.monotonic()
    subprocess.run(command, check=True)
    return time.monotonic() - began


def _table(results: dict[str, Any]) -> str:
    rows = [("measured", "value", "floor", "ratio", "goal")]
    for mode in ("pv", "pvh"):
        found = results[mode]
        zone, bare = found["zone_start_seconds"], found["bare_start_seconds"]
        rows.append((f"zone start, {mode}: to the first output, s", f"{zone:.1f}", f"{bare:.1f}", f"{zone / bare:.2f}", "≤ 1.5"))
        taken = (found["bare_available_kib"] - found["zone_available_kib"]) / 1024
        rows.append((f"zone memory, {mode}: above a do-nothing init, MiB", f"{taken:.1f}", "0", "", "≤ 6"))
        rows.append((f"memory of the host for one zone, {mode}, MiB", f"{found['host_kib_for_zone'] / 1024:.1f}", "0", "", "≤ 3"))
    rows.append(("zone base, MB", f"{results['base_bytes'] / 1e6:.1f}", "", "", "≤ 10"))
    rows.append(("site on a converged host: tasks", str(results["site_tasks"]), "", "", "≤ 15"))
    rows.append(("site on a converged host: changed", str(results["site_changed"]), "", "", "0"))
    rows.append(("site on a converged host, s", f"{results['site_seconds']:.0f}", "", "", "≤ 60"))
    rows.append(("host from snapshot to ssh, s", f"{results['restore_seconds']:.1f}", "", "", "≤ 10"))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


if __name__ == "__main__":
    main()
