# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Sockets as the rows of ``/proc/net/*``: each column's text, made from kernel memory.

The columns have the names of the files' headings, in the order in which a row has them
(``tx_queue`` and ``rx_queue``, and ``tr`` and ``when``, are joined by a colon there).
"""

from __future__ import annotations

import struct

from drgn import Program

from drgn_sockets.kernel import sock as k
from drgn_sockets.kernel.memory import byte_order
from drgn_sockets.kernel.net import pingpong_thresh
from drgn_sockets.kernel.time import clock
from drgn_sockets.records.families.inet import InetRecord, InetSock
from drgn_sockets.records.families.raw import RawRecord
from drgn_sockets.records.families.tcp import InetRequestSock, InetTimewaitSock, TcpRecord, TcpSock
from drgn_sockets.records.families.unix import UnixRecord
from drgn_sockets.records.reader import SocketReader
from drgn_sockets.records.socket import SocketRecord

#: Columns of ``/proc/net/{tcp,tcp6}``. Timewait and request sockets end with ``pointer``.
TCP_COLUMNS = (
    "local_address",
    "rem_address",
    "st",
    "tx_queue",
    "rx_queue",
    "tr",
    "when",
    "retrnsmt",
    "uid",
    "timeout",
    "inode",
    "ref",
    "pointer",
    "rto",
    "ato",
    "quick_pingpong",
    "cwnd",
    "ssthresh",
)

#: Columns of ``/proc/net/{udp,udp6,udplite,udplite6,raw,raw6}``.
UDP_COLUMNS = (*TCP_COLUMNS[:13], "drops")

#: Columns of ``/proc/net/unix``.
UNIX_COLUMNS = ("pointer", "RefCount", "Protocol", "Flags", "Type", "St", "Inode", "Path")

_SO_ACCEPTCON = 1 << 16
# include/uapi/linux/net.h: socket_state
_SS_UNCONNECTED, _SS_CONNECTING, _SS_CONNECTED, _SS_DISCONNECTING = 1, 2, 3, 4

Row = dict[str, str]


class ProcNet:
    """Makes rows of ``/proc/net/*`` out of records of one program."""

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        self._clock = clock(prog)
        self._order = byte_order(prog)
        self._reader = SocketReader(prog)
        self._thresholds: dict[int, int] = {}

    def _address(self, address: bytes, port: int) -> str:
        # Each 32-bit word as the CPU reads it.
        words = struct.unpack(f"{self._order}{len(address) // 4}I", address)
        return "".join(f"{word:08X}" for word in words) + f":{port:04X}"

    def _ends(self, record: InetRecord) -> tuple[bytes, bytes]:
        sock = record.sock
        if sock.family == k.AF_INET6 and sock.v6_rcv_saddr and sock.v6_daddr:
            return sock.v6_rcv_saddr, sock.v6_daddr
        return sock.rcv_saddr, sock.daddr

    def _uid(self, record: SocketRecord) -> int:
        """What the column ``uid`` is made of, ``sock_i_uid()`` or ``sk_uid()``."""
        if isinstance(record.sock, InetTimewaitSock):
            return 0
        if isinstance(record.sock, InetRequestSock):
            listener = self._reader.read(record.sock.listener)
            return self._uid(listener) if isinstance(listener, SocketRecord) else 0
        if _has_sock_i_uid(self._prog):
            # The owner of the inode; a socket without one is root's.
            return record.i_uid or 0
        return record.uid or 0

    def _common(self, record: InetRecord, local_port: int, remote_port: int) -> Row:
        source, destination = self._ends(record)
        return {
            "local_address": self._address(source, local_port),
            "rem_address": self._address(destination, remote_port),
            "st": f"{record.state:02X}",
            "tx_queue": "00000000",
            "rx_queue": "00000000",
            "tr": "00",
            "when": "00000000",
            "retrnsmt": "00000000",
            "uid": str(self._uid(record)),
            "timeout": "0",
            "inode": str(record.ino),
            "ref": str(record.sock.refcnt),
            "pointer": f"{record.sk:016x}",
        }

    def _when(self, expires: int) -> str:
        delta = expires - self._clock.jiffies
        return f"{self._clock.to_clock_t(delta):08X}"

    def tcp(self, record: TcpRecord) -> Row:
        """A row of ``/proc/net/tcp`` or ``tcp6``, as ``get_tcp4_sock()`` and its siblings."""
        sock = record.sock
        if isinstance(sock, InetTimewaitSock):
            row = self._common(record, sock.sport, sock.dport)
            row["tr"] = "03"
            row["when"] = self._when(sock.timer_expires)
            return row
        if isinstance(sock, InetRequestSock):
            row = self._common(record, sock.num, sock.dport)
            row["tr"] = "01"
            row["when"] = self._when(sock.timer_expires)
            row["retrnsmt"] = f"{sock.num_timeout:08X}"
            # get_openreq4() prints 0, not the references it has.
            row["ref"] = "0"
            return row
        assert isinstance(sock, TcpSock)
        row = self._common(record, sock.sport, sock.dport)
        listening = sock.state == k.TCP_LISTEN
        row["tx_queue"] = f"{sock.write_seq - sock.snd_una & 0xFFFFFFFF:08X}"
        row["rx_queue"] = f"{record.recv_q:08X}"
        row["tr"] = f"{sock.timer_active():02X}"
        if record.timer is not None:
            row["when"] = self._when(record.timer.expires)
        row["retrnsmt"] = f"{sock.retransmits:08X}"
        row["timeout"] = str(sock.probes_out)
        row["rto"] = str(self._clock.to_clock_t(sock.rto))
        row["ato"] = str(self._clock.to_clock_t(sock.ato))
        if sock.net not in self._thresholds:
            self._thresholds[sock.net] = pingpong_thresh(self._prog, sock.net)
        interactive = sock.pingpong >= self._thresholds[sock.net]
        row["quick_pingpong"] = str(sock.quick << 1 | interactive)
        row["cwnd"] = str(sock.snd_cwnd)
        if listening:
            row["ssthresh"] = str(sock.fastopen_max_qlen)
        else:
            row["ssthresh"] = "-1" if sock.initial_slowstart() else str(sock.snd_ssthresh)
        return row

    def udp(self, record: InetRecord) -> Row:
        """A row of ``/proc/net/{udp,udp6,raw,raw6}``, as ``udp4_format_sock()``."""
        sock = record.sock
        assert isinstance(sock, InetSock)
        raw = isinstance(record, RawRecord)
        row = self._common(record, sock.num if raw else sock.sport, 0 if raw else sock.dport)
        row["tx_queue"] = f"{record.send_q or 0:08X}"
        row["rx_queue"] = f"{record.recv_q or 0:08X}"
        row["drops"] = str(k.sk_drops_read(self._prog, sock))
        return row

    def unix(self, record: UnixRecord) -> Row:
        """A row of ``/proc/net/unix``, as ``unix_seq_show()``."""
        sock = record.sock
        assert isinstance(sock, k.Sock)
        connected = sock.state == k.TCP_ESTABLISHED
        if sock.socket:
            state = _SS_CONNECTED if connected else _SS_UNCONNECTED
        else:
            state = _SS_CONNECTING if connected else _SS_DISCONNECTING
        return {
            "pointer": f"{record.sk:016x}",
            "RefCount": f"{sock.refcnt:08X}",
            "Protocol": "00000000",
            "Flags": f"{_SO_ACCEPTCON if sock.state == k.TCP_LISTEN else 0:08X}",
            "Type": f"{sock.type:04X}",
            "St": f"{state:02X}",
            "Inode": str(record.ino),
            "Path": unix_path(record.name).decode("latin-1"),
        }


def unix_path(name: bytes | None) -> bytes:
    """A unix socket's name as ``/proc/net/unix`` has it: every NUL of it is an ``@``."""
    if name is None:
        return b""
    return b" " + (name.replace(b"\0", b"@") if name[:1] == b"\0" else name)


def _has_sock_i_uid(prog: Program) -> bool:
    # Linux kernel commit c51da3f7a161 ("net: remove sock_i_uid()") (in v6.17 and v6.16.6)
    # has procfs print sk_uid, which outlives the inode.
    found = prog.cache.get("drgn_sockets.sock_i_uid")
    if found is None:
        try:
            prog.symbol("sock_i_uid")
            found = True
        except LookupError:
            found = False
        prog.cache["drgn_sockets.sock_i_uid"] = found
    return bool(found)
