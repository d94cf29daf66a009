# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which isolation promises hold on a host, judged from what was found there. Pure.

Each promise is one row of ``PROMISES``. A row is broken if anything that was found breaks it; else it is not tested if something that it
needs could not be read, or if observing cannot show it; else it is held.
"""

from __future__ import annotations

import dataclasses
import html
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.attack import result as attack_result
from ansible_collections.ringfence.zones.plugins.module_utils.boot import decisions
from ansible_collections.ringfence.zones.plugins.module_utils.verify import advisories, advisory_table
from ansible_collections.ringfence.zones.plugins.module_utils.verify.facts import Domain, Facts, Node, parse_rules
from ansible_collections.ringfence.zones.plugins.module_utils.zone import network
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import VIF_SCRIPT, Definition, starts_with_host

SCHEMA = 1
HELD = "held"
BROKEN = "broken"
NOT_TESTED = "not_tested"

_MOST_EVIDENCE = 20
_MOST_CHARACTERS = 240
_ATTACK = "needs depth attack: observing cannot show it"

_IDENTITY_PARTS = ("chain spoofed", "set sources", "set sources6", "chain asking", "set senders")
"""The parts of the nftables tables that keep a zone from claiming the address of another."""

_ORDINARY_DEVICES = ("emulator", "disk", "interface", "console", "controller", "memballoon", "input")
_CONSOLE_BOUND = 64 * 1024 * 1024
"""Bytes of a console log beyond which nothing has bounded it; one that is checked once a minute grows a little over its limit."""

_ROTATION_SECONDS = 600
_SHORTEST_SECRET = 6
"""Bytes of a secret below which it would be found by chance."""

_NONSENSE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What judging ends in where metadata of a zone, which is well-formed, holds nonsense."""

_CONSOLE_FILES = ("console-logs", "xenconsoled")


@dataclasses.dataclass
class Judgement:
    """What speaks against a promise, what could not be looked at, and what was looked at."""

    broken: list[str] = dataclasses.field(default_factory=list)
    unknown: list[str] = dataclasses.field(default_factory=list)
    seen: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Attacks:
    """What was attacked: all attempts, by promise why it could not be attacked, and which promises were to be."""

    attempts: Sequence[attack_result.Attempt]
    faults: Mapping[int, str]
    promises: Collection[int]

    def of(self, number: int) -> list[attack_result.Attempt]:
        """The attempts to break one promise."""
        return [attempt for attempt in self.attempts if attempt.row == number]


@dataclasses.dataclass(frozen=True)
class Promise:
    """One row. ``needs`` are attributes of the facts; ``zones`` which zones there must be: ``""``, ``defined`` or ``running``.

    A promise that observing can only break (``shown`` is false) is never held.
    """

    number: int
    promise: str
    tested: str
    judge: Callable[[Facts], Judgement] | None = None
    needs: tuple[str, ...] = ()
    zones: str = ""
    shown: bool = True


def inert(text: str) -> str:
    """Text of the host or of a zone as it may be shown: one line of printable ASCII, of a bounded length."""
    told = ascii(text)[1:-1]
    return told if len(told) <= _MOST_CHARACTERS else f"{told[: _MOST_CHARACTERS - 3]}..."


def rows(facts: Facts, attacks: Attacks | None = None) -> list[dict[str, Any]]:
    """Every promise with its result."""
    return [_row(promise, facts, attacks) for promise in PROMISES]


def report(facts: Facts, date: str, attacks: Attacks | None = None) -> dict[str, Any]:
    """The report of a host, as docs/verify.md describes it.

    :param attacks: what was attacked, if it was.
    """
    judged = rows(facts, attacks)
    counted = Counter(row["result"] for row in judged)
    return {
        "schema": SCHEMA,
        "depth": "attack" if attacks else "observe",
        "date": date,
        "summary": {result: counted[result] for result in (HELD, BROKEN, NOT_TESTED)},
        "rows": judged,
        "versions": _inert_tree(facts.versions),
        "zones": [_zone(zone) for zone in sorted(facts.zones, key=lambda zone: zone.name)],
        "attack_surface": _inert_tree(facts.surface),
        "advisories": _inert_tree(advisories.summary(advisory_table.TABLE, advisory_table.DATE, facts)),
        "information": {
            "vulnerabilities": _inert_tree(facts.vulnerabilities),
            "xen_log": [inert(line) for line in facts.xen_log[:60]],
            "unread": {name: inert(reason) for name, reason in sorted(facts.unread.items())},
        },
    }


def _inert_tree(value: Any) -> Any:
    if isinstance(value, dict):
        return {inert(str(name)): _inert_tree(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_inert_tree(member) for member in value]
    return inert(value) if isinstance(value, str) else value


def _zone(zone: Domain) -> dict[str, Any]:
    known = zone.definition
    told = {
        "name": zone.name,
        "running": zone.number is not None,
        "image": known.image if known else None,
        "kernel": known.kernel if known else None,
        "runtime": known.runtime if known else None,
        "virtualization": known.mode if known else None,
    }
    return {name: _inert_tree(value) for name, value in told.items()}


def _row(promise: Promise, facts: Facts, attacks: Attacks | None) -> dict[str, Any]:
    result, why, evidence = _result(promise, facts)
    attacked = attacks is not None and promise.number in attacks.promises
    if attacks is not None and attacked and result != BROKEN:
        fault = attacks.faults.get(promise.number) or attacks.faults.get(attack_result.EVERY)
        seen = evidence
        result, why, evidence = attack_result.judged(attacks.of(promise.number))
        if result != BROKEN and fault:
            result, why = NOT_TESTED, f"the attack could not be made: {fault}"
        evidence = evidence + seen
    told = [inert(line) for line in evidence[:_MOST_EVIDENCE]]
    if len(evidence) > _MOST_EVIDENCE:
        told.append(f"and {len(evidence) - _MOST_EVIDENCE} more")
    return {
        "number": promise.number,
        "promise": promise.promise,
        "depth": "attack" if attacked else "observe",
        "tested": f"{attack_result.TESTED[promise.number]} Observed: {promise.tested}" if attacked else promise.tested,
        "result": result,
        "why": inert(why) if why else None,
        "evidence": told,
    }


def _result(promise: Promise, facts: Facts) -> tuple[str, str | None, list[str]]:
    """The result, why it is not held, and the evidence."""
    if promise.judge is None:
        return NOT_TESTED, _ATTACK, []
    unread = [facts.unread[name] for name in promise.needs if name in facts.unread]
    if unread:
        return NOT_TESTED, "; ".join(dict.fromkeys(unread)), []
    if (promise.zones == "defined" and not facts.zones) or (promise.zones == "running" and not facts.running_zones):
        return NOT_TESTED, f"no zone {'runs' if facts.zones else 'is'} on this host", []
    try:
        judgement = promise.judge(facts)
    except _NONSENSE as error:
        return NOT_TESTED, f"what was found cannot be judged: {error or type(error).__name__}", []
    if judgement.broken:
        return BROKEN, judgement.broken[0], judgement.broken
    if judgement.unknown:
        return NOT_TESTED, "; ".join(judgement.unknown), judgement.seen
    if not promise.shown:
        return NOT_TESTED, _ATTACK, judgement.seen
    return HELD, None, judgement.seen


def _definitions(zones: list[Domain], judgement: Judgement) -> Iterator[tuple[Domain, Definition]]:
    """The zones whose declaration is known; the others are told as not looked at."""
    for zone in zones:
        if zone.definition is None:
            judgement.unknown.append(f"zone {zone.name}: its metadata cannot be read, so nobody knows what is declared")
        else:
            yield zone, zone.definition


# The judgements, in the order of the promises.


def _own_kernel(facts: Facts) -> Judgement:
    judgement = Judgement()
    numbers = Counter(zone.number for zone in facts.running_zones)
    for zone in facts.running_zones:
        kernel = zone.text("os/kernel")
        if not re.fullmatch(rf"{re.escape(facts.store)}/kernels/[0-9a-f]{{64}}/vmlinux", kernel):
            judgement.broken.append(f"zone {zone.name}: its kernel is {kernel or 'not given by the host'}, not one of the store")
        elif numbers[zone.number] > 1:
            judgement.broken.append(f"zone {zone.name}: shares the virtual machine {zone.number} with another")
        else:
            judgement.seen.append(f"zone {zone.name}: virtual machine {zone.number}, kernel {kernel}")
    return judgement


def _devices(facts: Facts) -> Judgement:
    judgement = Judgement()
    writers: dict[str, str] = {}
    for zone in facts.running_zones:
        label = f"zone {zone.name}"
        kinds = [device.tag for device in zone.elements("devices/*")]
        judgement.broken += [f"{label}: has a device of the kind {kind}" for kind in kinds if kind not in _ORDINARY_DEVICES]
        judgement.broken += [f"{label}: was given {what}" for what in sorted(zone.asked - {"nested_hvm", "driver_domain"})]
        for file, writable in zone.files():
            shared = re.fullmatch(rf"{re.escape(facts.store)}/(images/[0-9a-f]{{64}}/rootfs|runtime/[0-9a-f]{{64}}/base)\.img", file)
            own = re.fullmatch(rf"{re.escape(facts.store)}/(zones/{re.escape(zone.name)}/writable-[0-9a-f]+|volumes/[^/]+)\.img", file)
            if not shared and not own:
                judgement.broken.append(f"{label}: has the disk {file}, which is no file of a zone")
            elif shared and writable:
                judgement.broken.append(f"{label}: may write to {file}, which zones share")
            elif own and writers.setdefault(file, zone.name) != zone.name:
                judgement.broken.append(f"{label}: has the disk {file}, as zone {writers[file]} has")
        judgement.seen.append(f"{label}: {len(zone.files())} disks, all of them files of its own or read-only")
    return judgement


def _xenstore(facts: Facts) -> Judgement:
    judgement = Judgement()
    running = {domain.number: domain for domain in facts.domains if domain.number is not None}
    zones = {number for number, domain in running.items() if domain.zone}
    uuids = {domain.uuid: number for number, domain in running.items()}
    for node in facts.nodes:
        of = _domain_of(node.path, uuids)
        owner = node.access[0][1]
        if of is not None and owner == of:
            continue  # What a domain owns is its own to open.
        own = re.match(r"/local/domain/(\d+)(?:/|$)", node.path)
        for zone in sorted(_may(node, "wb", zones) | zones & {owner}):
            if own is None or int(own[1]) != zone:
                judgement.broken.append(f"zone {running[zone].name}: may write {node.path}")
        for zone in sorted(_may(node, "rb", zones)):
            if of not in (None, zone):
                judgement.broken.append(f"zone {running[zone].name}: may read {node.path}")
    seen = {of for node in facts.nodes if (of := _domain_of(node.path, uuids)) is not None}
    judgement.unknown += [f"zone {running[zone].name}: xenstore lists no node of it" for zone in sorted(zones - seen)]
    if re.search(r"^\s*quota-activate\s*=\s*false", facts.quota, re.MULTILINE):
        judgement.broken.append("the quotas of xenstore are switched off in /etc/xen/oxenstored.conf")
    judgement.seen.append(f"{len(facts.nodes)} nodes, {len(zones)} running zones")
    return judgement


def _may(node: Node, letters: str, zones: set[int]) -> set[int]:
    """The zones beside its owner that may do to a node what one of the letters allows."""
    (default, owner), *entries = node.access
    listed = {number for letter, number in entries if letter in letters}
    if default in letters:
        listed |= zones - {owner} - {number for _letter, number in entries}
    return zones & listed


def _domain_of(path: str, uuids: dict[str, int]) -> int | None:
    """The guest whose node this is, if it is one's."""
    found = re.match(r"/local/domain/0/backend/\w+/(\d+)/|(?:/local/domain|/libxl)/([1-9]\d*)(?:/|$)", path)
    if found:
        return int(found[1] or found[2])
    of_vm = re.match(r"/vm/([0-9a-f-]{36})(?:/|$)", path)
    return uuids.get(of_vm[1]) if of_vm else None


def _privileges(facts: Facts) -> Judgement:
    judgement = Judgement()
    for zone in facts.running_zones:
        if "driver_domain" in zone.asked:
            judgement.broken.append(f"zone {zone.name}: is a driver domain, which other domains depend on")
        label = zone.text("seclabel/label")
        judgement.seen.append(f"zone {zone.name}: {zone.text('os/type')} guest, {f'label {label}' if label else 'no security label'}")
    return judgement


def _identity(facts: Facts) -> Judgement:
    judgement = Judgement()
    judgement.broken += _differences(facts, lambda part: part in _IDENTITY_PARTS)
    for zone, definition in _definitions(facts.running_zones, judgement):
        label, name, mac = f"zone {zone.name}", network.interface(definition.index), network.mac(definition.index)
        for interface in zone.elements("devices/interface"):
            kind, script = interface.get("type"), interface.find("script")
            if kind != "ethernet" or script is None or script.get("path") != VIF_SCRIPT:
                judgement.broken.append(f"{label}: has an interface of the kind {kind} that is no routed link of its own")
        link = facts.links.get(name)
        if link is None:
            judgement.broken.append(f"{label}: runs, and its link {name} is not there")
            continue
        if link.bridge:
            judgement.broken.append(f"{label}: its link {name} is in the bridge {link.bridge}")
        if link.mac != mac:
            judgement.broken.append(f"{label}: the host's end of {name} has the address {link.mac} instead of {mac}")
        judgement.broken += [f"{label}: the host has the IPv6 address {address} on {name}" for address in link.inet6]
        judgement.broken += [f"{label}: {path} is {value}" for path, value in sorted(link.settings.items()) if value != "0"]
        entries = [entry for entry in facts.neighbours if entry.link == name]
        judgement.broken += [
            f"{label}: the host knows {entry.address} at {entry.mac} on {name}, {'for good' if entry.permanent else 'learned from it'}"
            for entry in entries
            if not entry.permanent or entry.mac != mac
        ]
        if network.address(definition.index) not in {entry.address for entry in entries if entry.permanent}:
            judgement.broken.append(f"{label}: the host has no permanent entry of {network.address(definition.index)} on {name}")
        judgement.seen.append(f"{label}: link {name}, {network.address(definition.index)} at {mac} for good, no bridge")
    return judgement


def _policy(facts: Facts) -> Judgement:
    judgement = Judgement()
    judgement.broken += _differences(facts, lambda part: part not in _IDENTITY_PARTS)
    if not facts.kept_as_wanted:
        judgement.broken.append("the rules that are kept for the next boot are not those that the declared zones demand")
    known = list(_definitions(facts.zones, judgement))
    judgement.seen.append(f"the table inet ringfence is loaded and as {len(known)} zones demand")
    return judgement


def _differences(facts: Facts, concerned: Callable[[str], bool]) -> list[str]:
    """Where the loaded tables differ from those that are demanded: in the parts that concern a promise, and as a whole."""
    if not facts.rules:
        return ["the nftables table inet ringfence is not loaded"]
    loaded, wanted = parse_rules(facts.rules), parse_rules(facts.wanted_rules)
    different = (name for name in {*loaded, *wanted} if loaded.get(name) != wanted.get(name))
    parts = sorted(name for name in different if concerned(name) or name.startswith("table "))
    told = []
    for name in parts:
        if name not in loaded or name not in wanted:
            told.append(f"{name}: {'is missing' if name in wanted else 'is not one of ours'}")
            continue
        told.append(f"{name}: is not as demanded; {_first_difference(loaded[name], wanted[name])}")
    return told


def _first_difference(loaded: str, wanted: str) -> str:
    """Where two texts part."""
    pairs = enumerate(zip(loaded, wanted, strict=False))
    at = next((place for place, (one, other) in pairs if one != other), min(len(loaded), len(wanted)))
    begin = max(loaded.rfind(" ", 0, at), 0)
    return f"loaded: '{loaded[begin : begin + 60].strip()}', demanded: '{wanted[begin : begin + 60].strip()}'"


def _unparsed_disks(facts: Facts) -> Judgement:
    judgement = Judgement()
    rule = [line for line in facts.udev_rules.splitlines() if not line.lstrip().startswith("#") and facts.store in line]
    needed = ('KERNEL=="loop*"', 'ENV{UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG}="1"', 'ENV{SYSTEMD_READY}="0"')
    if not any(all(part in line for part in needed) for line in rule):
        judgement.broken.append("/etc/udev/rules.d/60-loop-ringfence.rules does not keep the host from probing the disks of zones")
    judgement.broken += [f"{loop.name} ({loop.file}): {trace}" for loop in facts.loops for trace in loop.traces]
    found = {loop.file for loop in facts.loops}
    for zone in facts.running_zones:
        missing = [file for file, _writable in zone.files() if file not in found]
        judgement.unknown += [f"zone {zone.name}: no loop device of {file} is found" for file in missing]
    judgement.seen.append(f"{len(facts.loops)} loop devices of the store: no file system, label, partition or holder is known of them")
    return judgement


def _console_logs(facts: Facts) -> Judgement:
    judgement = Judgement()
    judgement.broken += [
        f"{path} is not as the role host writes it" for path in facts.outdated if any(part in path for part in _CONSOLE_FILES)
    ]
    if not facts.rotation_enabled:
        judgement.broken.append("ringfence-console-logs.timer is not enabled")
    if facts.uptime > _ROTATION_SECONDS and (facts.rotation_age is None or facts.rotation_age > _ROTATION_SECONDS):
        age = "never since the boot" if facts.rotation_age is None else f"{facts.rotation_age:.0f} s ago"
        judgement.broken.append(f"console logs were last bounded {age}, and shall be every minute")
    judgement.broken += [f"{name} has {size} bytes" for name, size in sorted(facts.console_logs.items()) if size > _CONSOLE_BOUND]
    largest = max(facts.console_logs.values(), default=0)
    judgement.seen.append(f"{len(facts.console_logs)} console logs, the largest of {largest} bytes")
    return judgement


def _no_qemu(facts: Facts) -> Judgement:
    # QEMU's guest agent is for a host that is itself a guest; it serves no zone.
    device_models = [
        process for process in facts.processes if any(re.match(r"qemu(?!-ga$)", name.rpartition("/")[2]) for name in process.names)
    ]
    return Judgement(
        broken=[f"process {process.number}: {process.names[0]}" for process in device_models],
        seen=[f"{len(facts.processes)} processes, {len(facts.running_zones)} running zones"],
    )


def _cpu(facts: Facts) -> Judgement:
    judgement = Judgement()
    for zone in facts.running_zones:
        cpus = zone.elements("cpu")
        if "nested_hvm" in zone.asked:
            judgement.broken.append(f"zone {zone.name}: has nested virtualization")
        judgement.broken += [f"zone {zone.name}: has CPU settings that are not declared ({cpu.get('mode') or 'features'})" for cpu in cpus]
        judgement.seen.append(f"zone {zone.name}: {zone.text('os/type')} guest, no nested virtualization")
    return judgement


def _management(facts: Facts) -> Judgement:
    judgement = Judgement()
    for zone, definition in _definitions(facts.zones, judgement):
        restart = "destroy" if definition.zone.restart == "no" else "restart"
        for event, wanted in (("on_crash", restart), ("on_reboot", restart), ("on_poweroff", "destroy")):
            if zone.text(event) != wanted:
                judgement.broken.append(f"zone {zone.name}: {event} is {zone.text(event) or 'not set'}, declared is {wanted}")
        stopped = definition.zone.restart == "unless-stopped" and zone.number is None
        if zone.autostart != starts_with_host(definition.zone) and not stopped:
            judgement.broken.append(f"zone {zone.name}: {'starts' if zone.autostart else 'does not start'} with the host, not as declared")
        judgement.seen.append(f"zone {zone.name}: on a crash {restart}, {'starts' if zone.autostart else 'does not start'} with the host")
    return judgement


def _leftovers(facts: Facts) -> Judgement:
    judgement = Judgement()
    live = set(facts.xen_domains)
    known = {domain.number: domain for domain in facts.domains if domain.number is not None}
    judgement.broken += [
        f"domain {number} ({facts.xen_domains[number]}) is in Xen, and libvirt does not know it"
        for number in sorted(live - set(known) - {0})
    ]
    judgement.broken += [
        f"zone {domain.name}: runs as domain {number}, says libvirt, and Xen has no such domain"
        for number, domain in sorted(known.items())
        if number not in live
    ]
    gone = sorted({(int(found[2]), found[1]) for node in facts.nodes if (found := _NODE_OF_GUEST.match(node.path))})
    judgement.broken += [f"xenstore has {place}/{number}, and there is no domain {number}" for number, place in gone if number not in live]
    indices = {network.interface(definition.index) for _zone, definition in _definitions(facts.running_zones, judgement)}
    for name in sorted(facts.links):
        vif = re.fullmatch(r"vif(\d+)\.\d+(-emu)?", name)
        if vif and int(vif[1]) not in live:
            judgement.broken.append(f"the interface {name} is of a domain that is gone")
        elif re.fullmatch(r"rz\d+", name) and name not in indices and not judgement.unknown:
            judgement.broken.append(f"the interface {name} is of no zone that runs")
    used = {file for domain in facts.domains if domain.number is not None for file, _writable in domain.files()}
    for loop in facts.loops:
        if loop.file.endswith(" (deleted)"):
            judgement.broken.append(f"{loop.name} holds {loop.file}")
        elif re.match(rf"{re.escape(facts.store)}/(zones|volumes)/", loop.file) and loop.file not in used:
            judgement.broken.append(f"{loop.name} holds {loop.file}, which no running zone has")
    names = {zone.name for zone in facts.zones}
    judgement.broken += [f"{facts.store}/zones/{name} is of no zone" for name in facts.zone_directories if name not in names]
    judgement.broken += [f"{path} is left of a run that was interrupted; the next converge clears it" for path in facts.unfinished]
    judgement.seen.append(f"{len(known)} running domains, {len(facts.loops)} loop devices, {len(names)} zones")
    judgement.seen += [f"domain {domain.name} is not a zone of ours" for domain in facts.domains if not domain.zone]
    return judgement


_NODE_OF_GUEST = re.compile(r"(/local/domain/0/backend/\w+|/local/domain|/libxl)/([1-9]\d*)(?:/|$)")


def _provenance(facts: Facts) -> Judgement:
    judgement = Judgement(broken=list(facts.store_faults), seen=list(facts.store_files))
    list(_definitions(facts.zones, judgement))
    shared = re.compile(rf"{re.escape(facts.store)}/(images|runtime)/")
    writable = [loop for loop in facts.loops if shared.match(loop.file) and not loop.read_only]
    judgement.broken += [f"{loop.name} may write to {loop.file}" for loop in writable]
    return judgement


def _secrets(facts: Facts) -> Judgement:
    judgement = Judgement()
    looked = 0
    if not any(zone.definition and zone.definition.secrets for zone in facts.zones):
        judgement.unknown.append("no zone has a secret")
    places = [(f"the XML of domain {domain.name}", domain.xml.encode()) for domain in facts.domains]
    places += [(f"xenstore, {node.path}", node.value) for node in facts.nodes]
    places += [(f"the arguments of process {process.number}", process.arguments) for process in facts.processes]
    for secret in facts.secrets:
        if len(secret.content) < _SHORTEST_SECRET:
            judgement.seen.append(f"zone {secret.zone}: secret {secret.name} is too short to be looked for")
            continue
        looked += 1
        forms = _forms(secret.content)
        judgement.broken += [
            f"zone {secret.zone}: secret {secret.name} is in {place}" for place, text in places if any(form in text for form in forms)
        ]
    for zone, definition in _definitions(facts.zones, judgement):
        judgement.broken += [
            f"zone {zone.name}: the metadata of secret {name} is no fingerprint"
            for name, told in definition.secrets.items()
            if not re.fullmatch(r"[0-9a-f]{32}", told)
        ]
    if facts.secrets and not looked:
        judgement.unknown.append("every secret is too short to be looked for")
    judgement.seen.append(f"{looked} secrets, not found in {len(places)} texts")
    return judgement


def _forms(content: bytes) -> set[bytes]:
    """A secret as it may stand in XML, in JSON, and by itself."""
    text = content.decode("utf-8", "replace").rstrip("\n")
    return {form.encode() for form in (text, json.dumps(text)[1:-1], html.escape(text, quote=False)) if form}


def _host(facts: Facts) -> Judgement:
    judgement = Judgement()
    if facts.running:
        judgement.broken += decisions.reasons_to_reboot(facts.running, facts.options)
        judgement.broken += [
            f"XSA-{row['number']} ({row['title']}) applies: {row['why']}"
            for row in advisories.judge(advisory_table.TABLE, advisories.host_of(facts))
            if row["result"] == advisories.APPLIES
        ]
        judgement.seen += [f"Xen: {facts.running.xen}", f"dom0: {facts.running.linux}"]
    judgement.broken += [
        f"{path} is not as the role host writes it" for path in facts.outdated if not any(part in path for part in _CONSOLE_FILES)
    ]
    return judgement


PROMISES = (
    Promise(
        1,
        "Every zone runs a Linux kernel of its own, in a virtual machine of its own; it does not share the host's kernel.",
        "Each running zone is a Xen domain of its own, which boots a kernel of the host's store directly. It is not asked from inside.",
        _own_kernel,
        ("domains",),
        "running",
    ),
    Promise(2, "A zone whose kernel dies harms neither the host nor another zone.", "Needs a kernel that is made to crash."),
    Promise(3, "Programs that a kernel starts by itself stay inside the zone.", "Needs a zone that plants such handlers."),
    Promise(4, "Known escapes from shared container runtimes find nothing of the host.", "Needs the escapes to be tried."),
    Promise(
        5,
        "A zone has no file system, socket or device of the host.",
        "The devices that libvirt and libxl gave to each running zone: only disks that are files of its own or read-only, its network"
        " link and its console; no disk to which two zones write. Nothing is tried from inside.",
        _devices,
        ("domains",),
        "running",
    ),
    Promise(
        6,
        "In xenstore, the directory by which Xen's programs talk, a zone cannot change what is not its own or read what is another zone's.",
        "The permissions of every node, for every running zone, and that quotas are not switched off. No access is tried, no quota filled.",
        _xenstore,
        ("domains", "nodes", "quota", "steady"),
        "running",
    ),
    Promise(7, "A zone cannot take memory or event channels that others share.", "Needs a zone that tries to."),
    Promise(
        8,
        "The hypervisor refuses what only the host may ask of it.",
        "That no running zone is a driver domain is looked at. Refusals need a zone that asks.",
        _privileges,
        ("domains",),
        "running",
        shown=False,
    ),
    Promise(
        9,
        "A zone cannot claim the network address of another.",
        "The rules that drop packets with a foreign source, as loaded; for each running zone a routed link without a bridge, and the host's"
        " permanent entry of its address. No packet is sent.",
        _identity,
        ("domains", "links", "neighbours", "rules", "wanted_rules", "steady"),
        "running",
    ),
    Promise(
        10,
        "A zone reaches nothing that is not declared: no other zone, not the host, not the network.",
        "The loaded nftables table is compared, part by part, with the one that the definitions of all zones demand. No packet is sent.",
        _policy,
        ("domains", "rules", "wanted_rules", "kept_as_wanted", "steady"),
        "defined",
    ),
    Promise(11, "A zone finds nothing of another zone in memory that it is given.", "Needs zones that fill and search memory."),
    Promise(12, "A zone finds nothing of another zone on a disk that it is given.", "Needs zones that fill and search disks."),
    Promise(
        13,
        "The host never reads file systems, partition tables or labels that a zone wrote.",
        "The rule for udev, and what udev, blkid and the kernel know of the loop devices of zones. Nothing hostile is written to a disk.",
        _unparsed_disks,
        ("domains", "loops", "udev_rules"),
        "running",
    ),
    Promise(14, "A hostile image harms nothing outside its zone.", "Needs hostile images to be fetched."),
    Promise(15, "A flood of work or packets in a zone leaves the others and the host usable.", "Needs the floods."),
    Promise(
        16,
        "What a zone writes to its console takes a bounded part of the host's disk.",
        "The units and settings that bound the logs, when they last did, and the sizes of the logs. Nothing is written to a console.",
        _console_logs,
        ("outdated", "console_logs"),
    ),
    Promise(17, "A hostile answer of a zone is bounded and inert.", "Needs zones that answer so."),
    Promise(
        18,
        "The host runs no QEMU for its zones.",
        "The names of all processes of the host.",
        _no_qemu,
        ("processes",),
    ),
    Promise(
        19,
        "A zone has no nested virtualization and no CPU features beyond Xen's defaults.",
        "What libvirt and libxl gave to each running zone.",
        _cpu,
        ("domains",),
        "running",
    ),
    Promise(
        20,
        "Zones run without the management programs, and restart as declared.",
        "What Xen's tool stack does when a zone crashes, restarts or ends, and whether it starts with the host, against its declaration."
        " No program is stopped.",
        _management,
        ("domains",),
        "defined",
    ),
    Promise(
        21,
        "Nothing is left of zones that are gone.",
        "Every domain, node of xenstore, network link, loop device and directory of a zone belongs to a zone that there is.",
        _leftovers,
        ("domains", "xen_domains", "nodes", "links", "loops", "zone_directories", "steady"),
    ),
    Promise(
        22,
        "Zones run the images and kernels that were named by digest.",
        "The images, kernels and zone bases of all zones are in the store, whole by their recorded sizes, writable for root alone, and"
        " attached read-only. Their contents are not compared; that a tampered image is refused needs one.",
        _provenance,
        ("domains", "store_faults", "loops"),
        "defined",
    ),
    Promise(
        23,
        "The content of a secret is nowhere but in its zone.",
        "Each secret's content is looked for in the XML of all domains, in xenstore and in the arguments of all processes. Logs are not"
        " searched.",
        _secrets,
        ("domains", "nodes", "processes", "secrets"),
        "defined",
    ),
    Promise(
        24,
        "Xen and the host's kernel are booted with the hardening that is declared, and have the security updates that are known.",
        "The command lines of the running Xen and of the host's kernel, and the files for the next boot, against the declaration of the"
        " role host; and that no security advisory on Xen applies for which Debian has a fixed version, by the collection's table."
        " Mitigations of the CPU and versions of packages are listed for information.",
        _host,
        ("running", "outdated"),
    ),
)
"""Every promise of isolation, by number. The numbers stay what they are."""
