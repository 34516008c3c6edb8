# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Sockets and file descriptors
----------------------------

Helpers for the REPL and for scripts, in the manner of ``drgn.helpers.linux``. They take and
return drgn objects, and use the :ref:`default program <default-program>` where none is given.
The examples are of the core that comes with the package (``drgn-sockets demo``).

>>> from drgn.helpers.linux.pid import find_task
>>> from drgn_sockets import *
>>> for fd, file in for_each_fd(find_task(180)):
...     sock = sock_from_file(file)
...     if sock:
...         print(fd, sock_i_ino(sock.sk), sock.sk.__sk_common.skc_num.value_())
3 1297 38386
"""

from __future__ import annotations

from collections.abc import Iterator

from drgn import NULL, FaultError, Object, Program, cast
from drgn.helpers.common.prog import takes_program_or_default
from drgn.helpers.linux.net import SOCK_INODE

from drgn_sockets.kernel.dcache import Namer
from drgn_sockets.kernel.fdtable import task_open_fds
from drgn_sockets.kernel.file import socket_file_ops
from drgn_sockets.kernel.lost import Lost, present
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

__all__ = (
    "declare",
    "file_name",
    "for_each_fd",
    "for_each_raw_sock",
    "for_each_tcp_sock",
    "for_each_udp_sock",
    "for_each_unix_sock",
    "sk_listener",
    "sock_from_file",
    "sock_holders",
    "sock_i_ino",
    "sock_net_ino",
    "unix_peer",
    "unix_sock_name",
)


@takes_program_or_default
def declare(prog: Program, declaration: str) -> None:
    """
    Declare a variable of the kernel, so that drgn can read it.

    It is for kernels whose types are from BTF, which has the types of few variables.

    >>> declare("struct list_head cgroup_roots;")
    >>> prog["cgroup_roots"].type_.type_name()
    'struct list_head'

    :param declaration: As in C, without an initializer; several have a line each
    :raises ValueError: if *declaration* is not one of a variable
    """
    OwnTypes.of(prog).declare(declaration)


def for_each_fd(task: Object) -> Iterator[tuple[int, Object]]:
    """
    Iterate over the open file descriptors of a task (``proc_readfd_common()``).

    Unlike :func:`drgn.helpers.linux.fs.for_each_file()`, this needs few reads, and its walk of a
    damaged table has an end.

    >>> [(fd, file_name(file)) for fd, file in for_each_fd(find_task(180))]
    [(0, b'/dev/null'), ..., (3, b'socket:[1297]')]

    :param task: ``struct task_struct *``
    :return: Iterator of (fd, ``struct file *``) tuples, in the order of fds
    :raises FaultError: if the file table cannot be read
    """
    prog = task.prog_
    type_ = prog.type("struct file *")
    for fd in task_open_fds(task):
        yield fd.fd, Object(prog, type_, fd.file)


def file_name(file: Object) -> bytes:
    """
    Get the name of an open file, the text of the symbolic link ``/proc/PID/fd/N`` (``d_path()``).

    Paths begin at the root directory of process 1. Names such as ``socket:[N]``, ``pipe:[N]``
    and ``anon_inode:[eventfd]``, and the suffix `` (deleted)``, are those of the kernel.

    >>> file_name(dict(for_each_fd(find_task(180)))[3])
    b'socket:[1297]'

    :param file: ``struct file *``
    :return: The name, as bytes
    :raises FaultError: if the name cannot be read
    """
    sock = sock_from_file(file)
    if sock:
        # sockfs_dname() makes the name of the inode. The dentry is not in a distilled core.
        return b"socket:[%d]" % SOCK_INODE(sock).i_ino.value_()
    return Namer(file.prog_).d_path(file.f_path.mnt.value_(), file.f_path.dentry.value_())


def sock_from_file(file: Object) -> Object:
    """
    Get the socket of an open file (``sock_from_file()``).

    >>> files = dict(for_each_fd(find_task(180)))
    >>> sock_i_ino(sock_from_file(files[3]).sk)
    1297
    >>> bool(sock_from_file(files[0]))
    False

    :param file: ``struct file *``
    :return: ``struct socket *`` (``NULL`` if the file is not a socket)
    :raises FaultError: if *file* cannot be read
    """
    prog = file.prog_
    if file.f_op.value_() == socket_file_ops(prog):
        return cast("struct socket *", file.private_data.read_())
    return NULL(prog, "struct socket *")


def _objects(prog: Program, entries: Iterator[SockCommon | Lost]) -> Iterator[Object]:
    type_ = prog.type("struct sock *")
    for entry in present(entries):
        yield Object(prog, type_, entry.address)


@takes_program_or_default
def for_each_tcp_sock(prog: Program) -> Iterator[Object]:
    """
    Iterate over the TCP sockets of all network namespaces that are in a hash table
    (``inet_diag_dump_icsk()``).

    A timewait socket (``skc_state`` is ``TCP_TIME_WAIT``) is a ``struct inet_timewait_sock``, and
    a request socket (``TCP_NEW_SYN_RECV``) a ``struct request_sock``: cast these. Sockets that were
    never bound are in no hash table; :func:`for_each_fd()` finds them.

    >>> from collections import Counter
    >>> states = Counter(sk.__sk_common.skc_state.value_() for sk in for_each_tcp_sock())
    >>> states[10]  # TCP_LISTEN
    72

    :return: Iterator of ``struct sock *`` objects, without those that cannot be read
    """
    return _objects(prog, for_each_tcp(prog))


@takes_program_or_default
def for_each_udp_sock(prog: Program) -> Iterator[Object]:
    """
    Iterate over the UDP and UDP-Lite sockets of all network namespaces that have a port
    (``udp_dump()``).

    >>> 4789 in {sk.__sk_common.skc_num.value_() for sk in for_each_udp_sock()}
    True

    :return: Iterator of ``struct sock *`` objects, without those that cannot be read
    """
    return _objects(prog, for_each_udp(prog))


@takes_program_or_default
def for_each_raw_sock(prog: Program) -> Iterator[Object]:
    """
    Iterate over the raw IPv4 and IPv6 sockets of all network namespaces (``raw_diag_dump()``).

    >>> 89 in {sk.sk_protocol.value_() for sk in for_each_raw_sock()}  # IPPROTO_OSPF
    True

    :return: Iterator of ``struct sock *`` objects, without those that cannot be read
    """
    return _objects(prog, for_each_raw(prog))


@takes_program_or_default
def for_each_unix_sock(prog: Program) -> Iterator[Object]:
    """
    Iterate over the unix sockets of all network namespaces, bound or not (``unix_diag_dump()``).

    >>> path = b"/tmp/drgn-sockets/unix_fork/test.sock"
    >>> sorted(sock_i_ino(sk) for sk in for_each_unix_sock() if unix_sock_name(sk) == path)
    [1298, 1299]

    :return: Iterator of ``struct sock *`` objects, without those that cannot be read
    """
    return _objects(prog, for_each_unix(prog))


def unix_peer(sk: Object) -> Object:
    """
    Get the socket at the other end of a unix socket (``unix_peer()``).

    A connected ``SOCK_DGRAM`` socket has the socket that it sends to as its peer. That one need not
    be connected to it in turn.

    >>> sk = sock_from_file(dict(for_each_fd(find_task(183)))[3]).sk
    >>> sock_i_ino(sk), sock_i_ino(unix_peer(sk))
    (1300, 1299)

    :param sk: ``struct sock *`` of family ``AF_UNIX``
    :return: ``struct sock *`` (``NULL`` if not connected)
    :raises FaultError: if *sk* cannot be read
    """
    return cast("struct unix_sock *", sk).peer.read_()


def unix_sock_name(sk: Object) -> bytes | None:
    """
    Get the name that a unix socket is bound to (``unix_getname()``).

    A socket that was accepted has the name of its listener.

    >>> sk = sock_from_file(dict(for_each_fd(find_task(183)))[3]).sk
    >>> unix_sock_name(unix_peer(sk))
    b'/tmp/drgn-sockets/unix_fork/test.sock'

    :param sk: ``struct sock *`` of family ``AF_UNIX``
    :return: A path; an abstract name, which begins with a NUL byte; or ``None`` if it is not bound
    :raises FaultError: if *sk* or the name cannot be read
    """
    return unix_name(sk.prog_, cast("struct unix_sock *", sk).addr.value_())


def sock_i_ino(sk: Object) -> int:
    """
    Get the inode number of a socket, the N of ``socket:[N]`` (``sock_i_ino()``).

    >>> sock_i_ino(sock_from_file(dict(for_each_fd(find_task(180)))[3]).sk)
    1297

    :param sk: ``struct sock *``, neither a timewait nor a request socket
    :return: Inode number, 0 if the socket has no inode
    :raises FaultError: if *sk* cannot be read
    """
    socket = sk.sk_socket.read_()
    return SOCK_INODE(socket).i_ino.value_() if socket else 0


def sock_net_ino(sk: Object) -> int:
    """
    Get the inode number of the network namespace of a socket (``sock_net()``), the N of
    ``/proc/PID/ns/net``, which is ``net:[N]``.

    >>> sock_net_ino(sock_from_file(dict(for_each_fd(find_task(180)))[3]).sk)
    4026531840

    :param sk: ``struct sock *``
    :return: Inode number
    :raises FaultError: if *sk* or its network namespace cannot be read
    """
    return sk.__sk_common.skc_net.net.ns.inum.value_()  # type: ignore[no-any-return]


def sk_listener(req: Object) -> Object:
    """
    Get the listener of a TCP request socket, a connection that is being set up
    (``inet_reqsk(sk)->rsk_listener``).

    >>> requests = [sk for sk in for_each_tcp_sock() if sk.__sk_common.skc_state == 12]
    >>> {sk_listener(sk).__sk_common.skc_state.value_() for sk in requests}  # TCP_LISTEN
    {10}

    :param req: ``struct request_sock *``, or ``struct sock *`` in state ``TCP_NEW_SYN_RECV``
    :return: ``struct sock *``
    :raises FaultError: if *req* cannot be read
    """
    return cast("struct sock *", cast("struct request_sock *", req).__req_common.skc_listener)


def sock_holders(sk: Object) -> list[tuple[Object, int]]:
    """
    Get every file descriptor of every process that refers to a socket.

    This reads all file tables, as a look at every ``/proc/PID/fd`` does. For many sockets, make one
    :class:`drgn_sockets.records.holders.Holders` and ask it.

    >>> sk = sock_from_file(dict(for_each_fd(find_task(183)))[3]).sk
    >>> [(task.comm.string_(), fd) for task, fd in sock_holders(sk)]
    [(b'unix-client', 3), (b'unix-cl-child', 3)]

    :param sk: ``struct sock *``
    :return: List of (``struct task_struct *``, fd) tuples. The task is the process whose file table
        has the fd; or a thread, if the thread has a file table of its own.
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
