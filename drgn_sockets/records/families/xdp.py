# SPDX-License-Identifier: LGPL-2.1-or-later
"""XDP sockets."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from drgn import Program

from drgn_sockets.kernel.chains import NOTHING
from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.sock import TCP_CLOSE, Sock, SockCommon, for_each_xdp
from drgn_sockets.kernel.structs import CString, Int, OptInt, Struct
from drgn_sockets.records.socket import Derived, Endpoint, Family, SocketRecord


class XdpSock(Sock):
    """``struct xdp_sock``."""

    C_TYPE = "struct xdp_sock"

    xdp_state = Int("state", help="XSK_*: 0 ready, 1 bound, 2 unbound again")
    dev = Int("dev", help="struct net_device * it is bound to")
    queue_id = Int("queue_id", help="queue of that")
    zc = Int("zc", help="it works without copying")
    # Since v6.6 ("xsk: introduce XSK_USE_SG bind flag for xsk socket")
    sg = OptInt("sg", help="packets may be in several pieces")
    umem = Int("umem", help="struct xdp_umem *, the memory shared with the process")
    pool = Int("pool", help="struct xsk_buff_pool *")
    rx = Int("rx", help="struct xsk_queue * it receives into")
    tx = Int("tx", help="struct xsk_queue * it sends from")
    rx_dropped = Int("rx_dropped", help="packets dropped")
    rx_queue_full = Int("rx_queue_full", help="packets that its ring had no room for")


class _Queue(Struct):
    C_TYPE = "struct xsk_queue"
    nentries = Int("nentries")
    invalid_descs = Int("invalid_descs")
    queue_empty_descs = Int("queue_empty_descs")


class _Umem(Struct):
    C_TYPE = "struct xdp_umem"
    id = Int("id")
    size = Int("size")
    npgs = Int("npgs")
    chunk_size = Int("chunk_size")
    headroom = Int("headroom")
    zc = Int("zc")
    users = Int("users.refs.counter")


class _Pool(Struct):
    C_TYPE = "struct xsk_buff_pool"
    netdev = Int("netdev")
    queue_id = Int("queue_id")
    fq = Int("fq")
    cq = Int("cq")


class _Device(Struct):
    C_TYPE = "struct net_device"
    name = CString("name")
    ifindex = Int("ifindex")


class XdpUmem(NamedTuple):
    """``struct xdp_diag_umem``"""

    id: int
    #: Bytes.
    size: int
    num_pages: int
    chunk_size: int
    headroom: int
    ifindex: int
    queue_id: int
    zero_copy: int
    refs: int


class XdpStats(NamedTuple):
    """``struct xdp_diag_stats``"""

    rx_dropped: int
    rx_invalid: int
    rx_full: int
    fill_ring_empty: int
    tx_invalid: int
    tx_ring_empty: int


class XdpRecord(SocketRecord):
    """An XDP socket."""

    family_name = "xdp"
    struct: ClassVar[type[SockCommon]] = XdpSock

    state = Derived(lambda state: TCP_CLOSE, "state", doc="As ss has it: always closed.")

    def _read(self, cls: type[Any], address: int) -> Any:
        return cls.layout(self.prog).follow(address) if address else None

    @functools.cached_property
    def device(self) -> tuple[int, bytes] | None:
        """Index and name of the interface that it is bound to."""
        device = self._read(_Device, self.sock.dev)
        return (device.ifindex, device.name) if device is not None else None

    @functools.cached_property
    def _pool(self) -> _Pool | None:
        return self._read(_Pool, self.sock.pool)  # type: ignore[no-any-return]

    def _queues(self) -> dict[str, int]:
        pool = self._pool
        return {
            "rx": self.sock.rx,
            "tx": self.sock.tx,
            "fr": pool.fq if pool is not None else 0,
            "cr": pool.cq if pool is not None else 0,
        }

    def rings(self) -> dict[str, int]:
        """Number of entries of each of its rings: ``rx``, ``tx``, ``fr``, ``cr``."""
        queues = {name: self._read(_Queue, at) for name, at in self._queues().items()}
        return {name: queue.nentries for name, queue in queues.items() if queue is not None}

    def umem(self) -> XdpUmem | None:
        """``xsk_diag_put_umem()``: the memory that it shares with the process, or ``None``."""
        umem = self._read(_Umem, self.sock.umem)
        if umem is None:
            return None
        pool = self._pool
        device = self._read(_Device, pool.netdev) if pool is not None else None
        return XdpUmem(
            umem.id,
            umem.size,
            umem.npgs,
            umem.chunk_size,
            umem.headroom,
            device.ifindex if device is not None else 0,
            pool.queue_id if pool is not None else 0,
            umem.zc,
            umem.users,
        )

    def stats(self) -> XdpStats:
        """``xsk_diag_put_stats()``"""
        at = self._queues()
        rx, tx, fill = (self._read(_Queue, at[name]) for name in ("rx", "tx", "fr"))
        return XdpStats(
            self.sock.rx_dropped,
            rx.invalid_descs if rx is not None else 0,
            self.sock.rx_queue_full,
            fill.queue_empty_descs if fill is not None else 0,
            tx.invalid_descs if tx is not None else 0,
            tx.queue_empty_descs if tx is not None else 0,
        )

    def local_end(self) -> Endpoint:
        """Interface and queue."""
        device = self.device
        if device is None or not device[0]:
            return Endpoint(None, b"", "")
        service = b"q%d" % self.sock.queue_id
        return Endpoint(device[1], service)

    @classmethod
    def netid_of(cls, family: int, type: int, protocol: int) -> str:
        return "xdp"

    @property
    def is_unbound(self) -> bool:
        return not self.sock.dev

    def extended_words(self) -> str:
        rings = {name: f"{name}(entries:{n})" for name, n in self.rings().items()}
        words = [rings[name] for name in ("rx", "tx") if name in rings]
        umem = self.umem()
        if umem is not None:
            words.append(
                f"umem(id:{umem.id},size:{umem.size},num_pages:{umem.num_pages},"
                f"chunk_size:{umem.chunk_size},headroom:{umem.headroom},ifindex:{umem.ifindex},"
                f"qid:{umem.queue_id},zc:{umem.zero_copy},refs:{umem.refs})"
            )
            words += [rings[name] for name in ("fr", "cr") if name in rings]
        stats = self.stats()
        words.append(
            f"stats(rx dropped:{stats.rx_dropped},rx invalid:{stats.rx_invalid},"
            f"rx queue full:{stats.rx_full},rx fill ring empty:{stats.fill_ring_empty},"
            f"tx invalid:{stats.tx_invalid},tx ring empty:{stats.tx_ring_empty})"
        )
        return " ".join(words)


class Xdp(Family):
    """XDP."""

    name = "xdp"
    record = XdpRecord

    def walk(
        self, prog: Program, known: Mapping[int, int] = NOTHING
    ) -> Iterator[SockCommon | Lost]:
        return for_each_xdp(prog, known)
