# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deploying kernels on a host with Xen: each is booted in a domain of its own before it is accepted, and names in use are kept.

The domain has the kernel, an initrd with all drivers that a zone may need, and the zone base as its one disk. It is nowhere defined, so
nothing of it outlives it. A kernel has passed when the initrd's program has loaded the drivers and mounted the base: then it writes a line
to its console that nobody could know before.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import time
from collections.abc import Collection, Sequence

from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.kernel import deploy, kernels
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.deploy import Declared
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.initrd import build_initrd
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.kernels import Kernel
from ansible_collections.ringfence.zones.plugins.module_utils.kernel.modules import REQUIRED
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store
from ansible_collections.ringfence.zones.plugins.module_utils.zone import runtime
from ansible_collections.ringfence.zones.plugins.module_utils.zone.console import console_end, console_log, console_tail, halves
from ansible_collections.ringfence.zones.plugins.module_utils.zone.domain import Files, driver_arguments, trial_xml
from ansible_collections.ringfence.zones.plugins.module_utils.zone.hypervisor import Hypervisor, booted_into_xen
from ansible_collections.ringfence.zones.plugins.module_utils.zone.runtime import Runtime

NAME = "ringfence.kernel-trial"
"""The domain of a test boot. No zone can have this name, for theirs have no dot."""

_MEMORY = 256
"""MiB: enough for a kernel with everything built in."""
_OVERHEAD = 16
"""MiB that Xen takes for a domain beside its memory, at most."""
_KEPT_OF_CONSOLE = 65536

_INIT = """\
#!/bin/sh
busybox=/bin/busybox
fail() {{
    echo "ringfence: test boot: $*"
    $busybox sleep 1
    $busybox poweroff -f
}}
read -r modules </modules
[ -z "$modules" ] || $busybox modprobe -a $modules || fail "the modules $modules cannot be loaded"
tries=0
until $busybox mount -t {filesystem} -o ro /dev/xvda /base 2>/dev/null; do
    tries=$((tries + 1))
    [ "$tries" -le 300 ] || fail "the disk did not appear within 30 s, or cannot be mounted"
    $busybox usleep 100000
done
while :; do
    echo "{token}"
    $busybox sleep 1
done
"""


def converge(
    store: Store, declared: Sequence[Declared], *, pull: str, prune: bool, test_boot: bool, timeout: float, check: bool
) -> deploy.Report:
    """Deploy the declared kernels, as ``deploy.converge`` does.

    :param test_boot: boot each before it is accepted, if this host runs Xen and has a zone base.
    :param timeout: seconds within which it has to come up.
    """
    hypervisor = Hypervisor() if booted_into_xen() and (prune or not check) else None
    in_use = _in_use(store, hypervisor) if prune else ()
    base = runtime.find_current(store) if test_boot and not check else None
    accept = Trial(store, hypervisor, base, timeout).boot if hypervisor and base else None
    policy = deploy.Policy(pull, prune, in_use, accept, functools.partial(_clear, hypervisor) if hypervisor else None)
    return deploy.converge(store, declared, policy, check=check)


def _in_use(store: Store, hypervisor: Hypervisor | None) -> Collection[str]:
    """The names of kernels to which zones of this host refer: all, if there is a zone of which nobody knows what it uses."""
    known = kernels.names(store)
    if hypervisor is None:
        # After a trial that fell back, say: the zones are there when Xen is.
        return known.kernels.keys() if store.zones.is_dir() and any(store.zones.iterdir()) else ()
    zones, _foreign = hypervisor.observe()
    definitions = [zone.definition for zone in zones.values()]
    if None in definitions:
        return set(known.kernels)
    return {definition.zone.kernel or known.default or "" for definition in definitions if definition}


def _clear(hypervisor: Hypervisor) -> None:
    """End the domain of a test boot, also the one that a run which was killed has left."""
    hypervisor.end(NAME)
    for path in halves(console_log(NAME)):
        with contextlib.suppress(OSError):
            path.unlink()


class Trial:
    """Test boots on one host."""

    def __init__(self, store: Store, hypervisor: Hypervisor, base: Runtime, timeout: float) -> None:
        self.store = store
        self.hypervisor = hypervisor
        self.base = base
        self.timeout = timeout

    def boot(self, kernel: Kernel) -> None:
        """Boot a kernel as each kind of guest that it and this host can be.

        :raises RingfenceError: when it does not come up, with the last lines of its console; nothing is left of it.
        """
        modes = [mode for mode in kernel.modes if mode in self.hypervisor.modes()]
        if not modes:
            raise RingfenceError(
                f"it can be {', '.join(kernel.modes)}, and this host can run {', '.join(self.hypervisor.modes()) or 'no guest'}"
            )
        free = self.hypervisor.free_memory()
        if free < _MEMORY + _OVERHEAD:
            raise RingfenceError(
                f"its test boot needs {_MEMORY + _OVERHEAD} MiB, and this host has {free} MiB free; make room, or set test_boot to false"
            )
        for mode in modes:
            self._boot(kernel, mode)

    def _boot(self, kernel: Kernel, mode: str) -> None:
        token = secrets.token_hex(16)
        _clear(self.hypervisor)
        with self.store.workspace() as workspace:
            initrd = workspace / "initrd"
            initrd.write_bytes(_initrd(kernel, self.base, token))
            files = Files(kernel.vmlinux, initrd, ((self.base.base, False),))
            try:
                self.hypervisor.run_transient(NAME, trial_xml(NAME, mode, _MEMORY, files))
                self._await(token)
            except RingfenceError as error:
                raise RingfenceError(
                    f"its test boot as {mode} guest failed: {error}; choose another kernel, or set test_boot to false to deploy it untested"
                ) from error
            finally:
                _clear(self.hypervisor)

    def _await(self, token: str) -> None:
        deadline = time.monotonic() + self.timeout
        while True:
            # First: what has ended may have written the line before.
            ended = self.hypervisor.domain_id(NAME) is None
            if token.encode() in _console():
                return
            if ended or time.monotonic() > deadline:
                time.sleep(0.5)  # Its last lines may still be on their way.
                why = "it ended" if ended else f"it was not up after {self.timeout:g} s"
                raise RingfenceError(f"{why}; the last lines of its console: {console_tail(NAME, lines=20)}")
            time.sleep(0.2)


def _console() -> bytes:
    try:
        return console_end(NAME, _KEPT_OF_CONSOLE)
    except OSError:
        return b""


def _initrd(kernel: Kernel, base: Runtime, token: str) -> bytes:
    modules = {module: driver_arguments(module) for module in kernel.load_order(REQUIRED)}
    init = _INIT.format(filesystem=base.filesystem, token=token).encode()
    return build_initrd(kernel, init, base.busybox, modules)
