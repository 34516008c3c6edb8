# SPDX-License-Identifier: LGPL-2.1-or-later
"""``/proc/net/netlink``."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

from drgn_sockets.kernel.lost import Lost, or_lost, sift
from drgn_sockets.kernel.netlink import for_each_netlink_of, netlink_tables
from drgn_sockets.records.families.netlink import NetlinkSock, first_groups
from drgn_sockets.views.procfs.base import Looker, NetFile, texts_of


class NetlinkFile(NetFile):
    """``netlink_native_seq_show()``"""

    columns = (*("sk", "Eth", "Pid", "Groups", "Rmem", "Wmem", "Dump", "Locks", "Drops", "Inode"),)
    key = ("Eth", "Pid", "Inode")
    pointer = "sk"

    def lines(self, at: Looker, net: int) -> Iterator[bytes]:
        # The heading is the same for pointers of 32 bits.
        yield (
            b"sk               Eth Pid        Groups   "
            b"Rmem     Wmem     Dump  Locks    Drops    Inode\n"
        )
        walked = at.once(self.name, lambda: _by_net(at))
        sks = walked.get(net, [])
        rows = texts_of(sks, functools.partial(_rows, at))
        for sk in sks:
            if sk in rows:
                yield rows[sk].encode("ascii")
            else:
                at.unreadable(sk)


def _rows(at: Looker, sks: Sequence[int]) -> dict[int, str]:
    socks = NetlinkSock.layout(at.prog).read_batch(sks)
    inos, _ = at.inodes(socks)
    columns = map(socks.column, ("refcnt", "rmem_alloc", "wmem_alloc"))
    rows = {}
    for sock, ino, drops, refcnt, rmem, wmem in zip(socks, inos, at.drops(socks), *columns):
        groups = or_lost(functools.partial(first_groups, at.prog), sock)
        if isinstance(groups, Lost):
            at.losses.lose(groups, f"netlink socket at {sock.address:#x}")
            groups = 0
        rows[sock.address] = (
            f"{at.pointer(sock.address)} {sock.protocol:<3} {sock.portid:<10} "
            f"{groups or 0:08x} {rmem:<8} {wmem - 1:<8} {sock.cb_running:<5} {refcnt:<8} "
            f"{drops:<8} {ino:<8}\n"
        )
    return rows


def _by_net(at: Looker) -> dict[int, list[int]]:
    """Sockets that have a port ID, by ``struct net *``, in the order of the file."""
    found: dict[int, list[int]] = {}
    for table in netlink_tables(at.prog):
        for entry in sift(for_each_netlink_of(at.prog, table), at.losses.lose):
            found.setdefault(entry.net, []).append(entry.address)
    return found
