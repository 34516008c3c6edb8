# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fds at the other ends of an open file, as in lsfd's column ``ENDPOINTS``."""

from __future__ import annotations

import functools
from typing import NamedTuple

from drgn import FaultError, Program

from drgn_sockets.kernel.file import FMODE_READ, FMODE_WRITE, File
from drgn_sockets.kernel.lost import sift
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.kernel.task import FileTable, Tasks
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.holder import Holder
from drgn_sockets.records.holders import FileHolders, Holders
from drgn_sockets.records.kinds import kind_with_ends
from drgn_sockets.records.kinds.base import FileEnd, Kind
from drgn_sockets.records.losses import Losses

_FEW = 1 << 13
_BOTH = FMODE_READ, FMODE_WRITE

# include/net/sock.h
_RCV_SHUTDOWN = 1
_SEND_SHUTDOWN = 2


class _UnixSock(Struct):
    C_TYPE = "struct unix_sock"

    shutdown = Int("sk.sk_shutdown")
    peer = Int("peer")


class EndHolder(NamedTuple):
    """An fd at another end."""

    holder: Holder
    #: ``rw``, ``r-`` or ``-w``; empty for kinds of files whose ends have no such modes.
    mode: str = ""
    #: Whether one end reads what the other end writes.
    is_opposite: bool = True

    def __bytes__(self) -> bytes:
        """As lsfd writes it: ``184,cat,0r-``."""
        holder = self.holder
        return b"%d,%b,%d%b" % (holder.pid, holder.comm, holder.fd, self.mode.encode())


class _OpenEnd(NamedTuple):
    """An open file that is an end of something."""

    file: File
    end: FileEnd


class Ends:
    """
    The open files and sockets that are ends of something (of a pipe, say), and who holds them.

    Nothing is read until it is asked for; then it is read for the whole machine.
    """

    def __init__(self, prog: Program, losses: Losses) -> None:
        self._prog = prog
        self._losses = losses

    @classmethod
    def of(cls, file: FileRecord) -> Ends:
        """The ends on the machine that *file* was read from, shared by all files of its reader."""
        found: Ends | None = file.shared.get("ends")
        if found is None:
            found = file.shared["ends"] = cls(file.prog, file.losses)
        return found

    @functools.cached_property
    def _tables(self) -> list[FileTable]:
        return Tasks(self._prog, self._losses.lose).tables()

    @functools.cached_property
    def are_few(self) -> bool:
        """Whether the machine has so few open files that reading all of them is quick."""
        some = FileHolders(self._prog, self._tables, _FEW, losses=self._losses)
        if some.complete:
            self._holders = some
        return some.complete

    @functools.cached_property
    def _holders(self) -> FileHolders:
        return FileHolders(self._prog, self._tables, losses=self._losses)

    @functools.cached_property
    def _sockets(self) -> Holders:
        return Holders(self._prog, self._tables, losses=self._losses)

    @functools.cached_property
    def _by_end(self) -> dict[int, list[_OpenEnd]]:
        prog = self._prog
        files = File.layout(prog).read_batch(self._holders.files())
        for lost in files.lost:
            self._losses.lose(lost)
        ops = files.column("op")
        # Look up the kind once for each file_operations: they are few, and files are many.
        kinds = {op: kind for op in set(ops) if (kind := kind_with_ends(prog, op))}
        found: dict[int, list[_OpenEnd]] = {}
        some = files.select([i for i, op in enumerate(ops) if op in kinds])
        for file in some:
            try:
                end = _end(kinds[file.op], prog, file)
            except FaultError as e:
                self._losses.lose(e, "an end of something")
                continue
            if end is not None:
                found.setdefault(end.of, []).append(_OpenEnd(file, end))
        return found

    @functools.cached_property
    def _unix(self) -> dict[int, _UnixSock]:
        layout = _UnixSock.layout(self._prog)
        socks = sift(layout.read_many(self._sockets.sks_like("unix")), self._losses.lose)
        return {sock.address: sock for sock in socks}

    @functools.cached_property
    def _senders(self) -> dict[int, list[_UnixSock]]:
        """The unix sockets that are connected to a unix socket, by its ``struct sock *``."""
        found: dict[int, list[_UnixSock]] = {}
        for sock in self._unix.values():
            found.setdefault(sock.peer, []).append(sock)
        return found

    def endpoints(self, table: FileTable, fd: int, file: FileRecord) -> list[EndHolder] | None:
        """
        The fds at the other ends of an fd's file, in the order of processes and fds.

        :return: ``None`` if the file is not an end of anything
        """
        if file.sk:
            return self._of_socket(file.sk)
        kind = kind_with_ends(file.prog, file.op)
        if kind is None:
            return None
        end = _end(kind, file.prog, file.file)
        if end is None:
            return None
        n = len(self._tables)
        found = []
        for other in self._by_end.get(end.of, ()):
            if end.side and end.side == other.end.side:
                continue
            mode = _mode(other.file) if kind.ends_have_modes else ""
            is_opposite = not mode or bool(end.side) or _are_opposite(file.mode, other.file.mode)
            for packed in self._holders.of_file(other.file.address):
                of = self._tables[packed % n]
                if (of.pid, of.files, packed // n) != (table.pid, table.files, fd):
                    [holder] = self._holders.unpacked([packed])
                    found.append(EndHolder(holder, mode, is_opposite))
        return sorted(found, key=_order)

    def _of_socket(self, sk: int) -> list[EndHolder] | None:
        sock = self._unix.get(sk)
        if sock is None:
            return None
        peer = self._unix.get(sock.peer)
        # A socket without a peer may be one that others are connected to.
        others = self._senders.get(sk, []) if not sock.peer else [peer] if peer else []
        found = [
            EndHolder(holder, _rw(~o.shutdown & _RCV_SHUTDOWN, ~o.shutdown & _SEND_SHUTDOWN))
            for o in others
            for holder in self._sockets.of(o.address)
        ]
        return sorted(found, key=_order)


def _end(kind: Kind, prog: Program, file: File) -> FileEnd | None:
    try:
        return kind.end(prog, file)
    except LookupError:
        # The program lacks the types of this kind of file.
        return None


def _rw(readable: int, writable: int) -> str:
    return ("r" if readable else "-") + ("w" if writable else "-")


def _mode(file: File) -> str:
    return _rw(file.mode & FMODE_READ, file.mode & FMODE_WRITE)


def _are_opposite(one: int, other: int) -> bool:
    return any(one & a and other & b for a, b in (_BOTH, _BOTH[::-1]))


def _order(endpoint: EndHolder) -> tuple[int, int, int]:
    holder = endpoint.holder
    return holder.pid, holder.tid or 0, holder.fd
