# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Lists TCP sockets as drgn's contrib/tcp_sock.py does: with drgn's helpers and reference objects, a
member at a time. Five columns: state, both ends, window, round-trip time.
"""

from __future__ import annotations

import ipaddress
import socket
import struct

from drgn import Object, cast, get_default_prog
from drgn.helpers.common.type import enum_type_to_class
from drgn.helpers.linux.list_nulls import hlist_nulls_empty
from drgn.helpers.linux.net import sk_fullsock, sk_nulls_for_each
from drgn.helpers.linux.tcp import sk_tcpstate

prog = get_default_prog()

State = enum_type_to_class(prog.constant("TCP_ESTABLISHED").type_, "State", prefix="TCP_")


def end(family: int, v4: Object, v6: Object, port: int) -> str:
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address
    if family == socket.AF_INET6:
        ip = ipaddress.IPv6Address(bytes(v6.in6_u.u6_addr8.value_()))
    else:
        ip = ipaddress.IPv4Address(struct.pack("=I", v4.value_()))
    return f"{ip}:{port}"


def show(sk: Object) -> None:
    common = sk.__sk_common
    family = common.skc_family.value_()
    local = end(family, common.skc_rcv_saddr, common.skc_v6_rcv_saddr, common.skc_num.value_())
    port = socket.ntohs(common.skc_dport.value_())
    remote = end(family, common.skc_daddr, common.skc_v6_daddr, port)
    cwnd = rtt = 0
    if sk_fullsock(sk):
        tp = cast("struct tcp_sock *", sk)
        cwnd, rtt = tp.snd_cwnd.value_(), tp.srtt_us.value_() >> 3
    print(f"{State(sk_tcpstate(sk)).name:<12} {local:>40} {remote:>40} {cwnd} {rtt}")


hashinfo = prog["tcp_hashinfo"]
for i in range(hashinfo.ehash_mask + 1):
    head = hashinfo.ehash[i].chain
    if not hlist_nulls_empty(head):
        for sk in sk_nulls_for_each(head):
            show(sk)
