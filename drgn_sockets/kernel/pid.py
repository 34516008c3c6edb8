# SPDX-License-Identifier: LGPL-2.1-or-later
"""``struct pid``: the IDs of a process or thread, one in each of its PID namespaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from drgn import FaultError, Program, sizeof

from drgn_sockets.kernel.structs import Bytes, Int, Struct

# include/linux/pid_namespace.h: MAX_PID_NS_LEVEL
_MAX_LEVEL = 32


class Pid(Struct):
    """``struct pid``."""

    C_TYPE = "struct pid"

    level = Int("level", help="how deep its PID namespace is, 0 for the initial one")
    # PIDTYPE_PID is 0.
    first = Int("tasks[0].first", help="struct hlist_node * in the task; NULL if it is gone")
    numbers = Bytes("numbers", help="struct upid []")


class _Upid(Struct):
    C_TYPE = "struct upid"

    nr = Int("nr")
    ns = Int("ns", help="struct pid_namespace *")


class Upid(NamedTuple):
    """An ID in a PID namespace."""

    nr: int
    #: ``struct pid_namespace *``
    ns: int


def upids(prog: Program, pid: int) -> list[Upid]:
    """
    The IDs of a ``struct pid *``, from the initial PID namespace on.

    :return: An empty list for a null pointer
    :raises FaultError: if they cannot be read
    """
    if not pid:
        return []
    layout, each = Pid.layout(prog), _Upid.layout(prog)
    found = layout.read(pid)
    if not 0 <= found.level < _MAX_LEVEL:
        raise FaultError("no struct pid", pid)
    start = pid + layout.cls.places["numbers"].offset
    size = sizeof(prog.type("struct upid"))
    data = prog.read(start, (found.level + 1) * size)
    read = (each.decode(start + i, data, i) for i in range(0, len(data), size))
    return [Upid(upid.nr, upid.ns) for upid in read]


def pid_nr(prog: Program, pid: int) -> int:
    """
    ``pid_nr()``: the ID in the initial PID namespace.

    :param pid: ``struct pid *`` as an integer
    :return: 0 for a null pointer
    :raises FaultError: if it cannot be read
    """
    ids = upids(prog, pid)
    return ids[0].nr if ids else 0


def pid_nr_ns(ids: Sequence[Upid], ns: int, level: int) -> int:
    """``pid_nr_ns()``: the ID in the namespace *ns*, which has this *level*; 0 if there is none."""
    return ids[level].nr if level < len(ids) and ids[level].ns == ns else 0
