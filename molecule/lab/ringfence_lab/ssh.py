"""How a lab host is reached."""

from __future__ import annotations

import shlex
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ringfence_lab.ports import LOOPBACK


@dataclass(frozen=True)
class Ssh:
    """Root's ssh access to one host."""

    port: int
    key: Path
    known_hosts: Path

    def options(self) -> list[str]:
        """The options that make ssh independent of the user's own configuration and known hosts."""
        settings = (
            f"UserKnownHostsFile={shlex.quote(str(self.known_hosts))}",
            "StrictHostKeyChecking=accept-new",
            "IdentitiesOnly=yes",
            "LogLevel=ERROR",
            "ServerAliveInterval=15",
            "ServerAliveCountMax=8",
        )
        return ["-F", "none", *(word for setting in settings for word in ("-o", setting))]

    def command(self, *remote: str) -> list[str]:
        """The command line that runs ``remote`` (a shell command line, or nothing for a login) on the host."""
        return ["ssh", *self.options(), "-i", str(self.key), "-p", str(self.port), f"root@{LOOPBACK}", *remote]

    def server_speaks(self, seconds: float = 30.0) -> bool:
        """Whether the host's sshd sends its banner: QEMU accepts the connection long before the guest does.

        Patient, because sshd counts connections that end early, and refuses all of a source that makes many of them.
        """
        try:
            with socket.create_connection((LOOPBACK, self.port), seconds) as connection:
                connection.settimeout(seconds)
                return connection.recv(4).startswith(b"SSH")
        except OSError:
            return False

    def succeeds(self, remote: str, seconds: float = 60.0) -> bool:
        """Run ``remote`` on the host; whether it exited with status 0 within ``seconds``."""
        try:
            done = subprocess.run(
                self.command(remote),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def inventory(self) -> dict[str, object]:
        """Ansible's connection variables."""
        return {
            "ansible_host": LOOPBACK,
            "ansible_port": self.port,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.key),
            "ansible_ssh_common_args": " ".join(shlex.quote(option) for option in self.options()),
            "ansible_ssh_args": "-o ControlMaster=auto -o ControlPersist=600s",
            "ansible_pipelining": True,
            "ansible_python_interpreter": "/usr/bin/python3",
        }
