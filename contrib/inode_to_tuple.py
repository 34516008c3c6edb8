# SPDX-License-Identifier: LGPL-2.1-or-later
"""
From "socket:[21189]" to the connection: addresses, ports, state, and who holds it.

    drgn -k contrib/inode_to_tuple.py 21189

ls -l /proc/PID/fd says socket:[21189] and no more. The number is the inode of the struct
socket, which a process holds; the connection is the struct sock below the struct socket.
So: walk the hash table of TCP sockets, and compare the inode of each. Timewait and request
sockets are in the same table. They are smaller structures without an inode and without
sk_socket, and no process holds them: only their skc_* members may be read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from ipaddress import ip_address
from socket import AF_INET6, ntohs

from drgn import Object, get_default_prog
from drgn.helpers.linux.tcp import sk_tcpstate

from drgn_sockets import for_each_tcp_sock, for_each_udp_sock, sock_holders, sock_i_ino


def ends(sk: Object) -> Iterator[str]:
    """This end, and the other: address and port."""
    c = sk.__sk_common
    if c.skc_family == AF_INET6:
        addresses = [c.skc_v6_rcv_saddr, c.skc_v6_daddr]
    else:
        addresses = [c.skc_rcv_saddr, c.skc_daddr]
    # skc_num is kept as the CPU has it, skc_dport as the network has it.
    for address, port in zip(addresses, (c.skc_num.value_(), ntohs(c.skc_dport.value_()))):
        yield f"{ip_address(address.to_bytes_())}:{port}"


if not sys.argv[1:] or not sys.argv[1].isdecimal():
    print("no inode given; usage: drgn -k contrib/inode_to_tuple.py INODE", file=sys.stderr)
    sys.exit(2)
inode = int(sys.argv[1])
prog = get_default_prog()
small = {prog["TCP_TIME_WAIT"].value_(), prog["TCP_NEW_SYN_RECV"].value_()}

for protocol, sockets in (("tcp", for_each_tcp_sock()), ("udp", for_each_udp_sock())):
    for sk in sockets:
        if sk.__sk_common.skc_state.value_() in small:
            continue
        if sock_i_ino(sk) == inode != 0:
            local, remote = ends(sk)
            state = sk_tcpstate(sk).format_(type_name=False)
            print(f"{protocol} {local} -> {remote} {state} {sk.value_():#x}")
            for task, fd in sock_holders(sk):
                print(f"  held by {task.comm.string_()!r} pid {task.tgid.value_()} fd {fd}")
            sys.exit()
print(f"no TCP or UDP socket with a port has inode {inode}; see never_bound.py", file=sys.stderr)
sys.exit(2)
