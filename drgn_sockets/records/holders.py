# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who holds each socket: every (process, fd) pair on the machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from drgn import FaultError, Program, offsetof

from drgn_sockets.kernel import sock as k
from drgn_sockets.kernel.fdtable import open_fds
from drgn_sockets.kernel.file import socket_file_ops
from drgn_sockets.kernel.sock import SocketAlloc
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.kernel.task import FileTable, Tasks

_FD_BITS = 32


class Holder(NamedTuple):
    """A file descriptor by which a process holds a file."""

    pid: int
    fd: int
    #: Command name of the process, or of the thread if ``tid`` is set.
    comm: bytes
    #: Thread ID if the file table is the thread's own, else ``None``.
    tid: int | None


class SocketInode(NamedTuple):
    """The inode of a socket."""

    ino: int
    #: Its owner, in the initial user namespace.
    uid: int


class _ProtoOps(Struct):
    C_TYPE = "struct proto_ops"

    family = Int("family")


class _FilePrivate(Struct):
    C_TYPE = "struct file"

    op = Int("f_op")
    private_data = Int("private_data")


class Holders:
    """
    The holders of every socket that is in a file table.

    :param tables: The file tables to look into; by default those of all tasks.
    """

    def __init__(self, prog: Program, tables: Iterable[FileTable] | None = None) -> None:
        self._tables: list[FileTable] = list(Tasks(prog).tables() if tables is None else tables)
        #: What could not be read, a line each.
        self.problems: list[str] = []
        # A holder is kept as an integer, (index of the table, fd), until a row is printed.
        by_file: dict[int, list[int]] = {}
        for index, table in enumerate(self._tables):
            base = index << _FD_BITS
            try:
                for fd, file, _ in open_fds(prog, table.files):
                    holders = by_file.get(file)
                    if holders is None:
                        by_file[file] = [base | fd]
                    else:
                        holders.append(base | fd)
            except FaultError as e:
                self.problems.append(f"pid {table.pid}: file table: {e}")
        by_socket: dict[int, list[int]] = {}
        socket_ops = socket_file_ops(prog)
        for address, file_ in _FilePrivate.layout(prog).read_many(by_file):
            if file_ is None:
                for holder in self._holders(by_file[address]):
                    self.problems.append(
                        f"pid {holder.pid} fd {holder.fd}: struct file at {address:#x} "
                        "cannot be read"
                    )
            elif file_.op == socket_ops:
                if file_.private_data in by_socket:
                    by_socket[file_.private_data] += by_file[address]
                else:
                    by_socket[file_.private_data] = by_file[address]
        del by_file
        offset = offsetof(prog.type("struct socket_alloc"), "socket")
        self._by_sk: dict[int, list[int]] = {}
        #: Inodes of the sockets, by ``struct sock *``.
        self.inodes: dict[int, SocketInode] = {}
        self._groups: dict[str, list[int]] = {}
        families: dict[int, int] = {}
        sockets = (socket - offset for socket in by_socket)
        for address, socket in SocketAlloc.layout(prog).read_many(sockets):
            holders = by_socket[address + offset]
            if socket is None:
                for holder in self._holders(holders):
                    self.problems.append(
                        f"pid {holder.pid} fd {holder.fd}: struct socket at "
                        f"{address + offset:#x} cannot be read"
                    )
            elif socket.sk:
                sk = socket.sk
                if sk in self._by_sk:
                    # Two struct sockets of one sock do not happen; were it so, both count.
                    self._by_sk[sk] += holders
                    continue
                self._by_sk[sk] = holders
                self.inodes[sk] = SocketInode(socket.ino, socket.uid)
                if socket.ops not in families:
                    ops = _ProtoOps.layout(prog).try_read(socket.ops)
                    families[socket.ops] = ops.family if ops else 0
                group = _group(families[socket.ops], socket.type)
                self._groups.setdefault(group, []).append(sk)

    def _holders(self, packed: Iterable[int]) -> list[Holder]:
        holders = []
        for item in sorted(packed):
            table = self._tables[item >> _FD_BITS]
            holders.append(Holder(table.pid, item & (1 << _FD_BITS) - 1, table.comm, table.tid))
        return holders

    def of(self, sk: int) -> list[Holder]:
        """The holders of a ``struct sock *``, in the order of pids and fds."""
        return self._holders(self._by_sk.get(sk, ()))

    def sks(self) -> Iterable[int]:
        """Every ``struct sock *`` that somebody holds."""
        return self._by_sk.keys()

    def sks_of_group(self, group: str) -> Sequence[int]:
        """
        Every ``struct sock *`` that somebody holds and that, by the family of its operations
        and its type, looks like one of a group: see
        :data:`~drgn_sockets.records.socket.FAMILIES`.
        """
        return self._groups.get(group, ())

    def sks_of(self, pid: int) -> set[int]:
        """Every ``struct sock *`` that process *pid* holds."""
        tables = {i for i, table in enumerate(self._tables) if table.pid == pid}
        return {
            sk
            for sk, packed in self._by_sk.items()
            if any(item >> _FD_BITS in tables for item in packed)
        }


def _group(family: int, type_: int) -> str:
    if family == k.AF_UNIX:
        return "unix"
    if family in (k.AF_INET, k.AF_INET6):
        return {k.SOCK_STREAM: "tcp", k.SOCK_DGRAM: "udp", k.SOCK_RAW: "raw"}.get(type_, "other")
    return "other"
