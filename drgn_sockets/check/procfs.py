# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading procfs once: ``/proc`` itself, or a directory laid out like it."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from drgn_sockets.kernel.task import PF_KTHREAD
from drgn_sockets.views.procfs import FILES, Row
from drgn_sockets.views.procfs.moments import COUNTS, How, how

#: The files that are compared, with the columns of each.
NET_FILES: dict[str, tuple[str, ...]] = {name: file.columns for name, file in FILES.items()}

_UNIX_ROW = re.compile(
    rb"([0-9a-f]{8,16}|\(null\)): ([0-9A-F]{8}) ([0-9A-F]{8}) ([0-9A-F]{8}) ([0-9A-F]{4}) "
    rb"([0-9A-F]{2}) +([0-9]+)"
)


class FdLook(NamedTuple):
    """What procfs says of a file descriptor; ``None`` for a file that procfs lacks."""

    #: Text of the link ``fd/N``.
    name: bytes | None
    #: First lines of ``fdinfo/N``, by their names: ``pos``, ``flags``, ``mnt_id``, ``ino``.
    info: dict[str, str] | None
    #: Other lines of ``fdinfo/N``: locks, and lines that the kind of file adds.
    lines: tuple[bytes, ...] = ()


class NetText(NamedTuple):
    """A file of ``/proc/net``, split into its heading and its rows."""

    heading: bytes
    lines: list[bytes]


@dataclass
class Look:
    """What procfs says at one moment."""

    #: Rows of the files in ``net/``, by network namespace (inode) and file.
    net: dict[tuple[int, str], list[Row]] = field(default_factory=dict)
    #: File descriptors by process ID and thread ID; the latter only for a thread's own table.
    fds: dict[tuple[int, int | None], dict[int, FdLook]] = field(default_factory=dict)
    #: A line for each file that does not exist, or cannot be read.
    missing: list[str] = field(default_factory=list)
    #: A line for each file whose text is not what such a file says.
    broken: list[str] = field(default_factory=list)
    #: IDs of kernel threads among the processes that memory does not have.
    kthreads: set[int] = field(default_factory=set)
    #: The text of each file in ``net``.
    text: dict[tuple[int, str], NetText] = field(default_factory=dict)


def split_net(
    file: str, text: bytes, unix_paths: Mapping[str, str] | None = None
) -> tuple[NetText, list[Row]]:
    """
    Split a file of ``/proc/net`` into lines, and parse them.

    :param file: Name of the file.
    :param unix_paths: Column ``Path`` of ``unix`` by pointer and by inode, as memory has it. The
        name of a unix socket may hold newlines, so the end of its row can be found only if the
        name is known.
    :raises ValueError: if *text* is not such a file
    """
    if file.startswith("sockstat"):
        heading, rest = b"", text
    else:
        heading, _, rest = text.partition(b"\n")
    if file == "unix":
        lines = _unix_lines(rest, unix_paths or {})
    else:
        lines = rest.splitlines(keepends=True)
    parse = row_parser(file, heading)
    return NetText(heading, lines), [parse(line) for line in lines]


def parse_net(file: str, text: bytes, unix_paths: Mapping[str, str] | None = None) -> list[Row]:
    """The rows of :func:`split_net`."""
    return split_net(file, text, unix_paths)[1]


def row_parser(file: str, heading: bytes) -> Callable[[bytes], Row]:
    """
    Make the function that parses a line of a file into a row.

    The function raises :exc:`ValueError` if the line is not a row of such a file.

    :raises ValueError: if the heading is not that of such a file
    """
    parse = _row_parser(file, heading)
    # Columns that the comparison calculates with have to be numbers.
    bases = {
        column: 16 if how(file, column) is How.DOWN else 10
        for column in NET_FILES[file]
        if how(file, column) in (How.DOWN, How.GROWS) or column in COUNTS
    }

    def checked(line: bytes) -> Row:
        row = parse(line)
        for column, base in bases.items():
            int(row.get(column, "0"), base)
        return row

    return checked


def _row_parser(file: str, heading: bytes) -> Callable[[bytes], Row]:
    if file.startswith("sockstat"):
        return _sockstat_row
    columns = NET_FILES[file]
    if columns[0] == "local_address":
        if b"local_address" not in heading:
            raise ValueError(f"{file}: no line of headings")
        return functools.partial(_inet_row, file)
    if file == "unix":
        if not heading.startswith(b"Num"):
            raise ValueError("unix: no line of headings")
        return _unix_row
    # The file has the columns that its heading names, a word each; not every kernel has all.
    names = heading.decode("ascii").split()
    if not names or set(names) - set(columns):
        raise ValueError(f"{file}: no line of headings")
    return functools.partial(_plain_row, file, names)


def _inet_row(file: str, line: bytes) -> Row:
    words = line.decode("ascii").split()
    # "sl", the number of the bucket or line, is left out. Words 4 and 5 hold two columns each.
    pairs = ":".join(words[4:6]).split(":")
    values = [*words[1:4], *pairs, *words[6:]]
    if len(pairs) != 4 or len(values) < 13:
        raise ValueError(f"{file}: not a row: {line!r}")
    # Most rows have the same values in these columns, so they share one string in memory.
    values[2:8] = map(sys.intern, values[2:8])
    return dict(zip(NET_FILES[file], values))


def _plain_row(file: str, names: Sequence[str], line: bytes) -> Row:
    words = line.decode("ascii").split()
    if len(words) != len(names):
        raise ValueError(f"{file}: not a row: {line!r}")
    return dict(zip(names, words))


def _sockstat_row(line: bytes) -> Row:
    name, colon, rest = line.decode("ascii").partition(":")
    words = rest.split()
    if not colon or len(words) % 2 or not words:
        raise ValueError(f"sockstat: not a row: {line!r}")
    return {"protocol": name, **dict(zip(words[::2], words[1::2]))}


def _unix_row(line: bytes) -> Row:
    match = _UNIX_ROW.match(line)
    if match is None:
        raise ValueError(f"unix: not a row: {line!r}")
    row = dict(zip(NET_FILES["unix"], (group.decode("ascii") for group in match.groups())))
    row["Path"] = line[match.end() :].removesuffix(b"\n").decode("latin-1")
    return row


def _unix_lines(rest: bytes, paths: Mapping[str, str]) -> list[bytes]:
    lines: list[bytes] = []
    at = 0
    while at < len(rest):
        match = _UNIX_ROW.match(rest, at)
        begin = match.end() if match else at
        if match:
            known = paths.get(match[1].decode(), paths.get(match[7].decode()))
            if known is not None and rest.startswith(known.encode("latin-1") + b"\n", begin):
                begin += len(known)
        end = rest.find(b"\n", begin) + 1 or len(rest)
        if match or not lines:
            lines.append(rest[at:end])
        else:
            # The name on the line before goes on here, after a newline.
            lines[-1] += rest[at:end]
        at = end
    return lines


def _read(path: str | bytes) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = []
        while chunk := os.read(fd, 1 << 16):
            data.append(chunk)
        return b"".join(data)
    finally:
        os.close(fd)


class ProcTree:
    """``/proc``, or a directory laid out like it."""

    def __init__(self, root: str) -> None:
        self.root = root

    def pids(self) -> list[int]:
        """IDs of all processes."""
        return sorted(int(p.name) for p in Path(self.root).iterdir() if p.name.isdecimal())

    def own_tables(self, pid: int) -> list[int]:
        """Threads of a process, other than its first, that the tree has."""
        try:
            tids = [path.name for path in Path(f"{self.root}/{pid}/task").iterdir()]
        except OSError:
            return []
        return sorted(int(t) for t in tids if t.isdecimal() and int(t) != pid)

    def read(self, path: str) -> bytes | None:
        """The contents of a file; ``None`` if it does not exist or cannot be read."""
        try:
            return _read(f"{self.root}/{path}")
        except OSError:
            return None

    def is_kthread(self, pid: int) -> bool:
        """Whether a process is a kernel thread."""
        text = self.read(f"{pid}/stat") or b""
        # Only the fields after the name are split, because the name may hold anything.
        words = text.rpartition(b")")[2].split()
        return len(words) > 6 and words[6].isdigit() and bool(int(words[6]) & PF_KTHREAD)

    def uptime_s(self) -> float | None:
        """When procfs was read, in seconds since boot; ``None`` if the tree does not tell."""
        text = self.read("uptime")
        try:
            return float(text.split()[0]) if text else None
        except (ValueError, IndexError):
            return None

    def fd_numbers(self, where: str) -> list[int] | None:
        """
        The fds that ``where/fd`` and ``where/fdinfo`` list, in order.

        :param where: ``PID`` or ``PID/task/TID``.
        :return: ``None`` if there are no such directories, or they cannot be read
        """
        found: set[int] | None = None
        for kind in ("fd", "fdinfo"):
            try:
                # All names are listed before a file is read, and files are read by path. A
                # directory held open would be an fd of our own: procfs would list it in this
                # process, and memory, read at another moment, would not have it.
                names = os.listdir(f"{self.root}/{where}/{kind}")  # noqa: PTH208
            except OSError:
                continue
            found = (found or set()).union(int(name) for name in names if name.isdecimal())
        return None if found is None else sorted(found)

    def fds(self, where: str) -> dict[int, FdLook] | None:
        """What procfs says of all :meth:`fd_numbers`; ``None`` if they cannot be listed."""
        numbers = self.fd_numbers(where)
        return None if numbers is None else self.some_fds(where, numbers)

    def some_fds(self, where: str, numbers: Iterable[int]) -> dict[int, FdLook]:
        """Read some fds of a directory; those that are gone are left out."""
        directory = os.fsencode(f"{self.root}/{where}")
        looks = {}
        for fd in numbers:
            link: bytes | None
            info: dict[str, str] | None
            # readlink fails if the fd was closed since, or its name is longer than PATH_MAX.
            try:
                link = os.readlink(b"%b/fd/%d" % (directory, fd))  # noqa: PTH115
            except OSError:
                link = None
            try:
                info, lines = _fdinfo(_read(b"%b/fdinfo/%d" % (directory, fd)))
            except OSError:
                info, lines = None, ()
            if link is not None or info is not None:
                looks[fd] = FdLook(link, info, lines)
        return looks


# One string of each name for all files, instead of one for each file.
_INFO = {name: name for name in ("pos", "flags", "mnt_id", "ino")}


def _fdinfo(text: bytes) -> tuple[dict[str, str], tuple[bytes, ...]]:
    """Split fdinfo into the lines that every file has, and the lines after these."""
    info: dict[str, str] = {}
    lines = text.splitlines(keepends=True)
    for i, line in enumerate(lines):
        name, separator, value = line.decode("utf-8", "surrogateescape").partition(":\t")
        known = _INFO.get(name)
        if not separator or known is None or known in info:
            return info, tuple(lines[i:])
        info[known] = value.rstrip("\n")
    return info, ()
