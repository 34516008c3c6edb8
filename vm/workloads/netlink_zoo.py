# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Netlink sockets: groups (also beyond the 32nd), flags, messages unread, lost, and half a dump.

Messages are sent over NETLINK_USERSOCK, which only this workload uses, so that queues do not
change by themselves.
"""

from __future__ import annotations

import contextlib
import socket
import struct

from .process import Process

NETLINK = socket.AF_NETLINK
RAW, DGRAM = socket.SOCK_RAW, socket.SOCK_DGRAM
ROUTE, USERSOCK, GENERIC = 0, 2, 16
SOL_NETLINK, ADD_MEMBERSHIP = 270, 1
FLAGS = {
    "NETLINK_PKTINFO": 3,
    "NETLINK_BROADCAST_ERROR": 4,
    "NETLINK_NO_ENOBUFS": 5,
    "NETLINK_LISTEN_ALL_NSID": 8,
    "NETLINK_CAP_ACK": 10,
    "NETLINK_EXT_ACK": 11,
    "NETLINK_GET_STRICT_CHK": 12,
}
#: NETLINK_XFRM, _SELINUX, _ISCSI, _FIB_LOOKUP, _CONNECTOR, _KOBJECT_UEVENT, _SCSITRANSPORT,
#: _RDMA, _CRYPTO
PROTOCOLS = (6, 7, 8, 10, 11, 15, 18, 20, 21)
#: Port ids of our choice. Those that the kernel chooses are negative, or a pid.
FIRST_ID = 0x44540000
RTM_GETLINK, NLM_F_REQUEST, NLM_F_DUMP = 18, 1, 0x300


def _new(
    me: Process,
    protocol: int = ROUTE,
    kind: int = RAW,
    port: int = 0,
    groups: int = 0,
    note: str = "",
) -> socket.socket:
    sock = me.hold(socket.socket(NETLINK, kind, protocol), note=note)
    sock.bind((port, groups))
    return sock


def _groups(me: Process) -> None:
    # RTNLGRP_LINK, NEIGH, NSID, MCTP_IFADDR: no such events occur here.
    _new(me, groups=0x80000001, note="groups 1 and 32")
    far = _new(me, note="groups 3, 28 and 33")
    for group in (3, 28, 33):
        far.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, group)
    me.note(far, options={"groups": [3, 28, 33]})
    many = _new(me, GENERIC, note="a group of generic netlink")
    # "notify" of the controller.
    many.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, 0x10)
    unbound = me.hold(socket.socket(NETLINK, RAW, ROUTE), note="groups, and bound by that")
    unbound.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, 2)


def _flags(me: Process) -> None:
    everything = _new(me, note="all flags")
    for name, option in FLAGS.items():
        sock = _new(me, note=name)
        try:
            for each in (sock, everything):
                each.setsockopt(SOL_NETLINK, option, 1)
            me.note(sock, options={name: 1})
        except OSError as error:
            me.skip(name, error)


def _shout(sock: socket.socket, message: bytes, groups: int) -> None:
    # The kernel (port 0) refuses the message, but the groups get it.
    with contextlib.suppress(ConnectionRefusedError):
        sock.sendto(message, (0, groups))


def _messages(me: Process) -> None:
    def message(size: int) -> bytes:
        return struct.pack("=IHHII", 16 + size, 16, 0, 1, 0) + bytes(size)

    to = FIRST_ID + 1
    unread = _new(me, USERSOCK, port=to, note="two messages unread")
    sender = _new(me, USERSOCK, DGRAM, port=to + 1, note="sends to one")
    sender.connect((to, 0))
    for size in (100, 1000):
        sender.send(message(size))
    me.note(unread, datagrams=[116, 1016])
    heard = [_new(me, USERSOCK, groups=0x10, note="a message to its group unread") for _ in (1, 2)]
    caller = _new(me, USERSOCK, port=to + 2, note="sends to a group")
    caller.connect((0, 0x10))
    _shout(caller, message(40), 0x10)
    for sock in heard:
        me.note(sock, datagrams=[56])
    deaf = _new(me, USERSOCK, groups=0x20, note="lost messages: its queue was full")
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    shout = _new(me, USERSOCK, port=to + 3, note="sends to a full queue")
    for _ in range(20):
        _shout(shout, message(1000), 0x20)
    half = _new(me, note="asked for a dump, and read none of it")
    body = struct.pack("=IHHII", 32, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + bytes(16)
    half.send(body)


def _protocols(me: Process) -> None:
    for protocol in PROTOCOLS:
        me.attempt(f"netlink protocol {protocol}", lambda p=protocol: _new(me, p))  # type: ignore[misc]


def run(me: Process) -> None:
    _groups(me)
    _flags(me)
    _messages(me)
    _protocols(me)
