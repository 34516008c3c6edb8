# SPDX-License-Identifier: LGPL-2.1-or-later
"""``struct pid``: what a process or thread is called in each PID namespace that it is in."""

from __future__ import annotations

from drgn import Program, sizeof

from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.kernel.task import Task

# include/linux/pid_namespace.h: MAX_PID_NS_LEVEL
_MAX_LEVEL = 32


class Pid(Struct):
    """``struct pid``."""

    C_TYPE = "struct pid"

    level = Int("level", help="how deep its PID namespace is, 0 for the initial one")
    # PIDTYPE_PID is 0.
    first = Int("tasks[0].first", help="struct hlist_node * in the task; NULL if it is gone")
    nr = Int("numbers[0].nr", help="ID in the initial PID namespace")


class _Upid(Struct):
    C_TYPE = "struct upid"

    nr = Int("nr")


class _PidLink(Struct):
    C_TYPE = "struct task_struct"

    link = Int("pid_links[0].next")


def pid_numbers(prog: Program, pid: Pid) -> list[int]:
    """
    IDs in the PID namespaces, from the initial one on inwards.

    :raises FaultError: if they cannot be read
    """
    layout, size = _Upid.layout(prog), sizeof(prog.type("struct upid"))
    first = pid.address + Pid.layout(prog).cls.places["nr"].offset
    levels = range(1, min(pid.level, _MAX_LEVEL) + 1)
    return [pid.nr, *(layout.read(first + level * size).nr for level in levels)]


def pid_task(prog: Program, pid: Pid) -> Task | None:
    """The task of that ID, as ``pid_task()``; ``None`` if it is gone, or cannot be read."""
    link = _PidLink.layout(prog).cls.places["link"].offset
    return Task.layout(prog).try_read(pid.first - link) if pid.first else None
