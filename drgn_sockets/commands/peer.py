# SPDX-License-Identifier: LGPL-2.1-or-later
"""``peer``: both ends of a socket, and who holds each."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from drgn import Program

from drgn_sockets.commands.base import OK, Command
from drgn_sockets.commands.ss_member_columns import COLUMNS
from drgn_sockets.kernel.sock import TCP_LISTEN
from drgn_sockets.query.find import Finder
from drgn_sockets.records.columns import Column
from drgn_sockets.records.families import OTHER
from drgn_sockets.records.families.inet import InetRecord
from drgn_sockets.records.families.netlink import NetlinkRecord
from drgn_sockets.records.families.packet import PacketRecord
from drgn_sockets.records.families.tcp import TcpRecord
from drgn_sockets.records.families.unix import UnixRecord
from drgn_sockets.records.losses import Losses
from drgn_sockets.records.reader import for_each_socket, readable
from drgn_sockets.records.socket import AnySocket, SocketRecord, UnreadableSocket
from drgn_sockets.views.sockets import remote_text


@dataclass
class End:
    """One end of a pair of sockets."""

    #: The user's word for the socket.
    what: str
    #: ``self``, ``peer``, or ``listener``, which accepted one of the two.
    end: str
    record: AnySocket | None
    note: str | None = None

    @property
    def error(self) -> str | None:
        """What cannot be read."""
        return self.record.error if isinstance(self.record, UnreadableSocket) else None


def _column(column: Column) -> Column:
    text = column.text

    def has(end: End) -> bool:
        return end.record is not None and isinstance(end.record, column.of)

    return Column(
        column.name,
        column.help,
        lambda end: column.get(end.record) if has(end) else None,
        column.name in ("netid", "state", "ino", "local", "holders", "file_ino", "file_dev"),
        text and (lambda end: text(end.record) if has(end) else None),
        column.right,
    )


class Peer(Command):
    """``peer WHAT …``."""

    name = "peer"
    description = (
        "WHAT is a kernel address, PID:FD, the inode of a socket, or the name of a unix socket "
        "(a path, or @ and an abstract name). A unix socket that was accepted has the name of "
        "its listener, and the listener is shown as well. The other end of a TCP connection is "
        "found if it is on this machine, in any network namespace."
    )
    columns = (
        Column(
            "what",
            "the word that asked for it",
            lambda e: e.what.encode("utf-8", "surrogateescape"),
        ),
        Column(
            "end",
            "self; peer; or listener, which accepted one of the two",
            lambda e: e.end,
            True,
        ),
        *map(_column, COLUMNS),
        Column("note", "what is unusual", lambda e: e.note or e.error, True),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "what", nargs="+", metavar="WHAT", help="ADDRESS, PID:FD, INODE or unix PATH"
        )

    def run(self, prog: Program, args: argparse.Namespace, losses: Losses) -> int:
        finder = Finder(prog, losses)
        ends = [
            end
            for what in args.what
            for record in finder.find(what)
            for end in both_ends(finder, what, record)
        ]
        self.emit(ends, args, losses)
        return OK

    def read_all(self, prog: Program, losses: Losses) -> None:
        finder = Finder(prog, losses)
        # Most other ends are among the sockets that were walked.
        walk = for_each_socket(prog, holders=finder.holders, losses=losses)
        records = {record.sk: record for record in readable(walk, losses)}
        for record in records.values():
            if isinstance(record, UnixRecord) and record.peer not in records:
                finder.reader.peer(record)


def both_ends(finder: Finder, what: str, record: AnySocket) -> Iterator[End]:
    """Find both ends of the connection of *record*."""
    yield End(what, "self", record, _note(record))
    if isinstance(record, UnreadableSocket):
        return
    peer = finder.reader.peer(record)
    if peer is not None:
        yield End(what, "peer", peer, _peer_note(record, peer))
    elif isinstance(record, NetlinkRecord) and record.sock.dst_group:
        yield End(what, "peer", None, f"whoever has joined group {record.sock.dst_group}")
    elif record.family_name not in (OTHER, "unix") and record.is_connected:
        yield End(what, "peer", None, f"{remote_text(record)} is not on this machine")
    for end in (record, peer):
        listener = finder.reader.listener(end) if isinstance(end, SocketRecord) else None
        if listener is not None:
            yield End(what, "listener", listener)
            break


def _note(record: AnySocket) -> str | None:
    if not isinstance(record, SocketRecord):
        return None
    if isinstance(record, InetRecord):
        if record.is_unbound:
            return "never bound or connected"
        if isinstance(record, TcpRecord) and not record.sock.num:
            return "was connected: refused, reset or timed out"
        return None
    if isinstance(record, UnixRecord):
        if record.state == TCP_LISTEN:
            return f"listening, {record.recv_q} not accepted" if record.recv_q else "listening"
        if not record.ino and not record.holders:
            return "not accepted yet"
        if not record.peer:
            return "not connected"
        return None
    if record.is_unbound:
        return "never bound"
    # Of a family that we do not read, it is not known whether a socket is connected.
    if isinstance(record, PacketRecord) or record.family_name == OTHER or record.is_connected:
        return None
    return "not connected"


def _peer_note(record: SocketRecord, peer: AnySocket) -> str | None:
    if not isinstance(peer, UnixRecord) or not isinstance(record, UnixRecord):
        if isinstance(peer, SocketRecord) and peer.netns != record.netns:
            return f"in network namespace {peer.netns}"
        return _note(peer)
    if peer.peer != record.sk:
        return "does not point back" if peer.peer else "not connected itself"
    if not peer.ino and not peer.holders:
        return "not accepted yet"
    return None
