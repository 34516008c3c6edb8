# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Comparing a core with the procfs that was saved before it.

Neither of the two changes, so one file of ``net``, or one part of a file table, is compared at a
time. On a machine with very many sockets that takes much less memory than holding all rows.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator
from dataclasses import replace

from drgn import FaultError, Program

from drgn_sockets.check.compare import (
    Comparison,
    Memory,
    Mismatch,
    Result,
    Table,
    fds_in_memory,
    fds_of,
    find_fds,
    look_around,
    net_in_memory,
    no_places,
    order_of,
    read_net,
    where,
)
from drgn_sockets.check.procfs import Look, ProcTree
from drgn_sockets.kernel.task import Tasks
from drgn_sockets.kernel.timekeeping import clock
from drgn_sockets.records.fd import FdRecord
from drgn_sockets.records.losses import Losses
from drgn_sockets.views.procfs import Looker

# So many fds are compared at a time.
_FDS = 4096
# These files count sockets of all other files, so they are judged after them: by then it is known
# how many timers may have fired.
_SUMS = ("sockstat", "protocols")


def check_saved(prog: Program, root: str, losses: Losses) -> Result:
    """
    Compare a core (or a live kernel) with a directory laid out as ``/proc`` is.

    :param losses: Takes what cannot be read.
    """
    tree = ProcTree(root)
    saved_s = tree.uptime_s()
    elapsed_s = None
    if saved_s is not None:
        try:
            elapsed_s = max(clock(prog).uptime_s() - saved_s, 0)
        except LookupError:
            pass
        except FaultError as e:
            losses.lose(e, "time")
    return _Saved(prog, tree, elapsed_s, losses).run()


class _Saved:
    """One comparison in pieces; its result has the order that a comparison of all at once has."""

    def __init__(
        self, prog: Program, tree: ProcTree, elapsed_s: float | None, losses: Losses
    ) -> None:
        self._prog = prog
        self._losses = losses
        self._tree = tree
        self._comparison = Comparison(elapsed_s, live=False, losses=losses)
        self._result = self._comparison.result
        self._tasks = Tasks(prog, losses.lose)
        # Shared context; each comparison adds one file to it.
        self._memory = look_around(prog, self._tasks, losses, net={}, fds={})
        self._saved = Look()

    def run(self) -> Result:
        """Compare."""
        self._net()
        self._fds()
        self._comparison.finish(self._saved, self._memory)
        return self._result

    def _net(self) -> None:
        headings: list[Mismatch] = []
        missing = {ino: no_places(self._memory, ino) for ino in self._memory.netns}
        told: dict[tuple[int, str], tuple[list[Mismatch], list[Mismatch]]] = {}
        sums: list[tuple[tuple[int, str], Look, Memory]] = []
        at = Looker(self._prog, losses=self._losses)
        for key, text, rows in net_in_memory(at):
            memory = replace(self._memory, net={key: rows}, text={key: text})
            saved = Look()
            read_net(self._tree, saved, memory, *key)
            missing[key[0]] += saved.missing
            self._saved.broken += saved.broken
            self._comparison.look_over(saved, memory)
            headings += self._take()[0]
            if key in saved.net:
                if key[1].startswith(_SUMS):
                    sums.append((key, saved, memory))
                else:
                    self._comparison.net_of(key, saved, memory)
                    told[key] = self._take()
            # Free these rows before the next file's are read.
            del text, rows, memory, saved
        for key, saved, memory in sums:
            self._comparison.net_of(key, saved, memory)
            told[key] = self._take()
        self._result.mismatches = headings
        for _, (mismatches, moved) in sorted(told.items()):
            self._result.mismatches += mismatches
            self._result.moved += moved
        self._saved.missing = [line for lines in missing.values() for line in lines]

    def _take(self) -> tuple[list[Mismatch], list[Mismatch]]:
        """Take the mismatches, and what moved, since the last call."""
        told = self._result.mismatches, self._result.moved
        self._result.mismatches, self._result.moved = [], []
        return told

    def _fds(self) -> None:
        tables = self._tasks.tables()
        # All keys are there from the beginning, because finish() asks which tables exist.
        here = self._memory.fds
        here.update({(table.pid, table.tid): {} for table in tables})
        in_memory = fds_in_memory(self._prog, tables, self._losses)
        pids = set(self._tree.pids())
        for table in sorted({*here, *((pid, None) for pid in pids)}, key=order_of):
            pid, tid = table
            mine = next(in_memory) if table in here else iter(())
            if pid in pids if tid is None else (pid, None) in self._saved.fds:
                self._table(table, mine)
            else:
                fds_of(mine, self._losses)

    def _table(self, table: Table, records: Iterator[FdRecord]) -> None:
        here, there, losses = self._memory.fds, self._saved.fds, self._losses
        numbers = find_fds(self._tree, self._saved, table, self._memory)
        if numbers is None:
            fds_of(records, losses)
            return
        first = len(self._result.mismatches)
        start, some = 0, None
        while some is None or some:
            some = here[table] = fds_of(itertools.islice(records, _FDS), losses)
            end = bisect.bisect(numbers, max(some), start) if some else len(numbers)
            there[table] = self._tree.some_fds(where(table), numbers[start:end])
            self._comparison.table(table, self._saved, self._memory)
            start = end
        there[table] = {}
        # As in a comparison of all at once, fds that procfs lacks come last.
        self._result.mismatches[first:] = sorted(self._result.mismatches[first:], key=_is_not_there)


def _is_not_there(mismatch: Mismatch) -> bool:
    return not mismatch.field and mismatch.procfs == "not there"
