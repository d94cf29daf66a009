"""The lab's own ssh key: every host of this user accepts it, and nothing else does."""

from __future__ import annotations

from pathlib import Path

from ringfence_lab.programs import run


def lab_key(cache: Path) -> Path:
    """The private key in ``cache``, made when first asked for; its public half lies beside it with the suffix ``.pub``."""
    key = cache / "id_ed25519"
    if not key.exists():
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ringfence-lab", "-f", str(key)])
    return key
