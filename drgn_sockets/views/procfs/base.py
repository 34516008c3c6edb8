# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kinds of files in ``/proc/net`` have in common."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable, ClassVar, TypeVar

from drgn import Object, Program

from drgn_sockets.kernel.chains import HashTable
from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.memory import byte_order, pointer_size
from drgn_sockets.kernel.sock import NumaDropCounters, Sock, has_sock_i_uid, walk_hashed
from drgn_sockets.kernel.structs import Batch
from drgn_sockets.kernel.timekeeping import clock
from drgn_sockets.kernel.vsprintf import default_pointer, restricted_pointer
from drgn_sockets.named_tuple import NamedTuple
from drgn_sockets.records.losses import Losses
from drgn_sockets.records.reader import SocketReader

T = TypeVar("T")

# Sockets that are read together.
_PIECE = 2048


class Entry(NamedTuple):
    """A socket in a hash table."""

    bucket: int
    #: ``struct sock *``
    sk: int
    family: int
    #: ``TCP_*``
    state: int


class Looker:
    """
    Looks at sockets of one program as the kernel does when a file of ``/proc/net`` is read.

    Each table is walked once, whichever files and network namespaces are asked for: all that one
    says is of the same moment.

    :param real_pointers: Print the addresses themselves, also where ``kptr_restrict`` has the
        kernel hash or hide them.
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
        self._kept: dict[str, Any] = {}
        self._addresses: dict[bytes, str] = {}

    @property
    def pointer(self) -> Callable[[int], str]:
        """How a pointer is printed."""
        if self._pointer is None:
            if self._real_pointers:
                width = 2 * pointer_size(self.prog)
                self._pointer = lambda pointer: f"{pointer:0{width}x}"
            else:
                self._pointer = restricted_pointer(self.prog)
        return self._pointer

    def read_pointer_key(self) -> None:
        """Read what pointers are hashed with, for whoever sets ``kptr_restrict`` otherwise."""
        default_pointer(self.prog)

    def entries(self, table: HashTable, net: int, *families: int) -> list[Entry]:
        """
        The sockets of a network namespace in a hash table, in the order of the table.

        :param net: ``struct net *``
        :param families: Those that the table may have.
        """
        walked = self._walked.get(table)
        if walked is None:
            walked = self._walked[table] = self._walk(table, families)
        return walked.get(net, [])

    def _walk(self, table: HashTable, families: Sequence[int]) -> dict[int, list[Entry]]:
        found: dict[int, list[Entry]] = {}
        if not table.address:
            return found
        for bucket, sk, common in walk_hashed(self.prog, table, *families):
            if common is None:
                self.unreadable(sk)
            else:
                entry = Entry(bucket, sk, common.family, common.state)
                found.setdefault(common.net, []).append(entry)
        for entries in found.values():
            # They come level by level, and those of a bucket in the order of its chain.
            entries.sort(key=lambda entry: entry.bucket)
        return found

    def once(self, what: str, read: Callable[[], T]) -> T:
        """What *read* gives, read when it is first asked for."""
        if what not in self._kept:
            self._kept[what] = read()
        return self._kept[what]  # type: ignore[no-any-return]

    def unreadable(self, sk: int) -> None:
        """A socket cannot be read."""
        self.losses.lose(Lost("struct sock", sk))

    def inodes(self, socks: Batch[Any]) -> tuple[list[int], list[int]]:
        """Inodes of full sockets, and owners as ``/proc/net`` has them."""
        inodes = self.reader.inodes_of(socks.addresses, socks.column("socket"), {})
        inos = [inodes[sk].ino if sk in inodes else 0 for sk in socks.addresses]
        if not has_sock_i_uid(self.prog):
            return inos, list(socks.column("uid"))
        # The owner of the inode; a socket without one is root's.
        return inos, [inodes[sk].uid if sk in inodes else 0 for sk in socks.addresses]

    def uids(self, sks: Iterable[int]) -> dict[int, int]:
        """Owners of full sockets as ``/proc/net`` has them, by ``struct sock *``."""
        socks = Sock.layout(self.prog).read_batch(sks)
        return dict(zip(socks.addresses, self.inodes(socks)[1]))

    def drops(self, socks: Batch[Any]) -> list[int]:
        """How much full sockets dropped."""
        counters = [pointer or 0 for pointer in socks.column("drop_counters")]
        drops = list(socks.column("drops"))
        if any(counters):
            batch = NumaDropCounters.layout(self.prog).read_batch(filter(None, counters))
            sums = map(sum, zip(batch.column("drops0"), batch.column("drops1")))
            by_address = dict(zip(batch.addresses, sums))
            drops = [by_address.get(counter, own) for counter, own in zip(counters, drops)]
        return [count & 0xFFFFFFFF for count in drops]

    def address(self, raw: bytes) -> str:
        """An IP address, each 32-bit word as the processor reads it."""
        text = self._addresses.get(raw)
        if text is None:
            words = struct.unpack(f"{self._order}{len(raw) // 4}I", raw)
            text = self._addresses[raw] = "".join(f"{word:08X}" for word in words)
        return text

    def clock_t(self, jiffies: int) -> int:
        """``jiffies_to_clock_t()``"""
        return self.clock.to_clock_t(jiffies)

    def until(self, expires: Iterable[int]) -> list[int]:
        """``jiffies_delta_to_clock_t()`` of what is left until each of these moments."""
        now, to_clock_t = self.clock.jiffies, self.clock.to_clock_t
        half, whole = 1 << 63, 1 << 64
        return [to_clock_t((moment - now + half) % whole - half) for moment in expires]

    def net_object(self, net: int) -> Object:
        """A ``struct net *``."""
        return Object(self.prog, "struct net *", net)


class NetFile:
    """
    A file of ``/proc/net``.

    To add one is to derive a class from this, and to list it in :data:`procfs.FILES`.
    """

    #: What a row has, in its order, by the names in the file's heading.
    columns: ClassVar[tuple[str, ...]] = ()
    #: Columns that tell which row it is.
    key: ClassVar[tuple[str, ...]] = ()
    #: The one that has the kernel address, which tells that better where it is shown.
    pointer: ClassVar[str] = ""

    def __init__(self, name: str) -> None:
        #: What it is called in ``/proc/net``.
        self.name = name

    def lines(self, at: Looker, net: int) -> Iterator[bytes]:
        """
        What the kernel would print: the heading if it has one, and then a row at a time.

        A row ends with a newline, and may have others in it (unix sockets' names).

        :param net: ``struct net *`` of a network namespace.
        :raises FaultError: if what all rows hang on cannot be read
        """
        raise NotImplementedError


def texts_of(sks: Iterable[int], read: Callable[[Sequence[int]], Mapping[int, T]]) -> dict[int, T]:
    """
    What is written of each socket, by its address.

    They are read in the order of addresses, and not in that of the file: that would inflate each
    page of a compressed core time after time.

    :param read: Reads some of them; those that cannot be read are not in what it returns.
    """
    texts: dict[int, T] = {}
    in_order = sorted(sks)
    for i in range(0, len(in_order), _PIECE):
        texts.update(read(in_order[i : i + _PIECE]))
    return texts
