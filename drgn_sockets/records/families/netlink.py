# SPDX-License-Identifier: LGPL-2.1-or-later
"""Netlink sockets, including those of the kernel."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any

from drgn import FaultError, Program

from drgn_sockets.kernel.chains import NOTHING
from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.memory import pointer_size, read_bytes, unpack_words
from drgn_sockets.kernel.net import task_net
from drgn_sockets.kernel.netlink import for_each_netlink
from drgn_sockets.kernel.sock import TCP_CLOSE, Sock, SockCommon
from drgn_sockets.kernel.structs import Int, OptInt
from drgn_sockets.kernel.task import task_by_tid
from drgn_sockets.program import byte_order
from drgn_sockets.records.columns import Column
from drgn_sockets.records.socket import (
    AnySocket,
    Derived,
    Endpoint,
    Family,
    LsofSocket,
    SocketRecord,
    Sockets,
)

# include/uapi/linux/netlink.h, by the names in ss, which writes other protocols as numbers.
PROTOCOLS = {
    0: "rtnl",
    1: "unused",
    2: "usersock",
    3: "fw",
    4: "tcpdiag",
    5: "nflog",
    6: "xfrm",
    7: "selinux",
    8: "iscsi",
    9: "audit",
    10: "fiblookup",
    11: "connector",
    12: "nft",
    13: "ip6fw",
    14: "dec-rt",
    15: "uevent",
    16: "genl",
    18: "scsi-trans",
    19: "ecryptfs",
    20: "rdma",
    21: "crypto",
}

# The same, by the names in lsof.
_LSOF_PROTOCOLS = {
    0: "ROUTE",
    1: "UNUSED",
    2: "USERSOCK",
    3: "FIREWALL",
    4: "INET_DIAG",
    5: "NFLOG",
    6: "XFRM",
    7: "SELINUX",
    8: "ISCSI",
    9: "AUDIT",
    10: "FIB_LOOKUP",
    11: "CONNECTOR",
    12: "NETFILTER",
    13: "IP6_FW",
    14: "DNRTMSG",
    15: "KOBJECT_UEVENT",
    16: "GENERIC",
    18: "SCSITRANSPORT",
    19: "ECRYPTFS",
    20: "RDMA",
    21: "CRYPTO",
    22: "SMC",
}

# net/netlink/af_netlink.h: NETLINK_F_*, which are numbers of bits.
FLAGS = (
    "kernel_socket",
    "recv_pktinfo",
    "broadcast_send_error",
    "recv_no_enobufs",
    "listen_all_nsid",
    "cap_ack",
    "ext_ack",
    "strict_chk",
)
KERNEL_SOCKET = 1 << FLAGS.index("kernel_socket")

# net/netlink/af_netlink.c: NETLINK_CONNECTED
_CONNECTED = 1
# No protocol has nearly as many groups.
_MAX_GROUPS = 1 << 16
_EVERYBODY = 0xFFFFFFFF


class NetlinkSock(Sock):
    """``struct netlink_sock``."""

    C_TYPE = "struct netlink_sock"

    node = Int("node.next", help="next in its hash chain")
    portid = Int("portid", help="netlink: its own port ID, 0 for the kernel or if it has none")
    dst_portid = Int("dst_portid", help="netlink: port ID it is connected to")
    dst_group = Int("dst_group", help="netlink: group it sends to")
    # Linux kernel commit 8fe08d70a2b6 ("netlink: convert nlk->flags to atomic flags") (in v6.6)
    # made them bits of an unsigned long. Each flag has kept its bit.
    nl_flags = Int("flags", help="netlink: NETLINK_F_* flags, as bits")
    nl_state = Int("sk.__sk_common.skc_state", help="netlink: 1 if it is connected")
    subscriptions = Int("subscriptions", help="netlink: number of groups it has joined")
    ngroups = Int("ngroups", help="netlink: number of groups that there is room for")
    group_bits = Int("groups", help="netlink: unsigned long *, the groups it has joined as bits")
    bound = Int("bound", help="netlink: whether its port ID can be sent to")
    congested = Int("state", help="netlink: whether messages to it were dropped (ENOBUFS)")
    cb_running = Int("cb_running", help="netlink: whether a dump is under way")
    cb_dump = Int("cb.dump", help="netlink: the function that dumps")
    dump_done_errno = OptInt("dump_done_errno", help="netlink: what the dump came to")
    max_recvmsg_len = Int("max_recvmsg_len", help="netlink: longest recvmsg(), bytes")
    netlink_rcv = Int("netlink_rcv", help="netlink: function for what is sent to the kernel")
    module = Int("module", help="netlink: struct module * of the protocol")


def netlink_groups(prog: Program, sock: NetlinkSock) -> bytes | None:
    """
    The groups that a socket has joined, as the bits of ``nlk->groups``, in whole words.

    :return: ``None`` if the socket has no groups
    :raises FaultError: if they cannot be read
    """
    word = pointer_size(prog)
    bits = min(sock.ngroups, _MAX_GROUPS)
    return read_bytes(
        prog, sock.group_bits, -(-bits // (8 * word)) * word, "groups of struct netlink_sock"
    )


def first_groups(prog: Program, sock: NetlinkSock) -> int:
    """The first 32 groups as bits, as in procfs and ss."""
    if not sock.group_bits:
        return 0
    # There is at least one word, whatever the number of groups.
    raw = (
        read_bytes(prog, sock.group_bits, pointer_size(prog), "groups of struct netlink_sock")
        or b""
    )
    return int.from_bytes(raw, "little" if byte_order(prog) == "<" else "big") & 0xFFFFFFFF


def _signed(number: int) -> bytes:
    # As in ss, which takes a port ID for a signed pid.
    return b"%d" % (number - (1 << 32) if number >> 31 else number)


class NetlinkRecord(SocketRecord):
    """A netlink socket."""

    family_name = "netlink"
    struct = NetlinkSock

    state = Derived(lambda state: TCP_CLOSE, "state", doc="As ss has it: always closed.")

    @property
    def is_kernel(self) -> bool:
        """Whether it belongs to the kernel."""
        return bool(self.sock.nl_flags & KERNEL_SOCKET)

    @property
    def is_connected(self) -> bool:
        return bool(self.sock.nl_state == _CONNECTED)

    @property
    def is_unbound(self) -> bool:
        return not self.is_kernel and not self.sock.portid

    @property
    def flag_names(self) -> list[str]:
        """Names of its ``NETLINK_F_*`` flags."""
        bits = self.sock.nl_flags
        return [name for i, name in enumerate(FLAGS) if bits >> i & 1]

    @property
    def protocol_name(self) -> str:
        """Its protocol, by the name in ss."""
        return PROTOCOLS.get(self.protocol, str(self.protocol))

    @property
    def groups(self) -> list[int] | None:
        """
        Numbers of the groups that it has joined, counted from 1.

        :raises FaultError: if they cannot be read
        """
        sock = self.sock
        if not sock.group_bits or not sock.ngroups:
            return []
        raw = netlink_groups(self.prog, sock)
        if raw is None:
            return None
        return [i + 1 for i, bit in enumerate(_bits(self.prog, raw)) if bit]

    def _owner(self) -> bytes | None:
        """Name of the process with the port ID as its ID; mostly it has created the socket."""
        try:
            task = task_by_tid(self.prog, self.sock.portid)
        except FaultError:
            # Show the port ID alone, as if no process had that ID. The readers of tasks report that
            # the table of tasks is damaged.
            return None
        # A process of a container takes its ID in its own PID namespace; the task with that ID in
        # the initial PID namespace is another one, mostly in another network namespace.
        if task is None or task_net(self.prog, task.nsproxy) != self.netns:
            return None
        return task.comm

    def local_end(self) -> Endpoint:
        """Protocol, and the process or port ID."""
        sock = self.sock
        service: bytes | None
        number: bytes | None
        if self.is_kernel:
            service, number = b"kernel", b"0"
        elif not sock.portid:
            # It was never bound, so nobody can send to it. (ss shows such a socket as the kernel's
            # if it has joined a group.)
            service, number = None, b"0"
        elif sock.portid == _EVERYBODY:
            service = number = None
        else:
            service = number = _signed(sock.portid)
            owner = self._owner()
            if owner is not None:
                service = owner + b"/" + number
        return Endpoint(
            self.protocol_name.encode("ascii"),
            service,
            numbers=(b"%d" % self.protocol, number),
        )

    def remote_end(self) -> Endpoint | None:
        """Group and port ID that it is connected to."""
        if not self.is_connected:
            return None
        return Endpoint(b"%d" % self.sock.dst_group, _signed(self.sock.dst_portid))

    @classmethod
    def netid_of(cls, family: int, type: int, protocol: int) -> str:
        return "nl"

    def unbound_words(self) -> str:
        return f"{self.protocol_name} never bound"

    def absent_peer_note(self) -> str | None:
        group = self.sock.dst_group
        return f"whoever has joined group {group}" if group else None

    def lsof(self, ino: int) -> LsofSocket | None:
        if self.is_unbound:
            return None
        name = _LSOF_PROTOCOLS.get(self.protocol, f"unknown protocol: {self.protocol}")
        return LsofSocket("netlink", None, str(ino), name.encode())

    def match_address(self, local: bool) -> int | None:
        """The protocol, which ss compares as the address of both ends."""
        return self.protocol if local or self.is_connected else None

    @property
    def is_autobound(self) -> bool:
        # netlink_autobind() takes a negative port ID if the ID of the process is in use.
        return (self.match_port(True) or 0) < 0

    def detail_words(self) -> list[str]:
        return []

    def extended_words(self) -> str:
        """As ss writes them if it reads procfs; sock_diag does not tell the first two."""
        groups = first_groups(self.prog, self.sock) or 0
        return f"sk={self.sk:x} cb={self.sock.cb_running:x} groups=0x{groups:08x}"


def _bits(prog: Program, raw: bytes) -> list[int]:
    bits = range(8 * pointer_size(prog))
    return [word >> i & 1 for word in unpack_words(prog, raw) for i in bits]


_column = functools.partial(Column, of=NetlinkRecord)


class Netlink(Family):
    """Netlink sockets."""

    name = "netlink"
    record = NetlinkRecord
    columns = (
        _column("nl_protocol", "netlink protocol, as ss calls it", attrgetter("protocol_name")),
        _column("nl_flag_names", "names of nl_flags (NETLINK_F_*)", attrgetter("flag_names")),
        _column("groups", "netlink groups it has joined, by number from 1", attrgetter("groups")),
    )

    def walk(
        self, prog: Program, known: Mapping[int, int] = NOTHING
    ) -> Iterator[SockCommon | Lost]:
        return for_each_netlink(prog, known)

    def peer(self, sockets: Sockets, record: Any) -> AnySocket | None:
        """The socket of the same protocol with the port ID that *record* is connected to."""
        if not isinstance(record, NetlinkRecord) or not record.is_connected:
            return None
        sock = record.sock
        if not sock.dst_portid and sock.dst_group:
            # It is connected to a group, and so to all members.
            return None
        for other in sockets.of_families(self.name):
            if (
                isinstance(other, NetlinkRecord)
                and other.sock.net == sock.net
                and other.protocol == record.protocol
                and other.sock.portid == sock.dst_portid
                and (other.sock.bound or other.is_kernel)
            ):
                return other
        return None
