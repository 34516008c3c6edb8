# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a word of :mod:`drgn_sockets.query.words` names on a machine: sockets to read
(:class:`Finder`), a test of the rows of ``ss`` (:func:`socket_test`), or a test of the rows of
``fds`` (:func:`fd_test`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from socket import AF_INET, AF_INET6, inet_pton

from drgn import FaultError, Object, Program, offsetof

from drgn_sockets.errors import UserError
from drgn_sockets.kernel.fdtable import open_fds
from drgn_sockets.kernel.file import File, socket_file_ops
from drgn_sockets.kernel.file import Inode as InodeStruct
from drgn_sockets.kernel.lost import Lost, lost_by, or_lost
from drgn_sockets.kernel.memory import distilled_by
from drgn_sockets.kernel.sock import AF_UNIX, TCP_LISTEN, Sock, SockCommon, is_sock
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.kernel.task import FileTable, Tasks
from drgn_sockets.program import is_running_kernel
from drgn_sockets.query.processes import task_at, task_of, task_of_descriptor
from drgn_sockets.query.words import (
    Abstract,
    Address,
    Descriptor,
    End,
    Inode,
    Name,
    Number,
    Path,
    Word,
    parse_word,
)
from drgn_sockets.records.families import FAMILY_NAMES, family_named
from drgn_sockets.records.families.inet import InetRecord
from drgn_sockets.records.families.unix import UnixRecord
from drgn_sockets.records.fd import FdRecord, FileRecord
from drgn_sockets.records.holders import Holders
from drgn_sockets.records.losses import Losses
from drgn_sockets.records.reader import SocketReader, for_each_socket, readable
from drgn_sockets.records.socket import OTHER, AnySocket, SocketRecord

#: Tells whether a socket is meant.
SocketTest = Callable[[SocketRecord], bool]
#: Tells whether a file descriptor is meant.
FdTest = Callable[[FdRecord], bool]

# d_path() appends this to the path of a file that has no name any more.
_DELETED = b" (deleted)"


class _Socket(Struct):
    C_TYPE = "struct socket"
    sk = Int("sk")


# Kernel addresses.


def sk_at(prog: Program, word: Address) -> int:
    """
    The ``struct sock *`` of a socket.

    :param word: Address of its ``sock``, ``socket``, ``file`` or ``inode``
    :raises UserError: if there is none of these
    """
    address = word.address
    if word.type in (None, "struct sock") and is_sock(prog, address):
        return address
    for socket in _sockets_at(prog, word):
        # What is no socket need not be as long as one.
        found = or_lost(_Socket.layout(prog).read, socket)
        if isinstance(found, Lost) or not found.sk or not is_sock(prog, found.sk):
            continue
        sk = or_lost(Sock.layout(prog).read, found.sk)
        if not isinstance(sk, Lost) and sk.socket == socket:
            return found.sk
    raise UserError(f"{address:#x} is not a socket: {_why_no_socket(prog, word)}")


def _sockets_at(prog: Program, word: Address) -> Iterator[int]:
    """Iterate over the places where the ``struct socket`` of an address may be."""
    address = word.address
    if word.type in (None, "struct file"):
        file = or_lost(File.layout(prog).read, address)
        if not isinstance(file, Lost) and file.op == socket_file_ops(prog):
            yield file.private_data
    if word.type in (None, "struct socket"):
        yield address
    if word.type in (None, "struct inode"):
        alloc = prog.type("struct socket_alloc")
        yield address - offsetof(alloc, "vfs_inode") + offsetof(alloc, "socket")


def _why_no_socket(prog: Program, word: Address) -> str:
    lost: list[Lost] = []
    if isinstance(or_lost(SockCommon.layout(prog).read, word.address), Lost):
        why = "there is no memory that can be read"
    else:
        task = task_at(Tasks(prog, lost.append), word)
        if task is not None:
            return f"it is the task_struct of process {task.tgid}: fds {task.tgid}"
        if word.type == "struct file":
            return f"it is another file: fds {word.text}"
        why = "what is there is no struct sock, socket, file or inode of one"
    if distilled_by(prog) is not None:
        why += " in this distilled core, which has only what the commands read"
    return why


# Tests.


def socket_test(prog: Program, word: Word) -> SocketTest:
    """
    Make a test of sockets.

    :raises UserError: if the word names no socket, or every one
    """
    if isinstance(word, Number):
        word = word.as_inode()
    if isinstance(word, Inode):
        ino = word.ino
        return lambda record: record.ino == ino
    if isinstance(word, End):
        return _end_test(word)
    if isinstance(word, Address):
        sk = sk_at(prog, word)
        return lambda record: record.sk == sk
    if isinstance(word, Descriptor):
        sk = _sk_of_descriptor(Tasks(prog, lambda lost: None), word)
        return lambda record: record.sk == sk
    if isinstance(word, Abstract):
        return _abstract_test(word)
    names = {word.name} if isinstance(word, Name) else {word.path, path_on(prog, word)}
    return lambda record: record.family == AF_UNIX and record.match_address(True) in names


def _abstract_test(word: Abstract) -> SocketTest:
    name = b"\0" + word.name[1:]
    # ss and procfs write a NUL within an abstract name as "@" as well.
    shown = word.name if b"@" in word.name[1:] else None

    def test(record: SocketRecord) -> bool:
        its = record.match_address(True) if record.family == AF_UNIX else None
        if not isinstance(its, bytes) or its[:1] != b"\0":
            return False
        return its == name or (shown is not None and its.replace(b"\0", b"@") == shown)

    return test


def _end_test(word: End) -> SocketTest:
    if word.address is None and word.port is None:
        raise UserError(f"{word.text!r} is every socket: fds --kind sock, or ss -a")
    # The import takes a while, and most words are about something else.
    from drgn_sockets.query.hosts import Network, port_number
    from drgn_sockets.query.ssfilter_tree import Host

    networks, port = [], None
    try:
        if word.address is not None:
            family = AF_INET6 if ":" in word.address else AF_INET
            networks = [Network.of(inet_pton(family, word.address))]
        if word.port is not None:
            port = port_number(word.port)
    except OSError:
        raise UserError(f"no address: {word.text!r}; 10.0.0.1:443, [::1]:443 or :443 are") from None
    except ValueError as e:
        raise UserError(f"{word.text!r}: {e}") from None
    ends = [Host(side, "", word.address, port, networks).test() for side in ("src", "dst")]

    def test(record: SocketRecord) -> bool:
        # A raw socket has a protocol where others have a port.
        if port is not None and record.family_name == "raw":
            return False
        return any(end(record) for end in ends)

    return test


def held_by(prog: Program, word: Number, holders: Holders) -> set[int]:
    """
    The ``struct sock *`` of every socket that a process holds.

    :raises UserError: if there is no such process
    """
    task_of(prog, word.number)
    return holders.sks_of(word.number)


def fd_test(tasks: Tasks, word: Word) -> FdTest:
    """
    Make a test of file descriptors, and of what else processes have of files.

    :param word: One that names no process, see
        :func:`~drgn_sockets.query.processes.names_process`
    :raises UserError: if the word makes no sense
    """
    prog = tasks.prog
    if isinstance(word, Descriptor):
        return _descriptor_test(tasks, word)
    if isinstance(word, Inode):
        return _inode_test(word)
    if isinstance(word, Address):
        return _address_test(word)
    if isinstance(word, Path):
        return _path_test(prog, word)
    return _of_socket(socket_test(prog, word))


def looks_at_sockets(word: Word) -> bool:
    """Tell whether :func:`fd_test` of a word looks at the records of sockets."""
    return isinstance(word, (End, Abstract, Path))


def looks_at_others(word: Word) -> bool:
    """Tell whether :func:`fd_test` of a word passes files that a process has besides its fds."""
    return isinstance(word, Path) or (
        isinstance(word, (Inode, Address)) and not _is_of_socket(word)
    )


def _is_of_socket(word: Inode | Address) -> bool:
    return word.is_socket if isinstance(word, Inode) else word.type in _OF_SOCKETS


_OF_SOCKETS = ("struct sock", "struct socket")


def _of_socket(test: SocketTest) -> FdTest:
    def passes(record: FdRecord) -> bool:
        file = record.file
        if file is None or not file.sk:
            return False
        return isinstance(file.socket, SocketRecord) and test(file.socket)

    return passes


def _descriptor_test(tasks: Tasks, word: Descriptor) -> FdTest:
    task = task_of_descriptor(tasks, word)
    _file_of_descriptor(tasks, word)
    fd = word.fd

    def test(record: FdRecord) -> bool:
        table: FileTable = record.table
        if table.files != task.files or table.pid != task.tgid:
            return False
        return record.assoc is None and record.fd == fd

    return test


def _inode_test(word: Inode) -> FdTest:
    ino, dev, is_socket = word.ino, word.dev, word.is_socket

    def test(record: FdRecord) -> bool:
        file = record.file
        if file is None or file.ino != ino or (is_socket and not file.sk):
            return False
        return dev is None or file.dev == dev

    return test


def _address_test(word: Address) -> FdTest:
    address, type_ = word.address, word.type

    def test(record: FdRecord) -> bool:
        file = record.file
        if file is None:
            return record.address == address and type_ in (None, "struct file")
        return any(
            there == address and type_ in (None, its_type)
            for its_type, there in _addresses_of(file)
        )

    return test


def _addresses_of(file: FileRecord) -> Iterator[tuple[str, int]]:
    """Get the addresses of what a file consists of, each with its C type."""
    yield "struct file", file.address
    if file.sk:
        yield "struct sock", file.sk
        yield "struct socket", file.private_data
    if file.file.inode:
        yield "struct inode", file.file.inode
    elif isinstance(file.inode, InodeStruct):
        # A directory that is known by its path has no struct file.
        yield "struct inode", file.inode.address


def _path_test(prog: Program, word: Path) -> FdTest:
    path = path_on(prog, word)
    names = {path, path + _DELETED}
    is_named = _of_socket(socket_test(prog, word))
    dev = ino = None
    if is_running_kernel(prog):
        try:
            status = os.stat(path)  # noqa: PTH116 (no other need for pathlib here)
            dev = os.major(status.st_dev) << 20 | os.minor(status.st_dev)
            ino = status.st_ino
        except OSError:
            # A file that has no name any more may still be open.
            pass

    def test(record: FdRecord) -> bool:
        file = record.file
        if file is None:
            return False
        if file.sk:
            return is_named(record)
        if ino is not None and file.name == path:
            # In another mount namespace the same path may be another file. On btrfs, stat() has
            # other devices than the super block.
            return file.ino == ino
        return file.name in names or (ino is not None and (file.ino, file.dev) == (ino, dev))

    return test


def path_on(prog: Program, word: Path) -> bytes:
    """
    A path as the kernel writes it: on a running machine as it is there, on a core from its root
    directory, whatever the directory is here.
    """
    if is_running_kernel(prog):
        return os.path.realpath(word.path)
    return os.path.normpath(b"/./" + word.path)


# PID:FD.


def _file_of_descriptor(tasks: Tasks, word: Descriptor) -> int:
    """
    The ``struct file *`` of ``PID:FD``.

    :raises UserError: if there is none
    """
    pid, fd = word.pid, word.fd
    try:
        for slot in open_fds(tasks.prog, task_of_descriptor(tasks, word).files):
            if slot.fd == fd:
                return slot.file
    except FaultError as e:
        raise UserError(f"the file table of process {pid}: {lost_by(e)}") from None
    raise UserError(f"process {pid} has no fd {fd}; fds {pid} lists those it has")


def _sk_of_descriptor(tasks: Tasks, word: Descriptor) -> int:
    prog, place = tasks.prog, f"fd {word.fd} of process {word.pid}"
    file = or_lost(File.layout(prog).read, _file_of_descriptor(tasks, word))
    if isinstance(file, Lost):
        raise UserError(f"{place}: its {file}")
    if file.op != socket_file_ops(prog):
        raise UserError(f"{place} is not a socket; fds {word.text} says what it is")
    socket = or_lost(_Socket.layout(prog).read, file.private_data)
    if isinstance(socket, Lost):
        raise UserError(f"{place}: its {socket}")
    common = or_lost(SockCommon.layout(prog).read, socket.sk)
    if socket.sk and isinstance(common, Lost):
        raise UserError(f"{place}: its {common}")
    return sk_at(prog, Address(f"{file.private_data:#x}", file.private_data, "struct socket"))


# Sockets.


class Finder:
    """
    Finds the sockets that words name.

    >>> finder = Finder(prog)
    >>> for socket in finder.find("127.0.0.1:22222"):
    ...     print(hex(socket.sk), socket.ino, socket.holders)

    :param losses: Takes what cannot be read.
    """

    def __init__(self, prog: Program, losses: Losses | None = None) -> None:
        self._prog = prog
        self.losses = Losses() if losses is None else losses
        self.tasks = Tasks(prog, self.losses.lose)
        self.holders = Holders(prog, self.tasks.tables(), losses=self.losses)
        self.reader = SocketReader(prog, self.holders, self.losses)

    def find(
        self, what: str | int | Object | Word, families: Sequence[str] = FAMILY_NAMES
    ) -> list[AnySocket]:
        """
        Find the sockets that a word names.

        :param what: A word, or what :func:`~drgn_sockets.query.words.parse_word` takes
        :param families: Which of :data:`~drgn_sockets.records.families.FAMILY_NAMES` are looked
            through for an address or port
        :return: One or more sockets, each once
        :raises UserError: if there is none
        """
        word = parse_word(what)
        if isinstance(word, Address):
            return [self.reader.read(sk_at(self._prog, word))]
        if isinstance(word, Descriptor):
            return [self.reader.read(_sk_of_descriptor(self.tasks, word))]
        if isinstance(word, (Number, Inode)):
            return [self._with_inode(word)]
        test = socket_test(self._prog, word)
        if isinstance(word, End):
            families = [name for name in _inet_families() if name in families]
        else:
            families = ["unix"]
        # The records that ss shows below a socket (associations) are of the same socket.
        found: dict[int, AnySocket] = {}
        for record in self._walk(families):
            if self._passes(test, record):
                found.setdefault(record.sk, record)
        if not found:
            raise UserError(self._nothing(word))
        return list(found.values())

    def _nothing(self, word: Word) -> str:
        if isinstance(word, End):
            return f"no socket is at {word.text!r}; ss -a lists all"
        is_command = isinstance(word, Name) and any(
            task.comm == word.name for task in self.tasks.by_tid.values()
        )
        hint = f"; a process is: fds {word.text}" if is_command else ""
        return (
            f"no unix socket is called {word.text!r}{hint} (names are as they were bound; "
            "ss -xa lists all)"
        )

    def _with_inode(self, word: Number | Inode) -> SocketRecord:
        ino = word.number if isinstance(word, Number) else word.ino
        test = socket_test(self._prog, word)
        for record in self._walk(FAMILY_NAMES):
            if ino and self._passes(test, record):
                return record
        hint = ""

        def is_bound(record: SocketRecord) -> bool:
            file = record.socket_file() if isinstance(record, UnixRecord) else None
            return file is not None and file[0] == ino != 0

        bound = [r for r in self._unix() if self._passes(is_bound, r)]
        if bound:
            # Accepted sockets have the file of their listener.
            owner = max(bound, key=lambda r: r.state == TCP_LISTEN)
            hint = (
                f"; it is the inode of the socket file of socket:[{owner.ino}], "
                "which is another number"
            )
        elif isinstance(word, Number):
            hint = f"; fds {ino} takes it for a process ID"
        raise UserError(f"no socket has inode {ino}{hint}; ss -a lists all")

    def _walk(self, families: Iterable[str]) -> Iterator[SocketRecord]:
        walk = for_each_socket(self._prog, families, self.holders, self.losses)
        return readable(walk, self.losses)

    def _passes(self, test: SocketTest, record: SocketRecord) -> bool:
        try:
            return test(record)
        except FaultError as e:
            self.losses.lose(e, record.where)
            return False

    def _unix(self) -> Iterator[UnixRecord]:
        for record in self._walk(["unix"]):
            if isinstance(record, UnixRecord):
                yield record


def _inet_families() -> Iterator[str]:
    """Iterate over the families whose sockets have an IP address and a port."""
    for name in FAMILY_NAMES:
        family = family_named(name)
        if name == OTHER or (family is not None and issubclass(family.record, InetRecord)):
            yield name
