# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which sockets the options of ``ss`` choose: its "socket tables", families and states."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence

from drgn_sockets.errors import nearest
from drgn_sockets.kernel.sock import AF_INET, AF_INET6, TCP_CLOSE, TCP_ESTABLISHED, TCP_LISTEN
from drgn_sockets.named_tuple import NamedTuple
from drgn_sockets.records.families import FAMILY_NAMES
from drgn_sockets.records.names import STATE_GROUPS
from drgn_sockets.records.socket import SocketRecord

Test = Callable[[SocketRecord], bool]

# What ss shows without -a and -l: connections, neither listening nor closed nor in the states
# that are kept in small structures.
_CONNECTED = STATE_GROUPS["connected"] - STATE_GROUPS["bucket"]
_ESTABLISHED = frozenset({TCP_ESTABLISHED})
_CLOSED = frozenset({TCP_CLOSE})


class _Table(NamedTuple):
    #: Name of the family of its records.
    family: str
    #: What its sockets have in the column netid.
    netids: Sequence[str]
    #: States that are shown of it without -a and -l.
    states: frozenset[int] = _CONNECTED


#: By the names that ``-A`` has for them.
_TABLES = {
    "tcp": _Table("tcp", ["tcp"]),
    "mptcp": _Table("mptcp", ["mptcp"]),
    "sctp": _Table("sctp", ["sctp"]),
    "dccp": _Table("dccp", ["dccp"]),
    # Those of UDP-Lite and ping sockets are shown by no option of ss.
    "udp": _Table("udp", ["udp", "udpl"], _ESTABLISHED),
    "raw": _Table("raw", ["raw"], _ESTABLISHED),
    "ping": _Table("ping", ["icmp", "icmp6"], _ESTABLISHED),
    "unix_stream": _Table("unix", ["u_str"]),
    "unix_dgram": _Table("unix", ["u_dgr"]),
    "unix_seqpacket": _Table("unix", ["u_seq"]),
    "packet_raw": _Table("packet", ["p_raw"], _CLOSED),
    "packet_dgram": _Table("packet", ["p_dgr", "p_pkt"], _CLOSED),
    "netlink": _Table("netlink", ["nl"], _CLOSED),
    "vsock_stream": _Table("vsock", ["v_str"]),
    "vsock_dgram": _Table("vsock", ["v_dgr"]),
    "vsock_seqpacket": _Table("vsock", ["v_seq"]),
    "tipc": _Table(
        "tipc",
        ["ti_st", "ti_dg", "ti_rd", "ti_sq"],
        frozenset({TCP_ESTABLISHED, TCP_LISTEN, TCP_CLOSE}),
    ),
    "xdp": _Table("xdp", ["xdp"], _CLOSED),
}


def _of_family(*names: str) -> list[str]:
    return [name for name, table in _TABLES.items() if table.family in names]


_INET = _of_family("tcp", "mptcp", "sctp", "dccp", "udp", "raw", "ping")

#: What ``-A`` takes, and which tables that is.
QUERIES: dict[str, list[str]] = {
    "all": list(_TABLES),
    "inet": _INET,
    **{name: [name] for name in _TABLES},
    "unix": _of_family("unix"),
    "packet": _of_family("packet"),
    "vsock": _of_family("vsock"),
    "icmp": ["ping"],
    "u_str": ["unix_stream"],
    "u_dgr": ["unix_dgram"],
    "u_seq": ["unix_seqpacket"],
    "p_raw": ["packet_raw"],
    "p_dgr": ["packet_dgram"],
    "v_str": ["vsock_stream"],
    "v_dgr": ["vsock_dgram"],
}

#: What ``-f`` takes, and which tables have sockets of that.
SOCKET_FAMILIES = {
    "inet": _INET,
    "inet6": _INET,
    "unix": _of_family("unix"),
    "link": _of_family("packet"),
    "netlink": _of_family("netlink"),
    "vsock": _of_family("vsock"),
    "tipc": _of_family("tipc"),
    "xdp": _of_family("xdp"),
}
_INET_FAMILIES = {"inet": AF_INET, "inet6": AF_INET6}


class _Family(argparse.Action):
    """An option that names a family, or takes the name of one."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option: str | None = None,
    ) -> None:
        name = values if isinstance(values, str) else self.const
        if name not in SOCKET_FAMILIES:
            there = ", ".join(SOCKET_FAMILIES) + nearest(name, SOCKET_FAMILIES)
            parser.error(f"{option}: no family {name!r}: there are {there}")
        namespace.families = [*(namespace.families or ()), name]


class _Query(argparse.Action):
    """``-A LIST``: tables, and with a ``!`` those that are left out."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option: str | None = None,
    ) -> None:
        tables = dict.fromkeys(namespace.query or ())
        if not tables and str(values).startswith("!"):
            tables = dict.fromkeys(_TABLES)
        for word in str(values).split(","):
            name = word.lstrip("!")
            if name not in QUERIES:
                there = ", ".join(QUERIES) + nearest(name, QUERIES)
                parser.error(f"{option}: no sockets {name!r}: there are {there}")
            for table in QUERIES[name]:
                if word.startswith("!"):
                    tables.pop(table, None)
                else:
                    tables[table] = None
        if not tables:
            parser.error(f"{option} {values}: nothing is left")
        namespace.query = list(tables)


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose families of sockets."""
    group = parser.add_argument_group("which families")
    for short, name, help in (
        ("-t", "tcp", "TCP"),
        ("-u", "udp", "UDP and UDP-Lite"),
        ("-w", "raw", "raw and ping"),
        ("-M", "mptcp", "MPTCP"),
        ("-S", "sctp", "SCTP"),
        ("-d", "dccp", "DCCP"),
    ):
        group.add_argument(short, f"--{name}", action="store_true", help=help)
    for options, family, help in (
        (("-x", "--unix"), "unix", "unix"),
        (("-0", "--packet"), "link", "packet"),
        (("--vsock",), "vsock", "vsock"),
        (("--tipc",), "tipc", "TIPC"),
        (("--xdp",), "xdp", "XDP"),
        (("-4", "--ipv4"), "inet", "only IPv4"),
        (("-6", "--ipv6"), "inet6", "only IPv6"),
    ):
        group.add_argument(
            *options, action=_Family, nargs=0, const=family, dest="families", help=help
        )
    group.add_argument(
        "-f",
        "--family",
        action=_Family,
        dest="families",
        metavar="FAMILY",
        help=", ".join(SOCKET_FAMILIES),
    )
    group.add_argument(
        "-A",
        "--query",
        "--socket",
        action=_Query,
        metavar="LIST",
        help="tables of sockets, with commas between them; !NAME leaves a table out: "
        + ", ".join(QUERIES),
    )


class Tables:
    """
    The tables, families and states that options choose.

    :param named: Families (``AF_*``) that a filter is about; ``None`` for all.
    """

    def __init__(self, args: argparse.Namespace, named: frozenset[int] | None = None) -> None:
        families: list[str] = args.families or []
        chosen: dict[str, None] = dict.fromkeys(args.query or ())
        for option in ("tcp", "udp", "raw", "mptcp", "sctp", "dccp"):
            if getattr(args, option):
                chosen[option] = None
        if args.raw:
            chosen["ping"] = None
        states = frozenset[int]()
        # What ss does: a query has all that are connected, whatever of it is.
        if args.query is not None or not (chosen or families):
            states = _CONNECTED
        else:
            states = states.union(*(_TABLES[name].states for name in chosen))
        # "-4" is all of IPv4, "-t -4" the TCP of IPv4.
        for family in families:
            tables = SOCKET_FAMILIES[family]
            if not chosen.keys() & set(tables):
                chosen.update(dict.fromkeys(tables))
            if args.query is None:
                states |= _family_states(family)
        #: Names of the tables; ``None`` for all sockets that there are.
        self.names: list[str] | None = list(chosen) or None
        if self.names is not None and len(self.names) == len(_TABLES):
            self.names = None
        #: States that are shown unless something else is asked for.
        self.states = states
        #: Families that are named, as a filter's addresses are without one.
        self.families = families
        #: Whether sockets are wanted that just their holders lead to.
        self.wants_others = self.names is not None and "other" in self.family_names()
        inet = {_INET_FAMILIES[name] for name in families if name in _INET_FAMILIES}
        self._unwanted = frozenset(_INET_FAMILIES.values()) - inet if inet else frozenset()
        self._named = named

    def family_names(self) -> list[str]:
        """Names of the families to walk."""
        if self.names is None:
            return list(FAMILY_NAMES)
        names = {_TABLES[name].family for name in self.names}
        if not names <= set(FAMILY_NAMES):
            # What is not told apart is among the others.
            names.add("other")
        return [name for name in FAMILY_NAMES if name in names]

    def tests(self, *, any_family: bool = False) -> Iterable[Test]:
        """
        What a socket of these families must be.

        :param any_family: It may be of other families as well.
        """
        if self.names is not None and (any_family or self._is_part_of_familys(self.names)):
            netids = frozenset(netid for name in self.names for netid in _TABLES[name].netids)
            yield lambda record: record.netid in netids
        if self._unwanted:
            unwanted = self._unwanted
            yield lambda record: record.family not in unwanted
        if self._named is not None:
            named = self._named
            yield lambda record: record.family in named

    def _is_part_of_familys(self, names: Iterable[str]) -> bool:
        families = self.family_names()
        whole = {name for name, table in _TABLES.items() if table.family in families}
        return "other" in families or whole != set(names)


def _family_states(family: str) -> frozenset[int]:
    if family in ("link", "netlink", "xdp"):
        return _CLOSED
    return _TABLES["tipc"].states if family == "tipc" else _CONNECTED
