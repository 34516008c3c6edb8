# SPDX-License-Identifier: LGPL-2.1-or-later
"""Vsock sockets, between virtual machines and their host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from drgn import Program

from drgn_sockets.kernel.chains import NOTHING
from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.sock import TCP_CLOSE, Sock, SockCommon
from drgn_sockets.kernel.structs import Int
from drgn_sockets.kernel.vsock import for_each_vsock
from drgn_sockets.records.names import short_type_name
from drgn_sockets.records.socket import ANY, Endpoint, Family, SocketRecord, Sockets

# include/net/af_vsock.h
_LAST_RESERVED_PORT = 1023


class VsockSock(Sock):
    """``struct vsock_sock``."""

    C_TYPE = "struct vsock_sock"

    local_cid = Int("local_addr.svm_cid", help="context ID of this end, 4294967295 for any")
    local_svm_port = Int("local_addr.svm_port", help="port of this end, 4294967295 for none")
    remote_cid = Int("remote_addr.svm_cid", help="context ID of the other end, likewise")
    remote_svm_port = Int("remote_addr.svm_port", help="port of the other end, likewise")
    transport = Int("transport", help="const struct vsock_transport *")
    trusted = Int("trusted", help="its maker had CAP_NET_ADMIN")
    peer_shutdown = Int("peer_shutdown", help="of the other end: 1 receiving, 2 sending, 3 both")
    connect_timeout = Int("connect_timeout", help="SO_VM_SOCKETS_CONNECT_TIMEOUT, jiffies")
    buffer_size = Int("buffer_size", help="SO_VM_SOCKETS_BUFFER_SIZE, bytes")
    buffer_min_size = Int("buffer_min_size", help="its lower bound, bytes")
    buffer_max_size = Int("buffer_max_size", help="its upper bound, bytes")
    sent_request = Int("sent_request", help="it has asked for a connection")


def _end(cid: int, port: int) -> Endpoint:
    return Endpoint(_number(cid), _number(port))


def _number(value: int) -> bytes | None:
    # VMADDR_CID_ANY and VMADDR_PORT_ANY
    return None if value == ANY else b"%d" % value


class VsockRecord(SocketRecord):
    """A vsock socket."""

    family_name = "vsock"
    struct: ClassVar[type[SockCommon]] = VsockSock

    @classmethod
    def netid_of(cls, family: int, type: int, protocol: int) -> str:
        return f"v_{short_type_name(type)}"

    def local_end(self) -> Endpoint:
        """Context ID and port."""
        return _end(self.sock.local_cid, self.sock.local_svm_port)

    def remote_end(self) -> Endpoint:
        return _end(self.sock.remote_cid, self.sock.remote_svm_port)

    @property
    def is_connected(self) -> bool:
        return bool(self.sock.remote_svm_port != ANY)

    @property
    def is_unbound(self) -> bool:
        return self.state == TCP_CLOSE and self.sock.local_svm_port == ANY  # type: ignore[no-any-return]

    @property
    def is_autobound(self) -> bool:
        return (self.match_port(True) or 0) > _LAST_RESERVED_PORT


class Vsock(Family):
    """Vsock."""

    name = "vsock"
    module = "vsock"
    record = VsockRecord

    def walk(
        self, prog: Program, known: Mapping[int, int] = NOTHING
    ) -> Iterator[SockCommon | Lost]:
        return for_each_vsock(prog)

    def peer(self, sockets: Sockets, record: Any) -> SocketRecord | None:
        """
        The other end, if both ends are on this machine (``vmw_vsock_loopback``). A connection with
        a virtual machine has one end on another machine.
        """
        if not isinstance(record, VsockRecord) or not record.is_connected:
            return None
        mine = record.sock
        for other in sockets.of_families(self.name):
            if not isinstance(other, VsockRecord) or other.sk == record.sk:
                continue
            theirs = other.sock
            if (
                theirs.local_svm_port == mine.remote_svm_port
                and theirs.remote_svm_port == mine.local_svm_port
                and _same_cid(theirs.local_cid, mine.remote_cid)
                and _same_cid(theirs.remote_cid, mine.local_cid)
            ):
                return other
        return None


def _same_cid(one: int, other: int) -> bool:
    # ANY is VMADDR_CID_ANY, which matches every context ID.
    return one == other or ANY in (one, other)
