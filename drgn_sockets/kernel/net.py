# SPDX-License-Identifier: LGPL-2.1-or-later
"""Network namespaces."""

from __future__ import annotations

import os
from collections.abc import Iterator

from drgn import Object, Program, ProgramFlags

from drgn_sockets.kernel.memory import UNREADABLE, remembered
from drgn_sockets.named_tuple import NamedTuple

_MAX_NETS = 1 << 20
# include/linux/netdevice.h: NETDEV_HASHENTRIES.
_NETDEV_HASHENTRIES = 1 << 8
_MAX_DEVICES = 1 << 20


class NetNamespace(NamedTuple):
    """A network namespace."""

    #: Address of the ``struct net``.
    address: int
    #: Inode of ``/proc/PID/ns/net``.
    ino: int


def _list(prog: Program) -> Iterator[Object]:
    # As list_for_each_entry(), without all of drgn's helpers, which come with the first one.
    head = prog["net_namespace_list"].address_of_()
    offset = prog.type("struct net").member("list").offset
    pointer = prog.pointer_type(prog.type("struct net"))
    node = head.next.value_()
    while node != head.value_():
        net = Object(prog, pointer, node - offset)
        yield net
        node = net.list.next.value_()


def net_namespaces(prog: Program) -> dict[int, NetNamespace]:
    """
    All network namespaces by the address of their ``struct net``, the initial one first.

    :raises LookupError: if the program lacks the types
    """
    found: dict[int, NetNamespace] = {}

    def add(net: Object) -> None:
        address = net.value_()
        if address not in found:
            found[address] = NetNamespace(address, net.ns.inum.value_())

    try:
        init_net = prog["init_net"]
        add(init_net.address_of_())
        operations = init_net.ns.ops.value_()
        for _, net in zip(range(_MAX_NETS), _list(prog)):
            if net.value_() in found and len(found) > 1:
                break
            # What a broken list leads to has not the operations of a network namespace.
            if net.ns.ops.value_() != operations:
                break
            add(net)
    except UNREADABLE:
        # What was found still tells most of it; sockets of the others have no inode for
        # their namespace.
        pass
    return found


def current_net(prog: Program) -> int:
    """The ``struct net *`` that we live in, on a core or a guest the initial one."""
    nets = {ns.ino: net for net, ns in net_namespaces(prog).items()}
    if prog.flags & ProgramFlags.IS_LIVE and prog.flags & ProgramFlags.IS_LOCAL:
        own = nets.get(os.stat("/proc/self/ns/net").st_ino)  # noqa: PTH116
        if own is not None:
            return own
    return prog["init_net"].address_of_().value_()  # type: ignore[no-any-return]


def net_ino(prog: Program, net: int) -> int:
    """Inode of ``/proc/PID/ns/net`` for a ``struct net *``, 0 if it cannot be read."""
    try:
        return Object(prog, "struct net *", net).ns.inum.value_()  # type: ignore[no-any-return]
    except UNREADABLE:
        return 0


def netdev_name_by_index(prog: Program, net: int, ifindex: int) -> bytes | None:
    """Name of the interface *ifindex* in a ``struct net *``, ``None`` if there is none."""
    # As drgn's netdev_get_by_index(), without all of its helpers, and with an end.
    try:
        heads = Object(prog, "struct net *", net).dev_index_head
        device = prog.type("struct net_device")
        pointer = prog.pointer_type(device)
        offset = device.member("index_hlist").offset
        node = heads[ifindex & _NETDEV_HASHENTRIES - 1].first.value_()
        for _ in range(_MAX_DEVICES):
            if not node:
                break
            found = Object(prog, pointer, node - offset)
            if found.ifindex.value_() == ifindex:
                return found.name.string_()  # type: ignore[no-any-return]
            node = found.index_hlist.next.value_()
    except (LookupError, *UNREADABLE):
        pass
    return None


def pingpong_thresh(prog: Program, net: int) -> int:
    """
    How often a TCP session must answer at once to count as interactive, as
    ``inet_csk_in_pingpong_mode()`` has it.
    """
    # Linux kernel commit 562b1fdf061b ("tcp: Set pingpong threshold via sysctl") (in v6.7)
    # made a sysctl of TCP_PINGPONG_THRESH, which was 1.
    ipv4 = Object(prog, "struct net *", net).ipv4
    member = "sysctl_tcp_pingpong_thresh"
    has = prog.type("struct netns_ipv4").has_member(member)
    return getattr(ipv4, member).value_() if has else 1


def ip_local_port_range(prog: Program, net: int) -> tuple[int, int]:
    """The lowest and highest port that the kernel chooses, ``net.ipv4.ip_local_port_range``."""
    known = remembered(prog, "local_ports")
    if net not in known:
        try:
            found = Object(prog, "struct net *", net).ipv4.ip_local_ports.range.value_()
            # Linux kernel commit d9f28735af87 ("Use READ/WRITE_ONCE() for IP
            # local_port_range.") (in v6.8) put both into one word.
            known[net] = tuple(found) if isinstance(found, list) else (found & 0xFFFF, found >> 16)
        except UNREADABLE:
            # net/ipv4/af_inet.c: inet_init_net()
            known[net] = 32768, 60999
    return known[net]  # type: ignore[no-any-return]


def task_net(prog: Program, nsproxy: int) -> int:
    """Inode of the network namespace of a ``struct nsproxy *``, 0 if it cannot be read."""
    try:
        net = Object(prog, "struct nsproxy *", nsproxy).net_ns
        return net.ns.inum.value_()  # type: ignore[no-any-return]
    except UNREADABLE:
        return 0
