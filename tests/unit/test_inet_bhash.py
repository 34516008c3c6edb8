# SPDX-License-Identifier: LGPL-2.1-or-later
"""TCP sockets that are bound and no more: found by their port, whatever the chains look like."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from drgn_sockets.kernel import inet_bhash
from drgn_sockets.kernel.chains import HashTable
from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.sock import AF_INET, AF_INET6, TCP_CLOSE, TCP_LISTEN

from .fake_kernel import PAGE, FakeKernel

SOCKS = 0xFFFF888200000000
SIZE = 256
OFFSET = 16


class Bound:
    """A table with a bucket of one port, and sockets at it."""

    def __init__(self, by_port: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kernel = k = FakeKernel()
        node = k.struct("hlist_node", ("next", k.ptr), ("pprev", k.ptr))
        head = k.struct("hlist_head", ("first", k.ptr))
        owners = ("owners", head)
        k.struct(
            "inet_bind_bucket", ("port", k.ulong), ("node", node), *([owners] if by_port else [])
        )
        self.bucket = k.struct("inet_bind2_bucket", ("port", k.ulong), ("node", node), owners)
        bucket_head = k.struct("inet_bind_hashbucket", ("lock", k.ulong), ("chain", head))
        counter = k.struct("counter", ("counter", k.u64))
        # Only what a walk looks at has to be in its place.
        self.sock = k.struct(
            "sock_common",
            *(("skc_family", k.u16), ("skc_state", k.u8), ("pad", k.array(k.u8, 13))),
            ("skc_bind_node", node),
            ("skc_node", node),
            ("skc_net", k.struct("possible_net_t", ("net", k.ptr))),
            (
                "skc_refcnt",
                k.struct("refcount_t", ("refs", k.struct("atomic", ("counter", k.u32)))),
            ),
            *((name, k.u32) for name in ("skc_bound_dev_if", "skc_daddr", "skc_rcv_saddr")),
            *((name, k.u8) for name in ("skc_reuse", "skc_reuseport", "skc_ipv6only")),
            *(("skc_dport", k.u16), ("skc_num", k.u16), ("skc_cookie", counter)),
            ("skc_flags", k.ulong),
            size=SIZE,
        )
        k.map(SOCKS, PAGE)
        self.buckets = k.alloc(2 * self.bucket.size)
        table = k.alloc(2 * bucket_head.size)
        k.put(table, bucket_head, {"chain": {"first": self.buckets + 8}})
        monkeypatch.setattr(
            inet_bhash,
            "_tables",
            lambda prog, by_port: [HashTable(table, 2, bucket_head.size, 8)] * 2,
        )

    def at(self, i: int) -> int:
        return SOCKS + i * SIZE

    def chain(self, states: Sequence[int], end: int = 0, family: int = AF_INET) -> None:
        """Sockets in these states at the port; the last leads to *end*."""
        first = {"first": self.at(0) + OFFSET if states else end}
        self.kernel.put(self.buckets, self.bucket, {"port": 80, "owners": first})
        for i, state in enumerate(states):
            last = i == len(states) - 1
            following = {"next": end if last else self.at(i + 1) + OFFSET}
            value = {"skc_family": family, "skc_state": state, "skc_bind_node": following}
            self.kernel.put(self.at(i), self.sock, value)

    def found(self, known: Sequence[int] = ()) -> list[tuple[int, bool]]:
        """Numbers of the sockets, and whether each could be read."""
        walked = inet_bhash.for_each_bound_tcp(self.kernel.prog, {self.at(i) for i in known})
        return [((s.address - SOCKS) // SIZE, not isinstance(s, Lost)) for s in walked]


@pytest.fixture(params=[True, False], ids=["by port", "by address"])
def ports(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bound:
    return Bound(request.param, monkeypatch)


def test_only_what_is_bound_and_no_more(ports: Bound) -> None:
    ports.chain([TCP_CLOSE, TCP_LISTEN, TCP_CLOSE, 1, TCP_CLOSE], family=AF_INET6)
    assert ports.found() == [(0, True), (2, True), (4, True)]
    assert ports.found(known=[2]) == [(0, True), (4, True)]


def test_nobody_at_a_port(ports: Bound) -> None:
    ports.chain([])
    assert ports.found() == []


def test_a_chain_that_loops(ports: Bound) -> None:
    ports.chain([TCP_CLOSE, TCP_CLOSE], end=ports.at(0) + OFFSET)
    assert ports.found() == [(0, True), (1, True)]


def test_a_chain_that_leads_nowhere(ports: Bound) -> None:
    ports.chain([TCP_CLOSE], end=SOCKS + 1000 * SIZE + OFFSET)
    assert ports.found() == [(0, True), (1000, False)]


def test_what_is_no_inet_socket(ports: Bound) -> None:
    ports.chain([TCP_CLOSE], family=77)
    assert ports.found() == [(0, False)]
