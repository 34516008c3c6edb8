# SPDX-License-Identifier: LGPL-2.1-or-later
"""``ss``: sockets."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from drgn import FaultError, Object, Program

from drgn_sockets.commands.base import OK, Command, look_at
from drgn_sockets.commands.ss_columns import COMMON, NUMERIC
from drgn_sockets.errors import UserError, nearest
from drgn_sockets.kernel.net import current_net, ip_local_port_range, net_namespaces
from drgn_sockets.kernel.sock import TCP_CLOSE, TCP_LISTEN, TCP_NEW_SYN_RECV
from drgn_sockets.query.socket_tables import Tables, Test, add_table_arguments
from drgn_sockets.query.words import Word, parse_address, parse_inode, parse_pid, parse_port
from drgn_sockets.records.columns import Column
from drgn_sockets.records.families import FAMILY_ENTRIES, FAMILY_NAMES
from drgn_sockets.records.holders import Holders
from drgn_sockets.records.losses import Losses
from drgn_sockets.records.names import STATE_GROUPS, STATE_NUMBERS
from drgn_sockets.records.parts import Part
from drgn_sockets.records.reader import SocketReader, for_each_socket, socket_parts
from drgn_sockets.records.socket import SocketRecord

_ALL = STATE_GROUPS["all"]
_BOUND_INACTIVE = STATE_NUMBERS["bound-inactive"]

# Options of ss that are refused, and why.
_REFUSED = (
    (("-K", "--kill"), None, "closes sockets, and this command only reads memory"),
    (("-E", "--events"), None, "waits for sockets to be closed, and this command looks once"),
    (("-D", "--diag"), "FILE", "saves replies of the kernel, and this command only reads memory"),
    (("-r", "--resolve"), None, "asks DNS, and this command only reads memory"),
    (
        ("-Z", "--context", "-z", "--contexts"),
        None,
        "shows SELinux contexts, which this command does not read",
    ),
)


# Options, and what each adds to the table.
_SHOWN = {
    "-p --processes": "the processes and fds that hold each socket",
    "-T --threads": "like -p; threads with an fd table of their own are shown as well",
    "-e --extended": "owner, inode, cookie, cgroup, timer, address, namespace, …",
    "-o --options": "timers",
    "-m --memory": "socket memory",
    "-i --info": "what TCP, MPTCP or SCTP knows of a connection",
    "-b --bpf": "filters of packet sockets",
    "--tos": "TOS, traffic class and class ID",
    "--cgroup": "cgroup",
    "--inet-sockopt": "options of inet sockets",
    "-Q --no-queues": "leave out the columns RECV-Q and SEND-Q",
    "-n --numeric": "numbers for names of protocols and ports (those of IP always are)",
    "-O --oneline": "one line for each socket (this is always so)",
}

# Columns that have in JSON and CSV what the words of ss -e say.
_EXTENDED = ["ino", "uid", "cookie", "sk", "netns", "cgroup", "file_ino", "file_dev"]

if TYPE_CHECKING:
    from drgn_sockets.query.ssfilter import Filter, Token


class _Refuse(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option: str | None = None,
    ) -> None:
        parser.error(f"{option} {self.help}")


class Ss(Command):
    """``ss``."""

    name = "ss"
    description = (
        "The options are those of iproute2's ss. Without -a and -l it shows connections only; "
        "without a family, all families. FILTER is that of ss: 'state STATE' and 'exclude STATE', "
        "then an expression: src and dst [FAMILY:]HOST[:PORT], sport and dport OP :PORT, dev, "
        "fwmark, cgroup, autobound; not, and, or, ( ). 'and' and 'or' apply from left to right, as "
        "in ss. HOST is an address, a network as 10.0.0.0/8, or a name in /etc/hosts: DNS is not "
        "asked."
    )

    @functools.cached_property
    def columns(self) -> Sequence[Column]:
        from drgn_sockets.commands.ss_member_columns import COLUMNS

        return COLUMNS

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_table_arguments(parser)
        which = parser.add_argument_group("which sockets")
        which.add_argument("-a", "--all", action="store_true", help="sockets in all states")
        which.add_argument(
            "-l",
            "--listening",
            action="store_true",
            help="only sockets that listen (UDP: are not connected)",
        )
        which.add_argument(
            "-B",
            "--bound-inactive",
            action="store_true",
            help="TCP sockets that are bound, and neither listening nor connected",
        )
        which.add_argument("--pid", help="sockets that this process holds")
        which.add_argument("--inode", help="the socket with this inode (socket:[INODE])")
        which.add_argument("--addr", metavar="ADDRESS", help="the socket at this kernel address")
        which.add_argument(
            "-N",
            "--net",
            "--netns",
            dest="netns",
            metavar="NETNS",
            help="sockets of this network namespace: its name (ip netns), its inode, or the "
            "PID of a process in it",
        )
        which.add_argument("--port", help="sockets with this port at either end: 443, https")
        which.add_argument(
            "-F", "--filter", dest="filter_file", metavar="FILE", help="read FILTER from a file"
        )
        which.add_argument(
            "filter",
            nargs="*",
            metavar="FILTER",
            help="state STATE, exclude STATE, or an expression; states are "
            + ", ".join([*STATE_NUMBERS, *STATE_GROUPS]),
        )
        show = parser.add_argument_group("what to show of each")
        show.add_argument(
            "-s",
            "--summary",
            action="store_true",
            help="how many sockets a network namespace has: that of -N, or by default our own, or "
            "the initial one of a core; with a family, its table follows",
        )
        for names, help in _SHOWN.items():
            show.add_argument(*names.split(), action="store_true", help=help)
        for entry in FAMILY_ENTRIES.values():
            if entry.info_option is not None:
                help = f"like -i, which also shows this of {entry.help}"
                show.add_argument(entry.info_option, dest="info", action="store_true", help=help)
        refused = parser.add_argument_group("options of ss that are refused")
        for options, metavar, help in _REFUSED:
            nargs = None if metavar else 0
            refused.add_argument(
                *options, action=_Refuse, nargs=nargs, metavar=metavar, dest="refused", help=help
            )

    def columns_for(self, args: argparse.Namespace) -> Sequence[Column]:
        return COMMON if args.output is None and not args.bpf else self.columns

    def usual(self, args: argparse.Namespace) -> list[str]:
        names = super().usual(args)
        if args.no_queues:
            names = [name for name in names if name not in ("recv_q", "send_q")]
        # In the order of ss. JSON and CSV have a column for each word of ss -e.
        in_columns = args.json or args.csv
        if args.processes or args.threads:
            names.append("holders")
        if args.options or args.extended:
            names.append("timer")
        if args.extended:
            names += _EXTENDED if in_columns else ["ext"]
        if args.tos:
            names.append("qos")
        if args.cgroup and "cgroup" not in names:
            names.append("cgroup")
        if args.inet_sockopt:
            names.append("sockopt")
        if args.bpf:
            names.append("filter")
        if args.memory:
            names.append("skmem")
        if args.info:
            names.append("info")
        return names

    def chosen(self, args: argparse.Namespace) -> list[Column]:
        columns = super().chosen(args)
        if args.numeric:
            return [NUMERIC.get(column.name, column) for column in columns]
        return columns

    # What only a few options need is imported where one of them is given: on a small machine,
    # imports are a good part of the time.

    def run(self, prog: Program, args: argparse.Namespace, losses: Losses) -> int:
        if args.summary:
            _print_summary(prog, args, losses)
            if Tables(args, None).names is None:
                return OK
        # Checked before the first row is printed.
        wanted = _Wanted(prog, args)
        parts = self._parts(prog, args, wanted, losses)
        self.emit_parts(prog, parts, args, losses, wanted.tests)
        return OK

    def read_all(self, prog: Program, losses: Losses) -> None:
        from drgn_sockets.kernel.mounts import named_net_namespaces
        from drgn_sockets.records.sockstat import socket_counts

        for net in net_namespaces(prog, losses.lose):
            try:
                socket_counts(Object(prog, "struct net *", net))
            except FaultError as e:
                losses.lose(e)
        # Some columns read more of memory, when they are asked.
        holders = Holders(prog, losses=losses)
        for record in for_each_socket(prog, FAMILY_NAMES, holders, losses=losses):
            look_at(self.columns, record, losses)
            # Some filters do so as well.
            if isinstance(record, SocketRecord):
                ip_local_port_range(prog, record.sock.net)
        # --netns NAME reads these.
        named_net_namespaces(prog, losses.lose)

    def _parts(
        self, prog: Program, args: argparse.Namespace, wanted: _Wanted, losses: Losses
    ) -> Iterable[Part]:
        # Those that --addr and --pid name: no others need to be read.
        named: set[int] | None = None
        if args.addr is not None:
            from drgn_sockets.query.find import sk_at

            named = {sk_at(prog, parse_address(args.addr))}
        holders = None
        # Sockets that are in no hash table are closed; only the fds of processes lead to them.
        if (
            self.shows(args, "holders")
            or TCP_CLOSE in wanted.states
            or wanted.tables.wants_others
            or args.pid is not None
            or args.inode is not None
        ):
            holders = Holders(prog, jobs=self.jobs(prog, args), losses=losses)
        if args.pid is not None and holders is not None:
            from drgn_sockets.query.find import held_by

            held = held_by(prog, parse_pid(args.pid), holders)
            named = held if named is None else named & held
        if named is not None:
            sks = sorted(named)
            return [Part(lambda: SocketReader(prog, holders, losses).read_many(sks))]
        return socket_parts(prog, wanted.tables.family_names(), holders, losses)


def _print_summary(prog: Program, args: argparse.Namespace, losses: Losses) -> None:
    from drgn_sockets.query.netns import find_net
    from drgn_sockets.records.sockstat import socket_counts
    from drgn_sockets.views.summary import summary

    if args.json or args.csv or args.output is not None:
        raise UserError("-s prints text, and has no columns")
    net = current_net(prog) if args.netns is None else find_net(prog, args.netns)
    try:
        sys.stdout.write(summary(socket_counts(Object(prog, "struct net *", net))))
    except FaultError as e:
        losses.lose(e, "how many sockets there are")


class _Wanted:
    """
    Which sockets are to be shown.

    :raises UserError: if the options or the filter are wrong
    """

    def __init__(self, prog: Program, args: argparse.Namespace) -> None:
        found = _filter(args)
        named = found.families() if found is not None else None
        self.tables = Tables(args, named)
        self.states = _states(args, found, self.tables)
        self.tests = list(self._tests(prog, args, found))

    def _tests(
        self, prog: Program, args: argparse.Namespace, found: Filter | None
    ) -> Iterator[Test]:
        """The tests that a socket must pass, without those that all pass."""
        states = self.states
        if states != _ALL:
            yield functools.partial(_is_in_state, states)
        # With --pid and --addr, sockets of all families are read; else only those of the tables.
        yield from self.tables.tests(any_family=args.pid is not None or args.addr is not None)
        chosen = _asks_for_states(args) or bool(found and found.states)
        if TCP_CLOSE in states and not chosen:
            # ss does not show TCP sockets that are closed (refused or reset), nor sockets that
            # were never bound.
            yield lambda r: not r.is_unlisted
        for word in _words(args):
            from drgn_sockets.query.find import socket_test

            yield socket_test(prog, word)
        if args.netns is not None:
            from drgn_sockets.query.netns import find_netns

            netns = find_netns(prog, args.netns)
            yield lambda r: r.netns == netns
        if found is not None and found.expression is not None:
            yield found.expression.test()


def _words(args: argparse.Namespace) -> Iterator[Word]:
    if args.inode is not None:
        yield parse_inode(args.inode, devices=False)
    if args.port is not None:
        yield parse_port(args.port)


def _filter(args: argparse.Namespace) -> Filter | None:
    source = _source(args)
    if not source:
        return None
    # Imported only where there is a filter.
    from drgn_sockets.query.ssfilter import parse
    from drgn_sockets.query.ssfilter_tree import FAMILIES

    # The family of addresses that do not say theirs, if one family was chosen.
    chosen = set(args.families or ())
    family = chosen.pop() if len(chosen) == 1 and chosen <= FAMILIES.keys() else ""
    return parse(source, family, _services(args))


def _source(args: argparse.Namespace) -> str:
    words = list(args.filter)
    if args.filter_file is not None:
        lines = _lines(args.filter_file)
        words += [line for line in lines if not line.startswith("#")]
    return " ".join(words)


def _lines(name: str) -> list[str]:
    if name == "-":
        return sys.stdin.read().splitlines()
    try:
        with open(name, encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
            return file.read().splitlines()
    except OSError as e:
        raise UserError(f"cannot read the filter: {name}: {e.strerror}") from None


def _services(args: argparse.Namespace) -> list[str]:
    """Protocols that the names of ports are looked up in."""
    return [name for name in ("udp", "tcp") if getattr(args, name)] or ["udp", "tcp"]


def _asks_for_states(args: argparse.Namespace) -> bool:
    return bool(args.all or args.bound_inactive or args.addr or args.inode is not None)


def _states(args: argparse.Namespace, found: Filter | None, tables: Tables) -> frozenset[int]:
    states = tables.states
    if args.all or args.addr or args.inode is not None:
        states = _ALL
    elif args.listening:
        states = frozenset({TCP_LISTEN, TCP_CLOSE})
    elif args.bound_inactive:
        states = frozenset({_BOUND_INACTIVE})
    # Each word changes what those before it left, as in ss.
    named: frozenset[int] | None = None
    for keyword, token in found.states if found is not None else ():
        assert found is not None
        these = _state(found, token)
        if keyword == "state":
            named = (frozenset() if named is None else named) | these
        else:
            named = (_ALL if named is None else named) - these
    return states if named is None else named


def _state(found: Filter, token: Token) -> frozenset[int]:
    name = token.text.lower().replace("_", "-")
    if name in STATE_GROUPS:
        return STATE_GROUPS[name]
    if name not in STATE_NUMBERS:
        known = [*STATE_NUMBERS, *STATE_GROUPS]
        there = ", ".join(known) + nearest(name, known)
        raise found.wrong(f"no such state: {token.text!r}; there are {there}", token.places[0])
    return frozenset({STATE_NUMBERS[name]})


def _is_in_state(states: frozenset[int], record: SocketRecord) -> bool:
    state = record.state
    if _BOUND_INACTIVE in states and record.is_bound_inactive:
        return True
    return state in states or state >= TCP_NEW_SYN_RECV
