# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names of kernel threads and of workqueue workers, as in procfs."""

from __future__ import annotations

from drgn import Program

from drgn_sockets.kernel.memory import read_string
from drgn_sockets.kernel.process import PF_WQ_WORKER
from drgn_sockets.kernel.structs import CString, Int, OptInt, Struct
from drgn_sockets.kernel.task import PF_KTHREAD, Process

# fs/proc/array.c: proc_task_name()
_SIZE = 64


class _Kthread(Struct):
    C_TYPE = "struct kthread"
    # Linux kernel commit d6986ce24fc0 ("kthread: dynamically allocate memory to store kthread's
    # full name") (in v5.17)
    full_name = OptInt("full_name", help="char *")
    data = Int("data", help="void *, of a worker its struct worker")


class _Worker(Struct):
    C_TYPE = "struct worker"
    pool = Int("pool", help="struct worker_pool *, NULL for a rescuer that has nothing to do")
    rescue_wq = Int("rescue_wq", help="struct workqueue_struct *, of a rescuer")
    current_work = Int("current_work", help="struct work_struct *")
    id = Int("id")
    desc = CString("desc", help="what it does, or did last")


class _Pool(Struct):
    C_TYPE = "struct worker_pool"
    cpu = Int("cpu", help="-1 for any")
    id = Int("id")
    attrs = Int("attrs", help="struct workqueue_attrs *")


class _Attrs(Struct):
    C_TYPE = "struct workqueue_attrs"
    nice = Int("nice")


class _Workqueue(Struct):
    C_TYPE = "struct workqueue_struct"
    name = CString("name")


def proc_task_name(prog: Program, task: Process) -> bytes:
    """
    The name of a task in ``comm``, ``stat`` and ``status``, as ``proc_task_name()``.

    :raises FaultError: if it cannot be read
    """
    if not task.flags & (PF_WQ_WORKER | PF_KTHREAD):
        return task.comm
    kthread = _Kthread.layout(prog).follow(task.kthread)
    if kthread is None:
        return task.comm
    if task.flags & PF_WQ_WORKER:
        return _wq_worker_comm(prog, task, kthread)
    name = read_string(prog, kthread.full_name, _SIZE - 1) if kthread.full_name else None
    return task.comm if name is None else name


def _wq_worker_comm(prog: Program, task: Process, kthread: _Kthread) -> bytes:
    """``wq_worker_comm()``"""
    worker = _Worker.layout(prog).follow(kthread.data)
    if worker is None:
        return task.comm
    pool = _Pool.layout(prog).follow(worker.pool)
    name = task.comm
    if _names_by_id(prog):
        name = _format_worker_id(prog, worker, pool) or name
    if pool is not None and worker.desc:
        name += (b"+" if worker.current_work else b"-") + worker.desc
    return name[: _SIZE - 1]


def _names_by_id(prog: Program) -> bool:
    """
    Whether the kernel formats the whole name of a worker, instead of using ``comm``, which cuts it.

    Linux kernel commit 2a1b02bcba78 ("workqueue: Refactor worker ID formatting and make
    wq_worker_comm() use full ID string") (in v6.10) changed no type. Commit 231035f18d6b
    ("workqueue: Increase worker desc's length to 32") of the same version made ``desc`` longer.
    """
    return _Worker.layout(prog).cls.places["desc"].size >= 32


def _format_worker_id(prog: Program, worker: _Worker, pool: _Pool | None) -> bytes | None:
    """``format_worker_id()``"""
    if worker.rescue_wq:
        queue = _Workqueue.layout(prog).follow(worker.rescue_wq)
        return None if queue is None else b"kworker/R-" + queue.name
    if pool is None:
        return b"kworker/dying"
    if pool.cpu < 0:
        return b"kworker/u%d:%d" % (pool.id, worker.id)
    attrs = _Attrs.layout(prog).follow(pool.attrs)
    high = b"H" if attrs is not None and attrs.nice < 0 else b""
    return b"kworker/%d:%d%s" % (pool.cpu, worker.id, high)
