# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open file descriptors as plain values, read in batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from drgn import FaultError, Program, offsetof

from drgn_sockets.kernel.dcache import Namer
from drgn_sockets.kernel.fdtable import OpenFd, open_fds
from drgn_sockets.kernel.file import (
    O_CLOEXEC,
    File,
    Inode,
    SuperBlock,
    access_mode,
    file_kind,
    socket_file_ops,
)
from drgn_sockets.kernel.sock import SocketAlloc
from drgn_sockets.kernel.task import FileTable
from drgn_sockets.records.holders import SocketInode
from drgn_sockets.records.reader import SocketReader
from drgn_sockets.records.socket import AnySocket

_BATCH = 2048


class FileRecord(NamedTuple):
    """An open file (``struct file``), which several fds may share."""

    #: Address of the ``struct file``.
    address: int
    #: ``f_flags``.
    flags: int
    #: ``f_mode``.
    mode: int
    #: ``f_pos``, bytes.
    pos: int
    #: ``f_op``, address of the ``struct file_operations``.
    op: int
    #: As ``readlink /proc/PID/fd/N`` gives it; ``None`` if it cannot be read.
    name: bytes | None
    #: Kind of file, see :func:`~drgn_sockets.kernel.file.file_kind`.
    kind: str
    #: Inode number.
    ino: int | None
    #: ``i_mode``.
    i_mode: int
    #: Device of the file system, as the kernel's ``dev_t``.
    dev: int | None
    #: Device number of a device file.
    rdev: int
    #: Mount ID, as in fdinfo.
    mnt_id: int | None
    #: ``struct sock *`` of a socket, else 0.
    sk: int
    #: What the reader's *summary* makes of the socket.
    socket: str | None
    #: What could not be read, or ``None``.
    error: str | None

    @property
    def access(self) -> str:
        """How it was opened, as :func:`~drgn_sockets.kernel.file.access_mode` says it."""
        return access_mode(self.flags, self.mode)


class FdRecord(NamedTuple):
    """A file descriptor of a process."""

    #: The file table it is in.
    table: FileTable
    #: Its number; ``None`` in a row that says that the table itself cannot be read.
    fd: int | None
    cloexec: bool
    #: The open file; ``None`` if its ``struct file`` cannot be read.
    file: FileRecord | None
    #: Address of the ``struct file``.
    address: int
    #: What could not be read, or ``None``.
    error: str | None = None

    @property
    def flags(self) -> int | None:
        """Flags as fdinfo has them: ``f_flags``, and ``O_CLOEXEC`` by the fd."""
        if self.file is None:
            return None
        return self.file.flags & ~O_CLOEXEC | (O_CLOEXEC if self.cloexec else 0)


class FdReader:
    """
    Reads file descriptors.

    :param summary: What to keep of the socket behind a file; ``None`` leaves sockets unread.
    :param namer: Names files; by default paths begin at the root directory of process 1.
    """

    def __init__(
        self,
        prog: Program,
        summary: Callable[[AnySocket], str] | None = None,
        namer: Namer | None = None,
    ) -> None:
        self._prog = prog
        self._summary = summary
        self._sockets = SocketReader(prog)
        self._namer = namer or Namer(prog)
        self._socket_ops = socket_file_ops(prog)
        self._socket_offset = offsetof(prog.type("struct socket_alloc"), "socket")
        self._inode_offset = offsetof(prog.type("struct socket_alloc"), "vfs_inode")
        self._dev: dict[int, int | None] = {}
        # A file is mostly held by one process, or by a few that were forked one after the
        # other: what the last tables held is worth keeping, all of it is not.
        self._files: dict[int, FileRecord | None] = {}
        self._max_files = 200_000

    def read(self, tables: Iterable[FileTable]) -> Iterator[FdRecord]:
        """The fds of *tables*, in the order of tables and fds, batch by batch."""
        for table in tables:
            fds = open_fds(self._prog, table.files)
            error = None
            while True:
                batch: list[OpenFd] = []
                try:
                    for fd in itertools.islice(fds, _BATCH):
                        batch.append(fd)
                except FaultError as e:
                    error = f"file table: {e}"
                yield from self._read_batch(table, batch)
                if error is not None:
                    yield FdRecord(table, None, False, None, table.files, error)
                if len(batch) < _BATCH:
                    break

    def _read_batch(self, table: FileTable, batch: list[OpenFd]) -> Iterator[FdRecord]:
        new = {fd.file for fd in batch} - self._files.keys()
        if len(self._files) + len(new) > self._max_files:
            self._files.clear()
            new = {fd.file for fd in batch}
        if new:
            self._files.update(self._read_files(new))
        for fd in batch:
            file = self._files[fd.file]
            error = file.error if file else "struct file cannot be read"
            yield FdRecord(table, fd.fd, fd.cloexec, file, fd.file, error)

    def _read_files(self, addresses: Iterable[int]) -> dict[int, FileRecord | None]:
        prog = self._prog
        files = dict(File.layout(prog).read_many(addresses))
        socket_files = {
            f.address: f.private_data - self._socket_offset
            for f in files.values()
            if f is not None and f.op == self._socket_ops
        }
        sockets = dict(SocketAlloc.layout(prog).read_many(socket_files.values()))
        summaries: dict[int, str] = {}
        if self._summary is not None:
            held = {s.sk: SocketInode(s.ino, s.uid) for s in sockets.values() if s and s.sk}
            for record in self._sockets.read_held_briefly(held):
                summaries[record.sk] = self._summary(record)
        others = [f for f in files.values() if f is not None and f.address not in socket_files]
        inodes = dict(Inode.layout(prog).read_many(f.inode for f in others))
        self._namer.prefetch(f.dentry for f in others)
        result: dict[int, FileRecord | None] = {}
        for address, file in files.items():
            if file is None:
                result[address] = None
            elif address in socket_files:
                socket = sockets[socket_files[address]]
                result[address] = self._socket_record(file, socket, summaries)
            else:
                result[address] = self._file_record(file, inodes[file.inode])
        return result

    def _socket_record(
        self, file: File, socket: SocketAlloc | None, summaries: dict[int, str]
    ) -> FileRecord:
        # sockfs_dname() is what d_path() would come to, by way of two more structures.
        good = socket is not None and (
            file.private_data - self._socket_offset + self._inode_offset == file.inode
        )
        if socket is None or not good:
            return self._record(file, None, None, None, "struct socket cannot be read")
        summary = summaries.get(socket.sk)
        return self._record(file, b"socket:[%d]" % socket.ino, socket, summary, None, sk=socket.sk)

    def _file_record(self, file: File, inode: Inode | None) -> FileRecord:
        error = None if inode is not None else "inode cannot be read"
        name: bytes | None = None
        try:
            name = self._namer.d_path(file.mnt, file.dentry)
        except FaultError as e:
            error = f"name cannot be read: {e}"
        return self._record(file, name, inode, None, error)

    def _record(
        self,
        file: File,
        name: bytes | None,
        inode: object | None,
        summary: str | None,
        error: str | None,
        sk: int = 0,
    ) -> FileRecord:
        try:
            mnt_id: int | None = self._namer.mount(file.mnt).mnt_id
        except FaultError:
            mnt_id = None
        ino, i_mode, rdev, sb = None, 0, 0, 0
        if isinstance(inode, (Inode, SocketAlloc)):
            ino, i_mode, sb = inode.ino, inode.mode, inode.sb
            rdev = inode.rdev if isinstance(inode, Inode) else 0
        kind = "unknown" if inode is None else file_kind(i_mode, name or b"", bool(sk))
        return FileRecord(
            file.address,
            file.flags,
            file.mode,
            file.pos,
            file.op,
            name,
            kind,
            ino,
            i_mode,
            self._s_dev(sb),
            rdev,
            mnt_id,
            sk,
            summary,
            error,
        )

    def _s_dev(self, sb: int) -> int | None:
        if sb not in self._dev:
            found = SuperBlock.layout(self._prog).try_read(sb)
            self._dev[sb] = found.dev if found else None
        return self._dev[sb]
