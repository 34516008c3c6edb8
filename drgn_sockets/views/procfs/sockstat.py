# SPDX-License-Identifier: LGPL-2.1-or-later
"""``/proc/net/{sockstat,sockstat6}``: numbers of sockets, and the memory that they use."""

from __future__ import annotations

from collections.abc import Iterator

from drgn_sockets.kernel import proto as p
from drgn_sockets.views.procfs.base import Looker, NetFile

Counts = dict[str, int]


def sockstat(at: Looker, net: int) -> Iterator[tuple[str, Counts]]:
    """``sockstat_seq_show()``: the words at the beginning of each line, and its counts by name."""
    prog, namespace = at.prog, at.net_object(net)
    inuse = p.sockets_in_use(namespace)
    yield "sockets", {"used": inuse.all}
    for name, symbol in (
        *(("TCP", "tcp_prot"), ("UDP", "udp_prot")),
        *(("UDPLITE", "udplite_prot"), ("RAW", "raw_prot")),
    ):
        proto = p.find_proto(prog, symbol)
        # This kernel may have no UDP-Lite.
        if proto is None:
            continue
        counts = {"inuse": inuse.of(proto)}
        if name == "TCP":
            counts["orphan"] = p.tcp_orphan_count(prog)
            counts["tw"] = p.timewait_count(namespace)
            counts["alloc"] = p.sockets_allocated(prog, proto)
        if name in ("TCP", "UDP"):
            counts["mem"] = p.proto_memory_allocated(prog, proto)
        yield name, counts
    yield "FRAG", dict(zip(("inuse", "memory"), p.fragments(namespace.ipv4.fqdir)))


def sockstat6(at: Looker, net: int) -> Iterator[tuple[str, Counts]]:
    """``sockstat6_seq_show()``: the word at the beginning of each line, and its counts by name."""
    namespace = at.net_object(net)
    inuse = p.sockets_in_use(namespace)
    for name in ("TCP", "UDP", "UDPLITE", "RAW"):
        proto = p.find_proto(at.prog, f"{name.lower()}v6_prot")
        if proto is not None:
            yield f"{name}6", {"inuse": inuse.of(proto)}
    yield "FRAG6", dict(zip(("inuse", "memory"), p.fragments(namespace.ipv6.fqdir)))


class SockstatFile(NetFile):
    """A file with a line for each protocol; each line has names for its own columns."""

    columns = ("protocol", "used", "inuse", "orphan", "tw", "alloc", "mem", "memory")
    key = ("protocol",)

    def lines(self, at: Looker, net: int) -> Iterator[bytes]:
        rows = sockstat6 if self.name.endswith("6") else sockstat
        for name, counts in rows(at, net):
            words = (f"{what} {count}" for what, count in counts.items())
            yield f"{name}: {' '.join(words)}\n".encode("ascii")
