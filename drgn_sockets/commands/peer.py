# SPDX-License-Identifier: LGPL-2.1-or-later
"""``peer``: both ends of a socket, and who holds each."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from drgn import Program

from drgn_sockets.commands.base import OK, Command
from drgn_sockets.commands.ss_member_columns import COLUMNS
from drgn_sockets.query.find import Finder
from drgn_sockets.query.words import Word, parse_word
from drgn_sockets.records.columns import Column
from drgn_sockets.records.losses import Losses
from drgn_sockets.records.reader import for_each_socket, readable
from drgn_sockets.records.socket import OTHER, AnySocket, SocketRecord, UnreadableSocket
from drgn_sockets.views.sockets import remote_text


@dataclass
class Row:
    """One end of a pair of sockets."""

    #: The user's word for the socket.
    what: str
    #: ``self``, ``peer``, or ``listener``, which accepted one of the two.
    end: str
    record: AnySocket | None
    note: str | None = None

    @property
    def where(self) -> str:
        """Which row it is, for a message."""
        return f"{self.end} of {self.what}"

    @property
    def error(self) -> str | None:
        """What cannot be read."""
        return self.record.error if isinstance(self.record, UnreadableSocket) else None


def _column(column: Column) -> Column:
    text = column.text

    def has(row: Row) -> bool:
        return row.record is not None and isinstance(row.record, column.of)

    return Column(
        column.name,
        column.help,
        lambda row: column.get(row.record) if has(row) else None,
        column.name in ("netid", "state", "ino", "local", "holders", "file_ino", "file_dev"),
        text and (lambda row: text(row.record) if has(row) else None),
        column.right,
    )


class Peer(Command):
    """``peer WHAT …``."""

    name = "peer"
    description = (
        "WHAT is PID:FD; an inode (21189, socket:[21189]); a port or an address with one (:443, "
        ":https, 10.0.0.1:443, [::1]:443; local or remote); the name of a unix socket (a path, or "
        "@name); or a kernel address of a socket, file or inode. A unix socket that was accepted "
        "has the name of its listener, and the listener is shown as well. The other end of a TCP "
        "connection is found if it is on this machine, in any network namespace. A connection "
        "whose both ends are meant is shown once."
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
            "what",
            nargs="+",
            metavar="WHAT",
            help="PID:FD, INODE, [ADDR]:PORT, unix PATH, @NAME or 0xADDRESS",
        )

    def run(self, prog: Program, args: argparse.Namespace, losses: Losses) -> int:
        finder = Finder(prog, losses)
        rows = [row for word in map(parse_word, args.what) for row in rows_of(finder, word)]
        self.emit(rows, args, losses)
        return OK

    def read_all(self, prog: Program, losses: Losses) -> None:
        finder = Finder(prog, losses)
        # Most other ends are among the sockets that were walked.
        walk = for_each_socket(prog, holders=finder.holders, losses=losses)
        records = {record.sk: record for record in readable(walk, losses)}
        for record in records.values():
            far = record.peer_sk if isinstance(record, SocketRecord) else 0
            if far and far not in records:
                finder.reader.at(far)


def rows_of(finder: Finder, word: Word) -> Iterator[Row]:
    """Find both ends of the connection of every socket that a word names."""
    records = finder.find(word)
    peers = finder.reader.peers(r for r in records if isinstance(r, SocketRecord))
    shown: set[int] = set()
    for record in records:
        peer = peers.get(record.sk)
        back = None if peer is None or peer.sk not in shown else peers.get(peer.sk)
        if back is not None and back.sk == record.sk:
            # Both ends of the connection fit the word, and it is shown already.
            continue
        shown.add(record.sk)
        yield from _both_ends(finder, word.text, record, peer)


def _both_ends(
    finder: Finder, what: str, record: AnySocket, peer: AnySocket | None
) -> Iterator[Row]:
    yield Row(what, "self", record, record.note() if isinstance(record, SocketRecord) else None)
    if isinstance(record, UnreadableSocket):
        return
    if peer is not None:
        note = record.peer_note(peer) if isinstance(peer, SocketRecord) else None
        yield Row(what, "peer", peer, note)
    elif record.family_name != OTHER and record.is_connected:
        absent = record.absent_peer_note() or f"{remote_text(record)} is not on this machine"
        yield Row(what, "peer", None, absent)
    for end in (record, peer):
        listener = finder.reader.listener(end) if isinstance(end, SocketRecord) else None
        if listener is not None:
            yield Row(what, "listener", listener)
            break
