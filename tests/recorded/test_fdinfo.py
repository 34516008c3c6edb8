# SPDX-License-Identifier: LGPL-2.1-or-later
"""``/proc/PID/fdinfo/N`` of all processes, line by line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from drgn import FaultError

from drgn_sockets.kernel.task import Tasks
from drgn_sockets.kernel.timekeeping import (
    CLOCK_BOOTTIME,
    CLOCK_MONOTONIC,
    CLOCK_REALTIME,
    clock,
    ktime_get,
)
from drgn_sockets.records.fd import FdReader
from drgn_sockets.records.kinds import all_kinds
from drgn_sockets.views.procfs.fdinfo import fdinfo
from drgn_sockets.views.procfs.moments import TOLERANCE_S
from tests import tables

from .conftest import opened
from .machine import Core
from .saved import NO_TYPES, files, of_kind, where, without_moments

#: Kinds that no workload opens, and why.
NOT_OPENED = {"vfio": "wants a device behind an IOMMU"}

#: Kinds that some of the kernels have not, and why.
LACKING = {
    "bpf_token": dict.fromkeys(("5.10", "6.1"), "since 6.9"),
    "dma_buf": dict.fromkeys(("5.10", "6.1"), "without udmabuf"),
    "landlock": {"5.10": "since 5.13"},
    "secretmem": {"5.10": "since 5.14", "6.1": "off unless secretmem.enable"},
}

#: The tables of kinds.
FDINFO = "Kinds of files: fdinfo"
NAMES = "Kinds of files: names as readlink has them"


def opened_on(core: Core) -> set[str]:
    """The kinds of which there must be some."""
    lacking = {kind for kind, kernels in LACKING.items() if core.series in kernels}
    kinds = {"sock", "reg", "dir", "chr", "lnk", *(kind.name for kind in all_kinds())}
    return kinds - NOT_OPENED.keys() - lacking


def tell_what_lacks(table: str, kernel: str) -> None:
    """A row for kinds that this kernel has not, with the reason."""
    for kind, kernels in LACKING.items():
        if kernel in kernels:
            tables.note(table, kind, kernel, 0, 0, excepted=f"{kernel}: {kernels[kernel]}")
    for kind, reason in NOT_OPENED.items():
        tables.note(table, kind, kernel, 0, 0, excepted=reason)


def test_fdinfo_is_equal(kernel: str) -> None:
    core = opened(kernel, "elf")
    wrong = []
    kinds: set[str] = set()
    for record, expected in files(core):
        kind = of_kind(record)
        kinds.add(kind)
        try:
            text = b"".join(fdinfo(record))
        except (FaultError, LookupError) as e:
            text = str(e).encode()
        if b"types of modules" in text:
            assert (kernel, kind) in NO_TYPES
            tables.note(FDINFO, kind, kernel, 1, 0, excepted="5.10 has no types of modules")
            continue
        equal = without_moments(kind, text) == without_moments(kind, expected)
        tables.note(FDINFO, kind, kernel, 1, equal)
        if not equal:
            wrong.append(f"{record.table.pid}:{record.fd} {kind}\n{expected!r}\n{text!r}")
    tell_what_lacks(FDINFO, kernel)
    assert not wrong, f"{len(wrong)}\n" + "\n".join(wrong[:40])
    # Those and no others: a kind that a kernel has after all does not lack.
    known = {kind.name for kind in all_kinds()}
    assert known & kinds == known & opened_on(core)
    assert kinds >= opened_on(core)


def test_names_are_equal(kernel: str) -> None:
    core = opened(kernel, "elf")
    wrong = []
    for record in FdReader(core.prog).read(Tasks(core.prog).tables()):
        if record.fd is None or record.file is None:
            continue
        link = where(core, record) / "fd" / str(record.fd)
        if not link.is_symlink():
            continue
        theirs = os.readlink(os.fsencode(link))  # noqa: PTH115
        equal = record.file.name == theirs
        tables.note(NAMES, of_kind(record), kernel, 1, equal)
        if not equal:
            wrong.append(f"{record.table.pid}:{record.fd} {theirs!r} {record.file.name!r}")
    tell_what_lacks(NAMES, kernel)
    assert not wrong, f"{len(wrong)}\n" + "\n".join(wrong[:40])


IT_VALUE = re.compile(rb"^it_value: \((\d+), (\d+)\)$", re.M)


def seconds(text: bytes) -> float:
    match = IT_VALUE.search(text)
    assert match is not None
    return int(match[1]) + int(match[2]) / 1e9


def test_timers_are_of_one_moment(kernel: str) -> None:
    """All have gone on by the same time, which is that between the saving and the core."""
    core = opened(kernel, "elf")
    passed = []
    for record, text in files(core):
        if of_kind(record) == "timerfd":
            saved_s, ours_s = seconds(text), seconds(b"".join(fdinfo(record)))
            # None that is not set, or may have expired since.
            if saved_s > 300:
                passed.append(saved_s - ours_s)
    assert len(passed) >= 3
    assert max(passed) - min(passed) < TOLERANCE_S
    since, until = (now_s(core) - core.manifest[name] for name in ("time", "finished"))
    assert until - TOLERANCE_S < min(passed) <= max(passed) < since + TOLERANCE_S


def now_s(core: Core) -> float:
    """When the machine was stopped, s since 1970."""
    return ktime_get(core.prog, CLOCK_REALTIME) / 1e9


def test_clocks(elf: Core) -> None:
    """It was stopped soon after all was saved."""
    assert 0 < now_s(elf) - elf.manifest["finished"] < 60
    # No machine was suspended, and jiffies are a little coarser.
    monotonic, boot = (ktime_get(elf.prog, c) / 1e9 for c in (CLOCK_MONOTONIC, CLOCK_BOOTTIME))
    assert monotonic == boot
    assert abs(monotonic - clock(elf.prog).uptime_s()) < 0.5


# Columns, against what the workload says of itself.


def zoo(core: Core, kind: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What fd_zoo says of each fd of a kind, and our row of it."""
    rows = {(row["pid"], row["fd"]): row for row in core.rows("fds")}
    for process in core.accounts["fd_zoo"]["processes"]:
        for entry in process["fds"]:
            if entry["kind"] == kind:
                yield entry, rows[process["pid"], entry["fd"]]


def test_eventfds(elf: Core) -> None:
    found = list(zoo(elf, "eventfd"))
    assert len(found) == 30
    for entry, row in found:
        assert row["eventfd.count"] == entry["detail"]["count"]
        assert row["eventfd.semaphore"] == entry["detail"]["semaphore"]
    assert len({row["eventfd.id"] for _, row in found}) == 30


def test_targets_of_epoll(elf: Core) -> None:
    inodes = {entry["fd"]: entry["inode"] for entry, _ in zoo(elf, "eventfd")}
    found = list(zoo(elf, "eventpoll"))
    assert len(found) == 3
    for entry, row in found:
        assert row["eventpoll.tfds"] == sorted(entry["detail"]["targets"])
        for target in row["eventpoll.targets"]:
            assert target["ino"] == inodes.get(target["tfd"], target["ino"])
            # Python keeps the fd in the lower half.
            assert int(target["data"], 16) & 0xFFFFFFFF == target["tfd"]


def test_timers(elf: Core) -> None:
    names = {0: "realtime", 1: "monotonic", 7: "boottime"}
    found = list(zoo(elf, "timerfd"))
    assert len(found) == 3
    for entry, row in found:
        assert row["timerfd.clockid"] == names[entry["detail"]["clockid"]]
        assert row["timerfd.interval"] == entry["detail"]["interval_s"]
        # Set to an hour when the workload started.
        passed = now_s(elf) - elf.accounts["fd_zoo"]["started"]
        assert abs(3600 - passed - row["timerfd.remaining"]) < 1


def test_signals(elf: Core) -> None:
    [(entry, row)] = zoo(elf, "signalfd")
    assert row["signalfd.mask"] == ["USR1", "WINCH"]
    assert entry["detail"]["sigmask"] == "0000000008000200"


def test_watches(elf: Core) -> None:
    [(entry, row)] = zoo(elf, "inotify")
    detail, dev = entry["detail"], entry["detail"]["dev"]
    raw = f"{detail['inode']}@{os.major(dev)}:{os.minor(dev)}"
    assert len(row["inotify.watches"]) == len(row["inotify.inodes"]) == detail["watches"]
    assert raw in row["inotify.inodes.raw"]
    assert f"{detail['inode']}@tmpfs" in row["inotify.inodes"]
    assert {watch["mask"] for watch in row["inotify.watches"]} == {"0x100"}


def test_fanotify(elf: Core) -> None:
    [(_, row)] = zoo(elf, "fanotify")
    [regular] = {e["inode"] for e, _ in zoo(elf, "file") if (e["name"] or "").endswith("/regular")}
    assert row["fanotify.marks"] == [f"{regular}@tmpfs"]
    assert row["fanotify.masks"][0]["mask"] == "0x8"


def test_pidfds(elf: Core) -> None:
    commands = {row["pid"]: row["command"] for row in elf.rows("fds")}
    found = list(zoo(elf, "pidfd"))
    assert len(found) == 2
    for entry, row in found:
        assert row["pidfd.pid"] == entry["detail"]["pid"]
        assert row["pidfd.comm"] == commands[row["pidfd.pid"]]


def test_terminals(elf: Core) -> None:
    char = list(zoo(elf, "char"))
    [(master, row)] = [(e, r) for e, r in char if "slave" in (e.get("detail") or {})]
    assert row["ptmx.slave"] == master["detail"]["slave"]
    slaves = [r for e, r in char if e["name"] == row["ptmx.slave"]]
    assert len(slaves) == 2
    assert {r["tty.name"] for r in slaves} == {f"pts{row['ptmx.tty_index']}"}


def test_locks(elf: Core) -> None:
    """Those that a workload took, and no others."""
    expected = {}
    for process in elf.accounts.get("fd_kinds", {"processes": []})["processes"]:
        for entry in process["fds"]:
            words = [lock_text(lock) for lock in (entry.get("detail") or {}).get("locks", ())]
            if words:
                expected[process["pid"], entry["fd"]] = words
    found = {(row["pid"], row["fd"]): row["lock"] for row in elf.rows("fds") if row["lock"]}
    assert {fd: sorted(locks) for fd, locks in found.items()} == {
        fd: sorted(locks) for fd, locks in expected.items()
    }


def lock_text(lock: dict[str, Any]) -> str:
    text = f"{lock['kind']} {lock['mode']}"
    start, end = lock["start"], lock["end"]
    if start or end is not None:
        text += f" {start}-{'' if end is None else end}"
    return text
