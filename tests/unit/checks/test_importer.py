"""The check program importer: it believes the importer's result, not its exit code."""

from __future__ import annotations

from typing import Any

from importer import problems

MODULE = ("module", "zones")
ROLE = ("role", "host")


def result(*, doc_strings: object) -> dict[str, Any]:
    """Return the part of a galaxy-importer result that the check reads: one module and one role."""
    parts = [MODULE, ROLE]
    return {
        "contents": [{"content_type": kind, "name": name} for kind, name in parts],
        "docs_blob": {"contents": [{"content_type": kind, "content_name": name, "doc_strings": doc_strings} for kind, name in parts]},
    }


def test_complete_import_has_no_problem() -> None:
    assert problems("Importer processing completed successfully\n", result(doc_strings={"doc": {}}), {MODULE, ROLE}) == []


def test_skipped_check_is_a_problem_although_the_import_succeeded() -> None:
    log = "WARNING: ansible-doc not found, skipping loading of docstrings\nImporter processing completed successfully\n"
    assert problems(log, result(doc_strings={"doc": {}}), {MODULE}) == [log.splitlines()[0]]


def test_missing_module_and_missing_documentation_are_problems() -> None:
    found = problems("", result(doc_strings=None), {MODULE, ("module", "kernels"), ROLE})
    assert found == [
        "not imported: module kernels",
        "imported without documentation: module kernels",
        "imported without documentation: module zones",
    ]
