"""Tests of the library's ``host``."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.host import _local_ports, listening_ports, xl_info

# From proc(5); the ports are 8080 (1F90) listening, 22 (0016) connected, 631 (0277) listening.
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 20911 1 0000000000000000 100 0 0 10 0
   1: 0100007F:0016 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 20912 1 0000000000000000 100 0 0 10 0
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt
   0: 00000000000000000000000000000000:0277 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000
"""


def test_the_ports_of_the_sockets_in_a_state_are_read() -> None:
    assert _local_ports(TCP, "0A") == {8080}
    assert _local_ports(TCP, "01") == {22}
    assert _local_ports(TCP6, "0A") == {631}


@pytest.mark.parametrize("table", ["", TCP.splitlines()[0]])
def test_a_table_without_sockets_has_no_ports(table: str) -> None:
    assert _local_ports(table, "0A") == set()


@pytest.mark.parametrize(("kind", "protocol"), [(socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")], ids=["tcp", "udp"])
def test_a_port_is_in_use_while_a_program_listens_on_it(kind: int, protocol: str) -> None:
    with socket.socket(socket.AF_INET, kind) as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        if kind == socket.SOCK_STREAM:
            assert (port, protocol) not in listening_ports()  # Bound alone serves nobody.
            listener.listen()
        assert (port, protocol) in listening_ports()
    assert (port, protocol) not in listening_ports()


def test_what_xl_says_is_read_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "xl").write_text("#!/bin/sh\n[ $1 = info ] && printf 'free_memory  : 512\\nxen_commandline : a=b:c d\\nodd\\n'\n")
    (tmp_path / "xl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert xl_info() == {"free_memory": "512", "xen_commandline": "a=b:c d"}
