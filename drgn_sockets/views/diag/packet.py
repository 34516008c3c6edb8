# SPDX-License-Identifier: LGPL-2.1-or-later
"""``packet_diag``: packet sockets."""

from __future__ import annotations

from collections.abc import Mapping

from drgn import FaultError

from drgn_sockets.kernel.sk_filter import filter_bytes
from drgn_sockets.kernel.sock import AF_PACKET
from drgn_sockets.records.families.packet import DIAG_FLAGS, PacketRecord, PacketRing
from drgn_sockets.views.diag.base import Attribute, Diag, DiagKind, asked_for, meminfo, uid
from drgn_sockets.views.diag.forms import Value

#: include/uapi/linux/packet_diag.h
TYPES = {
    "struct packet_diag_msg": """
u8 pdiag_family
u8 pdiag_type
u16 pdiag_num
u32 pdiag_ino
bytes[8] pdiag_cookie
""",
    "struct packet_diag_info": """
u32 pdi_index
u32 pdi_version
u32 pdi_reserve
u32 pdi_copy_thresh
u32 pdi_tstamp
u32 pdi_flags
""",
    "struct packet_diag_mclist": """
u32 pdmc_index
u32 pdmc_count
u16 pdmc_type
u16 pdmc_alen
bytes[32] pdmc_addr
""",
    "struct packet_diag_ring": """
u32 pdr_block_size
u32 pdr_block_nr
u32 pdr_frame_size
u32 pdr_frame_nr
u32 pdr_retire_tmo
u32 pdr_sizeof_priv
u32 pdr_features
""",
}


def fill(diag: Diag, record: PacketRecord) -> dict[str, Value]:
    """``sk_diag_fill()``"""
    return {
        "pdiag_family": record.family,
        "pdiag_type": record.type,
        "pdiag_num": record.sock.ethertype,
        "pdiag_ino": record.ino,
        "pdiag_cookie": diag.cookie(record.sock),
    }


def info(diag: Diag, record: PacketRecord) -> bytes | None:
    sock, names = record.sock, record.flag_names
    return diag.structure("struct packet_diag_info").pack(
        {
            "pdi_index": sock.ifindex,
            "pdi_version": sock.tp_version,
            "pdi_reserve": sock.tp_reserve,
            "pdi_copy_thresh": sock.copy_thresh,
            "pdi_tstamp": sock.tp_tstamp,
            # PDI_*
            "pdi_flags": sum(1 << i for i, name in enumerate(DIAG_FLAGS) if name in names),
        }
    )


def mclist(diag: Diag, record: PacketRecord) -> bytes | None:
    form = diag.structure("struct packet_diag_mclist")
    return b"".join(
        form.pack(
            {
                "pdmc_index": item.ifindex,
                "pdmc_count": item.times,
                "pdmc_type": item.type,
                "pdmc_alen": item.alen,
                "pdmc_addr": item.address,
            }
        )
        for item in record.memberships
    )


def _ring(diag: Diag, ring: PacketRing | None) -> bytes | None:
    if ring is None:
        return None
    return diag.structure("struct packet_diag_ring").pack(
        {
            "pdr_block_size": ring.block_size,
            "pdr_block_nr": ring.block_nr,
            "pdr_frame_size": ring.frame_size,
            "pdr_frame_nr": ring.frame_nr,
            "pdr_retire_tmo": ring.retire_ms,
            "pdr_sizeof_priv": ring.sizeof_priv,
            "pdr_features": ring.features,
        }
    )


def rx_ring(diag: Diag, record: PacketRecord) -> bytes | None:
    return _ring(diag, record.rx_ring)


def tx_ring(diag: Diag, record: PacketRecord) -> bytes | None:
    return _ring(diag, record.tx_ring)


def fanout(diag: Diag, record: PacketRecord) -> bytes | None:
    if not record.sock.fanout_group:
        return None
    group = record.fanout
    if group is None:
        raise FaultError("the fanout group cannot be read", record.sock.fanout_group)
    return diag.u32(group.id | group.type << 16)


def socket_filter(diag: Diag, record: PacketRecord) -> bytes | None:
    return filter_bytes(diag.prog, record.sock.sk_filter)


#: In the order of ``sk_diag_fill()``.
ATTRIBUTES = (
    Attribute(0, "PACKET_DIAG_INFO", info, "struct packet_diag_info"),
    Attribute(5, "PACKET_DIAG_UID", uid, "u32"),
    Attribute(1, "PACKET_DIAG_MCLIST", mclist, "struct packet_diag_mclist[]"),
    Attribute(2, "PACKET_DIAG_RX_RING", rx_ring, "struct packet_diag_ring"),
    Attribute(3, "PACKET_DIAG_TX_RING", tx_ring, "struct packet_diag_ring"),
    Attribute(4, "PACKET_DIAG_FANOUT", fanout, "u32"),
    Attribute(6, "PACKET_DIAG_MEMINFO", meminfo, "SK_MEMINFO"),
    Attribute(7, "PACKET_DIAG_FILTER", socket_filter, "bytes"),
)


def label(header: Mapping[str, Value]) -> str:
    """Protocol and inode."""
    return f"protocol {header['pdiag_num']!r} inode {header['pdiag_ino']!r}"


KIND = DiagKind(
    families=frozenset({AF_PACKET}),
    protocols={0: "packet"},
    header="struct packet_diag_msg",
    attributes=ATTRIBUTES,
    protocol_of=asked_for(PacketRecord),
    fill=fill,
    label=label,
    types=TYPES,
)
