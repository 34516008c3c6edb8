# SPDX-License-Identifier: LGPL-2.1-or-later
"""Terminals: drivers/tty/tty_io.c and pty.c."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import ClassVar, NamedTuple

from drgn import FaultError, Program, offsetof

from drgn_sockets.kernel.file import File
from drgn_sockets.kernel.memory import UNREADABLE
from drgn_sockets.kernel.pid import pid_nr
from drgn_sockets.kernel.process import Tty as Tty_
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, FileEnd, Kind


class _TtyFilePrivate(Struct):
    C_TYPE = "struct tty_file_private"

    tty = Int("tty")


class Terminal(NamedTuple):
    """A terminal with its session and foreground process group."""

    tty: Tty_
    #: Name of the other end of a pty.
    link: bytes | None
    #: Foreground process group, and session, in the initial PID namespace.
    pgrp: int | None
    session: int | None


class Tty(Kind):
    """Terminals, including slaves of ptys."""

    name = "tty"
    fops: ClassVar[Sequence[str]] = ("tty_fops", "console_fops")
    fields: ClassVar[Sequence[Field]] = (
        Field("name", "name of a terminal", attrgetter("tty.name"), shown=False),
        Field("link", "the other end of a pty", attrgetter("link"), shown=False),
        Field("session", "session whose terminal it is", attrgetter("session")),
        Field("pgrp", "process group in the foreground of a terminal", attrgetter("pgrp")),
    )

    def read(self, file: FileRecord) -> Terminal:
        prog = file.prog
        private = _TtyFilePrivate.layout(prog).read(file.private_data)
        layout = Tty_.layout(prog)
        tty = layout.read(private.tty)
        link = layout.read(tty.link).name if tty.link else None
        return Terminal(
            tty, link, pid_nr(prog, tty.pgrp) or None, pid_nr(prog, tty.session) or None
        )

    def end(self, prog: Program, file: File) -> FileEnd | None:
        """Only a pty has ends; its two ``struct tty_struct`` point to each other."""
        tty = _TtyFilePrivate.layout(prog).read(file.private_data).tty
        link = Tty_.layout(prog).read(tty).link
        return FileEnd(min(tty, link), side=tty) if link else None

    def fdinfo(self, file: FileRecord, it: Terminal) -> Iterator[bytes]:
        """``tty_show_fdinfo()``; only the driver of ``/dev/ptmx`` implements it."""
        prog = file.prog
        offset = offsetof(prog.type("struct tty_operations"), "show_fdinfo")
        try:
            shows = prog.read_word(it.tty.ops + offset)
        except UNREADABLE:
            raise FaultError("struct tty_operations cannot be read", it.tty.ops) from None
        if shows:
            yield b"tty-index:\t%d\n" % it.tty.index


class Ptmx(Tty):
    """Masters of ptys."""

    name = "ptmx"
    fops = ("ptmx_fops",)
    fields = (
        Field("tty_index", "index of the other end of a pty", attrgetter("tty.index")),
        Field("slave", "the other end", lambda it: f"/dev/pts/{it.tty.index}"),
    )

    def words(self, it: Terminal) -> str:
        return f"tty-index={it.tty.index} slave=/dev/pts/{it.tty.index}"
