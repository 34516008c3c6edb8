# SPDX-License-Identifier: LGPL-2.1-or-later
"""``struct proto``, and what the kernel counts of sockets."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from drgn import Object, Program, sizeof

from drgn_sockets.kernel.lists import list_for_each_entry
from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.percpu import per_cpu_sums, percpu_counter_sum
from drgn_sockets.kernel.structs import CString, Int, OptInt, Struct
from drgn_sockets.program import byte_order

_MAX_PROTOS = 1 << 12
# include/uapi/linux/snmp.h
_TCP_MIB_CURRESTAB = 9


class Proto(Struct):
    """``struct proto``."""

    C_TYPE = "struct proto"

    next = Int("node.next", help="next in proto_list")
    name = CString("name", help="name")
    obj_size = Int("obj_size", help="size of a socket, bytes")
    inuse_idx = Int("inuse_idx", help="which of prot_inuse counts its sockets")
    memory_allocated = Int("memory_allocated", help="atomic_long_t *, pages")
    memory_pressure = Int("memory_pressure", help="unsigned long *, whether these are scarce")
    sockets_allocated = Int("sockets_allocated", help="struct percpu_counter *")
    max_header = Int("max_header", help="room for headers, bytes")
    slab = Int("slab", help="struct kmem_cache *")
    owner = Int("owner", help="struct module *")
    close = Int("close")
    connect = Int("connect")
    disconnect = Int("disconnect")
    accept = Int("accept")
    ioctl = Int("ioctl")
    init = Int("init")
    destroy = Int("destroy")
    shutdown = Int("shutdown")
    setsockopt = Int("setsockopt")
    getsockopt = Int("getsockopt")
    sendmsg = Int("sendmsg")
    recvmsg = Int("recvmsg")
    # Linux kernel commit dc97391e6610 ("sock: Remove ->sendpage*() in favour of
    # sendmsg(MSG_SPLICE_PAGES)") (in v6.5)
    sendpage = OptInt("sendpage")
    bind = Int("bind")
    backlog_rcv = Int("backlog_rcv")
    hash = Int("hash")
    unhash = Int("unhash")
    get_port = Int("get_port")
    enter_memory_pressure = Int("enter_memory_pressure")


class _Owner(Struct):
    """``struct module``."""

    C_TYPE = "struct module"

    name = CString("name", help="name")


def for_each_proto(prog: Program) -> Iterator[Proto | Lost]:
    """
    Iterate over all protocols, the one that was registered last first.

    :return: Iterator of the decoded ``struct proto``. A ``Lost`` stands for one that cannot be
        read.
    """
    head = prog["proto_list"].address_of_().value_()
    return list_for_each_entry(Proto.layout(prog), head, "next", _MAX_PROTOS)


def find_proto(prog: Program, symbol: str) -> Proto | None:
    """
    The protocol of a symbol, ``None`` where the kernel has none.

    :raises FaultError: if it cannot be read
    """
    try:
        address = prog.symbol(symbol).address
    except LookupError:
        return None
    return Proto.layout(prog).read(address)


def _long(prog: Program, address: int) -> int:
    form = struct.Struct(f"{byte_order(prog)}{'q' if sizeof(prog.type('long')) == 8 else 'i'}")
    return form.unpack(prog.read(address, form.size))[0]  # type: ignore[no-any-return]


def proto_memory_allocated(prog: Program, proto: Proto) -> int:
    """Pages that sockets of a protocol have; -1 if the protocol does not count them."""
    return max(0, _long(prog, proto.memory_allocated)) if proto.memory_allocated else -1


def proto_memory_pressure(prog: Program, proto: Proto) -> bool | None:
    """Whether the memory of a protocol is scarce; ``None`` if the protocol does not tell."""
    return bool(_long(prog, proto.memory_pressure)) if proto.memory_pressure else None


def module_name(prog: Program, owner: int) -> bytes:
    """
    Name of a ``struct module *``, ``kernel`` for none.

    :raises FaultError: if it cannot be read
    """
    return _Owner.layout(prog).read(owner).name if owner else b"kernel"


class SocketsInUse(NamedTuple):
    """Numbers of sockets of a network namespace."""

    #: All sockets (``sock_inuse_get()``).
    all: int
    #: Sockets of each protocol, by its ``inuse_idx``.
    by_index: list[int]

    def of(self, proto: Proto) -> int:
        """``sock_prot_inuse_get()``"""
        index = proto.inuse_idx
        return max(0, self.by_index[index]) if index < len(self.by_index) else 0


def sockets_in_use(net: Object) -> SocketsInUse:
    """
    Count the sockets of a network namespace, as the kernel does.

    :param net: ``struct net *``
    :raises FaultError: if that cannot be read
    """
    prog = net.prog_
    inuse = prog.type("struct prot_inuse")
    count = sizeof(inuse) // sizeof(prog.type("int"))
    sums = per_cpu_sums(prog, net.core.prot_inuse.value_(), "i", count)
    # Linux kernel commit 4199bae10c49 ("net: merge net->core.prot_inuse and
    # net->core.sock_inuse") (in v5.17)
    if inuse.has_member("all"):
        return SocketsInUse(sums[0], sums[1:])
    (total,) = per_cpu_sums(prog, net.core.sock_inuse.value_(), "i")
    return SocketsInUse(total, sums)


def tcp_orphan_count(prog: Program) -> int:
    """Count the TCP sockets of all network namespaces that no process has any more."""
    address = prog.symbol("tcp_orphan_count").address
    proto = prog.type("struct proto")
    # Linux kernel commit 19757cebf0c5 ("tcp: switch orphan_count to bare per-cpu counters") (in
    # v5.16, and in stable kernels)
    if proto.has_member("orphan_count"):
        counter = proto.member("orphan_count").type.type
        if counter.type_name() == "struct percpu_counter":
            return max(0, percpu_counter_sum(Object(prog, prog.pointer_type(counter), address)))
    return max(0, per_cpu_sums(prog, address, "i")[0])


def sockets_allocated(prog: Program, proto: Proto) -> int:
    """``proto_sockets_allocated_sum_positive()``: of all network namespaces."""
    counter = Object(prog, "struct percpu_counter *", proto.sockets_allocated)
    return max(0, percpu_counter_sum(counter))


def timewait_count(net: Object) -> int:
    """
    Count the connections of a network namespace that are in TIME-WAIT.

    :param net: ``struct net *``
    """
    row = net.ipv4.tcp_death_row
    # Linux kernel commit fbb8295248e1 ("tcp: allocate tcp_death_row outside of struct
    # netns_ipv4") (in v5.18) replaced tw_count by tw_refcount, which is one higher.
    try:
        return row.tw_refcount.refs.counter.value_() - 1  # type: ignore[no-any-return]
    except AttributeError:
        return row.tw_count.counter.value_()  # type: ignore[no-any-return]


def fragments(fqdir: Object) -> tuple[int, int]:
    """
    Get the number of datagrams whose fragments are kept, and the memory of the fragments, bytes.

    :param fqdir: ``struct fqdir *``
    """
    return fqdir.rhashtable.nelems.counter.value_(), fqdir.mem.counter.value_()


def tcp_established(net: Object) -> int:
    """
    ``CurrEstab`` of ``/proc/net/snmp``: connections of a network namespace that are established,
    or wait for the process to close them.

    :param net: ``struct net *``
    """
    mib = net.mib.tcp_statistics
    count = _TCP_MIB_CURRESTAB + 1
    return per_cpu_sums(net.prog_, mib.value_(), "q", count)[_TCP_MIB_CURRESTAB]
