# SPDX-License-Identifier: LGPL-2.1-or-later
"""/dev/fuse, by which user space serves a file system: fs/fuse/dev.c."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import NamedTuple

from drgn_sockets.kernel.structs import Int, OptInt, Struct
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind, shows_fdinfo

_NULL_PAGE = 1 << 12


class FuseDev(Struct):
    """``struct fuse_dev``."""

    C_TYPE = "struct fuse_dev"

    # On newer kernels struct fuse_chan leads to the connection.
    chan = OptInt("chan", help="struct fuse_chan *")
    conn = OptInt("fc", help="struct fuse_conn *")


class _Chan(Struct):
    C_TYPE = "struct fuse_chan"

    conn = Int("conn")


class _Conn(Struct):
    C_TYPE = "struct fuse_conn"

    dev = Int("dev")


class FuseDevRecord(NamedTuple):
    """An open ``/dev/fuse``."""

    #: The device number of the file system that it serves, as the kernel's ``dev_t``, or ``None``.
    connection: int | None


class FuseDevKind(Kind):
    """/dev/fuse."""

    name = "fuse_dev"
    fops = ("fuse_dev_operations",)
    fields = (
        Field(
            "connection",
            "connection that a /dev/fuse serves, a directory in /sys/fs/fuse/connections",
            attrgetter("connection"),
        ),
    )

    def read(self, file: FileRecord) -> FuseDevRecord:
        prog = file.prog
        # Until the file system is mounted, private_data is NULL or a small constant.
        if file.private_data < _NULL_PAGE:
            return FuseDevRecord(None)
        dev = FuseDev.layout(prog).read(file.private_data)
        conn = dev.conn or 0
        if dev.chan is not None:
            conn = _Chan.layout(prog).read(dev.chan).conn if dev.chan >= _NULL_PAGE else 0
        return FuseDevRecord(_Conn.layout(prog).read(conn).dev if conn >= _NULL_PAGE else None)

    def fdinfo(self, file: FileRecord, it: FuseDevRecord) -> Iterator[bytes]:
        """``fuse_dev_show_fdinfo()``, which only newer kernels have."""
        if it.connection is not None and shows_fdinfo(file):
            yield b"fuse_connection:\t%d\n" % it.connection
