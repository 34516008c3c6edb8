# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``fds --lsof`` and ``fds --maps`` against all that lsof and lsfd say of a whole machine: every
process, every file of it, every column; and back.

What is told otherwise is in :data:`LSOF_EXCEPTIONS` and :data:`LSFD_EXCEPTIONS`, with the reason;
one that is needed nowhere any more is a failure.
"""

from __future__ import annotations

import collections
import functools
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from tests.tables import note

from .conftest import KERNELS, opened
from .machine import Core, Row
from .open_files import Entry, before, lsfd_rows, lsof_entries, ran_then


class Difference(NamedTuple):
    """What we say and what a tool says of a file; ``None`` where one says nothing."""

    column: str
    ours: Any
    theirs: Any
    row: Row | None
    #: Fields of lsof by their letters, or columns of lsfd.
    entry: Row | None
    core: Core


class Exception_(NamedTuple):
    """Why a tool may say something else."""

    reason: str
    is_it: Callable[[Difference], bool]
    #: Whether it takes chance: it may be needed nowhere.
    by_chance: bool = False


class Compared(NamedTuple):
    """What came of a comparison."""

    #: By column, how many were compared and how many equal or excepted.
    counts: dict[str, list[int]]
    wrong: list[Difference]
    used: collections.Counter[str]
    excepted: dict[str, set[str]]
    #: The same by kind of file, of all columns; what is excepted with the column before it.
    kinds: dict[str, list[int]]
    excepted_of: dict[str, set[str]]


def kind_of(row: Row | None) -> str:
    """The kind of a file: that of the columns that only it has, or the column ``kind``."""
    if row is None or "kind" not in row:
        return "unknown"
    own = (name.partition(".")[0] for name, value in row.items() if "." in name and value)
    return next(own, row["kind"])


class Comparison:
    def __init__(self, core: Core, exceptions: tuple[Exception_, ...]) -> None:
        self._core = core
        self._exceptions = exceptions
        self.result = Compared({}, [], collections.Counter(), {}, {}, {})

    def compare(
        self, column: str, ours: Any, theirs: Any, row: Row | None, entry: Row | None
    ) -> None:
        counts = self.result.counts.setdefault(column, [0, 0])
        kind = kind_of(row)
        counts_of = self.result.kinds.setdefault(kind, [0, 0])
        if ours != theirs:
            difference = Difference(column, ours, theirs, row, entry, self._core)
            for exception in self._exceptions:
                if exception.is_it(difference):
                    self.result.used[exception.reason] += 1
                    self.result.excepted.setdefault(column, set()).add(exception.reason)
                    told = f"{column}: {exception.reason}"
                    self.result.excepted_of.setdefault(kind, set()).add(told)
                    return
            self.result.wrong.append(difference)
        else:
            counts[1] += 1
            counts_of[1] += 1
        counts[0] += 1
        counts_of[0] += 1


# lsof


_SHORT = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 92: "\\\\"}


def as_lsof_prints(name: str | None) -> str | None:
    """A name with what does not print written as ``safestrprt()`` of lsof does."""
    if name is None:
        return None

    def character(byte: int) -> str:
        if byte in _SHORT:
            return _SHORT[byte]
        if byte < 0x20:
            return f"^{chr(byte + 0x40)}"
        return chr(byte) if byte < 0x7F else f"\\x{byte:02x}"

    return "".join(map(character, os.fsencode(name)))


@functools.lru_cache(None)
def home_inodes(oracle: Any) -> frozenset[int]:
    """Sockets that ``/proc/net`` of the tools' network namespace has."""
    inodes: set[int] = set()
    files = {"unix": 6, "netlink": 9, "packet": 8}
    files.update(dict.fromkeys(("tcp", "tcp6", "udp", "udp6", "udplite", "udplite6"), 9))
    files.update(dict.fromkeys(("raw", "raw6", "icmp"), 9))
    for name, column in files.items():
        path = oracle / "net" / name
        if path.exists():
            for line in path.read_bytes().split(b"\n")[1:]:
                words = line.split()
                if len(words) > column and words[column].isdigit():
                    inodes.add(int(words[column]))
    return frozenset(inodes)


@functools.lru_cache(None)
def protocols(oracle: Any) -> dict[tuple[int, str], str]:
    """By process and fd, the protocol of a socket as lsfd has it."""
    return {
        (row["pid"], row["assoc"]): row["protoname"]
        for row in lsfd_rows(oracle)
        if row["protoname"]
    }


def _protocol(d: Difference) -> str:
    if d.row is None or d.entry is None:
        return ""
    return protocols(d.core.oracle).get((d.row["pid"], d.entry["f"]), "")


def _is_elsewhere(d: Difference) -> bool:
    if d.entry is None or d.entry["t"] != "sock" or "protocol: " not in d.entry["n"]:
        return False
    return int(d.entry["i"]) not in home_inodes(d.core.oracle)


def _has(d: Difference, **fields: str) -> bool:
    return d.entry is not None and all(d.entry.get(k) == v for k, v in fields.items())


def _is_cut(d: Difference) -> bool:
    """Of the name of a unix socket there is what comes before white space."""
    if d.column != "NAME" or not _has(d, t="unix") or d.ours is None:
        return False
    match = re.fullmatch(r"(.*)(type=\w+ \(\w+\))", d.row["name"] if d.row else "", re.DOTALL)
    if match is None:
        return False
    words = match[1].split()
    return bool(words) and as_lsof_prints(f"{words[0]} {match[2]}") == d.theirs


#: What lsof adds to the name of something mapped that it does not find.
NO_PATH = " (stat: No such file or directory)"


def without_path(name: str) -> str:
    """The name of something mapped, as lsof has that of an fd."""
    # A newline is escaped by procfs, and the backslash by lsof.
    name = name.replace(r"\\012", "\n")
    return name.replace(NO_PATH, "").replace("anon_inode:", "")


LSOF_EXCEPTIONS = (
    Exception_(
        "lsof looks for what is mapped by its name, and takes it for a file if there is none",
        lambda d: (
            d.column in ("NAME", "TYPE")
            and d.entry is not None
            and d.entry["n"].endswith(NO_PATH)
            and (d.column == "TYPE" or d.ours == without_path(d.theirs))
        ),
    ),
    Exception_(
        "a newline in the name of something mapped is \\012, as in /proc/PID/maps",
        lambda d: (
            d.column == "NAME"
            and d.row is not None
            and r"\\012" in d.theirs
            and d.row["name"] == without_path(d.theirs)
        ),
    ),
    Exception_(
        "lsof takes the user of a thread for that of its process",
        lambda d: (
            d.column == "USER"
            and d.row is not None
            and d.row["tid"] is not None
            and d.row["tid"] != d.row["pid"]
        ),
    ),
    Exception_(
        "kernel threads and zombies execute nothing: lsof has rows that say unknown",
        lambda d: d.column == "row" and d.row is None and _has(d, t="unknown"),
    ),
    Exception_(
        "lsof reads /proc/net of its own network namespace only",
        lambda d: d.column in ("TYPE", "DEVICE", "NODE", "NAME") and _is_elsewhere(d),
    ),
    Exception_(
        "lsof takes an MPTCP socket for one of its subflows",
        lambda d: (
            d.column == "NAME"
            and _protocol(d).startswith("MPTCP")
            and _has(d, P="TCP")
            and str(d.ours).rpartition(" ")[0].count("->") == d.theirs.count("->")
        ),
    ),
    Exception_(
        "SCTP: lsof has addresses of kernel structures, and lists of all addresses",
        lambda d: (
            d.column == "NAME"
            and _has(d, t="sock", P="SCTP")
            and d.theirs.startswith(("ASSOC", "ENDPT"))
        ),
    ),
    Exception_("names of unix sockets end where there is white space in /proc/net/unix", _is_cut),
    Exception_(
        "lsof writes u for access mode 3 and for O_PATH, for which there are no letters",
        lambda d: d.column == "FD" and (d.ours, d.theirs) == ("", "u"),
    ),
    Exception_(
        "lsof takes the file of a unix socket that is open with O_PATH for a socket",
        lambda d: (
            d.column == "NAME"
            and (d.theirs == "can't identify protocol" or d.theirs.startswith("protocol: "))
            and protocols(d.core.oracle).get((d.row["pid"], d.entry["f"])) is None
            if d.row and d.entry
            else False
        ),
    ),
    Exception_(
        "a name that is too long for readlink()",
        lambda d: (
            d.column in ("FD", "TYPE", "NAME", "DEVICE", "NODE")
            and _has(d, t="unknown")
            and "(readlink: File name too long)" in str(d.entry and d.entry["n"])
        ),
    ),
)


@functools.lru_cache(None)
def lsof_compared(kernel: str) -> Compared:
    core = opened(kernel, "elf")
    comparison = Comparison(core, LSOF_EXCEPTIONS)
    by_file: dict[tuple[int, int | None, str], list[Row]] = collections.defaultdict(list)
    tids: dict[int, list[int]] = collections.defaultdict(list)
    for row in core.rows("fds", "--lsof", "--threads"):
        if not ran_then(core, row["pid"]):
            continue
        tid = row["tid"] or row["pid"]
        if tid not in tids[row["pid"]]:
            tids[row["pid"]].append(tid)
        match = re.fullmatch(r"(\d+|[a-zA-Z]+)\D*", row["fd"])
        assert match is not None, row
        by_file[row["pid"], tid, match[1]].append(row)
    for entry in lsof_entries(core):
        if not ran_then(core, entry.pid):
            continue
        fields = entry.fields
        # Threads that have what their process has are left out.
        all_ = sorted(tids[entry.pid])
        tid = all_[entry.task] if entry.task < len(all_) else None
        taken = _take(by_file, entry.pid, tid, fields)
        comparison.compare("row", taken is not None, True, taken, fields)
        if taken is not None:
            _compare_row(comparison, taken, entry)
    seen_tasks = {(e.pid, sorted(tids[e.pid])[e.task]) for e in lsof_entries(core) if tids[e.pid]}
    for (pid, tid, _), rows in by_file.items():
        for row in rows:
            if (pid, tid) in seen_tasks:
                comparison.compare("row", True, False, row, None)
    return comparison.result


def _take(
    by_file: dict[tuple[int, int | None, str], list[Row]],
    pid: int,
    tid: int | None,
    fields: dict[str, str],
) -> Row | None:
    """Our row of a file, each once."""
    fd = fields["f"]
    if fd.startswith("*"):
        # Of long numbers the end is shown.
        tail = fd[1:]
        keys = [
            key
            for key in by_file
            if key[:2] == (pid, tid) and len(key[2]) > 4 and key[2].endswith(tail)
        ]
        key = keys[0] if len(keys) == 1 else (pid, tid, fd)
    else:
        key = (pid, tid, fd)
    rows = by_file.get(key, [])
    for i, row in enumerate(rows):
        # One file each: that of this inode.
        name = without_path(fields["n"])
        if fd not in ("mem", "DEL") or (row["node"], row["name"]) == (fields["i"], name):
            return rows.pop(i)
    return None


def _compare_row(comparison: Comparison, row: Row, entry: Entry) -> None:
    fields = entry.fields

    def compare(column: str, ours: Any, theirs: Any) -> None:
        comparison.compare(column, ours, theirs, row, fields)

    match = re.fullmatch(r"\d+(\D?).*", row["fd"])
    if match is not None:
        compare("FD", match[1], fields["a"].strip())
    compare("TYPE", row["type"], fields["t"])
    if "D" in fields and fields["t"] not in ("CHR", "BLK"):
        device = int(fields["D"], 16)
        compare("DEVICE", row["device"], f"{os.major(device)},{os.minor(device)}")
    if "P" in fields:
        compare("NODE", row["node"], fields["P"])
    elif "i" in fields:
        compare("NODE", row["node"], fields["i"])
    name = fields["n"] + (f" ({entry.state})" if entry.state else "")
    compare("NAME", as_lsof_prints(row["name"]), name)
    compare("USER", row["user"], {"0": "root"}.get(entry.uid, entry.uid))


def test_as_lsof_says(kernel: str) -> None:
    compared = lsof_compared(kernel)
    _tell("lsof -nP -F", kernel, compared)
    assert not compared.wrong, "\n".join(map(_text, compared.wrong[:50]))
    assert compared.counts["row"][0] > 2500


@pytest.mark.kernels(*KERNELS)
def test_every_exception_from_lsof_is_needed() -> None:
    _all_needed(LSOF_EXCEPTIONS, [lsof_compared(kernel) for kernel in KERNELS])


def _all_needed(exceptions: tuple[Exception_, ...], compared: list[Compared]) -> None:
    used = {reason for c in compared for reason in c.used}
    assert [e.reason for e in exceptions if e.reason not in used and not e.by_chance] == []


def _text(d: Difference) -> str:
    where = d.row or d.entry or {}
    who = [where.get(key) for key in ("pid", "tid", "fd", "assoc")]
    return f"{d.column} of {who}: {d.ours!r}, not {d.theirs!r} ({d.entry})"


def _tell_of_kinds(table: str, kernel: str, compared: Compared) -> None:
    """The same by kind of file; of those for which exceptions hold, which."""
    for kind, (total, equal) in compared.kinds.items():
        excepted = "; ".join(sorted(compared.excepted_of.get(kind, ())))
        note(table, kind, kernel, total, equal, excepted=excepted)


def _tell(table: str, kernel: str, compared: Compared) -> None:
    for column, (total, equal) in compared.counts.items():
        excepted = "; ".join(sorted(compared.excepted.get(column, ())))
        note(table, column, kernel, total, equal, excepted=excepted)


# lsfd

#: Namespaces are no files of a process.
NAMESPACES = frozenset(
    ("cgroup", "ipc", "mnt", "net", "pid", "pid4c", "time", "time4c", "user", "uts")
)
#: Our column for one of lsfd, where the name is another.
OURS = {"mode": "xmode", "inode": "ino", "mntid": "mnt_id", "maj:min": "maj_min"}
#: What says whose row it is.
KEYS = ("pid", "tid", "fd", "assoc")


#: What comes of stat().
STAT = ("dev", "inode", "maj:min", "nlink", "partition", "rdev", "size", "source", "type")


@functools.lru_cache(None)
def mount_ns(oracle: Any, pid: int) -> str:
    """The mount namespace of a process."""
    return str((oracle / str(pid) / "ns" / "mnt").readlink())


def _assoc(d: Difference) -> str:
    return d.entry["assoc"] if d.entry is not None else ""


LSFD_EXCEPTIONS = (
    Exception_(
        "lsfd writes 0:0 for what is no device",
        lambda d: d.column == "rdev" and (d.ours, d.theirs) == (None, "0:0"),
    ),
    Exception_(
        "lsfd knows mount IDs and positions of fds only, and writes 0",
        lambda d: d.column in ("mntid", "pos") and not _assoc(d).isdecimal() and d.theirs == 0,
    ),
    Exception_(
        "/dev/net/tun counts the bytes through it, and the keeper sends more",
        lambda d: d.column == "pos" and d.row is not None and d.row["name"] == "/dev/net/tun",
        by_chance=True,
    ),
    Exception_(
        "lsfd puts the protocol into the name of a socket",
        lambda d: (
            d.column == "name"
            and d.entry is not None
            and d.entry["type"] == "SOCK"
            and d.theirs == f"{d.entry['protoname']}:[{d.entry['inode']}]"
            and d.ours == f"socket:[{d.entry['inode']}]"
        ),
    ),
    Exception_(
        "names of kernel threads may be longer than task_struct.comm",
        lambda d: (
            d.column == "command"
            and d.entry is not None
            and d.entry["kthread"]
            and d.theirs.startswith(d.ours)
        ),
    ),
    Exception_(
        "lsfd takes the first driver of a major number, also where minors are of several",
        lambda d: (
            d.column in ("chrdrv", "source")
            and d.entry is not None
            and (d.entry["rdev"], d.entry["chrdrv"]) == ("5:2", "/dev/tty")
            and str(d.ours).startswith("/dev/ptmx")
        ),
    ),
    Exception_(
        "lsfd knows types of file systems that are mounted where it ran",
        lambda d: d.column == "source" and re.fullmatch(r"0:\d+", d.theirs) is not None,
    ),
    Exception_(
        "lsfd 2.38 takes an fd for the one before it if they have one name",
        lambda d: (
            d.column in STAT
            and d.entry is not None
            and before(d.core.oracle, d.entry).get("name") == d.entry["name"]
            and before(d.core.oracle, d.entry)[d.column] == d.theirs
        ),
    ),
    Exception_(
        "lsfd 2.38 does not know pidfs",
        lambda d: (
            d.column == "source" and d.entry is not None and d.entry["name"] == "anon_inode:[pidfd]"
        ),
    ),
    Exception_(
        "procfs makes the size of a directory of fds when it is asked",
        lambda d: (
            d.column == "size"
            and d.entry is not None
            and re.fullmatch(r"/proc/\d+/fd", d.entry["name"]) is not None
        ),
    ),
    Exception_(
        "lsfd 2.38 looks for what is mapped by its name: not what is deleted, of no path, with a "
        "newline in it, or of another mount namespace",
        lambda d: (
            d.column == "row"
            and d.row is not None
            and d.row["maplen"] is not None
            and (
                d.row["name"].startswith("anon_inode:")
                or d.row["name"].endswith(" (deleted)")
                or "\n" in d.row["name"]
                or mount_ns(d.core.oracle, d.row["pid"]) != mount_ns(d.core.oracle, 2)
            )
        ),
    ),
    Exception_(
        "lsfd writes null for a name of no length",
        lambda d: d.column == "command" and (d.ours, d.theirs) == ("", None),
    ),
    Exception_(
        "an overlay tells stat() how many names a file has below it",
        lambda d: (
            d.column in ("deleted", "nlink")
            and d.entry is not None
            and d.entry["source"] == "overlay"
            and d.entry["name"].endswith(" (deleted)")
        ),
    ),
    Exception_(
        "lsfd leaves out an fd with a name too long for readlink()",
        lambda d: d.column == "row" and d.row is not None and len(d.row["name"]) > 4095,
    ),
)


def lsfd_flags(flags: list[str] | None, access: str | None) -> str | None:
    """Flags as lsfd 2.38 has them, in the order of the alphabet."""
    if flags is None:
        return None
    # It knows no O_NOFOLLOW and FASYNC, and of O_SYNC and O_TMPFILE each bit by itself, whatever
    # the others.
    bits = {"sync": {"dsync"}, "tmpfile": {"directory", "_tmpfile"}, "nofollow": set()}
    bits["directory"] = bits["tmpfile"]
    bits["largefile"] = bits["async"] = set()
    words: set[str] = set()
    for flag in flags:
        words |= bits.get(flag.lower(), {flag.lower()})
    words |= {"w": {"wronly"}, "u": {"rdwr"}, "-": {"wronly", "rdwr"}}.get(access or "", set())
    return ",".join(sorted(words)) or None


@functools.lru_cache(None)
def lsfd_compared(kernel: str) -> Compared:
    core = opened(kernel, "elf")
    comparison = Comparison(core, LSFD_EXCEPTIONS)
    ours: dict[tuple[int, str], list[Row]] = collections.defaultdict(list)
    for row in core.rows("fds", "--maps"):
        # lsfd lists processes.
        if row["tid"] is None and ran_then(core, row["pid"]):
            ours[row["pid"], row["assoc"]].append(row)
    for entry in lsfd_rows(core.oracle):
        if entry["assoc"] in NAMESPACES or not ran_then(core, entry["pid"]):
            continue
        rows = ours[entry["pid"], entry["assoc"]]
        # What is mapped is in the order of addresses in both.
        found = [r for r in rows if r["maplen"] is None or _is_mapping(r, entry)]
        comparison.compare("row", bool(found), True, found[0] if found else None, entry)
        if not found:
            continue
        row = found[0]
        rows.remove(row)
        for column, theirs in entry.items():
            if column in KEYS:
                continue
            value = row[OURS.get(column, column)]
            if column == "mode":
                value = value[:3]
            elif column == "flags":
                value = lsfd_flags(value, row["access"])
                theirs = ",".join(sorted(theirs.split(","))) if theirs else None
            comparison.compare(column, value, theirs, row, entry)
    for rows in ours.values():
        for row in rows:
            comparison.compare("row", True, False, row, None)
    return comparison.result


def _is_mapping(row: Row, entry: dict[str, Any]) -> bool:
    return bool((row["ino"], row["pos"]) == (entry["inode"], entry["pos"]))


def test_as_lsfd_says(kernel: str) -> None:
    compared = lsfd_compared(kernel)
    _tell("lsfd", kernel, compared)
    _tell_of_kinds("Kinds of files: columns of lsfd", kernel, compared)
    assert not compared.wrong, "\n".join(map(_text, compared.wrong[:50]))
    assert compared.counts["row"][0] > 5000


@pytest.mark.kernels(*KERNELS)
def test_every_exception_from_lsfd_is_needed() -> None:
    _all_needed(LSFD_EXCEPTIONS, [lsfd_compared(kernel) for kernel in KERNELS])
