"""The machine protocol of a running QEMU."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from ringfence_lab.errors import LabError

_SOCKET = "qmp.sock"
_TIMEOUT = 60.0


class Qmp:
    """One connection to the QMP socket in ``directory``; a context manager.

    :raises LabError: when QEMU does not answer.
    """

    def __init__(self, directory: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_TIMEOUT)
        # A socket's path has at most 107 characters, a checkout's may have more.
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._socket.connect(f"/proc/self/fd/{descriptor}/{_SOCKET}")
        except OSError as error:
            self._socket.close()
            raise LabError(f"QEMU does not answer on {directory / _SOCKET}: {error.strerror}") from error
        finally:
            os.close(descriptor)
        self._reader = self._socket.makefile("rb")
        self._receive()
        self.execute("qmp_capabilities")

    def __enter__(self) -> Qmp:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._reader.close()
        self._socket.close()

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Run one command and return its result.

        :raises LabError: with QEMU's own description.
        """
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = self._receive()
            if "error" in answer:
                raise LabError(f"QEMU refused {command}: {answer['error'].get('desc', answer['error'])}")
            if "return" in answer:
                return answer["return"]

    def run_job(self, command: str, arguments: dict[str, Any]) -> None:
        """Run a command that works as a QEMU job, to the job's end.

        :raises LabError: when the job fails.
        """
        job = f"lab-{time.monotonic_ns()}"
        self.execute(command, {"job-id": job, **arguments})
        while True:
            state = next(entry for entry in self.execute("query-jobs") if entry["id"] == job)
            if state["status"] == "concluded":
                break
            time.sleep(0.05)
        self.execute("job-dismiss", {"id": job})
        if "error" in state:
            raise LabError(f"QEMU's {command} failed: {state['error']}")

    def _receive(self) -> dict[str, Any]:
        try:
            line = self._reader.readline()
        except OSError as error:
            raise LabError(f"QEMU gave no answer within {_TIMEOUT:.0f} s") from error
        if not line:
            raise LabError("QEMU closed its control connection")
        answer: dict[str, Any] = json.loads(line)
        return answer
