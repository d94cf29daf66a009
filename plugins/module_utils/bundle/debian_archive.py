# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packages of Debian for hosts without network: partial mirrors, and how apt uses them.

A partial mirror has Debian's own indexes, signed by Debian and unchanged, and of the packages in them only some. So the apt of a host
checks packages as if they came from the network. Which packages are needed, apt says on this machine, with a state and sources of its own:
those named and all that they depend on, as for a machine that has no package yet.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import urllib.parse
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.bundle.manifest import File
from ansible_collections.ringfence.zones.plugins.module_utils.command import CommandFailed, run
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.store import UNFINISHED, file_digest

ARCHIVES = ("debian", "debian-security")
"""Debian's archives; the directories of a bundle have the same names."""

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

LISTS = 140 * 1024**2
"""Bytes that apt's lists of Debian's archives take on a host, with its caches of them."""

_DOWNLOADS = 50
"""How many files are fetched by one apt-helper."""
_TIMEOUT = 4 * 3600.0

_SETTINGS = """\
#clear APT::Architectures;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::ForceHash "SHA256";
Dir::Etc::sourcelist "{directory}/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferences "{directory}/preferences";
Dir::Etc::preferencesparts "/dev/null";
Dir::Cache "{directory}/cache";
Dir::State::lists "{directory}/lists";
"""


@dataclasses.dataclass(frozen=True)
class Download:
    """A file of a mirror."""

    uri: str
    file: File


def indexes(suite: str) -> list[tuple[str, str]]:
    """The archives and suites from which a Debian machine of ``suite`` has its packages."""
    return [(ARCHIVES[0], suite), (ARCHIVES[0], f"{suite}-updates"), (ARCHIVES[1], f"{suite}-security")]


def write_settings(directory: Path, suite: str, architecture: str, archives: Mapping[str, str], more: str = "", options: str = "") -> Path:
    """Write a configuration of apt into ``directory``, which is its own, and return the file for ``APT_CONFIG``.

    :param archives: the addresses of Debian's archives by name.
    :param more: further settings.
    :param options: further options of each source.
    """
    for name in ("lists/partial", "cache/archives/partial"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    # No other index, as translations, or what apt.conf.d asks for beside them: a partial mirror has none.
    lines = [f"deb [signed-by={KEYRING} target=Packages{options}] {archives[archive]} {name} main\n" for archive, name in indexes(suite)]
    (directory / "sources.list").write_text("".join(lines), encoding="utf-8")
    path = directory / "apt.conf"
    path.write_text(_SETTINGS.format(directory=directory, architecture=architecture) + more, encoding="utf-8")
    return path


def apt(settings: Path, *argv: str) -> bytes:
    """Run a program of apt with a configuration of :func:`write_settings`."""
    return run(["env", f"APT_CONFIG={settings}", *argv], timeout=_TIMEOUT)


def look_up(
    work: Path, suite: str, architecture: str, archives: Mapping[str, str], packages: Iterable[Collection[str]]
) -> tuple[dict[str, Path], dict[str, Download]]:
    """What a partial mirror of ``suite`` with these packages has: by path, files that are here already, and files to fetch.

    :param work: an empty directory, in which the files are.
    :param archives: the addresses of Debian's archives by name.
    :param packages: as ``apt-get install`` takes them. They are looked up together with the others of their collection, and need not go
        together with those of another.
    :raises RingfenceError: naming a package that the suite has not, or an archive that cannot be had.
    """
    status = work / "status"
    status.touch()
    settings = write_settings(work, suite, architecture, archives, f'Dir::State "{work}";\nDir::State::status "{status}";\n')
    try:
        apt(settings, "apt-get", "--quiet", "update", "--error-on=any")
        # What this machine prefers is not what hosts need. Not among the settings, which apt.conf.d follows; a proxy may be declared there.
        argv = ("--option=APT::Default-Release=", "--quiet=2", "--assume-yes", "--print-uris", "--no-install-recommends", "install")
        listed = b"".join(apt(settings, "apt-get", *argv, *sorted(together)) for together in packages)
    except CommandFailed as error:
        raise RingfenceError(f"packages of {suite}: {error}; check their names, the addresses of the mirrors and the network") from error
    here, downloads = {}, {}
    for archive, name in indexes(suite):
        release = _release_file(work / "lists", suite, name)
        here[f"{archive}/dists/{name}/InRelease"] = release
        index = f"main/binary-{architecture}/Packages.xz"
        path = f"{archive}/dists/{name}/{index}"
        file = _listed_in_release(release.read_text("utf-8"), index)
        downloads[path] = Download(f"{archives[archive]}/dists/{name}/{index}", file)
    for uri, size, sha256 in re.findall(r"^'(\S+)' \S+ (\d+) SHA256:([0-9a-f]{64})$", listed.decode(), re.MULTILINE):
        archive = next(name for name in sorted(archives, key=lambda name: -len(archives[name])) if uri.startswith(f"{archives[name]}/"))
        path = f"{archive}/{urllib.parse.unquote(uri[len(archives[archive]) + 1 :])}"
        downloads[path] = Download(uri, File(int(size), sha256))
    return here, downloads


def fetch(work: Path, downloads: Mapping[Path, Download]) -> None:
    """Fetch files, each by its digest, to where they belong.

    :param work: the directory of :func:`look_up`.
    :raises RingfenceError: when a mirror has another file by now, or none.
    """
    settings = work / "apt.conf"
    wanted = sorted(downloads.items())
    for first in range(0, len(wanted), _DOWNLOADS):
        argv: list[str] = []
        for path, download in wanted[first : first + _DOWNLOADS]:
            path.parent.mkdir(parents=True, exist_ok=True)
            argv += [download.uri, os.fspath(path), f"SHA256:{download.file.sha256}"]
        try:
            apt(settings, "/usr/lib/apt/apt-helper", "-qq", "download-file", *argv)
        except CommandFailed as error:
            if error.is_full_disk:
                raise RingfenceError(f"the disk is full while packages are fetched; make room and run again ({error})") from error
            raise RingfenceError(f"packages: {error}; run again: the mirror may have changed meanwhile") from error
    for path in downloads:
        if path.is_symlink():  # apt's way with a mirror on this machine
            shutil.copyfile(path.resolve(), path.with_name(f"{UNFINISHED}{path.name}"))
            os.replace(path.with_name(f"{UNFINISHED}{path.name}"), path)


def described(path: Path) -> File:
    """Size and digest of a file that is here."""
    return File(path.stat().st_size, file_digest(path).removeprefix("sha256:"))


def _release_file(lists: Path, suite: str, name: str) -> Path:
    found = list(lists.glob(f"*_dists_{name}_InRelease"))
    if len(found) != 1:
        raise RingfenceError(f"packages of {suite}: {len(found)} of the archives have a file dists/{name}/InRelease; one must")
    return found[0]


def _listed_in_release(text: str, index: str) -> File:
    """What a Release file says of an index, from its list of SHA256 digests."""
    found = re.search(rf"^ ([0-9a-f]{{64}}) +(\d+) {re.escape(index)}$", text, re.MULTILINE)
    if not found:
        raise RingfenceError(f"an archive does not list {index}, which Debian's do; use another mirror")
    return File(int(found[2]), found[1])


def archive_addresses(mirror: str, security_mirror: str) -> dict[str, str]:
    """The addresses of Debian's archives by name."""
    return dict(zip(ARCHIVES, (mirror.rstrip("/"), security_mirror.rstrip("/")), strict=True))


def local_addresses(directory: Path) -> dict[str, str]:
    """The same for partial mirrors in a directory."""
    return {archive: f"file:{directory}/{archive}" for archive in ARCHIVES}


def host_settings(directory: Path, bundle: Path, suite: str, architecture: str, paths: Iterable[str]) -> Path:
    """Write the configuration with which a host's apt takes packages from an installed bundle, and nothing else.

    :param directory: where it is, with the lists of packages.
    :param bundle: the directory with the partial mirrors.
    :param paths: of the bundle's files.
    """
    # apt reads the file of APT_CONFIG first, then apt.conf.d, and last its main file: as that it reads this one again, which so prevails.
    # A bundle may be older than the time for which Debian's indexes hold, and a host's clock behind it. Debian 13 refuses signatures of
    # what it takes for the future all the same.
    more = (
        f'Dir::Etc::main "{directory / "apt.conf"}";\nAPT::Default-Release "";\n'
        'Acquire::Check-Valid-Until "false";\nAcquire::Check-Date "false";\n'
    )
    settings = write_settings(directory, suite, architecture, local_addresses(bundle), more, " by-hash=no")
    (directory / "preferences").write_text(_preferences(paths), encoding="utf-8")
    return settings


def _preferences(paths: Iterable[str]) -> str:
    """What of the indexes apt may choose: they list all packages of Debian, and a partial mirror has some (apt_preferences(5)).

    Without it an upgrade would begin with a package that is not there.
    """
    # All that mirrors list, and not what is installed, which belongs to no component.
    stanzas = ["Package: *\nPin: release c=main\nPin-Priority: -1\n"]
    for path in paths:
        found = re.fullmatch(r".*/([a-z0-9][a-z0-9+.-]+)_([A-Za-z0-9.+~-]+)_[a-z0-9]+\.deb", path)
        if found:
            # A name in Debian's pool leaves out the epoch.
            stanzas.append(f"Package: {found[1]}\nPin: version /^([0-9]+:)?{re.escape(found[2])}$/\nPin-Priority: 500\n")
    return "\n".join(stanzas)


def update(settings: Path) -> None:
    """Let apt read the indexes, and check Debian's signatures of them."""
    apt(settings, "apt-get", "--quiet", "update", "--error-on=any")
