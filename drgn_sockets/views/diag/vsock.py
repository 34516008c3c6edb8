# SPDX-License-Identifier: LGPL-2.1-or-later
"""``vsock_diag``: vsock sockets, whose messages have no attributes."""

from __future__ import annotations

from collections.abc import Mapping

from drgn import Program

from drgn_sockets.kernel.sock import AF_VSOCK
from drgn_sockets.records.families.vsock import VsockRecord
from drgn_sockets.views.diag.base import Diag, DiagKind, asked_for
from drgn_sockets.views.diag.forms import Value

#: include/uapi/linux/vm_sockets_diag.h
TYPES = {
    "struct vsock_diag_msg": """
u8 vdiag_family
u8 vdiag_type
u8 vdiag_state
u8 vdiag_shutdown
u32 vdiag_src_cid
u32 vdiag_src_port
u32 vdiag_dst_cid
u32 vdiag_dst_port
u32 vdiag_ino
bytes[8] vdiag_cookie
""",
}


def fill(diag: Diag, record: VsockRecord) -> dict[str, Value]:
    """``sk_diag_fill()``"""
    sock = record.sock
    return {
        "vdiag_family": record.family,
        "vdiag_type": record.type,
        "vdiag_state": record.state,
        "vdiag_shutdown": sock.shutdown,
        "vdiag_src_cid": sock.local_cid,
        "vdiag_src_port": sock.local_svm_port,
        "vdiag_dst_cid": sock.remote_cid,
        "vdiag_dst_port": sock.remote_svm_port,
        "vdiag_ino": record.ino,
        "vdiag_cookie": diag.cookie(sock),
    }


def label(header: Mapping[str, Value]) -> str:
    """Both ends."""
    ends = (f"{header[f'vdiag_{end}_cid']!r}:{header[f'vdiag_{end}_port']!r}" for end in _ENDS)
    return f"{' '.join(ends)} inode {header['vdiag_ino']!r}"


_ENDS = ("src", "dst")


def _is_known(prog: Program) -> bool:
    try:
        prog.type("struct vsock_sock")
    except LookupError:
        return False
    return True


KIND = DiagKind(
    families=frozenset({AF_VSOCK}),
    protocols={0: "vsock"},
    header="struct vsock_diag_msg",
    attributes=(),
    protocol_of=asked_for(VsockRecord),
    fill=fill,
    label=label,
    types=TYPES,
    is_known=_is_known,
)
