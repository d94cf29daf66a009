"""What modules say when the host's system refuses something: the disk is full, or they do not run as root."""

from __future__ import annotations

import errno
import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration, NotBegun, RingfenceError, told
from ansible_collections.ringfence.zones.plugins.module_utils.kernel import kernels
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store, write_atomically
from ansible_collections.ringfence.zones.plugins.module_utils.zone import zonectl

_PACKAGE = "ansible_collections.ringfence.zones.plugins.modules"

CALLS: list[tuple[str, dict[str, Any], str]] = [
    ("bundle", {"directory": "/b", "collection": "/c"}, "collect.collect"),
    ("bundle_install", {"source": "/b"}, "install.install"),
    ("host_info", {}, "booted_into_xen"),
    ("kernel_image", {"deb": "/k.deb", "destination": "oci:/k:1"}, "sources.from_file"),
    ("kernels", {"kernels": []}, "kernel_trial.converge"),
    ("runtime", {"files": [], "scripts": {}}, "install.install"),
    ("xen_host", {"state": "armed"}, "xen_host.arm"),
    ("zone_exec", {"name": "web", "argv": ["true"]}, "Hypervisor"),
    ("zone_info", {}, "Hypervisor"),
    ("zones", {"zones": []}, "converge"),
]


@pytest.mark.parametrize(("name", "arguments", "called"), CALLS)
def test_what_the_system_refuses_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, arguments: dict[str, Any], called: str
) -> None:
    module = importlib.import_module(f"{_PACKAGE}.{name}")

    def refused(*_arguments: Any, **_named: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/var/lib/ringfence/lock")

    monkeypatch.setattr(f"{module.__name__}.{called}", refused)
    with patch_module_args(arguments), pytest.raises(SystemExit):
        module.main()
    result = json.loads(capsys.readouterr().out)
    assert result["failed"]
    assert result["msg"] == "[Errno 13] Permission denied: '/var/lib/ringfence/lock'; on a host this must run as root (become: true)"


def test_what_is_to_be_done_is_said_of_what_is_known() -> None:
    assert told(RingfenceError("what and why")) == "what and why"
    assert told(OSError(errno.ENOSPC, "No space left", "/f")) == "[Errno 28] No space left: '/f'; make room and run again"
    assert told(OSError(errno.EIO, "Input/output error", "/f")) == "[Errno 5] Input/output error: '/f'"


HOSTILE = "zone é:\n\ttag \x1b]0;title\x07 \u202e\udcff"
SHOWN = "zone é:\n\\ttag \\x1b]0;title\\x07 \\u202e\\udcff"


def test_no_error_reaches_a_terminal_with_a_control_character() -> None:
    """ansible-core shows messages as they are, and they hold what images say."""
    assert told(RingfenceError(HOSTILE)) == str(NotBegun(HOSTILE)) == SHOWN
    assert told(RingfenceError(f"it failed: {RingfenceError(HOSTILE)}")) == f"it failed: {SHOWN}"
    invalid = InvalidDeclaration([HOSTILE, "fault"])
    assert (str(invalid), invalid.problems) == (f"{SHOWN}; fault", [SHOWN, "fault"])


def test_a_full_disk_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/names\.json'"):
        write_atomically(tmp_path / "names.json", b"{}")


def test_nobody_is_told_to_remove_what_only_root_may_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refused)
    for read in (lambda: kernels.names(Store(tmp_path)), lambda: kernels.read(tmp_path, "stable", "image")):
        with pytest.raises(PermissionError):
            read()
    monkeypatch.setattr(zonectl, "Hypervisor", lambda: kernels.names(Store(tmp_path)))
    assert zonectl.main(["list"]) == 1
    assert "names.json'; on a host this must run as root" in capsys.readouterr().err
