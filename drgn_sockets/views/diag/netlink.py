# SPDX-License-Identifier: LGPL-2.1-or-later
"""``netlink_diag``: netlink sockets."""

from __future__ import annotations

from collections.abc import Mapping

from drgn import FaultError

from drgn_sockets.kernel.sock import AF_NETLINK
from drgn_sockets.records.families.netlink import NetlinkRecord, netlink_groups
from drgn_sockets.views.diag.base import Attribute, Diag, DiagKind, asked_for, meminfo
from drgn_sockets.views.diag.forms import Value

#: include/uapi/linux/netlink_diag.h
TYPES = {
    "struct netlink_diag_msg": """
u8 ndiag_family
u8 ndiag_type
u8 ndiag_protocol
u8 ndiag_state
u32 ndiag_portid
u32 ndiag_dst_portid
u32 ndiag_dst_group
u32 ndiag_ino
bytes[8] ndiag_cookie
""",
}
# NDIAG_PROTO_ALL
_ALL = 0xFF
_NETLINK_SOCK_DIAG = 4
# NDIAG_FLAG_* from the second bit on; other flags of a socket are not in the message.
_CB_RUNNING = 1
_FLAGS = (
    "recv_pktinfo",
    "broadcast_send_error",
    "recv_no_enobufs",
    "listen_all_nsid",
    "cap_ack",
)


def fill(diag: Diag, record: NetlinkRecord) -> dict[str, Value]:
    """``sk_diag_fill()``"""
    sock = record.sock
    return {
        "ndiag_family": record.family,
        "ndiag_type": record.type,
        "ndiag_protocol": record.protocol,
        "ndiag_state": sock.nl_state,
        "ndiag_portid": sock.portid,
        "ndiag_dst_portid": sock.dst_portid,
        "ndiag_dst_group": sock.dst_group,
        "ndiag_ino": record.ino,
        "ndiag_cookie": diag.cookie(sock),
    }


def groups(diag: Diag, record: NetlinkRecord) -> bytes | None:
    if not record.sock.group_bits:
        return None
    found = netlink_groups(diag.prog, record.sock)
    if found is None:
        raise FaultError("the groups cannot be read", record.sock.group_bits)
    return found


def ring(diag: Diag, record: NetlinkRecord) -> bytes | None:
    # Linux kernel commit d1b4c689d413 ("netlink: remove mmapped netlink support") (in v4.6)
    return None


def flags(diag: Diag, record: NetlinkRecord) -> bytes | None:
    names = record.flag_names
    bits = sum(2 << i for i, name in enumerate(_FLAGS) if name in names)
    return diag.u32(bits | (_CB_RUNNING if record.sock.cb_running else 0))


#: In the order of ``sk_diag_fill()``.
ATTRIBUTES = (
    Attribute(1, "NETLINK_DIAG_GROUPS", groups, "bytes"),
    Attribute(0, "NETLINK_DIAG_MEMINFO", meminfo, "SK_MEMINFO"),
    Attribute(2, "NETLINK_DIAG_RX_RING", ring, "bytes"),
    Attribute(3, "NETLINK_DIAG_TX_RING", ring, "bytes"),
    Attribute(4, "NETLINK_DIAG_FLAGS", flags, "u32"),
)


def label(header: Mapping[str, Value]) -> str:
    """Protocol, port ID and inode."""
    numbers = (header[f"ndiag_{name}"] for name in ("protocol", "portid", "ino"))
    return "protocol {} port ID {} inode {}".format(*numbers)


def _dumped(diag: Diag, record: NetlinkRecord) -> bool:
    # __netlink_diag_dump() skips a socket each time that a buffer is full. Afterwards it sends
    # the sockets that have joined a group, so only these are in every dump.
    return bool(record.sock.subscriptions)


def _is_busy(header: Mapping[str, Value]) -> bool:
    return header["ndiag_protocol"] == _NETLINK_SOCK_DIAG


KIND = DiagKind(
    families=frozenset({AF_NETLINK}),
    protocols={_ALL: "netlink"},
    header="struct netlink_diag_msg",
    attributes=ATTRIBUTES,
    protocol_of=asked_for(NetlinkRecord, _ALL),
    fill=fill,
    label=label,
    dumped=_dumped,
    types=TYPES,
    is_busy=_is_busy,
)
