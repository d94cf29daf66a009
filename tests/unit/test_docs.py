"""Holds the pages of docs/ and the READMEs to the code: what they name must exist, and what exists must be named."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ansible_collections.ringfence.zones.plugins.module_utils import debian
from ansible_collections.ringfence.zones.plugins.module_utils.boot import decisions
from ansible_collections.ringfence.zones.plugins.module_utils.spec.zone import FIELDS, parse_zones

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("roles/*/README.md"), ROOT / "molecule/lab/README.md"])
ROLES = sorted(path.parent for path in ROOT.glob("roles/*/tasks"))
LIBRARY = ROOT / "plugins" / "module_utils"
NAME = "ansible_collections.ringfence.zones.plugins.module_utils"
MODULES = {path.stem for path in ROOT.glob("plugins/modules/*.py")}

each_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
each_role = pytest.mark.parametrize("role", ROLES, ids=[role.name for role in ROLES])


def text_of(page: str) -> str:
    """The text of a page, by its path from the root."""
    return (ROOT / page).read_text(encoding="utf-8")


def test_every_field_of_a_zone_is_described_with_what_a_change_costs() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\w+) \|$", text_of("docs/zone.md"), re.MULTILINE)
    assert dict(rows) == {name: field.change for name, field in FIELDS.items()}


def test_the_zones_of_the_examples_are_accepted() -> None:
    found = 0
    for page in PAGES:
        for block in blocks(page, "yaml"):
            document = yaml.safe_load(block)
            if isinstance(document, dict) and "ringfence_zones" in document:
                parse_zones(document["ringfence_zones"])
                found += 1
    assert found >= 4


@each_page
def test_lines_fit_and_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if len(line) > 140 or line != line.rstrip()] == []
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@each_page
def test_commands_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    code = "\n".join([*re.findall(r"`([^`\n]+)`", text), *re.findall(r"```.*?\n(.*?)```", text, re.DOTALL)])
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", code)) <= targets
    verbs = set(re.findall(r'"([a-z-]+)"', text_of("molecule/lab/ringfence_lab/cli.py")))
    assert set(re.findall(r"python3 molecule/lab ([a-z-]+)", code)) <= verbs
    known = MODULES | {role.name for role in ROLES} | {path.stem for path in ROOT.glob("playbooks/*.yml")}
    assert set(re.findall(r"\bringfence\.zones\.(\w+)", text)) <= known


def test_the_play_with_some_hosts_at_a_time_does_what_the_playbook_does() -> None:
    (play,) = yaml.safe_load(next(block for block in blocks(ROOT / "docs/updating.md", "yaml") if "serial:" in block))
    (site,) = yaml.safe_load(text_of("playbooks/site.yml"))
    assert [role if isinstance(role, dict) else {"role": role} for role in play["roles"]] == site["roles"]


def test_yaml_examples_are_well_formed(tmp_path: Path) -> None:
    for page in PAGES:
        for number, block in enumerate(blocks(page, "yaml")):
            example = tmp_path / f"{page.relative_to(ROOT)}.{number}.yml"
            example.parent.mkdir(parents=True, exist_ok=True)
            example.write_text(f"---\n{block}", encoding="utf-8")
    command = [sys.executable, "-m", "yamllint", "--strict", "-c", str(ROOT / ".yamllint"), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout) == (0, "")


@each_page
def test_shell_examples_are_well_formed(page: Path) -> None:
    for block in blocks(page, "sh"):
        done = subprocess.run(["sh", "-n"], input=block, capture_output=True, encoding="utf-8", check=False)
        assert (done.returncode, done.stderr) == (0, "")


@each_role
def test_every_variable_of_a_role_is_described_with_its_default(role: Path) -> None:
    described = (role / "README.md").read_text(encoding="utf-8")
    defaults = role / "defaults" / "main.yml"
    variables = (yaml.safe_load(defaults.read_text(encoding="utf-8")) or {}) if defaults.exists() else {}
    assert [name for name in variables if name not in described] == []
    for name, default in re.findall(r"^\| `(ringfence_\w+)` \| `([^`]+)` \|", described, re.MULTILINE):
        assert yaml.safe_load(default) == variables[name]


def test_every_file_that_the_roles_write_is_listed() -> None:
    tasks = text_of("roles/runtime/tasks/main.yml")
    written = [file.path for file in decisions.host_files(decisions.parse_options("1536MiB", 0, [], 600), "console=ttyS0")]
    written += re.findall(r"- path: (\S+)", tasks)
    assert len(written) >= 12
    listed = text_of("docs/host-changes.md")
    assert [path for path in written if f"`{path}`" not in listed] == []


def library_rooms() -> dict[str, list[str]]:
    """The rooms of the library in the order of the documentation, each with its files; the ground floor is ''."""
    rooms: dict[str, list[str]] = {}
    room = ""
    for name, files in re.findall(r"^\| (?:`(\w+)` )?\| (`[a-z`, _/]+`) \|", text_of("docs/design.md"), re.MULTILINE):
        room = name or room
        rooms.setdefault(room, []).extend(re.findall(r"`(\w+)/?`", files))
    return rooms


def room_of(path: Path) -> str:
    """The room of a file of the library."""
    return path.relative_to(LIBRARY).parts[0] if path.parent != LIBRARY else ""


def imports(path: Path) -> set[Path]:
    """The files of the library that a file of it imports, now or later."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(NAME):
            place = LIBRARY.joinpath(*(node.module or "").removeprefix(NAME).strip(".").split("."))
            found |= {place.with_suffix(".py")} if not place.is_dir() else {place / f"{alias.name}.py" for alias in node.names}
    return {path for path in found if path.exists()}


def test_every_file_of_the_library_is_in_its_room() -> None:
    paths = [path for path in LIBRARY.rglob("*.py") if path.name != "__init__.py" and path.parent.name != "programs"]
    there = {(room_of(path), path.stem) for path in paths} | {("attack", "programs")}
    assert {(room, name) for room, names in library_rooms().items() for name in names} == there


def test_a_room_of_the_library_imports_from_those_above_it_alone() -> None:
    rooms = list(library_rooms())
    used = {(path, other) for path in LIBRARY.rglob("*.py") for other in imports(path)}
    assert len(used) > 100
    assert [(path, other) for path, other in used if rooms.index(room_of(other)) > rooms.index(room_of(path))] == []


def test_a_host_has_the_rooms_that_its_command_imports() -> None:
    needed, new = set(), {LIBRARY / "zone" / "zonectl.py"}
    while new:
        needed |= new
        new = {other for path in new for other in imports(path)} - needed
    listed = re.search(r"for room in \[(.*)\]", text_of("roles/runtime/tasks/main.yml"))
    assert listed
    assert {room_of(path) for path in needed} == {name.rstrip("/") for name in re.findall(r"'([^']*)'", listed[1])}


@pytest.mark.parametrize("release", ["12", "13"])
def test_every_package_that_the_roles_install_is_listed(release: str) -> None:
    listed = text_of("docs/host-changes.md")
    assert [package for package in debian.packages(release) if f"`{package}`" not in listed] == []


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
