"""Tests of the library's ``verify.xenstore``, with a daemon that answers as Xen's does, and with some that do not."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.verify import xenstore
from ansible_collections.ringfence.zones.plugins.module_utils.verify.facts import Node

_KINDS = {1: "list", 2: "value", 3: "access"}
_HEADER = struct.Struct("=4I")
_Answer = Callable[[str, str], tuple[int, bytes]]

TREE = {"/": (b"", b"n0\0"), "/local": (b"", b"n0\0r3\0"), "/local/data": (b"\xff\0\nx", b"b3\0")}
"""Paths, each with a value and its permissions."""


def _of_tree(kind: str, path: str) -> tuple[int, bytes]:
    if path not in TREE:
        return 16, b"ENOENT\0"
    value, access = TREE[path]
    below = [one.removeprefix(path).strip("/") for one in TREE if one.startswith(path) and one != path]
    names = b"".join(f"{name}\0".encode() for name in below if "/" not in name)
    return next(number for number, name in _KINDS.items() if name == kind), {"list": names, "value": value, "access": access}[kind]


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[_Answer], None]]:
    """A function that starts a daemon, which answers each request for a kind of thing of a path as it is told to."""
    path = str(tmp_path / "socket")
    monkeypatch.setattr(xenstore, "SOCKET", path)
    with socket.socket(socket.AF_UNIX) as listening:

        def serve(connection: socket.socket, answer: _Answer) -> None:
            with connection, connection.makefile("rb") as requests, contextlib.suppress(OSError):
                while head := requests.read(_HEADER.size):
                    kind, number, transaction, length = _HEADER.unpack(head)
                    result, content = answer(_KINDS[kind], requests.read(length).rstrip(b"\0").decode())
                    connection.sendall(_HEADER.pack(result, number, transaction, len(content)) + content)

        def accept(answer: _Answer) -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listening.accept()[0], answer), daemon=True).start()

        def start(answer: _Answer) -> None:
            listening.bind(path)
            listening.listen(1)
            threading.Thread(target=accept, args=(answer,), daemon=True).start()

        yield start
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)


def test_each_node_is_read_with_its_value_and_its_permissions(daemon: Callable[[_Answer], None]) -> None:
    daemon(_of_tree)
    assert xenstore.read_nodes(20) == [
        Node("/", b"", (("n", 0),)),
        Node("/local", b"", (("n", 0), ("r", 3))),
        Node("/local/data", b"\xff\0\nx", (("b", 3),)),
    ]


def test_many_nodes_are_told_apart(daemon: Callable[[_Answer], None], monkeypatch: pytest.MonkeyPatch) -> None:
    many = {f"/{number}": (str(number).encode(), f"n{number}\0".encode()) for number in range(500)}
    for path, told in many.items():
        monkeypatch.setitem(TREE, path, told)
    daemon(_of_tree)
    found = {node.path: (node.value, node.access) for node in xenstore.read_nodes(20)}
    assert {path: found[path] for path in many} == {path: (value, (("n", int(value)),)) for path, (value, _access) in many.items()}


@pytest.mark.parametrize("gone", _KINDS.values())
def test_a_node_that_is_gone_before_it_was_read_is_left_out(daemon: Callable[[_Answer], None], gone: str) -> None:
    daemon(lambda kind, path: (16, b"ENOENT\0") if (kind, path) == (gone, "/local") else _of_tree(kind, path))
    assert [node.path for node in xenstore.read_nodes(20)] == ["/"]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((16, b"E2BIG\0"), "/local is E2BIG"),
        ((3, b"?0\0"), "/local are '?0'"),
        ((3, b"n" * 4097), "/local is 4097 bytes long"),
    ],
)
def test_an_answer_that_is_none_is_an_error_that_names_the_node(
    daemon: Callable[[_Answer], None], answer: tuple[int, bytes], told: str
) -> None:
    daemon(lambda kind, path: answer if (kind, path) == ("access", "/local") else _of_tree(kind, path))
    with pytest.raises(RingfenceError, match=told.replace("?", r"\?")):
        xenstore.read_nodes(20)


def test_a_daemon_that_does_not_answer_is_waited_for_as_long_as_is_said(daemon: Callable[[_Answer], None]) -> None:
    waiting = threading.Event()
    daemon(lambda kind, path: (waiting.wait(5) and _of_tree(kind, path)) or (16, b"ENOENT\0"))
    try:
        with pytest.raises(OSError, match=r"timed out|did not answer in time"):
            xenstore.read_nodes(0.2)
    finally:
        waiting.set()


def test_a_daemon_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(xenstore, "SOCKET", str(tmp_path / "socket"))
    with pytest.raises(FileNotFoundError):
        xenstore.read_nodes(20)
