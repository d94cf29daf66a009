# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter verify_summary: the results of the module verify on many hosts as the lines of a table."""

from __future__ import annotations

DOCUMENTATION = r"""
name: verify_summary
short_description: The isolation promises of many hosts as a table
version_added: 0.1.0
description:
  - Makes lines of text of what M(ringfence.zones.verify) returned on each host, with the number of promises by result,
    and of security advisories that apply or may apply.
  - A host without a report, because it was unreachable or the task failed, has a line that says so.
options:
  _input:
    description: The registered results by host.
    type: dict
    required: true
author:
  - the ringfence.zones authors (@ringfence)
"""

EXAMPLES = r"""
- name: Show how the hosts are
  ansible.builtin.debug:
    msg: "{{ {'xen1': verified_on_xen1, 'xen2': verified_on_xen2} | ringfence.zones.verify_summary }}"
"""

RETURN = r"""
_value:
  description: The lines, the head of the table first.
  type: list
  elements: str
"""

from collections.abc import Callable, Mapping
from typing import Any


def verify_summary(results: Mapping[str, Any]) -> list[str]:
    """The lines of a table over hosts."""
    width = max([4, *(len(host) for host in results)])
    lines = [f"{'host':<{width}}  {'held':>4}  {'broken':>6}  {'not tested':>10}  {'advisories':>10}"]
    for host, result in sorted(results.items()):
        report = (result or {}).get("report")
        if report:
            counted = report["summary"]
            numbers = f"{counted['held']:>4}  {counted['broken']:>6}  {counted['not_tested']:>10}"
            broken = ", ".join(str(row["number"]) for row in report["rows"] if row["result"] == "broken")
            open_ones = f"{_open_advisories(report):>10}"
            lines.append(f"{host:<{width}}  {numbers}  {open_ones}{f'  broken: {broken}' if broken else ''}")
        else:
            why = "it was not reached" if (result or {}).get("unreachable") else "the task failed"
            lines.append(f"{host:<{width}}  no report: {why}")
    return lines


def _open_advisories(report: Mapping[str, Any]) -> int:
    """The number of security advisories that apply or may apply."""
    counted = report["advisories"]["summary"]
    return int(counted["applies"]) + int(counted["unknown"])


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters of this file."""
        return {"verify_summary": verify_summary}
