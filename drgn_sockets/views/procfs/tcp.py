# SPDX-License-Identifier: LGPL-2.1-or-later
"""``/proc/net/{tcp,tcp6}``."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence

from drgn_sockets.kernel.net import pingpong_thresh
from drgn_sockets.kernel.sock import (
    AF_INET,
    AF_INET6,
    TCP_LISTEN,
    TCP_NEW_SYN_RECV,
    TCP_PROTOS,
    TCP_SYN_RECV,
    TCP_TIME_WAIT,
    all_tcp_tables,
    tcp_tables,
)
from drgn_sockets.records.families.tcp import (
    InetRequestSock,
    InetTimewaitSock,
    TcpSock,
    recv_queue,
    timer_active,
)
from drgn_sockets.views.procfs.base import Looker, NetFile, texts_of
from drgn_sockets.views.procfs.inet import HEADING, HEADING6, INET, InetFile, ends

_INFINITE_SSTHRESH = 0x7FFFFFFF
# TMPSZ - 1 in net/ipv4/tcp_ipv4.c; tcp6 is not padded.
_WIDTH = 149

_FULL = "%s:%04X %s:%04X %02X %08X:%08X %02X:%08X %08X %5s %8d %s %d %s %d %d %d %d %d"


class TcpFile(NetFile):
    """``tcp4_seq_show()``, ``tcp6_seq_show()``: timewait and request sockets have fewer columns."""

    columns = (
        *InetFile.columns[:-1],
        *("rto", "ato", "quick_pingpong", "cwnd", "ssthresh"),
    )
    key = InetFile.key
    pointer = "pointer"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.six = name.endswith("6")
        self.family = AF_INET6 if self.six else AF_INET

    def lines(self, at: Looker, net: int) -> Iterator[bytes]:
        width = 0 if self.six else _WIDTH
        # Python before 3.10 pads no text to a width of 0 in an f-string.
        yield f"{(HEADING6 if self.six else HEADING).ljust(width)}\n".encode("ascii")
        entries = [
            entry
            for table in tcp_tables(at.net_object(net))
            for entry in at.entries(table, net, *INET)
            if entry.family == self.family
        ]
        at.once("tcp", lambda: at.count(all_tcp_tables(at.prog), TCP_PROTOS, *INET))
        threshold = pingpong_thresh(at.prog, net)
        small = {TCP_TIME_WAIT: self._timewait, TCP_NEW_SYN_RECV: self._requests}
        sks: dict[Callable[..., dict[int, str]], list[int]] = {}
        for entry in entries:
            sks.setdefault(small.get(entry.state, self._full), []).append(entry.sk)
        texts: dict[int, str] = {}
        for read, some in sks.items():
            texts.update(texts_of(some, functools.partial(read, at, threshold)))
        # The kernel would have numbered the sockets that cannot be read as well.
        for number, entry in enumerate(entries):
            text = texts.get(entry.sk)
            if text is None:
                at.unreadable(entry.sk)
            else:
                row = f"{number:4}: {text}"
                yield f"{row.ljust(width)}\n".encode("ascii")

    def _full(self, at: Looker, threshold: int, sks: Sequence[int]) -> dict[int, str]:
        """``get_tcp4_sock()``"""
        socks = TcpSock.layout(at.prog).read_batch(sks)
        source, to = ends(at, socks, six=self.six)
        sport, dport, state = map(socks.column, ("sport", "dport", "state"))
        unacked = map(operator.sub, socks.column("write_seq"), socks.column("snd_una"))
        received = map(
            recv_queue, state, *map(socks.column, ("ack_backlog", "rcv_nxt", "copied_seq"))
        )
        names = ("pending", "timeout", "keepalive_pprev", "keepalive_expires")
        now = at.clock.jiffies
        timers = [_timer(now, *timer) for timer in zip(*map(socks.column, names))]
        inos, uids = at.inodes(socks)
        quick = zip(socks.column("quick"), socks.column("pingpong"))
        ssthresh = zip(state, *map(socks.column, ("fastopen_max_qlen", "snd_ssthresh")))
        columns = zip(
            *(source, sport, to, dport, state),
            *([count & 0xFFFFFFFF for count in unacked], received),
            [active for active, _ in timers],
            at.until(expires for _, expires in timers),
            *(socks.column("retransmits"), uids, socks.column("probes_out"), inos),
            *(socks.column("refcnt"), map(at.pointer, socks.addresses)),
            *(map(at.clock_t, socks.column(name)) for name in ("rto", "ato")),
            [left << 1 | (pingpong >= threshold) for left, pingpong in quick],
            socks.column("snd_cwnd"),
            [_ssthresh(*values) for values in ssthresh],
        )
        return dict(zip(socks.addresses, map(_FULL.__mod__, columns)))

    def _timewait(self, at: Looker, _: int, sks: Sequence[int]) -> dict[int, str]:
        """``get_timewait4_sock()``"""
        socks = InetTimewaitSock.layout(at.prog).read_batch(sks)
        columns = zip(
            *ends(at, socks, six=self.six),
            *map(socks.column, ("sport", "dport", "substate")),
            at.until(socks.column("timer_expires")),
            socks.column("refcnt"),
            map(at.pointer, socks.addresses),
        )
        texts = (
            f"{source}:{sport:04X} {to}:{dport:04X} {state:02X} 00000000:00000000 "
            f"03:{when:08X} 00000000 {0:5} {0:8} 0 {ref} {sk}"
            for source, to, sport, dport, state, when, ref, sk in columns
        )
        return dict(zip(socks.addresses, texts))

    def _requests(self, at: Looker, _: int, sks: Sequence[int]) -> dict[int, str]:
        """``get_openreq4()``"""
        socks = InetRequestSock.layout(at.prog).read_batch(sks)
        uids = at.uids(filter(None, socks.column("listener")))
        columns = zip(
            *ends(at, socks, six=self.six),
            *map(socks.column, ("num", "dport")),
            at.until(socks.column("timer_expires")),
            socks.column("num_timeout"),
            (uids.get(listener, 0) for listener in socks.column("listener")),
            map(at.pointer, socks.addresses),
        )
        # The kernel prints 0 as the number of references.
        texts = (
            f"{source}:{sport:04X} {to}:{dport:04X} {TCP_SYN_RECV:02X} 00000000:00000000 "
            f"01:{when:08X} {timeouts:08X} {uid:5} {0:8} 0 0 {sk}"
            for source, to, sport, dport, when, timeouts, uid, sk in columns
        )
        return dict(zip(socks.addresses, texts))


def _timer(
    now: int, pending: int, timeout: int, keepalive_pprev: int, keepalive_expires: int
) -> tuple[int, int]:
    """Get the columns ``tr`` and ``when`` of a full socket, ``when`` in jiffies."""
    active = timer_active(pending, keepalive_pprev)
    if active == 2:
        return active, keepalive_expires
    return active, timeout if active else now


def _ssthresh(state: int, fastopen_max_qlen: int, snd_ssthresh: int) -> int:
    if state == TCP_LISTEN:
        return fastopen_max_qlen
    return -1 if snd_ssthresh >= _INFINITE_SSTHRESH else snd_ssthresh
