"""The image with the tools of ``make bench``, made of Debian's packages like the demo's."""

from __future__ import annotations

from ringfence_demo.definitions import BASE, PATH, Definition

DEFINITIONS = (
    Definition(
        name="bench",
        packages=(*BASE, "coreutils", "fio", "iperf3", "sysbench"),
        config={"Env": [PATH], "Cmd": ["sleep", "infinity"], "StopSignal": "SIGKILL"},
    ),
)
