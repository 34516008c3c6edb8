# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What of the files of ``/proc/PID`` names a moment, or cannot be known: the one place that says so.

Two looks at a process that is stopped differ in none of these but :data:`KHUGEPAGED`; of one that
runs, and of threads of the kernel's, in these and in no other.
"""

from __future__ import annotations

import functools
from enum import Enum

from drgn_sockets.named_tuple import NamedTuple

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


#: What khugepaged makes more of, also of a process that is stopped: it fills the holes of a huge
#: page (``collapse_huge_page()``).
KHUGEPAGED = frozenset(("rss", "VmHWM", "VmRSS", "RssAnon"))


class How(Enum):
    """How a value changes while nobody does anything on purpose."""

    #: It only grows.
    GROWS = "only grows"
    #: It may be any other.
    ANY = "changes"
    #: What is behind the ID of a worker of the kernel's: ``events`` of ``kworker/0:1-events``.
    KTHREAD = "changes, of threads of the kernel's"


class Moment(NamedTuple):
    """Values in a file: fields of ``stat`` and lines of ``status``, by their names."""

    file: str
    names: tuple[str, ...]
    how: How
    why: str


_TIMES = ("utime", "stime", "cutime", "cstime", "guest_time", "cguest_time")
_FAULTS = ("minflt", "cminflt", "majflt", "cmajflt")
_SWITCHES = ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
_WORKER = "a worker of the kernel's is called by what it does, or did last"
_RUNS = "who sleeps and who runs, and where"

MOMENTS = (
    Moment("stat", (*_TIMES, "delayacct_blkio_ticks"), How.GROWS, "time that is used"),
    Moment("stat", _FAULTS, How.GROWS, "memory that is touched"),
    Moment("stat", ("state", "processor"), How.ANY, _RUNS),
    Moment("stat", ("rss", "vsize"), How.ANY, "memory that is got and given back"),
    # Before 5.16 it is 1 where frame pointers lead from the stack to a caller of the scheduler,
    # which they do not where the kernel is unwound by ORC; it is 0 here then.
    Moment("stat", ("wchan",), How.ANY, _RUNS),
    Moment("stat", ("comm",), How.KTHREAD, _WORKER),
    Moment("comm", ("comm",), How.KTHREAD, _WORKER),
    Moment("status", ("Name",), How.KTHREAD, _WORKER),
    Moment("status", ("State",), How.ANY, _RUNS),
    Moment("status", _SWITCHES, How.GROWS, _RUNS),
    Moment("status", ("VmPeak", "VmHWM"), How.GROWS, "memory that is got"),
    Moment(
        "status",
        ("VmSize", "VmRSS", "RssAnon", "RssFile", "RssShmem", "VmData", "VmStk", "VmPTE", "VmSwap"),
        How.ANY,
        "memory that is got and given back",
    ),
    Moment("status", ("SigQ",), How.ANY, "signals that wait, of all processes of a user"),
)


@functools.lru_cache(None)
def how(file: str, name: str) -> How | None:
    """How a value changes by itself, ``None`` for one that does not."""
    found = [m.how for m in MOMENTS if file == m.file and name in m.names]
    return found[0] if found else None


def stat_fields(text: bytes) -> dict[str, bytes]:
    """
    The fields of a ``stat``.

    :raises ValueError: if it is none
    """
    # A name may have anything in it, parentheses and spaces as well.
    head, parenthesis, rest = text.rstrip(b"\n").rpartition(b")")
    pid, _, comm = head.partition(b" (")
    words = rest.split()
    if not parenthesis or len(words) != len(STAT_FIELDS) - 2:
        raise ValueError(f"not a stat: {text!r}")
    return dict(zip(STAT_FIELDS, (pid, comm, *words)))


def status_lines(text: bytes) -> dict[str, bytes]:
    """The lines of a ``status``, by what each is of."""
    pairs = (line.partition(b":\t") for line in text.splitlines())
    return {name.decode("ascii"): value for name, _, value in pairs}
