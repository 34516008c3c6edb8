# SPDX-License-Identifier: LGPL-2.1-or-later
"""``ss``: sockets."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

from drgn import Program

from drgn_sockets.commands.base import Command, Problems
from drgn_sockets.commands.columns import COLUMNS
from drgn_sockets.errors import UserError
from drgn_sockets.kernel import sock as k
from drgn_sockets.kernel.net import net_namespaces
from drgn_sockets.kernel.task import Tasks
from drgn_sockets.records.families import FAMILIES
from drgn_sockets.records.families.inet import InetRecord
from drgn_sockets.records.find import parse_address, sk_at
from drgn_sockets.records.holders import Holders
from drgn_sockets.records.parts import Part
from drgn_sockets.records.reader import SocketReader, for_each_socket, socket_parts
from drgn_sockets.records.socket import SocketRecord
from drgn_sockets.views.names import STATE_GROUPS, STATE_NUMBERS

# What ss shows without -a and -l: connections, neither listening nor closed nor in the states
# that are kept in small structures.
_DEFAULT_STATES = STATE_GROUPS["connected"] - STATE_GROUPS["bucket"]


class Ss(Command):
    """``ss``."""

    name = "ss"
    summary = "sockets of all families, in all network namespaces, and who holds them"
    description = (
        "The options are those of iproute2's ss. Without -a and -l, connections only. Without "
        "a family, all families."
    )
    columns = COLUMNS

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        family = parser.add_argument_group("which families")
        family.add_argument("-t", "--tcp", action="store_true", help="TCP")
        family.add_argument("-u", "--udp", action="store_true", help="UDP and UDP-Lite")
        family.add_argument("-w", "--raw", action="store_true", help="raw")
        family.add_argument("-x", "--unix", action="store_true", help="unix")
        family.add_argument("-4", "--ipv4", action="store_true", help="only IPv4")
        family.add_argument("-6", "--ipv6", action="store_true", help="only IPv6")
        which = parser.add_argument_group("which sockets")
        which.add_argument("-a", "--all", action="store_true", help="in all states")
        which.add_argument(
            "-l", "--listening", action="store_true", help="only listening (UDP: not connected)"
        )
        which.add_argument("--pid", type=int, help="held by this process")
        which.add_argument("--inode", type=int, help="with this inode (socket:[INODE])")
        which.add_argument("--addr", metavar="ADDRESS", help="at this kernel address")
        which.add_argument("--netns", type=int, metavar="INODE", help="of this network namespace")
        which.add_argument("--port", type=int, help="with this port at either end")
        which.add_argument(
            "filter",
            nargs="*",
            metavar="state STATE | exclude STATE",
            help="only, or all but, these states: " + ", ".join([*STATE_NUMBERS, *STATE_GROUPS]),
        )
        show = parser.add_argument_group("what to show of them")
        show.add_argument(
            "-p", "--processes", action="store_true", help="every process and fd that holds it"
        )
        show.add_argument(
            "-e",
            "--extended",
            action="store_true",
            help="inode, owner, kernel address, network namespace, socket file",
        )
        show.add_argument("-o", "--options", action="store_true", help="timers")
        show.add_argument("-m", "--memory", action="store_true", help="socket memory")
        show.add_argument(
            "-i", "--info", action="store_true", help="all that TCP knows of a connection"
        )
        show.add_argument(
            "-n", "--numeric", action="store_true", help="numbers, not names (always so here)"
        )

    def usual(self, args: argparse.Namespace) -> list[str]:
        names = super().usual(args)
        if args.extended:
            names += ["ino", "uid", "sk", "netns", "file_ino", "file_dev"]
        if args.options:
            names.append("timer")
        if args.memory:
            names.append("skmem")
        if args.info:
            names.append("info")
        if args.processes:
            names.append("holders")
        return names

    def run(self, prog: Program, args: argparse.Namespace) -> int:
        # Checked before the first row is printed.
        tests = _tests(prog, args)
        problems = Problems()
        self.emit_parts(prog, self._parts(prog, args, problems), args, problems, tests)
        return problems.status()

    def read_all(self, prog: Program) -> None:
        # Some columns read more of memory, when they are asked.
        for record in for_each_socket(prog, FAMILIES, Holders(prog)):
            for column in self.columns:
                column.value(record)

    def _parts(self, prog: Program, args: argparse.Namespace, problems: Problems) -> Iterable[Part]:
        address = None
        if args.addr is not None:
            address = parse_address(args.addr)
            if address is None:
                raise UserError(f"not a kernel address: {args.addr!r}; give it as 0xffff…")
        holders = None
        # Sockets in no hash table are all closed, and only their holders lead to them.
        if (
            self.shows(args, "holders")
            or k.TCP_CLOSE in _states(args)
            or args.pid is not None
            or args.inode is not None
        ):
            holders = Holders(prog, jobs=self.jobs(prog, args))
            problems.add(holders.problems)
        held = self._held(prog, args.pid, holders)
        if address is not None:
            sk = sk_at(prog, address)
            return [Part(lambda: SocketReader(prog, holders).read_many([sk]))]
        if held is not None:
            return [Part(lambda: SocketReader(prog, holders).read_many(sorted(held)))]
        return socket_parts(prog, _families(args), holders)

    def _held(self, prog: Program, pid: int | None, holders: Holders | None) -> set[int] | None:
        if pid is None or holders is None:
            return None
        if pid not in Tasks(prog).by_tid:
            raise UserError(f"no process {pid}; fds lists all")
        return holders.sks_of(pid)


def _states(args: argparse.Namespace) -> frozenset[int]:
    all_states = STATE_GROUPS["all"]
    states = _DEFAULT_STATES
    if args.all or args.addr or args.inode is not None:
        states = all_states
    elif args.listening:
        states = frozenset({k.TCP_LISTEN, k.TCP_CLOSE})
    words = list(args.filter)
    # Each word changes what those before it left, as in ss.
    named: frozenset[int] | None = None
    while words:
        keyword = words.pop(0)
        if keyword not in ("state", "exclude"):
            raise UserError(f"expected 'state STATE' or 'exclude STATE', not {keyword!r}")
        if not words:
            raise UserError(f"{keyword!r} wants a state after it")
        these = _state(words.pop(0))
        if keyword == "state":
            named = (frozenset() if named is None else named) | these
        else:
            named = (all_states if named is None else named) - these
    return states if named is None else named


def _state(word: str) -> frozenset[int]:
    name = word.lower().replace("_", "-")
    if name in STATE_GROUPS:
        return STATE_GROUPS[name]
    if name not in STATE_NUMBERS:
        raise UserError(
            f"no such state: {word!r}; there are {', '.join([*STATE_NUMBERS, *STATE_GROUPS])}"
        )
    return frozenset({STATE_NUMBERS[name]})


def _families(args: argparse.Namespace) -> list[str]:
    named = [f for f in FAMILIES if getattr(args, f, False)]
    if not named and (args.ipv4 or args.ipv6):
        return ["raw", "udp", "tcp"]
    return named or list(FAMILIES)


def _tests(prog: Program, args: argparse.Namespace) -> list[Callable[[SocketRecord], bool]]:
    """What a socket must be to be shown: just the tests that it may fail."""
    states, families = _states(args), _families(args)
    if args.netns is not None:
        known = [ns.ino for ns in net_namespaces(prog).values()]
        if args.netns not in known:
            raise UserError(
                f"no network namespace {args.netns}; there are {', '.join(map(str, known))}"
            )
    found: list[Callable[[SocketRecord], bool]] = []
    if states != STATE_GROUPS["all"]:
        found.append(lambda r: r.state in states or r.state >= k.TCP_NEW_SYN_RECV)
    if args.ipv4 or args.ipv6:
        unwanted = {k.AF_INET, k.AF_INET6}
        unwanted -= {k.AF_INET} if args.ipv4 else set()
        unwanted -= {k.AF_INET6} if args.ipv6 else set()
        found.append(lambda r: r.family not in unwanted)
    if args.listening and not args.filter:
        # A closed or unbound one is not listening in any sense, and ss could not show it: created
        # and not bound, or refused, or reset.
        found.append(lambda r: not (r.is_unbound or (r.group == "tcp" and r.state == k.TCP_CLOSE)))
    if args.inode is not None:
        found.append(lambda r: r.ino == args.inode)
    if args.netns is not None:
        found.append(lambda r: r.netns == args.netns)
    if args.port is not None:
        found.append(
            lambda r: isinstance(r, InetRecord) and args.port in (r.local_port, r.remote_port)
        )
    if args.pid is not None or args.addr is not None:
        # Others are looked for by their families.
        found.append(lambda r: r.group in families)
    return found
