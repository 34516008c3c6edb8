# SPDX-License-Identifier: LGPL-2.1-or-later
"""The symbolic links of ``/proc/PID``: ``cwd``, ``root``, ``exe``, and those in ``ns``."""

from __future__ import annotations

from collections.abc import Iterator

from drgn_sockets.kernel.dcache import FsStruct
from drgn_sockets.kernel.file import File
from drgn_sockets.kernel.nsproxy import NAMESPACES, task_namespaces
from drgn_sockets.kernel.structs import Int
from drgn_sockets.records.process import ProcessRecord
from drgn_sockets.views.procfs.pid.base import PidLooker

#: Links to files.
LINKS = ("cwd", "root", "exe")
#: Links to namespaces.
NS_LINKS = NAMESPACES


class _Fs(FsStruct):
    C_TYPE = "struct fs_struct"
    pwd_mnt = Int("pwd.mnt", help="struct vfsmount *")
    pwd_dentry = Int("pwd.dentry", help="struct dentry *")


def link(at: PidLooker, process: ProcessRecord, name: str) -> bytes | None:
    """
    Get the text of one of :data:`LINKS`.

    :return: ``None`` if the process has no such link: a thread of the kernel has no ``exe``, and a
        process that has exited has none of them
    :raises FaultError: if the text cannot be read
    """
    if name == "exe":
        mm = process.mm
        if mm is None or not mm.exe_file:
            return None
        file = File.layout(at.prog).read(mm.exe_file)
        return at.namer.d_path(file.mnt, file.dentry)
    if not process.task.fs:
        return None
    fs = _Fs.layout(at.prog).read(process.task.fs)
    if name == "cwd":
        return at.namer.d_path(fs.pwd_mnt, fs.pwd_dentry)
    return at.namer.d_path(fs.root_mnt, fs.root_dentry)


def ns_links(at: PidLooker, process: ProcessRecord) -> Iterator[tuple[str, bytes]]:
    """
    Get the names and texts of the links in ``ns``.

    :raises FaultError: if a namespace cannot be read
    """
    for name, inum in task_namespaces(at.prog, process.task):
        kind = name.replace("_for_children", "")
        yield name, b"%b:[%d]" % (kind.encode("ascii"), inum)
