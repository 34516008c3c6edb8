# SPDX-License-Identifier: LGPL-2.1-or-later
"""Socket buffers: the queues of sockets, and what is queued in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from drgn import FaultError, Object, Program, offsetof, sizeof

from drgn_sockets.kernel.lists import for_each_linked
from drgn_sockets.kernel.lost import Lost, lost_by, raise_lost, refuse, sift
from drgn_sockets.kernel.memory import UNREADABLE, read_pointers
from drgn_sockets.kernel.rbtree import rb_for_each
from drgn_sockets.kernel.structs import Int, Layout, OptInt, Struct

S = TypeVar("S", bound=Struct)

# No queue holds more: its limit is a count of bytes, and a skb takes several hundred.
MAX_SKBS = 1 << 20
# No packet has more fragments in lists.
_MAX_FRAG_LISTS = 1 << 16


class SockQueues(Struct):
    """The queues of a ``struct sock``."""

    C_TYPE = "struct sock"

    receive = Int("sk_receive_queue.next", help="struct sk_buff *: to be received")
    write = Int("sk_write_queue.next", help="struct sk_buff *: to be sent")
    error = Int("sk_error_queue.next", help="struct sk_buff *: errors and timestamps")
    backlog = Int("sk_backlog.head", help="struct sk_buff *: came while the socket was locked")
    # 75c119afe14f ("tcp: implement rb-tree based retransmit queue", 4.15)
    rtx = OptInt("tcp_rtx_queue.rb_node", help="struct rb_node *: sent, not acknowledged")


class _TcpQueues(Struct):
    C_TYPE = "struct tcp_sock"
    out_of_order = Int("out_of_order_queue.rb_node", help="struct rb_node *: after a gap")


class _UdpQueues(Struct):
    C_TYPE = "struct udp_sock"
    reader = OptInt("reader_queue.next", help="struct sk_buff *: taken by who reads")


class _SkbLinks(Struct):
    C_TYPE = "struct sk_buff"
    next = Int("next")


def skb_queue_walk(layout: Layout[S], queue: int, limit: int = MAX_SKBS) -> Iterator[S | Lost]:
    """
    Iterate over a queue of socket buffers, as ``skb_queue_walk()``.

    :param layout: How to read a ``struct sk_buff``; its member ``next`` has to be declared.
    :param queue: ``struct sk_buff_head *`` as an integer
    :param limit: How many there may be
    :return: Iterator of the buffers. A ``Lost`` stands for the rest of a queue that cannot be read.
    """
    try:
        (first,) = read_pointers(layout.prog, queue, 1)
    except FaultError:
        yield Lost("struct sk_buff_head", queue)
    else:
        yield from for_each_linked(layout, first, head=queue, limit=limit)


def sock_for_each_skb(sk: Object) -> Iterator[Object | Lost]:
    """
    Iterate over the buffers in all queues of a socket.

    :param sk: ``struct sock *`` of a full socket; ``struct tcp_sock *`` and
        ``struct udp_sock *`` for the queues that only these have
    :return: Iterator of ``struct sk_buff *`` objects. A ``Lost`` stands for those that cannot be
        read.
    :raises FaultError: if the socket cannot be read
    """
    prog, address = sk.prog_, sk.value_()
    type_ = prog.type("struct sk_buff *")
    queues = SockQueues.layout(prog).read(address)
    sock, links = prog.type("struct sock"), _SkbLinks.layout(prog)
    # The first buffer of each list, and what the last one points to.
    lists = [
        (queues.receive, address + offsetof(sock, "sk_receive_queue")),
        (queues.write, address + offsetof(sock, "sk_write_queue")),
        (queues.error, address + offsetof(sock, "sk_error_queue")),
        (queues.backlog, 0),
    ]
    trees = [queues.rtx or 0]
    tag = sk.type_.type.tag
    if tag == "tcp_sock":
        trees.append(_TcpQueues.layout(prog).read(address).out_of_order)
    elif tag == "udp_sock":
        reader = _UdpQueues.layout(prog).read(address).reader
        if reader:
            head = address + offsetof(prog.type("struct udp_sock"), "reader_queue")
            lists.append((reader, head))
    for first, head in lists:
        for skb in for_each_linked(links, first, head=head, limit=MAX_SKBS):
            yield skb if isinstance(skb, Lost) else Object(prog, type_, skb.address)
    rbnode = offsetof(prog.type("struct sk_buff"), "rbnode")
    for root in trees:
        for node in rb_for_each(prog, root, MAX_SKBS):
            yield node if isinstance(node, Lost) else Object(prog, type_, node - rbnode)


def skb_payload(skb: Object) -> bytes:
    """
    Read what a socket buffer holds, from its ``data`` on: its linear part, its page fragments
    and its list of fragments, as ``skb_copy_bits()``. What cannot be read is left out.

    :param skb: ``struct sk_buff *``
    :raises FaultError: if *skb* itself cannot be read
    """
    # Importing the first of drgn's helpers imports all of them, which takes 34 ms.
    from drgn.helpers.linux.net import skb_shinfo

    prog = skb.prog_
    parts: list[bytes] = []
    seen: set[int] = set()
    left = [skb]
    lost: list[Lost] = []
    while left and len(seen) < _MAX_FRAG_LISTS:
        skb = left.pop()
        if skb.value_() in seen:
            continue
        seen.add(skb.value_())
        whole = skb[0].read_()
        try:
            parts.append(prog.read(whole.data, max(whole.len - whole.data_len, 0)))
            info = skb_shinfo(skb)[0].read_()
        except UNREADABLE:
            lost.append(Lost("struct sk_buff", skb.value_()))
            continue
        for frag in info.frags[: min(info.nr_frags.value_(), len(info.frags))]:
            try:
                parts.append(_frag(frag))
            except UNREADABLE:
                lost.append(Lost("skb_frag_t", frag.address_))
        links = for_each_linked(_SkbLinks.layout(prog), info.frag_list.value_(), limit=MAX_SKBS)
        fragments = [Object(prog, skb.type_, link.address) for link in sift(links, lost.append)]
        # The next one to be read is taken from the end.
        left += reversed(fragments)
    raise_lost(lost)
    return b"".join(parts)


def _frag(frag: Object) -> bytes:
    from drgn.helpers.linux.mm import page_to_virt

    prog = frag.prog_
    try:
        page, length, offset = frag.bv_page, frag.bv_len, frag.bv_offset
    except AttributeError:
        # 21d2e6737c97 ("net: add netmem_ref to skb_frag_t", 6.10)
        netmem, length, offset = frag.netmem, frag.len, frag.offset
        if netmem.value_() & 1:
            # A struct net_iov: memory of a device.
            return b""
        page = Object(prog, "struct page *", netmem.value_())
    data: bytes = prog.read(page_to_virt(page).value_() + offset.value_(), length.value_())
    return data


def read_payload(
    prog: Program, sks: Iterable[Object], lose: Callable[[Lost], object] = refuse
) -> int:
    """
    Read all that is queued in sockets.

    :param lose: Called with buffers that cannot be read.
    :param sks: ``struct sock *`` objects, see :func:`sock_for_each_skb()`
    :return: Bytes of payload
    """
    total = 0
    size = sizeof(prog.type("struct sk_buff"))
    for sk in sks:
        try:
            for skb in sift(sock_for_each_skb(sk), lose):
                total += _read_whole(skb, size, lose)
        except FaultError as e:
            lose(lost_by(e, "queue of a socket"))
    return total


def _read_whole(skb: Object, size: int, lose: Callable[[Lost], object]) -> int:
    try:
        # Every member is read, since a reader of the distilled core may need any of them.
        skb.prog_.read(skb, size)
        return len(skb_payload(skb))
    except FaultError as e:
        lose(lost_by(e, "struct sk_buff"))
        return 0
