# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``make bench``: how long whole commands take on a full machine, and beside what.

What is measured is in :mod:`vm.bench.works` (on cores) and :mod:`vm.bench.live` (inside a
guest), what it must reach in :mod:`vm.bench.targets`.
"""
