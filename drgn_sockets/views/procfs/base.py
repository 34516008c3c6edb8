# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kinds of files in ``/proc/net`` have in common."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable, ClassVar, NamedTuple, TypeVar

from drgn import FaultError, Object, Program

from drgn_sockets.kernel.chains import HashTable
from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.memory import pointer_size
from drgn_sockets.kernel.net import is_net
from drgn_sockets.kernel.procdir import proc_net_names
from drgn_sockets.kernel.sock import (
    SMALL_STATES,
    NumaDropCounters,
    Sock,
    has_sock_i_uid,
    missing_socks,
    walk_hashed,
)
from drgn_sockets.kernel.structs import StructBatch
from drgn_sockets.kernel.timekeeping import clock
from drgn_sockets.kernel.vsprintf import default_pointer, restricted_pointer
from drgn_sockets.program import byte_order
from drgn_sockets.records.holder import AnyInode
from drgn_sockets.records.losses import Losses
from drgn_sockets.records.reader import SocketReader
from drgn_sockets.text import LOST

T = TypeVar("T")

# How many sockets are read together.
_PIECE = 2048


class Entry(NamedTuple):
    """A socket in a hash table."""

    bucket: int
    #: ``struct sock *``
    sk: int
    family: int
    #: ``TCP_*``
    state: int


class _Unknown(NamedTuple):
    """An inode that cannot be read."""

    ino: str = LOST
    uid: str = LOST


class Looker:
    """
    Looks at sockets of one program as the kernel does when a file of ``/proc/net`` is read.

    Each hash table is walked once, for all files and network namespaces, so that all files say
    what was true at one moment.

    :param real_pointers: Print addresses as they are, also if ``kptr_restrict`` has the kernel
        hash or hide them.
    :param losses: Takes what cannot be read.
    """

    def __init__(
        self, prog: Program, *, real_pointers: bool = False, losses: Losses | None = None
    ) -> None:
        self.prog = prog
        self.losses = Losses() if losses is None else losses
        self.reader = SocketReader(prog, losses=self.losses)
        self.clock = clock(prog)
        self._order = byte_order(prog)
        self._real_pointers = real_pointers
        self._pointer: Callable[[int], str] | None = None
        self._walked: dict[HashTable, dict[int, list[Entry]]] = {}
        self._damaged: set[HashTable] = set()
        self._kept: dict[str, Any] = {}
        self._addresses: dict[bytes, str] = {}

    @property
    def pointer(self) -> Callable[[int], str]:
        """Prints a pointer."""
        if self._pointer is None:
            if self._real_pointers:
                width = 2 * pointer_size(self.prog)
                self._pointer = lambda pointer: f"{pointer:0{width}x}"
            else:
                self._pointer = restricted_pointer(self.prog)
        return self._pointer

    def read_pointer_key(self) -> None:
        """Read the key that pointers are hashed with, whatever ``kptr_restrict`` is."""
        default_pointer(self.prog)

    def entries(self, table: HashTable, net: int, *families: int, own: bool = False) -> list[Entry]:
        """
        Get the sockets of a network namespace in a hash table, in the order of the table.

        :param net: ``struct net *``
        :param families: Families whose sockets may be in the table.
        :param own: Whether the table has sockets of this network namespace only.
        """
        walked = self._table(table, families)
        if own:
            for other in walked.keys() - {net}:
                self._of_no_net(walked[other], other)
        return walked.get(net, [])

    def _table(self, table: HashTable, families: Sequence[int]) -> dict[int, list[Entry]]:
        walked = self._walked.get(table)
        if walked is None:
            walked = self._walked[table] = self._walk(table, families)
        return walked

    def _of_no_net(self, entries: Iterable[Entry], net: int) -> None:
        for entry in entries:
            why = "a socket is in a table of another network namespace, or of none"
            self.losses.lose(Lost("struct net", net, why), f"socket at {entry.sk:#x}")

    def count(
        self, tables: Iterable[HashTable | Lost], protos: Sequence[str], *families: int
    ) -> None:
        """
        Tell if the tables of all network namespaces have fewer sockets than the kernel counts.

        :param protos: As :func:`~drgn_sockets.kernel.sock.missing_socks` takes them
        """
        found = 0
        for table in dict.fromkeys(tables):
            if isinstance(table, Lost):
                self.losses.lose(table)
                return
            if table.address:
                entries = itertools.chain.from_iterable(self._table(table, families).values())
                found += sum(entry.state not in SMALL_STATES for entry in entries)
            if table in self._damaged:
                # That is told, and how many are missing is not known.
                return
        for lost in missing_socks(self.prog, protos, found):
            self.losses.lose(lost)

    def _walk(self, table: HashTable, families: Sequence[int]) -> dict[int, list[Entry]]:
        found: dict[int, list[Entry]] = {}
        if not table.address:
            return found
        for bucket, one in walk_hashed(self.prog, table, *families):
            if isinstance(one, Lost):
                self._damaged.add(table)
                self.losses.lose(one)
            else:
                entry = Entry(bucket, one.address, one.family, one.state)
                found.setdefault(one.net, []).append(entry)
        for net in found:
            if not is_net(self.prog, net):
                self._of_no_net(found[net], net)
        for entries in found.values():
            # The walk reads the first sockets of all chains, then the second ones, and so on.
            # The sort is stable: the sockets of a bucket stay in the order of its chain.
            entries.sort(key=lambda entry: entry.bucket)
        return found

    def once(self, what: str, read: Callable[[], T]) -> T:
        """Get what *read* returns; it is called once for each *what*."""
        if what not in self._kept:
            self._kept[what] = read()
        return self._kept[what]  # type: ignore[no-any-return]

    def unreadable(self, sk: int) -> None:
        """Tell that a socket cannot be read."""
        self.losses.lose(Lost("struct sock", sk))

    def inodes(self, socks: StructBatch[Any]) -> tuple[list[int | str], list[int | str]]:
        """
        Get the inodes of full sockets, and their owners as ``/proc/net`` has them. A ``?`` stands
        for what cannot be read.
        """
        inodes: dict[int, AnyInode | _Unknown] = {}
        found = self.reader.inodes_of(socks.addresses, socks.column("socket"), {})
        for sk, inode in found.items():
            if isinstance(inode, Lost):
                self.losses.lose(inode, f"socket at {sk:#x}")
                inodes[sk] = _Unknown()
            else:
                inodes[sk] = inode
        inos = [inodes[sk].ino if sk in inodes else 0 for sk in socks.addresses]
        if not has_sock_i_uid(self.prog):
            return inos, list(socks.column("uid"))
        # sock_i_uid(): the owner of the inode; root for a socket without an inode.
        return inos, [inodes[sk].uid if sk in inodes else 0 for sk in socks.addresses]

    def uids(self, sks: Iterable[int]) -> dict[int, int | str]:
        """Owners of full sockets as ``/proc/net`` has them, by ``struct sock *``."""
        socks = Sock.layout(self.prog).read_batch(sks)
        for lost in socks.lost:
            self.losses.lose(lost)
        return dict(zip(socks.addresses, self.inodes(socks)[1]))

    def drops(self, socks: StructBatch[Any]) -> list[int]:
        """How many packets each of the sockets dropped."""
        counters = [pointer or 0 for pointer in socks.column("drop_counters")]
        drops = list(socks.column("drops"))
        if any(counters):
            batch = NumaDropCounters.layout(self.prog).read_batch(filter(None, counters))
            sums = map(sum, zip(batch.column("drops0"), batch.column("drops1")))
            by_address = dict(zip(batch.addresses, sums))
            for lost in batch.lost:
                self.losses.lose(lost)
            drops = [by_address.get(counter, own) for counter, own in zip(counters, drops)]
        return [count & 0xFFFFFFFF for count in drops]

    def address(self, raw: bytes) -> str:
        """An IP address in hexadecimal: 32-bit words in the byte order of the processor."""
        text = self._addresses.get(raw)
        if text is None:
            words = struct.unpack(f"{self._order}{len(raw) // 4}I", raw)
            text = self._addresses[raw] = "".join(f"{word:08X}" for word in words)
        return text

    def clock_t(self, jiffies: int) -> int:
        """``jiffies_to_clock_t()``"""
        return self.clock.to_clock_t(jiffies)

    def until(self, expires: Iterable[int]) -> list[int]:
        """``jiffies_delta_to_clock_t()`` of the time until each of *expires*, in jiffies."""
        now, to_clock_t = self.clock.jiffies, self.clock.to_clock_t
        half, whole = 1 << 63, 1 << 64
        return [to_clock_t((moment - now + half) % whole - half) for moment in expires]

    def proc_net_names(self, net: int) -> set[bytes]:
        """Names in ``/proc/net`` of a network namespace; none where they cannot be read."""
        try:
            return proc_net_names(self.net_object(net))
        except FaultError as e:
            self.losses.lose(e, "names in /proc/net")
            return set()

    def net_object(self, net: int) -> Object:
        """A ``struct net *``."""
        return Object(self.prog, "struct net *", net)


class NetFile:
    """
    A file of ``/proc/net``.

    A new file is a class derived from this one, and a line in :data:`procfs.FILES`.
    """

    #: Names of the columns, as in the heading of the file.
    columns: ClassVar[tuple[str, ...]] = ()
    #: Columns that identify a row.
    key: ClassVar[tuple[str, ...]] = ()
    #: The column with the kernel address, which identifies a row better where it is not hidden.
    pointer: ClassVar[str] = ""

    def __init__(self, name: str) -> None:
        #: Name of the file in ``/proc/net``.
        self.name = name

    def lines(self, at: Looker, net: int) -> Iterator[bytes]:
        """
        Make what the kernel would print: the heading, if there is one, and then a row at a time.

        A row ends with a newline, and may have others in it (in the name of a unix socket).

        :param net: ``struct net *``
        :raises FaultError: if a structure that leads to all rows cannot be read
        """
        raise NotImplementedError


def texts_of(sks: Iterable[int], read: Callable[[Sequence[int]], Mapping[int, T]]) -> dict[int, T]:
    """
    Get the text of each socket, by its address.

    Sockets are read in the order of their addresses. In the order of the file, each page of a
    compressed core would be decompressed many times.

    :param read: Reads some sockets, and returns the texts of those that can be read.
    """
    texts: dict[int, T] = {}
    in_order = sorted(sks)
    for i in range(0, len(in_order), _PIECE):
        texts.update(read(in_order[i : i + _PIECE]))
    return texts
