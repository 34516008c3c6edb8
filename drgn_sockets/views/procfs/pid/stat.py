# SPDX-License-Identifier: LGPL-2.1-or-later
"""``/proc/PID/stat``."""

from __future__ import annotations

from collections.abc import Iterator

from drgn_sockets.kernel import process as p
from drgn_sockets.kernel.memory import page_shift
from drgn_sockets.kernel.mm import MM_SWAPENTS, mm_counters
from drgn_sockets.kernel.pid import upids
from drgn_sockets.kernel.structs import find_place
from drgn_sockets.records.process import ProcessRecord
from drgn_sockets.views.procfs.pid.base import PidFile, PidLooker

# include/asm-generic/param.h: USER_HZ is 100.
_NSEC_PER_TICK = 10_000_000
_MAX_RT_PRIO = 100
_DEFAULT_PRIO = 120
_MASK = 0x7FFFFFFF


class StatFile(PidFile):
    """``do_task_stat()``"""

    name = "stat"

    def text(self, at: PidLooker, process: ProcessRecord) -> Iterator[bytes]:
        values = " ".join(map(str, _values(process)))
        name, state = process.name, p.task_state(process.task)[:1].encode()
        yield b"%d (%b) %b %b\n" % (process.task.pid, name, state, values.encode())


def _values(process: ProcessRecord) -> Iterator[int]:
    """Get the fields after the state, from field 4 on."""
    prog, task, signal = process.prog, process.task, process.signal
    utime, stime, gtime = process.cpu_times()
    min_flt, maj_flt = process.faults()
    ignored, caught = process.ignored_and_caught
    known = process.is_known
    if known:
        groups = (ids[0].nr if ids else 0 for ids in process.group_ids[1:])
        yield from (process.tgid_of(task.real_parent), *groups)
    else:
        yield from (0, -1, -1)
    yield from _tty(process) if known else (0, -1)
    yield from (task.flags, min_flt, signal.cmin_flt, maj_flt, signal.cmaj_flt)
    yield from (time // _NSEC_PER_TICK for time in (utime, stime, signal.cutime, signal.cstime))
    yield from (task.prio - _MAX_RT_PRIO, task.static_prio - _DEFAULT_PRIO)
    yield from (signal.nr_threads if known else 0, 0, task.start_boottime // _NSEC_PER_TICK)
    yield from _memory(process)
    # kstkesp and kstkeip are 0 for a process that is not dumping core.
    yield from (0, 0)
    pending, blocked = (p.sigset(prog, raw) for raw in (task.pending, task.blocked))
    yield from (bits & _MASK for bits in (pending, blocked, ignored, caught))
    yield from (_wchan(process), 0, 0, task.exit_signal, task.cpu, task.rt_priority, task.policy)
    yield p.blkio_delay_ns(prog, task) // _NSEC_PER_TICK
    yield from (gtime // _NSEC_PER_TICK, signal.cgtime // _NSEC_PER_TICK)
    mm = process.mm
    yield from (
        (mm.start_data, mm.end_data, mm.start_brk, mm.arg_start, mm.arg_end, mm.env_start)
        if mm is not None
        else (0,) * 6
    )
    yield mm.env_end if mm is not None else 0
    yield _exit_code(process)


def _tty(process: ProcessRecord) -> tuple[int, int]:
    tty = process.tty
    if tty is None:
        return 0, -1
    ids = upids(process.prog, tty.pgrp)
    return p.tty_nr(process.prog, tty), ids[0].nr if ids else 0


def _memory(process: ProcessRecord) -> tuple[int, ...]:
    """``vsize``, ``rss``, ``rsslim``, ``startcode``, ``endcode``, ``startstack``"""
    prog, mm = process.prog, process.mm
    limit = process.signal.rlim_rss if process.is_known else 0
    if mm is None:
        return 0, 0, limit, 0, 0, 0
    counters = mm_counters(prog, mm, exactly=False)
    rss = sum(counters) - counters[MM_SWAPENTS]
    vsize = mm.total_vm << page_shift(prog)
    return vsize, rss, limit, mm.start_code, mm.end_code, mm.start_stack


def _wchan(process: ProcessRecord) -> int:
    if process.whole and process.is_known and process.signal.nr_threads > 1:
        return 0
    # Linux kernel commit 4e046156792c ("proc: Use task_is_running() for wchan in
    # /proc/$pid/stat") (in v5.16) changed no type; in the same version 0258b5fd7c71
    # ("coredump: Limit coredumps to a single thread group") did. Before that it was an address
    # that was found with frame pointers. Kernels that unwind with ORC have none, and mostly
    # print 0.
    return int(process.signal.core_state is not None and bool(process.task.state))


def _exit_code(process: ProcessRecord) -> int:
    # Linux kernel commit 2d18f7f45620 ("exit: Use the correct exit_code in /proc/<pid>/stat")
    # (in v5.17) changed no type; in the same version d6986ce24fc0 ("kthread: dynamically allocate
    # memory to store kthread's full name") did.
    has = find_place(process.prog, process.prog.type("struct kthread"), "full_name") is not None
    signal = process.signal
    if has and process.whole and process.is_known and signal.exits_or_is_stopped:
        return signal.group_exit_code
    return process.task.exit_code
