# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the documentation of the collection's modules says alike."""

from __future__ import annotations


class ModuleDocFragment:
    """``ringfence.zones.host.platform`` for every module, ``ringfence.zones.host`` for those that work on a Xen host."""

    PLATFORM = r"""
attributes:
  platform:
    description: Where it runs.
    support: full
    platforms: debian
"""

    DOCUMENTATION = r"""
options:
  store:
    description:
      - The directory below which the host keeps kernels, images, zones and volumes. To have them on another disk, mount that disk there.
      - Another directory is for tests only. The host's units, scripts and rules are made for the default, and would not find its zones.
    type: path
    default: /var/lib/ringfence
"""
