# SPDX-License-Identifier: LGPL-2.1-or-later
"""``unix_diag``: unix sockets."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from drgn import FaultError

from drgn_sockets.kernel.lost import raise_lost, there
from drgn_sockets.kernel.sock import AF_UNIX, TCP_LISTEN
from drgn_sockets.records.families.unix import UnixRecord, UnixSock, sun_path, unix_pending
from drgn_sockets.views.diag.base import Attribute, Diag, DiagKind, asked_for, meminfo, uid
from drgn_sockets.views.diag.forms import Value

#: include/uapi/linux/unix_diag.h
TYPES = {
    "struct unix_diag_msg": """
u8 udiag_family
u8 udiag_type
u8 udiag_state
u8 pad
u32 udiag_ino
bytes[8] udiag_cookie
""",
    "struct unix_diag_vfs": """
u32 udiag_vfs_ino
u32 udiag_vfs_dev
""",
    "struct unix_diag_rqlen": """
u32 udiag_rqueue
u32 udiag_wqueue
""",
}


def fill(diag: Diag, record: UnixRecord) -> dict[str, Value]:
    """``sk_diag_fill()``"""
    return {
        "udiag_family": record.family,
        "udiag_type": record.type,
        "udiag_state": record.state,
        "udiag_ino": record.ino,
        "udiag_cookie": diag.cookie(record.sock),
    }


def name(diag: Diag, record: UnixRecord) -> bytes | None:
    return sun_path(diag.prog, record.addr)


def vfs(diag: Diag, record: UnixRecord) -> bytes | None:
    if not record.sock.path_dentry:
        return None
    file = record.socket_file()
    if file is None:
        raise FaultError("the socket file cannot be read", record.sock.path_dentry)
    ino, dev = file
    form = diag.structure("struct unix_diag_vfs")
    return form.pack({"udiag_vfs_ino": ino, "udiag_vfs_dev": dev})


def peer(diag: Diag, record: UnixRecord) -> bytes | None:
    return diag.u32(record.peer_ino) if record.peer else None


def icons(diag: Diag, record: UnixRecord) -> bytes | None:
    if record.state != TCP_LISTEN:
        return None
    pending = unix_pending(diag.prog, record.sock)
    sockets = UnixSock.layout(diag.prog).read_batch(pending)
    raise_lost(sockets.lost)
    inodes = diag.reader.inodes_of(sockets.addresses, sockets.column("socket"), {})
    inos = []
    for sk in pending:
        inode = there(inodes.get(sk))
        inos.append(inode.ino & 0xFFFFFFFF if inode is not None else 0)
    return struct.pack(f"{diag.order}{len(inos)}I", *inos)


def rqlen(diag: Diag, record: UnixRecord) -> bytes | None:
    waiting = record.recv_q
    form = diag.structure("struct unix_diag_rqlen")
    return form.pack({"udiag_rqueue": waiting, "udiag_wqueue": record.send_q})


def shutdown(diag: Diag, record: UnixRecord) -> bytes | None:
    return diag.u8(record.sock.shutdown)


#: In the order of ``sk_diag_fill()``.
ATTRIBUTES = (
    Attribute(0, "UNIX_DIAG_NAME", name, "bytes"),
    Attribute(1, "UNIX_DIAG_VFS", vfs, "struct unix_diag_vfs"),
    Attribute(2, "UNIX_DIAG_PEER", peer, "u32"),
    Attribute(3, "UNIX_DIAG_ICONS", icons, "u32[]"),
    Attribute(4, "UNIX_DIAG_RQLEN", rqlen, "struct unix_diag_rqlen"),
    Attribute(5, "UNIX_DIAG_MEMINFO", meminfo, "SK_MEMINFO"),
    Attribute(6, "UNIX_DIAG_SHUTDOWN", shutdown, "u8"),
    Attribute(7, "UNIX_DIAG_UID", uid, "u32"),
)


def label(header: Mapping[str, Value]) -> str:
    """The inode: nothing else in the header identifies the socket."""
    return f"inode {header['udiag_ino']!r}"


def _dumped(diag: Diag, record: UnixRecord) -> bool:
    # A socket that is not accepted yet has no inode.
    return bool(record.ino)


KIND = DiagKind(
    families=frozenset({AF_UNIX}),
    protocols={0: "unix"},
    header="struct unix_diag_msg",
    attributes=ATTRIBUTES,
    protocol_of=asked_for(UnixRecord),
    fill=fill,
    label=label,
    dumped=_dumped,
    types=TYPES,
)
