# SPDX-License-Identifier: LGPL-2.1-or-later
"""``/proc/PID/cgroup``."""

from __future__ import annotations

from collections.abc import Iterator

from drgn_sockets.records.process import ProcessRecord
from drgn_sockets.views.procfs.pid.base import PidFile, PidLooker


class CgroupFile(PidFile):
    """``proc_cgroup_show()``"""

    name = "cgroup"

    def text(self, at: PidLooker, process: ProcessRecord) -> Iterator[bytes]:
        for cgroup in process.cgroups():
            deleted = b" (deleted)" if cgroup.removed else b""
            yield b"%d:%b:%b%b\n" % (cgroup.hierarchy, cgroup.names, cgroup.path, deleted)
