# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tasks: ``struct task_struct``, walks of all tasks, and the file tables of processes."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from drgn import FaultError, Program, offsetof

from drgn_sockets.kernel.lists import list_for_each
from drgn_sockets.kernel.lost import Lost, as_fault, lost_by, or_lost, refuse, sift, unreadable
from drgn_sockets.kernel.memory import pointer_size, unpack_words
from drgn_sockets.kernel.moving import stands
from drgn_sockets.kernel.pid import Pid
from drgn_sockets.kernel.structs import Bytes, CString, Int, OptBytes, OptInt, Struct
from drgn_sockets.kernel.xarray import xa_for_each, xa_load
from drgn_sockets.program import is_live

# include/linux/sched.h
PF_KTHREAD = 0x00200000
# include/uapi/asm-generic/resource.h
_RLIMIT_NOFILE = 7
# How often a difference is looked at on a live kernel.
_LOOKS = 3
# What losses call the table of all tasks.
_TABLE = "IDR of the initial PID namespace"
# Far above PID_MAX_LIMIT (4 Mi): the walk of a list that loops stops here.
_MAX_TASKS = 1 << 23


class Task(Struct):
    """``struct task_struct``, as far as walks of tasks and file tables need it."""

    C_TYPE = "struct task_struct"

    pid = Int("pid", help="thread ID, in the initial PID namespace")
    tgid = Int("tgid", help="process ID, in the initial PID namespace")
    comm = CString("comm", help="command name")
    flags = Int("flags", help="PF_* flags")
    files = Int("files", help="struct files_struct *")
    nsproxy = Int("nsproxy", help="struct nsproxy *")
    fs = Int("fs", help="struct fs_struct *")
    mm = Int("mm", help="struct mm_struct *")
    cred = Int("real_cred", help="const struct cred *")
    signal = Int("signal", help="struct signal_struct *, of all its threads")
    # Linux kernel commit bcf9033e5449 ("sched: move CPU field back into thread_info if
    # THREAD_INFO_IN_TASK=y") (in v5.16)
    cpu = OptInt("thread_info.cpu", "cpu", help="the processor it runs on, or last did")
    task_works = Int(
        "task_works", help="struct callback_head *, work for when it leaves the kernel"
    )
    tasks = Int("tasks.next", help="next process")
    thread_node = Int("thread_node.next", help="next thread of its process")
    pid_link = Int("pid_links[0].next", help="next task of its struct pid")


class Process(Task):
    """``struct task_struct``, as far as its files in ``/proc/PID`` have it."""

    C_TYPE = "struct task_struct"

    # Linux kernel commit 2f064a59a11f ("sched: Change task_struct::state") (in v5.14)
    state = Int("__state", "state", help="TASK_* flags")
    exit_state = Int("exit_state", help="EXIT_* flags")
    exit_code = Int("exit_code", help="as wait() has it")
    exit_signal = Int("exit_signal", help="sent to its parent when it exits")
    real_parent = Int("real_parent", help="struct task_struct *")
    parent = Int("parent", help="struct task_struct *: its tracer, if it has one")
    ptrace = Int("ptrace", help="PT_* flags; 0 if it is not traced")
    sighand = Int("sighand", help="struct sighand_struct *")
    thread_pid = Int("thread_pid", help="struct pid *")
    # Linux kernel commit cf25e24db61c ("time: Rename tsk->real_start_time to ->start_boottime")
    # (in v5.5)
    start_boottime = Int("start_boottime", "real_start_time", help="when it started, ns")
    prio = Int("prio")
    static_prio = Int("static_prio", help="nice value + 120")
    rt_priority = Int("rt_priority")
    policy = Int("policy", help="SCHED_*")
    cpu = Int("thread_info.cpu", "cpu", help="the processor it runs on, or last did")
    min_flt = Int("min_flt", help="page faults without I/O")
    maj_flt = Int("maj_flt", help="page faults with I/O")
    utime = Int("utime", help="in user mode, by ticks, ns")
    stime = Int("stime", help="in the kernel, by ticks, ns")
    gtime = Int("gtime", help="as a virtual processor, ns")
    sum_exec_runtime = Int("se.sum_exec_runtime", help="ns")
    prev_utime = OptInt("prev_cputime.utime", help="as it was told last, ns")
    prev_stime = OptInt("prev_cputime.stime", help="as it was told last, ns")
    nvcsw = Int("nvcsw", help="switches to another task that it asked for")
    nivcsw = Int("nivcsw", help="switches that it did not")
    pending = Bytes("pending.signal", help="sigset_t")
    blocked = Bytes("blocked", help="sigset_t")
    atomic_flags = Int("atomic_flags", help="PFA_* bits")
    seccomp_mode = OptInt("seccomp.mode", help="SECCOMP_MODE_*")
    # Linux kernel commit c818c03b661c ("seccomp: Report number of loaded filters in
    # /proc/$pid/status") (in v5.9)
    seccomp_filters = OptInt("seccomp.filter_count.counter")
    cpus_mask = Bytes("cpus_mask", "cpus_allowed", help="processors it may run on")
    mems_allowed = OptBytes("mems_allowed", help="nodemask_t, nodes it may have memory of")
    # Linux kernel commit e32cf5dfbe22 ("kthread: Generalize pf_io_worker so it can point to
    # struct kthread") (in v5.17)
    kthread = Int("worker_private", "set_child_tid", help="struct kthread *, of a kernel thread")
    cgroups = OptInt("cgroups", help="struct css_set *")


class _Cred(Struct):
    C_TYPE = "struct cred"

    euid = Int("euid.val", help="effective user ID, in the initial user namespace")


class _Signal(Struct):
    C_TYPE = "struct signal_struct"

    rlim = Bytes("rlim", help="struct rlimit[], two unsigned long each")


class Limit(NamedTuple):
    """A resource limit; ``None`` for none (``RLIM_INFINITY``)."""

    soft: int | None
    hard: int | None


class TaskFacts:
    """
    Facts of a process or thread that its task points to.

    Each one is read when it is asked for, and raises ``FaultError`` if it cannot be read.
    """

    def __init__(self, prog: Program, task: Task) -> None:
        self.prog = prog
        self.task = task

    @property
    def is_kthread(self) -> bool:
        """Whether it is a thread of the kernel."""
        return bool(self.task.flags & PF_KTHREAD)

    @functools.cached_property
    def uid(self) -> int:
        """Its user, the owner of ``/proc/PID``: ``task_dump_owner()``."""
        return 0 if self.is_kthread else _Cred.layout(self.prog).read(self.task.cred).euid

    @functools.cached_property
    def nofile(self) -> Limit | None:
        """``RLIMIT_NOFILE``: new fds are below it; ``None`` for a task without ``signal``."""
        signal = _Signal.layout(self.prog).follow(self.task.signal)
        if signal is None:
            return None
        first = 2 * _RLIMIT_NOFILE
        limits = unpack_words(self.prog, signal.rlim)[first : first + 2]
        infinity = (1 << 8 * pointer_size(self.prog)) - 1
        return Limit(*(None if limit == infinity else limit for limit in limits))


def _is_apart(prog: Program, task: Task) -> bool:
    """Whether what a list of tasks leads to is a task, and the table of IDs does not have it."""
    # On a live kernel tasks come and go between two reads.
    for i in range(_LOOKS if is_live(prog) else 1):
        time.sleep(0.001 * i)
        again = or_lost(Task.layout(prog).read, task.address)
        if isinstance(again, Lost) or not again.signal or again.pid <= 0:
            return False
        if is_live(prog):
            pid = or_lost(functools.partial(xa_load, prog, _idr_head(prog)), again.pid)
            if isinstance(pid, Lost) or pid:
                return False
    return True


def _of_list_only(
    prog: Program, tasks: Mapping[int, Task], lose: Callable[[Lost], object]
) -> list[Task]:
    """
    Tasks that are in the list of tasks, or of the threads of a process, and not in the table of IDs
    that *tasks* came from.

    The kernel has each task in both. Each of *tasks* says which is next in the lists, so this costs
    no read where the two agree.
    """
    layout = Task.layout(prog)
    places = layout.cls.places
    node, thread_node = places["tasks"].offset, places["thread_node"].offset
    thread_head = offsetof(prog.type("struct signal_struct"), "thread_head")
    init_task = prog["init_task"].address_of_().value_()
    found: dict[int, Task] = {}
    new: Iterable[Task] = tasks.values()
    while new:
        nexts: set[int] = set()
        for task in new:
            if task.pid == task.tgid:
                nexts.add(task.tasks - node)
            if task.thread_node != task.signal + thread_head:
                nexts.add(task.thread_node - thread_node)
        nexts -= tasks.keys() | found.keys() | {init_task}
        some = layout.read_many(nexts)
        new = [one for one in some if not isinstance(one, Lost) and _is_apart(prog, one)]
        found.update((task.address, task) for task in new)
    table = prog["init_pid_ns"].address_
    if is_live(prog):
        # Each by itself: a task that begins or ends is missing in one look, another in the next.
        for address in found:
            why = f"it lacks the task at {address:#x}, which is in the list of tasks"
            lose(Lost(_TABLE, table, why))
    elif found:
        why = f"it lacks {len(found)} of the tasks that are in the list of tasks"
        lose(Lost(_TABLE, table, why))
    return list(found.values())


class FileTable(NamedTuple):
    """One file table as one process (or thread) uses it."""

    #: Process ID in the initial PID namespace (``tgid``).
    pid: int
    #: Thread ID if the table is a thread's own and not that of its process, else ``None``.
    tid: int | None
    #: Command name of the process, or of the thread if the table is its own.
    comm: bytes
    #: Address of the ``struct files_struct``.
    files: int
    #: Address of the ``struct task_struct``.
    task: int
    #: More about its process (or thread).
    process: TaskFacts | None = None
    #: Whether it is the first thread of a process whose leader has exited. Mapped files and the
    #: like of the process are then shown with this thread.
    stands_in: bool = False


class _PidNamespace(Struct):
    C_TYPE = "struct pid_namespace"

    # Linux kernel commit f8d5d0cc145c ("xarray: Add definition of struct xarray") (in v4.20)
    # made the radix tree of an IDR an XArray.
    head = Int("idr.idr_rt.xa_head", help="void *, an entry of the XArray")


def _idr_head(prog: Program) -> int:
    """The entry at the top of the IDR of the initial PID namespace."""
    return _PidNamespace.layout(prog).read(prog["init_pid_ns"].address_of_().value_()).head


def task_by_tid(prog: Program, tid: int) -> Task | None:
    """
    The task with a thread ID in the initial PID namespace, as ``find_task_by_vpid()`` there.

    :return: ``None`` if there is none
    :raises FaultError: if the task cannot be read, or if it is not known whether there is one
    """
    try:
        pid = xa_load(prog, _idr_head(prog), tid)
        found = Pid.layout(prog).read(pid) if pid else None
        if found is None or not found.first:
            return None
        link = Task.layout(prog).cls.places["pid_link"].offset
    except LookupError:
        return None
    except FaultError:
        # The table of IDs is damaged. The list of tasks may still lead to the task; what else is
        # lost is not asked for.
        lost: list[Lost] = []
        task = Tasks(prog, lost.append).by_tid.get(tid)
        if task is None:
            raise
        return task
    task = Task.layout(prog).read(found.first - link)
    if task.pid != tid:
        raise unreadable(Task.C_TYPE, task.address)
    return task


def pid_task(prog: Program, pid: Pid) -> Task | None:
    """
    The task of an ID, as ``pid_task()``; ``None`` if it is gone.

    :raises FaultError: if it cannot be read
    """
    link = Task.layout(prog).cls.places["pid_link"].offset
    return Task.layout(prog).follow(pid.first - link) if pid.first else None


def _tasks_by_pid(prog: Program) -> Iterator[tuple[int, int] | Lost]:
    """(ID, task) in the order of IDs, as drgn's ``for_each_task()`` has them."""
    link = Task.layout(prog).cls.places["pid_link"].offset
    entries = list(xa_for_each(prog, _idr_head(prog), _MAX_TASKS))
    some = Pid.layout(prog).read_many(e[1] for e in entries if not isinstance(e, Lost))
    pids = {pid.address: pid for pid in some}
    for entry in entries:
        if isinstance(entry, Lost):
            yield entry
            continue
        tid, address = entry
        pid = pids[address]
        if isinstance(pid, Lost):
            yield pid
        elif pid.first:
            yield tid, pid.first - link
    if not entries:
        # Every kernel has a process 1, so an empty table is damage.
        yield Lost(_TABLE, prog["init_pid_ns"].address_, "it is empty")


def _for_each_task_by_list(prog: Program) -> Iterator[int | Lost]:
    tasks = Task.layout(prog)
    offset = tasks.cls.places["tasks"].offset
    thread_head = offsetof(prog.type("struct signal_struct"), "thread_head")
    thread_node = tasks.cls.places["thread_node"].offset
    head = prog["init_task"].tasks.address_of_().value_()
    for node in list_for_each(prog, head, _MAX_TASKS):
        if isinstance(node, Lost):
            yield node
            continue
        yield node - offset
        leader = or_lost(tasks.read, node - offset)
        if isinstance(leader, Lost):
            yield leader
            continue
        for thread in list_for_each(prog, leader.signal + thread_head, _MAX_TASKS):
            yield thread if isinstance(thread, Lost) else thread - thread_node


def _tasks_as_drgn(prog: Program) -> Iterator[int | Lost]:
    # drgn finds the tasks of a kernel that keeps its IDs elsewhere. The import takes 34 ms.
    from drgn.helpers.linux.pid import for_each_task

    try:
        for task in itertools.islice(for_each_task(prog), _MAX_TASKS):
            yield task.value_()
    except FaultError as e:
        yield lost_by(e, "struct pid")


def _task_addresses(prog: Program, lose: Callable[[Lost], object]) -> dict[int, int]:
    """
    Addresses of all tasks, threads included, in the order of their thread IDs.

    When the IDR of the PID namespace is damaged, the list of tasks is walked as well.

    :param lose: Called with what cannot be read and may hide tasks.
    :return: Thread IDs by ``struct task_struct *``; 0 for a task that the IDR does not have
    :raises FaultError: if none can be found
    """
    lost: list[Lost] = []
    found: dict[int, int] = {}
    try:
        for tid, task in sift(_tasks_by_pid(prog), lost.append):
            if found.setdefault(task, tid) != tid:
                lost.append(Lost(Pid.C_TYPE, task, f"two IDs, {found[task]} and {tid}, lead to it"))
    except FaultError as e:
        lost.append(lost_by(e, "struct pid_namespace"))
    except LookupError:
        found.update(dict.fromkeys(sift(_tasks_as_drgn(prog), lost.append), 0))
    if lost:
        for task in sift(_for_each_task_by_list(prog), lost.append):
            found.setdefault(task, 0)
        if not found:
            # A machine always has processes; most likely the core was cut short.
            raise as_fault(lost[-1])
        for entry in lost:
            lose(entry)
    return found


def _read_tasks(prog: Program, lose: Callable[[Lost], object]) -> dict[int, Task]:
    """Read all tasks, by thread ID, in the order of :func:`_task_addresses`."""
    tids = _task_addresses(prog, lose)
    lost: list[Lost] = []
    tasks = {task.address: task for task in sift(Task.layout(prog).read_many(tids), lost.append)}
    # A task that is gone by now may have been read after its memory was used again.
    there = _task_addresses(prog, lambda lost: None) if is_live(prog) else tids
    for entry in lost:
        if entry.address in there:
            lose(entry)
    tasks = {address: task for address, task in tasks.items() if address in there}
    for task in _of_list_only(prog, tasks, lose):
        tids[task.address] = 0
        tasks[task.address] = task
    by_tid: dict[int, Task] = {}
    for address, tid in tids.items():
        found = tasks.get(address)
        if found is None:
            continue
        if tid and found.pid != tid:
            why = f"its pid is {found.pid}, and the table of IDs has it as {tid}"
            lose(Lost(Task.C_TYPE, address, why))
        if by_tid.setdefault(tid or found.pid, found) is not found:
            lose(Lost(Task.C_TYPE, address, f"another task has its pid, {found.pid}"))
    return by_tid


class Tasks:
    """
    All tasks, read once.

    :param lose: Called with each that cannot be read. Without it, one raises ``FaultError``.
    """

    def __init__(self, prog: Program, lose: Callable[[Lost], object] = refuse) -> None:
        self.prog = prog
        #: Tasks by thread ID, in its order.
        self.by_tid: dict[int, Task] = stands(prog, functools.partial(_read_tasks, prog), lose)

    def tables(self, *, threads: bool = False, without: bool = False) -> list[FileTable]:
        """
        The file tables, in the order of process IDs.

        Threads that share a ``files_struct`` are one row; a thread with one of its own
        (``unshare(CLONE_FILES)``) is another, after its process. Kernel threads share
        ``init_files``, which is empty, and zombies have none.

        :param threads: A row for each thread, whether it shares its table or not.
        :param without: Rows for processes without a table as well.
        """
        first: dict[tuple[int, ...], FileTable] = {}
        stands_in: dict[int, int] = {}
        for task in self.by_tid.values():
            if not task.files and (not without or task.pid != task.tgid):
                continue
            key = (task.tgid, task.files, task.pid if threads else 0)
            if key in first:
                continue
            leader = self.by_tid.get(task.tgid)
            # When a leader has exited, its threads still have the table. /proc/PID/fd is then
            # empty, and /proc/PID/task/TID/fd shows the fds.
            own = leader is None or leader.files != task.files
            is_thread = task.pid != task.tgid
            if is_thread and (leader is None or not leader.files):
                stands_in.setdefault(task.tgid, task.pid)
            if threads:
                own = is_thread
            first[key] = FileTable(
                task.tgid,
                task.pid if own else None,
                task.comm,
                task.files,
                task.address,
                TaskFacts(self.prog, task),
                stands_in.get(task.tgid) == task.pid,
            )
        return sorted(first.values(), key=lambda t: (t.pid, t.tid or 0))
