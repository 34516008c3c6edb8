# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mptcp_diag``: MPTCP sockets. Their subflows have messages of their own, of TCP sockets."""

from __future__ import annotations

from drgn_sockets.kernel.sock import AF_INET, AF_INET6, IPPROTO_MPTCP, TCP_CLOSE
from drgn_sockets.records.families.mptcp import MptcpRecord
from drgn_sockets.records.families.tcp import congestion_algorithm
from drgn_sockets.views.diag import bpf, inet
from drgn_sockets.views.diag.base import Diag, DiagKind, asked_for
from drgn_sockets.views.diag.forms import Value

#: include/uapi/linux/mptcp.h: every kernel with MPTCP has it among its types.
_INFO = "struct mptcp_info"


def info(diag: Diag, record: MptcpRecord) -> bytes | None:
    """``mptcp_diag_fill_info()``"""
    told = record.info()._asdict()
    values: dict[str, Value] = {f"mptcpi_{n}": v for n, v in told.items() if v is not None}
    return diag.structure(_INFO).pack(values)


def cong(diag: Diag, record: MptcpRecord) -> bytes | None:
    # The socket itself mostly has no algorithm: it keeps the name for new subflows.
    name = congestion_algorithm(diag.prog, record.sock) if record.sock.ca_ops else None
    return None if name is None else name + b"\0"


def meminfo(diag: Diag, record: MptcpRecord) -> bytes | None:
    rmem, _, wmem, _, forward, queued, *_ = record.skmem() or (0,) * 9
    return diag.structure("struct inet_diag_meminfo").pack(
        {"idiag_rmem": rmem, "idiag_wmem": queued, "idiag_fmem": forward, "idiag_tmem": wmem}
    )


def bpf_storages(diag: Diag, record: MptcpRecord) -> bytes | None:
    return bpf.storages(diag, record.sock)


ATTRIBUTES = inet.attributes_with(
    {
        "INET_DIAG_MEMINFO": (meminfo, None),
        "INET_DIAG_INFO": (info, _INFO),
        "INET_DIAG_CONG": (cong, None),
        "INET_DIAG_SK_BPF_STORAGES": (bpf_storages, None),
    }
)


def _dumped(diag: Diag, record: MptcpRecord) -> bool:
    # The dump walks the table of tokens, and a closed socket has no token.
    return bool(record.state != TCP_CLOSE)


KIND = DiagKind(
    families=frozenset({AF_INET, AF_INET6}),
    protocols={IPPROTO_MPTCP: "mptcp"},
    header="struct inet_diag_msg",
    attributes=ATTRIBUTES,
    protocol_of=asked_for(MptcpRecord, IPPROTO_MPTCP),
    fill=inet.fill,
    label=inet.label,
    dumped=_dumped,
    types=inet.TYPES,
    padding=inet.PADDING,
)
