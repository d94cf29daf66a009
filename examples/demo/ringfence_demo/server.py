"""A real OCI registry on this machine's loopback: Debian's docker-registry."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError

_PROGRAM = "docker-registry"
_START_TIMEOUT = 20.0
_STOP_TIMEOUT = 10.0


def start(directory: Path, port: int) -> bool:
    """Let a registry with its data below ``directory`` listen on ``127.0.0.1:port``; ``False`` if it does already.

    :raises RingfenceError: when the program is missing, the port is taken, or it does not come up.
    """
    if _running(directory, port):
        return False
    if shutil.which(_PROGRAM) is None:
        raise RingfenceError(f"{_PROGRAM} is missing on this machine; install with: apt-get install {_PROGRAM}")
    stop(directory)
    if _answers(port):
        raise RingfenceError(f"port {port} on 127.0.0.1 is used by another program; end it, or choose another port with --port")
    directory.mkdir(parents=True, exist_ok=True)
    configuration = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    (directory / "config.yml").write_text(json.dumps(configuration), encoding="utf-8")  # JSON is YAML
    with open(directory / "registry.log", "wb") as log:
        process = subprocess.Popen(
            [_PROGRAM, "serve", str(directory / "config.yml")], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + _START_TIMEOUT
    while not _answers(port):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            said = (directory / "registry.log").read_text(encoding="utf-8", errors="replace").strip()[-1000:]
            raise RingfenceError(f"{_PROGRAM} does not come up on port {port}: {said or 'no output'}")
        time.sleep(0.05)
    _state(directory).write_text(json.dumps({"pid": process.pid, "started": _started(process.pid), "port": port}), encoding="utf-8")
    return True


def stop(directory: Path) -> bool:
    """End the registry that :func:`start` started there; ``False`` if there is none. No other process is touched."""
    state = _read_state(directory)
    pid = int(state.get("pid", 0))
    running = pid > 0 and _started(pid) == state["started"]
    if running:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_TIMEOUT
        while _started(pid) == state["started"]:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
    _state(directory).unlink(missing_ok=True)
    return running


def _running(directory: Path, port: int) -> bool:
    state = _read_state(directory)
    return state.get("port") == port and _started(int(state["pid"])) == state["started"] and _answers(port)


def _state(directory: Path) -> Path:
    return directory / "process.json"


def _read_state(directory: Path) -> dict[str, int]:
    try:
        state: dict[str, int] = json.loads(_state(directory).read_bytes())
    except FileNotFoundError:
        return {}
    return state


def _started(pid: int) -> int:
    """When a process started, in clock ticks since boot: with its id, that names it for good. 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
