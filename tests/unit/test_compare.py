# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is only that judged which can be, and is what is wrong always told?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drgn_sockets.check import compare
from drgn_sockets.check.compare import Comparison, Memory, Mismatch, Result
from drgn_sockets.check.procfs import NET_FILES, FdLook, Look, NetText
from drgn_sockets.kernel.task import FileTable
from drgn_sockets.records.fd import FdRecord
from drgn_sockets.records.kinds import Kind, Known
from drgn_sockets.records.losses import Losses
from drgn_sockets.views.procfs import Row

NS = 4026531840
TCP_COLUMNS = NET_FILES["tcp"]
TABLE = FileTable(7, None, b"x", 1, 2)


def tcp(i: int, **changes: str) -> Row:
    row = dict.fromkeys(TCP_COLUMNS, "0")
    row.update(
        local_address=f"0100007F:{i:04X}",
        rem_address="0100007F:FFFF",
        tr="00",
        when="00000000",
        inode=str(1000 + i),
        pointer=f"ffff8880{i:08x}",
    )
    assert changes.keys() <= row.keys()
    row.update(changes)
    return row


def udp(i: int, **changes: str) -> Row:
    row = tcp(i)
    for column in TCP_COLUMNS[13:]:
        del row[column]
    return {**row, "drops": "0", **changes}


def unix(i: int, path: str, **changes: str) -> Row:
    row = {"pointer": f"ffff8880{i:08x}", "Inode": str(1000 + i), "Type": "0001", "Path": path}
    return {**row, "St": "01", **changes}


def hidden(row: Row) -> Row:
    return {**row, "pointer": "0000000000000000"}


def look(rows: list[Row] | None = None, file: str = "tcp", fds: Any = None) -> Look:
    return Look({} if rows is None else {(NS, file): rows}, fds or {})


def memory(rows: list[Row] | None = None, file: str = "tcp", fds: Any = None) -> Memory:
    net = {} if rows is None else {(NS, file): rows}
    return Memory(net, fds or {}, {}, [NS], {pid for pid, _ in fds or {}}, NS)


def memory_of(net: dict[tuple[int, str], list[Row]]) -> Memory:
    return Memory(net, {}, {}, [NS], set(), NS)


def live(
    before: list[Row], mine: list[Row], after: list[Row] | None = None, file: str = "tcp"
) -> Result:
    after = before if after is None else after
    looks = look(before, file), memory(mine, file), look(after, file)
    return Comparison(None, live=True).compare(*looks)


def saved(
    before: list[Row], mine: list[Row], elapsed_s: float | None = 5, file: str = "tcp"
) -> Result:
    return Comparison(elapsed_s, live=False).compare(look(before, file), memory(mine, file))


def told(mismatches: list[Mismatch]) -> list[tuple[str, str, str]]:
    return [(m.field, m.procfs, m.memory) for m in mismatches]


def test_all_agree() -> None:
    rows = [tcp(i) for i in range(3)]
    for result in (live(rows, rows), saved(rows, rows)):
        assert (result.mismatches, result.moved) == ([], [])
        assert result.rows == {"net/tcp": 3}
        assert result.addresses == 3
        # All but the time of the timer, which there is none of, or which is a moment.
        assert 3 * (len(TCP_COLUMNS) - 1) <= result.fields <= 3 * len(TCP_COLUMNS)


def test_the_order_is_judged() -> None:
    rows = [tcp(i) for i in range(4)]
    other = [rows[0], rows[2], rows[1], rows[3]]
    for result in (live(rows, other), saved(rows, other), live(rows[::-1], rows)):
        assert [m.field for m in result.mismatches] == ["order"]
    # Between the looks it changed; or one came, or went, of those between.
    assert not live(rows, other, other).mismatches
    assert not live(rows, other, rows[::-1]).mismatches
    assert not live([*rows[:2], rows[3]], rows, rows).mismatches
    assert not live(rows, rows[1:], rows[1:]).mismatches
    # Of several with one key nobody knows which is which.
    same = [hidden(tcp(i, local_address="0:1", inode="0", cwnd=str(i))) for i in range(3)]
    assert not live(same, same[::-1]).mismatches


def whole(rows: list[Row], lines: list[bytes], heading: bytes = b"h") -> dict[str, Any]:
    return {"net": {(NS, "tcp"): rows}, "text": {(NS, "tcp"): NetText(heading, lines)}}


def test_whole_lines_are_judged() -> None:
    """What is between the columns, and the heading."""

    def result(*sides: tuple[list[Row], list[bytes], bytes], live: bool) -> Result:
        before, mine = sides[:2]
        later = Look(**whole(*sides[2])) if sides[2:] else None
        there = Memory(fds={}, net_pids={}, netns=[NS], pids=set(), own_netns=NS, **whole(*mine))
        return Comparison(5, live=live).compare(Look(**whole(*before)), there, later)

    rows, lines = [tcp(1), tcp(2)], [b"   0: a b  \n", b"   1: c d  \n"]
    right = (rows, lines, b"h")
    # A copy: each look makes rows of its own.
    other = ([dict(row) for row in rows], [b"   7: a b  \n", b"   8: c d  \n"], b"h")
    assert not result(right, other, live=False).mismatches
    assert not result(right, other, right, live=True).mismatches
    padding = ([dict(row) for row in rows], [lines[0], b"   1: c d \n"], b"h")
    for looks in ((right, padding), (right, padding, right)):
        found = result(*looks, live=len(looks) == 3)
        assert told(found.mismatches) == [("line", r"c d  \n", r"c d \n")]
    # Where a column differs, that is what is told.
    worse = ([rows[0], tcp(2, uid="7")], padding[1], b"h")
    assert told(result(right, worse, live=False).mismatches) == [("uid", "0", "7")]
    heading = ([dict(row) for row in rows], lines, b"H")
    assert told(result(right, heading, live=False).mismatches) == [("line", "h", "H")]


@pytest.mark.parametrize("column", [c for c in TCP_COLUMNS if c not in ("pointer", "when")])
def test_every_column_is_judged(column: str) -> None:
    rows = [tcp(1), tcp(2)]
    wrong = [tcp(1), tcp(2, **{column: "7"})]
    # Queues may move on: see below.
    looks = [live(rows, wrong)] + [saved(rows, wrong)] * (not column.endswith("_queue"))
    for result in looks:
        assert told(result.mismatches) == [(column, rows[1][column], "7")]
        assert not result.moved
        assert result.mismatches[0].where == f"net/tcp of netns {NS}"


def test_a_column_that_memory_lacks() -> None:
    mine = tcp(1)
    del mine["cwnd"]
    assert told(live([tcp(1)], [mine]).mismatches) == [("cwnd", "0", "None")]


def test_what_moves_between_looks_is_not_judged() -> None:
    before, after = [tcp(1), tcp(2, cwnd="10")], [tcp(1), tcp(2, cwnd="11")]
    for mine in ("10", "11", "12"):
        result = live(before, [tcp(1), tcp(2, cwnd=mine)], after)
        assert not result.mismatches
        assert told(result.moved) == [("cwnd", "10", "11")]
    # Of the same row, what did not move is.
    result = live(before, [tcp(1), tcp(2, cwnd="10", uid="5")], after)
    assert told(result.mismatches) == [("uid", "0", "5")]


def test_rows_that_come_and_go() -> None:
    one, two = tcp(1), tcp(2)
    # Closed while we looked, whether memory still had it or not.
    for mine in ([one, two], [one]):
        result = live([one, two], mine, [one])
        assert not result.mismatches
        assert told(result.moved) == [("", "gone", "")]
    # Opened while we looked.
    for mine in ([one, two], [one]):
        result = live([one], mine, [one, two])
        assert not result.mismatches
    # In both looks and not in memory, or the other way round.
    assert told(live([one, two], [one]).mismatches) == [("", "there", "not found")]
    assert told(live([one], [one, two]).mismatches) == [("", "not there", "there")]
    # Another socket at the same ends is another socket.
    other = tcp(1, pointer="ffff888099999999")
    assert sorted(told(live([one], [other]).mismatches)) == [
        ("", "not there", "there"),
        ("", "there", "not found"),
    ]


def test_the_first_socket_of_all() -> None:
    # Procfs had none before, and hides addresses: this says nothing of how to compare.
    for row in (udp(1), hidden(udp(1))):
        result = live([], [udp(1)], [row], file="udp")
        assert not result.mismatches
    assert told(live([], [udp(1)], file="udp").mismatches) == [("", "not there", "there")]


def test_hidden_addresses() -> None:
    rows = [hidden(tcp(i)) for i in range(3)]
    mine = [tcp(i) for i in range(3)]
    result = live(rows, mine)
    assert (result.mismatches, result.addresses, result.rows) == ([], 0, {"net/tcp": 3})
    # Hashed ones, of %p, are not judged either.
    hashed = [{**row, "pointer": "00000000deadbeef"} for row in rows]
    assert not live(hashed, mine).mismatches
    mine[1]["cwnd"] = "9"
    assert told(live(rows, mine).mismatches) == [("cwnd", "0", "9")]
    assert told(live(rows, mine[:2]).mismatches)[-1] == ("", "there", "not found")


def test_sockets_with_the_same_key() -> None:
    # SO_REUSEPORT, TIME-WAIT without inode, and addresses hidden.
    same = {"local_address": "00000000:0050", "inode": "0"}
    theirs = [hidden(tcp(i, **same, cwnd=str(i))) for i in range(4)]
    mine = [tcp(i, **same, cwnd=str(i)) for i in (2, 0, 3, 1)]
    for row in mine:
        row["pointer"] = "0000000000000000"
    assert not live(theirs, mine).mismatches
    assert live(theirs, mine).rows == {"net/tcp": 4}
    assert told(live(theirs, mine[:3]).mismatches)[-1] == ("", "there", "not found")
    assert told(live(theirs[:3], mine).mismatches)[-1] == ("", "not there", "there")
    # One of them closed.
    left = [row for row in mine if row["cwnd"] != "3"]
    assert not live(theirs, left, theirs[:3]).mismatches


def test_unix_sockets() -> None:
    rows = [unix(1, " /a"), unix(2, " /b"), unix(3, "")]
    assert live(rows, rows, file="unix").rows == {"net/unix": 3}
    wrong = [unix(1, " /a"), unix(2, " /c"), unix(3, "")]
    assert told(live(rows, wrong, file="unix").mismatches) == [("Path", " /b", " /c")]
    # With addresses hidden, the name is part of what tells which is which.
    result = live(list(map(hidden, rows)), wrong, file="unix")
    assert sorted(told(result.mismatches)) == [
        ("", "not there", "there"),
        ("", "there", "not found"),
    ]
    # Bound and unbound ones without an inode, of the kernel, are several.
    none = [unix(1, "", Inode="0"), unix(2, "", Inode="0")]
    assert not live(list(map(hidden, none)), list(map(hidden, none)), file="unix").mismatches
    assert live(rows[:1], [], file="unix").mismatches[0].row == "inode 1001 /a"


@pytest.mark.parametrize(
    ("first", "mine", "last", "wrong"),
    [
        (0x64, 0x60, 0x5A, False),
        (0x64, 0x64, 0x64, False),
        # A tick more or less, by rounding.
        (0x64, 0x65, 0x5A, False),
        (0x64, 0x59, 0x5A, False),
        (0x64, 0x66, 0x5A, True),
        (0x64, 0x58, 0x5A, True),
        # Started anew between the looks.
        (0x10, 0x20, 0x64, False),
    ],
)
def test_timers_count_down(first: int, mine: int, last: int, wrong: bool) -> None:
    rows = [[tcp(1, tr="02", when=f"{when:08X}")] for when in (first, mine, last)]
    result = live(rows[0], rows[1], rows[2])
    assert bool(result.mismatches) == wrong
    if wrong:
        assert result.mismatches[0].field == "when"
    # Another timer is another countdown.
    rows[2][0]["tr"] = "01"
    assert not live(rows[0], rows[1], rows[2]).mismatches


def test_saved_rows_whose_timer_was_due() -> None:
    # A TIME-WAIT with a second left, and one with ten; procfs was saved five before.
    soon, late = (
        tcp(1, st="06", tr="03", when="00000064"),
        tcp(2, st="06", tr="03", when="000003E8"),
    )
    result = saved([soon, late], [])
    assert [m.row.split()[0] for m in result.moved] == ["0100007F:0001"]
    assert [m.row.split()[0] for m in result.mismatches] == ["0100007F:0002"]
    # Nobody knows when it was saved.
    assert not saved([soon, late], [], None).mismatches
    # Without a timer nothing ends by itself.
    assert told(saved([tcp(1)], []).mismatches) == [("", "there", "not found")]
    assert told(saved([unix(1, "")], [], file="unix").mismatches) == [("", "there", "not found")]
    # Live, the second look decides.
    assert told(live([soon], []).mismatches) == [("", "there", "not found")]


def test_saved_columns_that_a_timer_changes() -> None:
    before = tcp(1, tr="01", when="00000064", cwnd="10", uid="0")
    assert told(saved([before], [{**before, "cwnd": "1"}]).moved) == [("cwnd", "10", "1")]
    assert told(saved([before], [{**before, "uid": "1"}]).mismatches) == [("uid", "0", "1")]
    far, later = ({**before, "when": when} for when in ("00000BB8", "000009C4"))
    assert told(saved([far], [{**later, "cwnd": "1"}]).mismatches) == [("cwnd", "10", "1")]
    assert told(live([before], [{**before, "cwnd": "1"}]).mismatches) == [("cwnd", "10", "1")]
    # Appeared since: on a saved procfs nothing excuses it.
    assert told(saved([], [tcp(1)]).mismatches) == [("", "not there", "there")]


@pytest.mark.parametrize(
    ("tr", "mine", "wrong"),
    [
        # 30 s were left five seconds before.
        ("01", 2500, False),
        ("01", 2600, False),
        ("01", 2400, False),
        ("01", 2800, True),
        ("01", 2200, True),
        # Nothing runs.
        ("00", 3000, False),
        ("00", 2500, True),
        # A segment that comes once more starts TIME-WAIT anew.
        ("03", 6000, False),
        ("03", 2200, True),
    ],
)
def test_saved_countdowns(tr: str, mine: int, wrong: bool) -> None:
    def rows(left: int, others: int) -> list[Row]:
        row = tcp(1, tr=tr, when=f"{left:08X}")
        return [row, *(tcp(i, tr="02", when=f"{others:08X}") for i in (2, 3))]

    before, after = rows(3000, 9000), rows(mine, 8500)
    result = saved(before, after)
    assert [m.field for m in result.mismatches] == ["when"] * wrong
    # Saved half a minute before the file that tells the time: so say the others.
    result = saved(rows(9000, 9000), rows(6000, 6000))
    assert not result.mismatches or tr == "00"
    result = saved(rows(9000, 9000), rows(5000, 6000))
    assert [m.field for m in result.mismatches] == ["when"]
    # Nobody knows when it was saved.
    assert not saved(before, after, None).mismatches


def test_saved_counts_that_a_timer_changes() -> None:
    def counts(used: int, mem: int, elapsed_s: float) -> list[tuple[str, str, str]]:
        theirs, mine = (
            {"protocol": "TCP", "inuse": str(n), "mem": str(m)} for n, m in ((9, 50), (used, mem))
        )
        rows = [tcp(i, tr="03", when="00000064") for i in range(2)]
        looks = (
            {(NS, "tcp"): tcp_rows, (NS, "sockstat"): [row]}
            for tcp_rows, row in ((rows, theirs), ([], mine))
        )
        before, there = looks
        result = Comparison(elapsed_s, live=False).compare(Look(before), memory_of(there))
        return told([m for m in result.mismatches if m.where.startswith("net/sockstat")])

    # Two timers may have fired since then, and ended a socket each.
    assert not counts(7, 1, 30)
    assert counts(6, 50, 30) == [("inuse", "9", "6")]
    assert counts(7, 1, -10) == [("inuse", "9", "7"), ("mem", "50", "1")]


def test_drops_only_grow() -> None:
    row = udp(1, drops="5")
    assert told(saved([row], [udp(1, drops="6")], file="raw").moved) == [("drops", "5", "6")]
    assert told(saved([row], [udp(1, drops="4")], file="raw").mismatches) == [("drops", "5", "4")]
    assert told(live([row], [udp(1, drops="6")], file="raw").mismatches) == [("drops", "5", "6")]


def test_queues_move_on_until_the_core_is_taken() -> None:
    """What programs sent and read since procfs was saved; on a live kernel they are looked at."""
    for file, row, column in (("udp", udp(1), "rx_queue"), ("tcp", tcp(1), "tx_queue")):
        other = {**row, column: "00000FFF"}
        assert told(saved([row], [other], file=file).moved) == [(column, row[column], "00000FFF")]
        assert not saved([row], [other], file=file).mismatches
        assert told(live([row], [other], file=file).mismatches)
    # Sending has set a timer as well, and nothing else.
    sent = tcp(1, tx_queue="00000FFF", tr="01", when="00000014", cwnd="11", uid="9")
    result = saved([tcp(1)], [sent])
    assert told(result.mismatches) == [("uid", "0", "9")]
    assert {m.field for m in result.moved} == {"tx_queue", "tr", "cwnd"}
    assert told(saved([tcp(1)], [tcp(1, cwnd="11")]).mismatches) == [("cwnd", "0", "11")]


def program_that_shows(fdinfo: bool) -> Any:
    """A program in which file operations at address 1 have lines of their own in fdinfo, or not."""
    return SimpleNamespace(cache={"drgn_sockets.records.kinds.base._shows_fdinfo": {(1,): fdinfo}})


def record(fd: int, **changes: Any) -> FdRecord:
    values: dict[str, Any] = {
        "address": 1,
        "flags": 0o2,
        "mode": 3,
        "pos": 0,
        "op": 1,
        "name": b"/f",
        "kind": "reg",
        "ino": 5,
        "i_mode": 0o100644,
        "dev": 1,
        "rdev": 0,
        "mnt_id": 9,
        "sk": 0,
        "socket": None,
        "error": None,
        # Nothing is locked, and its kind has nothing to tell.
        "file": SimpleNamespace(inode=0),
        "lost": (),
        "private_data": 1,
        "memo": (),
        # Its operations show nothing of their own.
        "prog": program_that_shows(False),
    }
    values.update({k: v for k, v in changes.items() if k != "cloexec"})
    file: Any = SimpleNamespace(**values)
    return FdRecord(TABLE, fd, changes.get("cloexec", False), file, 1)


class Lines(Kind):
    """A kind of which *it* is the lines."""

    def __init__(self, name: str) -> None:
        vars(self)["name"] = name

    def fdinfo(self, file: Any, it: list[bytes]) -> Iterator[bytes]:
        yield from it


def fd_look(name: bytes | None = b"/f", lines: tuple[bytes, ...] = (), **info: str) -> FdLook:
    return FdLook(name, {"pos": "0", "flags": "02", "mnt_id": "9", "ino": "5", **info}, lines)


def compare_fds(
    before: dict[int, FdLook],
    mine: dict[int, FdRecord],
    after: dict[int, FdLook] | None,
    elapsed_s: float | None = None,
    losses: Losses | None = None,
) -> Result:
    key = (7, None)
    later = None if after is None else look(fds={key: after})
    comparison = Comparison(elapsed_s, live=after is not None, losses=losses)
    return comparison.compare(look(fds={key: before}), memory(fds={key: mine}), later)


def test_fds_that_agree() -> None:
    theirs = {0: fd_look(), 3: fd_look(flags="02000002"), 4: FdLook(b"/f", None), 5: fd_look(None)}
    mine = {0: record(0), 3: record(3, cloexec=True), 4: record(4), 5: record(5, name=b"/long")}
    for after in (theirs, None):
        result = compare_fds(theirs, mine, after)
        assert (result.mismatches, result.moved) == ([], [])
        assert result.rows == {"PID/fd": 4}
        assert result.fields == 5 + 5 + 1 + 4


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": b"/g"}, "name"),
        ({"name": None}, "name"),
        ({"pos": 1}, "pos"),
        ({"flags": 0o4002}, "flags"),
        ({"cloexec": True}, "flags"),
        ({"mnt_id": 8}, "mnt_id"),
        ({"ino": 6}, "ino"),
        ({"ino": None}, "ino"),
    ],
)
def test_every_field_of_an_fd_is_judged(change: dict[str, Any], field: str) -> None:
    result = compare_fds({0: fd_look()}, {0: record(0, **change)}, {0: fd_look()})
    assert [m.field for m in result.mismatches] == [field]
    # In saved procfs a position may have moved on since; nothing else.
    result = compare_fds({0: fd_look()}, {0: record(0, **change)}, None)
    expected = result.moved if field == "pos" else result.mismatches
    assert [m.field for m in expected] == [field]
    assert len(result.moved) + len(result.mismatches) == 1


def test_a_position_that_never_moves() -> None:
    result = compare_fds({0: fd_look()}, {0: record(0, pos=1, kind="sock")}, None)
    assert told(result.mismatches) == [("pos", "0", "1")]


def compare_lines(
    theirs: tuple[bytes, ...],
    mine: tuple[bytes, ...],
    after: tuple[bytes, ...] | None = None,
    kind: str = "timerfd",
) -> Result:
    """What fdinfo has after the lines of all: saved 5 s before, or live if there is *after*."""
    files = {0: record(0, kind=kind, memo=Known(Lines(kind), mine))}
    later = None if after is None else {0: fd_look(lines=after)}
    return compare_fds({0: fd_look(lines=theirs)}, files, later, None if later else 5)


ID, COUNT, OTHER = b"id: 3\n", b"count:\t 4\n", b"count:\t 5\n"


def test_lines_of_a_kind() -> None:
    for after in (None, (ID, COUNT)):
        result = compare_lines((ID, COUNT), (ID, COUNT), after)
        assert (result.mismatches, result.moved, result.fields) == ([], [], 5 + 2)
        result = compare_lines((ID, COUNT), (ID, OTHER), after)
        assert (told(result.mismatches), result.moved) == ([("count", "\\t 4", "\\t 5")], [])
        result = compare_lines((ID, COUNT), (COUNT, ID), after)
        assert [m.field for m in result.mismatches] == ["id", "count"]
        # A kind may make a line of parts.
        assert not compare_lines((ID, COUNT), (b"id", b": 3\ncount:", b"\t 4\n"), after).mismatches
        unequal: list[tuple[tuple[bytes, ...], tuple[bytes, ...]]] = [
            ((ID, COUNT), (ID,)),
            ((ID, COUNT), ()),
            ((), (ID,)),
        ]
        for theirs, ours in unequal:
            result = compare_lines(theirs, ours, None if after is None else theirs)
            assert [m.field for m in result.mismatches] == ["fdinfo"]
    # Procfs changed its mind.
    for mine in ((ID, COUNT), (ID, OTHER)):
        assert not compare_lines((ID, COUNT), mine, (ID, OTHER)).mismatches
        assert not compare_lines((ID, COUNT), mine, (ID,)).mismatches


@pytest.mark.parametrize(
    ("saved", "now", "expected"),
    [
        # 5 s have passed, and some that it took to save procfs.
        (7200, 7195, "equal"),
        (7200, 6900, "equal"),
        (7200, 7199, "mismatches"),
        (7200, 7300, "mismatches"),
        (7200, 6800, "mismatches"),
        (7200, 0, "mismatches"),
        (100, 0, "equal"),
        # It may have expired since.
        (100, 9000, "moved"),
        (0, 50, "moved"),
    ],
)
def test_a_countdown(saved: int, now: int, expected: str) -> None:
    theirs, mine = (b"it_value: (%d, 500000000)\n" % value for value in (saved, now))
    result = compare_lines((theirs,), (mine,))
    told = [name for name in ("mismatches", "moved") if getattr(result, name)]
    assert told == ([] if expected == "equal" else [expected])
    # A running kernel is looked at twice.
    assert compare_lines((theirs,), (mine,), (theirs,)).mismatches
    # Of another kind it is no countdown.
    assert compare_lines((theirs,), (mine,), kind="reg").mismatches


def test_lines_that_cannot_be_told() -> None:
    lines = (ID, b"lock:\t1: FLOCK\n")
    cases: list[tuple[Any, int, list[str]]] = [
        (Known(Lines("x"), None, "x: no such type", True), 0, ["fdinfo of x: no such type"]),
        # That is told as lost, and nothing is compared.
        (Known(Lines("x"), None, "x: cannot be read"), 1, []),
        # No kind that we know.
        ((), 0, ["fdinfo of reg: odd_fops: the lines of this kind of file are not known"]),
    ]
    shows = program_that_shows(True)
    for known, lost, left_out in cases:
        losses = Losses()
        ours = record(0, memo=known, prog=shows, fops="odd_fops")
        result = compare_fds({0: fd_look(lines=lines)}, {0: ours}, None, losses=losses)
        assert not result.mismatches
        assert losses.count() == lost
        assert result.left_out == left_out


def test_fds_that_come_and_go() -> None:
    one = {0: fd_look()}
    both = {0: fd_look(), 1: fd_look()}
    mine = {0: record(0), 1: record(1)}
    for found in ({0: record(0)}, mine):
        assert not compare_fds(both, found, one).mismatches
        assert not compare_fds(one, found, both).mismatches
    assert told(compare_fds(one, mine, one).mismatches) == [("", "not there", "/f")]
    assert told(compare_fds(both, {0: record(0)}, both).mismatches) == [("", "there", "not found")]
    # Moved between the looks: another file under the same number.
    other = {0: fd_look(b"/other")}
    result = compare_fds(one, {0: record(0, name=b"/third")}, other)
    assert (result.mismatches, told(result.moved)) == ([], [("name", "/f", "/other")])
    lost = FdRecord(TABLE, 0, False, None, 1, "struct file cannot be read")
    losses = Losses()
    result = compare_fds(one, {0: lost}, one, losses=losses)
    assert (result.mismatches, result.rows, losses.count()) == ([], {}, 1)


def test_processes() -> None:
    fds = {(7, None): {0: fd_look()}, (8, None): {0: fd_look()}}
    mine = {(7, None): {0: record(0)}}
    result = Comparison(None, live=True).compare(look(fds=fds), memory(fds=mine), look(fds=fds))
    assert [(m.where, m.row, m.memory) for m in result.mismatches] == [
        ("8", "process", "not found")
    ]
    # In saved procfs a thread of the kernel's may have ended since.
    kthread = look(fds=fds)
    kthread.kthreads.add(8)
    result = Comparison(5, live=False).compare(kthread, memory(fds=mine))
    assert [m.where for m in result.moved] == ["8"] and not result.mismatches
    # It ended.
    later = look(fds={(7, None): fds[7, None]})
    result = Comparison(None, live=True).compare(look(fds=fds), memory(fds=mine), later)
    assert not result.mismatches
    # Nobody saved its fds.
    result = Comparison(None, live=False).compare(look(), memory(fds=mine))
    assert result.left_out == ["1 processes whose fds are not saved: 7"]


def check_live(
    monkeypatch: pytest.MonkeyPatch, theirs: list[list[Row]], mine: list[list[Row]]
) -> Result:
    """check_live() on looks that were prepared; the last of them goes on for ever."""
    prog: Any = None

    def memories(prog: Any, losses: Any = None, only: Any = None) -> Memory:
        return memory(mine.pop(0) if len(mine) > 1 else mine[0])

    def looks(tree: Any, memory: Memory, only: Any = None) -> Look:
        return look(theirs.pop(0) if len(theirs) > 1 else theirs[0])

    monkeypatch.setattr(compare, "look_at_memory", memories)
    monkeypatch.setattr(compare, "look_at_procfs", looks)
    return compare.check_live(prog, str(Path.cwd()))


def test_what_lasts_is_a_mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = [tcp(1), tcp(2)], [tcp(1), tcp(2, uid="9")]
    # Nothing moves here: there is nothing to wait for between looks.
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    # (The first look at memory only says where to look in procfs.)
    assert not check_live(monkeypatch, [right], [right]).mismatches
    result = check_live(monkeypatch, [right], [wrong])
    assert told(result.mismatches) == [("uid", "0", "9")]
    # Wrong once: memory was walked while something changed and changed back.
    result = check_live(monkeypatch, [right], [right, wrong, right])
    assert not result.mismatches
    # Wrong twice and then right.
    result = check_live(monkeypatch, [right], [right, wrong, wrong, right])
    assert not result.mismatches
    # Wrong, right and wrong again: each time it was something else.
    result = check_live(monkeypatch, [right], [right, wrong, right, wrong])
    assert not result.mismatches
    # One that lasts, among others that do not.
    flickering = [[tcp(1), tcp(2, uid="9", cwnd=str(i))] for i in range(1, 9)]
    result = check_live(monkeypatch, [right], flickering)
    assert told(result.mismatches) == [("uid", "0", "9")]
    assert [m.field for m in result.moved] == ["cwnd"]
