# SPDX-License-Identifier: LGPL-2.1-or-later
"""What lsof and lsfd printed of a recorded machine, taken apart."""

from __future__ import annotations

import collections
import functools
import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from drgn_sockets.views.procfs.pid.moments import stat_fields

from .machine import Core, Row


@functools.lru_cache(None)
def has_no_leader(oracle: Any, pid: int) -> bool:
    """Whether a process has threads, but its first one has exited: lsof leaves that one out."""
    fields = stat_fields((oracle / str(pid) / "stat").read_bytes())
    return fields["state"] == b"Z" and int(fields["num_threads"]) > 1


def ran_then(core: Core, pid: int) -> bool:
    """
    Whether a process was there when procfs was saved, as the tools and who ran them were not,
    and still is.
    """
    was_there = pid not in core.manifest["excluded"] and (core.oracle / str(pid)).exists()
    return was_there and pid not in core.ended


class Entry(NamedTuple):
    """A file of ``lsof -F``."""

    pid: int
    #: How many tasks of the process came before: lsof lists threads too, in their order.
    task: int
    comm: str
    uid: str
    fields: dict[str, str]
    #: Its ``T``.
    state: str | None


def lsof_entries(core: Core) -> Iterator[Entry]:
    tasks: collections.Counter[int] = collections.Counter()
    process: dict[str, str] = {}
    for line in core.tool("lsof-fields").split("\0\n"):
        items = [item for item in line.split("\0") if item]
        fields = {item[0]: item[1:] for item in items}
        if "p" in fields:
            process = fields
            tasks[int(fields["p"])] += 1
        elif "f" in fields:
            states = [item[4:] for item in items if item.startswith("TST=")]
            pid = int(process["p"])
            state = states[0] if states else None
            yield Entry(pid, tasks[pid] - 1, process["c"], process["u"], fields, state)


@functools.lru_cache(None)
def lsfd_rows(oracle: Any) -> list[Row]:
    """What lsfd has of all processes."""
    text = os.fsdecode((oracle / "tools" / "lsfd-json").read_bytes())
    rows: list[Row] = json.loads(text, strict=False)["lsfd"]
    return rows


@functools.lru_cache(None)
def _before(oracle: Any) -> dict[tuple[int, str], Row]:
    rows = lsfd_rows(oracle)
    return {
        (row["pid"], row["assoc"]): previous
        for previous, row in zip(rows, rows[1:])
        if previous["pid"] == row["pid"]
    }


def before(oracle: Any, entry: Row) -> Row:
    """The entry of lsfd before one of the same process; an empty one if there is none."""
    return _before(oracle).get((entry["pid"], entry["assoc"]), {})
