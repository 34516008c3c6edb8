# SPDX-License-Identifier: LGPL-2.1-or-later
"""``struct sock``, and the hash tables of each protocol."""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Callable

from drgn import FaultError, Object, Program, TypeKind, offsetof, sizeof

from drgn_sockets.kernel.chains import NOTHING, HashTable, walk_buckets
from drgn_sockets.kernel.lost import Lost, lost_by, or_lost
from drgn_sockets.kernel.moving import LOOKS
from drgn_sockets.kernel.net import for_each_net, is_net
from drgn_sockets.kernel.proto import find_proto, sockets_in_use
from drgn_sockets.kernel.structs import BigEndian, Bytes, Int, OptBytes, OptInt, Struct
from drgn_sockets.kernel.symbols import has_symbol
from drgn_sockets.program import is_live

# include/linux/socket.h
AF_UNSPEC = 0
AF_UNIX = 1
AF_INET = 2
AF_INET6 = 10
AF_NETLINK = 16
AF_PACKET = 17
AF_TIPC = 30
AF_VSOCK = 40
AF_SMC = 43
AF_XDP = 44
AF_MAX = 64

# include/linux/net.h
SOCK_STREAM = 1
SOCK_DGRAM = 2
SOCK_RAW = 3
SOCK_SEQPACKET = 5

# include/uapi/linux/in.h
IPPROTO_ICMP = 1
IPPROTO_TCP = 6
IPPROTO_UDP = 17
IPPROTO_ICMPV6 = 58
IPPROTO_SCTP = 132
IPPROTO_UDPLITE = 136
IPPROTO_MPTCP = 262

# include/net/tcp_states.h
TCP_ESTABLISHED = 1
TCP_SYN_SENT = 2
TCP_SYN_RECV = 3
TCP_FIN_WAIT1 = 4
TCP_FIN_WAIT2 = 5
TCP_TIME_WAIT = 6
TCP_CLOSE = 7
TCP_CLOSE_WAIT = 8
TCP_LAST_ACK = 9
TCP_LISTEN = 10
TCP_NEW_SYN_RECV = 12

#: Each ``struct proto`` that counts the sockets in the tables of TCP.
TCP_PROTOS = ("tcp_prot", "tcpv6_prot")
#: States of connections that are no full sockets.
SMALL_STATES = frozenset({TCP_TIME_WAIT, TCP_NEW_SYN_RECV})
# include/net/inet_hashtables.h
_LISTENING_NULLS_BASE = 1 << 29
# net/unix/af_unix.c: UNIX_HASH_SIZE. One half of 256 buckets has the unbound and the abstract
# sockets, the other half has those bound to a path.
_UNIX_HASH_SIZE = 512


class SockCommon(Struct):
    """
    ``struct sock_common``: full sockets, timewait sockets and request sockets begin with it.
    """

    C_TYPE = "struct sock_common"

    family = Int("skc_family", help="address family")
    state = Int("skc_state", help="TCP_* state")
    net = Int("skc_net.net", help="struct net *")
    node = Int("skc_node.next", "skc_nulls_node.next", help="next in its hash chain")
    pprev = Int(
        "skc_node.pprev", "skc_nulls_node.pprev", help="NULL if it is in no hash table or list"
    )
    refcnt = Int("skc_refcnt.refs.counter", help="references")
    bound_dev_if = Int("skc_bound_dev_if", help="interface index it is bound to, 0 for none")
    reuse = Int("skc_reuse", help="SO_REUSEADDR")
    reuseport = Int("skc_reuseport", help="SO_REUSEPORT")
    ipv6only = Int("skc_ipv6only", help="IPV6_V6ONLY")
    daddr = Bytes("skc_daddr", help="remote IPv4 address")
    rcv_saddr = Bytes("skc_rcv_saddr", help="local IPv4 address")
    dport = BigEndian("skc_dport", help="remote port")
    num = Int("skc_num", help="local port; the protocol for raw sockets")
    v6_daddr = OptBytes("skc_v6_daddr", help="remote IPv6 address")
    v6_rcv_saddr = OptBytes("skc_v6_rcv_saddr", help="local IPv6 address")
    cookie = Int("skc_cookie.counter", help="SO_COOKIE, 0 if nobody has asked for it")


class Sock(SockCommon):
    """``struct sock``."""

    C_TYPE = "struct sock"

    type = Int("sk_type", help="SOCK_* type")
    protocol = Int("sk_protocol", help="IPPROTO_* or the family's protocol number")
    socket = Int("sk_socket", help="struct socket *; NULL if the kernel's own, or orphaned")
    prot = Int("__sk_common.skc_prot", help="struct proto *")
    uid = Int("sk_uid.val", help="owner, in the initial user namespace")
    shutdown = Int("sk_shutdown", help="1 receiving, 2 sending, 3 both")
    mark = Int("sk_mark", help="SO_MARK")
    priority = Int("sk_priority", help="SO_PRIORITY")
    err = Int("sk_err", help="pending error (errno)")
    rmem_alloc = Int(
        "sk_backlog.rmem_alloc.counter", help="bytes in the receive queue, with overhead"
    )
    rcvbuf = Int("sk_rcvbuf", help="SO_RCVBUF, bytes")
    wmem_alloc = Int("sk_wmem_alloc.refs.counter", help="bytes committed to sending, plus 1")
    sndbuf = Int("sk_sndbuf", help="SO_SNDBUF, bytes")
    forward_alloc = Int("sk_forward_alloc", help="bytes allocated ahead")
    wmem_queued = Int("sk_wmem_queued", help="bytes in the send queue, with overhead")
    omem_alloc = Int("sk_omem_alloc.counter", help="bytes for options and ancillary data")
    backlog_len = Int("sk_backlog.len", help="bytes in the backlog")
    drops = Int("sk_drops.counter", help="packets dropped, where there is no drop_counters")
    # Since v6.18 ("net: add sk->sk_drop_counters") UDP and raw sockets count by NUMA node.
    drop_counters = OptInt("sk_drop_counters", help="struct numa_drop_counters *")
    ack_backlog = Int("sk_ack_backlog", help="connections waiting for accept()")
    max_ack_backlog = Int("sk_max_ack_backlog", help="limit of the accept queue")
    receive_queue_len = Int("sk_receive_queue.qlen", help="packets in the receive queue")
    receive_queue = Int("sk_receive_queue.next", help="first struct sk_buff *, or the list itself")
    flags = Int("__sk_common.skc_flags", help="SOCK_* flags (enum sock_flags), as bits")
    userlocks = Int("sk_userlocks", help="SOCK_*_LOCK: what a user has set (8: the local port)")
    # Linux kernel commit 8520e224f547 ("bpf, cgroups: Fix cgroup v2 fallback on v1/v2 mixed mode")
    # (in v5.15, and in stable kernels). Before, one word holds either the pointer or, with bit 0
    # set, the data of cgroup v1.
    cgroup = OptInt(
        "sk_cgrp_data.cgroup", "sk_cgrp_data.val", help="struct cgroup * (of the hierarchy v2)"
    )
    bpf_storage = OptInt(
        "sk_bpf_storage", help="struct bpf_local_storage *, what BPF programs keep with it"
    )
    cgroup_classid = OptInt("sk_cgrp_data.classid", help="class ID of net_cls (cgroup v1)")


def has_sock_i_uid(prog: Program) -> bool:
    """Whether procfs and sock_diag show the owner of the inode instead of ``sk_uid``."""
    # Linux kernel commit c51da3f7a161 ("net: remove sock_i_uid()") (in v6.17 and v6.16.6)
    return has_symbol(prog, "sock_i_uid")


class NumaDropCounters(Struct):
    """``struct numa_drop_counters``."""

    C_TYPE = "struct numa_drop_counters"

    drops0 = Int("drops0.counter", help="packets dropped on even nodes")
    drops1 = Int("drops1.counter", help="packets dropped on odd nodes")


def sk_drops_read(prog: Program, sk: Sock) -> int:
    """Packets that a socket has dropped, as ``sk_drops_read()``."""
    if not sk.drop_counters:
        return sk.drops
    counters = NumaDropCounters.layout(prog).follow(sk.drop_counters)
    return counters.drops0 + counters.drops1 if counters else sk.drops


class SocketAlloc(Struct):
    """``struct socket_alloc``: a ``struct socket`` and its inode."""

    C_TYPE = "struct socket_alloc"

    state = Int("socket.state", help="SS_* state")
    type = Int("socket.type", help="SOCK_* type")
    ops = Int("socket.ops", help="const struct proto_ops *")
    sk = Int("socket.sk", help="struct sock *")
    file = Int("socket.file", help="struct file * whose private_data points here")
    ino = Int("vfs_inode.i_ino", help="inode number")
    uid = Int("vfs_inode.i_uid.val", help="owner of the inode")
    mode = Int("vfs_inode.i_mode", help="S_IFSOCK and permissions")
    sb = Int("vfs_inode.i_sb", help="struct super_block *")


def sock_cgroup_classid(prog: Program, sk: Sock) -> int:
    """Class ID that net_cls (cgroup v1) gives a socket, 0 for none."""
    classid = sk.cgroup_classid or 0
    if classid and not (sk.cgroup or 0) & 1:
        # On kernels with one word for both (see Sock.cgroup), a pointer is in the place of classid.
        data = prog.type("struct sock_cgroup_data")
        return 0 if data.has_member("val") else classid
    return classid


def sk_forward_alloc_get(sk: Sock) -> int:
    """Bytes allocated ahead, as ``sk_forward_alloc_get()``; MPTCP has a second count of these."""
    return sk.forward_alloc + (getattr(sk, "rmem_fwd_alloc", None) or 0)


# TCP has 13 states, DCCP one more, and SMC counts from 20 to 27 (net/smc/smc.h).
_MAX_STATE = 32


def is_sock(prog: Program, address: int) -> bool:
    """
    Whether what is at *address* looks like a ``struct sock`` (or a timewait or request
    socket): its family and state are possible, and it belongs to an existing network namespace.
    """
    common = or_lost(SockCommon.layout(prog).read, address)
    return (
        not isinstance(common, Lost)
        and 0 < common.family < AF_MAX
        # The state of a netlink socket that is not connected is 0.
        and (0 < common.state < _MAX_STATE or common.family == AF_NETLINK)
        and is_net(prog, common.net)
    )


def sock_i_ino(prog: Program, sk: int) -> int:
    """
    Inode of a socket.

    :param sk: ``struct sock *`` as an integer
    :return: 0 if it has none
    :raises FaultError: if that cannot be read
    """
    sock = Sock.layout(prog).follow(sk)
    if sock is None or not sock.socket:
        return 0
    offset = offsetof(prog.type("struct socket_alloc"), "socket")
    alloc = SocketAlloc.layout(prog).follow(sock.socket - offset)
    return alloc.ino if alloc is not None else 0


def _of_family(prog: Program, *families: int) -> Callable[[SockCommon], bool]:
    """Make a function that tells whether an entry of a hash table is a socket of *families*."""

    def is_one(entry: SockCommon) -> bool:
        return entry.family in families and 0 < entry.state < 16 and entry.net != 0

    return is_one


def walk_hashed(
    prog: Program, table: HashTable, *families: int, known: Mapping[int, int] = NOTHING
) -> Generator[tuple[int, SockCommon | Lost], None, int]:
    """
    Every socket of *families* in a hash table.

    :return: Iterator of (bucket, entry), as of
        :func:`~drgn_sockets.kernel.chains.walk_buckets`. The entries of one bucket are in the
        order of its chain.
    """
    layout = SockCommon.layout(prog)
    return walk_buckets(
        prog,
        table,
        layout,
        layout.cls.places["node"].offset,
        lambda entry: entry.node,
        _of_family(prog, *families),
        known,
        lambda entry: not entry.pprev,
    )


def _walk_tables(
    prog: Program,
    tables: Callable[[], Iterable[HashTable | Lost]],
    known: Mapping[int, int],
    *families: int,
    protos: Sequence[str] = (),
) -> Iterator[SockCommon | Lost]:
    """
    Walk all tables of a family.

    :param tables: Finds the tables; on a live kernel they come and go with namespaces.
    :param protos: Symbols of each ``struct proto`` that counts the sockets in these tables.
    """
    live = is_live(prog)
    whole, count = True, 0
    seen: set[HashTable] = set()
    for look in range(LOOKS if live else 1, 0, -1):
        try:
            for table in tables():
                if isinstance(table, Lost):
                    whole = False
                    yield table
                    continue
                if not table.address or table in seen:
                    continue
                seen.add(table)
                lost: list[Lost] = []
                walk = walk_hashed(prog, table, *families, known=known)
                while True:
                    try:
                        _, entry = next(walk)
                    except StopIteration as e:
                        count += e.value
                        break
                    if isinstance(entry, Lost):
                        whole = False
                        if live:
                            lost.append(entry)
                            continue
                    elif entry.state in SMALL_STATES:
                        # These are not counted.
                        count -= 1
                    yield entry
                # What is lost in a table that is gone by now is no damage.
                if lost and table in set(tables()):
                    yield from lost
        except FaultError as e:
            # The pointers to the tables cannot be read.
            if look == 1:
                whole = False
                yield lost_by(e, "hash table")
            continue
        break
    if whole and protos:
        yield from missing_socks(prog, protos, count)


def missing_socks(prog: Program, protos: Sequence[str], found: int) -> Iterator[Lost]:
    """
    Compare how many full sockets were found in tables with how many the kernel counts.

    :param protos: Symbols of each ``struct proto`` that counts the sockets in the tables
    :return: A ``Lost`` if sockets are missing
    """
    if is_live(prog):
        # Sockets come and go during the walk.
        return
    try:
        first, *rest = [proto for proto in (find_proto(prog, name) for name in protos) if proto]
        nets = [net for net in _nets(prog) if not isinstance(net, Lost)]
        counts = list(map(sockets_in_use, nets))
    except (ValueError, FaultError, LookupError):
        # Without the counts there is nothing to compare. No row is made of them.
        return
    told = sum(counted.of(proto) for counted in counts for proto in (first, *rest))
    if found < told:
        why = f"{told} sockets are counted, of which {told - found} are not found"
        name = first.name.decode("ascii", "backslashreplace")
        yield Lost(f"hash table of {name} sockets", first.address, why)


def _nets(prog: Program) -> Iterator[Object | Lost]:
    for net in for_each_net(prog):
        yield net if isinstance(net, Lost) else Object(prog, "struct net *", net.address)


def all_tcp_tables(prog: Program) -> Iterator[HashTable | Lost]:
    """The hash tables of TCP sockets of all network namespaces."""
    # All namespaces point to tcp_hashinfo. Since Linux kernel commit d1e5e6408b30 ("tcp: Introduce
    # optional per-netns ehash.") (in v6.1) a namespace may have its own tables instead.
    seen: set[int] = set()
    for net in _nets(prog):
        if isinstance(net, Lost):
            yield net
            continue
        hashinfo = net.ipv4.tcp_death_row.hashinfo.read_()
        if hashinfo.value_() not in seen:
            seen.add(hashinfo.value_())
            yield from _tables_of(hashinfo)


def tcp_tables(net: Object) -> Iterator[HashTable]:
    """
    Get the hash tables of the TCP sockets of a network namespace: one of listeners, one of others.

    :param net: ``struct net *``
    """
    return _tables_of(net.ipv4.tcp_death_row.hashinfo.read_())


def _tables_of(hashinfo: Object) -> Iterator[HashTable]:
    yield from _listening_tables(hashinfo)
    ehash = hashinfo.ehash
    yield HashTable(
        ehash.value_(),
        hashinfo.ehash_mask.value_() + 1,
        sizeof(ehash.type_.type),
        offsetof(ehash.type_.type, "chain.first"),
        nulls=0,
    )


def for_each_tcp_listener(prog: Program) -> Iterator[SockCommon | Lost]:
    """Every TCP socket that listens, in all network namespaces."""
    return _walk_tables(prog, lambda: _tcp_listening_tables(prog), NOTHING, AF_INET, AF_INET6)


def _tcp_listening_tables(prog: Program) -> Iterator[HashTable | Lost]:
    for net in _nets(prog):
        if isinstance(net, Lost):
            yield net
        else:
            yield from _listening_tables(net.ipv4.tcp_death_row.hashinfo)


def _listening_tables(hashinfo: Object) -> Iterator[HashTable]:
    # Linux kernel commit cae3873c5b3a ("net: inet: Retire port only listening_hash") (in
    # v5.19) left only lhash2, whose chains are linked with sk_nulls_node since then.
    if hashinfo.prog_.type("struct inet_hashinfo").has_member("listening_hash"):
        table = hashinfo.listening_hash
        bucket = table.type_.type
        yield HashTable(
            table.address_of_().value_(),
            len(table),
            sizeof(bucket),
            offsetof(bucket, "nulls_head"),
            nulls=_LISTENING_NULLS_BASE,
        )
    else:
        table = hashinfo.lhash2
        bucket = table.type_.type
        yield HashTable(
            table.value_(),
            hashinfo.lhash2_mask.value_() + 1,
            sizeof(bucket),
            offsetof(bucket, "nulls_head.first"),
            nulls=_LISTENING_NULLS_BASE,
        )


def for_each_tcp(prog: Program, known: Mapping[int, int] = NOTHING) -> Iterator[SockCommon | Lost]:
    """
    Every TCP socket that is hashed: listening, connected or connecting, timewait, request
    sockets, and connections that nobody has accepted yet, in all network namespaces.

    :param known: Sockets that are passed over, see
        :func:`~drgn_sockets.kernel.chains.walk_chains`
    :return: Iterator of the entries. A ``Lost`` stands for one that cannot be read.
    """
    return _walk_tables(
        prog, lambda: all_tcp_tables(prog), known, AF_INET, AF_INET6, protos=TCP_PROTOS
    )


def _udp_tables(prog: Program) -> Iterator[HashTable | Lost]:
    # Linux kernel commit 9804985bf27f ("udp: Introduce optional per-netns hash table.") (in
    # v6.2) gave network namespaces the choice of a table of their own.
    if prog.type("struct netns_ipv4").has_member("udp_table"):
        for net in _nets(prog):
            yield net if isinstance(net, Lost) else _udp_table(net.ipv4.udp_table.read_())
    else:
        yield _udp_table(prog["udp_table"])
    try:
        yield udplite_table(prog)
    except LookupError:
        # UDP-Lite can be left out of a kernel.
        pass


def udp_table(net: Object) -> HashTable:
    """
    Get the hash table, by port, of the UDP sockets of a network namespace.

    :param net: ``struct net *``
    """
    if net.prog_.type("struct netns_ipv4").has_member("udp_table"):
        return _udp_table(net.ipv4.udp_table.read_())
    return _udp_table(net.prog_["udp_table"])


def udplite_table(prog: Program) -> HashTable:
    """
    Get the hash table, by port, of UDP-Lite sockets.

    :raises LookupError: if the kernel has no UDP-Lite
    """
    return _udp_table(prog["udplite_table"])


def _udp_table(table: Object) -> HashTable:
    slot = table.hash.type_.type
    while slot.kind == TypeKind.TYPEDEF:
        slot = slot.type
    return HashTable(
        table.hash.value_(),
        table.mask.value_() + 1,
        sizeof(slot),
        offsetof(slot, "head") if slot.has_member("head") else offsetof(slot, "hslot.head"),
    )


def for_each_udp(prog: Program, known: Mapping[int, int] = NOTHING) -> Iterator[SockCommon | Lost]:
    """Every UDP and UDP-Lite socket that has a port, in all network namespaces."""
    protos = ("udp_prot", "udpv6_prot", "udplite_prot", "udplitev6_prot")
    return _walk_tables(prog, lambda: _udp_tables(prog), known, AF_INET, AF_INET6, protos=protos)


def _raw_tables(prog: Program) -> Iterator[HashTable]:
    for name in ("raw_v4_hashinfo", "raw_v6_hashinfo"):
        try:
            yield raw_table(prog, name)
        except LookupError:
            continue


def raw_table(prog: Program, name: str) -> HashTable:
    """
    Get a hash table, by protocol, of raw sockets.

    :param name: ``raw_v4_hashinfo``, ``raw_v6_hashinfo``
    :raises LookupError: if the kernel has none
    """
    table = prog[name].ht
    return HashTable(table.address_of_().value_(), len(table), sizeof(table.type_.type))


def ping_table(prog: Program) -> HashTable:
    """
    Get the hash table, by identifier, of ping sockets of IPv4 and IPv6.

    :raises LookupError: if the kernel has none
    """
    table = prog["ping_table"].hash
    return HashTable(table.address_of_().value_(), len(table), sizeof(table.type_.type))


def for_each_raw(prog: Program, known: Mapping[int, int] = NOTHING) -> Iterator[SockCommon | Lost]:
    """Every raw IPv4 and IPv6 socket, in all network namespaces."""
    protos = ("raw_prot", "rawv6_prot")
    return _walk_tables(prog, lambda: _raw_tables(prog), known, AF_INET, AF_INET6, protos=protos)


def for_each_ping(prog: Program, known: Mapping[int, int] = NOTHING) -> Iterator[SockCommon | Lost]:
    """Every ping socket, IPv4 and IPv6, that has an identifier, in all network namespaces."""
    protos = ("ping_prot", "pingv6_prot")
    return _walk_tables(prog, lambda: [ping_table(prog)], known, AF_INET, AF_INET6, protos=protos)


def _of_nets(prog: Program, table_of: Callable[[Object], HashTable]) -> Iterator[HashTable | Lost]:
    for net in _nets(prog):
        yield net if isinstance(net, Lost) else table_of(net)


def unix_table(net: Object) -> HashTable:
    """
    Get the hash table of unix sockets.

    :param net: ``struct net *``
    """
    prog = net.prog_
    word = sizeof(prog.type("struct hlist_head"))
    # Linux kernel commit cf2f225e2653 ("af_unix: Put a socket into a per-netns hash table.")
    # (in v6.0) replaced the one table of all namespaces.
    if prog.type("struct netns_unix").has_member("table"):
        return HashTable(net.unx.table.buckets.value_(), _UNIX_HASH_SIZE, word)
    table = prog["unix_socket_table"]
    return HashTable(table.address_of_().value_(), len(table), word)


def for_each_unix(prog: Program, known: Mapping[int, int] = NOTHING) -> Iterator[SockCommon | Lost]:
    """
    Every unix socket, in all network namespaces, including those that nobody has accepted yet and
    those that are only in flight (``SCM_RIGHTS``).
    """
    return _walk_tables(prog, lambda: _of_nets(prog, unix_table), known, AF_UNIX)


def packet_list(net: Object) -> HashTable:
    """
    The list of the packet sockets of a network namespace, as a table of one bucket.

    :param net: ``struct net *``
    """
    head = net.packet.sklist
    return HashTable(head.address_of_().value_(), 1, sizeof(head))


def for_each_packet(
    prog: Program, known: Mapping[int, int] = NOTHING
) -> Iterator[SockCommon | Lost]:
    """Every packet socket, bound or not, in all network namespaces."""
    protos = ("packet_proto",)
    lists = functools.partial(_of_nets, prog, packet_list)
    return _walk_tables(prog, lists, known, AF_PACKET, protos=protos)


def xdp_list(net: Object) -> HashTable:
    """
    The list of the XDP sockets of a network namespace, as a table of one bucket.

    :param net: ``struct net *``
    """
    head = net.xdp.list
    return HashTable(head.address_of_().value_(), 1, sizeof(head))


def for_each_xdp(prog: Program, known: Mapping[int, int] = NOTHING) -> Iterator[SockCommon | Lost]:
    """
    Every XDP socket, bound or not, in all network namespaces.

    :raises LookupError: if the kernel has none (``CONFIG_XDP_SOCKETS``)
    """
    if not prog.type("struct net").has_member("xdp"):
        raise LookupError("struct net has no member xdp")
    return _walk_tables(prog, lambda: _of_nets(prog, xdp_list), known, AF_XDP)
