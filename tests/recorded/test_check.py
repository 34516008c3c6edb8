# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Does ``check --procfs`` compare everything that was saved, and does it see one changed byte?

How much there is to compare is counted here, in the saved tree, by ``wc`` and ``ls`` as it were.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from drgn_sockets.check import compare, saved
from drgn_sockets.check.compare import Mismatch
from drgn_sockets.check.procfs import Look, ProcTree
from drgn_sockets.kernel.task import Tasks
from drgn_sockets.records.fd import FdRecord
from drgn_sockets.views.procfs import FILES, Looker
from drgn_sockets.views.procfs.moments import How, traffic

from .machine import Core, Done
from .saved import NO_TYPES

INET_FILES = (
    *("tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "icmp", "icmp6"),
)
PLAIN_FILES = {
    "netlink": "sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode",
    "packet": "sk RefCnt Type Proto Iface R Rmem User Inode",
}
SOCKET_FILES = (*INET_FILES, "unix", *PLAIN_FILES)
COUNT_FILES = ("sockstat", "sockstat6", "protocols")
NET_FILES = (*SOCKET_FILES, *COUNT_FILES)
_UNIX_ROW = re.compile(rb"^[0-9a-f]{16}: ", re.MULTILINE)


def rows_in(file: str, text: bytes) -> int:
    if file == "unix":
        # A name may hold newlines.
        return len(_UNIX_ROW.findall(text))
    return text.count(b"\n") - (not file.startswith("sockstat"))


def lines_of(tree: Path, file: str) -> int:
    """Rows of a file of /proc/net, in all saved network namespaces that a process lives in."""
    count = 0
    inhabited = {
        os.readlink(p / "net")  # noqa: PTH115
        for p in tree.iterdir()
        if p.name.isdecimal() and (p / "net").is_symlink()
    }
    for link in inhabited:
        path = tree / "1" / link / file
        path = (tree / link.removeprefix("../")) / file
        if path.exists():
            text = path.read_bytes()
            count += rows_in(file, text)
    return count


def fds_of(tree: Path, pattern: str) -> int:
    """Entries of the saved directories ``fdinfo``: every fd has one."""
    return sum(1 for path in tree.glob(pattern) for _ in path.iterdir())


def expected_counts(tree: Path) -> dict[str, int]:
    counts = {f"net/{file}": lines_of(tree, file) for file in NET_FILES}
    counts["PID/fd"] = fds_of(tree, "[0-9]*/fdinfo")
    counts["PID/task/TID/fd"] = fds_of(tree, "[0-9]*/task/[0-9]*/fdinfo")
    return {file: count for file, count in counts.items() if count}


def counts_of(out: str) -> dict[str, int]:
    return {
        match[1]: int(match[2]) for match in re.finditer(r"^(\S+) +(\d+) rows compared$", out, re.M)
    }


def overlay(tree: Path, target: Path) -> Path:
    """A copy of the saved procfs that shares its files, as links, until one is replaced."""
    for directory, names, files in os.walk(tree):
        into = target / Path(directory).relative_to(tree)
        into.mkdir(exist_ok=True)
        names[:] = [n for n in names if n not in ("tools", "account", "ns", "sys")]
        for name in [*names, *files]:
            path = Path(directory) / name
            if path.is_symlink():
                # Text of a link is what is compared.
                os.symlink(os.readlink(os.fsencode(path)), os.fsencode(into / name))  # noqa: PTH115, PTH211
            elif path.is_file():
                (into / name).symlink_to(path)
    return target


def replace(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def net_path(tree: Path, file: str) -> Path:
    return (tree / "net").resolve() / file


#: A row of a socket whose TIME-WAIT was over by the time of the core.
ENDED = re.compile(r"(net/tcp6?) of netns .* inode 0 +- +there +not found", re.M)


def agreeing_counts(core: Core) -> dict[str, int]:
    """How many rows are to be compared, by what ``check --moved`` says has ended."""
    ended = Counter(ENDED.findall(core.run("check", "--procfs", str(core.oracle), "--moved").out))
    assert sum(ended.values()) < 20
    return {file: count - ended[file] for file, count in expected_counts(core.oracle).items()}


def summary(done: Done) -> tuple[int, int]:
    match = re.search(r"(\d+) moved between looks; (\d+) mismatches$", done.out.rstrip())
    assert match, done.out
    return int(match[1]), int(match[2])


def test_everything_is_compared_and_agrees(core: Core) -> None:
    done = core.run("check", "--procfs", str(core.oracle), "--moved")
    assert done.status == 0, done.out
    assert counts_of(done.out) == agreeing_counts(core)
    moved, mismatches = summary(done)
    assert mismatches == 0
    left_out = [line for line in done.out.splitlines() if line.startswith("not compared:")]
    # The agent is process 1 and runs the oracle, which cannot tell of itself.
    [text] = [line for line in left_out if "processes whose fds are not saved: " in line]
    assert set(map(int, text.rpartition(": ")[2].split())) - core.begun == {1}
    assert core.manifest["excluded"][0] == 1
    # Of the namespaces that no process lives in procfs shows nothing.
    lonely = {
        row["netns"]
        for row in core.accounts["netns"]["namespaces"]
        if not core.manifest["netns"].get(str(row["netns"]), {}).get("pids")
    }
    assert lonely
    named = {int(m[1]) for m in re.finditer(r"network namespace (\d+): no process", done.out)}
    assert named == lonely
    # Of kinds of files whose types this kernel has not.
    kinds = {m[1] for line in left_out if (m := re.search(r": fdinfo of ([^:]+): ", line))}
    assert kinds <= {kind for kernel, kind in NO_TYPES if kernel == core.kernel}
    assert len(left_out) == 1 + len(lonely) + len(kinds)
    # What moved: only what a timer may, TIME-WAIT that was made to last, the position in the TUN
    # device (bytes that went through it), what a raw socket dropped of it, and workers of the
    # kernel's.
    lines = done.out.splitlines()[1 : 1 + moved]
    may = re.compile(
        r"net/tcp6? of .*  (tr|retrnsmt|timeout|rto|cwnd|ssthresh|ref|tx_queue|st|when) "
        rf"|{ENDED.pattern}|net/sockstat6? of .*  TCP6? .* (inuse|orphan|tw|alloc|mem) "
        r"|net/sockstat of .*  sockets .* used |net/protocols of .*TCP.* (sockets|memory) "
        r"|net/raw6? of .*  drops |(?P<pid>\d+)/fd +(?P<fd>\d+) +pos "
        r"|(?P<worker>\d+) +process +- +there "
    )
    for line in lines if moved else []:
        match = may.match(line)
        assert match, line
        if match["fd"]:
            link = core.oracle / match["pid"] / "fd" / match["fd"]
            assert str(link.readlink()) == "/dev/net/tun"
        elif match["worker"]:
            assert (core.oracle / match["worker"] / "comm").read_text().startswith("kworker/")


def test_as_a_process(one: Core) -> None:
    done = one.spawn("check", "--procfs", str(one.oracle))
    assert done.returncode == 0, done.stderr
    assert counts_of(done.stdout.decode()) == agreeing_counts(one)


def word_changed(number: int, changed: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    def change(line: bytes) -> bytes:
        words = list(re.finditer(rb"\S+", line))
        word = words[number]
        return line[: word.start()] + changed(word[0]) + line[word.end() :]

    return change


def last_digit(word: bytes) -> bytes:
    """The word with another last digit."""
    return word[:-1] + (b"1" if word[-1:] != b"1" else b"2")


def many_more(word: bytes) -> bytes:
    """
    A digit before it: what memory has is less then, which time does not explain. One more
    would not do: a raw socket may have dropped some since procfs was saved.
    """
    return b"9" + word


def part(index: int, separator: bytes = b":") -> Callable[[bytes], bytes]:
    def change(word: bytes) -> bytes:
        parts = word.split(separator)
        parts[index] = last_digit(parts[index])
        return separator.join(parts)

    return change


# Words of a row: 0 sl, 1 local, 2 remote, 3 st, 4 tx:rx, 5 tr:when, 6 retrnsmt, 7 uid,
# 8 timeout, 9 inode, 10 ref, 11 pointer, then TCP's rto ato quick cwnd ssthresh or drops.
INET_WORDS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "local address": (1, part(0)),
    "local port": (1, part(1)),
    "remote address": (2, part(0)),
    "remote port": (2, part(1)),
    "st": (3, last_digit),
    "tx_queue": (4, part(0)),
    "rx_queue": (4, part(1)),
    "tr": (5, part(0)),
    "retrnsmt": (6, last_digit),
    "uid": (7, last_digit),
    "timeout": (8, last_digit),
    "inode": (9, last_digit),
    "ref": (10, last_digit),
    "pointer": (11, last_digit),
}
TCP_WORDS = {"rto": 12, "ato": 13, "quick_pingpong": 14, "cwnd": 15, "ssthresh": 16}
UNIX_WORDS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "pointer": (0, lambda w: last_digit(w[:-1]) + b":"),
    "RefCount": (1, last_digit),
    "Protocol": (2, last_digit),
    "Flags": (3, last_digit),
    "Type": (4, last_digit),
    "St": (5, last_digit),
    "Inode": (6, last_digit),
    "Path": (7, last_digit),
}

CHANGES: list[tuple[str, str, int, Callable[[bytes], bytes]]] = []
for _file in INET_FILES:
    CHANGES += [(_file, name, *how) for name, how in INET_WORDS.items()]
    if _file.startswith("tcp"):
        CHANGES += [(_file, name, number, last_digit) for name, number in TCP_WORDS.items()]
    else:
        CHANGES.append((_file, "drops", 12, many_more))
CHANGES += [("unix", name, *how) for name, how in UNIX_WORDS.items()]
for _file, _heading in PLAIN_FILES.items():
    CHANGES += [(_file, name, i, last_digit) for i, name in enumerate(_heading.split())]
# Where nothing ends by itself: a timer may have ended TCP sockets.
for _file, _words in (("sockstat", ("UDP:", "inuse")), ("sockstat6", ("RAW6:", "inuse"))):
    CHANGES += [(_file, name, 2 * i, last_digit) for i, name in enumerate(_words) if i]
CHANGES.append(("sockstat", "protocol", 0, lambda w: b"X" + w))
PROTOCOLS_COLUMNS = (
    *("protocol", "size", "sockets", "memory", "press", "maxhdr", "slab", "module"),
    *("cl", "co", "di", "ac"),
)

CHANGES += [
    ("protocols", name, i, many_more if name in ("sockets", "memory") else last_digit)
    for i, name in enumerate(PROTOCOLS_COLUMNS)
]


def chosen(file: str, lines: list[bytes], tr: bytes = b"00") -> int:
    """A row of a full socket without a timer, or with one that is not due for minutes."""
    for i, line in enumerate(lines):
        words = line.split()
        if i == 0 and not file.startswith("sockstat"):
            continue
        if file in COUNT_FILES:
            if words[0].startswith((b"UDP:", b"RAW6:", b"PING")):
                return i
        elif file in PLAIN_FILES:
            if words[-1] != b"0":
                return i
        elif file == "unix":
            if len(words) == 8 and words[7].startswith(b"/tmp/drgn") and b"plain" in words[7]:
                return i
        elif (
            words[5].startswith(tr + b":")
            and (tr == b"00" or int(words[5][3:], 16) > 30000)
            and (not file.startswith("tcp") or len(words) == 17)
            # What ping sockets of the other family look like in the file is the kernel's own.
            and (file != "icmp6" or words[1][:32].strip(b"0"))
        ):
            return i
    raise AssertionError(f"{file}: no row to change")


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Core], Path]:
    """An overlay of each core's oracle, whose changes are undone by who makes them."""
    made: dict[str, Path] = {}

    def get(core: Core) -> Path:
        if core.kernel not in made:
            where = tmp_path_factory.mktemp(f"proc-{core.kernel}")
            made[core.kernel] = overlay(core.oracle, where)
        return made[core.kernel]

    return get


class Changed:
    """A file of an overlay with other contents, for a while."""

    def __init__(self, path: Path, data: bytes | None) -> None:
        self.path = path
        self.data = data
        self.link = path.readlink()

    def __enter__(self) -> None:
        self.path.unlink()
        if self.data is not None:
            self.path.write_bytes(self.data)

    def __exit__(self, *error: object) -> None:
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(self.link)


@functools.lru_cache(1)
def in_memory(core: Core) -> tuple[list[Any], dict[tuple[int, int | None], list[FdRecord]]]:
    """What memory has of files of ``net``, and of fds."""
    tables = Tasks(core.prog).tables()
    fds = {
        (table.pid, table.tid): list(records)
        for table, records in zip(tables, compare.fds_in_memory(core.prog, tables))
    }
    return list(compare.net_in_memory(Looker(core.prog))), fds


class Relinked:
    """A link of an overlay that leads elsewhere, or is missing, for a while."""

    def __init__(self, path: Path, to: str | None) -> None:
        self.path = path
        self.to = to
        self.before = os.readlink(path) if path.is_symlink() else None  # noqa: PTH115

    def _set(self, to: str | None) -> None:
        self.path.unlink(missing_ok=True)
        if to is not None:
            self.path.symlink_to(to)

    def __enter__(self) -> None:
        self._set(self.to)

    def __exit__(self, *error: object) -> None:
        self._set(self.before)


def mismatches(
    core: Core, tree: Path, *, moved: str | None = None
) -> tuple[Done, list[dict[str, Any]]]:
    """
    Compare with a changed tree; memory, which is the same for all of them, is read once.

    :param moved: A column that may have changed since procfs was saved: return what moved in it.
    """
    net, fds = in_memory(core)
    with mock.patch.multiple(
        saved,
        net_in_memory=lambda at: iter(net),
        fds_in_memory=lambda prog, tables, losses: (iter(fds[t.pid, t.tid]) for t in tables),
    ):
        argv = ["check", "--procfs", str(tree), "--json", *(["--moved"] if moved else [])]
        done = core.run(*argv)
    rows = [json.loads(line) for line in done.out.splitlines()]
    if moved:
        assert done.status == 0, done.out
        return done, [row for row in rows if row["field"] == moved]
    assert done.status == (1 if rows else 0)
    assert done.err.rstrip().endswith(f"{len(rows)} mismatches")
    return done, rows


@pytest.mark.parametrize(
    ("file", "column", "word", "how"), CHANGES, ids=[f"{c[0]}-{c[1]}" for c in CHANGES]
)
def test_one_changed_byte_is_seen(
    one: Core,
    trees: Callable[[Core], Path],
    file: str,
    column: str,
    word: int,
    how: Callable[[bytes], bytes],
) -> None:
    tree = trees(one)
    path = net_path(tree, file)
    if not path.exists():
        pytest.skip(f"{one.kernel} has no /proc/net/{file}")
    lines = path.read_bytes().split(b"\n")
    # A timer that may have been due explains another "tr": 02 is a keepalive timer, far off.
    row = chosen(file, lines, b"02" if column == "tr" and "tcp" in file else b"00")
    before = lines[row]
    lines[row] = word_changed(word, how)(before)
    assert lines[row] != before
    # What waits to be sent or read may have changed since: it is told, and is no mismatch.
    queue = column if traffic(file, column) is How.USED else None
    with Changed(path, b"\n".join(lines)):
        _, found = mismatches(one, tree, moved=queue)
    if queue is not None and file not in PLAIN_FILES:
        # Not those that a timer of TCP explains.
        end = before.split()[1].decode()
        found = [m for m in found if m["row"].split()[0] == end]
    assert found, f"{before!r} -> {lines[row]!r} was not seen"
    words = before.split()
    if column in ("pointer", "sk"):
        # By its address it is another row: one is missing, one is too many.
        assert len(found) == 2
    assert {m["where"] for m in found} == {f"net/{file} of netns {one.home_netns}"}
    if file == "unix":
        inode = words[6].decode()
        changed = lines[row].split()[6].decode()
        assert all(re.match(rf"inode ({inode}|{changed}) ", m["row"]) for m in found), found
    elif file in PLAIN_FILES:
        assert {m["field"] for m in found} <= {column, None}
    elif file in COUNT_FILES:
        names = {line.split()[0].decode().rstrip(":") for line in (before, lines[row])}
        assert all(m["row"].split()[0] in names for m in found), found
        assert {m["field"] for m in found} <= {column, None}
    else:
        ends = {words[1].decode(), lines[row].split()[1].decode()}
        assert all(m["row"].split()[0] in ends for m in found), found


@pytest.mark.parametrize("file", NET_FILES)
def test_a_row_too_few_and_one_too_many(
    one: Core, trees: Callable[[Core], Path], file: str
) -> None:
    tree = trees(one)
    path = net_path(tree, file)
    if not path.exists():
        pytest.skip(f"{one.kernel} has no /proc/net/{file}")
    lines = path.read_bytes().split(b"\n")
    row = chosen(file, lines)
    fewer = lines[:row] + lines[row + 1 :]
    with Changed(path, b"\n".join(fewer)):
        _, found = mismatches(one, tree)
    assert [(m["procfs"], m["memory"]) for m in found] == [("not there", "there")]
    # At another address.
    another = re.sub(rb"\b(ff[0-9a-f]{13})[0-9a-f]\b", rb"\g<1>1", lines[row])
    if file in COUNT_FILES:
        another = b"X" + lines[row]
    more = [*lines[:row], another]
    with Changed(path, b"\n".join(more + lines[row:])):
        _, found = mismatches(one, tree)
    assert [(m["procfs"], m["memory"]) for m in found] == [("there", "not found")]


@pytest.mark.parametrize("file", [file for file in NET_FILES if not file.startswith("icmp")])
def test_rows_in_another_order(one: Core, trees: Callable[[Core], Path], file: str) -> None:
    tree = trees(one)
    path = net_path(tree, file)
    if not path.exists():
        pytest.skip(f"{one.kernel} has no /proc/net/{file}")
    lines = path.read_bytes().split(b"\n")
    row = chosen(file, lines)
    other = row + 1 if lines[row + 1] else row - 1
    numbers = [line.partition(b": ")[0] for line in lines]
    lines[row], lines[other] = lines[other], lines[row]
    if file.startswith("tcp"):
        # Their numbers are those of the rows as they stand there.
        for i in (row, other):
            lines[i] = numbers[i] + b": " + lines[i].partition(b": ")[2]
    with Changed(path, b"\n".join(lines)):
        _, found = mismatches(one, tree)
    assert [m["field"] for m in found] == ["order"]


@pytest.mark.parametrize(
    ("file", "what"),
    [
        (file, what)
        for file in SOCKET_FILES
        for what in ("heading", "padding", "blank", "bucket")
        # Rows of TCP begin with their number, which the order tells, and those of unix sockets
        # with none, and end with the name.
        if not (what == "bucket" and file.startswith("tcp"))
        and not (what == "bucket" and file in ("unix", *PLAIN_FILES))
        and not (what == "padding" and file == "unix")
    ],
)
def test_what_is_between_the_columns(
    one: Core, trees: Callable[[Core], Path], file: str, what: str
) -> None:
    tree = trees(one)
    path = net_path(tree, file)
    if not path.exists():
        pytest.skip(f"{one.kernel} has no /proc/net/{file}")
    lines = path.read_bytes().split(b"\n")
    row = 0 if what == "heading" else chosen(file, lines)
    before = lines[row]
    if what in ("heading", "padding"):
        lines[row] = before[:-1] if before.endswith(b" ") else before + b" "
    elif what == "blank":
        # Before the last but one column that each has.
        start = list(re.finditer(rb"\S+", before))[6].start()
        lines[row] = before[:start] + b" " + before[start:]
    else:
        lines[row] = word_changed(0, lambda word: last_digit(word[:-1]) + b":")(before)
    assert lines[row] != before
    with Changed(path, b"\n".join(lines)):
        _, found = mismatches(one, tree)
    assert [m["field"] for m in found] == ["line"]
    assert (found[0]["row"] == "heading") == (what == "heading")


@pytest.mark.parametrize("file", NET_FILES)
def test_a_file_that_is_missing_is_left_out(
    one: Core, trees: Callable[[Core], Path], file: str
) -> None:
    tree = trees(one)
    path = net_path(tree, file)
    if not path.exists():
        pytest.skip(f"{one.kernel} has no /proc/net/{file}")
    with Changed(path, None):
        done, found = mismatches(one, tree)
    assert not found
    assert re.search(rf"^not compared: net/{file} of .*{one.home_netns}", done.err, re.M), (
        "it does not say that it lacks the file"
    )


def test_a_net_file_cut_short(one: Core, trees: Callable[[Core], Path]) -> None:
    tree = trees(one)
    path = net_path(tree, "tcp")
    text = path.read_bytes()
    with Changed(path, text[: len(text) * 2 // 3]):
        done = one.run("check", "--procfs", str(tree))
    # Half a row is no row: either it is told, or the file is left out, never a traceback.
    assert done.status in (0, 1)
    assert "net/tcp" in done.out


INFO = {"pos": 0, "flags": 1, "mnt_id": 2, "ino": 3}


@pytest.mark.parametrize("name", INFO)
def test_one_changed_byte_of_fdinfo_is_seen(
    one: Core, trees: Callable[[Core], Path], name: str
) -> None:
    tree = trees(one)
    account = one.accounts["tcp_echo"]["processes"][1]
    pid, fd = account["pid"], next(e["fd"] for e in account["fds"] if e["kind"] == "socket")
    path = tree / str(pid) / "fdinfo" / str(fd)
    lines = path.read_bytes().split(b"\n")
    if name == "ino" and len(lines) == INFO[name] + 1:
        pytest.skip(f"{one.kernel} has no inode in fdinfo")
    assert lines[INFO[name]].startswith(name.encode())
    lines[INFO[name]] = last_digit(lines[INFO[name]])
    with Changed(path, b"\n".join(lines)):
        _, found = mismatches(one, tree)
    assert [(m["where"], m["row"], m["field"]) for m in found] == [(f"{pid}/fd", str(fd), name)]


LinesChange = Callable[[list[bytes]], tuple[list[bytes], str]]


def changed_line(lines: list[bytes]) -> tuple[list[bytes], str]:
    field = lines[4].partition(b":")[0].decode()
    return [*lines[:4], last_digit(lines[4][:-1]) + b"\n", *lines[5:]], field


def no_lines(lines: list[bytes]) -> tuple[list[bytes], str]:
    return lines[:4], "fdinfo"


def a_lock(lines: list[bytes]) -> tuple[list[bytes], str]:
    lock = b"lock:\t1: FLOCK  ADVISORY  WRITE 1 00:01:2 0 EOF\n"
    return [*lines[:4], lock, *lines[4:]], "fdinfo"


@pytest.mark.parametrize("change", [changed_line, no_lines, a_lock])
def test_changed_lines_of_kinds_are_seen(
    one: Core, trees: Callable[[Core], Path], change: LinesChange
) -> None:
    tree = trees(one)
    [process] = [p for p in one.accounts["fd_zoo"]["processes"] if p["role"] == "fd_zoo"]
    expected = []
    with contextlib.ExitStack() as stack:
        for kind in ("eventfd", "eventpoll", "fanotify", "inotify", "signalfd", "timerfd"):
            fd = next(e["fd"] for e in process["fds"] if e["kind"] == kind)
            path = tree / str(process["pid"]) / "fdinfo" / str(fd)
            lines, field = change(path.read_bytes().splitlines(keepends=True))
            stack.enter_context(Changed(path, b"".join(lines)))
            expected.append((f"{process['pid']}/fd", str(fd), field))
        _, found = mismatches(one, tree)
    assert sorted((m["where"], m["row"], m["field"]) for m in found) == sorted(expected)


def test_position_of_a_regular_file_is_compared(one: Core, trees: Callable[[Core], Path]) -> None:
    """Workloads stand still when procfs is saved: a file's position must not be waved through."""
    tree = trees(one)
    process, entry = next(
        (p, e)
        for p in one.accounts["fd_zoo"]["processes"]
        for e in p["fds"]
        if e["kind"] == "file" and e["access"] == "r" and e["pos"]
    )
    pid, fd = process["pid"], entry["fd"]
    path = tree / str(pid) / "fdinfo" / str(fd)
    lines = path.read_bytes().split(b"\n")
    assert lines[0].split() == [b"pos:", b"%d" % entry["pos"]]
    lines[0] = last_digit(lines[0])
    with Changed(path, b"\n".join(lines)):
        done = one.run("check", "--procfs", str(tree), "--moved")
    assert re.search(rf"^{pid}/fd +{fd} +pos ", done.out, re.M), "not even told as moved"


def test_changed_link_missing_fd_and_extra_fd(one: Core, trees: Callable[[Core], Path]) -> None:
    tree = trees(one)
    account = one.accounts["tcp_echo"]["processes"][1]
    pid, fd = account["pid"], next(e["fd"] for e in account["fds"] if e["kind"] == "socket")
    link = tree / str(pid) / "fd" / str(fd)
    info = tree / str(pid) / "fdinfo" / str(fd)
    text = os.readlink(link)  # noqa: PTH115
    with Relinked(link, text[:-2] + ("1" if text[-2] != "1" else "2") + "]"):
        _, found = mismatches(one, tree)
    assert [(m["where"], m["row"], m["field"]) for m in found] == [(f"{pid}/fd", str(fd), "name")]
    assert found[0]["memory"] == text
    with Relinked(link, None), Changed(info, None):
        _, found = mismatches(one, tree)
    assert [(m["where"], m["row"], m["procfs"], m["memory"]) for m in found] == [
        (f"{pid}/fd", str(fd), "not there", text)
    ]
    assert "77" not in [str(e["fd"]) for e in account["fds"]]
    with Relinked(link.parent / "77", "/dev/null"), Relinked(info.parent / "77", str(info)):
        _, found = mismatches(one, tree)
    assert [(m["where"], m["row"], m["procfs"], m["memory"]) for m in found] == [
        (f"{pid}/fd", "77", "there", "not found")
    ]
    assert mismatches(one, tree)[1] == []


def test_fd_of_a_thread_with_a_table_of_its_own(one: Core, trees: Callable[[Core], Path]) -> None:
    tree = trees(one)
    (thread,) = (
        p
        for p in one.accounts["threads"]["processes"]
        if p["role"] == "thread with a table of its own"
    )
    where, fd = f"{thread['pid']}/task/{thread['tid']}/fd", thread["fds"][0]["fd"]
    with Relinked(tree / where / str(fd), "/no/such"):
        _, found = mismatches(one, tree)
    assert [(m["where"], m["row"], m["field"]) for m in found] == [(where, str(fd), "name")]


def test_process_that_memory_does_not_have(one: Core, trees: Callable[[Core], Path]) -> None:
    tree = trees(one)
    (tree / "99999" / "fd").mkdir(parents=True)
    try:
        _, found = mismatches(one, tree)
    finally:
        shutil.rmtree(tree / "99999")
    assert [(m["where"], m["memory"]) for m in found] == [("99999", "not found")]


def test_sosreport_has_only_net_files(one: Core, tmp_path: Path) -> None:
    """sosreport saves /proc/net and no uptime, no processes."""
    (tmp_path / "net").mkdir()
    for file in NET_FILES:
        source = net_path(one.oracle, file)
        if source.exists():
            (tmp_path / "net" / file).write_bytes(source.read_bytes())
    done = one.run("check", "--procfs", str(tmp_path), "--moved")
    assert done.status == 0, done.out
    # TIME-WAIT that was over by the time of the core.
    ended = Counter(ENDED.findall(done.out))
    home = {f"net/{file}": 0 for file in NET_FILES}
    for file in NET_FILES:
        source = net_path(one.oracle, file)
        if source.exists():
            home[f"net/{file}"] = rows_in(file, source.read_bytes()) - ended[f"net/{file}"]
    assert counts_of(done.out) == {file: n for file, n in home.items() if n}
    # All that it was not given, it says.
    assert re.search(r"^not compared: \d+ processes whose fds are not saved", done.out, re.M)
    path = tmp_path / "net" / "tcp"
    lines = path.read_bytes().split(b"\n")
    row = chosen("tcp", lines)
    lines[row] = word_changed(10, last_digit)(lines[row])
    path.write_bytes(b"\n".join(lines))
    _, found = mismatches(one, tmp_path)
    assert [m["field"] for m in found] == ["ref"]


def test_not_a_procfs(one: Core, tmp_path: Path) -> None:
    for where, words in ((tmp_path, "not laid out"), (tmp_path / "none", "no such directory")):
        done = one.run("check", "--procfs", str(where))
        assert done.status == 2
        assert words in done.err
    done = one.run("check")
    assert done.status == 2
    assert "--procfs" in done.err


def test_counting_sees_what_it_counts(one: Core) -> None:
    """The numbers that are expected are not nothing: each file has rows of the workloads."""
    counts = Counter(expected_counts(one.oracle))
    for file in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6", "unix"):
        assert counts[f"net/{file}"] >= 5
    assert counts["PID/fd"] >= 900
    assert counts["PID/task/TID/fd"] >= 10


# Any value of any row: of files and fdinfo as memory has them, which therefore agree with it.


def judged(memory: compare.Memory, look: Look) -> list[Mismatch]:
    # Twice the same look, so that all that it says counts.
    return compare.Comparison(None, live=True).compare(look, memory, look).mismatches


@pytest.fixture(scope="module")
def memory(one: Core) -> compare.Memory:
    return compare.look_at_memory(one.prog)


def other(value: str) -> str:
    return value[:-1] + ("1" if value[-1:] != "1" else "2")


@pytest.mark.parametrize("file", SOCKET_FILES)
def test_every_column_of_every_row_is_compared(
    one: Core, memory: compare.Memory, file: str
) -> None:
    """Change a value: there is a mismatch, at that row."""
    key = one.home_netns, file
    if key not in memory.net:
        pytest.skip(f"{one.kernel} has no /proc/net/{file}")
    rows = [{**row} for row in memory.net[key]]
    assert not judged(memory, Look(net={key: rows}))
    pointer = FILES[file].pointer
    changed = 0
    # The first of each state, or of what is next to that, and the last.
    chosen = {row.get("st", row.get("St", row.get("Eth"))): i for i, row in enumerate(rows)}
    for i in sorted({*chosen.values(), 0}):
        for column, value in rows[i].items():
            # A time is not changed: it moves by itself.
            if column == "when":
                continue
            bad = [*rows[:i], {**rows[i], column: other(value)}, *rows[i + 1 :]]
            told = judged(memory, Look(net={key: bad}))
            assert told, (column, value)
            # As its own address is wrong, it and a socket that was not listed.
            assert len(told) <= 2, told
            assert all(m.where == f"net/{file} of netns {one.home_netns}" for m in told)
            assert any(m.field == column for m in told) or len(told) == 2
            changed += column != pointer
    assert changed >= 6
    told = judged(memory, Look(net={key: rows[1:]}))
    assert [(m.procfs, m.memory) for m in told] == [("not there", "there")]
    told = judged(memory, Look(net={key: [*rows, rows[0]]}))
    assert [m.memory for m in told] == ["not found"]


def test_every_field_of_every_fd_is_compared(one: Core, memory: compare.Memory) -> None:
    """The same of /proc/PID/fd and fdinfo, as procfs had them."""
    pid = one.accounts["tcp_echo"]["processes"][1]["pid"]
    table = ProcTree(str(one.oracle)).fds(str(pid))
    assert table
    assert not judged(memory, Look(fds={(pid, None): table}))
    for fd, said in table.items():
        assert said.info and said.name
        for column, value in said.info.items():
            bad = {**table, fd: said._replace(info={**said.info, column: other(value)})}
            told = judged(memory, Look(fds={(pid, None): bad}))
            assert [(m.where, m.row, m.field) for m in told] == [(f"{pid}/fd", str(fd), column)]
        bad = {**table, fd: said._replace(name=said.name + b"x")}
        told = judged(memory, Look(fds={(pid, None): bad}))
        assert [(m.row, m.field) for m in told] == [(str(fd), "name")]
        fewer = {n: s for n, s in table.items() if n != fd}
        told = judged(memory, Look(fds={(pid, None): fewer}))
        assert [(m.row, m.procfs) for m in told] == [(str(fd), "not there")]
        told = judged(memory, Look(fds={(pid, None): {**table, 4000: said}}))
        assert [(m.row, m.memory) for m in told] == [("4000", "not found")]
