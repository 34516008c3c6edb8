# SPDX-License-Identifier: LGPL-2.1-or-later
"""Walks of MPTCP sockets and subflows, and limits of the path manager."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from drgn import FaultError, Object, Program, offsetof, sizeof

from drgn_sockets.kernel.chains import NOTHING, HashTable
from drgn_sockets.kernel.lists import list_for_each_entry
from drgn_sockets.kernel.lost import Lost, lost_by, present, raise_lost, unbroken
from drgn_sockets.kernel.sock import (
    AF_INET,
    AF_INET6,
    SockCommon,
    for_each_tcp_listener,
    walk_hashed,
)
from drgn_sockets.kernel.structs import Int, OptInt, Struct

# IDs of addresses have 8 bits (MPTCP_PM_MAX_ADDR_ID); each ID may have a few subflows.
_MAX_SUBFLOWS = 1 << 12


class MptcpSubflowContext(Struct):
    """``struct mptcp_subflow_context``: MPTCP's data of a TCP socket that is a subflow."""

    C_TYPE = "struct mptcp_subflow_context"

    node = Int("node.next", help="next subflow of the same socket")
    tcp_sock = Int("tcp_sock", help="struct sock * of the subflow")
    conn = Int("conn", help="struct sock * of the MPTCP socket")


class _Ulp(Struct):
    C_TYPE = "struct inet_connection_sock"

    ops = Int("icsk_ulp_ops")
    data = Int("icsk_ulp_data")


def mptcp_conn(prog: Program, ulp_data: int) -> int:
    """
    The MPTCP socket of a subflow, ``mptcp_subflow_ctx(ssk)->conn``.

    :param ulp_data: ``icsk_ulp_data`` of the subflow
    :return: ``struct sock *`` as an integer, 0 if there is none
    :raises FaultError: if it cannot be read
    :raises LookupError: if the types of MPTCP are not known
    """
    context = MptcpSubflowContext.layout(prog).follow(ulp_data)
    return context.conn if context is not None else 0


def mptcp_subflows(prog: Program, heads: Iterable[int]) -> list[int]:
    """
    The subflows on lists of an MPTCP socket, as ``mptcp_for_each_subflow()``.

    :param heads: ``struct list_head *`` as integers
    :return: ``struct sock *`` as integers
    :raises FaultError: if one cannot be read
    """
    layout = MptcpSubflowContext.layout(prog)
    found: dict[int, None] = {}
    for head in heads:
        for context in unbroken(list_for_each_entry(layout, head, "node", _MAX_SUBFLOWS)):
            found[context.tcp_sock] = None
    return list(found)


def _token_hash(prog: Program) -> HashTable:
    buckets = prog["token_hash"].read_()
    bucket = buckets.type_.type
    return HashTable(
        buckets.value_(),
        prog["token_mask"].value_() + 1,
        sizeof(bucket),
        offsetof(bucket, "msk_chain.first"),
    )


def for_each_mptcp(
    prog: Program, known: Mapping[int, int] = NOTHING
) -> Iterator[SockCommon | Lost]:
    """
    Every MPTCP socket that has a token (those connected and connecting, also if nobody has
    accepted them yet) or listens, in all network namespaces, as ``mptcp_diag_dump()``.

    :param known: Sockets that are passed over
    :return: Iterator of the entries. A ``Lost`` stands for one that cannot be read.
    :raises LookupError: if the kernel has no MPTCP
    """
    seen: set[int] = set()
    try:
        table = _token_hash(prog)
    except FaultError as e:
        yield lost_by(e, "token_hash")
    else:
        for _, entry in walk_hashed(prog, table, AF_INET, AF_INET6, known=known):
            seen.add(entry.address)
            yield entry
    try:
        listening = _listening(prog) - seen - known.keys()
    except FaultError as e:
        yield lost_by(e, "socket that listens for MPTCP")
        return
    yield from SockCommon.layout(prog).read_many(listening)


def _listening(prog: Program) -> set[int]:
    """MPTCP sockets of the TCP sockets that listen for them."""
    listeners = [entry.address for entry in present(for_each_tcp_listener(prog))]
    ulps = _Ulp.layout(prog).read_batch(listeners)
    ops = {ops for ops in ulps.column("ops") if ops and _is_mptcp(prog, ops)}
    contexts = (data for op, data in zip(ulps.column("ops"), ulps.column("data")) if op in ops)
    found = MptcpSubflowContext.layout(prog).read_batch(contexts)
    raise_lost([*ulps.lost, *found.lost])
    return {context.conn for context in found if context.conn}


def _is_mptcp(prog: Program, ops: int) -> bool:
    name = Object(prog, "struct tcp_ulp_ops *", ops).name.string_()
    return name == b"mptcp"  # type: ignore[no-any-return]


class PmNlPernet(Struct):
    """``struct pm_nl_pernet``: limits of the in-kernel path manager of a network namespace."""

    C_TYPE = "struct pm_nl_pernet"

    # Renamed in v6.18, by commits named after the new names ("mptcp: pm: rename 'subflows_max' to
    # 'limit_extra_subflows'" and so on).
    subflows_max = Int("limit_extra_subflows", "subflows_max")
    add_addr_signal_max = Int("endp_signal_max", "add_addr_signal_max")
    add_addr_accepted_max = Int("limit_add_addr_accepted", "add_addr_accept_max")
    local_addr_max = Int("endp_subflow_max", "local_addr_max")
    endp_laminar_max = OptInt("endp_laminar_max")
    endp_fullmesh_max = OptInt("endp_fullmesh_max")


def pm_nl_get_pernet(prog: Program, net: int) -> PmNlPernet | None:
    """
    The limits in a ``struct net *``; ``None`` if their type is not known.

    :raises FaultError: if they cannot be read
    """
    try:
        generic = Object(prog, "struct net *", net).gen
        address = generic.ptr[prog["pm_nl_pernet_id"].value_()].value_()
        return PmNlPernet.layout(prog).follow(address)
    except LookupError:
        return None
