# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The other end of a unix socket: its name, its inode, and who holds it.

    drgn -k contrib/unix_peer.py 0xffff93dbd1ee3c00

The client's end of a unix connection usually has no name, and procfs does not say which two
sockets belong together. The old way was to take the address from /proc/net/unix
(kptr_restrict=1) or lsof, and to ask gdb on /proc/kcore:

    (gdb) print ((struct unix_sock *)0xffff93dbd1ee3c00)->peer

This script reads the same pointer. The peer's member addr has its name, which a server's end
shares with its listener. Its member sk_socket leads to the inode, the N of "socket:[N]". The
processes that hold it are found by looking for the socket in every file table.
"""

from __future__ import annotations

import socket
import sys

from drgn import FaultError, Object, get_default_prog
from drgn.helpers.linux.net import for_each_net

from drgn_sockets import sock_holders, sock_i_ino, unix_peer, unix_sock_name


def show(end: str, sk: Object) -> None:
    name = unix_sock_name(sk)
    print(f"{end} {sk.value_():#x} inode {sock_i_ino(sk)} name {name!r}")
    for task, fd in sock_holders(sk):
        print(f"  held by {task.comm.string_()!r} pid {task.tgid.value_()} fd {fd}")


try:
    sk = Object(get_default_prog(), "struct sock *", int(sys.argv[1], 16))
    common = sk.__sk_common.read_()
    is_unix = common.skc_family == socket.AF_UNIX and common.skc_net.net in list(for_each_net())
except (IndexError, ValueError, OverflowError, FaultError):
    is_unix = False
if not is_unix:
    what = f"no unix socket at {sys.argv[1]}" if sys.argv[1:] else "no address given"
    print(f"{what}; usage: drgn -k contrib/unix_peer.py ADDRESS", file=sys.stderr)
    sys.exit(2)

show("self", sk)
peer = unix_peer(sk)
if peer:
    show("peer", peer)
else:
    print("peer none: it listens, or is not connected")
