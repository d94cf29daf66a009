"""QEMU's command line and the choice of the accelerator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ringfence_lab import qemu
from ringfence_lab.qemu import Forward, Machine

MACHINE = Machine(name="web", uuid="a-b-c", memory_mib=2048, cpus=3, forwards=(Forward(2222, 22), Forward(8080, 80)), network=True)


def value_of(arguments: list[str], option: str) -> list[str]:
    """All values of one option."""
    return [arguments[index + 1] for index, word in enumerate(arguments) if word == option]


def test_emulation_hides_what_qemu_emulates_wrongly() -> None:
    arguments = qemu.command_line(MACHINE, "tcg")
    assert value_of(arguments, "-accel") == ["tcg,thread=multi"]
    assert value_of(arguments, "-cpu") == ["EPYC,-smap,-rdtscp,-monitor,-xsave"]


def test_kvm_shows_the_whole_cpu() -> None:
    arguments = qemu.command_line(MACHINE, "kvm")
    assert (value_of(arguments, "-accel"), value_of(arguments, "-cpu")) == (["kvm"], ["host"])


@pytest.mark.parametrize("accelerator", ["tcg", "kvm"])
def test_a_machine_without_virtualization_shows_none(accelerator: str) -> None:
    (shown,) = value_of(qemu.command_line(MACHINE, accelerator), "-cpu")
    (without,) = value_of(qemu.command_line(replace(MACHINE, virtualization=False), accelerator), "-cpu")
    assert without == f"{shown},-svm,-vmx"


def test_the_machine_is_as_declared_and_can_be_recognized() -> None:
    arguments = qemu.command_line(MACHINE, "tcg")
    assert [value_of(arguments, option) for option in ("-m", "-smp", "-uuid", "-name")] == [["2048"], ["3"], ["a-b-c"], ["web"]]


def test_ports_are_forwarded_from_loopback_only() -> None:
    (network,) = value_of(qemu.command_line(MACHINE, "tcg"), "-netdev")
    forwards = [part for part in network.split(",") if part.startswith("hostfwd")]
    assert forwards == ["hostfwd=tcp:127.0.0.1:2222-:22", "hostfwd=tcp:127.0.0.1:8080-:80"]


def test_a_host_without_network_keeps_its_forwards() -> None:
    (with_network,) = value_of(qemu.command_line(MACHINE, "tcg"), "-netdev")
    (without,) = value_of(qemu.command_line(replace(MACHINE, network=False), "tcg"), "-netdev")
    assert "restrict" not in with_network
    assert "restrict=on" in without.split(",")
    assert "hostfwd=tcp:127.0.0.1:2222-:22" in without


def test_cpus_stand_still_only_for_a_snapshot() -> None:
    assert "-S" not in qemu.command_line(MACHINE, "tcg")
    assert "-S" in qemu.command_line(MACHINE, "tcg", paused=True)


def test_kvm_is_used_only_when_a_guest_runs_and_gets_virtualization_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    nested = tmp_path / "module/kvm_amd/parameters/nested"
    nested.parent.mkdir(parents=True)
    answers = iter([True, True, False])
    monkeypatch.setattr(qemu, "firmware_speaks", lambda accelerator: accelerator == "kvm" and next(answers))

    def works() -> bool:
        return qemu.kvm_works(device, tmp_path / "module")

    nested.write_text("1\n", encoding="ascii")
    assert not works()
    device.touch()
    assert works()
    nested.write_text("0\n", encoding="ascii")
    assert not works()
    nested.unlink()
    assert not works()
    nested.write_text("Y\n", encoding="ascii")
    assert works()
    assert not works()


def test_the_probe_hears_an_emulated_guest() -> None:
    assert qemu.firmware_speaks("tcg")


def test_the_probe_hears_nothing_from_an_accelerator_that_is_not_there() -> None:
    assert not qemu.firmware_speaks("hvf")
