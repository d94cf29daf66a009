# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run attacks one after the other in one process, and print their attempts as JSON: starting Python costs a slow machine a second."""

from __future__ import annotations

import importlib
import json
import sys


def main() -> None:
    """Carry out a list of programs and their parameters, which is the only argument."""
    told = {}
    for program, parameters in json.loads(sys.argv[1]):
        try:
            told[program] = importlib.import_module(program).attack(**parameters)
        except Exception as error:  # noqa: BLE001 - whatever stops one program says nothing of the next.
            told[program] = [[program, None, f"{type(error).__name__}: {error}"]]
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
