# SPDX-License-Identifier: LGPL-2.1-or-later
"""Socket buffers: the queues of sockets, and what is queued in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from drgn import FaultError, Object, Program, offsetof, sizeof
from drgn.helpers.linux.mm import page_to_virt
from drgn.helpers.linux.net import skb_shinfo

from drgn_sockets.kernel.memory import UNREADABLE
from drgn_sockets.kernel.structs import Int, OptInt, Struct

# More than any queue holds: its limit is a count of bytes, and a skb takes several hundred.
_MAX_SKBS = 1 << 20
# More than fragments can be nested.
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


class _RbNode(Struct):
    C_TYPE = "struct rb_node"
    left = Int("rb_left")
    right = Int("rb_right")


def _for_each_in_list(prog: Program, first: int, seen: set[int]) -> Iterator[int]:
    """From *first* on, until the list comes back to its head, which is in *seen*."""
    layout = _SkbLinks.layout(prog)
    address = first
    while address and address not in seen and len(seen) < _MAX_SKBS:
        seen.add(address)
        skb = layout.try_read(address)
        if skb is None:
            return
        yield address
        address = skb.next


def _for_each_in_tree(prog: Program, root: int, seen: set[int]) -> Iterator[int]:
    layout = _RbNode.layout(prog)
    offset = offsetof(prog.type("struct sk_buff"), "rbnode")
    left = [root]
    while left and len(seen) < _MAX_SKBS:
        address = left.pop()
        node = layout.try_read(address) if address - offset not in seen else None
        if node is not None:
            seen.add(address - offset)
            yield address - offset
            left += (node.left, node.right)


def sock_for_each_skb(sk: Object) -> Iterator[Object]:
    """
    Iterate over what is queued in a socket, in whichever of its queues.

    :param sk: ``struct sock *`` of a full socket; ``struct tcp_sock *`` and
        ``struct udp_sock *`` for the queues that only these have
    :return: Iterator of ``struct sk_buff *`` objects
    """
    prog, address = sk.prog_, sk.value_()
    type_ = prog.type("struct sk_buff *")
    queues = SockQueues.layout(prog).try_read(address)
    if queues is None:
        return
    sock = prog.type("struct sock")
    heads = {
        address + offsetof(sock, name)
        for name in ("sk_receive_queue", "sk_write_queue", "sk_error_queue")
    }
    lists = [queues.receive, queues.write, queues.error, queues.backlog]
    trees = [queues.rtx or 0]
    tag = sk.type_.type.tag
    if tag == "tcp_sock":
        tcp = _TcpQueues.layout(prog).try_read(address)
        trees.append(tcp.out_of_order if tcp else 0)
    elif tag == "udp_sock":
        udp = _UdpQueues.layout(prog).try_read(address)
        if udp is not None and udp.reader:
            lists.append(udp.reader)
            heads.add(address + offsetof(prog.type("struct udp_sock"), "reader_queue"))
    seen = set(heads)
    for first in lists:
        for skb in _for_each_in_list(prog, first, seen):
            yield Object(prog, type_, skb)
    for root in trees:
        for skb in _for_each_in_tree(prog, root, seen):
            yield Object(prog, type_, skb)


def skb_payload(skb: Object) -> bytes:
    """
    Read what a socket buffer holds, from its ``data`` on: its linear part, its page fragments
    and its list of fragments, as ``skb_copy_bits()``. What cannot be read is left out.

    :param skb: ``struct sk_buff *``
    :raises FaultError: if *skb* itself cannot be read
    """
    prog = skb.prog_
    parts: list[bytes] = []
    seen: set[int] = set()
    left = [skb]
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
            continue
        for frag in info.frags[: min(info.nr_frags.value_(), len(info.frags))]:
            try:
                parts.append(_frag(frag))
            except UNREADABLE:
                continue
        fragments = list(_for_each_in_list(prog, info.frag_list.value_(), set()))
        # The last is taken first.
        left += [Object(prog, skb.type_, address) for address in reversed(fragments)]
    return b"".join(parts)


def _frag(frag: Object) -> bytes:
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


def read_payload(prog: Program, sks: Iterable[Object]) -> int:
    """
    Read all that is queued in sockets.

    :param sks: ``struct sock *`` objects, see :func:`sock_for_each_skb()`
    :return: Bytes of payload
    """
    total = 0
    size = sizeof(prog.type("struct sk_buff"))
    for sk in sks:
        for skb in sock_for_each_skb(sk):
            try:
                # All of it, for those who come to look.
                prog.read(skb, size)
                total += len(skb_payload(skb))
            except FaultError:
                continue
    return total
