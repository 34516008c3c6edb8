# SPDX-License-Identifier: LGPL-2.1-or-later
"""Columns of ``fds --lsof``, those of lsof."""

from __future__ import annotations

from operator import attrgetter

from drgn_sockets.commands.fds_lsfd_columns import user
from drgn_sockets.records.columns import Column
from drgn_sockets.records.fd import FdRecord
from drgn_sockets.text import escaped
from drgn_sockets.views import lsof


def _name_text(r: FdRecord) -> str | None:
    name = lsof.words(r).name
    return None if name is None else escaped(name)


#: Columns of lsof, in its order.
LSOF = (
    Column(
        "command",
        "command name of the process (or thread), not cut",
        attrgetter("table.comm"),
        True,
        text=lambda r: escaped(r.table.comm),
    ),
    Column("pid", "process ID", attrgetter("table.pid"), True, right=True),
    Column("tid", "thread ID, if the row is a thread's", attrgetter("table.tid"), True, right=True),
    Column("user", "user of the process (of a core the number, but for root)", user, True),
    Column(
        "fd",
        "number, mode (r, w, u) and lock (r, R, w, W); or cwd, rtd, txt, mem, DEL",
        lsof.fd,
        True,
        right=True,
    ),
    Column("type", "type of file or socket", lambda r: lsof.words(r).type, True, right=True),
    Column(
        "device",
        "device number; inode of an inet socket; address of a unix socket",
        lambda r: lsof.words(r).device,
        True,
        right=True,
    ),
    Column(
        "size/off",
        "size, or position with 0t before it, bytes",
        lambda r: lsof.words(r).size_off,
        True,
        right=True,
    ),
    Column(
        "node",
        "inode number, or protocol of an inet or packet socket",
        lambda r: lsof.words(r).node,
        True,
        right=True,
    ),
    Column(
        "name",
        "name, both ends, and state",
        lambda r: lsof.words(r).name,
        True,
        text=_name_text,
    ),
)
