"""A real OCI registry on this machine's loopback: Debian's docker-registry."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
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
    pid = _spawn(directory)
    started = _started(pid)
    deadline = time.monotonic() + _START_TIMEOUT
    while not _answers(port):
        if not _alive(pid, started) or time.monotonic() > deadline:
            _end(pid, started)
            said = (directory / "registry.log").read_text(encoding="utf-8", errors="replace").strip()[-1000:]
            raise RingfenceError(f"{_PROGRAM} does not come up on port {port}: {said or 'no output'}")
        time.sleep(0.05)
    _state(directory).write_text(json.dumps({"pid": pid, "started": started, "port": port}), encoding="utf-8")
    return True


def stop(directory: Path) -> bool:
    """End the registry that :func:`start` started there; ``False`` if there is none. No other process is touched."""
    state = _read_state(directory)
    stopped = bool(state) and _end(state["pid"], state["started"])
    _state(directory).unlink(missing_ok=True)
    return stopped


def _spawn(directory: Path) -> int:
    """Start the program so that it outlives this one, and return its process id."""
    log = os.open(directory / "registry.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        return os.posix_spawnp(
            _PROGRAM,
            [_PROGRAM, "serve", str(directory / "config.yml")],
            os.environ,
            setsid=True,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
        )
    finally:
        os.close(log)


def _end(pid: int, started: int) -> bool:
    """End the process with this id and start; ``False`` if it has ended."""
    if not _alive(pid, started):
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT
    while _alive(pid, started):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    return True


def _running(directory: Path, port: int) -> bool:
    state = _read_state(directory)
    return state.get("port") == port and _alive(state["pid"], state["started"]) and _answers(port)


def _alive(pid: int, started: int) -> bool:
    return started != 0 and _started(pid) == started


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
