# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter verify_page: a report of the module verify as one HTML page. Whatever came from a host is escaped."""

from __future__ import annotations

DOCUMENTATION = r"""
name: verify_page
short_description: A report of isolation promises as an HTML page
version_added: 0.1.0
description:
  - Makes one self-contained HTML page of what M(ringfence.zones.verify) returned, for people who read it without Ansible.
  - Everything in the page that came from a host is escaped. The page loads nothing and runs nothing.
options:
  _input:
    description: The RV(ringfence.zones.verify#module:report) of a host.
    type: dict
    required: true
  host:
    description: The name of the host.
    type: str
    required: true
positional: host
author:
  - the ringfence.zones authors (@ringfence)
"""

EXAMPLES = r"""
- name: Write the page
  ansible.builtin.copy:
    content: "{{ verified.report | ringfence.zones.verify_page(inventory_hostname) }}"
    dest: /srv/reports/{{ inventory_hostname }}.html
    mode: "0600"
  delegate_to: localhost
"""

RETURN = r"""
_value:
  description: The page.
  type: str
"""

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

_RESULTS = {"held": "held", "broken": "broken", "not_tested": "not tested"}

_STYLE = """
body { font: 15px/1.45 sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; width: 100%; }
th, td { border: 1px solid #bbb; padding: 0.4em 0.6em; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
th { background: #eee; }
.held { background: #d9f0d9; }
.broken { background: #f6c9c9; font-weight: bold; }
.not_tested { background: #f2eccf; }
.evidence { font-family: monospace; font-size: 85%; }
"""

_INTRODUCTION = """
<p>Each <em>zone</em> is a container in a virtual machine of its own. This page says which promises of isolation were found to hold on
this host, by looking at it from the host's own system and, at the depth attack, by hostile zones that tried to break them.</p>
<ul>
<li><b>held</b>: what was looked at is as the promise demands. The column &ldquo;how it was tested&rdquo; says what that was, and what was
not looked at.</li>
<li><b>broken</b>: something was found that the promise forbids. The evidence names it.</li>
<li><b>not tested</b>: nothing is said about the promise, and the reason is given. This is no pass.</li>
</ul>
"""


def verify_page(report: Mapping[str, Any], host: str) -> str:
    """One HTML page of a report."""
    summary, information = report["summary"], report["information"]
    counted = ", ".join(f"{_text(summary[result])} {told}" for result, told in _RESULTS.items())
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">""",
            f"<title>Isolation of {_text(host)}</title><style>{_STYLE}</style></head><body>",
            f"<h1>Isolation of {_text(host)}</h1>",
            f"<p>{_text(report['date'])}, depth {_text(report['depth'])}: {counted}.</p>",
            _INTRODUCTION,
            _table(("", "promise", "how it was tested", "result", "evidence"), [_promise(row) for row in report["rows"]]),
            "<h2>Versions, digests and boot parameters</h2>",
            _values(report["versions"]),
            "<h2>Zones</h2>",
            _table(
                ("zone", "runs", "image", "kernel", "zone base", "kind"),
                [
                    "".join(_cell(zone[key]) for key in ("name", "running", "image", "kernel", "runtime", "virtualization"))
                    for zone in report["zones"]
                ],
            ),
            "<h2>Code that can be reached</h2>",
            _surface(report["attack_surface"]),
            "<h2>Security advisories on Xen</h2>",
            _advisories(report["advisories"]),
            "<h2>The CPU's vulnerabilities, as the host's kernel tells them</h2>",
            _values(information["vulnerabilities"]),
            "<h2>What Xen told of them when it booted</h2>",
            f'<p class="evidence">{_lines(information["xen_log"])}</p>',
            "<h2>What could not be read</h2>",
            _values(information["unread"]),
            "</body></html>\n",
        ]
    )


def _surface(surface: Mapping[str, Any] | None) -> str:
    if surface is None:
        return "<p>Not measured.</p>"
    told = "The host's kernel and its modules are what a container without a kernel of its own reaches. Sizes are bytes of machine code."
    return f"<p>{told}</p>{_values(surface)}"


def _advisories(told: Mapping[str, Any]) -> str:
    counted = ", ".join(f"{_text(number)} {_text(result).replace('_', ' ')}" for result, number in told["summary"].items())
    rows = [
        _cell(row["number"])
        + _cell(f"{row['title']} {' '.join(row['cves'])}")
        + f"<td{' class=broken' if row['result'] == 'applies' else ''}>{_text(row['result']).replace('_', ' ')}</td>"
        + _cell(row["why"])
        for row in told["rows"]
    ]
    booted = {True: "", False: " The host runs another Xen than the one that is installed and judged: reboot it."}.get(told["booted"], "")
    return f"<p>By the table of {_text(told['date'])}: {counted}.{booted}</p>" + _table(("XSA", "title", "result", "why"), rows)


def _promise(row: Mapping[str, Any]) -> str:
    result = row["result"] if row["result"] in _RESULTS else "broken"
    why = f"<br>{_text(row['why'])}" if row["why"] and result == "not_tested" else ""
    return (
        f"{_cell(row['number'])}{_cell(row['promise'])}{_cell(row['tested'])}"
        f'<td class="{result}">{_RESULTS[result]}{why}</td><td class="evidence">{_lines(row["evidence"])}</td>'
    )


def _table(heads: tuple[str, ...], rows: list[str]) -> str:
    head = "".join(f"<th>{name}</th>" for name in heads)
    return "\n".join([f"<table><tr>{head}</tr>", *(f"<tr>{row}</tr>" for row in rows), "</table>"])


def _values(values: Mapping[str, Any]) -> str:
    """A table of names and values; a value that has parts is told one part a line."""
    told = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines = [f"{part}: {member}" for part, member in value.items()]
        elif isinstance(value, list):
            lines = [", ".join(str(member) for member in part.values()) if isinstance(part, Mapping) else str(part) for part in value]
        else:
            lines = ["" if value is None else str(value)]
        told.append(f'<td>{_text(name)}</td><td class="evidence">{_lines(lines)}</td>')
    return _table(("", ""), told) if told else "<p>Nothing.</p>"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return f"<td>{'yes' if value else 'no'}</td>"
    return f"<td>{_text('unknown' if value is None else value)}</td>"


def _lines(lines: list[Any]) -> str:
    return "<br>".join(_text(line) for line in lines)


def _text(value: Any) -> str:
    return escape(str(value), quote=True)


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters of this file."""
        return {"verify_page": verify_page}
