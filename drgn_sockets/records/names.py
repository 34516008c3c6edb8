# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Names of address families, socket types and states, as ss and the kernel have them, and of devices.
"""

from __future__ import annotations

import functools

from drgn_sockets.kernel.file import major, minor

# include/linux/socket.h
# fmt: off
_FAMILIES = (
    "UNSPEC", "UNIX", "INET", "AX25", "IPX", "APPLETALK", "NETROM", "BRIDGE", "ATMPVC", "X25",
    "INET6", "ROSE", "DECnet", "NETBEUI", "SECURITY", "KEY", "NETLINK", "PACKET", "ASH",
    "ECONET", "ATMSVC", "RDS", "SNA", "IRDA", "PPPOX", "WANPIPE", "LLC", "IB", "MPLS", "CAN",
    "TIPC", "BLUETOOTH", "IUCV", "RXRPC", "ISDN", "PHONET", "IEEE802154", "CAIF", "ALG",
    "NFC", "VSOCK", "KCM", "QIPCRTR", "SMC", "XDP", "MCTP",
)
# fmt: on

_TYPES = {1: "STREAM", 2: "DGRAM", 3: "RAW", 4: "RDM", 5: "SEQPACKET", 6: "DCCP", 10: "PACKET"}

_SOCK_DCCP = 6

_SHORT_TYPES = {1: "str", 2: "dgr", 3: "raw", 4: "rdm", 5: "seq", 6: "dccp", 10: "pkt"}

#: TCP_* states (include/net/tcp_states.h) by number, as ss writes them. TCP_BOUND_INACTIVE (13) is
#: left out: no sock has it, and in a DCCP sock 13 or 14 is DCCP_PARTOPEN.
STATES = {
    1: "ESTAB",
    2: "SYN-SENT",
    3: "SYN-RECV",
    4: "FIN-WAIT-1",
    5: "FIN-WAIT-2",
    6: "TIME-WAIT",
    7: "UNCONN",
    8: "CLOSE-WAIT",
    9: "LAST-ACK",
    10: "LISTEN",
    11: "CLOSING",
    12: "SYN-RECV",
}

#: Numbers of the states, by all names that ss and the kernel have for them.
STATE_NUMBERS = {
    "established": 1,
    "estab": 1,
    "syn-sent": 2,
    "syn-recv": 3,
    "syn-rcv": 3,
    "fin-wait-1": 4,
    "fin-wait1": 4,
    "fin-wait-2": 5,
    "fin-wait2": 5,
    "time-wait": 6,
    "unconnected": 7,
    "unconn": 7,
    "close": 7,
    "closed": 7,
    "close-wait": 8,
    "last-ack": 9,
    "listening": 10,
    "listen": 10,
    "closing": 11,
    "bound-inactive": 13,
}

_ALL = frozenset({*range(1, 12), 13})
#: Names for several states at once, as ss has them.
STATE_GROUPS = {
    "all": _ALL,
    "connected": _ALL - {7, 10, 13},
    "synchronized": _ALL - {7, 10, 13, 2},
    "bucket": frozenset({3, 6}),
    "big": _ALL - {3, 6},
}


def address_family_name(family: int) -> str:
    """Name of an address family: ``AF_INET``."""
    return f"AF_{_FAMILIES[family]}" if family < len(_FAMILIES) else str(family)


def type_name(type_: int) -> str:
    """Name of a socket type: ``SOCK_STREAM``."""
    return f"SOCK_{_TYPES[type_]}" if type_ in _TYPES else str(type_)


def lsof_type_name(type_: int) -> str:
    """Name of a socket type as lsof writes it: ``STREAM``."""
    return _TYPES[type_] if type_ in _TYPES and type_ != _SOCK_DCCP else str(type_)


def short_type_name(type_: int) -> str:
    """Short name of a socket type, the end of what ss writes as Netid: ``str`` in ``u_str``."""
    return _SHORT_TYPES.get(type_, str(type_))


@functools.lru_cache(1024)
def netid(family: int, type_: int) -> str:
    """Text of the column Netid for sockets that ss does not show: ``alg_seq``."""
    name = _FAMILIES[family].lower() if family < len(_FAMILIES) else f"af{family}"
    return f"{name}_{short_type_name(type_)}"


def state_name(record_state: int) -> str:
    """Name of a state as ss writes it: ``ESTAB``."""
    return STATES.get(record_state, str(record_state))


def device_text(dev: int | None) -> str | None:
    """Text of the kernel's ``dev_t``: ``8:1``."""
    return None if dev is None else f"{major(dev)}:{minor(dev)}"
