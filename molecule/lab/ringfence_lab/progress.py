"""Says what is being done and how long it has taken."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Lines like ``[  12 s] web: waiting for ssh`` on standard error; standard output stays free for results."""

    def __init__(self, subject: str, stream: TextIO | None = None) -> None:
        self._subject = subject
        self._stream = stream if stream is not None else sys.stderr
        self._started = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the work began."""
        return time.monotonic() - self._started

    def say(self, text: str) -> None:
        """Print one line."""
        print(f"[{self.elapsed:4.0f} s] {self._subject}: {text}", file=self._stream, flush=True)
