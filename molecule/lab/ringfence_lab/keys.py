"""The lab's own ssh key: every host of this user accepts it, and nothing else does."""

from __future__ import annotations

import fcntl
from pathlib import Path

from ringfence_lab.programs import run


def lab_key(cache: Path) -> Path:
    """The private key in ``cache``, made when first asked for; its public half lies beside it with the suffix ``.pub``."""
    key = cache / "id_ed25519"
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Hosts that start side by side ask for it at the same time.
    with open(cache / "key.lock", "w", encoding="ascii") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not key.exists():
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ringfence-lab", "-f", str(key)])
    return key
