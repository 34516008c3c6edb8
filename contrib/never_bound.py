# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Sockets that procfs cannot show: created, and never bound or connected.

    drgn -k contrib/never_bound.py

/proc/net/tcp and /proc/net/udp walk hash tables; netstat and ss show what these tables have.
A socket is added to a table when it gets a port: by bind(), connect() or listen(). A process
that only calls socket() can leak thousands of sockets that none of these tools counts. lsof
says "protocol: TCPv6" of such an fd; old versions said "can't identify protocol". Only the
file descriptor leads to such a socket. So: walk all descriptors, and keep the inet sockets
that are in no table.
"""

from __future__ import annotations

from socket import AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE

from drgn import FaultError, cast
from drgn.helpers.linux.pid import for_each_task

from drgn_sockets import for_each_fd, sock_from_file, sock_i_ino

PROTOCOLS = {IPPROTO_TCP: "tcp", IPPROTO_UDP: "udp", IPPROTO_UDPLITE: "udplite"}

print("PID     FD   PROTO   FAMILY INODE      STRUCT SOCK        COMMAND")
for task in for_each_task():
    # Most threads share the file table of their leader. A thread with a table of its own is
    # left out here.
    if task.pid != task.tgid or not task.files:
        continue
    try:
        for fd, file in for_each_fd(task):
            socket = sock_from_file(file)
            if not socket or not socket.sk:
                continue
            sk = socket.sk.read_()
            common = sk.__sk_common.read_()
            protocol = PROTOCOLS.get(sk.sk_protocol.value_())
            if common.skc_family.value_() not in (AF_INET, AF_INET6) or protocol is None:
                continue
            # skc_node links the socket into a table; pprev is NULL while it is in none. A TCP
            # socket that is only bound is in none either, but has a port (skc_num). One that
            # was reset has given its port back; inet_sport still has the number.
            sport = cast("struct inet_sock *", socket.sk).inet_sport
            if common.skc_node.pprev or common.skc_num or sport:
                continue
            family = "inet6" if common.skc_family == AF_INET6 else "inet"
            print(
                f"{task.tgid.value_():<7} {fd:<4} {protocol:7} {family:6} {sock_i_ino(sk):<10} "
                f"{sk.value_():#x} {task.comm.string_()!r}"
            )
    except FaultError:
        # A live kernel: the process has ended while we looked.
        continue
