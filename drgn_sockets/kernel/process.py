# SPDX-License-Identifier: LGPL-2.1-or-later
"""Structures behind ``/proc/PID/stat`` and ``status``: signals, credentials, terminals, times."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from drgn import FaultError, Program, offsetof, sizeof

from drgn_sockets.kernel.lists import list_for_each_entry
from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.memory import pointer_size, read_bytes, read_pointers, unpack_words
from drgn_sockets.kernel.structs import Bytes, CString, Int, OptInt, Struct
from drgn_sockets.kernel.task import Process
from drgn_sockets.program import byte_order

# include/linux/sched.h
PF_EXITING = 0x00000004
PF_WQ_WORKER = 0x00000020
_TASK_UNINTERRUPTIBLE = 0x2
_TASK_IDLE = 0x402
_TASK_RTLOCK_WAIT = 0x1000
_TASK_FROZEN = 0x8000
_TASK_REPORT = 0x7F
_TASK_REPORT_IDLE = _TASK_REPORT + 1
# include/linux/sched/signal.h
_SIGNAL_STOP_STOPPED = 0x1
_SIGNAL_GROUP_EXIT = 0x4
# arch/*/include/uapi/asm/signal.h
_NSIG = 64
_NGROUPS_MAX = 65536
_MAX_THREADS = 1 << 22

#: Texts of fs/proc/array.c, by ``task_state_index()``.
STATES = (
    *("R (running)", "S (sleeping)", "D (disk sleep)", "T (stopped)", "t (tracing stop)"),
    *("X (dead)", "Z (zombie)", "P (parked)", "I (idle)"),
)


class ThreadFeatures(Struct):
    """``struct thread_struct`` of x86, read apart: it is at the far end of ``task_struct``."""

    C_TYPE = "struct thread_struct"

    # Linux kernel commit 0ee44885fe9c ("x86: Expose thread features in /proc/$PID/status")
    # (in v6.6)
    features = OptInt("features", help="shadow stacks")
    features_locked = OptInt("features_locked")


class Signal(Struct):
    """``struct signal_struct``: what threads of a process share."""

    C_TYPE = "struct signal_struct"

    nr_threads = Int("nr_threads")
    tgid_pid = Int("pids[1]", help="struct pid *, of the process")
    pgid_pid = Int("pids[2]", help="struct pid *, of the process group")
    sid_pid = Int("pids[3]", help="struct pid *, of the session")
    tty = Int("tty", help="struct tty_struct *, NULL for none")
    flags = Int("flags", help="SIGNAL_* flags")
    group_exit_code = Int("group_exit_code")
    # Sums over threads that have exited. Names with c are sums over children that were waited for.
    min_flt = Int("min_flt")
    maj_flt = Int("maj_flt")
    cmin_flt = Int("cmin_flt")
    cmaj_flt = Int("cmaj_flt")
    utime = Int("utime")
    stime = Int("stime")
    gtime = Int("gtime")
    cutime = Int("cutime")
    cstime = Int("cstime")
    cgtime = Int("cgtime")
    sum_sched_runtime = Int("sum_sched_runtime")
    prev_utime = OptInt("prev_cputime.utime")
    prev_stime = OptInt("prev_cputime.stime")
    # include/uapi/asm-generic/resource.h: RLIMIT_RSS, RLIMIT_SIGPENDING
    rlim_rss = Int("rlim[5].rlim_cur")
    rlim_sigpending = Int("rlim[11].rlim_cur")
    shared_pending = Bytes("shared_pending.signal", help="sigset_t")
    # Linux kernel commit 0258b5fd7c71 ("coredump: Limit coredumps to a single thread group")
    # (in v5.16)
    core_state = OptInt("core_state", help="struct core_state *")

    @property
    def exits_or_is_stopped(self) -> bool:
        """Whether :attr:`group_exit_code` applies, and not the exit code of the task."""
        return bool(self.flags & (_SIGNAL_GROUP_EXIT | _SIGNAL_STOP_STOPPED))


class Sighand(Struct):
    """``struct sighand_struct``."""

    C_TYPE = "struct sighand_struct"
    action = Bytes("action", help="struct k_sigaction [64]")


class _KSigaction(Struct):
    C_TYPE = "struct k_sigaction"
    handler = Int("sa.sa_handler", help="0 SIG_DFL, 1 SIG_IGN")


class Cred(Struct):
    """``struct cred``."""

    C_TYPE = "struct cred"

    uid = Int("uid.val")
    euid = Int("euid.val")
    suid = Int("suid.val")
    fsuid = Int("fsuid.val")
    gid = Int("gid.val")
    egid = Int("egid.val")
    sgid = Int("sgid.val")
    fsgid = Int("fsgid.val")
    cap_inheritable = Bytes("cap_inheritable", help="CAP_* bits")
    cap_permitted = Bytes("cap_permitted", help="CAP_* bits")
    cap_effective = Bytes("cap_effective", help="CAP_* bits")
    cap_bset = Bytes("cap_bset", help="CAP_* bits")
    cap_ambient = Bytes("cap_ambient", help="CAP_* bits")
    group_info = Int("group_info", help="struct group_info *")
    user = Int("user", help="struct user_struct *")
    user_ns = Int("user_ns", help="struct user_namespace *")
    # Linux kernel commit 905ae01c4ae2 ("Add a reference to ucounts for each cred") (in v5.14)
    ucounts = OptInt("ucounts", help="struct ucounts *")


class _GroupInfo(Struct):
    C_TYPE = "struct group_info"
    ngroups = Int("ngroups")
    gid = Bytes("gid", help="kgid_t []")


class _User(Struct):
    C_TYPE = "struct user_struct"
    sigpending = OptInt("sigpending.counter")


class _NumaGroup(Struct):
    C_TYPE = "struct numa_group"
    gid = Int("gid")


class Tty(Struct):
    """``struct tty_struct``."""

    C_TYPE = "struct tty_struct"

    driver = Int("driver", help="struct tty_driver *")
    index = Int("index", help="number of the line of its driver")
    name = CString("name", help="name")
    link = Int("link", help="struct tty_struct * of the other end of a pty")
    ops = Int("ops", help="const struct tty_operations *")
    # Linux kernel commit 64d608db38ff ("tty: cumulate and document tty_struct::ctrl* members")
    # (in v5.14)
    pgrp = Int("ctrl.pgrp", "pgrp", help="struct pid * of the process group in the foreground")
    session = Int("ctrl.session", "session", help="struct pid * of the session")


class _TtyDriver(Struct):
    C_TYPE = "struct tty_driver"
    major = Int("major")
    minor_start = Int("minor_start")


class _Delays(Struct):
    C_TYPE = "struct task_delay_info"
    blkio_delay = Int("blkio_delay", help="ns")
    swapin_delay = Int("swapin_delay", help="ns")


def task_state(task: Process) -> str:
    """Get the name of the state of a task, as ``get_task_state()``."""
    state = (task.state | task.exit_state) & _TASK_REPORT
    if task.state & _TASK_IDLE == _TASK_IDLE:
        state = _TASK_REPORT_IDLE
    # Older kernels do not set these bits.
    if task.state & (_TASK_RTLOCK_WAIT | _TASK_FROZEN):
        state = _TASK_UNINTERRUPTIBLE
    return STATES[state.bit_length()]


def for_each_thread(prog: Program, signal: Signal) -> Iterator[Process | Lost]:
    """
    Iterate over the threads of a process, as ``__for_each_thread()``.

    :return: Iterator of the decoded ``struct task_struct``. A ``Lost`` stands for a thread that
        cannot be read.
    """
    head = signal.address + offsetof(prog.type("struct signal_struct"), "thread_head")
    return list_for_each_entry(Process.layout(prog), head, "thread_node", _MAX_THREADS)


def sigset(prog: Program, raw: bytes) -> int:
    """The bits of a ``sigset_t``, the lowest for signal 1."""
    bits = 8 * pointer_size(prog)
    return sum(word << bits * i for i, word in enumerate(unpack_words(prog, raw)))


def ignored_and_caught(prog: Program, sighand: int) -> tuple[int, int]:
    """
    Signals that are ignored, and those that are caught, as ``collect_sigign_sigcatch()``.

    :param sighand: ``struct sighand_struct *``
    :raises FaultError: if they cannot be read
    """
    found = Sighand.layout(prog).read(sighand)
    each, size = _KSigaction.layout(prog), sizeof(prog.type("struct k_sigaction"))
    ignored = caught = 0
    for i in range(min(_NSIG, len(found.action) // size)):
        handler = each.decode(0, found.action, i * size).handler
        if handler == 1:
            ignored |= 1 << i
        elif handler:
            caught |= 1 << i
    return ignored, caught


def cap_bits(prog: Program, raw: bytes) -> int:
    """The bits of a ``kernel_cap_t``."""
    # Linux kernel commit f122a08b197d ("capability: just use a 'u64' instead of a 'u32[2]'
    # array") (in v6.3)
    if prog.type("kernel_cap_t").type.members[0].name == "cap":
        low, high = struct.unpack(f"{byte_order(prog)}2I", raw)
        return int(high << 32 | low)
    return int(struct.unpack(f"{byte_order(prog)}Q", raw)[0])


def groups(prog: Program, group_info: int) -> list[int]:
    """
    The supplementary groups of a ``struct group_info *``.

    :raises FaultError: if they cannot be read
    """
    layout = _GroupInfo.layout(prog)
    count = layout.read(group_info).ngroups
    if not 0 <= count <= _NGROUPS_MAX:
        raise FaultError("no struct group_info", group_info)
    data = prog.read(group_info + layout.cls.places["gid"].offset, 4 * count)
    return list(struct.unpack(f"{byte_order(prog)}{count}I", data))


def pending_signals(prog: Program, cred: Cred) -> int:
    """
    Count the signals that are queued for a user.

    :raises FaultError: if it cannot be read
    """
    # Linux kernel commit d64696905554 ("Reimplement RLIMIT_SIGPENDING on top of ucounts") (in
    # v5.14)
    if cred.ucounts is None:
        return _User.layout(prog).read(cred.user).sigpending or 0
    kind = prog.constant("UCOUNT_RLIMIT_SIGPENDING").value_()
    # Linux kernel commit de399236e240 ("ucounts: Split rlimit and ucount values and max values")
    # (in v6.1)
    ucounts = prog.type("struct ucounts")
    name = "rlimit" if ucounts.has_member("rlimit") else "ucount"
    address = cred.ucounts + ucounts.member(name).offset + 8 * kind
    return int(struct.unpack(f"{byte_order(prog)}q", prog.read(address, 8))[0])


def _pointer(prog: Program, task: Process, member: str) -> int:
    """A pointer far behind the other members of a ``task_struct``, 0 if there is none."""
    type_ = prog.type("struct task_struct")
    if not type_.has_member(member):
        return 0
    return read_pointers(prog, task.address + type_.member(member).offset, 1)[0]


def numa_group_id(prog: Program, task: Process) -> int:
    """``task_numa_group_id()``, 0 for none."""
    group = _pointer(prog, task, "numa_group")
    found = _NumaGroup.layout(prog).follow(group) if group else None
    return found.gid if found is not None else 0


def thread_features(prog: Program, task: Process) -> ThreadFeatures | None:
    """Read the shadow stack features of an x86 task, ``None`` if the kernel has no such member."""
    layout = ThreadFeatures.layout(prog)
    if "features" not in layout.cls.places:
        return None
    return layout.read(task.address + prog.type("struct task_struct").member("thread").offset)


def tty_nr(prog: Program, tty: Tty) -> int:
    """
    The device of a terminal, as ``new_encode_dev(tty_devnum())``.

    :raises FaultError: if its driver cannot be read
    """
    driver = _TtyDriver.layout(prog).read(tty.driver)
    minor = driver.minor_start + tty.index
    return minor & 0xFF | driver.major << 8 | (minor & ~0xFF) << 12


def blkio_delay_ns(prog: Program, task: Process) -> int:
    """``__delayacct_blkio_ticks()``, in ns."""
    delays = _pointer(prog, task, "delays")
    found = _Delays.layout(prog).follow(delays) if delays else None
    return found.blkio_delay + _swapin(prog, found) if found is not None else 0


def _swapin(prog: Program, delays: _Delays) -> int:
    # Linux kernel commit a3d5dc908a5f ("delayacct: support swapin delay accounting for swapping
    # without blkio") (in v5.17). Before, __delayacct_blkio_ticks() added the swapin delay.
    apart = prog.type("struct task_delay_info").has_member("swapin_start")
    return 0 if apart else delays.swapin_delay


class CpuTime(NamedTuple):
    """``struct task_cputime``, and the times that were reported before, ns."""

    utime: int
    stime: int
    sum_exec_runtime: int
    prev_utime: int
    prev_stime: int


def cputime_adjust(time: CpuTime) -> tuple[int, int]:
    """
    Get user and system time, as ``cputime_adjust()``: the exact run time is divided in the ratio of
    the ticks, and neither part becomes less than it was.
    """
    _, _, rtime, prev_utime, prev_stime = time
    utime, stime = time.utime, time.stime
    if prev_stime + prev_utime >= rtime:
        return prev_utime, prev_stime
    if utime == 0 and stime:
        stime = rtime
    elif stime:
        stime = min(stime * rtime // (stime + utime), rtime)
    stime = max(stime, prev_stime)
    utime = rtime - stime
    if utime < prev_utime:
        utime = prev_utime
        stime = rtime - utime
    return utime, stime


def cpu_bits(prog: Program, mask: bytes) -> int:
    """The bits of a ``cpumask_t`` or ``nodemask_t``."""
    return sigset(prog, mask)


def read_word(prog: Program, name: str) -> int | None:
    """Read an ``int`` variable that has no type in BTF, ``None`` if there is no such symbol."""
    try:
        address = prog.symbol(name).address
    except LookupError:
        return None
    data = read_bytes(prog, address, 4)
    return None if data is None else int(struct.unpack(f"{byte_order(prog)}i", data)[0])
