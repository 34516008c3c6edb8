# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``procfs``: is it what the kernel wrote, to the byte?

Every file of every network namespace that was saved, line by line. What may differ is what names
a moment, and that is listed in views/procfs/moments.py and nowhere else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from drgn_sockets.kernel.timekeeping import clock
from drgn_sockets.views.procfs import FILES
from drgn_sockets.views.procfs.moments import MOMENTS, How
from tests import tables

from .conftest import opened
from .machine import Core, Done

#: Of rows that begin with a number: which word each column is in, and which part of it.
TCP_PLACES = {
    **{"st": (3, 0), "tx_queue": (4, 0), "rx_queue": (4, 1), "tr": (5, 0), "when": (5, 1)},
    **{"retrnsmt": (6, 0), "uid": (7, 0), "timeout": (8, 0), "inode": (9, 0), "ref": (10, 0)},
    **{"rto": (12, 0), "ato": (13, 0), "quick_pingpong": (14, 0), "cwnd": (15, 0)},
    **{"ssthresh": (16, 0), "drops": (12, 0)},
}
#: A file is read in no time, and the clock ticks.
SLACK_S = 0.5
#: For how long the timer of TIME-WAIT is set.
TIMEWAIT_S = 60


class Saved(NamedTuple):
    """A saved file, and the same of the core."""

    netns: int
    name: str
    theirs: list[bytes]
    ours: list[bytes]


def printed(core: Core, *argv: str) -> tuple[Done, bytes]:
    done = core.run("procfs", *argv)
    return done, os.fsencode(done.out)


def files(core: Core) -> Iterator[Saved]:
    """Every saved file that we provide, of every namespace."""
    for path in sorted((core.oracle / "netns").glob("*/net/*")):
        netns, name = int(path.parts[-3]), path.name
        if name in FILES:
            done, ours = printed(core, f"net/{name}", "--netns", str(netns))
            assert (done.status, done.err) == (0, ""), (netns, name)
            theirs = path.read_bytes()
            yield Saved(netns, name, *(text.split(b"\n") for text in (theirs, ours)))


def elapsed_s(core: Core) -> tuple[float, float]:
    """From the capture of procfs to the machine's stop: at least, and at most."""
    # The file that tells the time was saved after the others.
    saved = float((core.oracle / "uptime").read_text().split()[0])
    passed = clock(core.prog).uptime_s() - saved
    assert 0 <= passed < 600
    return passed, passed + core.manifest["seconds"]["net"] + SLACK_S


def timer(line: bytes) -> tuple[bytes, float]:
    """Which timer runs, and how long it has, s."""
    words = line.split()
    kind, _, left = words[5].partition(b":")
    return kind, int(left, 16) / 100


def excepted(name: str) -> dict[str, How]:
    return {c: m.how for m in MOMENTS if name in m.files for c in m.columns}


def parts(name: str, line: bytes) -> dict[str, bytes]:
    """What a line says, by its columns, and what is between them."""
    if name.startswith("sockstat"):
        words = re.findall(rb"(\w+) (\d+)", line)
        between = re.sub(rb"(\w+) \d+", rb"\1", line)
        return {"between": between, **{word.decode(): value for word, value in words}}
    found: dict[str, bytes] = {}
    words = line.split()
    if name == "protocols":
        found = {"sockets": words[2], "memory": words[3]}
        places = {2, 3}
    else:
        columns = excepted(name)
        places = set()
        for column in columns:
            word, part = TCP_PLACES[column]
            if word < len(words):
                found[column] = words[word].split(b":")[part]
                places.add(word)
    # All that is in other words, and where words are, but for how long these are.
    pieces = re.split(rb"(\s+)", line.strip())
    kept = [b"" if i % 2 == 0 and i // 2 in places else piece for i, piece in enumerate(pieces)]
    # Padded is up to a width.
    padded = b"%d" % len(line) if line.endswith(b" ") else b""
    split = re.split(rb"\S+", line)[0]
    between = b"|".join([split, *kept, padded])
    for word in places:
        if word < len(words):
            others = [
                part
                for i, part in enumerate(words[word].split(b":"))
                if (word, i) not in {TCP_PLACES.get(c) for c in found}
            ]
            between += b"|" + b":".join(others)
    return {"between": between, **found}


def judge(
    saved: Saved, theirs: bytes, ours: bytes, passed: tuple[float, float], due_in_all: int
) -> list[tuple[str, bytes, bytes]]:
    """What of two lines differs and may not."""
    if theirs == ours:
        return []
    how = excepted(saved.name)
    before, after = (parts(saved.name, line) for line in (theirs, ours))
    tcp = saved.name.startswith("tcp")
    kind, left = timer(theirs) if tcp else (b"00", 0.0)
    least, most = passed
    fired = kind != b"00" and left <= most
    wrong = []
    for column in before.keys() | after.keys():
        was, is_ = before.get(column), after.get(column)
        if was == is_:
            continue
        good = False
        if was is None or is_ is None:
            pass
        elif how.get(column) is How.DOWN:
            now = int(is_, 16) / 100
            good = fired or least - SLACK_S <= left - now <= most
            # The other end of a connection in TIME-WAIT sent its last segment once more.
            good = good or (kind == b"03" and left - least < now <= TIMEWAIT_S)
        elif how.get(column) is How.GROWS:
            good = int(is_) > int(was)
        elif how.get(column) is How.SHRINKS:
            good = int(is_) - int(was) <= due_in_all
        elif how.get(column) is How.TIMER:
            if tcp:
                good = fired
            elif column in ("mem", "memory"):
                good = due_in_all > 0
            else:
                good = abs(int(is_) - int(was)) <= due_in_all
        if not good:
            wrong.append((column, was or b"", is_ or b""))
    return wrong


def due(theirs: list[bytes], passed: tuple[float, float]) -> list[bytes]:
    """Rows of TCP sockets whose timer may have fired since."""
    rows = [line for line in theirs if line and b"local_address" not in line]
    return [line for line in rows if timer(line)[0] != b"00" and timer(line)[1] <= passed[1]]


def sl(line: bytes) -> bytes:
    return line.partition(b": ")[2]


def without_the_gone(saved: Saved, passed: tuple[float, float]) -> tuple[list[bytes], list[bytes]]:
    """TCP's rows without their numbers, and without those that a timer has removed since."""
    head, *rows = saved.theirs
    addresses = {line.split()[11] for line in saved.ours[1:-1]}
    gone = [r for r in due(rows, passed) if r.split()[11] not in addresses]
    numbers = [line.partition(b":")[0] for line in saved.ours[1:-1]]
    assert numbers == [b"%4d" % i for i in range(len(numbers))]
    theirs = [head, *(sl(r) for r in rows[:-1] if r not in gone), rows[-1]]
    ours = [saved.ours[0], *map(sl, saved.ours[1:-1]), saved.ours[-1]]
    return [b"n: " + r if r else r for r in theirs], [b"n: " + r if r else r for r in ours]


def test_every_line_of_every_file(elf: Core) -> None:
    passed = elapsed_s(elf)
    everything = list(files(elf))
    fired = sum(len(due(s.theirs, passed)) for s in everything if s.name.startswith("tcp"))
    names = set()
    for saved in everything:
        theirs, ours = saved.theirs, saved.ours
        if saved.name.startswith("tcp"):
            theirs, ours = without_the_gone(saved, passed)
        # The last is what comes after the last newline: nothing.
        assert theirs[-1] == ours[-1] == b""
        assert len(theirs) == len(ours), (saved.netns, saved.name)
        wrong = [
            (there, here, *what)
            for there, here in zip(theirs, ours)
            for what in judge(saved, there, here, passed, fired)
        ]
        moments = [m for m in MOMENTS if saved.name in m.files]
        columns = "; ".join(f"{', '.join(m.columns)}: {m.how.value}" for m in moments)
        lines = len(theirs) - 1
        differ = len({line for line, *_ in wrong})
        row = f"net/{saved.name}"
        tables.note("procfs", row, elf.kernel, lines, lines - differ, excepted=columns)
        assert not wrong, (saved.netns, saved.name, wrong[:3])
        names.add(saved.name)
    there = {p.name for p in elf.oracle.glob("netns/*/net/*")}
    assert names == there & FILES.keys()


def test_files_that_do_not_move_are_equal_as_a_whole(elf: Core) -> None:
    """Of these not one byte is excepted."""
    still = [s for s in files(elf) if not excepted(s.name)]
    assert {s.name for s in still} >= {"unix", "udp", "udp6", "icmp", "icmp6"}
    for saved in still:
        assert saved.theirs == saved.ours, (saved.netns, saved.name)
    assert sum(len(s.ours) for s in still if s.name == "unix") > 100


def test_a_moment_is_that_of_all_rows(elf: Core) -> None:
    """Countdowns of one file have all gone on by the same time, which is what has passed."""
    least, most = elapsed_s(elf)
    compared = 0
    for saved in files(elf):
        if saved.name.startswith("tcp"):
            gone_by = []
            ours = {line.split()[11]: line for line in saved.ours[1:-1]}
            for line in saved.theirs[1:-1]:
                mine = ours.get(line.split()[11], line)
                kind, left = timer(line)
                if kind not in (b"00", b"03") and left > most:
                    assert timer(mine)[0] == kind
                    gone_by.append(left - timer(mine)[1])
            assert all(least - SLACK_S <= by <= most for by in gone_by)
            assert not gone_by or max(gone_by) - min(gone_by) <= SLACK_S
            compared += len(gone_by)
    assert compared > 10


def test_as_a_process(one: Core) -> None:
    """Bytes, whatever they are: what a shell sees."""
    for name in ("unix", "icmp", "protocols"):
        done = one.spawn("procfs", f"net/{name}")
        assert (done.returncode, done.stderr) == (0, b"")
        there = one.oracle / "netns" / str(one.home_netns) / "net" / name
        assert done.stdout == there.read_bytes()


def test_distilled(elf: Core) -> None:
    distilled = opened(elf.kernel, "distilled")
    asked = [(f"net/{s.name}", "--netns", str(s.netns)) for s in files(elf)]
    assert len(asked) > 40
    for argv in asked:
        whole = printed(elf, *argv)
        assert printed(distilled, *argv) == whole
        assert printed(distilled, *argv, "--real-pointers") == whole
    # Of namespaces that no process lives in there is one as well.
    saved = {netns for _, _, netns in asked}
    done, _ = printed(elf, "net/tcp", "--netns", "nonesuch")
    lonely = set(re.findall(r"\d{10}", done.err.partition("there are")[2])) - saved
    assert lonely
    for netns in lonely:
        for name in FILES:
            argv = (f"net/{name}", "--netns", netns)
            assert printed(distilled, *argv) == printed(elf, *argv)


def processes(core: Core) -> dict[int, int]:
    """A process of each network namespace, by the namespace."""
    found: dict[int, int] = {}
    for path in core.oracle.iterdir():
        if path.name.isdecimal() and (path / "net").is_symlink():
            link = Path(os.readlink(path / "net"))  # noqa: PTH115
            found.setdefault(int(link.parts[-2]), int(path.name))
    return found


def test_paths(one: Core) -> None:
    found = processes(one)
    assert len(found) > 2
    for netns, pid in found.items():
        expected = (one.oracle / "netns" / str(netns) / "net/unix").read_bytes()
        for path in (
            *(f"{pid}/net/unix", f"/proc/{pid}/net/unix"),
            *(f"{pid}/task/{pid}/net/unix", f"/proc/{pid}/task/{pid}/net/unix"),
        ):
            assert printed(one, path)[1] == expected, path
    home = (one.oracle / "net/unix").read_bytes()
    assert printed(one, "net/unix")[1] == printed(one, "/proc/net/unix")[1] == home
    # Several, as cat has them.
    assert printed(one, "net/unix", "net/icmp", "net/unix")[1] == b"".join(
        [home, (one.oracle / "net/icmp").read_bytes(), home]
    )


def test_other_forms(one: Core) -> None:
    """Lines as records, with the names of what is in them."""
    rows = one.rows("procfs", "net/udp", "net/raw")
    text = printed(one, "net/udp")[1] + printed(one, "net/raw")[1]
    assert [row["line"] for row in rows] == text.decode().splitlines()
    assert {(row["file"], row["netns"]) for row in rows} == {
        *(("udp", one.home_netns), ("raw", one.home_netns))
    }


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], ["which file", "net/tcp, ", "net/protocols"]),
        (["net/snmp"], ["net/snmp: not provided", "net/tcp, ", "net/sockstat6"]),
        (["net/tcp7"], ["not provided", "net/tcp6"]),
        (["net/sockstat5"], ["not provided", "did you mean 'net/sockstat"]),
        (["tcp"], ["tcp: not provided", "net/tcp"]),
        (["/etc/passwd"], ["not provided"]),
        (["net/"], ["not provided"]),
        (["x/net/tcp"], ["not provided"]),
        (["99999/net/tcp"], ["no process 99999"]),
        (["self/net/tcp"], ["has no 'self'"]),
        (["1/net/tcp", "--netns", "5"], ["leave out --netns"]),
        (["net/tcp", "--netns", "x"], ["no network namespace x", "there are ", "4026"]),
        (["net/tcp", "nope"], ["nope: not provided"]),
    ],
)
def test_mistakes(one: Core, argv: list[str], words: list[str]) -> None:
    done, text = printed(one, *argv)
    assert (done.status, text) == (2, b"")
    assert done.err.count("\n") == 1
    assert all(word in done.err for word in words), done.err


def test_a_file_that_this_kernel_lacks(elf: Core) -> None:
    there = {p.name for p in (elf.oracle / "net").iterdir()}
    for name in FILES:
        done, _ = printed(elf, f"net/{name}")
        if name in there:
            assert done.status == 0
        else:
            assert done.status == 2
            assert f"net/{name}: this kernel has none; there are net/tcp, " in done.err
            assert f"net/{name}," not in done.err.partition("there are")[2]


def test_a_task_without_a_namespace(one: Core) -> None:
    zombies = [p["pid"] for a in one.accounts.values() for p in a["processes"] if p.get("zombie")]
    assert zombies
    done, _ = printed(one, f"{zombies[0]}/net/tcp")
    assert done.status == 2 and "has no network namespace" in done.err
