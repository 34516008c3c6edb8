# SPDX-License-Identifier: LGPL-2.1-or-later
"""The namespaces of a task, as ``/proc/PID/ns`` has them."""

from __future__ import annotations

from collections.abc import Iterator

from drgn import FaultError, Program

from drgn_sockets.kernel.pid import upids
from drgn_sockets.kernel.process import Cred
from drgn_sockets.kernel.structs import Int, OptInt, Struct
from drgn_sockets.kernel.task import Process


class _Nsproxy(Struct):
    C_TYPE = "struct nsproxy"
    net = OptInt("net_ns")
    uts = OptInt("uts_ns")
    ipc = OptInt("ipc_ns")
    pid_for_children = OptInt("pid_ns_for_children")
    mnt = OptInt("mnt_ns")
    cgroup = OptInt("cgroup_ns")
    # Linux kernel commit 769071ac9f20 ("ns: Introduce Time Namespace") (in v5.6)
    time = OptInt("time_ns")
    time_for_children = OptInt("time_ns_for_children")


class _Net(Struct):
    C_TYPE = "struct net"
    inum = Int("ns.inum")


class _Uts(Struct):
    C_TYPE = "struct uts_namespace"
    inum = Int("ns.inum")


class _Ipc(Struct):
    C_TYPE = "struct ipc_namespace"
    inum = Int("ns.inum")


class _PidNs(Struct):
    C_TYPE = "struct pid_namespace"
    inum = Int("ns.inum")
    child_reaper = Int("child_reaper", help="struct task_struct *, NULL before the first")


class _User(Struct):
    C_TYPE = "struct user_namespace"
    inum = Int("ns.inum")


class _Mnt(Struct):
    C_TYPE = "struct mnt_namespace"
    inum = Int("ns.inum")


class _Cgroup(Struct):
    C_TYPE = "struct cgroup_namespace"
    inum = Int("ns.inum")


class _Time(Struct):
    C_TYPE = "struct time_namespace"
    inum = Int("ns.inum")


#: The files in ``/proc/PID/ns``, with the structure of each namespace.
_KINDS: dict[str, type[Struct]] = {
    "net": _Net,
    "uts": _Uts,
    "ipc": _Ipc,
    "pid": _PidNs,
    "pid_for_children": _PidNs,
    "user": _User,
    "mnt": _Mnt,
    "cgroup": _Cgroup,
    "time": _Time,
    "time_for_children": _Time,
}
#: The names of the files in ``/proc/PID/ns``.
NAMESPACES = tuple(_KINDS)


def task_namespaces(prog: Program, task: Process) -> Iterator[tuple[str, int]]:
    """
    Iterate over the namespaces of a task: name in ``/proc/PID/ns``, and inode number.

    A task that has exited has only the namespaces of its ID and of its user.

    :raises FaultError: if one cannot be read
    """
    proxy = _Nsproxy.layout(prog).read(task.nsproxy) if task.nsproxy else None
    for name, kind in _KINDS.items():
        if name == "pid":
            ids = upids(prog, task.thread_pid)
            address = ids[-1].ns if ids else 0
        elif name == "user":
            address = Cred.layout(prog).read(task.cred).user_ns
        else:
            address = getattr(proxy, name) if proxy is not None else 0
        if not address:
            continue
        found = kind.layout(prog).read(address)
        if name == "pid_for_children" and isinstance(found, _PidNs) and not found.child_reaper:
            continue
        inum = getattr(found, "inum", None)
        if inum is None:
            raise FaultError(f"namespace {name} has no number", address)
        yield name, inum
