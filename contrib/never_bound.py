# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Sockets that procfs cannot show: created, and never bound or connected.

    drgn -k contrib/never_bound.py

/proc/net/tcp and /proc/net/udp walk hash tables, and so do netstat and ss. A socket comes
into one when it gets a port: by bind(), connect(), listen(). A process that only ever calls
socket() can leak thousands that none of them counts; lsof says "protocol: TCPv6" of such an
fd and "can't identify protocol" once did. They can be reached from one side alone: from the
file descriptor. So walk all descriptors, and keep the inet sockets that are in no table.
"""

from __future__ import annotations

from socket import AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE

from drgn import FaultError, cast
from drgn.helpers.linux.pid import for_each_task

from drgn_sockets import for_each_fd, sock_from_file, sock_i_ino

PROTOCOLS = {IPPROTO_TCP: "tcp", IPPROTO_UDP: "udp", IPPROTO_UDPLITE: "udplite"}

print("PID     FD   PROTO   FAMILY INODE      STRUCT SOCK        COMMAND")
for task in for_each_task():
    # Threads share their leader's table, mostly; one with its own would be another line here.
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
            # skc_node is its link in the table; pprev is NULL as long as it is in none. A TCP
            # socket that is bound and no more is in none either, but has a port (skc_num); one
            # that was reset has given it back, and inet_sport tells what it was.
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
