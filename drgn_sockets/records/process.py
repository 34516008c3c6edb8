# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process or a thread, with the values that its files in ``/proc/PID`` show."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from drgn import FaultError, Program

from drgn_sockets.kernel import process as p
from drgn_sockets.kernel.cgroup import cgroup_path, task_cgroups
from drgn_sockets.kernel.dcache import FsStruct
from drgn_sockets.kernel.file import File
from drgn_sockets.kernel.kthread import proc_task_name
from drgn_sockets.kernel.lost import unbroken
from drgn_sockets.kernel.mm import Mm, cmdline, task_mm
from drgn_sockets.kernel.nsproxy import NAMESPACES, task_namespaces
from drgn_sockets.kernel.pid import Upid, upids
from drgn_sockets.kernel.process import Cred, Signal, Tty
from drgn_sockets.kernel.structs import Int
from drgn_sockets.kernel.task import Process

#: Names of the links in ``/proc/PID/ns``.
NS_NAMES = NAMESPACES


class Fs(FsStruct):
    """``struct fs_struct`` with the umask."""

    C_TYPE = "struct fs_struct"
    umask = Int("umask")


class CgroupMembership(NamedTuple):
    """The cgroup of a task in a hierarchy."""

    hierarchy: int
    #: Names of the controllers, or of the hierarchy; empty for version 2.
    names: bytes
    path: bytes
    #: Whether the cgroup was removed.
    removed: bool


class ProcessRecord:
    """
    A task. The structures that it points to are read when they are asked for.

    :param whole: Whether it stands for its whole process (``/proc/PID``) or for the thread alone
        (``/proc/PID/task/TID``).
    """

    def __init__(self, prog: Program, task: Process, *, whole: bool) -> None:
        self.prog = prog
        self.task = task
        self.whole = whole

    @functools.cached_property
    def name(self) -> bytes:
        """Its name as in ``/proc/PID/comm``."""
        return proc_task_name(self.prog, self.task)

    @functools.cached_property
    def signal(self) -> Signal:
        """
        The ``struct signal_struct`` of its process.

        :raises FaultError: if it cannot be read
        """
        return Signal.layout(self.prog).read(self.task.signal)

    @functools.cached_property
    def mm(self) -> Mm | None:
        """
        Its memory, ``None`` for a kernel thread and for a process that has exited.

        :raises FaultError: if it cannot be read
        """
        return task_mm(self.prog, self.task)

    @functools.cached_property
    def cred(self) -> Cred:
        """
        Its credentials.

        :raises FaultError: if they cannot be read
        """
        return Cred.layout(self.prog).read(self.task.cred)

    @functools.cached_property
    def threads(self) -> list[Process]:
        """The threads of its process, itself included."""
        return list(unbroken(p.for_each_thread(self.prog, self.signal)))

    @functools.cached_property
    def ids(self) -> Sequence[Upid]:
        """
        Its IDs by PID namespace, from the initial one on.

        :raises FaultError: if they cannot be read
        """
        return upids(self.prog, self.task.thread_pid)

    @functools.cached_property
    def group_ids(self) -> tuple[Sequence[Upid], ...]:
        """The same for its process, process group and session."""
        signal = self.signal
        pids = (signal.tgid_pid, signal.pgid_pid, signal.sid_pid)
        return tuple(upids(self.prog, pid) for pid in pids)

    @functools.cached_property
    def ignored_and_caught(self) -> tuple[int, int]:
        """
        Masks of the signals that are ignored and of those that are caught.

        :raises FaultError: if they cannot be read
        """
        sighand = self.task.sighand
        return p.ignored_and_caught(self.prog, sighand) if sighand else (0, 0)

    @functools.cached_property
    def tty(self) -> Tty | None:
        """Its terminal, ``None`` if it has none."""
        return Tty.layout(self.prog).read(self.signal.tty) if self.signal.tty else None

    @functools.cached_property
    def fs(self) -> Fs | None:
        """
        Its root and working directory, ``None`` for a process that has exited.

        :raises FaultError: if they cannot be read
        """
        return Fs.layout(self.prog).read(self.task.fs) if self.task.fs else None

    def exe(self) -> File | None:
        """
        Read the file of its executable, ``None`` for a process without memory.

        :raises FaultError: if it cannot be read
        """
        mm = self.mm
        return File.layout(self.prog).read(mm.exe_file) if mm is not None and mm.exe_file else None

    def cmdline(self) -> bytes:
        """
        Read its command line, empty for a process without memory.

        :raises FaultError: if its memory cannot be read
        """
        return b"" if self.mm is None else cmdline(self.prog, self.mm)

    def namespaces(self) -> Iterator[tuple[str, int]]:
        """
        Iterate over the names and inode numbers of its namespaces, as ``/proc/PID/ns`` has them.

        :raises FaultError: if a namespace cannot be read
        """
        return task_namespaces(self.prog, self.task)

    def cgroups(self) -> Iterator[CgroupMembership]:
        """
        Iterate over its cgroups, one for each hierarchy.

        :raises FaultError: if a cgroup cannot be read
        """
        if not self.task.cgroups:
            return
        for hierarchy, cgroup in task_cgroups(self.prog, self.task.cgroups):
            path, removed = b"/", False
            # In a hierarchy of version 1, a task that exits is moved to the root.
            if hierarchy.is_default or not self.task.flags & p.PF_EXITING:
                found = cgroup_path(self.prog, cgroup)
                if found is None:
                    raise FaultError("path of a cgroup cannot be read", cgroup)
                path, removed = bytes(found), hierarchy.is_default and found.removed
            yield CgroupMembership(hierarchy.id, hierarchy.names, path, removed)

    @property
    def is_known(self) -> bool:
        """Whether it still has its signal handlers; without them, procfs shows less of it."""
        return bool(self.task.sighand)

    def tgid_of(self, task: int) -> int:
        """
        ID of the process of another task.

        :param task: ``struct task_struct *``
        """
        return Process.layout(self.prog).read(task).tgid

    def pid_of(self, task: int) -> int:
        """
        ID of another task.

        :param task: ``struct task_struct *``
        """
        return Process.layout(self.prog).read(task).pid

    def cpu_times(self) -> tuple[int, int, int]:
        """User, system and guest time, ns."""
        task, signal = self.task, self.signal
        if not self.whole:
            time = p.CpuTime(
                *(task.utime, task.stime, task.sum_exec_runtime),
                *(task.prev_utime or 0, task.prev_stime or 0),
            )
            return (*p.cputime_adjust(time), task.gtime)
        time = p.CpuTime(
            signal.utime + sum(t.utime for t in self.threads),
            signal.stime + sum(t.stime for t in self.threads),
            signal.sum_sched_runtime + sum(t.sum_exec_runtime for t in self.threads),
            *(signal.prev_utime or 0, signal.prev_stime or 0),
        )
        return (*p.cputime_adjust(time), signal.gtime + sum(t.gtime for t in self.threads))

    def faults(self) -> tuple[int, int]:
        """Numbers of page faults without I/O (minor) and with it (major)."""
        task, signal = self.task, self.signal
        if not self.whole:
            return task.min_flt, task.maj_flt
        return (
            signal.min_flt + sum(t.min_flt for t in self.threads),
            signal.maj_flt + sum(t.maj_flt for t in self.threads),
        )


def read_process(prog: Program, address: int, *, whole: bool) -> ProcessRecord:
    """
    Read a task.

    :param address: ``struct task_struct *``
    :raises FaultError: if it cannot be read
    """
    return ProcessRecord(prog, Process.layout(prog).read(address), whole=whole)
