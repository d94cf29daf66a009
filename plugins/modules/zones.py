#!/usr/bin/python
# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module zones: arguments and documentation, then one call into the library."""

from __future__ import annotations

DOCUMENTATION = r"""
module: zones
short_description: Converge the zones of a host
version_added: 0.1.0
description:
  - Makes a host run the declared zones. A zone is one unmodified OCI image in a Xen virtual machine of its own, with its own Linux kernel.
  - One call converges the whole host. Everything is validated, resolved and fetched before anything that runs is touched.
  - Domains of the host that are not zones of this collection are never touched.
  - A reference by tag is resolved when the zone is created or its C(image) changes, as with Compose's pull policy V(missing).
requirements:
  - A host that the roles P(ringfence.zones.host#role) and P(ringfence.zones.runtime#role) have set up.
options:
  zones:
    description:
      - The declared zones, each a mapping with the fields below. A misspelt field is refused, with the nearest valid one.
      - "C(name) (required): 1 to 40 of a-z, 0-9 and C(-). The name of the zone and of its libvirt domain."
      - "C(state): V(present) (default) or V(absent)."
      - "C(image) (required unless absent): C(docker://), C(oci:), C(oci-archive:), C(docker-archive:) or a bare reference; best by digest.
        A change recreates the zone with a fresh writable layer."
      - "C(kernel): name of a kernel that M(ringfence.zones.kernels) has deployed. Default: the host's default kernel.
        A change restarts the zone."
      - "C(virtualization): V(auto) (default; PVH where host and kernel can, else PV), V(pv) or V(pvh). A change restarts the zone."
      - "C(memory): a size with its unit, at least 32MiB. Default V(128MiB). A change is applied while the zone runs, within what it was
        started with, that is from half of it up to it; any other restarts the zone."
      - "C(cpus): virtual CPUs, 1 to 64. Default V(1). A change is applied while the zone runs, within what it was started with; more
        restart the zone."
      - "C(cpu_shares): weight among the zones of the host when they want more CPU than there is, 2 to 262144. Default V(1024). A change is
        applied while the zone runs."
      - "C(entrypoint), C(command): a string, which is split into words without a shell, or a list of strings, as in Compose. A change
        restarts the zone."
      - "C(environment): a mapping, or a list of C(NAME=value). A change restarts the zone."
      - "C(env_file): an absolute path on the host, or a list of paths or of C({path: /file, required: false}), in Compose's format. What
        the files hold is laid under C(environment), and a change in them is one of C(environment)."
      - "C(ports): a list of C(HOST:ZONE), C(HOST:ZONE/udp) or C(ADDRESS:HOST:ZONE), which publishes the port at one address of the host
        alone; an IPv6 address is in brackets. A change is applied while the zone runs."
      - "C(restart): V(no) (default), V(on-failure), C(on-failure:COUNT), V(always) or V(unless-stopped). With the last two the zone
        starts with the host, with V(unless-stopped) not after C(zonectl stop). A change restarts the zone."
      - "C(user): C(USER), C(UID), C(USER:GROUP) or C(UID:GID); names are those of the image. A change restarts the zone."
      - "C(working_dir): an absolute path. A change restarts the zone."
      - "C(hostname): the container's host name. Default: the zone's name. A change restarts the zone."
      - "C(labels): a mapping, or a list of C(NAME=value). A change is applied while the zone runs."
      - "C(read_only): whether the container cannot write to its root file system. Default V(false). A change restarts the zone."
      - "C(cap_add), C(cap_drop): Linux capabilities, added to and dropped from Docker's default set; V(ALL) stands for every one.
        A change restarts the zone."
      - "C(tmpfs): a path, or a list of C(PATH) or C(PATH:size=64m,mode=1777). A change restarts the zone."
      - "C(ulimits): a mapping of C(nofile), C(nproc), … to a number, or to C(soft) and C(hard). A change restarts the zone."
      - "C(sysctls): parameters of the zone's own kernel, any of them. A change restarts the zone."
      - "C(stop_signal): the signal that asks the container to end. Default: the image's, else V(SIGTERM). A change restarts the zone."
      - "C(stop_grace_period): how long it has to end, for example V(1m30s). Default V(10s). A change restarts the zone."
      - "C(dns): addresses of at most three name servers. A change restarts the zone."
      - "C(extra_hosts): a list of C(name=address), or a mapping. A change restarts the zone."
      - "C(volumes): a list of C(VOLUME:/path) or C(VOLUME:/path:ro), with volumes of O(volumes). A change restarts the zone."
      - "C(networks): C(egress), a list of C({to: NETWORK, ports: [...]}), and C(ingress), a list of C({from: ZONE, ports: [...]}); without
        ports, all of them. What C(ingress) lets in finds the zone by its name in C(/etc/hosts), which is written while both
        run. A change is applied while the zone runs."
      - "C(healthcheck): C(test), C(interval), C(timeout), C(retries), C(start_period), C(start_interval) and C(disable), laid over the
        image's. A zone with a check has started when it is healthy. A change restarts the zone."
      - "C(depends_on): a list of zones, or a mapping such as C({db: {condition: service_healthy}}). In a converge the zone begins
        after them and ends before them. A change is applied while the zone runs."
      - "C(secrets): a list of names of O(secrets), or of C({source: NAME, target: /path, uid: 0, gid: 0, mode: '0444'}); each is a file,
        C(/run/secrets/NAME) if nothing else is said, that any user of the container reads. A change restarts the zone."
      - "C(devices): a list of C(SOURCE), C(SOURCE:TARGET) or C(SOURCE:TARGET:rwm). The source is V(/dev/fuse), V(/dev/kmsg) or
        V(/dev/net/tun) of the zone's own kernel. A change restarts the zone."
    type: list
    elements: dict
    required: true
  volumes:
    description:
      - Named volumes by name, each a mapping with C(size), at least 16MiB, and C(state), V(present) (default) or V(absent).
      - Each is the disk of one zone, and takes its size of the host's disk at once. A larger C(size) grows it and restarts its zone; a
        smaller one is refused.
      - A volume stays when its zone is removed and when it is no longer declared. Only C(state) V(absent) deletes it, with its content.
    type: dict
    default: {}
  secrets:
    description:
      - Secrets by name, their contents as text. They reach only the zones that name them, in a file system in memory, and are in no
        result, difference, metadata or log.
      - A new content restarts the zones that have it.
    type: dict
    default: {}
  prune:
    description: Remove zones of this collection that are not declared. Without it they are only reported, in RV(undeclared).
    type: bool
    default: false
  start_timeout:
    description:
      - Seconds within which the container of a zone must have started, and be healthy if it has a health check, whose C(start_period) comes
        on top; also within which a running zone must have given back or taken the memory and CPUs of a change.
      - A running zone that does not come up with a change runs as before afterwards, and the module fails. That change is not tried again
        until the declaration changes or O(retry) is set.
    type: float
    default: 120
  retry:
    description: Try again what failed and was taken back before.
    type: bool
    default: false
  adopt_runtime:
    description:
      - Restart zones that run on an older zone base than new zones get. A newer one comes with an upgrade of the collection or of the
        host's packages, and is no reason by itself to restart a zone; until then RV(zones[].pending) tells of it.
    type: bool
    default: false
  planned:
    description:
      - In check mode, what zones will find on the host, as M(ringfence.zones.runtime) and M(ringfence.zones.kernels) returned it in check
        mode. They have changed nothing either, so without this a zone's new kernel would not be known, and its restart not be predicted.
      - Of a kernel that the host has not yet, it is not known what it can; it is taken to suit its zones.
    type: dict
    suboptions:
      runtime:
        description: What M(ringfence.zones.runtime) returned as RV(ringfence.zones.runtime#module:runtime).
        type: str
      kernels:
        description: What M(ringfence.zones.kernels) returned as RV(ringfence.zones.kernels#module:kernels).
        type: list
        elements: dict
        required: true
  keep_unused:
    description:
      - How many images, and how many kernels, that no zone of the host uses stay on it, so that going back to one needs no network. The
        last used ones stay. The others are deleted, and so are zone bases that no zone uses; RV(deleted) names them.
      - Of images from a registry the compressed layers stay too, so that an image which has some of them fetches only the others. They go
        with the last image that has them. Those of a declared image that could not be fetched whole stay for the next run.
      - A kernel for which a name of M(ringfence.zones.kernels) stands is in use.
    type: int
    default: 3
author:
  - the ringfence.zones authors (@ringfence)
attributes:
  check_mode:
    description: Can run in check mode and say what it would change.
    support: full
    details: >-
      On a host that is not booted into Xen yet, the declaration is validated and every zone is predicted to be created. See also
      O(planned).
  diff_mode:
    description: Shows each change in a line with its reasons, and the fields of each zone that changes, before and after.
    support: full
extends_documentation_fragment:
  - ringfence.zones.host
  - ringfence.zones.host.platform
  - ansible.builtin.action_common_attributes
seealso:
  - module: ringfence.zones.kernels
  - module: ringfence.zones.zone_exec
"""

EXAMPLES = r"""
- name: Run a web server and a database
  ringfence.zones.zones:
    zones:
      - name: web
        image: registry.example/web@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
        ports: ["8080:80"]
        restart: unless-stopped
      - name: db
        image: oci-archive:/srv/images/postgres.tar
        memory: 512MiB
        restart: unless-stopped

- name: Remove a zone
  ringfence.zones.zones:
    zones:
      - name: web
        state: absent
"""

RETURN = r"""
zones:
  description: The declared zones, by name; also after a failure, with what was reached.
  type: list
  elements: dict
  returned: always
  contains:
    name:
      description: The zone.
      type: str
    action:
      description: What was, or would be, done.
      type: str
      choices: [create, recreate, restart, start, live, remove, keep]
    reasons:
      description: Why, one line for each difference.
      type: list
      elements: str
    changed:
      description: Whether anything of this zone was, or would be, changed.
      type: bool
    failed:
      description: Whether it could not be done.
      type: bool
    pending:
      description: What the zone's next restart will bring and is no reason for one, for example V(restart to adopt runtime sha256:…).
      type: list
      elements: str
    image:
      description: Digest of the image manifest.
      type: str
    kernel:
      description: Digest of the kernel image's manifest.
      type: str
    kernel_release:
      description: The kernel's release, as C(uname -r) says in the zone.
      type: str
    virtualization:
      description: V(pv) or V(pvh).
      type: str
    memory:
      description: Memory in MiB.
      type: int
    cpus:
      description: Virtual CPUs.
      type: int
    cpu_shares:
      description: Weight among the zones of the host.
      type: int
    entrypoint:
      description: As declared.
      type: list
      elements: str
      returned: when declared
    command:
      description: As declared.
      type: list
      elements: str
      returned: when declared
    environment:
      description: The names of the declared variables; their values are not returned.
      type: list
      elements: str
      returned: when declared
    ports:
      description: Published ports, with their address of the host if they have one, such as C(192.0.2.5:8080:80/tcp).
      type: list
      elements: str
      returned: when declared
    restart:
      description: The restart policy.
      type: str
    user:
      description: As declared.
      type: str
      returned: when declared
    working_dir:
      description: As declared.
      type: str
      returned: when declared
    hostname:
      description: As declared.
      type: str
      returned: when declared
    labels:
      description: The labels.
      type: dict
      returned: when declared
    read_only:
      description: Whether the container cannot write to its root file system.
      type: bool
      returned: when declared
    cap_add:
      description: Added capabilities, without C(CAP_).
      type: list
      elements: str
      returned: when declared
    cap_drop:
      description: Dropped capabilities, without C(CAP_).
      type: list
      elements: str
      returned: when declared
    tmpfs:
      description: Mounts of memory.
      type: list
      elements: str
      returned: when declared
    ulimits:
      description: Soft and hard limits by name.
      type: dict
      returned: when declared
    sysctls:
      description: Kernel parameters.
      type: dict
      returned: when declared
    stop_signal:
      description: Name of the signal, without C(SIG).
      type: str
      returned: when declared
    stop_grace_period:
      description: Seconds.
      type: int
    volumes:
      description: The volumes that the zone has.
      type: list
      elements: str
      returned: when declared
    healthcheck:
      description: The declared check, without what the image says.
      type: dict
      returned: when declared
    depends_on:
      description: The condition by the name of each zone that comes before.
      type: dict
      returned: when declared
    secrets:
      description: Where the zone has which secret, C(NAME:/path).
      type: list
      elements: str
      returned: when declared
    devices:
      description: The devices that the zone has, C(SOURCE:TARGET:rwm).
      type: list
      elements: str
      returned: when declared
    networks:
      description: The declared connections, C(egress) and C(ingress), a text for each.
      type: dict
      returned: when declared
    peers:
      description: Addresses by name of the zones that let this one in.
      type: dict
      returned: when there are any
    dns:
      description: Name servers.
      type: list
      elements: str
      returned: when declared
    extra_hosts:
      description: Addresses by name.
      type: dict
      returned: when declared
    address:
      description: The zone's IPv4 address on its host.
      type: str
    address6:
      description: The zone's IPv6 address on its host.
      type: str
    domain_id:
      description: Xen's number of the running domain, V(none) if it does not run.
      type: int
volumes:
  description: The declared volumes, by name.
  type: list
  elements: dict
  returned: always
  contains:
    name:
      description: The volume.
      type: str
    action:
      description: What was, or would be, done.
      type: str
      choices: [create, grow, remove, keep]
    size:
      description: Its size in MiB afterwards; V(none) if there is no such volume.
      type: int
    changed:
      description: Whether it was, or would be, changed.
      type: bool
deleted:
  description: What no zone used any more and was, or would be, deleted, for example V(image sha256:…).
  type: list
  elements: str
  returned: always
undeclared:
  description: Zones of this collection on the host that are not declared.
  type: list
  elements: str
  returned: always
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.ringfence.zones.plugins.module_utils.converge.converge import Planned, Policy, Report, converge
from ansible_collections.ringfence.zones.plugins.module_utils.errors import FAILURES, told
from ansible_collections.ringfence.zones.plugins.module_utils.store import Store

_NOTHING: dict[str, list[Any]] = {"zones": [], "volumes": [], "deleted": [], "undeclared": []}
"""What is returned always, when nothing was done."""


def main() -> None:
    """Converge the zones of this host."""
    module = AnsibleModule(
        argument_spec={
            "zones": {"type": "list", "elements": "dict", "required": True},
            "volumes": {"type": "dict", "default": {}},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "prune": {"type": "bool", "default": False},
            "start_timeout": {"type": "float", "default": 120},
            "retry": {"type": "bool", "default": False},
            "adopt_runtime": {"type": "bool", "default": False},
            "planned": {
                "type": "dict",
                "options": {"runtime": {"type": "str"}, "kernels": {"type": "list", "elements": "dict", "required": True}},
            },
            "keep_unused": {"type": "int", "default": 3},
            "store": {"type": "path", "default": "/var/lib/ringfence"},
        },
        supports_check_mode=True,
        # What is passed to containers is often secret: not for the host's journal.
        no_log=True,
    )
    if module.params["keep_unused"] < 0:
        module.fail_json(msg=f"keep_unused: {module.params['keep_unused']} is not accepted; accepted: 0 or more", **_NOTHING)
    try:
        report = converge(
            Store(Path(module.params["store"])),
            module.params["zones"],
            module.params["volumes"],
            module.params["secrets"],
            Policy(**{name: module.params[name] for name in ("prune", "retry", "adopt_runtime", "keep_unused", "start_timeout")}),
            check=module.check_mode,
            planned=Planned(**module.params["planned"]) if module.params["planned"] else None,
        )
    except FAILURES as error:
        module.fail_json(msg=told(error), **_NOTHING)
    result = _result(report)
    if module._diff:
        result["diff"] = [{"prepared": report.plan}, {"before": report.before, "after": report.after}]
    for warning in report.warnings:
        module.warn(warning)
    if report.failures:
        module.fail_json(msg="; ".join(report.failures), **result)
    module.exit_json(**result)


def _result(report: Report) -> dict[str, Any]:
    return {"changed": report.changed, **{name: getattr(report, name) for name in _NOTHING}}


if __name__ == "__main__":
    main()
