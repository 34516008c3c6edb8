# SPDX-License-Identifier: LGPL-2.1-or-later
"""``/proc/net/{udp,udp6,udplite,udplite6,raw,raw6,icmp,icmp6}``."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from drgn_sockets.kernel.chains import HashTable
from drgn_sockets.kernel.sock import (
    AF_INET,
    AF_INET6,
    ping_table,
    raw_table,
    udp_table,
    udplite_table,
)
from drgn_sockets.kernel.structs import StructBatch
from drgn_sockets.records.families.inet import InetSock
from drgn_sockets.records.families.udp import UdpSock
from drgn_sockets.views.procfs.base import Entry, Looker, NetFile, texts_of

HEADING = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout "
    "inode"
)
HEADING6 = (
    "  sl  local_address                         remote_address                        st "
    "tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
)
INET = (AF_INET, AF_INET6)


def ends(at: Looker, socks: StructBatch[Any], *, six: bool) -> tuple[list[str], list[str]]:
    """Get the local and the remote addresses of the sockets."""
    local, remote = ("v6_rcv_saddr", "v6_daddr") if six else ("rcv_saddr", "daddr")
    address = at.address
    return [address(a) for a in socks.column(local)], [address(a) for a in socks.column(remote)]


class InetFile(NetFile):
    """A file of sockets in a hash table, other than those of TCP."""

    columns = (
        *("local_address", "rem_address", "st", "tx_queue", "rx_queue", "tr", "when", "retrnsmt"),
        *("uid", "timeout", "inode", "ref", "pointer", "drops"),
    )
    key = ("local_address", "rem_address", "inode")
    pointer = "pointer"

    #: Structure of its sockets.
    struct: ClassVar[type[InetSock]] = InetSock
    #: In the file of IPv4: digits of the number of the bucket, and width that rows are padded to.
    digits: ClassVar[int] = 5
    width: ClassVar[int] = 0
    heading: ClassVar[str] = HEADING

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.six = name.endswith("6")
        self.family = AF_INET6 if self.six else AF_INET

    def table(self, at: Looker, net: int) -> HashTable:
        """
        Get the hash table of its sockets.

        :raises LookupError: if this kernel has no such table
        """
        raise NotImplementedError

    def chosen(self, entries: Iterable[Entry]) -> Iterable[Entry]:
        """Choose the sockets that the file shows, of the sockets of one network namespace."""
        return (entry for entry in entries if entry.family == self.family)

    def receive_queue(self, socks: StructBatch[Any]) -> Sequence[int]:
        """The column ``rx_queue``, in bytes."""
        return socks.column("rmem_alloc")

    def ports(self, socks: StructBatch[Any]) -> tuple[Sequence[int], Sequence[int]]:
        """The numbers that the file shows as local and remote ports."""
        return socks.column("sport"), socks.column("dport")

    def lines(self, at: Looker, net: int) -> Iterator[bytes]:
        heading = (HEADING6 if self.six else self.heading) + " ref pointer drops"
        digits, width = (5, 0) if self.six else (self.digits, self.width)
        # Python before 3.10 pads no text to a width of 0 in an f-string.
        yield f"{heading.ljust(width)}\n".encode("ascii")
        try:
            table = self.table(at, net)
        except LookupError:
            return
        entries = list(self.chosen(at.entries(table, net, *INET)))
        texts = texts_of((entry.sk for entry in entries), functools.partial(self._texts, at))
        for entry in entries:
            text = texts.get(entry.sk)
            if text is None:
                at.unreadable(entry.sk)
            else:
                row = f"{entry.bucket:{digits}}: {text}"
                yield f"{row.ljust(width)}\n".encode("ascii")

    def _texts(self, at: Looker, sks: Sequence[int]) -> dict[int, str]:
        socks = self.struct.layout(at.prog).read_batch(sks)
        inos, uids = at.inodes(socks)
        columns = zip(
            *ends(at, socks, six=self.six),
            *self.ports(socks),
            *map(socks.column, ("state", "wmem_alloc")),
            self.receive_queue(socks),
            *(uids, inos, socks.column("refcnt")),
            map(at.pointer, socks.addresses),
            at.drops(socks),
        )
        texts = (
            f"{source}:{sport:04X} {to}:{dport:04X} {state:02X} "
            f"{wmem - 1 & 0xFFFFFFFF:08X}:{queued & 0xFFFFFFFF:08X} 00:00000000 00000000 "
            f"{uid:>5} {0:8} {ino} {ref} {sk} {drops}"
            for source, to, sport, dport, state, wmem, queued, uid, ino, ref, sk, drops in columns
        )
        return dict(zip(socks.addresses, texts))


class UdpFile(InetFile):
    """``udp4_seq_show()``, ``udp6_seq_show()``"""

    struct = UdpSock
    width = 127
    heading = " " + HEADING

    def table(self, at: Looker, net: int) -> HashTable:
        return udp_table(at.net_object(net))

    def receive_queue(self, socks: StructBatch[Any]) -> Sequence[int]:
        # udp_rqueue_get()
        return list(map(operator.sub, socks.column("rmem_alloc"), socks.column("forward_deficit")))


class UdpliteFile(UdpFile):
    """``udp4_seq_show()``, ``udp6_seq_show()`` for UDP-Lite"""

    def table(self, at: Looker, net: int) -> HashTable:
        return udplite_table(at.prog)


class RawFile(InetFile):
    """``raw_seq_show()``, ``raw6_seq_show()``"""

    digits = 4

    def table(self, at: Looker, net: int) -> HashTable:
        return raw_table(at.prog, "raw_v6_hashinfo" if self.six else "raw_v4_hashinfo")

    def ports(self, socks: StructBatch[Any]) -> tuple[Sequence[int], Sequence[int]]:
        return socks.column("num"), [0] * len(socks)


class IcmpFile(InetFile):
    """``ping_v4_seq_show()``, ``ping_v6_seq_show()``"""

    width = 127

    def table(self, at: Looker, net: int) -> HashTable:
        return ping_table(at.prog)

    def chosen(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        # ping_get_next() does not look at the family: after a socket of the right family, the file
        # shows all that follow in the bucket.
        bucket = -1
        for entry in entries:
            if entry.family == self.family or entry.bucket == bucket:
                bucket = entry.bucket
                yield entry
