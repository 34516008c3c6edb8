# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Sockets as sock_diag tells of them: to the byte what the kernel would send, made from its memory.

A family is a module: a :class:`~drgn_sockets.views.diag.base.Kind`, that is the header of its
messages, and a table of attributes, each with the function that makes its payload or says that
the kernel sends none.
"""

from __future__ import annotations

from drgn import Program

from drgn_sockets.views.diag import inet, mptcp, netlink, packet, sctp, unix, vsock, xdp
from drgn_sockets.views.diag.base import Attribute, Diag, Kind, Message

__all__ = ["KINDS", "Attribute", "Diag", "Kind", "Message", "diag_of"]

#: What is known; a socket is of the first kind that takes it.
KINDS: tuple[Kind, ...] = (
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
    What makes messages of a program's sockets.

    :param secrets: Whether to read keys (``TCP_MD5SIG``) as well.
    """
    return Diag(prog, KINDS, secrets=secrets)
