"""Tests of the library's ``spec.env_files``."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration
from ansible_collections.ringfence.zones.plugins.module_utils.spec.env_files import merged, parse
from ansible_collections.ringfence.zones.plugins.module_utils.spec.fields import EnvFile, Rejected
from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import Zone


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=VAL", "VAL"),
        ("A='VAL'", "VAL"),
        ('A="VAL"', "VAL"),
        ("A=", ""),
        ("A=''", ""),
        ("A: VAL", "VAL"),
        ("export A=VAL", "VAL"),
        ("  A = VAL  ", "VAL"),
        ("A=two words", "two words"),
        ("A=VAL # comment", "VAL"),
        ("A=VAL# no comment", "VAL# no comment"),
        ("A=# comment", "# comment"),
        ("A='VAL' # comment", "VAL"),
        ('A="VAL" # comment', "VAL"),
        ("A='VAL # no comment'", "VAL # no comment"),
        ("A='$NAME'", "$NAME"),
        (r'A="one\ntwo\t\"three\" \\"', 'one\ntwo\t"three" \\'),
        (r"A='one\ntwo'", r"one\ntwo"),
        ("A=B=C", "B=C"),
        ("A=it's", "it's"),
        ("A=été", "été"),
    ],
)
def test_a_line_is_read_as_compose_does(line: str, value: str) -> None:
    assert parse(f"# first\n\n{line}\r\n") == {"A": value}


@pytest.mark.parametrize("line", ["A", "=VAL", "A='VAL", 'A="VAL', "A='one' two", "A B=VAL", "A=\0"])
def test_what_is_no_variable_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(Rejected, match=r"^line 2 is not accepted; accepted: NAME=value"):
        parse(f"OK=1\n{line}\n")


@pytest.mark.parametrize("line", ["A=$B", 'A="${B}"'])
def test_variables_in_values_are_refused(line: str) -> None:
    with pytest.raises(Rejected, match="variables are not looked up in values"):
        parse(line)


def test_later_files_win_and_the_declaration_wins_over_all(tmp_path: Path) -> None:
    for name, text in (("one", "A=1\nB=1\nC=1\n"), ("two", "B=2\nC=2\n")):
        (tmp_path / name).write_text(text)
    files = (EnvFile(f"{tmp_path}/one"), EnvFile(f"{tmp_path}/two"), EnvFile("/nowhere", required=False))
    (zone,) = merged([Zone(name="web", image="web", environment={"C": "3", "0": ""}, env_file=files)])
    assert list(zone.environment.items()) == [("0", ""), ("A", "1"), ("B", "2"), ("C", "3")]
    assert zone.env_file == ()


def test_every_fault_is_told_and_no_value(tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("A='secret\n")
    (tmp_path / "binary").write_bytes(b"A=\xff")
    files = [EnvFile("/nowhere"), *(EnvFile(f"{tmp_path}/{name}") for name in ("bad", "binary", ""))]
    with pytest.raises(InvalidDeclaration) as caught:
        merged([Zone(name="web", image="web", env_file=tuple(files))])
    assert caught.value.problems == [
        "zone web: env_file: /nowhere is not on this host; put it there, or say required: false",
        f"zone web: env_file: {tmp_path}/bad, line 1 is not accepted; accepted: NAME=value, NAME='value' or NAME=\"value\", on one line",
        f"zone web: env_file: {tmp_path}/binary cannot be read: not UTF-8",
        f"zone web: env_file: {tmp_path}/ cannot be read: Is a directory",
    ]
