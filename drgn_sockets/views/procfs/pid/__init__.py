# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Files of ``/proc/PID`` as the kernel writes them.

:data:`PID_FILES` lists them. Each kind of file is a class, derived from
:class:`~drgn_sockets.views.procfs.pid.base.PidFile`.
"""

from __future__ import annotations

from drgn_sockets.views.procfs.pid.base import PidFile, PidLooker
from drgn_sockets.views.procfs.pid.cgroup import CgroupFile
from drgn_sockets.views.procfs.pid.fd import fd_lines, fds
from drgn_sockets.views.procfs.pid.links import LINKS, NS_LINKS, link, ns_links
from drgn_sockets.views.procfs.pid.names import CmdlineFile, CommFile
from drgn_sockets.views.procfs.pid.stat import StatFile
from drgn_sockets.views.procfs.pid.status import StatusFile

__all__ = [
    "LINKS",
    "NS_LINKS",
    "PID_FILES",
    "PidFile",
    "PidLooker",
    "fd_lines",
    "fds",
    "link",
    "ns_links",
]

#: All files, by name.
PID_FILES: dict[str, PidFile] = {
    file.name: file for file in (CommFile(), CmdlineFile(), StatFile(), StatusFile(), CgroupFile())
}
