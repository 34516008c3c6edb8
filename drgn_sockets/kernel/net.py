# SPDX-License-Identifier: LGPL-2.1-or-later
"""Network namespaces."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from drgn import FaultError, Object, Program

from drgn_sockets.kernel.lists import hlist_for_each_entry, list_for_each_entry
from drgn_sockets.kernel.lost import (
    Lost,
    as_fault,
    or_lost,
    present,
    refuse,
    sift,
    unbroken,
    unreadable,
)
from drgn_sockets.kernel.moving import stands
from drgn_sockets.kernel.structs import CString, Int, Struct
from drgn_sockets.program import is_running_kernel, once_per_second

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


class _Net(Struct):
    C_TYPE = "struct net"

    node = Int("list.next", help="next network namespace")
    ino = Int("ns.inum")
    ops = Int("ns.ops", help="const struct proc_ns_operations *")


def for_each_net(prog: Program) -> Iterator[NetNamespace | Lost]:
    """
    Iterate over all network namespaces, as ``for_each_net()``, the initial one first.

    :return: Iterator of the namespaces. A ``Lost`` stands for those that cannot be read.
    :raises LookupError: if the program lacks the types
    """
    layout = _Net.layout(prog)
    init_net = prog["init_net"].address_of_().value_()
    first = or_lost(layout.read, init_net)
    yield first if isinstance(first, Lost) else NetNamespace(init_net, first.ino)
    head = prog["net_namespace_list"].address_of_().value_()
    for net in list_for_each_entry(layout, head, "node", _MAX_NETS):
        if isinstance(net, Lost):
            yield net
        elif net.address == init_net:
            continue
        elif not isinstance(first, Lost) and net.ops != first.ops:
            # A damaged link led here.
            yield Lost("struct net", net.address, "not a network namespace")
        else:
            yield NetNamespace(net.address, net.ino)


def is_net(prog: Program, address: int) -> bool:
    """Whether a ``struct net`` is at *address*, judging by the operations of its ``ns``."""
    layout = _Net.layout(prog)
    init_net = or_lost(layout.read, prog["init_net"].address_of_().value_())
    net = or_lost(layout.read, address)
    return not isinstance(net, Lost) and (isinstance(init_net, Lost) or net.ops == init_net.ops)


def net_namespaces(
    prog: Program, lose: Callable[[Lost], object] = refuse
) -> dict[int, NetNamespace]:
    """
    All network namespaces that can be read, by the address of their ``struct net``, the initial
    one first.

    :param lose: Called with those that cannot be read. Without it, they raise ``FaultError``.
    :raises LookupError: if the program lacks the types
    """

    def look(lose: Callable[[Lost], object]) -> dict[int, NetNamespace]:
        return {net.address: net for net in sift(for_each_net(prog), lose)}

    return stands(prog, look, lose)


def current_net(prog: Program) -> int:
    """Our own ``struct net *`` on the running kernel; on a core or a guest the initial one."""
    if is_running_kernel(prog):
        nets = {net.ino: net.address for net in present(for_each_net(prog))}
        own = nets.get(os.stat("/proc/self/ns/net").st_ino)  # noqa: PTH116
        if own is not None:
            return own
    return prog["init_net"].address_of_().value_()  # type: ignore[no-any-return]


def net_ino(prog: Program, net: int) -> int:
    """
    Inode of ``/proc/PID/ns/net`` for a ``struct net *``, 0 for a null pointer.

    :raises FaultError: if it cannot be read
    """
    return _Net.layout(prog).read(net).ino if net else 0


class _NetDevice(Struct):
    C_TYPE = "struct net_device"

    name = CString("name")
    ifindex = Int("ifindex")
    node = Int("index_hlist.next", help="next in its hash chain")


def netdev_name_by_index(prog: Program, net: int, ifindex: int) -> bytes | None:
    """
    Name of a network interface, as ``netdev_name_by_index()``.

    >>> netdev_name_by_index(prog, prog["init_net"].address_, 1)
    b'lo'

    :param net: ``struct net *`` as an integer
    :return: ``None`` if there is none
    :raises FaultError: if that cannot be read
    """
    # drgn's netdev_get_by_index() does not end on a list that loops.
    bucket = ifindex & _NETDEV_HASHENTRIES - 1
    heads = Object(prog, "struct net *", net).dev_index_head
    try:
        first = heads[bucket].first.value_()
    except FaultError as e:
        raise unreadable("hash table of network interfaces", e.address) from None
    layout = _NetDevice.layout(prog)
    for device in unbroken(hlist_for_each_entry(layout, first, "node", _MAX_DEVICES)):
        if device.ifindex == ifindex:
            return device.name
        if device.ifindex & _NETDEV_HASHENTRIES - 1 != bucket:
            why = f"an interface with index {device.ifindex} is in another hash bucket"
            raise as_fault(Lost(_NetDevice.C_TYPE, device.address, why))
    return None


def pingpong_thresh(prog: Program, net: int) -> int:
    """
    Get how many answers make a TCP connection interactive, as in ``inet_csk_in_pingpong_mode()``.
    """
    # Linux kernel commit 562b1fdf061b ("tcp: Set pingpong threshold via sysctl") (in v6.7)
    # replaced the constant TCP_PINGPONG_THRESH, which was 1.
    ipv4 = Object(prog, "struct net *", net).ipv4
    member = "sysctl_tcp_pingpong_thresh"
    has = prog.type("struct netns_ipv4").has_member(member)
    return getattr(ipv4, member).value_() if has else 1


@once_per_second
def ip_local_port_range(prog: Program, net: int) -> tuple[int, int]:
    """
    The lowest and highest port that the kernel chooses, ``net.ipv4.ip_local_port_range``.

    :raises FaultError: if they cannot be read
    """
    found = Object(prog, "struct net *", net).ipv4.ip_local_ports.range.value_()
    # Linux kernel commit d9f28735af87 ("Use READ/WRITE_ONCE() for IP local_port_range.") (in v6.8)
    # put both into one word.
    if isinstance(found, list):
        return found[0], found[1]
    return found & 0xFFFF, found >> 16


class _Nsproxy(Struct):
    C_TYPE = "struct nsproxy"

    net = Int("net_ns", help="struct net *")


def task_net(prog: Program, nsproxy: int) -> int:
    """
    Inode of the network namespace of a ``struct nsproxy *``.

    :raises FaultError: if it cannot be read
    """
    return net_ino(prog, _Nsproxy.layout(prog).read(nsproxy).net)
