# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open file descriptors as plain values, read in batches."""

from __future__ import annotations

import functools
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Optional, Union

from drgn import FaultError, Program, offsetof

from drgn_sockets.kernel.dcache import Namer
from drgn_sockets.kernel.fcntl import O_CLOEXEC
from drgn_sockets.kernel.fdtable import FdChunk, chunk_now, has_table, table_chunks
from drgn_sockets.kernel.file import (
    FMODE_NOACCOUNT,
    MAYBE_FMODE_BACKING,
    File,
    FileSystemType,
    Inode,
    SuperBlock,
    access_mode,
    bad_operations,
    file_kind,
    socket_file_ops,
)
from drgn_sockets.kernel.lost import Lost, or_lost, there
from drgn_sockets.kernel.memory import read_string
from drgn_sockets.kernel.module import module_symbol_name
from drgn_sockets.kernel.sock import SocketAlloc
from drgn_sockets.kernel.symbols import symbol_name
from drgn_sockets.kernel.task import FileTable
from drgn_sockets.program import is_live
from drgn_sockets.records.holders import mistaken_socket
from drgn_sockets.records.losses import Losses, in_words
from drgn_sockets.records.parts import Batch, Part
from drgn_sockets.records.reader import SocketBatch, SocketReader

# Number of slots that are read together.
_BATCH = 4096
# Files that an overlay opened in another file system, by open_with_fake_path() or
# backing_file_open(), may have the path of a file with another inode.
_MAYBE_FAKE_PATH = FMODE_NOACCOUNT | MAYBE_FMODE_BACKING
_MAX_FILES = 200_000

# Members of a struct file that stay as they are until it is freed.
_POINTERS = ("inode", "dentry", "op", "private_data")

# The rows of Others for one table take about as long to read as this number of slots.
_OTHERS = 64


class Others:
    """Finds the files that a process has besides its fds."""

    def find(self, reader: FdReader, table: FileTable) -> tuple[set[int], Found]:
        """
        Find the files of the process of *table*.

        :return: The ``struct file *`` to read, and a function that makes rows of the files read
        """
        raise NotImplementedError


class FileRecord:
    """
    An open file (``struct file``), which several fds may share.

    Values that need further structures, or take long, are read when they are asked for.
    """

    __slots__ = (
        *("_name", "_reader", "access", "error", "file", "inode", "lost", "memo", "sk", "summary"),
    )

    def __init__(
        self,
        reader: FdReader,
        file: File,
        inode: Inode | SocketAlloc | None,
        name: bytes | None,
        access: str,
        error: str | None = None,
        sk: int = 0,
        summary: Any = None,
    ) -> None:
        self._reader = reader
        #: How it was opened, see :func:`~drgn_sockets.kernel.file.access_mode`.
        self.access = access
        #: The decoded ``struct file``.
        self.file = file
        #: Its inode (a socket's with its ``struct socket``); ``None`` if it cannot be read.
        self.inode = inode
        self._name = name
        #: What could not be read, or ``None``.
        self.error = error
        #: ``struct sock *`` of a socket, else 0.
        self.sk = sk
        #: What the reader's *summary* returned for the socket, or a ``Lost``.
        self.summary = summary
        #: Values specific to its kind that cannot be read.
        self.lost: Sequence[Lost] = ()
        #: What :mod:`~drgn_sockets.records.kinds` keeps of this file.
        self.memo: Any = None

    @property
    def socket(self) -> Any:
        """
        What the reader's *summary* returned for the socket.

        :raises FaultError: if it cannot be read
        """
        return there(self.summary)

    @property
    def prog(self) -> Program:
        """The program it was read from."""
        return self._reader.prog

    @property
    def namer(self) -> Namer:
        """Makes the names of all files of the same reader."""
        return self._reader.namer

    @property
    def losses(self) -> Losses:
        """Collects what cannot be read and has no row."""
        return self._reader.losses

    @property
    def shared(self) -> dict[str, Any]:
        """Values that others keep for all files of the same reader, by name."""
        return self._reader.shared

    @property
    def private_data(self) -> int:
        """``private_data``, whose meaning depends on the file operations."""
        return self.file.private_data

    @property
    def address(self) -> int:
        """Address of the ``struct file``."""
        return self.file.address

    @property
    def flags(self) -> int:
        """``f_flags``."""
        return self.file.flags

    @property
    def mode(self) -> int:
        """``f_mode``."""
        return self.file.mode

    @property
    def pos(self) -> int:
        """``f_pos``, bytes."""
        return self.file.pos

    @property
    def op(self) -> int:
        """``f_op``, address of the ``struct file_operations``."""
        return self.file.op

    @property
    def fops(self) -> str:
        """The symbol of ``f_op``, or its address if it has no symbol."""
        return (
            symbol_name(self.prog, self.op)
            or module_symbol_name(self.prog, self.op)
            or f"{self.op:#x}"
        )

    @property
    def name(self) -> bytes | None:
        """As ``readlink /proc/PID/fd/N`` gives it; ``None`` if it cannot be read."""
        if isinstance(self.inode, SocketAlloc):
            # As sockfs_dname(); calling d_path() would read two more structures.
            return b"socket:[%d]" % self.inode.ino
        return self._name

    @property
    def kind(self) -> str:
        """Kind of file, see :func:`~drgn_sockets.kernel.file.file_kind`."""
        if self.inode is None:
            return "unknown"
        return "sock" if self.sk else file_kind(self.inode.mode, self._name or b"", False)

    @property
    def ino(self) -> int | None:
        """Inode number."""
        return None if self.inode is None else self.inode.ino

    @property
    def i_mode(self) -> int:
        """``i_mode``."""
        return 0 if self.inode is None else self.inode.mode

    @property
    def dev(self) -> int | None:
        """
        Device of the file system, as the kernel's ``dev_t``.

        :raises FaultError: if it cannot be read
        """
        sb = self.sb
        return None if sb is None else sb.dev

    @property
    def sb(self) -> SuperBlock | None:
        """
        Its file system, ``None`` if its inode cannot be read.

        :raises FaultError: if it cannot be read
        """
        return None if self.inode is None else self._reader.super_block(self.inode.sb)

    @property
    def fs_type(self) -> bytes | None:
        """
        Name of the type of its file system: ``ext4``, ``tmpfs``, ``sockfs``.

        :raises FaultError: if it cannot be read
        """
        sb = self.sb
        return None if sb is None else self._reader.fs_type(sb.type)

    @property
    def protocol(self) -> bytes:
        """
        Name of a socket's protocol, as its extended attribute ``system.sockprotoname`` has it.

        :raises FaultError: if it cannot be read
        """
        return self.namer.last_name(self.file.dentry)

    @property
    def nlink(self) -> int | None:
        """Number of hard links."""
        if self.inode is None:
            return None
        # The inode of a socket is created with one link, and this never changes.
        return self.inode.nlink if isinstance(self.inode, Inode) else 1

    @property
    def size(self) -> int | None:
        """Bytes."""
        if self.inode is None:
            return None
        return self.inode.size if isinstance(self.inode, Inode) else 0

    @property
    def uid(self) -> int | None:
        """Owner, in the initial user namespace."""
        return None if self.inode is None else self.inode.uid

    @property
    def rdev(self) -> int:
        """Device number of a device file."""
        return self.inode.rdev if isinstance(self.inode, Inode) else 0

    @property
    def mnt_id(self) -> int:
        """
        Mount ID, as in fdinfo.

        :raises FaultError: if it cannot be read
        """
        return self._reader.mnt_id(self.file.mnt)


class PathRecord(FileRecord):
    """A file that is known by its path; it has no ``struct file``."""

    __slots__ = ("_mnt",)

    def __init__(
        self,
        reader: FdReader,
        file: File,
        inode: Inode | None,
        name: bytes | None,
        mnt: int,
        error: str | None,
    ) -> None:
        super().__init__(reader, file, inode, name, "-", error)
        self._mnt = mnt

    @property
    def mnt_id(self) -> int:
        return self._reader.mnt_id(self._mnt)


class Mapped(NamedTuple):
    """One mapping of a file, or all mappings of it in a process together."""

    #: Address of the first mapping.
    start: int
    #: Length of all mappings, pages.
    pages: int
    #: ``rwx``, with ``-`` for an access that no mapping allows.
    access: str
    #: Whether at least one mapping is shared (``MAP_SHARED``).
    shared: bool
    #: Offset of the first mapping in the file, bytes.
    offset: int


class FdRecord(NamedTuple):
    """A file descriptor of a process."""

    #: The file table it is in.
    table: FileTable
    #: Its number; ``None`` in a row for a file that is no fd (see ``assoc``), or for a table that
    #: cannot be read.
    fd: int | None
    cloexec: bool
    #: The open file; ``None`` if its ``struct file`` cannot be read.
    file: FileRecord | None
    #: Address of the ``struct file``.
    address: int
    #: What could not be read, or ``None``.
    error: str | None = None
    #: What the file is to the process, if it is no fd: ``cwd``, ``rtd`` (root directory), ``txt``
    #: (executable), ``mem`` (mapped), ``DEL`` (mapped and deleted).
    assoc: str | None = None
    mapping: Mapped | None = None

    @property
    def lost(self) -> Sequence[Lost]:
        """Values specific to the kind of the file that cannot be read."""
        return self.file.lost if self.file is not None else ()

    @property
    def where(self) -> str:
        """Which row it is, for a message."""
        table = self.table
        who = f"pid {table.pid}" + (f" tid {table.tid}" if table.tid is not None else "")
        fd = f" fd {self.fd}" if self.fd is not None else ""
        return f"{who} {self.assoc}" if self.assoc is not None else who + fd

    @property
    def opened(self) -> FileRecord | None:
        """The open file of an fd; ``None`` if this is no fd."""
        return self.file if self.assoc is None else None

    @property
    def flags(self) -> int | None:
        """Flags as in fdinfo: ``f_flags``, with ``O_CLOEXEC`` as the fd has it."""
        if self.file is None or self.assoc is not None:
            return None
        return self.file.flags & ~O_CLOEXEC | (O_CLOEXEC if self.cloexec else 0)


class FdBatch(Batch):
    """Fds of one file table, as columns until records are asked for."""

    def __init__(
        self,
        table: FileTable,
        fds: Sequence[int],
        addresses: Sequence[int],
        cloexec: Sequence[bool],
        files: Sequence[FileRecord | None],
        reader: FdReader,
    ) -> None:
        self.reader = reader
        self.table = table
        self.fds = fds
        #: ``struct file *`` of each, as integers.
        self.addresses = addresses
        self.cloexec = cloexec
        #: The open files, ``None`` for those whose ``struct file`` cannot be read.
        self.files = files

    @property
    def cls(self) -> type[FdRecord]:
        return FdRecord

    def __len__(self) -> int:
        return len(self.fds)

    def records(self) -> Sequence[FdRecord]:
        return [
            FdRecord(self.table, fd, cloexec, file, address, _error(file, address))
            for fd, address, cloexec, file in zip(
                self.fds, self.addresses, self.cloexec, self.files
            )
        ]

    def errors(self) -> int:
        # Asked more than once: details of a file may be lost after the first time.
        return len([f for f in self.files if f is None or f.error is not None or f.lost])

    def select(self, indices: Sequence[int]) -> FdBatch:
        return FdBatch(
            self.table,
            [self.fds[i] for i in indices],
            [self.addresses[i] for i in indices],
            [self.cloexec[i] for i in indices],
            [self.files[i] for i in indices],
            self.reader,
        )

    @property
    def is_live(self) -> bool:
        return is_live(self.reader.prog)

    def moved(self) -> Collection[int]:
        if not self.is_live:
            return ()
        prog = self.reader.prog
        chunk = chunk_now(prog, self.table, self.fds[0], self.fds[-1] + 1)
        if chunk is None:
            return range(len(self))
        slots, first = chunk.slots, chunk.start
        there = self.reader.unchanged(filter(None, self.files))
        return [
            i
            for i, (fd, address, file) in enumerate(zip(self.fds, self.addresses, self.files))
            if fd - first >= len(slots)
            or slots[fd - first] != address
            or (file is not None and address not in there)
        ]

    def again(self, indices: Sequence[int]) -> Iterator[tuple[Batch, Sequence[int]]]:
        wanted = {self.fds[i]: i for i in indices}
        yield from self.reader.again(self.table, wanted)


class _OfProcess(Batch):
    """Rows of a file table that are no fds."""

    def __init__(self, records: Sequence[FdRecord], prog: Program, table: FileTable) -> None:
        super().__init__(records)
        self._prog = prog
        self._table = table

    @property
    def is_live(self) -> bool:
        return is_live(self._prog)

    def moved(self) -> Collection[int]:
        # What cannot be read of a process that has exited meanwhile is no damage.
        gone = self.is_live and not has_table(self._prog, self._table)
        return range(len(self)) if gone else ()

    def again(self, indices: Sequence[int]) -> Iterator[tuple[Batch, Sequence[int]]]:
        if has_table(self._prog, self._table):
            yield self.select(indices), indices

    def select(self, indices: Sequence[int]) -> _OfProcess:
        return _OfProcess([self._records[i] for i in indices], self._prog, self._table)


# A file table, with a chunk of its slots, the error that ended reading it, or an Others to ask.
_Piece = tuple[FileTable, Union[FdChunk, str, Others]]
# Makes rows of the files that were read, by address.
Found = Callable[[Mapping[int, Optional[FileRecord]]], Sequence[FdRecord]]


def _error(file: FileRecord | None, address: int) -> str | None:
    return file.error if file is not None else str(Lost("struct file", address))


class FdReader:
    """
    Reads file descriptors.

    :param summary: Returns what to keep of each socket in a batch; by default sockets are not
        read.
    :param namer: Names files; by default paths begin at the root directory of process 1.
    :param others: Finds further files of a process; these become rows, too.
    :param losses: Collects what cannot be read and has no row.
    """

    def __init__(
        self,
        prog: Program,
        summary: Callable[[Batch], Iterable[Any]] | None = None,
        namer: Namer | None = None,
        others: Others | None = None,
        losses: Losses | None = None,
    ) -> None:
        self.prog = prog
        self.losses = Losses() if losses is None else losses
        self._others = others
        self._summary = summary
        self._sockets = SocketReader(prog, losses=losses)
        self.namer = namer or Namer(prog)
        self.shared: dict[str, Any] = {}
        self._socket_ops = socket_file_ops(prog)
        self._socket_offset = offsetof(prog.type("struct socket_alloc"), "socket")
        self._inode_offset = offsetof(prog.type("struct socket_alloc"), "vfs_inode")
        self._fs_types: dict[int, bytes] = {}
        self._super_blocks: dict[int, SuperBlock] = {}
        # Most files are held by one process, or by a few that were forked one after the other.
        # So it is enough to keep the files of the last tables.
        self._files: dict[int, FileRecord | None] = {}

    def read(self, tables: Iterable[FileTable]) -> Iterator[FdRecord]:
        """The fds of *tables*, in the order of tables and fds, some thousand at a time."""
        for part in self.parts(tables):
            yield from part.records()

    def parts(self, tables: Iterable[FileTable]) -> Iterator[Part]:
        """
        The same, in parts.

        If one table is a copy of another (after ``fork()``), corresponding parts have the same key.
        """
        pieces: list[_Piece] = []
        size = 0
        for table in tables:
            if self._others is not None:
                pieces.append((table, self._others))
                size += _OTHERS
            if not table.files:
                continue
            error = None
            try:
                for chunk in table_chunks(self.prog, table):
                    pieces.append((table, chunk))
                    size += len(chunk.slots)
                    if size >= _BATCH:
                        yield self._part(pieces)
                        pieces, size = [], 0
            except FaultError as e:
                error = f"file table: {in_words(e)}"
            if error is not None:
                pieces.append((table, error))
        yield self._part(pieces)

    def _part(self, pieces: Sequence[_Piece]) -> Part:
        starts = [piece.start for _, piece in pieces if isinstance(piece, FdChunk)]
        return Part(functools.partial(self._read_pieces, pieces), max(starts, default=0) // _BATCH)

    def _read_pieces(self, pieces: Sequence[_Piece]) -> Iterator[Batch]:
        if is_live(self.prog):
            self._forget()
        # Collect all addresses first: reading them together, in address order, is fastest.
        wanted: set[int] = set()
        found: list[Found] = []
        for table, piece in pieces:
            if isinstance(piece, FdChunk):
                wanted.update(piece.slots)
            elif isinstance(piece, Others):
                addresses, rows = piece.find(self, table)
                wanted |= addresses
                found.append(rows)
        self._read_files(wanted - {0})
        others = iter(found)
        for table, piece in pieces:
            if isinstance(piece, Others):
                yield _OfProcess(next(others)(self._files), self.prog, table)
            elif isinstance(piece, FdChunk):
                fds, files, cloexec = piece.used(self.prog, self.losses.lose)
                if fds:
                    of = [self._files[f] for f in files]
                    yield FdBatch(table, fds, files, cloexec, of, self)
            else:
                row = FdRecord(table, None, False, None, table.files, piece)
                yield _OfProcess([row], self.prog, table)

    def _forget(self) -> None:
        """Forget what a live kernel may have freed since: files, and their names."""
        self._files.clear()
        self.namer.forget()
        self._sockets.forget()

    def again(
        self, table: FileTable, wanted: Mapping[int, int]
    ) -> Iterator[tuple[FdBatch, Sequence[int]]]:
        """
        Read fds of a live kernel again.

        :param wanted: Which fds, each with a number.
        :return: A batch of those that are still open, with their numbers; nothing if there are none
        """
        chunk = chunk_now(self.prog, table, min(wanted), max(wanted) + 1)
        if chunk is None:
            return
        fds, files, cloexec = chunk.used(self.prog, self.losses.lose)
        open_ones = [i for i, fd in enumerate(fds) if fd in wanted]
        if open_ones:
            # The other rows of the part are still to come.
            rest, self._files = self._files, {}
            self.namer.forget()
            self._sockets.forget()
            self._read_files({files[i] for i in open_ones})
            fds, files = [fds[i] for i in open_ones], [files[i] for i in open_ones]
            cloexec = [cloexec[i] for i in open_ones]
            of = [self._files[f] for f in files]
            self._files = rest
            yield FdBatch(table, fds, files, cloexec, of, self), [wanted[fd] for fd in fds]

    def unchanged(self, records: Iterable[FileRecord]) -> set[int]:
        """
        Find the files of a live kernel that are what they were when they were read.

        A ``struct file`` and its inode may be freed and used for another file at any time.

        :return: Their ``struct file *`` as integers
        """
        records = list(records)
        prog = self.prog
        now = File.layout(prog).read_batch(record.address for record in records)
        pointers = zip(*map(now.column, _POINTERS))
        leads_to = dict(zip(now.addresses, pointers))
        inodes = Inode.layout(prog).read_batch(record.file.inode for record in records)
        inos = dict(zip(inodes.addresses, inodes.column("ino")))
        return {
            record.address
            for record in records
            if leads_to.get(record.address) == tuple(getattr(record.file, n) for n in _POINTERS)
            and (record.inode is None or record.inode.ino == inos.get(record.file.inode))
        }

    def _read_files(self, addresses: set[int]) -> None:
        new = addresses.difference(self._files)
        if len(self._files) + len(new) > _MAX_FILES:
            self._files.clear()
            new = addresses
        files = File.layout(self.prog).read_batch(new)
        self._files.update((lost.address, None) for lost in files.lost)
        accesses = map(access_mode, files.column("flags"), files.column("mode"))
        bad = {lost.address: lost for lost in bad_operations(self.prog, files.column("op"))}
        others: list[tuple[File, str]] = []
        by_socket: dict[int, list[tuple[File, str]]] = {}
        for file, op, private_data, access in zip(
            files, files.column("op"), files.column("private_data"), accesses
        ):
            if op == self._socket_ops:
                by_socket.setdefault(private_data - self._socket_offset, []).append((file, access))
            elif op in bad:
                error = str(Lost("struct file", file.address, f"its {bad[op]}"))
                self._files[file.address] = FileRecord(self, file, None, None, access, error)
            else:
                others.append((file, access))
        self._read_sockets(by_socket)
        self._read_others(others)

    def _read_sockets(self, by_socket: Mapping[int, list[tuple[File, str]]]) -> None:
        sockets = SocketAlloc.layout(self.prog).read_batch(by_socket)
        for lost in sockets.lost:
            self._lost_sockets(by_socket[lost.address], lost.address + self._socket_offset)
        summaries: dict[int, Any] = {}
        # The struct socket that each sock points to.
        backs: dict[int, int] = {}
        errors: dict[int, str] = {}
        if self._summary is not None:
            held = {sk: socket for sk, socket in zip(sockets.column("sk"), sockets) if sk}
            for batch in self._sockets.read_held_briefly(held):
                if isinstance(batch, SocketBatch):
                    sks = batch.addresses
                    backs.update(zip(sks, batch.structs.column("socket")))
                else:
                    sks = [record.sk for record in batch.records()]
                    errors.update((r.sk, r.error) for r in batch.records() if r.error is not None)
                summaries.update(zip(sks, _summaries(batch, self._summary)))
        fallen: list[tuple[File, str, SocketAlloc]] = []
        for address, socket, sk in zip(sockets.addresses, sockets, sockets.column("sk")):
            summary, error = summaries.get(sk), errors.get(sk)
            own, inode = address + self._socket_offset, address + self._inode_offset
            back, its_file = backs.get(sk, own), socket.file
            for file, access in by_socket[address]:
                if sk and its_file == file.address and inode == file.inode and back == own:
                    self._files[file.address] = FileRecord(
                        self, file, socket, None, access, error, sk, summary
                    )
                    continue
                mistaken = mistaken_socket(own, sk, its_file, file.address)
                if mistaken is not None:
                    self._lost_sockets([(file, access)], own, mistaken.why)
                elif inode != file.inode:
                    fallen.append((file, access, socket))
                else:
                    why = f"its struct sock belongs to the struct socket at {back:#x}"
                    self._lost_sockets([(file, access)], own, why)
        self._read_fallen(fallen, summaries)

    def _read_fallen(
        self, fallen: Sequence[tuple[File, str, SocketAlloc]], summaries: Mapping[int, Any]
    ) -> None:
        """
        Make records of files whose ``private_data`` and inode belong to different sockets.

        An SMC socket that fell back to TCP gives its file to the TCP socket that it has inside
        (``smc_switch_to_fallback()``).
        """
        if not fallen:
            return
        some = SocketAlloc.layout(self.prog).read_many(
            file.inode - self._inode_offset for file, _, _ in fallen
        )
        own = {inode.address: inode for inode in some}
        for file, access, socket in fallen:
            inode = own[file.inode - self._inode_offset]
            if isinstance(inode, Lost) or not stat.S_ISSOCK(inode.mode) or inode.sb != socket.sb:
                self._lost_sockets([(file, access)], file.private_data)
            else:
                self._files[file.address] = FileRecord(
                    self, file, inode, None, access, None, socket.sk, summaries.get(socket.sk)
                )

    def _lost_sockets(self, files: Iterable[tuple[File, str]], socket: int, why: str = "") -> None:
        error = str(Lost("struct socket", socket, why))
        for file, access in files:
            self._files[file.address] = FileRecord(self, file, None, None, access, error)

    def at_path(self, mnt: int, dentry: int) -> FileRecord:
        """
        Read a file that is known by its path only, such as a working directory.

        :param mnt: ``struct vfsmount *`` as an integer
        :param dentry: ``struct dentry *`` as an integer
        """
        layout = File.layout(self.prog)
        nothing = layout.decode(0, bytes(layout.size))
        inode, name, error = None, None, None
        try:
            inode = Inode.layout(self.prog).read(self.namer.dentry(dentry).inode)
            name = self.namer.d_path(mnt, dentry)
        except FaultError as e:
            error = in_words(e)
        return PathRecord(self, nothing, inode, name, mnt, error)

    def _read_others(self, files: Sequence[tuple[File, str]]) -> None:
        some = Inode.layout(self.prog).read_many(file.inode for file, _ in files)
        inodes = {inode.address: inode for inode in some}
        self.namer.prefetch(file.dentry for file, _ in files)
        for file, access in files:
            found = inodes[file.inode]
            inode = None if isinstance(found, Lost) else found
            errors = [str(found)] if isinstance(found, Lost) else []
            name: bytes | None = None
            try:
                name = self.namer.d_path(file.mnt, file.dentry)
                own = self.namer.dentry(file.dentry).inode
                if own != file.inode and not file.mode & _MAYBE_FAKE_PATH:
                    errors.append(f"struct dentry at {file.dentry:#x} has another inode, {own:#x}")
            except FaultError as e:
                errors.append(f"name: {in_words(e)}")
            error = "; ".join(errors) or None
            self._files[file.address] = FileRecord(self, file, inode, name, access, error)

    def mnt_id(self, mnt: int) -> int:
        """
        ID of a ``struct vfsmount *``.

        :raises FaultError: if it cannot be read
        """
        return self.namer.mount(mnt).mnt_id

    def fs_type(self, address: int) -> bytes:
        """
        Name of a ``struct file_system_type *``.

        :raises FaultError: if it cannot be read
        """
        if address not in self._fs_types:
            found = FileSystemType.layout(self.prog).read(address)
            name = read_string(self.prog, found.name, 64, "name of struct file_system_type")
            self._fs_types[address] = name or b""
        return self._fs_types[address]

    def super_block(self, sb: int) -> SuperBlock:
        """
        A ``struct super_block *``.

        :raises FaultError: if it cannot be read
        """
        if sb not in self._super_blocks:
            self._super_blocks[sb] = SuperBlock.layout(self.prog).read(sb)
        return self._super_blocks[sb]


def _summaries(batch: Batch, summary: Callable[[Batch], Iterable[Any]]) -> Iterable[Any]:
    try:
        return list(summary(batch))
    except FaultError:
        # Ask for each record alone, so that only the unreadable ones are lost.
        return [
            or_lost(lambda one: next(iter(summary(Batch([one])))), record)
            for record in batch.records()
        ]
