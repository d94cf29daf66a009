# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Inventory plugin zones: ask the hosts of the inventory for their zones, and say how ssh reaches each through its host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: zones
short_description: The zones of Xen hosts, as hosts of the inventory
version_added: 0.1.0
description:
  - Asks each host of a group, over ssh, which zones it has, and adds them to the inventory as C(ZONE.HOST).
  - Ansible's ordinary ssh connection then leads into a zone's container, through its host and over shared memory. The zone needs no network
    and no ssh server in its image. A shell has to be in it, and no Python, so it is for M(ansible.builtin.raw) and the like.
  - All zones are in the group C(zones). A zone with the label C(KEY=VALUE) is in the group C(label_KEY_VALUE), with each character that a
    group's name cannot have replaced by C(_).
  - A host that cannot be asked is reported with a warning, and the others are listed.
notes:
  - The hosts come from inventory sources that are read before this one. In a directory, sources are read in the order of their names.
  - Ansible's own variables of the hosts are used to reach them, C(ansible_host), C(ansible_port), C(ansible_user),
    C(ansible_ssh_private_key_file), C(ansible_ssh_common_args), C(ansible_ssh_extra_args), C(ansible_become), and C(ansible_connection)
    if it is C(local), and the command line's C(-e), C(-u) and C(--private-key). Passwords are not, neither for ssh nor for sudo.
  - Of hosts without C(ansible_connection), where the command line says C(-c local), as C(ansible-pull) does, only the one on which it runs
    is asked, and without ssh.
  - A zone serves one connection at a time. While there is one, it is unreachable for others, after 60 seconds.
requirements:
  - OpenSSH's client on the control node.
options:
  plugin:
    description: The name of this plugin.
    type: str
    required: true
    choices: [ringfence.zones.zones]
  group:
    description: The group of hosts that are asked.
    type: str
    default: xen_hosts
  timeout:
    description: Seconds for a host's answer.
    type: int
    default: 60
author:
  - the ringfence.zones authors (@ringfence)
seealso:
  - module: ringfence.zones.zone_exec
  - module: ringfence.zones.zone_info
"""

EXAMPLES = r"""
# inventory/10-hosts.yml has the group xen_hosts; this is inventory/20-zones.ringfence.yml.
plugin: ringfence.zones.zones

# Then, for example:
#   ansible-inventory -i inventory --graph zones
#   ansible -i inventory label_tier_web -m ansible.builtin.raw -a 'uname -r'
# Each zone has the variables ringfence_zone, what ringfence.zones.zone_info returns of it, and ringfence_host, the name of its host.
"""

import functools
import json
import platform
import shlex
import socket
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible import constants as C  # type: ignore[attr-defined]  # noqa: N812 - as Ansible's own plugins name it
from ansible import context  # type: ignore[attr-defined]
from ansible.errors import AnsibleError, AnsibleParserError
from ansible.inventory.data import InventoryData
from ansible.inventory.group import Group
from ansible.inventory.helpers import get_group_vars, sort_groups
from ansible.inventory.host import Host
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.inventory import BaseInventoryPlugin
from ansible.utils.unsafe_proxy import wrap_var
from ansible.utils.vars import combine_vars
from ansible.vars.plugins import get_vars_from_inventory_sources

from ansible_collections.ringfence.zones.plugins.module_utils.spec.fields import NAME
from ansible_collections.ringfence.zones.plugins.module_utils.zone.channel import SSH_ALIVE

_ZONECTL = "/usr/local/sbin/zonectl"

_VARIABLES = {
    "ansible_host",
    "ansible_port",
    "ansible_user",
    "ansible_ssh_private_key_file",
    "ansible_private_key_file",
    "ansible_ssh_common_args",
    "ansible_ssh_extra_args",
    "ansible_ssh_host_key_checking",
    "ansible_host_key_checking",
    "ansible_become",
    "ansible_connection",
}
"""Which of a host's variables :func:`to_host` knows. Others, a password perhaps, may need what is known only when a play runs."""

_INTO_ZONE = (
    # Nothing of what is meant for the host: the zone has no key to check, and serves one connection at a time.
    "-F none -o ControlMaster=no -o ControlPath=none -o PreferredAuthentications=none "
    f"-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR {shlex.join(SSH_ALIVE)}"
)


def _connection(variables: dict[str, Any]) -> str:
    """The last part of the name of the connection plugin for a host."""
    chosen = variables.get("ansible_connection") or context.CLIARGS.get("connection") or C.DEFAULT_TRANSPORT
    return str(chosen).rpartition(".")[2]


@functools.cache
def _own_names() -> set[str]:
    """What this machine may be called in an inventory, as ``ansible-pull`` has it."""
    names = {socket.getfqdn(), platform.node()}
    return {"localhost", "127.0.0.1", *names, *(name.partition(".")[0] for name in names)}


def is_elsewhere(name: str, variables: dict[str, Any]) -> bool:
    """Whether a host is another machine, although the command line says of all hosts that they are this one."""
    return not variables.get("ansible_connection") and _connection(variables) == "local" and name not in _own_names()


def to_host(name: str, variables: dict[str, Any], argv: list[str]) -> list[str]:
    """The command that runs ``argv`` as root on a host.

    :param variables: the host's, without templates.
    """

    def words(key: str) -> list[str]:
        return shlex.split(str(variables.get(key) or ""))

    as_root = ["sudo", "-n", *argv] if boolean(variables.get("ansible_become", C.DEFAULT_BECOME)) else argv
    if _connection(variables) == "local":
        return as_root
    port = variables.get("ansible_port")
    user = variables.get("ansible_user") or context.CLIARGS.get("remote_user") or C.DEFAULT_REMOTE_USER
    key = variables.get("ansible_ssh_private_key_file") or variables.get("ansible_private_key_file")
    key = key or context.CLIARGS.get("private_key_file") or C.DEFAULT_PRIVATE_KEY_FILE
    checked = variables.get("ansible_ssh_host_key_checking", variables.get("ansible_host_key_checking", C.HOST_KEY_CHECKING))
    return [
        "ssh", "-T", "-o", "BatchMode=yes",
        *words("ansible_ssh_common_args"), *words("ansible_ssh_extra_args"),
        *([] if boolean(checked) else ["-o", "StrictHostKeyChecking=no"]),
        *(["-p", str(port)] if port else []),
        *(["-l", str(user)] if user else []),
        *(["-i", str(key)] if key else []),
        "--", str(variables.get("ansible_host") or name), shlex.join(as_root),
    ]  # fmt: skip


def of_zone(zone: dict[str, Any], host: str, to_zone: list[str]) -> dict[str, Any]:
    """The variables of a zone.

    :param zone: what its host says of it.
    :param to_zone: the command that connects to its ssh server.
    """
    proxy = shlex.join(to_zone).replace("%", "%%")
    return {
        "ansible_connection": "ssh",
        "ansible_host": zone["name"],
        "ansible_port": 22,
        "ansible_user": "container",
        "ansible_become": False,
        "ansible_ssh_args": f"{_INTO_ZONE} -o {shlex.quote(f'ProxyCommand={proxy}')}",
        # It may still be starting.
        "ansible_ssh_timeout": 60,
        "ansible_ssh_common_args": "",
        "ansible_ssh_extra_args": "",
        "ansible_ssh_transfer_method": "piped",
        "ringfence_host": host,
        "ringfence_zone": zone,
    }


class InventoryModule(BaseInventoryPlugin):
    """Adds the zones of the hosts of a group to the inventory."""

    NAME = "ringfence.zones.zones"

    def verify_file(self, path: str) -> bool:
        """Whether a file is for this plugin: ``ringfence.yml`` or ``*.ringfence.yml``."""
        return bool(super().verify_file(path)) and path.endswith(("ringfence.yml", "ringfence.yaml"))

    def parse(self, inventory: InventoryData, loader: DataLoader, path: str, cache: bool = True) -> None:
        """Ask the hosts side by side, and add what they have."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        # Ansible does it at the end. Until then the group all has only what a source names in it; and it forgets whose turn it is.
        inventory.reconcile_inventory()
        inventory.current_source = path
        group = inventory.groups.get(self.get_option("group"))
        if group is None:
            raise AnsibleParserError(
                f"{path}: group: {self.get_option('group')!r} is not in the inventory; name a group of an inventory source that is read"
                " before this one"
            )
        inventory.add_group("zones")
        hosts, questions = {}, []
        for host in group.get_hosts():
            try:
                variables = self._variables(host)
                if is_elsewhere(host.name, variables):
                    continue
                questions.append(to_host(host.name, variables, [_ZONECTL, "list", "--json"]))
                hosts[host.name] = variables
            except (AnsibleError, TypeError, ValueError) as error:
                self._leave_out(host.name, f"its variables do not say how to reach it: {error}")
        with ThreadPoolExecutor(max(1, C.DEFAULT_FORKS)) as pool:
            for name, answer in zip(hosts, pool.map(self._ask, questions), strict=True):
                if isinstance(answer, str):
                    self._leave_out(name, answer)
                    continue
                for zone in answer:
                    self._add(zone, name, to_host(name, hosts[name], [_ZONECTL, "connect", zone["name"]]))

    def _leave_out(self, host: str, why: str) -> None:
        self.display.warning(f"ringfence.zones.zones: the zones of host {host} are not in the inventory: {why}")

    def _variables(self, host: Host) -> dict[str, Any]:
        """What says how to reach a host, with its templates resolved."""
        sources = getattr(self.inventory, "processed_sources", [])

        def of_files(entities: Sequence[Group | Host]) -> dict[str, Any]:
            return get_vars_from_inventory_sources(self.loader, sources, entities, "all")

        # As Ansible's VariableManager has them: each one over those before it.
        groups = sort_groups(host.get_groups())
        said = (get_group_vars(groups), of_files(groups[:1]), of_files(groups[1:]), host.get_vars(), of_files([host]), self._vars)
        variables = functools.reduce(combine_vars, said)
        self.templar.available_variables = variables
        return {key: self.templar.template(variables[key]) for key in _VARIABLES & variables.keys()}

    def _ask(self, argv: list[str]) -> list[dict[str, Any]] | str:
        """The zones of the host that a command asks, or why they are not known."""
        timeout = self.get_option("timeout")
        try:
            asked = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            return f"no answer within {timeout} s"
        except OSError as error:
            return f"{argv[0]}: {error.strerror}"
        if asked.returncode != 0:
            said = ascii(asked.stderr.decode("utf-8", "replace").strip()[-200:])[1:-1]
            return f"{argv[0]} exited with {asked.returncode}: {said or 'no message'}"
        try:
            zones = json.loads(asked.stdout)
        except ValueError:
            return "its answer is not JSON"
        # A host's answer is not trusted to keep to what can be a name.
        named = isinstance(zones, list) and all(isinstance(zone, dict) and NAME.fullmatch(str(zone.get("name"))) for zone in zones)
        return zones if named else "its answer is not a list of zones"

    def _add(self, zone: dict[str, Any], host: str, to_zone: list[str]) -> None:
        added = f"{zone['name']}.{host}"
        self.inventory.add_host(added, group="zones")
        for key, value in of_zone(zone, host, to_zone).items():
            self.inventory.set_variable(added, key, wrap_var(value))
        labels = zone.get("labels")
        for label, value in labels.items() if isinstance(labels, dict) else ():
            group = self.inventory.add_group(self._sanitize_group_name(f"label_{label}_{value}"))
            self.inventory.add_host(added, group=group)
