"""Runs on a Xen host as root: a command in a zone through its channel, against a login of ssh to the host itself, alternately.

``channel_login ZONE ROUNDS`` prints JSON. Both are one run of the same ssh program, from where the module ``zone_exec`` runs: on the host.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.zone import channel
from ansible_collections.ringfence.zones.plugins.module_utils.zone.hypervisor import Hypervisor
from ringfence_bench.on_host.floor import compared

_AUTHORIZED = Path("/root/.ssh/authorized_keys")


def main() -> None:
    """Measure with a key that exists for the measurement only."""
    zone, rounds = sys.argv[1], int(sys.argv[2])
    number = Hypervisor().zone_domain_id(zone)
    before = _AUTHORIZED.read_bytes()
    with tempfile.TemporaryDirectory(prefix="ringfence-bench-") as directory:
        key = Path(directory) / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        login = ["ssh", "-T", "-q", "-F", "none", "-i", str(key), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]
        login += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "root@127.0.0.1", "true"]
        try:
            _AUTHORIZED.write_bytes(before.rstrip(b"\n") + b"\n" + key.with_suffix(".pub").read_bytes())
            compared(1, channel=lambda: _execute(zone, number), login=lambda: subprocess.run(login, check=True))  # Warm now.
            times = compared(rounds, channel=lambda: _execute(zone, number), login=lambda: subprocess.run(login, check=True))
        finally:
            _AUTHORIZED.write_bytes(before)
    print(json.dumps(times))


def _execute(zone: str, number: int) -> None:
    status = channel.execute(zone, number, ["true"]).exit_status
    if status != 0:
        raise SystemExit(f"zone {zone}: true exited with {status}")


if __name__ == "__main__":
    main()
