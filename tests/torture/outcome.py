# SPDX-License-Identifier: LGPL-2.1-or-later
"""What became of a command on damaged memory, beside what it says of the sound core."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import NamedTuple

from .commands import TRACEBACK, Run

SAME = "same"
NOTICED = "noticed"
UNNAMED = "noticed, not named"
LOST = "rows lost silently"
CHANGED = "field changed silently"
STATUS = "status 0 with an unreadable row"
BROKEN = "traceback"
HANG = "hang"
MEMORY = "over 1 GB"
#: In the order of the table.
CLASSES = (SAME, NOTICED, UNNAMED, CHANGED, LOST, STATUS, BROKEN, HANG, MEMORY)

#: Those that must not be, whatever the fault is.
BAD = {BROKEN, HANG, MEMORY}

#: Why no reader could notice a fault by which a field or a row went, by the first words of the
#: fault. For missing pages and pointers to no memory there is no reason.
REASONS = {
    "bytes": "a text or an address that memory has once: any other is as good",
    "count": "a number that memory has once: any other is as good",
    "link": "the link leads to what reads as such a structure",
    "object": "what is there reads as another such structure, or as an empty one",
    "page zeroed": "a page of zeros reads as empty structures",
    "pointer NULL": "NULL is a value that this pointer has",
    "pointer": "the pointer leads to what reads as such a structure",
}


def reason(fault: str) -> str | None:
    """Why nothing told of a fault of this kind."""
    if fault in ("page missing", "pointer to no memory"):
        return None
    return REASONS.get(fault) or REASONS.get(fault.partition(" ")[0])


#: Bytes that a command may take beside what the program has when it is opened.
LIMIT = 1 << 30

_UNREADABLE = re.compile(r"cannot be read|unreadable")
# A message that says which structure or list it is about.
_NAMED = re.compile(
    r"\b(struct|union) \w+|\b(list|table|tree|array|chain|bucket|hash|queue|bitmap|namespaces?"
    r"|xarray|IDR|rhashtable|mismatch\w*|VMCOREINFO|BTF|kallsyms|page tables?|cut short)\b"
    r"|not of the kernel|pid \d+ fd \d+|no process|no such|\w+_(ops|hash|table|list|head)\b"
)
_ADDRESS = re.compile(r"\b(?:0x)?(ff[0-9a-f]{14})\b")
_TYPES = "drgn-sockets: types from the kernel's own BTF, symbols from its kallsyms"
_COMPARED = re.compile(r"^(\d+) rows, (\d+) fields compared", re.MULTILINE)


class Done(NamedTuple):
    """What a command came to."""

    #: Exit status; of a process that a signal ended, less than 0.
    status: int
    out: str
    err: str
    #: Most memory, bytes beside that of the program that was opened.
    memory: int = 0
    seconds: float = 0


class Outcome(NamedTuple):
    """A class, and what it was seen by."""

    kind: str
    detail: str


def _rows(run: Run, out: str) -> dict[str, str]:
    found: dict[str, str] = {}
    count: Counter[str] = Counter()
    for line in out.splitlines():
        if run.key:
            row = json.loads(line)
            # lsof's column FD has the access mode behind the number.
            key = re.sub(r"(?<=\d)[a-z]+$", "", " ".join(str(row.get(name)) for name in run.key))
        elif run.name.startswith("procfs"):
            # The number of the line is no news if another line is gone.
            line = re.sub(r"^ *\d+:", "", line)
            address = _ADDRESS.search(line)
            key = address[1] if address else line
        elif run.name == "distill":
            # The size of what is packed, and how many of its bytes are 0, is no news.
            fields = line.split()
            key, line = "core", " ".join(fields[2:3])
        else:
            key = line
        count[key] += 1
        found[f"{key} #{count[key]}"] = line
    return found


def judge(run: Run, clean: Done, done: Done) -> Outcome:
    """Say which class it is."""
    if done.status < 0:
        return Outcome(HANG if done.status in (-14, -24, -9) else BROKEN, f"signal {-done.status}")
    if done.status == TRACEBACK or "Traceback (most recent" in done.err:
        lines = done.err.strip().splitlines()
        if "MemoryError" in done.err:
            return Outcome(MEMORY, lines[-1])
        return Outcome(BROKEN, lines[-1] if lines else "")
    if done.memory > LIMIT:
        return Outcome(MEMORY, f"{done.memory >> 20} MB")
    known = set(clean.err.splitlines()) | {_TYPES}
    told = [line for line in done.err.splitlines() if line not in known]
    if done.status == 2 or told or (done.status and run.name.startswith("check")):
        text = "\n".join(told) + (done.out if run.name.startswith("check") else "")
        if done.status == 0:
            return Outcome(STATUS, text[:200])
        return Outcome(NOTICED if _NAMED.search(text) else UNNAMED, (told or [""])[0][:200])
    try:
        before, after = _rows(run, clean.out), _rows(run, done.out)
    except ValueError:
        return Outcome(BROKEN, "a line that is not JSON")
    if run.name.startswith("check"):
        was, now = (_COMPARED.search(done_.out) for done_ in (clean, done))
        assert was is not None
        if now is None or int(now[1]) < int(was[1]):
            return Outcome(LOST, f"{now[1] if now else 0} of {was[1]} rows compared")
        return Outcome(SAME, "")
    lost = [key for key in before if key not in after]
    extra = [key for key in after if key not in before]
    changed = [key for key in before if after.get(key, before[key]) != before[key]]
    new = [after[key] for key in (*extra, *changed)]
    if any(_UNREADABLE.search(row) for row in new):
        return Outcome(NOTICED if done.status else STATUS, new[0][:200])
    if done.status != clean.status:
        return Outcome(UNNAMED, f"status {done.status}, and no message")
    if len(after) < len(before) or (lost and run.key):
        return Outcome(LOST, f"{len(lost)} rows, as {before[lost[0]][:150]}")
    if lost or extra or changed:
        key = (changed or lost or extra)[0]
        return Outcome(CHANGED, _difference(run, before.get(key, ""), (new or [""])[0]))
    return Outcome(SAME, "")


def _difference(run: Run, before: str, after: str) -> str:
    if run.key and before and after:
        old, new = json.loads(before), json.loads(after)
        names = [name for name in new if old.get(name) != new[name]]
        return "; ".join(f"{name}: {old.get(name)!r} -> {new[name]!r}" for name in names)[:200]
    return f"{before[:120]} -> {after[:120]}"
