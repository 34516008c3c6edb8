# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Lists of which one entry is damaged: it costs that entry and no other, in columns and in fdinfo.

What is expected is what was there before the damage, in the same core.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from drgn import FaultError, Object

from drgn_sockets.kernel.locks import FileLock
from drgn_sockets.kernel.lost import Lost, sift
from drgn_sockets.records.fd import FdReader, FdRecord
from drgn_sockets.records.kinds import known_of
from drgn_sockets.records.locks import locks_of
from drgn_sockets.text import LOST
from drgn_sockets.views.procfs.fdinfo import own_lines

from .patient import UNMAPPED, Patient, member, tables, word

Change = tuple[int, bytes]


def records(patient: Patient) -> list[FdRecord]:
    """Fds of ``fd_kinds``, read anew."""
    pids = [process["pid"] for process in patient.core.accounts["fd_kinds"]["processes"]]
    return list(FdReader(patient.prog).read(t for pid in pids for t in tables(patient, pid)))


def one(patient: Patient, kind: str, is_it: Callable[[Any], bool]) -> FdRecord:
    """The first of a kind that has what is wanted."""
    for record in records(patient):
        known = known_of(record.file) if record.file is not None else None
        if known is not None and known.kind.name == kind and known.it and is_it(known.it):
            return record
    pytest.skip(f"this kernel has no such {kind}")


def it_of(record: FdRecord) -> Any:
    assert record.file is not None
    known = known_of(record.file)
    assert known is not None
    return known.it


def again(patient: Patient, before: FdRecord) -> FdRecord:
    key = before.table.pid, before.fd
    return next(r for r in records(patient) if (r.table.pid, r.fd) == key)


def column(record: FdRecord, name: str) -> Any:
    assert record.file is not None
    known = known_of(record.file)
    assert known is not None and known.error is None
    return next(field.get(known.it) for field in known.kind.fields if field.name == name)


def lines(record: FdRecord) -> tuple[list[bytes], str | None]:
    """Of fdinfo, and what is told in the end."""
    found = []
    try:
        for line in own_lines(record):
            found.append(line)
    except FaultError as e:
        return found, str(e)
    return found, None


def loses_one(patient: Patient, record: FdRecord, name: str, *changes: Change) -> list[Any]:
    """One entry of a column cannot be read, and one line is missing; the entry in its place."""
    before, before_lines = column(record, name), lines(record)[0]
    with patient.damaged(*changes):
        after = again(patient, record)
        entries, (after_lines, error) = column(after, name), lines(after)
        row = next(
            row
            for row in patient.rows("fds", "--output=fd,detail", str(record.table.pid))[1]
            if row["fd"] == record.fd
        )
    assert row["detail"] is None or not row["detail"].startswith("unreadable")
    lost = [entry for entry in entries if _is_lost(entry)]
    assert len(lost) == 1
    assert all(entry in before for entry in entries if entry not in lost)
    assert len(before) - 1 <= len(entries) <= len(before)
    assert error is not None and "more" not in error
    assert set(after_lines) < set(before_lines) and len(after_lines) == len(before_lines) - 1
    return lost


def _is_lost(entry: object) -> bool:
    values = entry.values() if isinstance(entry, dict) else [entry]
    return any(isinstance(value, Lost) or str(value).endswith(LOST) for value in values)


def epoll(patient: Patient) -> FdRecord:
    return one(patient, "eventpoll", lambda it: len(it.targets) > 2)


def test_a_target_of_epoll_whose_file_is_none(patient: Patient) -> None:
    record = epoll(patient)
    item = it_of(record).targets[1].item
    epitem = Object(patient.prog, "struct epitem *", item.address)
    change = member(epitem, "ffd.file"), word(UNMAPPED)
    [target] = loses_one(patient, record, "targets", change)
    assert target["tfd"] == item.fd and target["events"] == f"{item.events:#x}"
    with patient.damaged(change):
        # Its number is known.
        assert column(again(patient, record), "tfds") == column(record, "tfds")


@pytest.mark.parametrize("to", [UNMAPPED, 16])
def test_a_tree_of_targets_with_a_broken_branch(patient: Patient, to: int) -> None:
    record = epoll(patient)
    assert record.file is not None
    ep = Object(patient.prog, "struct eventpoll *", record.file.private_data)
    root = ep.rbr.rb_root.rb_node
    loses_one(patient, record, "tfds", (member(root, "rb_left"), word(to)))


def mark_of(patient: Patient, watch: Any) -> Object:
    watched = getattr(watch, "watched", watch)
    return Object(patient.prog, "struct fsnotify_mark *", watched.mark.address)


@pytest.mark.parametrize(("kind", "name"), [("inotify", "inodes"), ("fanotify", "marks")])
def test_a_mark_that_is_at_nothing(patient: Patient, kind: str, name: str) -> None:
    record = one(patient, kind, lambda it: len(_entries(it)) > 1)
    mark = mark_of(patient, _entries(it_of(record))[1])
    loses_one(patient, record, name, (member(mark, "connector"), word(UNMAPPED)))


def _entries(it: Any) -> list[Any]:
    found: list[Any] = it.watches if hasattr(it, "watches") else it.watched
    return found


@pytest.mark.parametrize("other", [UNMAPPED, UNMAPPED + 64])
def test_a_list_of_marks_is_walked_from_both_ends(patient: Patient, other: int) -> None:
    record = one(patient, "inotify", lambda it: len(it.watches) > 4)
    second, fourth = (mark_of(patient, it_of(record).watches[i]) for i in (1, 3))
    forward = member(second, "g_list.next"), word(UNMAPPED)
    backward = member(fourth, "g_list.prev"), word(other)
    before, text = column(record, "inodes"), lines(record)
    with patient.damaged(forward):
        after = again(patient, record)
        assert column(after, "inodes") == before and lines(after) == text
    with patient.damaged(backward):
        # Nothing is missing, and the list is damaged.
        after = again(patient, record)
        assert column(after, "inodes") == [*before, LOST]
        assert lines(after)[0] == text[0] and lines(after)[1]
    with patient.damaged(forward, backward):
        after = again(patient, record)
        inodes = column(after, "inodes")
        # What is between the two is not found, and that is told.
        assert [entry for entry in inodes if entry != LOST] == before[:2] + before[3:]
        assert LOST in inodes and lines(after)[1]
        assert lines(after)[0] == text[0][:2] + text[0][3:]


def test_a_registered_file_that_is_none(patient: Patient) -> None:
    record = one(patient, "io_uring", lambda it: sum(n is not None for n in it.file_names) > 1)
    ctx = it_of(record).ctx
    slot = ctx.file_nodes if ctx.file_nodes is not None else ctx.files
    [lost] = loses_one(patient, record, "registered_files", (slot, word(UNMAPPED)))
    assert lost == f"0:{LOST}"


def test_a_registered_buffer_that_is_none(patient: Patient) -> None:
    record = one(patient, "io_uring", lambda it: sum(b is not None for b in it.bufs) > 1)
    ctx = it_of(record).ctx
    slot = ctx.buf_nodes if ctx.buf_nodes is not None else ctx.user_bufs
    loses_one(patient, record, "registered_bufs", (slot, word(UNMAPPED)))


def test_a_pipe_whose_buffers_are_none(patient: Patient) -> None:
    record = one(patient, "pipe", lambda it: it.unread)
    pipe = it_of(record).pipe
    pointer = member(Object(patient.prog, "struct pipe_inode_info *", pipe.address), "bufs")
    names = ("capacity", "readers", "writers")
    before = [column(record, name) for name in names]
    with patient.damaged((pointer, word(UNMAPPED))):
        after = again(patient, record)
        assert isinstance(column(after, "unread"), Lost)
        assert [column(after, name) for name in names] == before
        pid = str(record.table.pid)
        done, rows = patient.rows("fds", pid, "--output", "fd,detail,pipe.unread")
        [row] = [row for row in rows if row["fd"] == record.fd]
        assert row["pipe.unread"] is None and "struct pipe_buffer" in done.err
        assert row["detail"].startswith(f"unread={LOST} ")


def test_a_call_of_which_the_caller_is_none(patient: Patient) -> None:
    record = one(patient, "seccomp", lambda it: it.calls)
    assert record.file is not None
    listener = Object(patient.prog, "struct seccomp_filter *", record.file.private_data)
    node = listener.notif.notifications.next
    type_ = patient.prog.type("struct seccomp_knotif")
    call = Object(
        patient.prog,
        patient.prog.pointer_type(type_),
        node.value_() - type_.member("list").offset,
    )
    count = column(record, "calls")
    with patient.damaged((member(call, "task"), word(UNMAPPED))):
        after = again(patient, record)
        assert column(after, "calls") == count
        assert column(after, "waiting") == LOST


def test_a_lock_that_is_none(patient: Patient) -> None:
    record = next(r for r in records(patient) if len(_locks(r)[0]) > 2)
    assert record.file is not None
    inode = Object(patient.prog, "struct inode *", record.file.file.inode)
    first = inode.i_flctx.flc_posix
    locks, before = _locks(record)[0], lines(record)[0]
    with patient.damaged((first.next.address_ or 0, word(UNMAPPED))):
        # The list is walked from its other end.
        assert _locks(again(patient, record)) == (locks, [])
    with patient.damaged(
        (first.next.address_ or 0, word(UNMAPPED)),
        (
            first.prev.value_() + patient.prog.type("struct list_head").member("prev").offset,
            word(UNMAPPED + 64),
        ),
    ):
        after = again(patient, record)
        found, lost = _locks(after)
        assert found == locks[-1:] and lost
        text, error = lines(after)
        assert [line.partition(b": ")[2] for line in text] == [before[-1].partition(b": ")[2]]
        assert error
        pid = str(record.table.pid)
        _, rows = patient.rows("fds", pid, "--output", "fd,lock")
        [row] = [row for row in rows if row["fd"] == record.fd]
        assert len(row["lock"]) > 1 and None in row["lock"]


def _locks(record: FdRecord) -> tuple[list[FileLock], list[Lost]]:
    lost: list[Lost] = []
    found = locks_of(record) if record.file is not None and not record.file.sk else []
    return list(sift(found, lost.append)), lost
