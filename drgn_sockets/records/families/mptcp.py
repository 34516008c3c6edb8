# SPDX-License-Identifier: LGPL-2.1-or-later
"""MPTCP sockets, and the TCP sockets that are their subflows."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from drgn import Program, offsetof

from drgn_sockets.kernel.chains import NOTHING
from drgn_sockets.kernel.lost import Lost, unbroken
from drgn_sockets.kernel.mptcp import (
    PmNlPernet,
    for_each_mptcp,
    mptcp_conn,
    mptcp_subflows,
    pm_nl_get_pernet,
)
from drgn_sockets.kernel.sock import (
    TCP_CLOSE,
    TCP_ESTABLISHED,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    Sock,
    SockCommon,
    SocketAlloc,
)
from drgn_sockets.kernel.structs import Int, OptInt
from drgn_sockets.records.columns import Column
from drgn_sockets.records.families.inet import InetRecord, other_ends
from drgn_sockets.records.families.tcp import (
    LSOF_STATES,
    Age,
    InetConnectionSock,
    TcpSock,
    TcpSockRecord,
    tcp_timer,
    ulp_name,
)
from drgn_sockets.records.socket import (
    AnySocket,
    Derived,
    Family,
    LsofSocket,
    SocketRecord,
    Sockets,
    Timer,
)

# include/uapi/linux/mptcp.h
_FLAG_FALLBACK = 1
_FLAG_REMOTE_KEY_RECEIVED = 2
# net/mptcp/protocol.h
_MPTCP_PM_TYPE_KERNEL = 0
# __mptcp_has_initial_subflow()
_INITIAL_STATES = frozenset({TCP_ESTABLISHED, TCP_SYN_SENT, TCP_SYN_RECV, TCP_LISTEN})


class OptAge(OptInt):
    """Milliseconds since a moment in ``tcp_jiffies32``, a member that some kernels lack."""

    converter = Age.converter
    column_converter = Age.column_converter


class MptcpSock(InetConnectionSock):
    """``struct mptcp_sock``. Its keys are secret and are not read."""

    C_TYPE = "struct mptcp_sock"

    token = Int("token", help="what tells the connection from others on this machine")
    first = Int("first", help="struct sock * of the first subflow")
    msk_flags = Int("flags", help="MPTCP_* bits")
    can_ack = Int("can_ack", help="the other end's key is known")
    fully_established = Int("fully_established", help="the other end has used MPTCP since")
    write_seq = Int("write_seq", help="sequence number after the last byte written")
    # Since v5.11 ("mptcp: introduce MPTCP snd_nxt"); not atomic since v5.12.
    snd_nxt = OptInt("snd_nxt", help="next byte to send, sequence number")
    snd_una = Int("snd_una", "snd_una.counter", help="first byte not acknowledged, sequence number")
    ack_seq = Int("ack_seq", help="next byte expected, sequence number")
    # "mptcp: pm: rename 'subflows' to 'extra_subflows'", after v6.12
    extra_subflows = Int("pm.extra_subflows", "pm.subflows", help="subflows besides the first")
    add_addr_signaled = Int("pm.add_addr_signaled", help="addresses announced (ADD_ADDR)")
    add_addr_accepted = Int("pm.add_addr_accepted", help="announced addresses that are used")
    local_addr_used = Int("pm.local_addr_used", help="local addresses used for subflows")
    server_side = Int("pm.server_side", help="it was accepted")
    # Since v5.19 ("mptcp: bypass in-kernel PM restrictions for non-kernel PMs")
    pm_type = OptInt("pm.pm_type", help="path manager: 0 the kernel's, 1 of user space")
    # Linux kernel commit 6511882cdd82 ("mptcp: allocate fwd memory separately on the rx and tx
    # path") (in v5.16); gone by v7.2.
    rmem_fwd_alloc = OptInt("rmem_fwd_alloc", help="bytes allocated ahead for receiving")
    # Since v5.14
    csum_enabled = OptInt("csum_enabled", help="checksums of data (DSS)")
    # Linux kernel commit 38967f424b5b ("mptcp: track some aggregate data counters") (in v6.5)
    bytes_sent = OptInt("bytes_sent", help="bytes sent, retransmissions included")
    bytes_acked = OptInt("bytes_acked", help="bytes acknowledged")
    bytes_received = OptInt("bytes_received", help="bytes received")
    bytes_retrans = OptInt("bytes_retrans", help="bytes retransmitted")
    # Since v6.10 ("mptcp: add last time fields in mptcp_info")
    last_data_sent_ms = OptAge("last_data_sent", help="since data was sent, ms")
    # The member of inet_connection_sock for this is used in subflows only.
    last_data_recv_ms = OptAge(  # type: ignore[assignment]
        "last_data_recv", help="since data was received, ms"
    )
    last_ack_recv_ms = OptAge("last_ack_recv", help="since an ACK was received, ms")
    # Since v6.9 ("mptcp: implement TCP_NOTSENT_LOWAT support")
    notsent_lowat = OptInt("notsent_lowat", help="TCP_NOTSENT_LOWAT, bytes")
    # v7.2 has it, v6.12 does not.
    msk_backlog_len = OptInt("backlog_len", help="bytes that wait on subflows for its queue")

    def fell_back(self) -> bool:
        """``__mptcp_check_fallback()``: whether it fell back to plain TCP."""
        # Linux kernel commit 037db6ea57da ("mptcp: cleanup writer wake-up") (in v6.9) changed the
        # numbers of bits. No type shows that, but notsent_lowat came in the same version.
        bit = 4 if self.notsent_lowat is None else 2
        return bool(self.msk_flags >> bit & 1)


class MptcpInfo(NamedTuple):
    """
    ``struct mptcp_info``, as ``MPTCP_INFO`` and sock_diag give it, with names without ``mptcpi_``.

    ``None`` stands for values that the kernel does not tell.
    """

    subflows: int
    add_addr_signal: int
    add_addr_accepted: int
    subflows_max: int = 0
    add_addr_signal_max: int = 0
    add_addr_accepted_max: int = 0
    #: Bits: 1 it fell back to TCP, 2 the other end's key was received.
    flags: int = 0
    token: int = 0
    write_seq: int = 0
    snd_una: int = 0
    rcv_nxt: int = 0
    local_addr_used: int | None = None
    local_addr_max: int | None = None
    csum_enabled: int | None = None
    retransmits: int | None = None
    bytes_retrans: int | None = None
    bytes_sent: int | None = None
    bytes_received: int | None = None
    bytes_acked: int | None = None
    subflows_total: int | None = None
    endp_laminar_max: int | None = None
    endp_fullmesh_max: int | None = None
    #: Milliseconds.
    last_data_sent: int | None = None
    last_data_recv: int | None = None
    last_ack_recv: int | None = None


@functools.lru_cache(8)
def _told(prog: Program) -> frozenset[str]:
    """Members of this kernel's ``struct mptcp_info``."""
    members = prog.type("struct mptcp_info").members or ()
    return frozenset(m.name[len("mptcpi_") :] for m in members if m.name)


def mptcp_get_info(prog: Program, msk: MptcpSock) -> MptcpInfo:
    """``mptcp_diag_fill_info()``"""
    values: dict[str, int | None] = {
        "subflows": msk.extra_subflows,
        "add_addr_signal": msk.add_addr_signaled,
        "add_addr_accepted": msk.add_addr_accepted,
        "local_addr_used": msk.local_addr_used,
    }
    # Of a listener, kernels with the aggregate counters tell only the values above.
    is_newer = msk.bytes_acked is not None
    if not is_newer or msk.state != TCP_LISTEN:
        # Since v6.4 ("mptcp: do not fill info not used by the PM in used"); no type shows that.
        if not is_newer or msk.pm_type == _MPTCP_PM_TYPE_KERNEL:
            limits = pm_nl_get_pernet(prog, msk.net)
            if limits is not None:
                for name in PmNlPernet.members():
                    values[name] = getattr(limits, name)
        values["flags"] = (_FLAG_FALLBACK if msk.fell_back() else 0) | (
            _FLAG_REMOTE_KEY_RECEIVED if msk.can_ack else 0
        )
        values.update(
            token=msk.token,
            write_seq=msk.write_seq,
            snd_una=msk.snd_una,
            rcv_nxt=msk.ack_seq,
            csum_enabled=msk.csum_enabled,
            retransmits=msk.retransmits,
            bytes_retrans=msk.bytes_retrans,
            bytes_sent=msk.bytes_sent,
            bytes_received=msk.bytes_received,
            bytes_acked=msk.bytes_acked,
            last_data_sent=msk.last_data_sent_ms,
            last_data_recv=msk.last_data_recv_ms,
            last_ack_recv=msk.last_ack_recv_ms,
        )
        if "subflows_total" in _told(prog):
            first = SockCommon.layout(prog).follow(msk.first)
            has_initial = first is not None and first.state in _INITIAL_STATES
            values["subflows_total"] = msk.extra_subflows + int(has_initial)
    told = _told(prog)
    # The kernel leaves a value that it has not filled in at 0.
    return MptcpInfo._make(
        (values.get(name) or 0) if name in told else None for name in MptcpInfo._fields
    )


# The formats in which ss writes the values, in its order. iproute2 6.12 or so added the values
# after rcv_nxt; it writes the sequence numbers in decimal.
_WORDS: dict[str, str] = dict.fromkeys(MptcpInfo._fields, "d") | dict.fromkeys(
    ("token", "write_seq", "snd_una", "rcv_nxt"), "x"
)


def mptcp_info_text(info: MptcpInfo) -> str:
    """The words of ``ss -i`` for *info*; values that are 0 are left out."""
    words = []
    for (name, form), value in zip(_WORDS.items(), info):
        if name == "flags":
            if info.flags & _FLAG_FALLBACK:
                words.append("fallback")
            if info.flags & _FLAG_REMOTE_KEY_RECEIVED:
                words.append("remote_key")
        elif value:
            words.append(f"{name}:{value:{form}}")
    return " ".join(words)


class MptcpRecord(InetRecord):
    """An MPTCP socket."""

    family_name = "mptcp"
    struct: ClassVar[type[SockCommon]] = MptcpSock
    # As in TcpSockRecord.
    local_port = Derived(
        lambda num, sport: num or sport, *("num", "sport"), doc="Local port, also after it."
    )

    @property
    def recv_q(self) -> int:
        """Bytes to be read; of a listener, connections to be accepted."""
        first = self._first_if_listening()
        if first is not None:
            return first.ack_backlog
        queued: int = self.sock.rmem_alloc
        return queued + (self.sock.msk_backlog_len or 0)

    @property
    def send_q(self) -> int:
        """Bytes on their way out; of a listener, how many connections may wait."""
        first = self._first_if_listening()
        queued: int = self.sock.wmem_alloc - 1
        return queued if first is None else first.max_ack_backlog

    def _first_if_listening(self) -> Sock | None:
        """The first subflow of a listener, which is the TCP socket that listens."""
        if self.state != TCP_LISTEN:
            return None
        return Sock.layout(self.prog).follow(self.sock.first)

    @property
    def timer(self) -> Timer | None:
        return tcp_timer(self.prog, self.sock)

    def subflows(self) -> list[int]:
        """Its subflows, which are TCP sockets: ``struct sock *`` as integers."""
        msk = self.prog.type("struct mptcp_sock")
        heads = (self.sk + offsetof(msk, name) for name in ("conn_list", "join_list"))
        found = dict.fromkeys(mptcp_subflows(self.prog, heads))
        if self.sock.first:
            found[self.sock.first] = None
        return list(found)

    def parts(self) -> Sequence[SocketRecord]:
        """
        Subflows that are in no table. A socket that is not connected yet has such a subflow, which
        may be bound.
        """
        commons = unbroken(SockCommon.layout(self.prog).read_many(self.subflows()))
        idle = [common.address for common in commons if common.state == TCP_CLOSE]
        records = []
        for sock in TcpSock.layout(self.prog).read_batch(idle):
            record = TcpSockRecord(self.prog, sock, self.netns)
            if sock.socket:
                record.inode = SocketAlloc.layout(self.prog).read(
                    sock.socket - offsetof(self.prog.type("struct socket_alloc"), "socket")
                )
            record.all_holders = self.all_holders
            records.append(record)
        return records

    def info(self) -> MptcpInfo:
        return mptcp_get_info(self.prog, self.sock)

    def lsof(self, ino: int) -> LsofSocket | None:
        # lsof shows it as TCP, because the first subflow has the inode of the MPTCP socket.
        if self.state == TCP_CLOSE:
            return None
        return self.lsof_internet(ino, "TCP", f" ({LSOF_STATES.get(self.state, self.state)})")

    def info_words(self) -> str:
        return mptcp_info_text(self.info())


def mptcp_parent(record: SocketRecord) -> int | None:
    """
    The MPTCP socket that a TCP socket is a subflow of.

    :return: ``struct sock *`` as an integer; ``None`` if *record* is not a subflow
    """
    sock = record.sock
    if not isinstance(sock, InetConnectionSock) or not sock.ulp_ops:
        return None
    if ulp_name(record.prog, sock) != b"mptcp":
        return None
    try:
        return mptcp_conn(record.prog, sock.ulp_data) or None
    except LookupError:
        return None


class MptcpPlainRecord(InetRecord):
    """An MPTCP socket of which only ``struct sock`` was read."""

    family_name = "mptcp"
    lsof = MptcpRecord.lsof


class Mptcp(Family):
    """MPTCP."""

    name = "mptcp"
    record = MptcpRecord
    plain = MptcpPlainRecord
    brief = True
    columns = (
        Column(
            "mptcp_sk",
            "address of the MPTCP socket that it is a subflow of",
            lambda r: f"{mptcp_parent(r):#x}" if mptcp_parent(r) else None,
            of=TcpSockRecord,
        ),
        Column(
            "subflows",
            "addresses of its subflows, TCP sockets",
            lambda r: [f"{sk:#x}" for sk in r.subflows()],
            of=MptcpRecord,
        ),
    )

    def walk(
        self, prog: Program, known: Mapping[int, int] = NOTHING
    ) -> Iterator[SockCommon | Lost]:
        return for_each_mptcp(prog, known)

    def peer(self, sockets: Sockets, record: Any) -> AnySocket | None:
        return self.peers(sockets, [record]).get(record.sk)

    def peers(self, sockets: Sockets, records: Iterable[Any]) -> Mapping[int, AnySocket]:
        return other_ends(sockets, [record for record in records if isinstance(record, InetRecord)])
