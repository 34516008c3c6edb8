# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``procfs -o DIR``: what is in it is what procfs had, tools read it, and ``check`` finds no fault.

The last is our word against our own; so each file and link is also held against what was saved of
procfs, and what ``ss`` makes of it against what ``ss`` printed on that machine.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from drgn_sockets.views.procfs import FILES
from drgn_sockets.views.procfs.moments import MOMENTS
from drgn_sockets.views.procfs.pid import LINKS, PID_FILES
from tests import tables

from . import saved as fdinfos
from .machine import Core, spawn
from .saved import differences, processes, saved_fds, threads, with_fds
from .ss_text import SsRow, parse_ss

#: States that last a minute at most.
BRIEF = (*("TIME-WAIT", "SYN-RECV", "SYN-SENT", "FIN-WAIT-1", "FIN-WAIT-2", "LAST-ACK", "CLOSING"),)
#: What the port of a raw socket is, which ss calls by its protocol.
RAW = ("0.0.0.0:6", "0.0.0.0:17")


def assert_tells_what_is_unknown(core: Core, err: str) -> None:
    """A line for each kind of file that types of modules would tell, which the kernel has not."""
    unknown = [kind for kernel, kind in fdinfos.NO_TYPES if kernel == core.kernel]
    assert [kind for kind in unknown if f" {kind}: " in err] == unknown
    assert err.count("\n") == len(unknown)


class Trees:
    """A tree of each kernel, written once."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._made: dict[str, Path] = {}

    def of(self, core: Core) -> Path:
        if core.kernel not in self._made:
            # ss has room for 127 bytes of a path.
            path = self._factory.mktemp("t") / "t"
            done = core.run("procfs", "-o", str(path))
            assert (done.status, done.out) == (0, "")
            assert_tells_what_is_unknown(core, done.err)
            assert [p.name for p in path.parent.iterdir()] == ["t"]
            self._made[core.kernel] = path
        return self._made[core.kernel]


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    return Trees(tmp_path_factory)


@pytest.fixture
def tree(one: Core, trees: Trees) -> Path:
    return trees.of(one)


def text_of(link: Path) -> bytes:
    return os.readlink(os.fsencode(link))  # noqa: PTH115


def test_check_finds_no_fault(one: Core, tree: Path) -> None:
    done = one.run("check", "--procfs", str(tree))
    assert done.status == 0, done.out
    last = done.out.splitlines()[-1]
    assert last.endswith(" 0 moved between looks; 0 mismatches")
    counts = dict(re.findall(r"^(\S+) +(\d+) rows compared", done.out, re.MULTILINE))
    saved = one.run("check", "--procfs", str(one.oracle)).out
    theirs = dict(re.findall(r"^(\S+) +(\d+) rows compared", saved, re.MULTILINE))
    # All that procfs had, and process 1 and the oracle, which it left out.
    assert counts.keys() >= theirs.keys()
    assert int(counts["PID/fd"]) > int(theirs["PID/fd"])


def test_files_of_processes(one: Core, tree: Path) -> None:
    wrong = []
    compared = 0
    for saved in (*processes(one), *threads(one)):
        for file in PID_FILES:
            if (saved.path / file).exists():
                theirs = (saved.path / file).read_bytes()
                ours = (tree / saved.name / file).read_bytes()
                wrong += differences(saved, file, theirs, ours)
                compared += 1
    assert not wrong, wrong[:10]
    assert compared > 500


def test_links_of_processes(one: Core, tree: Path) -> None:
    for saved in processes(one):
        there = tree / saved.name
        for name in (*LINKS, "net"):
            ours, theirs = there / name, saved.path / name
            assert ours.is_symlink() == theirs.is_symlink(), ours
            if theirs.is_symlink():
                assert text_of(ours) == text_of(theirs)
        names = {p.name: text_of(p) for p in (saved.path / "ns").iterdir()}
        assert {p.name: text_of(p) for p in (there / "ns").iterdir()} == names


def test_fds(one: Core, tree: Path) -> None:
    compared = 0
    for name, theirs in with_fds(one):
        assert saved_fds(tree / name) == theirs, name
        compared += len(theirs)
    assert compared > 1500
    # What is too long for readlink is not lost.
    too_long = list(one.oracle.glob("*/fd.json"))
    assert too_long and len(too_long) == len(list(tree.glob("*/fd.json")))
    for path in too_long:
        entries = json.loads((tree / path.parent.name / "fd.json").read_text())
        assert entries.keys() == json.loads(path.read_text()).keys()
        assert all(len(os.fsencode(entry["link"])) > 4095 for entry in entries.values())


def test_threads(one: Core, tree: Path) -> None:
    """Those that share their process's table, and those that have their own."""
    own = shared = 0
    for path in one.oracle.glob("*/task/*"):
        if int(path.name) in one.ended:
            continue
        there = tree / path.relative_to(one.oracle)
        if (path / "fd").is_dir():
            assert not (there / "fd").is_symlink()
            own += 1
        else:
            assert text_of(there / "fd") == b"../../fd"
            assert text_of(there / "fdinfo") == b"../../fdinfo"
            assert (there / "fd").is_dir() and (there / "fdinfo").is_dir()
            shared += 1
    assert own and shared > 100


def test_fdinfo(one: Core, tree: Path) -> None:
    compared = 0
    for record, expected in fdinfos.files(one):
        table = record.table
        where = f"{table.pid}" if table.tid is None else f"{table.pid}/task/{table.tid}"
        ours = (tree / where / "fdinfo" / str(record.fd)).read_bytes()
        kind = fdinfos.of_kind(record)
        if (one.kernel, kind) in fdinfos.NO_TYPES:
            continue
        equal = fdinfos.without_moments(kind, ours) == fdinfos.without_moments(kind, expected)
        assert equal, (where, record.fd, ours, expected)
        compared += 1
    assert compared > 1000


def test_net(one: Core, tree: Path) -> None:
    """Of what names no moment each byte; of the rest what ``procfs`` prints, which is tested."""
    moving = {name for m in MOMENTS for name in m.files}
    exact = 0
    for path in sorted((one.oracle / "netns").glob("*/net/*")):
        if path.name not in FILES:
            continue
        ours = (tree / path.relative_to(one.oracle)).read_bytes()
        if path.name in moving:
            netns = path.parts[-3]
            done = one.run("procfs", f"net/{path.name}", "--netns", netns)
            assert ours == os.fsencode(done.out)
        else:
            assert ours == path.read_bytes(), path
            exact += 1
    assert exact > 20
    assert text_of(tree / "net") == text_of(one.oracle / "net")


# ss.


@pytest.fixture(scope="module")
def ss() -> str:
    found = shutil.which("ss")
    if found is None:
        pytest.skip("there is no ss here; tests/guest has one")
    return found


def ss_lines(ss: str, root: Path) -> list[str]:
    """What ss makes of a ``/proc``, with its padding taken away."""
    done = subprocess.run(
        [ss, "-tuxpanO"],
        env={**os.environ, "PROC_ROOT": str(root)},
        stdout=subprocess.PIPE,
        check=True,
        timeout=120,
    )
    return [re.sub(" +", " ", line) for line in os.fsdecode(done.stdout).split("\n")]


def without_brief(lines: Iterable[str]) -> list[str]:
    return [line for line in lines if line.split(" ")[1:2] not in [[state] for state in BRIEF]]


def test_ss_prints_the_same(one: Core, tree: Path, ss: str, tmp_path: Path) -> None:
    """As of the procfs of that machine, which was saved."""
    (tmp_path / "o").symlink_to(one.oracle)
    theirs, ours = (ss_lines(ss, root) for root in (tmp_path / "o", tree))
    assert without_brief(ours) == without_brief(theirs)
    assert len(without_brief(ours)) > 500
    gone = Counter(theirs) - Counter(ours)
    assert not Counter(ours) - Counter(theirs)
    assert all(line.split(" ")[1] in BRIEF for line in gone)
    tables.note(
        *("PROC_ROOT=DIR ss -tuxpan", "rows", one.kernel, len(theirs), len(ours)),
        excepted="those in " + ", ".join(BRIEF) + " when procfs was saved, some of which were over "
        "when the machine was stopped, up to a minute later",
    )


def inet(row: SsRow) -> tuple[object, ...]:
    """What ss can tell of a socket by procfs as well as by netlink."""
    ends = (re.sub(r"%[^:\]]+(?=[:\]])", "", end) for end in (row.local, row.peer))
    # Whether :: takes IPv4 as well is in no file of procfs.
    local, peer = (re.sub(r"^\[::\]:", "*:", end) for end in ends)
    # Nor is the backlog that a listener may have.
    send_q = 0 if row.state == "LISTEN" else row.send_q
    return row.netid, row.state, row.recv_q, send_q, local, peer, tuple(sorted(row.users))


def test_ss_printed_the_same_there(one: Core, tree: Path, ss: str) -> None:
    """What ss printed on that machine, asking the kernel."""
    ours = ss_lines(ss, tree)
    there = [row for row in one.ss_rows if row.netns == one.home_netns]
    mine = parse_ss("\n".join(line for line in ours if line.startswith(("tcp ", "udp "))))
    theirs, mine = (
        [r for r in rows if r.netid in ("tcp", "udp") and r.state not in BRIEF]
        for rows in ([r for r in there if r.local not in RAW], mine)
    )
    compare(map(inet, theirs), map(inet, mine))
    # Of unix sockets procfs has neither peers nor queues, and of a name ss reads a word there.
    text = "\n".join(ours)
    compared = 0
    for row in there:
        if row.netid.startswith("u_") and row.ino and not re.search(r"\s", row.local):
            # In the order of the directory.
            users = [f'("{comm}",pid={pid},fd={fd})' for comm, pid, fd in row.users]
            any_of = "|".join(map(re.escape, users))
            end = rf" users:\((?:(?:{any_of}),?){{{len(users)}}}\)" if users else ""
            begin = re.escape(f"{row.local} {row.ino} * 0")
            pattern = rf"^{row.netid} \S+ 0 0 {begin}{end} ?$"
            assert len(re.findall(pattern, text, re.MULTILINE)) == 1, pattern
            compared += 1
    assert compared > 100


def compare(theirs: Iterable[tuple[object, ...]], ours: Iterable[tuple[object, ...]]) -> None:
    before, after = Counter(theirs), Counter(ours)
    assert sum(before.values()) > 50
    wrong = sorted(map(str, before - after)), sorted(map(str, after - before))
    assert wrong == ([], []), wrong


# Bad input, and ends that come too soon.


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("full", "is there, and not empty"),
        ("file", "is not a directory"),
        ("link", "is not a directory"),
        ("none/tree", "No such file or directory"),
        ("file/tree", "Not a directory"),
        ("n" * 300, "File name too long"),
    ],
)
def test_bad_output(one: Core, tmp_path: Path, place: str, words: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("empty")
    before = sorted(tmp_path.rglob("*"))
    done = one.run("procfs", "-o", str(tmp_path / place))
    assert (done.status, done.out) == (2, "")
    assert done.err.count("\n") == 1 and words in done.err
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_usage(one: Core, tmp_path: Path) -> None:
    for argv in (["net/tcp"], ["--netns", "1"]):
        done = one.run("procfs", "-o", str(tmp_path / "tree"), *argv)
        assert done.status == 2 and "leave out PATH and --netns" in done.err
    assert not list(tmp_path.iterdir())


def test_an_empty_directory_is_as_good_as_none(one: Core, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    assert one.run("procfs", "-o", str(tmp_path / "t")).status == 0
    assert (tmp_path / "t/net/tcp").exists() and (tmp_path / "t").stat().st_mode & 0o777 == 0o700
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def _limit() -> None:
    # A full disk, for one process.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def test_full_disk(one: Core, tmp_path: Path) -> None:
    there = tmp_path / "tree"
    done = spawn(*one.target, "procfs", "-o", str(there), preexec_fn=_limit)
    assert done.returncode == 2
    last = done.stderr.decode().splitlines()[-1]
    assert last == f"drgn-sockets: cannot write {there}: File too large"
    assert b"Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ended_while_it_writes(one: Core, tmp_path: Path, number: int) -> None:
    there = tmp_path / "tree"
    argv = [sys.executable, "-m", "drgn_sockets", *one.target, "procfs", "-o", str(there)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".tree.*.part/*/stat")) and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(number)
        process.wait(60)
        assert process.stderr is not None and b"Traceback" not in process.stderr.read()
    assert process.returncode in (-number, 128 + number)
    assert not list(tmp_path.iterdir())


def test_distilled(one: Core, tree: Path, tmp_path: Path) -> None:
    """The same but for memory of processes."""
    from .conftest import opened

    done = opened(one.kernel, "distilled").run("procfs", "-o", str(tmp_path / "t"))
    assert done.status == 0
    assert_tells_what_is_unknown(one, done.err)
    for path in (*tree.rglob("*"),):
        other = tmp_path / "t" / path.relative_to(tree)
        if path.name == "cmdline":
            assert not other.exists()
        elif path.is_symlink():
            assert text_of(other) == text_of(path)
        elif path.is_file():
            assert other.read_bytes() == path.read_bytes(), path
