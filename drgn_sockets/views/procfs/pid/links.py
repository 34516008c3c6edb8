# SPDX-License-Identifier: LGPL-2.1-or-later
"""The symbolic links of ``/proc/PID``: ``cwd``, ``root``, ``exe``, and those in ``ns``."""

from __future__ import annotations

from collections.abc import Iterator

from drgn_sockets.records.process import NS_NAMES, ProcessRecord
from drgn_sockets.views.procfs.pid.base import PidLooker

#: Links to files.
LINKS = ("cwd", "root", "exe")
#: Links to namespaces.
NS_LINKS = NS_NAMES


def link(at: PidLooker, process: ProcessRecord, name: str) -> bytes | None:
    """
    Get the text of one of :data:`LINKS`.

    :return: ``None`` if the process has no such link: a thread of the kernel has no ``exe``, and a
        process that has exited has none of them
    :raises FaultError: if the text cannot be read
    """
    if name == "exe":
        file = process.exe()
        return None if file is None else at.namer.d_path(file.mnt, file.dentry)
    fs = process.fs
    if fs is None:
        return None
    if name == "cwd":
        return at.namer.d_path(fs.pwd_mnt, fs.pwd_dentry)
    return at.namer.d_path(fs.root_mnt, fs.root_dentry)


def ns_links(at: PidLooker, process: ProcessRecord) -> Iterator[tuple[str, bytes]]:
    """
    Get the names and texts of the links in ``ns``.

    :raises FaultError: if a namespace cannot be read
    """
    for name, inum in process.namespaces():
        kind = name.replace("_for_children", "")
        yield name, b"%b:[%d]" % (kind.encode("ascii"), inum)
