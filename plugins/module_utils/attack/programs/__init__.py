# Copyright (c) 2026, the ringfence.zones authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that run inside a hostile zone, and for control in a container of the host. They know nothing of the collection.

Each has one function ``attack``, which returns attempts: a label, whether it succeeded (``None`` if it could not be tried), and a word on
it. They are here, and not among the tests, because a module can bring only its library to a host.
"""
