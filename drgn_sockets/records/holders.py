# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who holds each socket: every (process, fd) pair on the machine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Optional, Union

from drgn import FaultError, Program, offsetof

from drgn_sockets.kernel import sock as k
from drgn_sockets.kernel.fdtable import fd_chunks
from drgn_sockets.kernel.file import socket_file_ops
from drgn_sockets.kernel.sock import Sock, SocketAlloc
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.kernel.task import FileTable, Tasks
from drgn_sockets.records.fan_out import fan_out
from drgn_sockets.records.parts import Part

# Files that are read together.
_PART = 8192

_FD_BITS = 32
_FD_MASK = (1 << _FD_BITS) - 1


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


#: What tells the inode of a socket: kept of very many, or just read.
AnyInode = Union[SocketInode, SocketAlloc]


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
    :param jobs: How many processes read, if there is a lot.
    """

    def __init__(
        self, prog: Program, tables: Iterable[FileTable] | None = None, jobs: int = 1
    ) -> None:
        self._prog = prog
        self._tables: list[FileTable] = list(Tasks(prog).tables() if tables is None else tables)
        #: What could not be read, a line each.
        self.problems: list[str] = []
        # A holder is kept as an integer, (index of the table, fd), until a row is printed.
        self._first: dict[int, int] = {}
        self._more: dict[int, list[int]] = {}
        for index, table in enumerate(self._tables):
            try:
                self._take(table, index << _FD_BITS)
            except FaultError as e:
                self.problems.append(f"pid {table.pid}: file table: {e}")
        # Of each sock the struct file that leads to it, and the few others of one that has more.
        self._file: dict[int, int] = {}
        self._others: dict[int, list[int]] = {}
        #: Inodes of the sockets, by ``struct sock *``.
        self.inodes: dict[int, SocketInode] = {}
        self._groups: dict[str, list[int]] = {}
        self._find_sockets(jobs)

    def _take(self, table: FileTable, base: int) -> None:
        first, more = self._first, self._more
        for chunk in fd_chunks(self._prog, table.files):
            for holder, file in enumerate(chunk.slots, base + chunk.start):
                if file:
                    if file not in first:
                        first[file] = holder
                    elif file in more:
                        more[file].append(holder)
                    else:
                        more[file] = [holder]

    def _find_sockets(self, jobs: int) -> None:
        files = sorted(self._first)
        prog, group_of = self._prog, socket_groups(self._prog)
        parts = [
            Part(functools.partial(_sockets_of, prog, group_of, files[i : i + _PART]))
            for i in range(0, len(files), _PART)
        ]
        for found in fan_out(parts, lambda part: list(part.records()), jobs):
            for file, sk, ino, uid, group, what in found:
                if what is not None:
                    for holder in self._holders((file,)):
                        self.problems.append(
                            f"pid {holder.pid} fd {holder.fd}: {what} cannot be read"
                        )
                elif sk in self._file:
                    # Two files of one sock do not happen; were it so, both count.
                    self._others.setdefault(sk, []).append(file)
                else:
                    self._file[sk] = file
                    self.inodes[sk] = SocketInode(ino, uid)
                    self._groups.setdefault(group, []).append(sk)

    def _holders(self, files: Sequence[int]) -> list[Holder]:
        packed = [self._first[files[0]], *self._more.get(files[0], ())]
        for file in files[1:]:
            packed += (self._first[file], *self._more.get(file, ()))
        if len(files) > 1:
            packed.sort()
        tables = self._tables
        holders = []
        for item in packed:
            table = tables[item >> _FD_BITS]
            holders.append(Holder(table.pid, item & _FD_MASK, table.comm, table.tid))
        return holders

    def of(self, sk: int) -> list[Holder]:
        """The holders of a ``struct sock *``, in the order of pids and fds."""
        file = self._file.get(sk)
        if file is None:
            return []
        if sk in self._others:
            return self._holders([file, *self._others[sk]])
        return self._holders((file,))

    def through_socket(self, sk: Sock) -> list[Holder]:
        """
        The holders of the ``struct socket`` of *sk*, which may be that of another sock: the
        first subflow of an MPTCP socket has the one of that.
        """
        if not sk.socket:
            return []
        offset = offsetof(self._prog.type("struct socket_alloc"), "socket")
        socket = SocketAlloc.layout(self._prog).try_read(sk.socket - offset)
        return self.of(socket.sk) if socket else []

    def sks(self) -> Iterable[int]:
        """Every ``struct sock *`` that somebody holds."""
        return self._file.keys()

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
            for sk, file in self._file.items()
            if any(
                holder >> _FD_BITS in tables
                for f in (file, *self._others.get(sk, ()))
                for holder in (self._first[f], *self._more.get(f, ()))
            )
        }


# A file of a socket: (file, sk, inode number, owner, group of families, None), or what cannot be
# read: (file, 0, 0, 0, "", what).
_Found = tuple[int, int, int, int, str, Optional[str]]


def _sockets_of(
    prog: Program, group_of: Callable[[SocketAlloc], str], files: Sequence[int]
) -> Iterator[_Found]:
    socket_ops = socket_file_ops(prog)
    offset = offsetof(prog.type("struct socket_alloc"), "socket")
    by_socket: dict[int, list[int]] = {}
    for address, file in _FilePrivate.layout(prog).read_many(files):
        if file is None:
            yield address, 0, 0, 0, "", f"struct file at {address:#x}"
        elif file.op == socket_ops:
            by_socket.setdefault(file.private_data - offset, []).append(address)
    for address, socket in SocketAlloc.layout(prog).read_many(by_socket):
        for holder in by_socket[address]:
            if socket is None:
                yield holder, 0, 0, 0, "", f"struct socket at {address + offset:#x}"
            elif socket.sk:
                yield holder, socket.sk, socket.ino, socket.uid, group_of(socket), None


def socket_groups(prog: Program) -> Callable[[SocketAlloc], str]:
    """
    Get a function that tells the group of families of a ``struct socket``, one of
    :data:`~drgn_sockets.records.socket.FAMILIES`, by its operations and type.

    That is what it looks like: SCTP, say, looks like TCP.
    """
    known: dict[tuple[int, int], str] = {}

    def group_of(socket: SocketAlloc) -> str:
        key = (socket.ops, socket.type)
        group = known.get(key)
        if group is None:
            ops = _ProtoOps.layout(prog).try_read(socket.ops)
            group = known[key] = _group(ops.family if ops else 0, socket.type)
        return group

    return group_of


def _group(family: int, type_: int) -> str:
    if family == k.AF_UNIX:
        return "unix"
    if family in (k.AF_INET, k.AF_INET6):
        return {k.SOCK_STREAM: "tcp", k.SOCK_DGRAM: "udp", k.SOCK_RAW: "raw"}.get(type_, "other")
    return "other"
