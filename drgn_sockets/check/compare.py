# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Comparing kernel memory with procfs.

A live system changes all the time. So procfs is read, then memory, then procfs again, and only
values that both looks at procfs agree on are judged. Values that differ are looked at again a few
times; a difference that stays is a mismatch. A core does not change, but its procfs was saved a
moment before. A value that a timer of the kernel may have changed since then is counted as moved,
not as a mismatch.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Optional, Union

from drgn import FaultError, Program

from drgn_sockets.check.procfs import (
    FdLook,
    Look,
    NetText,
    ProcTree,
    row_parser,
    split_net,
)
from drgn_sockets.kernel.lost import Lost, or_lost
from drgn_sockets.kernel.moving import LOOKS
from drgn_sockets.kernel.net import net_namespaces, task_net
from drgn_sockets.kernel.task import FileTable, Tasks
from drgn_sockets.program import is_live
from drgn_sockets.records.fd import FdReader, FdRecord
from drgn_sockets.records.kinds import known_of
from drgn_sockets.records.losses import Losses
from drgn_sockets.text import escape
from drgn_sockets.views.procfs import FILES, Looker, Row
from drgn_sockets.views.procfs.fdinfo import own_lines
from drgn_sockets.views.procfs.moments import COUNTS, PAGES, TOLERANCE_S, How, fd_how, how, traffic

_TR_TIMEWAIT = "03"
# Saving all of procfs took no longer than this on the slowest machine.
_SAVING_S = 300
# Kinds of files whose position stays where it is.
_FIXED_POS_KINDS = frozenset({"sock", "pipe", "fifo", "eventfd", "eventpoll", "timerfd", "pidfd"})

# Rows of sockstat and protocols that change with sockets of TCP.
_OF_TCP = re.compile("TCP|^sockets")

_TIMESPEC = re.compile(rb"\((\d+), (\d+)\)")

# A field that changes between two values with every segment (ref) can look like a difference that
# stays: on a busy machine three tries were too few.
_TRIES = 8


#: A process ID, and a thread ID for a thread's own table.
Table = tuple[int, Optional[int]]
#: What is looked at: a file of ``net`` of a network namespace, by its inode; or a file table.
Place = Union[tuple[int, str], Table]


class Mismatch(NamedTuple):
    """A value that differs between procfs and memory."""

    #: Which file: ``net/tcp`` and the namespace, or ``PID/fd``.
    where: str
    #: Which row of the file.
    row: str
    #: Which field of the row.
    field: str
    procfs: str
    memory: str

    @property
    def error(self) -> None:
        """``None``: both values were read, and a difference is not an error of reading."""


@dataclass
class Result:
    """The result of a comparison."""

    #: Rows compared, by file.
    rows: dict[str, int] = field(default_factory=dict)
    #: Fields compared.
    fields: int = 0
    #: Rows in which kernel addresses were compared too.
    addresses: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)
    #: Values that changed between two looks, or may have changed since procfs was saved.
    moved: list[Mismatch] = field(default_factory=list)
    #: A line for each thing that was not compared, with the reason.
    left_out: list[str] = field(default_factory=list)

    def count(self, file: str, rows: int = 1) -> None:
        """Count *rows* compared of *file*."""
        self.rows[file] = self.rows.get(file, 0) + rows


@dataclass
class Memory:
    """What kernel memory says at one moment."""

    net: dict[tuple[int, str], list[Row]]
    fds: dict[Table, dict[int, FdRecord]]
    #: Processes that live in each network namespace, by its inode.
    net_pids: dict[int, list[int]]
    netns: list[int]
    pids: set[int]
    #: Network namespace that ``/proc/net`` shows: this process's own; for a core, the first one.
    own_netns: int
    #: The text of each file in ``net``, as the kernel would print it.
    text: dict[tuple[int, str], NetText] = field(default_factory=dict)
    #: What could not be read of some file tables.
    lost: dict[Table, Losses] = field(default_factory=dict)


def look_at_memory(
    prog: Program, losses: Losses | None = None, only: Container[Place] | None = None
) -> Memory:
    """
    Read from kernel memory all that is compared with procfs.

    :param losses: Takes what cannot be read.
    :param only: Read these alone.
    """
    losses = Losses() if losses is None else losses
    net: dict[tuple[int, str], list[Row]] = {}
    texts: dict[tuple[int, str], NetText] = {}
    at = Looker(prog, losses=losses)
    for key, text, rows in net_in_memory(at, only):
        net[key], texts[key] = rows, text
    tasks = Tasks(prog, losses.lose)
    tables = [t for t in tasks.tables() if only is None or (t.pid, t.tid) in only]
    keys: list[Table] = [(table.pid, table.tid) for table in tables]
    fds: dict[Table, dict[int, FdRecord]] = {}
    lost: dict[Table, Losses] = {}
    for table, records in zip(keys, fds_in_memory(prog, tables, losses)):
        mine = Losses()
        fds[table] = fds_of(records, mine)
        if mine:
            lost[table] = mine
            losses.take(mine.sent())
    return look_around(prog, tasks, losses, net=net, fds=fds, text=texts, lost=lost)


def look_around(prog: Program, tasks: Tasks, losses: Losses, **rest: Any) -> Memory:
    """
    Read the processes and network namespaces of a :class:`Memory`.

    :param rest: Other fields of :class:`Memory`.
    """
    namespaces = [ns.ino for ns in net_namespaces(prog, losses.lose).values()]
    net_pids: dict[int, list[int]] = {}
    own_netns = namespaces[0] if namespaces else 0
    live = is_live(prog)
    for task in tasks.by_tid.values():
        if task.pid == task.tgid and task.nsproxy:
            ino = or_lost(functools.partial(task_net, prog), task.nsproxy)
            if isinstance(ino, Lost):
                losses.lose(ino, f"network namespace of process {task.pid}")
                continue
            net_pids.setdefault(ino, []).append(task.pid)
            if live and task.pid == os.getpid():
                own_netns = ino
    pids = {task.tgid for task in tasks.by_tid.values()}
    return Memory(netns=namespaces, net_pids=net_pids, pids=pids, own_netns=own_netns, **rest)


def net_in_memory(
    at: Looker, only: Container[Place] | None = None
) -> Iterator[tuple[tuple[int, str], NetText, list[Row]]]:
    """
    The files of ``net`` of each network namespace, one by one.

    :param only: Read these alone.
    """
    for address, ns in net_namespaces(at.prog, at.losses.lose).items():
        names = at.proc_net_names(address)
        for name, file in FILES.items():
            if names and name.encode() not in names:
                continue
            if only is not None and (ns.ino, name) not in only:
                continue
            try:
                text = NetText(*_heading_and_rows(name, file.lines(at, address)))
                parse = row_parser(name, text.heading)
                rows = [parse(line) for line in text.lines]
            except (FaultError, LookupError, ValueError) as e:
                loss = e if isinstance(e, FaultError) else str(e)
                at.losses.lose(loss, f"net/{name} of network namespace {ns.ino}")
            else:
                yield (ns.ino, name), text, rows
                del text, rows


def _heading_and_rows(name: str, lines: Iterator[bytes]) -> tuple[bytes, list[bytes]]:
    heading = b"" if name.startswith("sockstat") else next(lines).removesuffix(b"\n")
    return heading, list(lines)


def fds_in_memory(
    prog: Program, tables: Sequence[FileTable], losses: Losses | None = None
) -> Iterator[Iterator[FdRecord]]:
    """The fds of each of *tables*; take them before the next table's."""
    groups = itertools.groupby(FdReader(prog, losses=losses).read(tables), lambda fd: fd.table)
    of, records = next(groups, (None, None))
    for table in tables:
        if of is table and records is not None:
            yield records
            of, records = next(groups, (None, None))
        else:
            yield iter(())


def fds_of(records: Iterable[FdRecord], losses: Losses) -> dict[int, FdRecord]:
    """Fds by their numbers."""
    fds: dict[int, FdRecord] = {}
    for record in records:
        if record.error is not None:
            losses.lose(record.error, record.where)
        if record.fd is not None:
            fds[record.fd] = record
    return fds


def look_at_procfs(tree: ProcTree, memory: Memory, only: Container[Place] | None = None) -> Look:
    """
    Read procfs.

    :param only: Read the file tables in it alone.

    :param memory: An earlier look at memory, which tells the processes of each network namespace,
        and the names of unix sockets.
    """
    look = Look()
    for ino in memory.netns:
        for file in FILES:
            if (ino, file) in memory.net:
                read_net(tree, look, memory, ino, file)
        look.missing += no_places(memory, ino)
    for pid in tree.pids():
        tables: list[Table] = [(pid, None)]
        tables += [(pid, tid) for tid in tree.own_tables(pid) if (pid, tid) in memory.fds]
        for table in tables:
            if only is not None and table not in only:
                continue
            numbers = find_fds(tree, look, table, memory)
            if numbers is not None:
                look.fds[table] = tree.some_fds(where(table), numbers)
            elif table[1] is None:
                break
    return look


def _places(memory: Memory, ino: int) -> list[str]:
    """Directories of procfs whose ``net`` shows a network namespace."""
    places = [""] if ino == memory.own_netns else []
    return places + [f"{pid}/" for pid in memory.net_pids.get(ino, ())]


def no_places(memory: Memory, ino: int) -> list[str]:
    """A line that says so if procfs does not show a network namespace."""
    if _places(memory, ino):
        return []
    return [f"network namespace {ino}: no process lives in it, so procfs does not show it"]


def read_net(tree: ProcTree, look: Look, memory: Memory, ino: int, file: str) -> None:
    """Read a file of ``net`` of a network namespace into *look*, if procfs has it."""
    places = _places(memory, ino)
    for place in places:
        text = tree.read(f"{place}net/{file}")
        if text is not None:
            break
    else:
        if places:
            look.missing.append(f"net/{file} of network namespace {ino}: not there")
        return
    try:
        paths = _unix_paths(memory.net.get((ino, file), ())) if file == "unix" else None
        look.text[ino, file], look.net[ino, file] = split_net(file, text, paths)
    except (ValueError, IndexError, UnicodeDecodeError) as e:
        look.broken.append(f"{place}net/{file}: {e}")


def where(table: Table) -> str:
    """The directory of procfs that shows a file table."""
    pid, tid = table
    return str(pid) if tid is None else f"{pid}/task/{tid}"


def find_fds(tree: ProcTree, look: Look, table: Table, memory: Memory) -> list[int] | None:
    """The fds that procfs lists for a file table; ``None`` if procfs does not list the table."""
    pid, tid = table
    numbers = tree.fd_numbers(where(table))
    if numbers is None:
        if tid is None:
            look.missing.append(f"{pid}/fd: not there, or no permission")
    elif pid not in memory.pids and tree.is_kthread(pid):
        look.kthreads.add(pid)
    return numbers


def _unix_paths(rows: Iterable[Row]) -> dict[str, str]:
    paths: dict[str, str] = {}
    for row in rows:
        # With kptr_restrict=2 all pointers are 0.
        if row["pointer"].strip("0"):
            paths[row["pointer"]] = row["Path"]
        if row["Inode"] != "0":
            paths[row["Inode"]] = row["Path"]
    return paths


def _shows_address(pointer: str) -> bool:
    # kptr_restrict=1 shows real addresses to root. Other settings show hashes of 32 bits, or zeros.
    return len(pointer) == 16 and pointer.startswith("ff")


def order_of(table: Table) -> tuple[int, int]:
    """Sort key of file tables."""
    return table[0], table[1] or 0


def _key(file: str, row: Row, by_address: bool) -> tuple[str, ...]:
    columns = (FILES[file].pointer,) if by_address else FILES[file].key
    return tuple(row.get(column, "") for column in columns)


def _by_key(file: str, rows: Iterable[Row], by_address: bool) -> dict[tuple[str, ...], list[Row]]:
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(_key(file, row, by_address), []).append(row)
    # Several sockets may share a key that is not their address. Their rows are sorted, so that
    # equal rows are compared with each other.
    for same in found.values():
        same.sort(key=lambda row: sorted(row.items()))
    return found


class Comparison:
    """
    Compares looks, and collects a :class:`Result`.

    :param elapsed_s: How many seconds before memory procfs was read; ``None`` if unknown.
    :param live: Whether memory is that of the running kernel.
    :param losses: Takes what cannot be read, and so is not compared.
    """

    def __init__(self, elapsed_s: float | None, live: bool, losses: Losses | None = None) -> None:
        self.losses = Losses() if losses is None else losses
        self._elapsed_s = elapsed_s
        self._live = live
        #: How many seconds before memory the file that is being compared was read.
        self._passed_s = elapsed_s
        #: How many timers of TCP may have fired since procfs was read.
        self._due = 0
        #: In how many rows something was sent or read since.
        self._busy = 0
        #: The line of each row of the file, by the row's id().
        self._lines: dict[int, bytes] = {}
        #: Where each mismatch is, by its ``where``.
        self.places: dict[str, Place] = {}
        #: What could not be read of some file tables.
        self.lost: dict[Table, Losses] = {}
        #: Lines of fdinfo that are not compared, by the kind of file, and the reason.
        self._left_out: set[str] = set()
        self.result = Result()

    def compare(self, before: Look, memory: Memory, after: Look | None = None) -> Result:
        """
        Compare memory with procfs.

        :param after: A look at procfs after the look at memory. A value that differs between
            *before* and *after* is not judged.
        """
        self.look_over(before, memory)
        for key in sorted(before.net):
            self.net_of(key, before, memory, after)
        for table in sorted(before.fds, key=order_of):
            self.table(table, before, memory, after)
        self.finish(before, memory)
        return self.result

    def look_over(self, before: Look, memory: Memory) -> None:
        """Count the timers of TCP that may have fired, in all files; compare headings."""
        for (ino, file), rows in before.net.items():
            if file.startswith("tcp"):
                self._passed_s = self._passed(rows, memory.net.get((ino, file), []))
                self._due += sum(map(self._may_have_ended, rows))
        for (ino, file), text in memory.text.items():
            theirs = before.text.get((ino, file))
            if theirs is not None and theirs.heading != text.heading:
                name = f"net/{file} of netns {ino}"
                self.places[name] = ino, file
                shown = (escape(heading) for heading in (theirs.heading, text.heading))
                self._tell(Mismatch(name, "heading", "line", *shown))

    def net_of(
        self, key: tuple[int, str], before: Look, memory: Memory, after: Look | None = None
    ) -> None:
        """Compare one file of ``net``."""
        looks: list[Look | Memory] = [before, memory, *([after] if after else [])]
        self._lines.clear()
        for look in looks:
            if key in look.text:
                self._lines.update(zip(map(id, look.net[key]), look.text[key].lines))
        later = None if after is None else after.net.get(key, [])
        self._net(key, before.net[key], memory.net.get(key, []), later)

    def table(self, table: Table, before: Look, memory: Memory, after: Look | None = None) -> None:
        """Compare one file table."""
        later = None if after is None else after.fds.get(table)
        if after is not None and later is None:
            return
        pid, tid = table
        if pid not in memory.pids and tid is None:
            # The kernel starts and ends its worker threads at any time.
            moved = not self._live and pid in before.kthreads
            self.places[f"{pid}"] = table
            self._tell(Mismatch(f"{pid}", "process", "", "there", "not found"), moved=moved)
            return
        losses, self.losses = self.losses, Losses()
        try:
            self._fds(table, before.fds[table], memory.fds.get(table, {}), later)
            if self.losses:
                self.lost[table] = self.losses
        finally:
            losses.take(self.losses.sent())
            self.losses = losses

    def finish(self, before: Look, memory: Memory) -> None:
        """Say what was not compared."""
        if not self._live:
            unsaved = sorted(pid for pid, tid in memory.fds if (pid, tid) not in before.fds)
            if unsaved:
                self.result.left_out.append(
                    f"{len(unsaved)} processes whose fds are not saved: "
                    + " ".join(map(str, unsaved[:8]))
                    + (" …" if len(unsaved) > 8 else "")
                )
        self.result.left_out.extend(sorted(self._left_out))
        self.result.left_out.extend(before.missing)
        for line in before.broken:
            self.losses.lose(line)

    def _tell(self, mismatch: Mismatch, *, moved: bool = False) -> None:
        (self.result.moved if moved else self.result.mismatches).append(mismatch)

    def _net(
        self, where: tuple[int, str], before: list[Row], memory: list[Row], after: list[Row] | None
    ) -> None:
        ino, file = where
        name = f"net/{file} of netns {ino}"
        self.places[name] = where
        self._passed_s = self._passed(before, memory) if file.startswith("tcp") else None
        pointer = FILES[file].pointer
        by_address = bool(pointer) and all(
            _shows_address(row[pointer]) for row in (*before, *(after or ()))
        )
        ours = _by_key(file, memory, by_address)
        theirs = _by_key(file, before, by_address)
        later = None if after is None else _by_key(file, after, by_address)
        for key, rows in theirs.items():
            # Only rows that both looks at procfs have are judged, and of these only the columns
            # that are the same in both looks.
            for i, row in enumerate(rows):
                then = None
                if later is not None:
                    if i >= len(later.get(key, ())):
                        self._tell(Mismatch(name, _label(file, row), "", "gone", ""), moved=True)
                        continue
                    then = later[key][i]
                if i >= len(ours.get(key, ())):
                    self._tell(
                        Mismatch(name, _label(file, row), "", "there", "not found"),
                        moved=self._may_have_ended(row),
                    )
                    continue
                self.result.count(f"net/{file}")
                self.result.addresses += by_address
                self._row(name, file, row, ours[key][i], then)
        for key, rows in ours.items():
            known = max(len(theirs.get(key, ())), len((later or {}).get(key, ())))
            for row in rows[known:]:
                self._tell(Mismatch(name, _label(file, row), "", "not there", "there"))
        looks = (before, memory) if after is None else (before, memory, after)
        self._order(name, file, [[_key(file, row, by_address) for row in rows] for rows in looks])

    def _order(self, name: str, file: str, looks: list[list[tuple[str, ...]]]) -> None:
        """
        Compare the order of rows.

        :param looks: Keys of the rows before, in memory, and after, if there is such a look.
        """
        # Only rows that are in each look exactly once have an order that can be compared.
        counts = [Counter(keys) for keys in looks]
        once = {key for key in looks[0] if all(count[key] == 1 for count in counts)}
        before, memory, *after = ([key for key in keys if key in once] for keys in looks)
        if before == memory or before != (after or [before])[0]:
            return
        i = next(i for i, keys in enumerate(zip(before, memory)) if keys[0] != keys[1])
        there, mine = (" ".join(keys[i]) for keys in (before, memory))
        self._tell(Mismatch(name, f"row {i} of those in all looks", "order", there, mine))

    def _row(self, name: str, file: str, row: Row, ours: Row, then: Row | None) -> None:
        label = _label(file, row)
        # A program that sent or read since procfs was saved has set timers as well.
        busy = any(
            ours.get(column) != value and traffic(file, column) is How.USED
            for column, value in row.items()
        )
        fired = file.startswith("tcp") and (self._may_have_ended(row) or (busy and not self._live))
        self._busy += busy
        for column, value in row.items():
            if column == FILES[file].pointer and not _shows_address(value):
                continue
            mine = ours.get(column)
            moment = how(file, column)
            if moment is How.DOWN:
                if then is not None and row["tr"] == then.get("tr") == ours.get("tr"):
                    self._countdown(name, label, column, value, mine, then[column])
                elif then is None and not fired and row["tr"] == ours.get("tr"):
                    self._saved_countdown(name, label, column, row, mine)
                continue
            if then is not None and then.get(column) != value:
                self._tell(Mismatch(name, label, column, value, then.get(column, "")), moved=True)
                continue
            self.result.fields += 1
            if mine != value:
                moved = then is None and (
                    self._explained(moment, label, column, value, mine, fired)
                    or _by_traffic(traffic(file, column), value, mine)
                )
                self._tell(Mismatch(name, label, column, value, str(mine)), moved=moved)
        self._line(name, label, file, row, ours, then)

    def _line(
        self, name: str, label: str, file: str, row: Row, ours: Row, then: Row | None
    ) -> None:
        """Compare the text between the columns."""
        lines = [self._lines.get(id(look)) for look in (row, ours, then or row)]
        if row == ours and None not in lines:
            # A line of TCP begins with its number; the order of rows is compared elsewhere.
            start = 1 if file.startswith("tcp") else 0
            theirs, mine, later = (line.split(b": ", start)[-1] for line in lines if line)
            if theirs == later:
                self.result.fields += 1
                if theirs != mine:
                    shown = (escape(line) for line in (theirs, mine))
                    self._tell(Mismatch(name, label, "line", *shown))

    def _explained(
        self,
        moment: How | None,
        label: str,
        column: str,
        value: str,
        mine: str | None,
        fired: bool,
    ) -> bool:
        """Tell whether a column may differ because of the time since procfs was saved."""
        if mine is None or moment is None:
            return False
        if moment is How.GROWS:
            return int(mine) > int(value)
        if moment is How.SHRINKS:
            return int(mine) - int(value) <= self._due
        if column in COUNTS | PAGES and not (_OF_TCP.search(label) and value.isdecimal()):
            return False
        if column in PAGES:
            return self._due + self._busy > 0
        if column in COUNTS:
            return abs(int(mine) - int(value)) <= self._due
        return fired

    def _countdown(
        self, name: str, label: str, column: str, value: str, mine: str | None, then: str
    ) -> None:
        # Memory has to have a value between the one before and the one after.
        first, last = int(value, 16), int(then, 16)
        if mine is None or last > first:
            return
        self.result.fields += 1
        if not last - 1 <= int(mine, 16) <= first + 1:
            self._tell(Mismatch(name, label, column, f"{value} to {then}", mine))

    def _saved_countdown(
        self, name: str, label: str, column: str, row: Row, mine: str | None
    ) -> None:
        if mine is None or self._passed_s is None:
            return
        self.result.fields += 1
        left, expected = int(mine, 16) / 100, int(row[column], 16) / 100
        if row["tr"] != "00":
            expected -= self._passed_s
        if abs(left - max(expected, 0)) > TOLERANCE_S:
            restarted = row["tr"] == _TR_TIMEWAIT and left > expected
            self._tell(Mismatch(name, label, column, row[column], mine), moved=restarted)

    def _may_have_ended(self, row: Row) -> bool:
        """Tell whether a timer may have removed the socket of a row since procfs was saved."""
        if self._live or row.get("tr", "00") == "00":
            return False
        if self._passed_s is None:
            return True
        return int(row["when"], 16) / 100 <= self._passed_s + TOLERANCE_S

    def _passed(self, saved: Iterable[Row], memory: Iterable[Row]) -> float | None:
        """
        Seconds between the reading of a file of TCP and that of memory.

        On a busy machine it was read some time before ``uptime``, so the timers of its sockets
        tell: most of them have counted down by the time that passed.
        """
        if self._live or self._elapsed_s is None:
            return self._elapsed_s
        ours = {_key("tcp", row, by_address=False): row for row in memory}
        gone_by = []
        for row in saved:
            mine = ours.get(_key("tcp", row, by_address=False), {})
            if row["tr"] not in ("00", _TR_TIMEWAIT) and all(
                row[column] == mine.get(column) for column in ("tr", "retrnsmt", "timeout")
            ):
                gone_by.append(int(row["when"], 16) - int(mine["when"], 16))
        most = statistics.median_high(gone_by) / 100 if gone_by else self._elapsed_s
        earliest = self._elapsed_s - TOLERANCE_S
        return most if earliest <= most <= self._elapsed_s + _SAVING_S else self._elapsed_s

    def _fds(
        self,
        table: Table,
        before: dict[int, FdLook],
        memory: dict[int, FdRecord],
        after: dict[int, FdLook] | None,
    ) -> None:
        tid = table[1]
        name = f"{where(table)}/fd"
        self.places[name] = table
        for fd in sorted(before):
            look = before[fd]
            then = None if after is None else after.get(fd)
            if after is not None and then is None:
                self._tell(Mismatch(name, str(fd), "", "gone", ""), moved=True)
                continue
            record = memory.get(fd)
            if record is None:
                self._tell(Mismatch(name, str(fd), "", "there", "not found"))
                continue
            if record.file is None:
                self.losses.lose(record.error or "", record.where)
                continue
            self.result.count("PID/fd" if tid is None else "PID/task/TID/fd")
            for column, value, mine in _fd_fields(look, record, self.losses):
                if then is not None and _fd_value(then, column) != value:
                    self._tell(
                        Mismatch(name, str(fd), column, value, _fd_value(then, column) or ""),
                        moved=True,
                    )
                    continue
                self.result.fields += 1
                if mine != value:
                    # Since procfs was saved, a process may have read or written on in the file.
                    moved = (
                        not self._live
                        and column == "pos"
                        and record.file.kind not in _FIXED_POS_KINDS
                    )
                    self._tell(Mismatch(name, str(fd), column, value, mine), moved=moved)
            if look.info is not None:
                self._fd_lines(name, look, record, then)
        for fd, record in memory.items():
            if fd not in before and (after is None or fd not in after):
                shown = escape(record.file.name or b"") if record.file else "there"
                self._tell(Mismatch(name, str(fd), "", "not there", shown))

    def _fd_lines(self, name: str, look: FdLook, record: FdRecord, then: FdLook | None) -> None:
        """Compare the lines of fdinfo that come after those that every file has."""
        assert record.file is not None
        try:
            known = known_of(record.file)
        except FaultError as e:
            self.losses.lose(e, record.where)
            return
        kind = record.file.kind if known is None else known.kind.name
        theirs, fd = look.lines, str(record.fd)
        try:
            # Some kinds yield a line in parts.
            ours = tuple(b"".join(own_lines(record)).splitlines(keepends=True))
        except LookupError as e:
            self._left_out.add(f"fdinfo of {e}" if known else f"fdinfo of {kind}: {e}")
            return
        except FaultError as e:
            self.losses.lose(e, record.where)
            return
        self.result.fields += len(theirs)
        later = theirs if then is None else then.lines
        if len(theirs) != len(ours) or len(theirs) != len(later):
            moved = theirs != later
            if moved or theirs != ours:
                self._tell(Mismatch(name, fd, "fdinfo", _shown(theirs), _shown(ours)), moved=moved)
            return
        for line, mine, after in zip(theirs, ours, later):
            column, _, value = line.rstrip(b"\n").partition(b":")
            shown = column.decode("ascii", "backslashreplace")
            how = fd_how(kind, shown)
            if line == mine or (how is How.DOWN and self._counted_down(line, mine)):
                continue
            moved = line != after or self._may_have_changed(how, line)
            mine = mine.rstrip(b"\n").removeprefix(column + b":")
            self._tell(Mismatch(name, fd, shown, escape(value), escape(mine)), moved=moved)

    def _counted_down(self, line: bytes, mine: bytes) -> bool:
        """Tell whether *mine* has the rest of a timer that *line* had when it was saved."""
        if self._live or self._elapsed_s is None:
            return False
        passed = _timespec(line) - _timespec(mine)
        return self._elapsed_s - TOLERANCE_S <= passed <= self._elapsed_s + _SAVING_S

    def _may_have_changed(self, how: How | None, line: bytes) -> bool:
        """Tell whether a line of fdinfo may have changed since procfs was saved."""
        if self._live or how is None:
            return False
        # A timer that has expired may have been set again.
        latest = (self._elapsed_s or 0) + _SAVING_S
        return how is not How.DOWN or self._elapsed_s is None or _timespec(line) <= latest


def _by_traffic(how: How | None, value: str, mine: str | None) -> bool:
    """Tell whether a column may differ because programs have sent or read data since."""
    return how is How.USED or (how is How.GROWS and mine is not None and int(mine) > int(value))


def _timespec(line: bytes) -> float:
    """Seconds of ``it_value: (3512, 381459835)``; 0 for a line of another form."""
    match = _TIMESPEC.search(line)
    return int(match[1]) + int(match[2]) / 1e9 if match else 0


def _shown(lines: Iterable[bytes]) -> str:
    return escape(b"".join(lines).rstrip(b"\n")) or "no lines of its own"


def _fd_value(look: FdLook, column: str) -> str | None:
    if column == "name":
        return None if look.name is None else escape(look.name)
    return (look.info or {}).get(column)


def _fd_fields(look: FdLook, record: FdRecord, losses: Losses) -> Iterator[tuple[str, str, str]]:
    """(column, what procfs says, what memory says) of an fd, as far as it can be read."""
    file = record.file
    assert file is not None
    ours: dict[str, Callable[[], str]] = {
        "name": lambda: "-" if file.name is None else escape(file.name),
        "pos": lambda: str(file.pos),
        "flags": lambda: f"0{record.flags or 0:o}",
        "mnt_id": lambda: str(file.mnt_id),
        "ino": lambda: str(file.ino),
    }
    for column, mine in ours.items():
        value = _fd_value(look, column)
        if value is not None:
            try:
                yield column, value, mine()
            except FaultError as e:
                losses.lose(e, record.where)


def _label(file: str, row: Row) -> str:
    if file != "unix" and "local_address" not in row:
        return " ".join(_key(file, row, by_address=False))
    if file == "unix":
        path = escape(row["Path"].encode("latin-1").lstrip(b" "))
        # A socket that is not accepted yet, or is being closed, has no inode.
        ident = f"inode {row['Inode']}" if row["Inode"] != "0" else f"sk {row['pointer']}"
        return f"{ident} {path}".rstrip()
    return f"{row['local_address']} {row['rem_address']} inode {row['inode']}"


def check_live(prog: Program, root: str = "/proc", losses: Losses | None = None) -> Result:
    """
    Compare the running kernel's memory with its procfs.

    :param losses: Takes what cannot be read.
    """
    tree = ProcTree(root)
    memory = look_at_memory(prog)
    before = look_at_procfs(tree, memory)
    looks = _Looks(prog, tree)
    result = looks.look(before, None)
    # The next looks are at those places only that differed, or could not be read.
    for i in range(1, _TRIES):
        only = looks.doubtful()
        if only is not None and not only:
            break
        # Each pause is a little longer, so that the looks fall out of step with periodic changes.
        time.sleep(i * 0.07)
        again = looks.look(looks.before, only)
        result.moved += again.moved
    result.moved += [m for m in result.mismatches if m not in looks.lasting]
    result.mismatches = [m for m in result.mismatches if m in looks.lasting]
    if losses is not None:
        losses.take(looks.lost)
    return result


class _Looks:
    """
    Looks at the running kernel: what differs in all of them is a mismatch, and what cannot be read
    in any of them is lost.
    """

    def __init__(self, prog: Program, tree: ProcTree) -> None:
        self._prog = prog
        self._tree = tree
        self._number = 0
        self.lasting: dict[Mismatch, Place] = {}
        #: What could not be read, so far in all looks.
        self.lost: dict[str, bool] = {}
        # The lines of "lost" that are about a file table, with that table.
        self._of_tables: dict[str, Table] = {}
        #: The last look at procfs.
        self.before = Look()

    def look(self, before: Look, only: Collection[Place] | None) -> Result:
        """
        Look once more.

        :param before: An earlier look at procfs.
        :param only: Look at these alone.
        """
        losses = Losses()
        memory = look_at_memory(self._prog, losses, only)
        after = look_at_procfs(self._tree, memory, only)
        comparison = Comparison(None, live=True, losses=losses)
        result = comparison.compare(_narrowed(before, only), memory, after)
        of_tables = {}
        for lost in (memory.lost, comparison.lost):
            for table, some in lost.items():
                of_tables.update(dict.fromkeys(some.sent(), table))
        found = {m: comparison.places[m.where] for m in result.mismatches}
        said = losses.sent()
        if not self._number:
            self.lasting, self.lost = found, dict(said)
        else:
            self.lasting = {m: place for m, place in self.lasting.items() if m in found}
            self.lost = {line: is_loss for line, is_loss in self.lost.items() if line in said}
        self._of_tables = of_tables
        self._number += 1
        self.before = after
        return result

    def doubtful(self) -> set[Place] | None:
        """Get the places that the next look has to read; ``None`` means that it reads all."""
        places = set(self.lasting.values())
        if self._number < LOOKS:
            for line, is_loss in self.lost.items():
                if is_loss and line not in self._of_tables:
                    return None
                if is_loss:
                    places.add(self._of_tables[line])
        return places


def _narrowed(look: Look, only: Collection[Place] | None) -> Look:
    """A look without all but some places."""
    if only is None:
        return look
    return replace(
        look,
        net={key: rows for key, rows in look.net.items() if key in only},
        text={key: text for key, text in look.text.items() if key in only},
        fds={key: fds for key, fds in look.fds.items() if key in only},
        missing=[],
    )
