# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who holds each open file and each socket: every (process, fd) pair on the machine."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from itertools import compress

from drgn import FaultError, Program, offsetof

from drgn_sockets.kernel.fdtable import chunk_now, table_chunks
from drgn_sockets.kernel.file import bad_operations, socket_file_ops
from drgn_sockets.kernel.lost import Lost, or_lost
from drgn_sockets.kernel.moving import LOOKS
from drgn_sockets.kernel.sock import Sock, SocketAlloc
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.kernel.task import FileTable, Tasks
from drgn_sockets.program import is_live
from drgn_sockets.records.families import family_name_like
from drgn_sockets.records.fan_out import fan_out
from drgn_sockets.records.holder import Holder, SocketInode
from drgn_sockets.records.losses import Losses
from drgn_sockets.records.socket import OTHER

# Number of files that are read together.
_PART = 8192


# Like SocketInode._make(), which is a Python function and slower.
_inode: Callable[[Iterable[int]], SocketInode] = functools.partial(tuple.__new__, SocketInode)


class _ProtoOps(Struct):
    C_TYPE = "struct proto_ops"

    family = Int("family")


class _FilePrivate(Struct):
    C_TYPE = "struct file"

    op = Int("f_op")
    private_data = Int("private_data")


class FileHolders:
    """
    The holders of every open file that is in a file table.

    :param tables: The file tables to look into; by default those of all tasks.
    :param most: Stop after a table if more files than this have been found by then.
    :param losses: Collects what cannot be read.
    """

    def __init__(
        self,
        prog: Program,
        tables: Iterable[FileTable] | None = None,
        most: int | None = None,
        losses: Losses | None = None,
    ) -> None:
        self._prog = prog
        self.losses = Losses() if losses is None else losses
        if tables is None:
            tables = Tasks(prog, self.losses.lose).tables()
        #: The file tables that are looked into.
        self.tables: list[FileTable] = list(tables)
        # The first holder of each struct file, and the further holders of the few files that have
        # more. A holder is kept as an integer, see of_file(), until a row is printed.
        self._live = is_live(prog)
        # The slots of a live kernel, as they were read: index of the table, first slot, files.
        self._slots: list[tuple[int, int, Sequence[int]]] = []
        self._first: dict[int, int] = {}
        self._more: dict[int, list[int]] = {}
        #: Whether all tables were looked into.
        self.complete = True
        for index, table in enumerate(self.tables):
            try:
                self._take(table, index)
                if most is not None and len(self._first) > most:
                    self.complete = False
                    break
            except FaultError as e:
                self.losses.lose(e, f"pid {table.pid}: file table")

    def _take(self, table: FileTable, index: int) -> None:
        first, more, n = self._first, self._more, len(self.tables)
        for chunk in table_chunks(self._prog, table):
            if self._live:
                self._slots.append((index, chunk.start, chunk.slots))
            packed = range(chunk.start * n + index, (chunk.start + len(chunk.slots)) * n, n)
            holders = dict(zip(chunk.slots, packed))
            holders.pop(0, None)
            used = len(chunk.slots) - chunk.slots.count(0)
            if len(holders) == used and first.keys().isdisjoint(holders):
                # The common case: no file has another holder, in this table or in others.
                first.update(holders)
                continue
            for holder, file in zip(packed, chunk.slots):
                if not file:
                    continue
                if file not in first:
                    first[file] = holder
                elif file in more:
                    more[file].append(holder)
                else:
                    more[file] = [holder]

    def drop_moved(self) -> None:
        """
        Forget holders whose slot has another file by now, on a live kernel: what was read of the
        file since may be of another one.
        """
        n = len(self.tables)
        for at, (index, start, slots) in enumerate(self._slots):
            chunk = chunk_now(self._prog, self.tables[index], start, start + len(slots))
            now = chunk.slots if chunk is not None else ()
            if now == slots:
                continue
            kept = [file if now[i : i + 1] == (file,) else 0 for i, file in enumerate(slots)]
            for i, file in enumerate(slots):
                if file and not kept[i]:
                    self._drop(file, (start + i) * n + index)
            self._slots[at] = index, start, kept

    def _drop(self, file: int, packed: int) -> None:
        more = self._more.get(file, [])
        if self._first[file] != packed:
            more.remove(packed)
        elif more:
            self._first[file] = more.pop(0)
        else:
            del self._first[file]
        if not more:
            self._more.pop(file, None)

    def files(self) -> list[int]:
        """Every ``struct file *`` that has a holder, in the order of addresses."""
        return sorted(self._first)

    def unpacked(self, packed: Iterable[int]) -> list[Holder]:
        """Unpack the holders that :meth:`of_file` returned."""
        holders = []
        for item in packed:
            fd, index = divmod(item, len(self.tables))
            table = self.tables[index]
            holders.append(Holder(table.pid, fd, table.comm, table.tid))
        return holders

    def of_file(self, file: int) -> Sequence[int]:
        """
        The holders of a ``struct file *`` that has some, in the order of :attr:`tables`.

        :return: Each holder packed into an integer: the fd times the number of tables, plus the
            index of the table
        """
        first = self._first[file]
        return (first, *self._more[file]) if file in self._more else (first,)


class Holders(FileHolders):
    """
    The holders of every socket that is in a file table.

    :param tables: The file tables to look into; by default those of all tasks.
    :param jobs: Number of processes that read if there are many files.
    :param losses: Collects what cannot be read.
    """

    def __init__(
        self,
        prog: Program,
        tables: Iterable[FileTable] | None = None,
        jobs: int = 1,
        losses: Losses | None = None,
    ) -> None:
        super().__init__(prog, tables, losses=losses)
        # The struct file that leads to each sock, and further files of the few socks with more.
        self._file: dict[int, int] = {}
        self._others: dict[int, list[int]] = {}
        #: Inodes of the sockets, by ``struct sock *``.
        self.inodes: dict[int, SocketInode] = {}
        self._by_family: dict[str, list[int]] = defaultdict(list)
        self._find_sockets(jobs)

    def _find_sockets(self, jobs: int) -> None:
        files = self.files()
        prog = self._prog
        parts = [files[i : i + _PART] for i in range(0, len(files), _PART)]
        found_sockets: Iterable[_HeldSockets] = fan_out(
            parts, functools.partial(_sockets_of, prog), jobs
        )
        if self._live:
            found_sockets = self._confirmed(found_sockets)
        for unreadable, holding, sks, inos, uids, names, sockets in found_sockets:
            for file, what in unreadable:
                for holder in self.unpacked(self.of_file(file)):
                    self.losses.lose(what, f"pid {holder.pid} fd {holder.fd}")
            found = dict(zip(sks, holding))
            if len(found) == len(sks) and self._file.keys().isdisjoint(found):
                self._file.update(found)
            else:
                self._add_again(sks, holding)
            self.inodes.update(zip(sks, map(_inode, zip(inos, uids, sockets))))
            for name in set(names):
                self._by_family[name] += compress(sks, map(name.__eq__, names))

    def _confirmed(self, found: Iterable[_HeldSockets]) -> list[_HeldSockets]:
        """Look at a live kernel again: at what leads to the sockets, and at what cannot be read."""
        parts = list(found)
        for _ in range(LOOKS - 1):
            self.drop_moved()
            parts = [_still_held(part, self._first) for part in parts]
            bad = sorted({file for unreadable, *_ in parts for file, _ in unreadable})
            if not bad:
                return parts
            # What the files of these lead to is looked at anew.
            rest = self._first.keys() - bad
            parts = [_still_held(part, rest) for part in parts]
            parts.append(_sockets_of(self._prog, bad))
        self.drop_moved()
        return [_still_held(part, self._first) for part in parts]

    def _add_again(self, sks: Sequence[int], files: Sequence[int]) -> None:
        # A sound kernel has no two files for one sock. In a damaged one, both count.
        for sk, file in zip(sks, files):
            if (other := self._file.setdefault(sk, file)) != file:
                self._others.setdefault(sk, []).append(file)
                if self._live and _sockets_of(self._prog, [other, file])[2].count(sk) < 2:
                    continue
                why = f"the sockets of two files lead to it, {other:#x} and {file:#x}"
                self.losses.lose(Lost("struct sock", sk, why))

    def forget(self, sk: int) -> None:
        """Forget who holds a ``struct sock *``, and its inode."""
        self._file.pop(sk, None)
        self._others.pop(sk, None)
        self.inodes.pop(sk, None)

    def leads_to(self, sk: int) -> bool:
        """
        Whether a holder of a ``struct sock *`` of a live kernel still leads to it.

        The file, the socket and the sock may all have been freed and used again, for another
        connection at the same fd: the inode is what it is now.
        """
        file = self._file.get(sk)
        if file is None:
            return False
        for packed in self.of_file(file):
            fd, index = divmod(packed, len(self.tables))
            chunk = chunk_now(self._prog, self.tables[index], fd, fd + 1)
            if chunk is not None and chunk.slots[-1] == file:
                _, _, sks, inos, uids, _, sockets = _sockets_of(self._prog, [file])
                if sk not in sks:
                    return False
                i = sks.index(sk)
                self.inodes[sk] = _inode((inos[i], uids[i], sockets[i]))
                return True
        return False

    def packed(self, sks: Iterable[int]) -> Iterator[Sequence[int]]:
        """
        The holders of each ``struct sock *`` in the order of pids and fds, packed as by
        :meth:`of_file`.
        """
        files, others, first, more = self._file, self._others, self._first, self._more
        for sk in sks:
            if sk not in files:
                yield ()
                continue
            file = files[sk]
            if sk in others:
                all_files = (file, *others[sk])
                n = len(self.tables)
                found = [holder for f in all_files for holder in self.of_file(f)]
                yield sorted(found, key=lambda holder: (holder % n, holder // n))
            elif file in more:
                yield (first[file], *more[file])
            else:
                yield (first[file],)

    def of(self, sk: int) -> list[Holder]:
        """The holders of a ``struct sock *``, in the order of pids and fds."""
        return self.unpacked(*self.packed([sk]))

    def through_socket(self, sk: Sock) -> list[Holder]:
        """
        The holders of the ``struct socket`` of *sk*, whose ``sk`` may be another sock: the first
        subflow of an MPTCP socket points to the ``struct socket`` of the MPTCP socket.
        """
        if not sk.socket:
            return []
        offset = offsetof(self._prog.type("struct socket_alloc"), "socket")
        socket = SocketAlloc.layout(self._prog).follow(sk.socket - offset)
        return self.of(socket.sk) if socket else []

    def sks(self) -> Iterable[int]:
        """Every ``struct sock *`` that has a holder."""
        return self._file.keys()

    def sks_like(self, name: str) -> Sequence[int]:
        """
        Every ``struct sock *`` that has a holder and looks like a socket of the family *name*,
        judging by the address family of its operations and by its type.

        :param name: One of :data:`~drgn_sockets.records.families.FAMILY_NAMES`.
        """
        return self._by_family.get(name, ())

    def sks_of(self, pid: int) -> set[int]:
        """Every ``struct sock *`` that process *pid* holds."""
        tables = {i for i, table in enumerate(self.tables) if table.pid == pid}
        return {
            sk
            for sk, packed in zip(self._file, self.packed(self._file))
            if any(holder % len(self.tables) in tables for holder in packed)
        }


# The result for some files. First those that cannot be read, each with the loss in words. Then the
# files of sockets, in columns: the file, its sock, inode number, owner, the name of the family that
# the socket looks like, and its struct socket.
_HeldSockets = tuple[
    list[tuple[int, str]],
    list[int],
    list[int],
    list[int],
    list[int],
    list[str],
    list[int],
]


def _still_held(found: _HeldSockets, held: Container[int]) -> _HeldSockets:
    """What was found, without the files that nobody holds any more."""
    unreadable, holding, sks, inos, uids, names, sockets = found
    keep = list(map(held.__contains__, holding))
    return (
        [(file, what) for file, what in unreadable if file in held],
        list(compress(holding, keep)),
        list(compress(sks, keep)),
        list(compress(inos, keep)),
        list(compress(uids, keep)),
        list(compress(names, keep)),
        list(compress(sockets, keep)),
    )


def _sockets_of(prog: Program, addresses: Sequence[int]) -> _HeldSockets:
    offset = offsetof(prog.type("struct socket_alloc"), "socket")
    files = _FilePrivate.layout(prog).read_batch(addresses)
    unreadable = [(lost.address, str(lost)) for lost in files.lost]
    socket_ops = socket_file_ops(prog)
    ops = files.column("op")
    pairs = zip(files.addresses, ops, files.column("private_data"))
    held = [(private - offset, file) for file, op, private in pairs if op == socket_ops]
    for bad_op in bad_operations(prog, ops):
        for file, op in zip(files.addresses, ops):
            if op == bad_op.address:
                unreadable.append((file, str(Lost("struct file", file, f"its {bad_op}"))))
    by_socket = dict(held)
    sockets = SocketAlloc.layout(prog).read_batch(by_socket)
    if sockets.lost:
        bad = {lost.address: lost for lost in sockets.lost}
        for address, file in held:
            if address in bad:
                lost = bad[address]._replace(what="struct socket", address=address + offset)
                unreadable.append((file, str(lost)))
    families = FamilyNamesByOps(prog)
    # A socket without a sock has no operations either: it is being made, or being released.
    kinds = zip(sockets.column("ops"), sockets.column("type"), sockets.column("sk"))
    found = (
        sockets.column("sk"),
        sockets.column("ino"),
        sockets.column("uid"),
        [families[ops, type_] if sk else OTHER for ops, type_, sk in kinds],
        [address + offset for address in sockets.addresses],
    )
    if families.lost:
        bad_ops = {one.address: str(one) for one in families.lost}
        ops_of = dict(zip(sockets.addresses, sockets.column("ops")))
        of_files = ((file, ops_of.get(at)) for at, file in held)
        unreadable += [(file, bad_ops[op]) for file, op in of_files if op in bad_ops]
    holding = list(map(by_socket.__getitem__, sockets.addresses))
    files_of = sockets.column("file")
    if len(by_socket) == len(held) and all(found[0]) and holding == list(files_of):
        # The common case: no damage.
        sks, inos, uids, names, places = map(list, found)
        return unreadable, holding, sks, inos, uids, names, places
    by_address = dict(zip(sockets.addresses, zip(files_of, *found)))
    rows = []
    for at, file in held:
        if at in by_address:
            back, *row = by_address[at]
            lost_one = mistaken_socket(at + offset, row[0], back, file)
            if lost_one is None:
                rows.append((file, *row))
            else:
                unreadable.append((file, str(lost_one)))
    columns = map(list, zip(*rows)) if rows else ([] for _ in range(6))
    holding, sks, inos, uids, names, places = columns
    return unreadable, holding, sks, inos, uids, names, places


def mistaken_socket(socket: int, sk: int, back: int, file: int) -> Lost | None:
    """
    Ask whether a file leads to its own socket: an open socket has a ``struct sock``, and
    ``sock_alloc_file()`` makes the socket and its file point to each other.

    :param socket: ``struct socket *``, the ``private_data`` of the file
    :param sk: Its ``sk``
    :param back: Its ``file``
    :param file: ``struct file *``
    :return: What is wrong, or ``None``
    """
    if back != file:
        return Lost("struct socket", socket, f"it belongs to the struct file at {back:#x}")
    return None if sk else Lost("struct socket", socket, "it has no struct sock")


class FamilyNamesByOps(dict[tuple[int, int], str]):
    """
    The names of the families that sockets look like, by the (operations, type) of their
    ``struct socket``. SCTP, for example, looks like TCP.

    A name is one of :data:`~drgn_sockets.records.families.FAMILY_NAMES`.
    """

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        #: Operations that cannot be read; their sockets get the name :data:`OTHER`.
        self.lost: list[Lost] = []

    def __missing__(self, key: tuple[int, int]) -> str:
        address, type_ = key
        ops = or_lost(_ProtoOps.layout(self._prog).read, address)
        if isinstance(ops, Lost):
            self.lost.append(ops)
        self[key] = name = OTHER if isinstance(ops, Lost) else family_name_like(ops.family, type_)
        return name
