# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Which fds somebody asks for.

Words of one sort are alternatives, and what is shown is of every sort that is asked for: ``fds
sshd 4711 :22`` has the sockets at port 22 of sshd and of process 4711.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from socket import AF_INET, AF_INET6, inet_pton
from typing import NamedTuple

from drgn import FaultError, Program

from drgn_sockets.errors import UserError, nearest
from drgn_sockets.kernel.task import FileTable, Task, Tasks, task_by_tid
from drgn_sockets.program import is_running_kernel
from drgn_sockets.records.families.inet import InetRecord
from drgn_sockets.records.families.unix import UnixRecord
from drgn_sockets.records.fd import FdRecord, FileRecord

#: What an fd must pass.
Test = Callable[[FdRecord], bool]

_DELETED = b" (deleted)"
# A word that begins so is a path.
_PATHS = ("/", "./", "../")
_PORT = r"(?P<host>|\*|[0-9.]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\w[\w.+-]*|\*)"
_ABSTRACT = "@"
#: What is no fd, by its name in the column ``fd``.
ASSOCIATIONS = ("cwd", "rtd", "txt", "mem", "DEL")
_INO = r"(?:(?P<major>\d+):(?P<minor>\d+):)?(?P<ino>\d+)"

#: The kinds that :func:`~drgn_sockets.kernel.file.file_kind` gives on a usual machine.
KINDS = (
    *("sock", "pipe", "fifo", "reg", "dir", "chr", "blk", "lnk", "sockfile", "memfd", "ns"),
    *("eventfd", "eventpoll", "timerfd", "signalfd", "inotify", "fanotify", "pidfd", "io_uring"),
    *("userfaultfd", "perf_event", "bpf-prog", "bpf-map", "bpf_link", "btf", "landlock-ruleset"),
    *("kvm-vm", "kvm-vcpu", "vfio-device", "secretmem", "fscontext", "mount", "seccomp notify"),
    *("sync_file", "dmabuf", "iommufd", "anon_inode", "unknown"),
)


class Word(NamedTuple):
    """One of the words that say what is asked for."""

    #: ``process``, or ``file`` for what is opened.
    sort: str
    text: str


def word(text: str) -> Word:
    """Tell what sort of thing a word is."""
    is_port = ":" in text and re.fullmatch(_PORT, text)
    is_file = is_port or text.startswith((*_PATHS, _ABSTRACT))
    return Word("file" if is_file else "process", text)


# Processes.


def chosen_tables(
    tasks: Tasks, tables: Sequence[FileTable], who: Iterable[str], tell: Callable[[str], None]
) -> list[FileTable]:
    """
    The tables of processes, by their IDs or names.

    :param tell: Is told of a process that has no fds.
    :raises UserError: if there is none of that ID or name
    """
    wanted: set[FileTable] = set()
    for text in who:
        if text.isdecimal() and text.isascii():
            found = [t for t in tables if t.pid == int(text)]
            if not found:
                _explain_pid(tasks, int(text), tell)
        else:
            found = named(tables, text)
        wanted.update(found)
    return [table for table in tables if table in wanted]


def task_of(prog: Program, pid: int) -> Task:
    """
    The task of an ID.

    :raises UserError: if there is none, or it cannot be read
    """
    try:
        task = task_by_tid(prog, pid)
    except FaultError as e:
        raise UserError(f"process {pid} cannot be read: {e}") from None
    if task is None:
        raise UserError(f"no process {pid}; fds without arguments lists all")
    return task


def named(tables: Iterable[FileTable], name: str) -> list[FileTable]:
    """
    The tables of processes with a command name.

    :raises UserError: if there is none
    """
    comm = os.fsencode(name)
    tables = list(tables)
    # With a process come its threads, which may have names of their own.
    pids = {t.pid for t in tables if t.comm == comm and t.tid is None}
    found = [t for t in tables if t.comm == comm or t.pid in pids]
    if not found:
        raise UserError(
            f"no process is called {name!r}; fds without arguments lists all "
            "(the kernel keeps 15 bytes of a name)"
        )
    return found


def _explain_pid(tasks: Tasks, pid: int, tell: Callable[[str], None]) -> None:
    task = tasks.by_tid.get(pid) or task_of(tasks.prog, pid)
    if task.tgid != pid:
        leader = tasks.by_tid.get(task.tgid)
        name = f" ({os.fsdecode(leader.comm)!r})" if leader is not None else ""
        raise UserError(f"{pid} is a thread of process {task.tgid}{name}: fds {task.tgid}")
    # There, but with nothing to show: that is an answer.
    kind = "has exited (zombie) and" if not task.files else "has a file table but"
    tell(f"process {pid} {kind} holds no file descriptors")


def of_users(tables: Iterable[FileTable], users: str) -> list[FileTable]:
    """
    The tables of processes of users.

    :param users: Names or IDs, with commas between them. Names are those of this machine.
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


# What is opened.


class Wanted(NamedTuple):
    """Tests for what is opened, and what they need."""

    #: An fd passes one of them.
    tests: Sequence[Test]
    #: They look at sockets: records have to be read.
    sockets: bool
    #: They are about files, which are also in use otherwise than by an fd.
    others: bool


def wanted_files(prog: Program, words: Iterable[str], inodes: str | None) -> Wanted:
    """
    Tests for files by path or inode, and for sockets by address or name.

    :raises UserError: if one is none
    """
    tests: list[Test] = []
    others = sockets = False
    for text in words:
        if text.startswith(_PATHS):
            tests.append(_at_path(prog, text))
            others = sockets = True
        elif text.startswith(_ABSTRACT):
            tests.append(_socket_test(_is_named(b"\0" + os.fsencode(text[1:]))))
            sockets = True
        else:
            tests.append(_socket_test(_at_port(text)))
            sockets = True
    if inodes is not None:
        tests += map(_of_inode, inodes.split(","))
        others = True
    return Wanted(tests, sockets, others)


def _at_path(prog: Program, text: str) -> Test:
    live = is_running_kernel(prog)
    # A path of a core begins at its root directory, whatever the directory is here.
    path = os.fsencode(os.path.realpath(text) if live else os.path.normpath(f"/./{text}"))
    names = {path, path + _DELETED}
    is_named = _socket_test(_is_named(path))
    dev = ino = None
    if live:
        try:
            status = os.stat(path)  # noqa: PTH116 (pathlib takes a while to import)
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
            # In another mount namespace the same path may be another file. Of btrfs, stat() has
            # other devices than the super block.
            return file.ino == ino
        return file.name in names or (ino is not None and (file.ino, file.dev) == (ino, dev))

    return test


def _socket_test(test: Callable[[object], bool]) -> Test:
    return lambda record: bool(
        record.file is not None and record.file.sk and test(record.file.socket)
    )


def _is_named(name: bytes) -> Callable[[object], bool]:
    return lambda socket: isinstance(socket, UnixRecord) and socket.name == name


def _at_port(text: str) -> Callable[[object], bool]:
    match = re.fullmatch(_PORT, text)
    assert match is not None
    host, port = match["host"], match["port"]
    if host in ("", "*"):
        if port == "*":
            raise UserError(f"{text!r} is every socket: fds --kind sock")
        expression = f"sport = :{port} or dport = :{port}"
    else:
        _check_address(host.strip("[]"), text)
        end = host if port == "*" else f"{host}:{port}"
        expression = f"src {end} or dst {end}"
    # It takes a while to import, and most ask for no socket.
    from drgn_sockets.query.ssfilter import parse

    try:
        test = parse(expression).expression
    except UserError as e:
        # Of its lines the first; the others show the place in an expression that is not the user's.
        raise UserError(f"{text!r}: {str(e).splitlines()[0].partition(': ')[2]}") from None
    assert test is not None
    passes = test.test()
    # What ss has for the port of a raw socket is a protocol.
    any_port = port == "*"
    return lambda socket: (
        isinstance(socket, InetRecord)
        and (any_port or socket.family_name != "raw")
        and passes(socket)
    )


def _check_address(host: str, text: str) -> None:
    try:
        inet_pton(AF_INET6 if ":" in host else AF_INET, host)
    except OSError:
        raise UserError(f"no address: {text!r}; 10.0.0.1:443, [::1]:443 or :443 are") from None


def _of_inode(text: str) -> Test:
    match = re.fullmatch(_INO, text, re.ASCII)
    if match is None:
        raise UserError(f"no inode: {text!r}; --inode takes 4711 or MAJOR:MINOR:4711")
    ino = int(match["ino"])
    dev = int(match["major"]) << 20 | int(match["minor"]) if match["major"] else None

    def test(record: FdRecord) -> bool:
        file = record.file
        return file is not None and file.ino == ino and (dev is None or file.dev == dev)

    return test


# Fds and kinds.


def of_fds(text: str) -> tuple[Test, bool]:
    """
    A test for numbers of fds, ranges of them, and associations: ``0-2,9,cwd``.

    :return: The test, and whether it passes what is no fd
    :raises UserError: if it is none of these
    """
    words = set()
    ranges: list[tuple[int, int | None]] = []
    known = {name.lower(): name for name in ASSOCIATIONS}
    for item in text.split(","):
        match = re.fullmatch(r"(\d+)(?:(-)(\d*))?", item.strip(), re.ASCII)
        if item.lower() in known:
            words.add(known[item.lower()])
        elif match is not None:
            first = int(match[1])
            last = first if match[2] is None else int(match[3]) if match[3] else None
            if last is not None and last < first:
                raise UserError(f"no range of fds: {item!r} ends before it begins")
            ranges.append((first, last))
        else:
            near = nearest(item, ASSOCIATIONS)
            raise UserError(
                f"no fd: {item!r}{near}; --fd takes numbers, ranges (0-2, 100-), "
                f"{', '.join(ASSOCIATIONS)}"
            )

    def test(record: FdRecord) -> bool:
        if record.assoc is not None:
            return record.assoc in words
        fd = record.fd
        return fd is not None and any(a <= fd and (b is None or fd <= b) for a, b in ranges)

    return test, bool(words)


def of_kinds(
    text: str,
    told_apart: Mapping[str, Callable[[FileRecord], bool]],
    others: Callable[[], Iterable[str]],
) -> Test:
    """
    A test for kinds of files.

    :param told_apart: By further names, tests of those kinds. Names of :data:`KINDS` come first.
    :param others: Finds what kinds this machine has besides the usual ones; that takes a while.
    :raises UserError: if there is no such kind
    """
    kinds = frozenset(kind.strip() for kind in text.split(","))
    unknown = kinds - {*KINDS, *told_apart}
    if unknown:
        # One name of each is enough for a list.
        more = {name for name in told_apart if name.replace("_", "-") not in KINDS}
        here = sorted({*KINDS, *more, *others()})
        for kind in sorted(unknown - set(here)):
            raise UserError(
                f"no such kind: {kind!r}{nearest(kind, here)}; there are {', '.join(here)}"
            )
    tests = [test for name, test in told_apart.items() if name in kinds and name not in KINDS]

    def test(record: FdRecord) -> bool:
        file = record.file
        return file is not None and (file.kind in kinds or any(one(file) for one in tests))

    return test


def any_of(tests: Sequence[Test]) -> Test:
    """Passes what one of *tests* does."""
    return tests[0] if len(tests) == 1 else lambda record: any(test(record) for test in tests)
