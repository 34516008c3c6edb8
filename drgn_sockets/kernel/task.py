# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tasks, and the file tables that they share or have of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from drgn import FaultError, Object, Program
from drgn.helpers.linux.pid import for_each_task

from drgn_sockets.kernel.memory import UNREADABLE
from drgn_sockets.kernel.structs import Bytes, Int, Struct

# Far above PID_MAX_LIMIT (4 Mi): ends the walk of a list that does not end.
_MAX_TASKS = 1 << 23


class Task(Struct):
    """What file tables and their owners need of a ``struct task_struct``."""

    C_TYPE = "struct task_struct"

    pid = Int("pid", help="thread ID, in the initial PID namespace")
    tgid = Int("tgid", help="process ID, in the initial PID namespace")
    comm = Bytes("comm", help="command name", convert=lambda raw: raw.split(b"\0", 1)[0])
    flags = Int("flags", help="PF_* flags")
    files = Int("files", help="struct files_struct *")
    nsproxy = Int("nsproxy", help="struct nsproxy *")
    fs = Int("fs", help="struct fs_struct *")


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


def _for_each_task_by_list(prog: Program) -> Iterator[int]:
    # Both ways round: a broken link hides what is behind it from one side only.
    init_task = prog["init_task"]
    head = init_task.tasks.address_of_()
    offset = head.value_() - init_task.address_of_().value_()
    has_node = init_task.prog_.type("struct task_struct").has_member("thread_node")
    for direction in ("next", "prev"):
        node = getattr(head, direction).value_()
        seen = {0, head.value_()}
        while node not in seen:
            seen.add(node)
            leader = Object(prog, "struct task_struct *", node - offset)
            yield leader.value_()
            try:
                if has_node:
                    yield from _threads(leader)
                node = getattr(leader.tasks, direction).value_()
            except UNREADABLE:
                break


def _threads(leader: Object) -> Iterator[int]:
    head = leader.signal.thread_head.address_of_().value_()
    offset = leader.thread_node.address_of_().value_() - leader.value_()
    node = leader.signal.thread_head.next.value_()
    seen = {0, head}
    while node not in seen:
        seen.add(node)
        thread = Object(leader.prog_, "struct task_struct *", node - offset)
        yield thread.value_()
        node = thread.thread_node.next.value_()


def task_addresses(prog: Program) -> list[int]:
    """
    Addresses of all tasks, threads included, in the order of their thread IDs.

    When the PID namespace's radix tree is broken, the list of tasks is walked as well, from
    both ends.

    :return: ``struct task_struct *`` as integers
    :raises FaultError: if none can be found
    """
    found: dict[int, None] = {}
    try:
        for task in for_each_task(prog):
            found[task.value_()] = None
            if len(found) > _MAX_TASKS:
                break
    except FaultError:
        try:
            for address in _for_each_task_by_list(prog):
                found[address] = None
        except UNREADABLE:
            if not found:
                # Not a machine without processes: a core cut short, most likely.
                raise
    return list(found)


class Tasks:
    """All tasks, read once."""

    def __init__(self, prog: Program) -> None:
        layout = Task.layout(prog)
        order = {address: i for i, address in enumerate(task_addresses(prog))}
        by_order: list[Task | None] = [None] * len(order)
        #: Addresses of tasks that could not be read.
        self.unreadable: list[int] = []
        for address, task in layout.read_many(order):
            if task is None:
                self.unreadable.append(address)
            else:
                by_order[order[address]] = task
        #: Tasks by thread ID, in its order.
        self.by_tid: dict[int, Task] = {task.pid: task for task in by_order if task is not None}

    def tables(self) -> list[FileTable]:
        """
        The file tables, in the order of process IDs.

        Threads that share a ``files_struct`` are one row; a thread with one of its own
        (``unshare(CLONE_FILES)``) is another, after its process. Kernel threads share
        ``init_files``, which is empty, and zombies have none.
        """
        first: dict[tuple[int, int], FileTable] = {}
        for task in self.by_tid.values():
            if not task.files:
                continue
            key = (task.tgid, task.files)
            if key in first:
                continue
            leader = self.by_tid.get(task.tgid)
            # A leader that has exited leaves its threads the table, but /proc/PID/fd is
            # empty then: the fds are those of /proc/PID/task/TID/fd.
            own = leader is None or leader.files != task.files
            first[key] = FileTable(
                task.tgid, task.pid if own else None, task.comm, task.files, task.address
            )
        return sorted(first.values(), key=lambda t: (t.pid, t.tid or 0))
