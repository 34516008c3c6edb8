# SPDX-License-Identifier: LGPL-2.1-or-later
"""``/proc/net/unix``."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

from drgn import Program

from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.sock import AF_UNIX, TCP_ESTABLISHED, TCP_LISTEN, unix_table
from drgn_sockets.records.families.unix import UnixSock
from drgn_sockets.text import LOST
from drgn_sockets.views.procfs.base import Looker, NetFile, texts_of

_SO_ACCEPTCON = 1 << 16
# include/uapi/linux/net.h: socket_state
_SS_UNCONNECTED, _SS_CONNECTING, _SS_CONNECTED, _SS_DISCONNECTING = 1, 2, 3, 4


class UnixFile(NetFile):
    """``unix_seq_show()``"""

    columns = ("pointer", "RefCount", "Protocol", "Flags", "Type", "St", "Inode", "Path")
    key = ("Inode", "Type", "Path")
    pointer = "pointer"

    def lines(self, at: Looker, net: int) -> Iterator[bytes]:
        yield b"Num       RefCount Protocol Flags    Type St Inode Path\n"
        table = unix_table(at.net_object(net))
        entries = at.entries(table, net, AF_UNIX, own=_is_own(at.prog))
        texts = texts_of((entry.sk for entry in entries), functools.partial(_texts, at))
        for entry in entries:
            row = texts.get(entry.sk)
            if row is None:
                at.unreadable(entry.sk)
            else:
                yield row


def _is_own(prog: Program) -> bool:
    """Whether each network namespace has a table, see :func:`unix_table`."""
    return bool(prog.type("struct netns_unix").has_member("table"))


def _texts(at: Looker, sks: Sequence[int]) -> dict[int, bytes]:
    socks = UnixSock.layout(at.prog).read_batch(sks)
    inos, _ = at.inodes(socks)
    names = ("state", "socket", "type", "refcnt", "addr")
    texts = {}
    for sk, ino, state, socket, type_, refcnt, addr in zip(
        socks.addresses, inos, *map(socks.column, names)
    ):
        name = at.reader.unix_name(addr)
        if isinstance(name, Lost):
            at.losses.lose(name, f"unix socket at {sk:#x}")
            # The row stays, with "?" for the name, as in a table.
            name = LOST.encode()
        text = (
            f"{at.pointer(sk)}: {refcnt:08X} 00000000 "
            f"{_SO_ACCEPTCON if state == TCP_LISTEN else 0:08X} {type_:04X} "
            f"{_socket_state(state, socket):02X} {ino:>5}"
        )
        texts[sk] = text.encode("ascii") + unix_path(name) + b"\n"
    return texts


def _socket_state(state: int, socket: int) -> int:
    connected = state == TCP_ESTABLISHED
    if socket:
        return _SS_CONNECTED if connected else _SS_UNCONNECTED
    return _SS_CONNECTING if connected else _SS_DISCONNECTING


def unix_path(name: bytes | None) -> bytes:
    """The name of a unix socket as ``/proc/net/unix`` has it, with ``@`` for each NUL."""
    if name is None:
        return b""
    return b" " + (name.replace(b"\0", b"@") if name[:1] == b"\0" else name)
