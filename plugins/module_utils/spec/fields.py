# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values of a zone's fields: what an operator writes, validated and made canonical. Pure.

Names and meanings are those of the Compose specification where it has the field. Every function takes the value as YAML yields it, and
raises :class:`Rejected`.
"""

from __future__ import annotations

import functools
import ipaddress
import itertools
import posixpath
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils.image.references import parse_reference
from ansible_collections.ringfence.zones.plugins.module_utils.kernel import kernels
from ansible_collections.ringfence.zones.plugins.module_utils.spec.devices import NODES

MIB = 1024 * 1024
SMALLEST_MEMORY = 32
"""MiB. Below it the kernel of ``kernel_build``, the smallest that is known, does not reach its init."""
SMALLEST_VOLUME = 16
"""MiB. Below it a file system of Linux has hardly room for anything but itself."""
MOST_CPUS = 64
"""CPUs of one zone; also what the kernels in the field are built for at least."""
MOST_SHARES = 262144
"""Docker's range of shares, which is that of Linux's cgroups."""
MOST_VOLUMES = 20
"""Of one zone: xvda to xvdc are its own, and its disks have one letter."""

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
# Texts, which re compiles when a value first needs them, and keeps.
_VARIABLE = r"[^=\x00]+"
_SIZE = r"(?i)([0-9]{1,12})\s*(KiB|MiB|GiB|[kmg]b?)"
_UNITS = {"k": 1024, "m": MIB, "g": 1024 * MIB}
_PORT = r"(?:(?P<address>[0-9.]+|\[[0-9a-fA-F:]+\]):)?(?P<host>[0-9]{1,5}):(?P<zone>[0-9]{1,5})(?:/(?P<protocol>tcp|udp))?"
_TRAFFIC_PORT = r"(?P<first>[0-9]{1,5})(?:-(?P<last>[0-9]{1,5}))?(?:/(?P<protocol>tcp|udp))?"
_ON_FAILURE = r"on-failure(:[0-9]{1,9})?"
SECRET_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_USER = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,31})?"
_HOSTNAME = r"(?=.{1,63}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"
_DURATION = r"(?=.)(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,6})s)?"
_SYSCTL = r"[a-z0-9_-]+(\.[A-Za-z0-9_-]+)+"
_TMPFS_OPTION = r"size=[0-9]+[kmg]?|mode=[0-7]{3,4}|uid=[0-9]{1,10}|gid=[0-9]{1,10}|ro|rw|exec|noexec|suid|nosuid|dev|nodev"

CAPABILITIES = (
    "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID IPC_LOCK "
    "IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP "
    "SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME "
    "SYS_TTY_CONFIG WAKE_ALARM"
).split()
"""Of capabilities(7), Linux 5.9 and later."""

SIGNALS = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF "
    "WINCH IO PWR SYS"
).split()
"""Of signal(7) on x86-64; the first is number 1."""

LIMITS = ("as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack").split()
"""Of getrlimit(2)."""

_OF_THE_CONTAINER = frozenset("console core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero".split())
"""What the runtime specification and Docker put below /dev of every container."""


class Rejected(Exception):
    """A value that a field does not accept; the message says what it does accept."""


@dataclass(frozen=True)
class EnvFile:
    """A file of variables on the host. One that is not ``required`` may be missing."""

    path: str
    required: bool = True


@dataclass(frozen=True, order=True)
class Port:
    """A published port: what reaches ``host`` on the host, at ``address`` or, without one, at any, goes to ``zone`` in the zone."""

    host: int
    zone: int
    protocol: str = "tcp"
    address: str = ""

    @property
    def at(self) -> str:
        """The host's end before its protocol."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{address}:{self.host}" if address else str(self.host)

    def __str__(self) -> str:
        return f"{self.at}:{self.zone}/{self.protocol}"


@dataclass(frozen=True, order=True)
class Mount:
    """A named volume in a container: ``target`` is the path at which it appears."""

    target: str
    volume: str
    read_only: bool = False

    def __str__(self) -> str:
        return f"{self.volume}:{self.target}" + (":ro" if self.read_only else "")


@dataclass(frozen=True, order=True)
class Device:
    """A device node of the zone's kernel in a container, with what its programs may do: ``r``, ``w`` and ``m``, in this order."""

    source: str
    target: str
    permissions: str = "rwm"

    def __str__(self) -> str:
        return f"{self.source}:{self.target}:{self.permissions}"


@dataclass(frozen=True, order=True)
class Traffic:
    """Connections that a zone may make or accept: ``peer`` is a network as of CIDR or the name of a zone.

    ``ports`` are texts such as ``53/udp`` or ``8000-8010/tcp``; none of them means all of them.
    """

    peer: str
    ports: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((self.peer, *self.ports))


@dataclass(frozen=True)
class Networks:
    """What a zone may reach, and which zones of its host may reach it."""

    egress: tuple[Traffic, ...] = ()
    ingress: tuple[Traffic, ...] = ()


@dataclass(frozen=True)
class Healthcheck:
    """A declared health check; ``None`` means: as the image says. Times are in seconds.

    ``test`` is the command line that runs in the container; an empty one switches the image's check off.
    """

    test: tuple[str, ...] | None = None
    interval: int | None = None
    timeout: int | None = None
    retries: int | None = None
    start_period: int | None = None
    start_interval: int | None = None


@dataclass(frozen=True, order=True)
class Secret:
    """A secret as a file of the container; ``mode`` is in octal."""

    target: str
    source: str
    uid: int = 0
    gid: int = 0
    mode: str = "0444"

    def __str__(self) -> str:
        kept = {"uid": self.uid, "gid": self.gid, "mode": self.mode}
        told = [f"{name}={value}" for name, value in kept.items() if value != getattr(Secret, name)]
        return " ".join([f"{self.source}:{self.target}", *told])


def name(value: Any) -> str:
    """The name of a zone, which is also that of its domain."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise Rejected("1 to 40 characters a-z, 0-9 and '-', the first and the last no '-'")
    return value


def kernel(value: Any) -> str:
    """The name of a deployed kernel."""
    if not isinstance(value, str) or not re.fullmatch(kernels.NAME, value):
        raise Rejected(f"the name of a deployed kernel, {kernels.NAME_TOLD}")
    return value


def image(value: Any) -> str:
    """A reference of an OCI image."""
    if not isinstance(value, str) or not value:
        raise Rejected("an image reference, for example registry.example/web@sha256:…, oci:/srv/web or oci-archive:/srv/web.tar")
    parse_reference(value)
    return value


def choice(*accepted: str) -> Callable[[Any], str]:
    """One of a few words."""

    def parse(value: Any) -> str:
        if value not in accepted:
            raise Rejected("one of " + ", ".join(accepted))
        return str(value)

    return parse


def size(least: int) -> Callable[[Any], int]:
    """A size in MiB, at least this many."""

    def parse(value: Any) -> int:
        matched = re.fullmatch(_SIZE, value.strip()) if isinstance(value, str) else None
        found = int(matched[1]) * _UNITS[matched[2][0].lower()] // MIB if matched else 0
        if found < least:
            raise Rejected(f"a size with its unit, at least {least}MiB, for example 128MiB, 512m or 2GiB")
        return found

    return parse


def cpus(value: Any) -> int:
    """A number of virtual CPUs."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,4}", value):  # What a template yields is a string.
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_CPUS:
        raise Rejected(f"a whole number of virtual CPUs from 1 to {MOST_CPUS}")
    return value


def cpu_shares(value: Any) -> int:
    """A weight among the zones of a host, as of Docker: 1024 is one that nothing is declared for."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):  # What a template yields is a string.
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 2 <= value <= MOST_SHARES:
        raise Rejected(f"a whole number from 2 to {MOST_SHARES}; 1024 is the share of a zone that declares none")
    return value


def words(value: Any) -> tuple[str, ...]:
    """A command line; a string is split into words as a shell does it, which is not there to do anything else."""
    accepted = "a string, or a list of strings, for example ['nginx', '-g', 'daemon off;']; quote numbers and booleans"
    try:
        found = shlex.split(value) if isinstance(value, str) else value
    except ValueError as error:
        raise Rejected(f"{accepted}; a quote or a backslash in it has nothing to end it: add what is missing, or write a list") from error
    if not isinstance(found, list) or not all(map(is_text, found)):
        raise Rejected(accepted)
    return tuple(found)


def environment(value: Any) -> dict[str, str]:
    """Variables, sorted by name."""
    accepted = "a mapping of names to strings or numbers (or a list of NAME=value); quote booleans"
    if isinstance(value, list):
        if not all(isinstance(entry, str) and "=" in entry for entry in value):
            raise Rejected(accepted)
        value = dict(entry.split("=", 1) for entry in value)
    if not isinstance(value, dict):
        raise Rejected(accepted)
    for name, content in value.items():
        if not isinstance(name, str) or not re.fullmatch(_VARIABLE, name):
            raise Rejected(accepted)
        if isinstance(content, bool) or not isinstance(content, (str, int, float)) or not is_text(str(content)):
            raise Rejected(f"{accepted}; {name} is a {type(content).__name__}")
    return {name: str(value[name]) for name in sorted(value)}


def env_files(value: Any) -> tuple[EnvFile, ...]:
    """Files of variables, in the order in which they are read."""
    accepted = "an absolute path on the host, or a list of paths or of {path: /file, required: false}"
    files = []
    for entry in value if isinstance(value, list) else [value]:
        given = {"path": entry} if isinstance(entry, str) else entry
        if not isinstance(given, dict) or not set(given) <= {"path", "required"} or not isinstance(given.get("required", True), bool):
            raise Rejected(accepted)
        if not is_text(given.get("path")) or not given["path"].startswith("/"):
            raise Rejected(accepted)
        files.append(EnvFile(**given))
    return tuple(files)


def ports(value: Any) -> tuple[Port, ...]:
    """Published ports, sorted."""
    accepted = (
        "a list of '[ADDRESS:]HOST:ZONE[/udp]' with ports from 1 to 65535, for example ['8080:80', '192.0.2.5:53:53/udp', "
        "'[2001:db8::5]:443:443']; quote each; without an address of the host, it is published on all of them"
    )
    if not isinstance(value, list):
        raise Rejected(accepted)
    ports = []
    for entry in value:
        matched = re.fullmatch(_PORT, entry) if isinstance(entry, str) else None
        if not matched:
            raise Rejected(accepted)
        address = _host_address(matched["address"], accepted) if matched["address"] else ""
        port = Port(int(matched["host"]), int(matched["zone"]), matched["protocol"] or "tcp", address)
        if not (1 <= port.host <= 65535 and 1 <= port.zone <= 65535):
            raise Rejected(accepted)
        ports.append(port)
    return tuple(sorted(set(ports)))


def _host_address(text: str, accepted: str) -> str:
    """An address at which a host can publish a port."""
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError as error:
        raise Rejected(accepted) from error
    if address.version == 6 and address.ipv4_mapped:
        raise Rejected(f"{accepted}; {address.ipv4_mapped} for {text}")
    if address.is_unspecified:
        raise Rejected(f"{accepted}; leave {text} out for all addresses, of IPv4 and of IPv6")
    if address.is_loopback or address.is_multicast or (address.version == 6 and address.is_link_local):
        raise Rejected(f"{accepted}; at {text} no port is published, because what is sent there is not routed on to a zone")
    return str(address)


def restart(value: Any) -> str:
    """A restart policy."""
    if value is False:  # YAML 1.1 reads a bare `no` as false.
        return "no"
    if value not in ("no", "always", "unless-stopped") and not (isinstance(value, str) and re.fullmatch(_ON_FAILURE, value)):
        raise Rejected("one of no, on-failure, on-failure:COUNT, always, unless-stopped")
    return str(value)


def user(value: Any) -> str:
    """Who the container runs as: ``user``, ``uid``, ``user:group`` or ``uid:gid``; names are the image's."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not re.fullmatch(_USER, value):
        raise Rejected("a user or uid, with ':' and a group or gid if need be, for example '1000:1000'; quote it")
    return value


def path(value: Any) -> str:
    """An absolute path in the container, normalized."""
    if not isinstance(value, str) or not value.startswith("/") or not value.isprintable() or ".." in value.split("/"):
        raise Rejected("an absolute path in the container, without '..' and control characters")
    return "/" + posixpath.normpath(value).lstrip("/")


def hostname(value: Any) -> str:
    """A host name as of RFC 1123, at most 63 characters, which is what Linux takes."""
    if not isinstance(value, str) or not re.fullmatch(_HOSTNAME, value):
        raise Rejected("a host name of at most 63 letters, digits, '-' and '.'")
    return value


def labels(value: Any) -> dict[str, str]:
    """Labels, sorted by name."""
    accepted = "a mapping of names to strings or numbers, or a list of NAME=value"
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        value = dict(entry.partition("=")[::2] for entry in value)
    if not isinstance(value, dict):
        raise Rejected(accepted)
    for label, content in value.items():
        if not isinstance(label, str) or not label or not isinstance(content, (str, int, float)) or not f"{label}{content}".isprintable():
            raise Rejected(accepted)
    return {label: str(value[label]) for label in sorted(value)}


def boolean(value: Any) -> bool:
    """Yes or no."""
    if not isinstance(value, bool):
        raise Rejected("true or false")
    return value


def capabilities(value: Any) -> tuple[str, ...]:
    """Capabilities without their ``CAP_``, sorted; ``ALL`` alone stands for every one."""
    names = [entry.upper().removeprefix("CAP_") if isinstance(entry, str) else "" for entry in value] if isinstance(value, list) else [""]
    unknown = next((name for name in names if name != "ALL" and name not in CAPABILITIES), None)
    if unknown is not None:
        raise Rejected(f"a list of ALL or of Linux capabilities: {', '.join(CAPABILITIES)}")
    return ("ALL",) if "ALL" in names else tuple(sorted(set(names)))


def tmpfs(value: Any) -> tuple[str, ...]:
    """Mounts of memory as ``PATH`` or ``PATH:option,option``."""
    accepted = "a path, or a list of PATH or PATH:size=64m,mode=1777,uid=0,gid=0 (also ro, exec, suid, dev)"
    mounts = []
    for entry in [value] if isinstance(value, str) else value if isinstance(value, list) else [None]:
        where, _colon, options = entry.partition(":") if isinstance(entry, str) else ("", "", "")
        if not where.startswith("/") or any(not re.fullmatch(_TMPFS_OPTION, option) for option in options.split(",") if options):
            raise Rejected(accepted)
        mounts.append(path(where) + (f":{options}" if options else ""))
    if len({mount.partition(":")[0] for mount in mounts}) < len(mounts) or "/" in {mount.partition(":")[0] for mount in mounts}:
        raise Rejected(f"{accepted}; each path once, and not /")
    return tuple(sorted(mounts))


def volumes(value: Any) -> tuple[Mount, ...]:
    """Named volumes where the container sees them, in the order in which they are mounted."""
    accepted = f"a list of at most {MOST_VOLUMES} 'VOLUME:/path' or 'VOLUME:/path:ro', for example ['data:/var/lib/web']"
    mounts = []
    for entry in value if isinstance(value, list) else [None]:
        parts = entry.split(":") if isinstance(entry, str) else []
        if not 2 <= len(parts) <= 3 or not NAME.fullmatch(parts[0]) or parts[2:] not in ([], ["ro"], ["rw"]):
            raise Rejected(accepted)
        mounts.append(Mount(path(parts[1]), parts[0], parts[2:] == ["ro"]))
    if len(mounts) > MOST_VOLUMES or len({mount.target for mount in mounts}) < len(mounts):
        raise Rejected(f"{accepted}; each path once")
    if len({mount.volume for mount in mounts}) < len(mounts) or "/" in {mount.target for mount in mounts}:
        raise Rejected(f"{accepted}; each volume once, and not at /")
    return tuple(sorted(mounts))


def devices(value: Any) -> tuple[Device, ...]:
    """Device nodes of the zone's own kernel, with Compose's short syntax, sorted."""
    accepted = (
        f"a list of SOURCE, SOURCE:TARGET or SOURCE:TARGET:rwm, where SOURCE is {', '.join(NODES)} of the zone's own kernel, and TARGET a "
        "path of its own below /dev; a device of the host's hardware (PCI, block, serial) cannot be given to a zone yet"
    )
    found = []
    for entry in value if isinstance(value, list) else [None]:
        parts = entry.split(":") if isinstance(entry, str) else []
        if not 1 <= len(parts) <= 3 or parts[0] not in NODES:
            raise Rejected(accepted)
        target, letters = path(parts[1] if parts[1:] else parts[0]), parts[2] if parts[2:] else "rwm"
        top, _slash, _rest = target.removeprefix("/dev/").partition("/")
        # Elsewhere it would be a file of the writable layer, and stay when it is no longer declared.
        if not target.startswith("/dev/") or top in _OF_THE_CONTAINER or not re.fullmatch("[rwm]{1,3}", letters):
            raise Rejected(accepted)
        found.append(Device(parts[0], target, "".join(letter for letter in "rwm" if letter in letters)))
    targets = sorted(f"{device.target}/" for device in found)
    nested = any(later.startswith(earlier) for earlier, later in itertools.pairwise(targets))
    if nested or len({device.source for device in found}) < len(found):
        raise Rejected(f"{accepted}; each source and each path once")
    return tuple(sorted(found))


def secrets(value: Any) -> tuple[Secret, ...]:
    """Secrets as files, with Compose's short and long syntax."""
    accepted = "a list of names of secrets, or of {source: NAME, target: /path or NAME, uid: 0, gid: 0, mode: '0440'}"
    found = []
    for entry in value if isinstance(value, list) else [None]:
        given = {"source": entry} if isinstance(entry, str) else entry
        if not isinstance(given, dict) or not {"source"} <= set(given) <= {"source", "target", "uid", "gid", "mode"}:
            raise Rejected(accepted)
        source, target, mode = given["source"], given.get("target", given["source"]), given.get("mode", "0444")
        ids = [int(str(given.get(key, 0))) if re.fullmatch("[0-9]{1,9}", str(given.get(key, 0))) else -1 for key in ("uid", "gid")]
        if not isinstance(source, str) or not SECRET_NAME.fullmatch(source) or -1 in ids:
            raise Rejected(accepted)
        if not isinstance(target, str) or not isinstance(mode, str) or not re.fullmatch("0?[0-7]{3}", mode):
            raise Rejected(accepted)
        where = path(target if target.startswith("/") else f"/run/secrets/{target}")
        if where in ("/", "/run/secrets"):
            raise Rejected(f"{accepted}; target with the name of a file")
        found.append(Secret(where, source, uid=ids[0], gid=ids[1], mode=f"0{mode[-3:]}"))
    if len({secret.target for secret in found}) < len(found):
        raise Rejected(f"{accepted}; each target once")
    return tuple(sorted(found))


def stop_signal(value: Any) -> str:
    """The name of a signal, without its ``SIG``."""
    text = str(value).upper().removeprefix("SIG") if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if re.fullmatch("[0-9]{1,2}", text) and 1 <= int(text) <= len(SIGNALS):
        return SIGNALS[int(text) - 1]
    if text not in SIGNALS:
        raise Rejected("a signal by name or number, for example SIGTERM")
    return text


def is_text(value: object) -> bool:
    """Whether a value can be given to a program. Texts of JSON and YAML may have halves of characters (surrogates)."""
    return isinstance(value, str) and not re.search("[\0\ud800-\udfff]", value)


def duration(value: Any) -> int:
    """A time in seconds, written as Compose does: ``10s``, ``1m30s``, ``2h``."""
    matched = re.fullmatch(_DURATION, value) if isinstance(value, str) else None
    if not matched:
        raise Rejected("a time of whole seconds with its unit, for example 10s, 1m30s or 1h")
    hours, minutes, seconds = (int(part or 0) for part in matched.groups())
    return hours * 3600 + minutes * 60 + seconds


def healthcheck(value: Any) -> Healthcheck:
    """A health check as Compose has it."""
    accepted = (
        "a mapping with test, interval, timeout, retries, start_period, start_interval or disable, for example "
        "{test: [CMD, redis-cli, ping], interval: 10s, timeout: 3s, retries: 3}"
    )
    known = {"test", "interval", "timeout", "retries", "start_period", "start_interval", "disable"}
    if not isinstance(value, dict) or not set(value) <= known or not isinstance(value.get("disable", False), bool):
        raise Rejected(accepted)
    retries = value.get("retries")
    if retries is not None and (not isinstance(retries, int) or isinstance(retries, bool) or not 1 <= retries <= 1000):
        raise Rejected(f"{accepted}; retries from 1 to 1000")
    times = {}
    for part in ("interval", "timeout", "start_period", "start_interval"):
        times[part] = None if value.get(part) is None else duration(value[part])
        if times[part] == 0 and part != "start_period":
            raise Rejected(f"{accepted}; {part} of at least 1s")
    test = () if value.get("disable") else health_test(value["test"]) if value.get("test") is not None else None
    return Healthcheck(test=test, retries=retries, **times)


def health_test(value: Any) -> tuple[str, ...]:
    """The command line of a check, as of Compose and of the ``Healthcheck`` of image configurations; none if it is ``NONE``."""
    if value and is_text(value):
        return ("/bin/sh", "-c", value)
    kind, *arguments = words(value) or ("",)
    if kind == "NONE" and not arguments:
        return ()
    if kind == "CMD-SHELL" and len(arguments) == 1:
        return ("/bin/sh", "-c", arguments[0])
    if kind == "CMD" and arguments:
        return tuple(arguments)
    raise Rejected("test as a string, or a list that begins with CMD, CMD-SHELL or NONE")


def depends_on(value: Any) -> dict[str, str]:
    """The condition by the name of each zone that has to be there before."""
    accepted = "a list of zones, or a mapping such as {db: {condition: service_healthy}} (or service_started)"
    if isinstance(value, list):
        value = {entry if isinstance(entry, str) else "": {"condition": "service_started"} for entry in value}
    if not isinstance(value, dict):
        raise Rejected(accepted)
    for zone, entry in value.items():
        if not isinstance(zone, str) or not NAME.fullmatch(zone) or not isinstance(entry, dict) or set(entry) != {"condition"}:
            raise Rejected(accepted)
        if entry["condition"] not in ("service_started", "service_healthy"):
            raise Rejected(accepted)
    return {zone: value[zone]["condition"] for zone in sorted(value)}


def ulimits(value: Any) -> dict[str, tuple[int, int]]:
    """Limits of resources: soft and hard by name; -1 is no limit."""
    accepted = f"a mapping of {', '.join(LIMITS)} to a number, or to soft and hard numbers; -1 is no limit"
    limits: dict[str, tuple[int, int]] = {}
    for resource, limit in value.items() if isinstance(value, dict) else [("", None)]:
        pair = [limit["soft"], limit["hard"]] if isinstance(limit, dict) and set(limit) == {"soft", "hard"} else [limit, limit]
        numbers = [part for part in pair if isinstance(part, int) and not isinstance(part, bool) and -1 <= part < 2**63]
        if resource not in LIMITS or len(numbers) != 2:
            raise Rejected(accepted)
        soft, hard = numbers
        if hard != -1 and (soft == -1 or soft > hard):
            raise Rejected(f"{accepted}; soft at most hard")
        limits[resource] = (soft, hard)
    return dict(sorted(limits.items()))


def sysctls(value: Any) -> dict[str, str]:
    """Parameters of the zone's kernel, sorted by name."""
    accepted = "a mapping of kernel parameters to strings or numbers, for example {net.core.somaxconn: 1024}, or a list of name=value"
    if isinstance(value, list) and all(isinstance(entry, str) and "=" in entry for entry in value):
        value = dict(entry.split("=", 1) for entry in value)
    if not isinstance(value, dict):
        raise Rejected(accepted)
    for parameter, content in value.items():
        if not isinstance(parameter, str) or not re.fullmatch(_SYSCTL, parameter):
            raise Rejected(accepted)
        if isinstance(content, bool) or not isinstance(content, (str, int)) or not str(content).isprintable():
            raise Rejected(accepted)
    return {parameter: str(value[parameter]) for parameter in sorted(value)}


def networks(value: Any) -> Networks:
    """What leads out of a zone, and which zones' connections lead in."""
    if not isinstance(value, dict) or not set(value) <= {"egress", "ingress"}:
        raise Rejected("a mapping with egress and ingress, for example {egress: [{to: 10.0.0.0/8, ports: [1883]}], ingress: [{from: web}]}")
    return Networks(_traffic(value.get("egress"), "to", _network), _traffic(value.get("ingress"), "from", name))


def _traffic(value: Any, key: str, parse: Callable[[Any], str]) -> tuple[Traffic, ...]:
    kind = "egress" if key == "to" else "ingress"
    whom = "a network such as 10.0.0.0/8 or 2001:db8::/32" if key == "to" else "the name of a zone"
    accepted = f"{kind} as a list of {{{key}: …, ports: […]}}, with {whom} and ports such as 1883, '53/udp' or '8000-8010/tcp'"
    rules = []
    for entry in value if isinstance(value, list) else [None] if value is not None else []:
        ports = entry.get("ports") or [] if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not {key} <= set(entry) <= {key, "ports"} or not isinstance(ports, list):
            raise Rejected(accepted)
        try:
            rules.append(Traffic(parse(entry[key]), tuple(sorted({_traffic_port(port, accepted) for port in ports}))))
        except (Rejected, ValueError):
            raise Rejected(accepted) from None
    return tuple(sorted(set(rules)))


def _traffic_port(value: Any, accepted: str) -> str:
    matched = re.fullmatch(_TRAFFIC_PORT, str(value)) if isinstance(value, (int, str)) and not isinstance(value, bool) else None
    if not matched or not 1 <= int(matched["first"]) <= int(matched["last"] or matched["first"]) <= 65535:
        raise Rejected(accepted)
    # As numbers: nft takes one that begins with 0 for octal.
    first, last = int(matched["first"]), int(matched["last"] or matched["first"])
    return f"{first if first == last else f'{first}-{last}'}/{matched['protocol'] or 'tcp'}"


def _network(value: Any) -> str:
    return _canonical_network(_unscoped(value))


@functools.cache
def _canonical_network(text: str) -> str:
    # The zones of a host are often let out to the same few networks.
    found = ipaddress.ip_network(text)
    if found.version == 6 and found.network_address.ipv4_mapped:
        raise ValueError("no packet of IPv6 has such an address")
    return str(found)


def dns(value: Any) -> tuple[str, ...]:
    """Addresses of name servers, in order."""
    accepted = "an IP address, or a list of at most three"
    entries = [value] if isinstance(value, str) else value if isinstance(value, list) else [None]
    if len(entries) > 3:  # MAXNS of resolv.conf(5).
        raise Rejected(accepted)
    return tuple(_address(entry, accepted) for entry in entries)


def extra_hosts(value: Any) -> dict[str, str]:
    """Addresses by host name, sorted by name."""
    accepted = "a list of 'name=address', or a mapping of names to addresses"
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        parts = [re.split("[=:]", entry, maxsplit=1) for entry in value]  # Compose has both; an IPv6 address has colons of its own.
        value = {pair[0]: pair[-1] for pair in parts}
    if not isinstance(value, dict) or not all(isinstance(host, str) and re.fullmatch(_HOSTNAME, host) for host in value):
        raise Rejected(accepted)
    return {host: _address(value[host], accepted) for host in sorted(value)}


def _address(value: Any, accepted: str) -> str:
    try:
        return str(ipaddress.ip_address(_unscoped(value).strip("[]")))
    except ValueError:
        raise Rejected(accepted) from None


def _unscoped(value: Any) -> str:
    """The text of an address without an interface (``%eth0``), which Python takes whatever is in it; else one that is none."""
    return value if isinstance(value, str) and "%" not in value else ""
