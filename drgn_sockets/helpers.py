# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Sockets and file descriptors
----------------------------

Helpers for the REPL and for scripts, in the manner of ``drgn.helpers.linux``: they take and
return drgn objects, and use the :ref:`default program <default-program>` where none is given.

>>> from drgn_sockets import *
>>> for fd, file in for_each_fd(find_task(1234)):
...     sock = sock_from_file(file)
...     if sock:
...         print(fd, sock_i_ino(sock.sk), sock.sk.__sk_common.skc_state)
"""

from __future__ import annotations

from collections.abc import Iterator

from drgn import NULL, FaultError, Object, Program, cast
from drgn.helpers.common.prog import takes_program_or_default
from drgn.helpers.linux.net import SOCK_INODE

from drgn_sockets.kernel.dcache import Namer
from drgn_sockets.kernel.fdtable import task_open_fds
from drgn_sockets.kernel.file import socket_file_ops
from drgn_sockets.kernel.sock import (
    SockCommon,
    for_each_raw,
    for_each_tcp,
    for_each_udp,
    for_each_unix,
)
from drgn_sockets.records.families.unix import unix_name
from drgn_sockets.records.holders import Holders
from drgn_sockets.target.own_types import OwnTypes


@takes_program_or_default
def declare(prog: Program, declaration: str) -> None:
    """
    Tell the type of a variable, for a kernel whose types are from BTF: that has it of few.

    >>> declare("struct list_head cgroup_roots;")
    >>> prog["cgroup_roots"]
    (struct list_head){...}

    :param declaration: As C writes it, without an initializer; several have a line each
    :raises ValueError: if it is none
    """
    OwnTypes.of(prog).declare(declaration)


def for_each_fd(task: Object) -> Iterator[tuple[int, Object]]:
    """
    Iterate over the open file descriptors of a task.

    Unlike :func:`drgn.helpers.linux.fs.for_each_file()`, this follows the pointers of the
    table as ``/proc/PID/fd`` does (``proc_readfd_common()``), in few reads, and bounds the
    walk of a damaged table.

    :param task: ``struct task_struct *``
    :return: Iterator of (fd, ``struct file *``) tuples
    :raises FaultError: if the file table cannot be read
    """
    prog = task.prog_
    type_ = prog.type("struct file *")
    for fd in task_open_fds(task):
        yield fd.fd, Object(prog, type_, fd.file)


def file_name(file: Object) -> bytes:
    """
    Get the name of an open file as ``readlink /proc/PID/fd/N`` gives it (``d_path()``).

    Paths begin at the root directory of process 1. Names that are made on demand
    (``socket:[N]``, ``pipe:[N]``, ``anon_inode:[eventfd]``) and `` (deleted)`` are as the
    kernel has them.

    :param file: ``struct file *``
    :raises FaultError: if the name cannot be read
    """
    return Namer(file.prog_).d_path(file.f_path.mnt.value_(), file.f_path.dentry.value_())


def sock_from_file(file: Object) -> Object:
    """
    Get the socket behind an open file (``sock_from_file()`` in net/socket.c).

    :param file: ``struct file *``
    :return: ``struct socket *`` (``NULL`` if the file is not a socket)
    :raises FaultError: if *file* cannot be read
    """
    prog = file.prog_
    if file.f_op.value_() == socket_file_ops(prog):
        return cast("struct socket *", file.private_data.read_())
    return NULL(prog, "struct socket *")


def _objects(prog: Program, entries: Iterator[tuple[int, SockCommon | None]]) -> Iterator[Object]:
    type_ = prog.type("struct sock *")
    for address, entry in entries:
        if entry is not None:
            yield Object(prog, type_, address)


@takes_program_or_default
def for_each_tcp_sock(prog: Program) -> Iterator[Object]:
    """
    Iterate over all TCP sockets that are hashed, in all network namespaces: full sockets,
    timewait sockets (cast to ``struct inet_timewait_sock *`` if ``skc_state`` is
    ``TCP_TIME_WAIT``) and request sockets (``struct request_sock *`` if it is
    ``TCP_NEW_SYN_RECV``). Sockets that were never bound are in no hash table; see
    :func:`for_each_fd()`.

    :return: Iterator of ``struct sock *`` objects, without those that cannot be read
    """
    return _objects(prog, for_each_tcp(prog))


@takes_program_or_default
def for_each_udp_sock(prog: Program) -> Iterator[Object]:
    """
    Iterate over all UDP and UDP-Lite sockets that have a port, in all network namespaces.

    :return: Iterator of ``struct sock *`` objects, without those that cannot be read
    """
    return _objects(prog, for_each_udp(prog))


@takes_program_or_default
def for_each_raw_sock(prog: Program) -> Iterator[Object]:
    """
    Iterate over all raw IPv4 and IPv6 sockets, in all network namespaces.

    :return: Iterator of ``struct sock *`` objects, without those that cannot be read
    """
    return _objects(prog, for_each_raw(prog))


@takes_program_or_default
def for_each_unix_sock(prog: Program) -> Iterator[Object]:
    """
    Iterate over all unix sockets, in all network namespaces, bound or not.

    :return: Iterator of ``struct sock *`` objects, without those that cannot be read
    """
    return _objects(prog, for_each_unix(prog))


def unix_peer(sk: Object) -> Object:
    """
    Get the socket at the other end of an ``AF_UNIX`` socket (``unix_peer()``).

    For a connected ``SOCK_DGRAM`` socket this is where it sends to, which need not point
    back.

    :param sk: ``struct sock *`` of family ``AF_UNIX``
    :return: ``struct sock *`` (``NULL`` if not connected)
    :raises FaultError: if *sk* cannot be read
    """
    return cast("struct unix_sock *", sk).peer.read_()


def unix_sock_name(sk: Object) -> bytes | None:
    """
    Get the name that an ``AF_UNIX`` socket is bound to.

    :param sk: ``struct sock *`` of family ``AF_UNIX``
    :return: A path; an abstract name, beginning with a NUL byte; or ``None``. A socket that
        was accepted has the name of its listener.
    :raises FaultError: if *sk* or the name cannot be read
    """
    return unix_name(sk.prog_, cast("struct unix_sock *", sk).addr.value_())


def sock_i_ino(sk: Object) -> int:
    """
    Get the inode number of a socket, the N of ``socket:[N]`` (``sock_i_ino()``).

    :param sk: ``struct sock *``, of a full socket
    :return: Inode number, 0 if the socket has no inode
    :raises FaultError: if *sk* cannot be read
    """
    socket = sk.sk_socket.read_()
    return SOCK_INODE(socket).i_ino.value_() if socket else 0


def sock_net_ino(sk: Object) -> int:
    """
    Get the inode number of the network namespace of a socket, as ``/proc/PID/ns/net`` has it.

    :param sk: ``struct sock *``
    :raises FaultError: if it cannot be read
    """
    return sk.__sk_common.skc_net.net.ns.inum.value_()  # type: ignore[no-any-return]


def sk_listener(req: Object) -> Object:
    """
    Get the listener of a request socket (``req_to_sk()->rsk_listener``).

    :param req: ``struct request_sock *`` or ``struct sock *`` in state ``TCP_NEW_SYN_RECV``
    :return: ``struct sock *``
    :raises FaultError: if *req* cannot be read
    """
    return cast("struct sock *", cast("struct request_sock *", req).__req_common.skc_listener)


def sock_holders(sk: Object) -> list[tuple[Object, int]]:
    """
    Get every file descriptor that holds a socket, across all processes.

    This looks into all file tables. For many sockets, make one
    :class:`drgn_sockets.records.holders.Holders` and ask it.

    :param sk: ``struct sock *``
    :return: List of (``struct task_struct *``, fd) tuples; the task is the one whose file
        table it is, a thread only if that has a table of its own
    :raises FaultError: if the list of tasks cannot be read
    """
    from drgn.helpers.linux.pid import find_task

    prog = sk.prog_
    found = []
    for holder in Holders(prog).of(sk.value_()):
        task = find_task(prog, holder.tid or holder.pid)
        if not task:
            raise FaultError(f"process {holder.pid} is gone", 0)
        found.append((task, holder.fd))
    return found
