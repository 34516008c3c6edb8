# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tasks, and the file tables that they share or have of their own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from drgn import FaultError, Program, offsetof

from drgn_sockets.kernel.lists import list_for_each
from drgn_sockets.kernel.lost import Lost, as_fault, lost_by, sift
from drgn_sockets.kernel.pid import Pid
from drgn_sockets.kernel.structs import CString, Int, Struct
from drgn_sockets.kernel.task_facts import TaskFacts
from drgn_sockets.kernel.xarray import xa_for_each, xa_load
from drgn_sockets.named_tuple import NamedTuple

# Far above PID_MAX_LIMIT (4 Mi): ends the walk of a list that does not end.
_MAX_TASKS = 1 << 23


class Task(Struct):
    """What file tables and their owners need of a ``struct task_struct``."""

    C_TYPE = "struct task_struct"

    pid = Int("pid", help="thread ID, in the initial PID namespace")
    tgid = Int("tgid", help="process ID, in the initial PID namespace")
    comm = CString("comm", help="command name")
    flags = Int("flags", help="PF_* flags")
    files = Int("files", help="struct files_struct *")
    nsproxy = Int("nsproxy", help="struct nsproxy *")
    fs = Int("fs", help="struct fs_struct *")


class FileTable(NamedTuple):
    """One file table as one process (or thread) uses it."""

    #: TaskFacts ID in the initial PID namespace (``tgid``).
    pid: int
    #: Thread ID if the table is a thread's own and not that of its process, else ``None``.
    tid: int | None
    #: Command name of the process, or of the thread if the table is its own.
    comm: bytes
    #: Address of the ``struct files_struct``.
    files: int
    #: Address of the ``struct task_struct``.
    task: int
    #: What else there is to know of its process (or thread).
    process: TaskFacts | None = None
    #: Whether it is the first thread of a process whose leader has exited: what the process has
    #: besides its fds is told of by this one.
    stands_in: bool = False


class _PidNamespace(Struct):
    C_TYPE = "struct pid_namespace"

    # Linux kernel commit f8d5d0cc145c ("xarray: Add definition of struct xarray") (in v4.20)
    # made the radix tree of an IDR an XArray.
    head = Int("idr.idr_rt.xa_head", help="void *, an entry of the XArray")


class _TaskLists(Struct):
    C_TYPE = "struct task_struct"

    tasks = Int("tasks.next", help="next process")
    signal = Int("signal", help="struct signal_struct *")


class _PidLink(Struct):
    C_TYPE = "struct task_struct"

    link = Int("pid_links[0].next", help="struct hlist_node of the struct pid")


def _idr_head(prog: Program) -> int:
    """The entry at the top of the IDR of the initial PID namespace."""
    return _PidNamespace.layout(prog).read(prog["init_pid_ns"].address_of_().value_()).head


def task_by_tid(prog: Program, tid: int) -> Task | None:
    """
    The task with a thread ID in the initial PID namespace, as ``find_task_by_vpid()`` there.

    :return: ``None`` if there is none
    :raises FaultError: if there is one that cannot be read, or that is not known
    """
    try:
        pid = xa_load(prog, _idr_head(prog), tid)
        found = Pid.layout(prog).read(pid) if pid else None
        if found is None or not found.first:
            return None
        link = _PidLink.layout(prog).cls.places["link"].offset
    except LookupError:
        return None
    except FaultError:
        # The table of IDs is damaged: tasks are in a list as well.
        task = Tasks(prog).by_tid.get(tid)
        if task is None:
            raise
        return task
    task = Task.layout(prog).try_read(found.first - link)
    if task is None or task.pid != tid:
        raise FaultError("struct task_struct cannot be read", found.first - link)
    return task


def pid_task(prog: Program, pid: Pid) -> Task | None:
    """The task of an ID, as ``pid_task()``; ``None`` if it is gone, or cannot be read."""
    link = _PidLink.layout(prog).cls.places["link"].offset
    return Task.layout(prog).try_read(pid.first - link) if pid.first else None


def _tasks_by_pid(prog: Program) -> Iterator[int | Lost]:
    """Tasks in the order of their IDs, as drgn's ``for_each_task()`` has them."""
    link = _PidLink.layout(prog).cls.places["link"].offset
    entries = list(xa_for_each(prog, _idr_head(prog), _MAX_TASKS))
    pids = dict(Pid.layout(prog).read_many(e[1] for e in entries if not isinstance(e, Lost)))
    for entry in entries:
        if isinstance(entry, Lost):
            yield entry
            continue
        pid = pids[entry[1]]
        if pid is None:
            yield Lost("struct pid", entry[1])
        elif pid.first:
            yield pid.first - link
    if not entries:
        # A kernel has a process 1.
        yield Lost("IDR of the initial PID namespace", prog["init_pid_ns"].address_, "it is empty")


def _for_each_task_by_list(prog: Program) -> Iterator[int | Lost]:
    tasks = _TaskLists.layout(prog)
    offset = tasks.cls.places["tasks"].offset
    thread_head = offsetof(prog.type("struct signal_struct"), "thread_head")
    thread_node = offsetof(prog.type("struct task_struct"), "thread_node")
    head = prog["init_task"].tasks.address_of_().value_()
    for node in list_for_each(prog, head, _MAX_TASKS):
        if isinstance(node, Lost):
            yield node
            continue
        yield node - offset
        leader = tasks.try_read(node - offset)
        if leader is None:
            yield Lost("struct task_struct", node - offset)
            continue
        for thread in list_for_each(prog, leader.signal + thread_head, _MAX_TASKS):
            yield thread if isinstance(thread, Lost) else thread - thread_node


def _tasks_as_drgn(prog: Program) -> Iterator[int | Lost]:
    # For a kernel that keeps its IDs elsewhere. The import takes 34 ms.
    from drgn.helpers.linux.pid import for_each_task

    try:
        for task in itertools.islice(for_each_task(prog), _MAX_TASKS):
            yield task.value_()
    except FaultError as e:
        yield lost_by(e, "struct pid")


def task_addresses(prog: Program) -> list[int]:
    """
    Addresses of all tasks, threads included, in the order of their thread IDs.

    When the IDR of the PID namespace is damaged, the list of tasks is walked as well.

    :return: ``struct task_struct *`` as integers
    :raises FaultError: if none can be found
    """
    lost: list[Lost] = []
    found: dict[int, None] = {}
    try:
        found.update(dict.fromkeys(sift(_tasks_by_pid(prog), lost.append)))
    except FaultError as e:
        lost.append(lost_by(e, "struct pid_namespace"))
    except LookupError:
        found.update(dict.fromkeys(sift(_tasks_as_drgn(prog), lost.append)))
    if lost:
        found.update(dict.fromkeys(sift(_for_each_task_by_list(prog), lost.append)))
        if not found:
            # Not a machine without processes: a core cut short, most likely.
            raise as_fault(lost[-1])
    return list(found)


class Tasks:
    """
    All tasks, read once.

    :param lose: Called with each that cannot be read.
    """

    def __init__(self, prog: Program, lose: Callable[[Lost], object] = lambda lost: None) -> None:
        self.prog = prog
        layout = Task.layout(prog)
        order = {address: i for i, address in enumerate(task_addresses(prog))}
        by_order: list[Task | None] = [None] * len(order)
        for address, task in layout.read_many(order):
            if task is None:
                lose(Lost(Task.C_TYPE, address))
            else:
                by_order[order[address]] = task
        #: Tasks by thread ID, in its order.
        self.by_tid: dict[int, Task] = {task.pid: task for task in by_order if task is not None}

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
            # A leader that has exited leaves its threads the table, but /proc/PID/fd is
            # empty then: the fds are those of /proc/PID/task/TID/fd.
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
                TaskFacts(self.prog, task.address),
                stands_in.get(task.tgid) == task.pid,
            )
        return sorted(first.values(), key=lambda t: (t.pid, t.tid or 0))
