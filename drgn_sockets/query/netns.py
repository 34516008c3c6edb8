# SPDX-License-Identifier: LGPL-2.1-or-later
"""Finding the network namespace that a user means."""

from __future__ import annotations

import os

from drgn import FaultError, Program

from drgn_sockets.errors import UserError, nearest
from drgn_sockets.kernel.lost import Lost, lost_by, present
from drgn_sockets.kernel.mounts import named_net_namespaces
from drgn_sockets.kernel.net import for_each_net, net_namespaces, task_net
from drgn_sockets.kernel.task import task_by_tid
from drgn_sockets.program import is_running_kernel

_DIRECTORY = "/run/netns"


def find_netns(prog: Program, what: str) -> int:
    """
    The inode of a network namespace.

    :param what: A name that ``ip netns`` has given it; its inode; or the PID of a process in it
    :raises UserError: if there is none; its text lists those that there are
    """
    lost: list[Lost] = []
    inos = [ns.ino for ns in net_namespaces(prog, lost.append).values()]
    number = int(what) if what.isdecimal() and what.isascii() else 0
    if number in inos:
        return number
    names = _names(prog, lost)
    if what in names:
        return names[what]
    try:
        task = task_by_tid(prog, number) if number else None
    except FaultError as e:
        raise UserError(f"no network namespace {what}; process {what}: {lost_by(e)}") from None
    try:
        ino = task_net(prog, task.nsproxy) if task is not None and task.nsproxy else 0
    except FaultError as e:
        raise UserError(f"the network namespace of process {what}: {lost_by(e)}") from None
    if ino:
        return ino
    name_of = {ino: name for name, ino in names.items()}
    there = ", ".join(f"{name_of[ino]} ({ino})" if ino in name_of else str(ino) for ino in inos)
    missing = f"; more may be missing: {lost[0]}" if lost else ""
    raise UserError(
        f"no network namespace {what}, nor a process: there are {there}{nearest(what, names)}"
        f"{missing}"
    )


def find_net(prog: Program, what: str) -> int:
    """
    The ``struct net *`` of a network namespace.

    :param what: As :func:`find_netns` has it
    :raises UserError: likewise
    """
    ino = find_netns(prog, what)
    for namespace in present(for_each_net(prog)):
        if namespace.ino == ino:
            return namespace.address
    raise UserError(f"network namespace {ino} is in no list of the kernel's")


def _names(prog: Program, lost: list[Lost]) -> dict[str, int]:
    """Inodes by name."""
    found = named_net_namespaces(prog, lost.append)
    names = {os.fsdecode(name): ino for name, ino in found.items()}
    if is_running_kernel(prog):
        # A shell here means these names, whatever process 1 has mounted.
        try:
            with os.scandir(_DIRECTORY) as entries:
                names.update((entry.name, entry.stat().st_ino) for entry in entries)
        except OSError:
            pass
    return names
