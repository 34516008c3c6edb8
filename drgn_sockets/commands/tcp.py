# SPDX-License-Identifier: LGPL-2.1-or-later
"""``tcp``: every field of a TCP socket."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from socket import AF_INET, AF_INET6, inet_ntop
from typing import Any, NamedTuple

from drgn import Program

from drgn_sockets.commands.base import OK, Command
from drgn_sockets.errors import UserError
from drgn_sockets.kernel.lost import Lost, or_lost, there
from drgn_sockets.query.find import Finder
from drgn_sockets.query.words import parse_word
from drgn_sockets.records.columns import Column
from drgn_sockets.records.families.tcp import (
    InetConnectionSock,
    TcpRecord,
    congestion_algorithm,
    ulp_name,
)
from drgn_sockets.records.holders import Holders
from drgn_sockets.records.losses import Losses
from drgn_sockets.records.names import state_name
from drgn_sockets.records.reader import for_each_socket, readable
from drgn_sockets.records.socket import Timer, UnreadableSocket
from drgn_sockets.views.sockets import describe, holders_text, local_text, remote_text


class Field(NamedTuple):
    """A field of a socket."""

    sk: int
    name: str
    value: Any
    #: Kernel member that the value comes from, ``-`` if it is made of several.
    member: str
    help: str
    error: str | None = None


class Tcp(Command):
    """``tcp WHAT …``."""

    name = "tcp"
    description = (
        "WHAT is PID:FD, an inode (21189, socket:[21189]), a port or an address with one (:443, "
        ":https, 10.0.0.1:443, [::1]:443; local or remote), or a kernel address. Timewait and "
        "request sockets have fields of their own."
    )
    columns = (
        Column("sk", "address of the struct sock", lambda f: f"{f.sk:#x}"),
        Column("field", "name, with its unit", lambda f: f.name, True),
        Column("value", "value", lambda f: there(f.value), True, right=True),
        Column("member", "kernel member that the value is read from", lambda f: f.member, True),
        Column("help", "what the value says", lambda f: f.help, True),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "what", nargs="+", metavar="WHAT", help="PID:FD, INODE, [ADDR]:PORT or 0xADDRESS"
        )

    def run(self, prog: Program, args: argparse.Namespace, losses: Losses) -> int:
        finder = Finder(prog, losses)
        found = []
        for word in map(parse_word, args.what):
            what = word.text
            for record in finder.find(word, ["tcp"]):
                if isinstance(record, UnreadableSocket):
                    raise UserError(f"{what}: the socket at {record.sk:#x} {record.error}")
                if not isinstance(record, TcpRecord):
                    raise UserError(
                        f"{what} is not a TCP socket: {describe(record)}; try peer or ss"
                    )
                found.append(record)
        self.emit((field for record in found for field in fields(record)), args, losses)
        return OK

    def read_all(self, prog: Program, losses: Losses) -> None:
        holders = Holders(prog, losses=losses)
        for record in readable(for_each_socket(prog, ["tcp"], holders, losses), losses):
            if isinstance(record, TcpRecord) and isinstance(record.sock, InetConnectionSock):
                # The walk has read the structure that all other fields are in.
                for field in fields(record):
                    if isinstance(field.value, Lost):
                        losses.lose(field.value, record.where)


def fields(record: TcpRecord) -> Iterator[Field]:
    """Every field of a TCP socket."""
    sock = record.sock

    def made(name: str, read: Callable[[], Any], help: str, member: str = "-") -> Field:
        return Field(record.sk, name, or_lost(lambda _: read(), None), member, help)

    def timer() -> Timer:
        return record.timer or Timer(None, None, 0, 0)  # type: ignore[arg-type]

    yield made("sk", lambda: f"{record.sk:#x}", f"address of the {sock.C_TYPE}")
    yield made("state_name", lambda: state_name(record.state), "state, as ss writes it")
    yield made("local", lambda: local_text(record), "this end")
    yield made("peer", lambda: remote_text(record), "the other end")
    yield made(
        "ino", lambda: record.ino, "inode, the N of socket:[N]", "SOCK_INODE(sk_socket)->i_ino"
    )
    yield made(
        "netns", lambda: record.netns, "inode of the network namespace", "skc_net.net->ns.inum"
    )
    yield made(
        "holders", lambda: holders_text(record.holders or ()), "processes and fds that hold it"
    )
    yield made(
        "recv_q", lambda: record.recv_q, "bytes to be read; of a listener, connections waiting"
    )
    yield made("send_q", lambda: record.send_q, "bytes not acknowledged; of a listener, its limit")
    yield made("timer", lambda: timer().name, "timer that fires next")
    yield made("timer_expires_s", lambda: timer().expires_s, "when it fires, seconds from now")
    if isinstance(sock, InetConnectionSock):
        yield made(
            "congestion",
            lambda: congestion_algorithm(record.prog, sock),
            "congestion control algorithm",
            "icsk_ca_ops->name",
        )
        yield made(
            "ulp",
            lambda: ulp_name(record.prog, sock),
            "upper layer protocol",
            "icsk_ulp_ops->name",
        )
    places = type(sock).places
    for name, member in type(sock).members().items():
        value = getattr(sock, name)
        if isinstance(value, bytes):
            value = inet_ntop(AF_INET if len(value) == 4 else AF_INET6, value)
        elif name in places and places[name].pointer:
            value = f"{value:#x}"
        path = places[name].path if name in places else f"(not in this kernel: {member.paths[0]})"
        yield Field(record.sk, name, value, path, member.help)
