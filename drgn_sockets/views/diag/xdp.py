# SPDX-License-Identifier: LGPL-2.1-or-later
"""``xdp_diag``: XDP sockets."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from drgn_sockets.kernel.sock import AF_XDP
from drgn_sockets.records.families.xdp import XdpRecord
from drgn_sockets.views.diag.base import Attribute, Diag, DiagKind, asked_for, meminfo, uid
from drgn_sockets.views.diag.forms import Value

#: include/uapi/linux/xdp_diag.h
TYPES = {
    "struct xdp_diag_msg": """
u8 xdiag_family
u8 xdiag_type
u16 pad
u32 xdiag_ino
bytes[8] xdiag_cookie
""",
    "struct xdp_diag_info": """
u32 ifindex
u32 queue_id
""",
    "struct xdp_diag_ring": """
u32 entries
""",
    "struct xdp_diag_umem": """
u64 size
u32 id
u32 num_pages
u32 chunk_size
u32 headroom
u32 ifindex
u32 queue_id
u32 flags
u32 refs
""",
    "struct xdp_diag_stats": """
u64 n_rx_dropped
u64 n_rx_invalid
u64 n_rx_full
u64 n_fill_ring_empty
u64 n_tx_invalid
u64 n_tx_ring_empty
""",
}
_XDP_DU_F_ZEROCOPY = 1
# enum in struct xdp_sock
_XSK_UNBOUND = 2


def fill(diag: Diag, record: XdpRecord) -> dict[str, Value]:
    """``xsk_diag_fill()``"""
    return {
        "xdiag_family": record.family,
        "xdiag_type": record.type,
        "xdiag_ino": record.ino,
        "xdiag_cookie": diag.cookie(record.sock),
    }


def info(diag: Diag, record: XdpRecord) -> bytes | None:
    device = record.device
    ifindex = device[0] if device is not None else 0
    form = diag.structure("struct xdp_diag_info")
    return form.pack({"ifindex": ifindex, "queue_id": record.sock.queue_id})


def _ring(name: str) -> Callable[[Diag, XdpRecord], bytes | None]:
    def ring(diag: Diag, record: XdpRecord) -> bytes | None:
        if name in ("fr", "cr") and not record.sock.umem:
            return None
        entries = record.rings().get(name)
        if entries is None:
            return None
        return diag.structure("struct xdp_diag_ring").pack({"entries": entries})

    return ring


def umem(diag: Diag, record: XdpRecord) -> bytes | None:
    told = record.umem()
    if told is None:
        return None
    values: dict[str, Value] = told._asdict()
    values["flags"] = _XDP_DU_F_ZEROCOPY if told.zero_copy else 0
    return diag.structure("struct xdp_diag_umem").pack(values)


def stats(diag: Diag, record: XdpRecord) -> bytes | None:
    told = record.stats()._asdict()
    return diag.structure("struct xdp_diag_stats").pack({f"n_{n}": v for n, v in told.items()})


#: In the order of ``xsk_diag_fill()``.
ATTRIBUTES = (
    Attribute(1, "XDP_DIAG_INFO", info, "struct xdp_diag_info"),
    Attribute(2, "XDP_DIAG_UID", uid, "u32"),
    Attribute(3, "XDP_DIAG_RX_RING", _ring("rx"), "struct xdp_diag_ring"),
    Attribute(4, "XDP_DIAG_TX_RING", _ring("tx"), "struct xdp_diag_ring"),
    Attribute(5, "XDP_DIAG_UMEM", umem, "struct xdp_diag_umem"),
    Attribute(6, "XDP_DIAG_UMEM_FILL_RING", _ring("fr"), "struct xdp_diag_ring"),
    Attribute(7, "XDP_DIAG_UMEM_COMPLETION_RING", _ring("cr"), "struct xdp_diag_ring"),
    Attribute(8, "XDP_DIAG_MEMINFO", meminfo, "SK_MEMINFO"),
    Attribute(9, "XDP_DIAG_STATS", stats, "struct xdp_diag_stats"),
)


def label(header: Mapping[str, Value]) -> str:
    """The inode: nothing else in the header identifies the socket."""
    return f"inode {header['xdiag_ino']!r}"


def _dumped(diag: Diag, record: XdpRecord) -> bool:
    return bool(record.sock.xdp_state != _XSK_UNBOUND)


KIND = DiagKind(
    families=frozenset({AF_XDP}),
    protocols={0: "xdp"},
    header="struct xdp_diag_msg",
    attributes=ATTRIBUTES,
    protocol_of=asked_for(XdpRecord),
    fill=fill,
    label=label,
    dumped=_dumped,
    types=TYPES,
)
