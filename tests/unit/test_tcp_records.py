# SPDX-License-Identifier: LGPL-2.1-or-later
"""Queues and timers of TCP sockets, by the formulas of net/ipv4/tcp_ipv4.c."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drgn_sockets.records.families.inet import InetRecord
from drgn_sockets.records.families.tcp import (
    InetRequestSock,
    InetTimewaitSock,
    TcpRecord,
    TcpRequestRecord,
    TcpSock,
    TcpSockRecord,
    TcpTimewaitRecord,
    tcp_timer,
)
from drgn_sockets.records.socket import Timer

from .fake_kernel import FakeKernel, decoded

HZ = 250
NOW = 2**32 + 1000
SEQ = st.integers(0, 2**32 - 1)
WRAP = 2**32

ESTABLISHED, SYN_RECV, FIN_WAIT2, TIME_WAIT, LISTEN, NEW_SYN_RECV = 1, 3, 5, 6, 10, 12


@pytest.fixture(scope="module")
def kernel() -> FakeKernel:
    k = FakeKernel()
    k.variable("jiffies", k.ulong, NOW)
    k.variable("tick_nsec", k.ulong, 4_000_000)
    return k


def tcp(**members: Any) -> TcpSock:
    values: dict[str, Any] = {
        "family": 2,
        "state": ESTABLISHED,
        "pending": 0,
        "timeout": NOW + 50,
        "retransmits": 3,
        "probes_out": 4,
        "keepalive_pprev": 0,
        "keepalive_expires": NOW + 7200 * HZ,
        "ack_backlog": 5,
        "max_ack_backlog": 128,
    }
    return decoded(TcpSock, **{**values, **members})


@given(una=SEQ, written=st.integers(0, 2**31))
def test_send_queue(una: int, written: int) -> None:
    # READ_ONCE(tp->write_seq) - tp->snd_una, of u32
    assert (
        TcpSockRecord(None, tcp(snd_una=una, write_seq=(una + written) % WRAP), 1).send_q == written
    )


@given(copied=SEQ, received=st.integers(-(2**31), 2**31 - 1))
def test_receive_queue(copied: int, received: int) -> None:
    # max_t(int, READ_ONCE(tp->rcv_nxt) - READ_ONCE(tp->copied_seq), 0): it may be -1 for a
    # moment, when the process has read beyond a FIN.
    sock = tcp(copied_seq=copied, rcv_nxt=(copied + received) % WRAP)
    assert TcpSockRecord(None, sock, 1).recv_q == max(received, 0)


def test_queues_of_a_listener() -> None:
    sock = tcp(state=LISTEN, snd_una=1, write_seq=9, copied_seq=1, rcv_nxt=9)
    record = TcpSockRecord(None, sock, 1)
    assert (record.recv_q, record.send_q) == (5, 128)


def test_queues_of_records(kernel: FakeKernel) -> None:
    sock = tcp(snd_una=WRAP - 1, write_seq=9, copied_seq=WRAP - 5, rcv_nxt=2)
    record: TcpRecord = TcpSockRecord(kernel.prog, sock, 1)
    assert (record.recv_q, record.send_q) == (7, 10)
    timewait = decoded(InetTimewaitSock, family=2, state=TIME_WAIT, substate=FIN_WAIT2)
    record = TcpTimewaitRecord(kernel.prog, timewait, 1)
    assert (record.recv_q, record.send_q, record.state) == (0, 0, FIN_WAIT2)
    assert (record.type, record.protocol, record.uid) == (1, 6, None)
    request = decoded(InetRequestSock, family=2, state=NEW_SYN_RECV)
    assert TcpRequestRecord(kernel.prog, request, 1).state == SYN_RECV


# icsk_pending: ICSK_TIME_RETRANS 1, DACK 2, PROBE0 3, LOSS_PROBE 5, REO_TIMEOUT 6.
@pytest.mark.parametrize(
    ("pending", "keepalive", "number", "timer"),
    [
        (0, 0, 0, None),
        (1, 0, 1, ("on", 0.2, 3)),
        (5, 0, 1, ("on", 0.2, 3)),
        (6, 0, 1, ("on", 0.2, 3)),
        (3, 0, 4, ("persist", 0.2, 4)),
        (0, 1, 2, ("keepalive", 7200, 4)),
        # The retransmission comes first.
        (1, 1, 1, ("on", 0.2, 3)),
        (3, 1, 4, ("persist", 0.2, 4)),
        (2, 1, 2, ("keepalive", 7200, 4)),
        (2, 0, 0, None),
    ],
)
def test_timers(
    kernel: FakeKernel, pending: int, keepalive: int, number: int, timer: tuple[Any, ...] | None
) -> None:
    sock = tcp(pending=pending, keepalive_pprev=keepalive * 0xFFFF888000000000)
    assert sock.timer_active() == number
    found = tcp_timer(kernel.prog, sock)
    assert (found and (found.name, found.expires_s, found.retrans)) == timer


def test_timers_of_others(kernel: FakeKernel) -> None:
    timewait = decoded(InetTimewaitSock, timer_expires=NOW + 60 * HZ)
    assert tcp_timer(kernel.prog, timewait) == Timer("timewait", 60, NOW + 60 * HZ, 0)
    request = decoded(InetRequestSock, timer_expires=NOW - HZ, num_timeout=2)
    assert tcp_timer(kernel.prog, request) == Timer("synack", -1, NOW - HZ, 2)
    assert tcp_timer(kernel.prog, InetTimewaitSock.__mro__[1](0, ())) is None


def test_slow_start() -> None:
    # TCP_INFINITE_SSTHRESH 0x7fffffff
    assert tcp(snd_ssthresh=0x7FFFFFFF).initial_slowstart()
    assert not tcp(snd_ssthresh=0x7FFFFFFE).initial_slowstart()


def test_a_family_without_ipv6_members(kernel: FakeKernel) -> None:
    # A kernel without CONFIG_IPV6.
    sock = tcp(rcv_saddr=b"\x7f\0\0\1", daddr=b"\x0a\0\0\2", v6_rcv_saddr=None, v6_daddr=None)
    record = InetRecord(kernel.prog, sock, 1)
    assert (record.local_address, record.remote_address) == ("127.0.0.1", "10.0.0.2")
