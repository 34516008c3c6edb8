# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``make bench``: how long whole commands take on a full machine, and how long other tools take.

:mod:`vm.bench.works` has the commands on cores, :mod:`vm.bench.live` those inside a guest, and
:mod:`vm.bench.targets` the limits that their figures must not exceed.
"""
