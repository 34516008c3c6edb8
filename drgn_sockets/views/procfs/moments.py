# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Columns of ``/proc/net`` and lines of fdinfo that change by themselves.

Two reads of these files, on a machine where no program runs, differ in these and in no others.
"""

from __future__ import annotations

import functools
from enum import Enum
from typing import NamedTuple


class How(Enum):
    """How a column changes while nothing is sent, received, opened or closed."""

    #: It counts down with the clock, in 1/100 s, to within :data:`TOLERANCE_S` as all others of the
    #: file do. A segment that comes once more restarts the timer of a socket in TIME-WAIT.
    DOWN = "counts down"
    #: A timer that fires changes it. Only rows with such a timer may change; a count of sockets
    #: may change by one for each such timer, and their memory by any amount.
    TIMER = "changed by a timer that fires"
    #: It only grows.
    GROWS = "only grows"
    #: It only shrinks, unless a timer fires.
    SHRINKS = "only shrinks"
    #: Each read or write of a process that goes on changes it.
    USED = "changed by who uses it"


class MovingColumns(NamedTuple):
    """Columns of some files."""

    files: tuple[str, ...]
    columns: tuple[str, ...]
    how: How
    why: str


class FdMoment(NamedTuple):
    """Lines of fdinfo of files of some kind."""

    kind: str
    lines: tuple[str, ...]
    how: How
    why: str


#: Two countdowns of a file may differ by this much from each other: reading it takes time.
TOLERANCE_S = 2.0

_TCP = ("tcp", "tcp6")

_BY_TIMERS = ("tr", "retrnsmt", "timeout", "rto", "cwnd", "ssthresh", "ref", "tx_queue", "st")
#: Columns that count sockets, and columns that count pages of memory.
COUNTS = frozenset({"used", "inuse", "orphan", "tw", "alloc", "sockets"})
PAGES = frozenset({"mem", "memory"})

_SOCKSTAT = ("used", "inuse", "orphan", "alloc", "mem")
_ENDS = "sockets that a timer ends, and their memory"
_MINUTE = "TIME-WAIT lasts a minute: some may have ended before net/tcp was read, which says when"
_AGAIN = "a raw socket whose queue is full gets a copy of each segment that TCP sends once more"

MOMENTS = (
    MovingColumns(_TCP, ("when",), How.DOWN, "time until the timer fires"),
    MovingColumns(
        _TCP, _BY_TIMERS, How.TIMER, "a retransmission or a probe, or the end of a socket"
    ),
    MovingColumns(("sockstat", "sockstat6"), _SOCKSTAT, How.TIMER, _ENDS),
    MovingColumns(("sockstat",), ("tw",), How.SHRINKS, _MINUTE),
    MovingColumns(("protocols",), ("sockets", "memory"), How.TIMER, _ENDS),
    MovingColumns(("raw", "raw6"), ("drops",), How.GROWS, _AGAIN),
)

_INET = (*_TCP, *("udp", "udp6", "udplite", "udplite6", "raw", "raw6", "icmp", "icmp6"))
_WAITS = "bytes that wait to be sent or read"

#: Columns that change on a machine whose programs ran on after procfs was saved.
TRAFFIC = (
    MovingColumns(_INET, ("tx_queue", "rx_queue"), How.USED, _WAITS),
    MovingColumns(_INET[2:], ("drops",), How.GROWS, "packets for which there was no room"),
    MovingColumns(("netlink",), ("Rmem", "Wmem"), How.USED, _WAITS),
    MovingColumns(("netlink",), ("Drops",), How.GROWS, "messages for which there was no room"),
    MovingColumns(("packet",), ("Rmem",), How.USED, _WAITS),
)


@functools.lru_cache(None)
def traffic(file: str, column: str) -> How | None:
    """How a column changes with what is sent and read; ``None`` if it does not."""
    found = [m.how for m in TRAFFIC if file in m.files and column in m.columns]
    return found[0] if found else None


@functools.lru_cache(None)
def how(file: str, column: str) -> How | None:
    """How a column changes by itself; ``None`` if it does not."""
    found = [m.how for m in MOMENTS if file in m.files and column in m.columns]
    return found[0] if found else None


FD_MOMENTS = (
    FdMoment("timerfd", ("it_value",), How.DOWN, "time until it expires"),
    FdMoment("timerfd", ("ticks",), How.TIMER, "how often it expired unread"),
    FdMoment("tun", ("pos",), How.USED, "how much was read or written last"),
)


@functools.lru_cache(None)
def fd_how(kind: str, line: str) -> How | None:
    """How a line of fdinfo changes by itself; ``None`` if it does not."""
    found = [m.how for m in FD_MOMENTS if m.kind == kind and line in m.lines]
    return found[0] if found else None
