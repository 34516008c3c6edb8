# SPDX-License-Identifier: LGPL-2.1-or-later
"""Supervision of system calls, SECCOMP_RET_USER_NOTIF: kernel/seccomp.c."""

from __future__ import annotations

from operator import attrgetter
from typing import NamedTuple

from drgn import Object

from drgn_sockets.kernel.enums import enum_names
from drgn_sockets.kernel.lists import list_for_each
from drgn_sockets.kernel.lost import Lost, or_lost
from drgn_sockets.kernel.structs import Int, Struct, find_place
from drgn_sockets.kernel.task import Task
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind
from drgn_sockets.text import plain

_MAX_CALLS = 1 << 16


class _Call(Struct):
    C_TYPE = "struct seccomp_knotif"

    task = Int("task")
    state = Int("state")


class SeccompRecord(NamedTuple):
    """The system calls that wait for the supervisor who holds this fd."""

    #: Thread ID and state of each call that waits; a :class:`Lost` if it cannot be read.
    calls: list[tuple[int, str] | Lost]

    @property
    def waiting(self) -> str | None:
        """The calls, for people."""
        words = (plain(c) if isinstance(c, Lost) else f"{c[0]}:{c[1]}" for c in self.calls)
        return ",".join(words) or None


class Seccomp(Kind):
    """A listener of seccomp(2)."""

    name = "seccomp"
    fops = ("seccomp_notify_ops",)
    fields = (
        Field("calls", "system calls that wait for a supervisor", lambda it: len(it.calls)),
        Field("waiting", "threads that made them: TID:state, …", attrgetter("waiting")),
    )

    def read(self, file: FileRecord) -> SeccompRecord:
        prog = file.prog
        notif = Object(prog, "struct seccomp_filter *", file.private_data).notif.read_()
        if not notif:
            return SeccompRecord([])
        place = find_place(prog, prog.type(_Call.C_TYPE), "list")
        if place is None:
            raise LookupError("this kernel keeps calls in another way")
        states = enum_names(prog, "notify_state", "SECCOMP_NOTIFY_")
        head = notif.notifications.address_of_().value_()
        offset = place.offset

        def call_of(node: int) -> tuple[int, str]:
            call = _Call.layout(prog).read(node - offset)
            tid = Task.layout(prog).read(call.task).pid
            return tid, states.get(call.state, str(call.state))

        return SeccompRecord(
            [
                node if isinstance(node, Lost) else or_lost(call_of, node)
                for node in list_for_each(prog, head, _MAX_CALLS)
            ]
        )
