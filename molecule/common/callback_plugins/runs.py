"""Shows how long the tasks of a run took, and notes each run for the tests: one line of JSON in the scenario's ``runs.jsonl``."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

_SHOWN_SECONDS = 1.0


class CallbackModule(CallbackBase):
    """Notes the tasks of one ``ansible-playbook``."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "runs"

    def __init__(self) -> None:
        super().__init__()
        self.playbook = ""
        self.tasks: list[tuple[str, float]] = []

    def v2_playbook_on_start(self, playbook: Any) -> None:
        self.playbook = Path(playbook._file_name).name

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:  # noqa: ARG002
        self.tasks.append((task.get_name(), time.monotonic()))

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Show the durations, and write the note."""
        ends = [start for _name, start in self.tasks[1:]] + [time.monotonic()]
        took = [(name, end - start) for (name, start), end in zip(self.tasks, ends, strict=True)]
        for name, seconds in took:
            if seconds >= _SHOWN_SECONDS:
                self._display.display(f"{seconds:7.1f} s  {name}")
        total = sum(seconds for _name, seconds in took)
        self._display.display(f"{total:7.1f} s  {len(took)} tasks of {self.playbook}")
        note = {
            "playbook": self.playbook,
            "tasks": len(took),
            "seconds": round(total, 1),
            "changed": sum(stats.changed.values()),
            "failed": sum(stats.failures.values()) + sum(stats.dark.values()),
        }
        with open(Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "runs.jsonl", "a", encoding="utf-8") as notes:
            notes.write(json.dumps(note) + "\n")
