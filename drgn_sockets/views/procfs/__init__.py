# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Files of ``/proc/net`` as the kernel writes them.

:data:`FILES` lists them. Each kind of file is a class, derived from
:class:`~drgn_sockets.views.procfs.base.NetFile`.
"""

from __future__ import annotations

from drgn_sockets.views.procfs.base import Looker, NetFile
from drgn_sockets.views.procfs.inet import IcmpFile, RawFile, UdpFile, UdpliteFile
from drgn_sockets.views.procfs.netlink import NetlinkFile
from drgn_sockets.views.procfs.packet import PacketFile
from drgn_sockets.views.procfs.protocols import ProtocolsFile
from drgn_sockets.views.procfs.sockstat import SockstatFile
from drgn_sockets.views.procfs.tcp import TcpFile
from drgn_sockets.views.procfs.unix import UnixFile

__all__ = ["FILES", "Looker", "NetFile", "Row"]

#: A row of a file: the text of each column.
Row = dict[str, str]

#: All files, by name.
FILES: dict[str, NetFile] = {
    file.name: file
    for file in (
        *(TcpFile("tcp"), TcpFile("tcp6")),
        *(UdpFile("udp"), UdpFile("udp6"), UdpliteFile("udplite"), UdpliteFile("udplite6")),
        *(RawFile("raw"), RawFile("raw6"), IcmpFile("icmp"), IcmpFile("icmp6")),
        *(UnixFile("unix"), NetlinkFile("netlink"), PacketFile("packet")),
        *(SockstatFile("sockstat"), SockstatFile("sockstat6"), ProtocolsFile("protocols")),
    )
}
