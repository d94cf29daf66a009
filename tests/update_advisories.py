"""Brings the table of Xen's security advisories up to date from changelogs of Debian packages: docs/verify.md says how.

``python3 tests/update_advisories.py DATE RELEASE=CHANGELOG…``: of each release the changelogs of ``xen`` and of ``linux``, gzipped or not.
What the table has is kept: facts that no changelog tells, such as ``needs``, are written into it by hand.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "build"))

from ansible_collections.ringfence.zones.plugins.module_utils.verify import advisory_table  # noqa: E402
from ansible_collections.ringfence.zones.plugins.module_utils.verify.advisories import (  # noqa: E402
    FIX,
    Advisory,
    compare_versions,
)

TABLE = ROOT / "plugins/module_utils/verify/advisory_table.py"
SUITES = {"12": "bookworm", "13": "trixie"}
OLDEST = 425
"""Older advisories were fixed before the first Xen of the oldest release that the collection supports."""

WIDTH = 140

ENTRY = re.compile(r"^(\S+) \(([^)]+)\) ([^;]+);", re.MULTILINE)
NOTE = re.compile(r"^ +- (XSA-\d+(?:(?:, | and )XSA-\d+)*) (.+(?:\n {6,}(?![-* ]).+)*)", re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """One entry of a package's changelog: which advisories it fixes, with title and CVEs, and which it says do not concern the package."""

    source: str
    version: str
    suite: str
    text: str
    fixes: Mapping[int, tuple[str, str]]
    notes: Mapping[int, str]


def parse_changelog(text: str) -> list[Entry]:
    """The entries of a changelog of Debian's ``xen`` or ``linux``, newest first."""
    heads = list(ENTRY.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    return [_entry(head, text[head.end() : end]) for head, end in zip(heads, ends, strict=True)]


def _entry(head: re.Match[str], text: str) -> Entry:
    if head[1] != "xen":
        return Entry(head[1], head[2], head[3].strip(), text, {}, {})
    fixes = {int(number): (_line(title), _line(cves)) for title, number, cves in FIX.findall(text)}
    notes = {int(number): _line(note).rstrip(".") for numbers, note in NOTE.findall(text) for number in re.findall(r"\d+", numbers)}
    return Entry(head[1], head[2], head[3].strip(), text, fixes, notes)


def _line(text: str) -> str:
    return " ".join(text.split())


def merged(table: Iterable[Advisory], changelogs: Sequence[tuple[str, list[Entry]]]) -> list[Advisory]:
    """The table with what changelogs tell, each with its release."""
    found = {advisory.number: advisory for advisory in table}
    for release, entries in changelogs:
        for place, entry in reversed(list(enumerate(entries))):
            version = _first_version(entries, place)
            if entry.source == "xen":
                for number, (title, cves) in entry.fixes.items():
                    _learn(found, number, release, title=title, cves=cves, fixed=version)
                for number, note in entry.notes.items():
                    linux = "Linux" in note
                    _learn(found, number, release, title=note, part="linux" if linux else "xen", excluded="" if linux else note)
            elif entry.source == "linux":
                _learn_of_linux(found, release, entries, place)
    return sorted(found.values(), key=lambda advisory: advisory.number)


def _first_version(entries: Sequence[Entry], place: int) -> str:
    """The oldest version with the change of an entry: a rebuild for a stable release is told after it, and sorts before it."""
    versions = [entry.version for entry in entries[max(0, place - 1) : place + 1]]
    return min(versions, key=functools.cmp_to_key(compare_versions))


def _learn(found: dict[int, Advisory], number: int, release: str, fixed: str = "", excluded: str = "", **told: str) -> None:
    if number < OLDEST:
        return
    known = found.get(number) or Advisory(number, told["title"], told.get("cves", ""), told.get("part", "xen"))
    if fixed and release not in known.fixed:
        known = dataclasses.replace(known, title=told["title"], cves=told["cves"], fixed={**known.fixed, release: fixed})
    if excluded and known.part == "xen":
        known = dataclasses.replace(known, excluded={**known.excluded, release: excluded})
    found[number] = known


def _learn_of_linux(found: dict[int, Advisory], release: str, entries: Sequence[Entry], place: int) -> None:
    """An advisory on Linux is fixed where all of its CVEs are named, in this entry or in older ones."""
    newest = entries[place].text
    for number, advisory in found.items():
        cves = advisory.cves.split()
        if advisory.part != "linux" or release in advisory.fixed or not any(_names(newest, cve) for cve in cves):
            continue
        if all(any(_names(entry.text, cve) for entry in entries[place:]) for cve in cves):
            found[number] = dataclasses.replace(advisory, fixed={**advisory.fixed, release: _first_version(entries, place)})


def _names(text: str, cve: str) -> bool:
    return cve in text and re.search(rf"{cve}\b", text) is not None


def rendered(table: Iterable[Advisory], date: str) -> str:
    """The table as a Python file, as ruff formats it."""
    head = TABLE.read_text(encoding="utf-8").partition("DATE = ")[0]
    rows = "\n".join(line for advisory in table for line in _row(advisory))
    return f'{head}DATE = "{date}"\n"""When the changelogs were read."""\n\nTABLE: tuple[Advisory, ...] = (\n{rows}\n)\n'


def _row(advisory: Advisory) -> Iterator[str]:
    yield "    Advisory("
    yield from (f"        {_text(value)}," for value in (advisory.number, advisory.title, advisory.cves))
    if advisory.part != "xen":
        yield f"        part={_text(advisory.part)},"
    if advisory.needs:
        needs = ", ".join(map(_text, advisory.needs))
        yield f"        needs=({needs}{',' if len(advisory.needs) == 1 else ''}),"
    for name, by_release in (("fixed", advisory.fixed), ("excluded", advisory.excluded)):
        pairs = [f"{_text(release)}: {_text(told)}" for release, told in sorted(by_release.items())]
        line = f"        {name}={{{', '.join(pairs)}}},"
        if len(line) > WIDTH:
            yield from (f"        {name}={{", *(f"            {pair}," for pair in pairs), "        },")
        elif pairs:
            yield line
    yield "    ),"


def _text(value: str | int) -> str:
    return json.dumps(value)


def main(arguments: Sequence[str]) -> int:
    """Rewrite the table."""
    date, *given = arguments
    changelogs = []
    for release, _equals, path in (argument.partition("=") for argument in given):
        if release not in SUITES or not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
            print(f"usage: update_advisories.py YYYY-MM-DD RELEASE=CHANGELOG…, with releases {', '.join(SUITES)}", file=sys.stderr)
            return 2
        data = Path(path).read_bytes()
        text = (gzip.decompress(data) if path.endswith(".gz") else data).decode("utf-8")
        entries = parse_changelog(text)
        if not any(SUITES[release] in entry.suite for entry in entries):
            print(f"{path}: has no entry for {SUITES[release]}, so it is no changelog of Debian {release}", file=sys.stderr)
            return 1
        changelogs.append((release, entries))
    # Xen's changelogs tell which advisories are on Linux, and come first.
    changelogs.sort(key=lambda one: one[1][0].source != "xen")
    table = merged(advisory_table.TABLE, changelogs)
    TABLE.write_text(rendered(table, date), encoding="utf-8")
    print(f"{len(table)} advisories, {len(table) - len(advisory_table.TABLE)} of them new")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
