# SPDX-License-Identifier: LGPL-2.1-or-later
"""``/proc/net/packet``."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

from drgn import Program

from drgn_sockets.kernel.memory import pointer_size
from drgn_sockets.kernel.sock import AF_PACKET, packet_list
from drgn_sockets.records.families.packet import PacketSock, packet_flags
from drgn_sockets.views.procfs.base import Looker, NetFile, texts_of


class PacketFile(NetFile):
    """``packet_seq_show()``"""

    columns = ("sk", "RefCnt", "Type", "Proto", "Iface", "R", "Rmem", "User", "Inode")
    key = ("Type", "Proto", "Iface", "Inode")
    pointer = "sk"

    def lines(self, at: Looker, net: int) -> Iterator[bytes]:
        width = 2 * pointer_size(at.prog) if _is_aligned(at.prog) else 8
        yield f"{'sk':{width}} RefCnt Type Proto  Iface R Rmem   User   Inode\n".encode("ascii")
        table = packet_list(at.net_object(net))
        sks = [entry.sk for entry in at.entries(table, net, AF_PACKET, own=True)]
        rows = texts_of(sks, functools.partial(_rows, at))
        for sk in sks:
            if sk in rows:
                yield rows[sk].encode("ascii")
            else:
                at.unreadable(sk)


def _rows(at: Looker, sks: Sequence[int]) -> dict[int, str]:
    socks = PacketSock.layout(at.prog).read_batch(sks)
    rows = {}
    for sock, ino, uid in zip(socks, *at.inodes(socks)):
        running = "running" in packet_flags(at.prog, sock)
        rows[sock.address] = (
            f"{at.pointer(sock.address)} {sock.refcnt:<6} {sock.type:<4} "
            f"{sock.ethertype:04x}   {sock.ifindex:<5} {running:1} "
            f"{sock.rmem_alloc & 0xFFFFFFFF:<6} {uid:<6} {ino:<6}\n"
        )
    return rows


def _is_aligned(prog: Program) -> bool:
    # Linux kernel commit abdcd06c4ded ("net: af_packet: fix procfs header for 64-bit pointers")
    # (in v5.11) changed no type. The same version brought commit 1446e1df9eb1 ("kernel: Implement
    # selective syscall userspace redirection"), and neither is in stable kernels before.
    return prog.type("struct task_struct").has_member("syscall_dispatch")  # type: ignore[no-any-return]
