# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Values in files of ``/proc/PID`` that change by themselves, or that memory cannot tell.

Two reads of the files of a stopped process differ in :data:`KHUGEPAGED` alone. Two reads of the
files of a running process, or of a thread of the kernel, differ in these values and in no others.
"""

from __future__ import annotations

import functools
from enum import Enum
from typing import NamedTuple

#: Fields of ``stat``, from the first on, as proc_pid_stat(5) calls them.
STAT_FIELDS = (
    *("pid", "comm", "state", "ppid", "pgrp", "session", "tty_nr", "tpgid", "flags", "minflt"),
    *("cminflt", "majflt", "cmajflt", "utime", "stime", "cutime", "cstime", "priority", "nice"),
    *("num_threads", "itrealvalue", "starttime", "vsize", "rss", "rsslim", "startcode"),
    *("endcode", "startstack", "kstkesp", "kstkeip", "signal", "blocked", "sigignore"),
    *("sigcatch", "wchan", "nswap", "cnswap", "exit_signal", "processor", "rt_priority"),
    *("policy", "delayacct_blkio_ticks", "guest_time", "cguest_time", "start_data", "end_data"),
    *("start_brk", "arg_start", "arg_end", "env_start", "env_end", "exit_code"),
)


#: Values that khugepaged increases, also for a stopped process, when it fills the holes of a huge
#: page (``collapse_huge_page()``).
KHUGEPAGED = frozenset(("rss", "VmHWM", "VmRSS", "RssAnon"))


class ValueChange(Enum):
    """How a value changes by itself."""

    #: It only grows.
    GROWS = "only grows"
    #: It may become any value.
    ANY = "changes"
    #: The part of a kworker's name after its ID changes: ``events`` in ``kworker/0:1-events``.
    KTHREAD = "changes for threads of the kernel"


class MovingValues(NamedTuple):
    """Values in a file: fields of ``stat`` and lines of ``status``, by their names."""

    file: str
    names: tuple[str, ...]
    how: ValueChange
    why: str


_TIMES = ("utime", "stime", "cutime", "cstime", "guest_time", "cguest_time")
_FAULTS = ("minflt", "cminflt", "majflt", "cmajflt")
_SWITCHES = ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
_WORKER = "a kworker is named after the work that it does, or did last"
_RUNS = "tasks sleep, and run on any CPU"

MOMENTS = (
    MovingValues("stat", (*_TIMES, "delayacct_blkio_ticks"), ValueChange.GROWS, "CPU time is used"),
    MovingValues("stat", _FAULTS, ValueChange.GROWS, "memory is touched"),
    MovingValues("stat", ("state", "processor"), ValueChange.ANY, _RUNS),
    MovingValues("stat", ("rss", "vsize"), ValueChange.ANY, "memory is got and given back"),
    # Before 5.16 it is 1 if frame pointers lead from the stack to a caller of the scheduler. They
    # do not if the kernel unwinds with ORC; we print 0.
    MovingValues("stat", ("wchan",), ValueChange.ANY, _RUNS),
    MovingValues("stat", ("comm",), ValueChange.KTHREAD, _WORKER),
    MovingValues("comm", ("comm",), ValueChange.KTHREAD, _WORKER),
    MovingValues("status", ("Name",), ValueChange.KTHREAD, _WORKER),
    MovingValues("status", ("State",), ValueChange.ANY, _RUNS),
    MovingValues("status", _SWITCHES, ValueChange.GROWS, _RUNS),
    MovingValues("status", ("VmPeak", "VmHWM"), ValueChange.GROWS, "memory is got"),
    MovingValues(
        "status",
        ("VmSize", "VmRSS", "RssAnon", "RssFile", "RssShmem", "VmData", "VmStk", "VmPTE", "VmSwap"),
        ValueChange.ANY,
        "memory is got and given back",
    ),
    MovingValues(
        "status", ("SigQ",), ValueChange.ANY, "pending signals of all processes of the user"
    ),
)


@functools.lru_cache(None)
def how(file: str, name: str) -> ValueChange | None:
    """How a value changes by itself; ``None`` if it does not."""
    found = [m.how for m in MOMENTS if file == m.file and name in m.names]
    return found[0] if found else None


def stat_fields(text: bytes) -> dict[str, bytes]:
    """
    Get the fields of a ``stat``, by the names in :data:`STAT_FIELDS`.

    :raises ValueError: if *text* is not that of a ``stat``
    """
    # The name may have any characters, parentheses and spaces among them.
    head, parenthesis, rest = text.rstrip(b"\n").rpartition(b")")
    pid, _, comm = head.partition(b" (")
    words = rest.split()
    if not parenthesis or len(words) != len(STAT_FIELDS) - 2:
        raise ValueError(f"not a stat: {text!r}")
    return dict(zip(STAT_FIELDS, (pid, comm, *words)))


def status_lines(text: bytes) -> dict[str, bytes]:
    """Get the lines of a ``status``, by the names at their beginnings."""
    pairs = (line.partition(b":\t") for line in text.splitlines())
    return {name.decode("ascii"): value for name, _, value in pairs}
