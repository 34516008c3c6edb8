# SPDX-License-Identifier: LGPL-2.1-or-later
"""``/proc/PID/cgroup``."""

from __future__ import annotations

from collections.abc import Iterator

from drgn import FaultError

from drgn_sockets.kernel.cgroup import cgroup_path, task_cgroups
from drgn_sockets.kernel.process import PF_EXITING
from drgn_sockets.records.process import ProcessRecord
from drgn_sockets.views.procfs.pid.base import PidFile, PidLooker


class CgroupFile(PidFile):
    """``proc_cgroup_show()``"""

    name = "cgroup"

    def text(self, at: PidLooker, process: ProcessRecord) -> Iterator[bytes]:
        task = process.task
        if not task.cgroups:
            return
        for hierarchy, cgroup in task_cgroups(at.prog, task.cgroups):
            path: bytes = b"/"
            deleted = b""
            # In a hierarchy of version 1, a task that exits is moved to the root.
            if hierarchy.is_default or not task.flags & PF_EXITING:
                found = cgroup_path(at.prog, cgroup)
                if found is None:
                    raise FaultError("path of a cgroup cannot be read", cgroup)
                path = found
                if hierarchy.is_default and found.removed:
                    deleted = b" (deleted)"
            yield b"%d:%b:%b%b\n" % (hierarchy.id, hierarchy.names, path, deleted)
