# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which processes a user means: by ID, command name, user, or address of a ``task_struct``."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterable, Sequence

from drgn import FaultError, Program

from drgn_sockets.errors import UserError, nearest
from drgn_sockets.kernel.lost import lost_by
from drgn_sockets.kernel.task import FileTable, Task, Tasks, task_by_tid
from drgn_sockets.query.words import Address, Descriptor, Name, Number, Word

_LISTS = "fds without arguments lists all"


def task_of(prog: Program, pid: int, hint: str = _LISTS) -> Task:
    """
    Get the task with an ID.

    :param pid: Process or thread ID, in the initial PID namespace
    :param hint: What to do if there is none
    :raises UserError: if there is none, or it cannot be read
    """
    try:
        task = task_by_tid(prog, pid)
    except FaultError as e:
        raise UserError(f"process {pid}: {lost_by(e)}") from None
    if task is None:
        raise UserError(f"no process {pid}; {hint}")
    return task


def task_at(tasks: Tasks, word: Address) -> Task | None:
    """
    Get the task that an address is the ``struct task_struct *`` of, ``None`` if there is none.

    :raises UserError: if *word* says that it is a task, and it is none
    """
    if word.type not in (None, "struct task_struct"):
        return None
    for task in tasks.by_tid.values():
        if task.address == word.address:
            return task
    if word.type is not None:
        raise UserError(f"{word.text} is no task that is there; {_LISTS}")
    return None


def names_process(tasks: Tasks, word: Word) -> bool:
    """
    Tell whether a word of ``fds`` names a process: other words name what is opened.

    :raises UserError: as :func:`task_at`
    """
    if isinstance(word, Address):
        return task_at(tasks, word) is not None
    return isinstance(word, (Number, Name))


def tables_of(
    tasks: Tasks, tables: Sequence[FileTable], words: Iterable[Word], tell: Callable[[str], None]
) -> list[FileTable]:
    """
    Choose the file tables of the processes that words name.

    :param words: Of those that :func:`names_process`
    :param tell: Called with a line about a process that has no fds
    :raises UserError: if there is no such process
    """
    wanted: set[FileTable] = set()
    for word in words:
        if isinstance(word, Number):
            hint = f"peer {word.number} takes it for an inode; {_LISTS}"
            wanted.update(_with_id(tasks, tables, word.number, tell, hint))
        elif isinstance(word, Address):
            task = task_at(tasks, word)
            assert task is not None
            found = [table for table in tables if table.task == task.address]
            wanted.update(found or _with_id(tasks, tables, task.tgid, tell))
        else:
            wanted.update(tables_named(tables, word.text))
    return [table for table in tables if table in wanted]


def _with_id(
    tasks: Tasks,
    tables: Sequence[FileTable],
    pid: int,
    tell: Callable[[str], None],
    hint: str = _LISTS,
) -> list[FileTable]:
    found = [table for table in tables if table.pid == pid]
    if not found:
        task = tasks.by_tid.get(pid) or task_of(tasks.prog, pid, hint)
        if task.tgid != pid:
            leader = tasks.by_tid.get(task.tgid)
            name = f" ({os.fsdecode(leader.comm)!r})" if leader is not None else ""
            raise UserError(f"{pid} is a thread of process {task.tgid}{name}: fds {task.tgid}")
        # The process is there, but has nothing to show: that is an answer.
        why = "has exited (zombie) and" if not task.files else "has a file table but"
        tell(f"process {pid} {why} holds no file descriptors")
    return found


def tables_named(tables: Iterable[FileTable], name: str) -> list[FileTable]:
    """
    Choose the file tables of the processes with a command name.

    :raises UserError: if there is none
    """
    comm = os.fsencode(name)
    tables = list(tables)
    # A process brings its threads, which may have names of their own.
    pids = {t.pid for t in tables if t.comm == comm and t.tid is None}
    found = [t for t in tables if t.comm == comm or t.pid in pids]
    if not found:
        raise UserError(
            f"no process is called {name!r}; {_LISTS} (the kernel keeps 15 bytes of a name)"
        )
    return found


def tables_of_users(tables: Iterable[FileTable], users: str) -> list[FileTable]:
    """
    Choose the file tables of the processes of users.

    :param users: Names or IDs, with commas between them; names are those of this machine
    :raises UserError: for a name that nobody has
    """
    uids = set()
    for user in users.split(","):
        if user.isdecimal() and user.isascii():
            uids.add(int(user))
            continue
        try:
            uids.add(pwd.getpwnam(user).pw_uid)
        except KeyError:
            near = nearest(user, (entry.pw_name for entry in pwd.getpwall()))
            raise UserError(
                f"no user {user!r} on this machine{near}; a user ID does as well"
            ) from None
    return [t for t in tables if t.process is not None and t.process.uid in uids]


def task_of_descriptor(tasks: Tasks, word: Descriptor) -> Task:
    """
    Get the process, or the thread, of ``PID:FD``.

    :raises UserError: if there is none, or it has exited
    """
    task = tasks.by_tid.get(word.pid) or task_of(tasks.prog, word.pid)
    if not task.files:
        raise UserError(f"process {word.pid} has exited and holds no file descriptors")
    return task
