# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the declared kernels of a host get into its store.

All names, ``kernels/names.json``, are replaced as a whole when everything declared is in the store: they never change in part.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible_collections.ringfence.zones.plugins.module_utils import disk_space
from ansible_collections.ringfence.zones.plugins.module_utils.bundle import installed
from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration, RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.image import build, references, registry
from ansible_collections.ringfence.zones.plugins.module_utils.kernel import kernels
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.kernels import Kernel, Names, Target
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.layout import unpack_kernel
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store, file_digest, write_atomically


@dataclasses.dataclass(frozen=True)
class Declared:
    """One kernel of the declared set. ``image`` is a reference as ``references.parse_reference`` takes it."""

    name: str
    image: str
    default: bool = False


@dataclasses.dataclass(frozen=True)
class Found:
    """What a reference names: its digest, and the image unless the store has it already. Both ``None`` if it cannot be looked up yet."""

    digest: str | None = None
    image: registry.Resolved | None = None


@dataclasses.dataclass(frozen=True)
class Policy:
    """How a converge goes about it."""

    pull: str = "missing"
    """When a tag is looked up: ``missing``, if the name did not stand for this reference before, or ``always``."""
    prune: bool = False
    """Forget names that are not declared, but for those in ``in_use``; else they are only reported."""
    in_use: Collection[str] = ()
    """Names that zones of this host refer to."""
    accept: Callable[[Kernel], None] | None = None
    """Called with a kernel before it gets into the store; what it raises refuses it."""
    clear: Callable[[], None] | None = None
    """Called first, when no other run can be at work: ends what an earlier one has left of accepting."""


DEFAULT_POLICY = Policy()


@dataclasses.dataclass(frozen=True)
class Report:
    """What a converge changed, or would: the names ``before`` and ``after``, the kernels as a module returns them, names not declared."""

    changed: bool
    before: Names
    after: Names
    kernels: list[dict[str, Any]]
    undeclared: list[str]

    @property
    def pruned(self) -> list[str]:
        """The names that are, or would be, forgotten."""
        return sorted(set(self.before.kernels) - set(self.after.kernels))


class DeploymentFailed(RingfenceError):
    """A kernel could not be deployed. All names stand for what they stood for; ``stored`` are the declared names already in the store."""

    def __init__(self, message: str, stored: list[str]) -> None:
        self.stored = stored
        super().__init__(message)


def declare(entries: Sequence[Mapping[str, Any]]) -> list[Declared]:
    """Validate the declared set, each a mapping with ``name``, ``image`` and maybe ``default``.

    :raises InvalidDeclaration: with every fault found.
    """
    declared = [Declared(entry["name"], entry["image"], bool(entry.get("default"))) for entry in entries]
    problems = []
    for kernel in declared:
        if not re.fullmatch(kernels.NAME, kernel.name):
            problems.append(f"kernel {kernel.name!r}: name is not accepted; {kernels.NAME_TOLD}")
        try:
            references.parse_reference(kernel.image)
        except RingfenceError as error:
            problems.append(f"kernel {kernel.name!r}: {error}")
    names = [kernel.name for kernel in declared]
    problems += [f"kernel {name!r}: declared {names.count(name)} times; a name stands for one kernel" for name in _repeated(names)]
    defaults = [kernel.name for kernel in declared if kernel.default]
    if len(defaults) > 1:
        problems.append(f"kernels {', '.join(defaults)}: default is true for {len(defaults)}; mark one at most")
    if problems:
        raise InvalidDeclaration(problems)
    return declared


def plan(declared: Sequence[Declared], digests: Mapping[str, str | None], before: Names, policy: Policy) -> Names:
    """The names after a converge. Without a marked default the first declared kernel is it."""
    stay = {name: target for name, target in before.kernels.items() if not policy.prune or name in policy.in_use}
    after = {**stay, **{kernel.name: Target(kernel.image, digests[kernel.name]) for kernel in declared}}
    marked = [kernel.name for kernel in declared if kernel.default] or [kernel.name for kernel in declared]
    chosen = marked[0] if marked else before.default
    return Names(after, chosen if chosen in after else None)


def converge(store: Store, declared: Sequence[Declared], policy: Policy = DEFAULT_POLICY, *, check: bool) -> Report:
    """Deploy the declared kernels. Everything is looked up before anything changes; with ``check`` nothing does.

    :raises InvalidDeclaration: if images do not exist, cannot be reached or are for another architecture.
    :raises DeploymentFailed: if an image turns out to be no kernel for zones, or its transfer fails.
    """
    if check:
        return _converge(store, declared, policy, check=True)
    with store.lock():
        if policy.clear:
            policy.clear()
        return _converge(store, declared, policy, check=False)


def _converge(store: Store, declared: Sequence[Declared], policy: Policy, *, check: bool) -> Report:
    before = kernels.names(store)
    whole = functools.cache(lambda digest: _is_whole(store, digest))
    found = _look_up(store, declared, before, whole, policy, may_lack_skopeo=check)
    after = plan(declared, {name: one.digest for name, one in found.items()}, before, policy)
    absent = {name for name, one in found.items() if not one.digest or not whole(one.digest)}
    if not check:
        _deploy(store, {name: one.image for name, one in found.items() if name in absent and one.image}, policy)
        if after != before:
            write_atomically(store.kernels / "names.json", (json.dumps(after.document(), indent=2, sort_keys=True) + "\n").encode())
    rows = []
    for kernel in declared:
        loaded = None if check and kernel.name in absent else kernels.load_named(store, kernel.name, after.kernels[kernel.name])
        rows.append(_row(kernel.name, before, after, loaded, changed=kernel.name in absent))
    return Report(after != before or bool(absent), before, after, rows, sorted(set(after.kernels) - set(found)))


def _look_up(
    store: Store, declared: Sequence[Declared], before: Names, whole: Callable[[str], bool], policy: Policy, *, may_lack_skopeo: bool
) -> dict[str, Found]:
    """What each declared name stands for. What it stood for before is kept, and fetched again if the store has it no more.

    :param whole: whether the store has the kernel with this digest, undamaged.
    """
    possible = not may_lack_skopeo or shutil.which("skopeo") is not None

    def look_up(kernel: Declared) -> Found | RingfenceError:
        known = before.kernels.get(kernel.name)
        digest, reference = references.parse_reference(kernel.image).digest, kernel.image
        if known and known.digest and known.image == kernel.image and (digest or policy.pull == "missing"):
            digest, reference = known.digest, references.recorded(kernel.image, known.digest)
        if digest and whole(digest):
            return Found(digest)
        if not possible:
            return Found()
        try:
            image = installed.resolve(store, reference)
        except RingfenceError as error:
            lost = (
                "; its files in the store are missing or damaged, and it has to be fetched again"
                if known and digest == known.digest
                else ""
            )
            return RingfenceError(f"kernel {kernel.name!r}: {error}{lost}")
        return Found(image.digest, image)

    with ThreadPoolExecutor(4) as pool:
        results = dict(zip((kernel.name for kernel in declared), pool.map(look_up, declared), strict=True))
    problems = [str(result) for result in results.values() if isinstance(result, RingfenceError)]
    if problems:
        raise InvalidDeclaration(problems)
    return {name: result for name, result in results.items() if isinstance(result, Found)}


def _deploy(store: Store, images: Mapping[str, registry.Resolved], policy: Policy) -> None:
    done: dict[str, str] = {}
    for name, image in images.items():
        try:
            if image.digest not in done.values():  # two names may stand for one image
                _store(store, name, image, policy)
        except (RingfenceError, OSError) as error:
            raise DeploymentFailed(f"kernel {name!r} ({image.reference}): {error}", [*done]) from error
        done[name] = image.digest


def _store(store: Store, name: str, image: registry.Resolved, policy: Policy) -> None:
    with disk_space.full_told("its files", store.root), store.workspace() as workspace:
        scratch = workspace / "scratch"
        scratch.mkdir()
        layers = build.fetch_layers("its image", image, workspace)

        def fill(directory: Path) -> None:
            unpack_kernel(layers, image.digest, image.manifest, scratch, directory)
            if policy.accept:
                policy.accept(kernels.read(directory, name, str(image.reference)))

        store.publish(kernels.directory(store, image.digest), fill, replace=True)


def _row(name: str, before: Names, after: Names, kernel: Kernel | None, *, changed: bool) -> dict[str, Any]:
    target = after.kernels[name]
    return {
        "name": name,
        "image": target.image,
        "digest": target.digest,
        "release": kernel.release if kernel else None,
        "modes": list(kernel.modes) if kernel else None,
        "default": name == after.default,
        "changed": changed or before.kernels.get(name) != target or (name == before.default) != (name == after.default),
    }


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _is_whole(store: Store, digest: str) -> bool:
    """Whether the files of a kernel in the store are those that were deployed. That takes reading them, a fraction of a second."""
    directory = kernels.directory(store, digest)
    try:
        files = kernels.read(directory, digest, "").files
        return all(file_digest(directory / path) == expected for path, expected in files.items())
    except (RingfenceError, OSError):
        return False
