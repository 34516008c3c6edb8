# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which sockets the options of ``ss`` choose: its "socket tables", families and states."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

from drgn_sockets.errors import nearest
from drgn_sockets.kernel.sock import AF_INET, AF_INET6
from drgn_sockets.records.families import FAMILY_ENTRIES, FAMILY_NAMES, Registered
from drgn_sockets.records.names import STATE_GROUPS
from drgn_sockets.records.socket import OTHER, SocketRecord

Test = Callable[[SocketRecord], bool]

# Without -a and -l ss shows connections: sockets that are not listening, not closed, and not in
# the states that are kept in small structures.
_CONNECTED = STATE_GROUPS["connected"] - STATE_GROUPS["bucket"]

# Sockets that ss has options for, and that have no module here: of these we know what all sockets
# have.
_UNREAD = {
    "dccp": Registered(
        (AF_INET, AF_INET6), options=("-d", "--dccp"), help="DCCP", tables={"dccp": ("dccp",)}
    ),
}
_FAMILIES: dict[str, Registered] = {**_UNREAD, **FAMILY_ENTRIES}
_INET_FAMILIES = {"inet": AF_INET, "inet6": AF_INET6}

# The family of each table, by the names that -A has for tables.
_FAMILY_OF = {table: name for name, entry in _FAMILIES.items() for table in entry.tables}
# Those of IPv4 and IPv6.
_INET = [table for name, entry in _FAMILIES.items() if entry.is_inet for table in entry.tables]
# Those that have a name for all their tables.
_SEVERAL = {name: list(entry.tables) for name, entry in _FAMILIES.items() if len(entry.tables) > 1}

#: What ``-A`` takes, and which tables that is.
QUERIES: dict[str, list[str]] = {
    "all": list(_FAMILY_OF),
    "inet": _INET,
    **{table: [table] for table in _FAMILY_OF},
    **_SEVERAL,
    **{alias: [table] for entry in _FAMILIES.values() for alias, table in entry.aliases.items()},
}

#: What ``-f`` takes, and which tables have sockets of that.
SOCKET_FAMILIES = {
    **dict.fromkeys(_INET_FAMILIES, _INET),
    **{e.ss_family: list(e.tables) for e in _FAMILIES.values() if e.ss_family is not None},
}


class _Family(argparse.Action):
    """An option that is called after a family, or takes the name of one."""

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
    """``-A LIST``: tables to show, and after a ``!`` tables to leave out."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option: str | None = None,
    ) -> None:
        tables = dict.fromkeys(namespace.query or ())
        if not tables and str(values).startswith("!"):
            tables = dict.fromkeys(_FAMILY_OF)
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
    inet = [entry for entry in _FAMILIES.values() if entry.is_inet][::-1]
    # TCP and UDP come first, families that few use come last.
    for options, help in dict.fromkeys((e.options, e.help) for e in sorted(inet, key=_is_rare)):
        group.add_argument(*options, action="store_true", help=help)
    named = [(e.options, e.ss_family, e.help) for e in _FAMILIES.values() if e.ss_family]
    for options, family, help in (
        *named,
        (("-4", "--ipv4"), "inet", "only IPv4"),
        (("-6", "--ipv6"), "inet6", "only IPv6"),
    ):
        if options:
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


def _is_rare(entry: Registered) -> bool:
    return entry.rare


def _flag(entry: Registered) -> str:
    """The attribute of the option that chooses an inet family."""
    return entry.options[-1].lstrip("-")


class Tables:
    """
    The tables, families and states that options choose.

    :param named: Families (``AF_*``) that a filter is about; ``None`` for all.
    """

    def __init__(self, args: argparse.Namespace, named: frozenset[int] | None = None) -> None:
        families: list[str] = args.families or []
        chosen: dict[str, None] = dict.fromkeys(args.query or ())
        for entry in _FAMILIES.values():
            if entry.is_inet and getattr(args, _flag(entry)):
                chosen.update(dict.fromkeys(entry.tables))
        states = frozenset[int]()
        # As in ss: -A shows connected sockets, of whichever table.
        if args.query is not None or not (chosen or families):
            states = _CONNECTED
        else:
            states = states.union(*(_FAMILIES[_FAMILY_OF[table]].states for table in chosen))
        # "-4" is all of IPv4, "-t -4" the TCP of IPv4.
        for family in families:
            tables = SOCKET_FAMILIES[family]
            if not chosen.keys() & set(tables):
                chosen.update(dict.fromkeys(tables))
            if args.query is None:
                states |= _family_states(family)
        #: Names of the tables; ``None`` for all sockets that there are.
        self.names: list[str] | None = list(chosen) or None
        if self.names is not None and len(self.names) == len(_FAMILY_OF):
            self.names = None
        #: States that are shown unless an option or filter names others.
        self.states = states
        #: Families that options name: an address of a filter that names none is of these.
        self.families = families
        #: Whether sockets are wanted to which only their holders lead.
        self.wants_others = self.names is not None and OTHER in self.family_names()
        inet = {_INET_FAMILIES[name] for name in families if name in _INET_FAMILIES}
        self._unwanted = frozenset(_INET_FAMILIES.values()) - inet if inet else frozenset()
        self._named = named

    def family_names(self) -> list[str]:
        """Names of the families to walk."""
        if self.names is None:
            return list(FAMILY_NAMES)
        names = {_FAMILY_OF[table] for table in self.names}
        if not names <= set(FAMILY_NAMES):
            # Sockets of families that are not told apart are among the others.
            names.add(OTHER)
        return [name for name in FAMILY_NAMES if name in names]

    def tests(self, *, any_family: bool = False) -> Iterable[Test]:
        """
        What a socket of these families must be.

        :param any_family: It may be of other families as well.
        """
        if self.names is not None and (any_family or self._is_part_of_families(self.names)):
            netids = frozenset(
                netid
                for table in self.names
                for netid in _FAMILIES[_FAMILY_OF[table]].tables[table]
            )
            yield lambda record: record.netid in netids
        if self._unwanted:
            unwanted = self._unwanted
            yield lambda record: record.family not in unwanted
        if self._named is not None:
            named = self._named
            yield lambda record: record.family in named

    def _is_part_of_families(self, names: Iterable[str]) -> bool:
        families = self.family_names()
        whole = {table for table, family in _FAMILY_OF.items() if family in families}
        return OTHER in families or whole != set(names)


def _family_states(ss_family: str) -> frozenset[int]:
    return next((e.states for e in _FAMILIES.values() if e.ss_family == ss_family), _CONNECTED)
