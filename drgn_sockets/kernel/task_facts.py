# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a process (or thread) has besides its file table."""

from __future__ import annotations

import functools

from drgn import FaultError, Program

from drgn_sockets.kernel.memory import pointer_size, unpack_words
from drgn_sockets.kernel.structs import Bytes, Int, Struct
from drgn_sockets.named_tuple import NamedTuple

# include/linux/sched.h
PF_KTHREAD = 0x00200000
# include/uapi/asm-generic/resource.h
_RLIMIT_NOFILE = 7


class _Task(Struct):
    C_TYPE = "struct task_struct"

    tgid = Int("tgid", help="process ID")
    flags = Int("flags", help="PF_* flags")
    mm = Int("mm", help="struct mm_struct *")
    fs = Int("fs", help="struct fs_struct *")
    cred = Int("real_cred", help="const struct cred *")
    signal = Int("signal", help="struct signal_struct *")


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
    A process, or a thread of one. Nothing is read of it before it is asked for.

    What cannot be read is ``None``.
    """

    def __init__(self, prog: Program, task: int) -> None:
        self.prog = prog
        #: ``struct task_struct *`` as an integer.
        self.address = task

    @functools.cached_property
    def task(self) -> _Task | None:
        """What was read of the ``struct task_struct``."""
        return _Task.layout(self.prog).try_read(self.address)

    @property
    def is_kthread(self) -> bool | None:
        """Whether it is a thread of the kernel."""
        return None if self.task is None else bool(self.task.flags & PF_KTHREAD)

    @functools.cached_property
    def uid(self) -> int | None:
        """Its user, the owner of ``/proc/PID``: ``task_dump_owner()``."""
        if self.task is None:
            return None
        if self.is_kthread:
            return 0
        cred = _Cred.layout(self.prog).try_read(self.task.cred)
        return cred.euid if cred is not None else None

    @functools.cached_property
    def nofile(self) -> Limit | None:
        """``RLIMIT_NOFILE``: below which number new fds are."""
        if self.task is None:
            return None
        signal = _Signal.layout(self.prog).try_read(self.task.signal)
        if signal is None:
            return None
        first = 2 * _RLIMIT_NOFILE
        limits = unpack_words(self.prog, signal.rlim)[first : first + 2]
        infinity = (1 << 8 * pointer_size(self.prog)) - 1
        return Limit(*(None if limit == infinity else limit for limit in limits))

    def required(self) -> _Task:
        """
        What was read of the ``struct task_struct``.

        :raises FaultError: if it cannot be read
        """
        if self.task is None:
            raise FaultError("struct task_struct cannot be read", self.address)
        return self.task
