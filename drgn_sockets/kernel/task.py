# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tasks, and the file tables that they share or have of their own."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from drgn import FaultError, Object, Program

from drgn_sockets.kernel.memory import UNREADABLE, byte_order, pointer_size
from drgn_sockets.kernel.pid import Pid
from drgn_sockets.kernel.structs import Bytes, Int, Struct
from drgn_sockets.kernel.task_facts import TaskFacts
from drgn_sockets.named_tuple import NamedTuple

# Far above PID_MAX_LIMIT (4 Mi): ends the walk of a list that does not end.
_MAX_TASKS = 1 << 23
# include/linux/xarray.h: an entry that ends in these bits is not a pointer to what is kept but,
# above _XA_INTERNAL_MAX, one to a node, and below something that stands for no entry.
_XA_BITS = 3
_XA_INTERNAL = 2
_XA_INTERNAL_MAX = 4096
_LONG_BITS = 64


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


class _XaNode(Struct):
    C_TYPE = "struct xa_node"

    shift = Int("shift", help="bits of an index that are told below this node")
    slots = Bytes("slots", help="void *[], entries")


class _PidLink(Struct):
    C_TYPE = "struct task_struct"

    link = Int("pid_links[0].next", help="struct hlist_node of the struct pid")


def _pids(prog: Program) -> tuple[list[int], bool]:
    """
    The ``struct pid *`` of the initial PID namespace in the order of IDs, as ``idr_for_each()``
    has them; whether the tree of them is whole.
    """
    layout = _XaNode.layout(prog)
    namespace = _PidNamespace.layout(prog).read(prog["init_pid_ns"].address_of_().value_())
    if namespace.head & _XA_BITS != _XA_INTERNAL or namespace.head <= _XA_INTERNAL_MAX:
        # There is one for ID 0 or none, and IDs begin with 1.
        return [], False
    pids: dict[int, int] = {}
    whole = True
    size = pointer_size(prog)
    slots = struct.Struct(
        f"{byte_order(prog)}{layout.cls.places['slots'].size // size}{'IQ'[size // 8]}"
    )
    # Node by node of a level, in the order of addresses: where the indexes below it begin.
    level, above = {namespace.head - _XA_INTERNAL: 0}, _LONG_BITS
    while level and len(pids) <= _MAX_TASKS:
        below: dict[int, int] = {}
        shifts = set()
        for address, node in layout.read_many(level):
            if node is None or node.shift >= above:
                whole = False
                continue
            shifts.add(node.shift)
            for i, entry in enumerate(slots.unpack(node.slots)):
                if not entry:
                    continue
                index = level[address] + (i << node.shift)
                if not entry & _XA_BITS and not node.shift:
                    pids[index] = entry
                elif entry & _XA_BITS == _XA_INTERNAL and entry > _XA_INTERNAL_MAX and node.shift:
                    below[entry - _XA_INTERNAL] = index
                elif entry & _XA_BITS != _XA_INTERNAL or entry > _XA_INTERNAL_MAX:
                    whole = False
        # All nodes of a level are of one shift, or one of them is none.
        whole = whole and len(shifts) == 1
        level, above = below, max(shifts, default=0)
    return [pids[index] for index in sorted(pids)], whole


def task_by_tid(prog: Program, tid: int) -> Task | None:
    """
    The task with a thread ID in the initial PID namespace, as ``find_task_by_vpid()`` there.

    :return: ``None`` if there is none
    :raises FaultError: if there is one that cannot be read, or that is not known
    """
    try:
        pid = _pid(prog, tid)
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


def _pid(prog: Program, tid: int) -> int:
    """The ``struct pid *`` of an ID, 0 for none, as ``idr_find()``."""
    layout = _XaNode.layout(prog)
    size = pointer_size(prog)
    slots = layout.cls.places["slots"].size // size
    form = f"{byte_order(prog)}{'IQ'[size // 8]}"
    namespace = _PidNamespace.layout(prog).read(prog["init_pid_ns"].address_of_().value_())
    entry, above = namespace.head, _LONG_BITS
    while entry & _XA_BITS == _XA_INTERNAL and entry > _XA_INTERNAL_MAX:
        node = layout.read(entry - _XA_INTERNAL)
        if node.shift >= above:
            raise FaultError("no node of a tree of IDs", node.address)
        index = tid >> node.shift
        if above == _LONG_BITS and index >= slots:
            # Beyond the root.
            return 0
        (entry,) = struct.unpack_from(form, node.slots, index % slots * size)
        above = node.shift
    return 0 if entry & _XA_BITS or above else entry


def _tasks_by_pid(prog: Program) -> tuple[list[int], bool]:
    """Tasks by their ID, as drgn's ``for_each_task()`` has them; whether these are all."""
    link = _PidLink.layout(prog).cls.places["link"].offset
    pids, whole = _pids(prog)
    first: dict[int, int] = {}
    for address, pid in Pid.layout(prog).read_many(pids):
        if pid is None:
            whole = False
        elif pid.first:
            first[address] = pid.first - link
    return [first[address] for address in pids if address in first], whole


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


def _tasks_as_drgn(prog: Program) -> tuple[list[int], bool]:
    # A kernel with its IDs elsewhere. All helpers of drgn come with the first: importing them
    # takes longer than this walk.
    from drgn.helpers.linux.pid import for_each_task

    found: list[int] = []
    try:
        for task in for_each_task(prog):
            found.append(task.value_())
            if len(found) > _MAX_TASKS:
                break
    except FaultError:
        return found, False
    return found, True


def task_addresses(prog: Program) -> list[int]:
    """
    Addresses of all tasks, threads included, in the order of their thread IDs.

    When the PID namespace's radix tree is broken, the list of tasks is walked as well, from
    both ends.

    :return: ``struct task_struct *`` as integers
    :raises FaultError: if none can be found
    """
    try:
        tasks, whole = _tasks_by_pid(prog)
    except FaultError:
        tasks, whole = [], False
    except LookupError:
        tasks, whole = _tasks_as_drgn(prog)
    found = dict.fromkeys(tasks)
    if not whole:
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
        self.prog = prog
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
