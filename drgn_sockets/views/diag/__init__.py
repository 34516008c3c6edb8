# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Messages of sock_diag, byte for byte as the kernel would send them.

Each family is a module with a :class:`~drgn_sockets.views.diag.base.DiagKind`: the header of its
messages, and a table of attributes. Each attribute has a function that makes its payload, or
returns ``None`` if the kernel sends none.
"""

from __future__ import annotations

from drgn import Program

from drgn_sockets.views.diag import inet, mptcp, netlink, packet, sctp, unix, vsock, xdp
from drgn_sockets.views.diag.base import Attribute, Diag, DiagKind, Message

__all__ = ["KINDS", "Attribute", "Diag", "DiagKind", "Message", "diag_of"]

#: All kinds; a socket belongs to the first whose ``protocol_of`` returns a protocol.
KINDS: tuple[DiagKind, ...] = (
    inet.KIND,
    mptcp.KIND,
    sctp.KIND,
    unix.KIND,
    netlink.KIND,
    packet.KIND,
    vsock.KIND,
    xdp.KIND,
)


def diag_of(prog: Program, *, secrets: bool = True) -> Diag:
    """
    Get what makes the messages of a program's sockets.

    :param secrets: Whether to read keys (``TCP_MD5SIG``) as well.
    """
    return Diag(prog, KINDS, secrets=secrets)
