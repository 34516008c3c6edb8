# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``fds`` shows of what is asked for, and its summary, against procfs, lsof and ss."""

from __future__ import annotations

import collections
import json
import os
import re
from collections.abc import Iterable

import pytest

from .machine import Core, Row
from .open_files import has_no_leader, lsof_entries, ran_then

Place = tuple[int, str]


def places(rows: Iterable[Row]) -> set[Place]:
    """Process and fd of rows; threads with tables of their own aside."""
    return {(row["pid"], str(row["fd"])) for row in rows if row["tid"] is None}


def by_lsof(core: Core, **wanted: str) -> set[Place]:
    """Files of processes of which lsof has these fields."""
    return {
        (entry.pid, entry.fields["f"])
        for entry in lsof_entries(core)
        if entry.task == 0
        and ran_then(core, entry.pid)
        and not has_no_leader(core.oracle, entry.pid)
        and wanted.items() <= entry.fields.items()
        and not entry.fields["f"].startswith("*")
    }


def settled(core: Core, found: set[Place]) -> set[Place]:
    # Of long numbers lsof shows the end.
    return {p for p in found if ran_then(core, p[0]) and not (p[1].isdigit() and len(p[1]) > 4)}


@pytest.mark.parametrize(
    "path", ["/usr/bin/python3.11", "/usr/lib/x86_64-linux-gnu/libc.so.6", "/dev/null", "/"]
)
def test_a_path(one: Core, path: str) -> None:
    found = one.rows("fds", path)
    expected = by_lsof(one, n=path)
    # Two of these workloads' directories are roots of others' mounts.
    assert expected
    assert settled(one, places(found)) >= expected
    assert {row["name"] for row in found} == {path}


def test_a_deleted_path(one: Core) -> None:
    held = [
        (entry.pid, entry.fields["f"], entry.fields["n"])
        for entry in lsof_entries(one)
        if entry.fields["n"].endswith("fd_zoo/gone (deleted)")
    ]
    assert held
    path = held[0][2][: -len(" (deleted)")]
    assert places(one.rows("fds", path)) == {(pid, fd) for pid, fd, _ in held}


def test_the_path_of_a_unix_socket(one: Core) -> None:
    path = "/tmp/drgn-sockets/unix_fork/test.sock"
    expected = {
        (entry.pid, entry.fields["f"])
        for entry in lsof_entries(one)
        if entry.fields["t"] == "unix" and entry.fields["n"].split(" ")[0] == path
    }
    assert len(expected) > 1
    assert places(one.rows("fds", path)) == expected
    assert places(one.rows("fds", "@ds-full")) == {
        (entry.pid, entry.fields["f"])
        for entry in lsof_entries(one)
        if entry.fields["n"].startswith("@ds-full ")
    }


def test_an_inode(one: Core) -> None:
    libc = next(e.fields for e in lsof_entries(one) if e.fields["n"].endswith("/libc.so.6"))
    dev = int(libc["D"], 16)
    text = f"{os.major(dev)}:{os.minor(dev)}:{libc['i']}"
    expected = by_lsof(one, i=libc["i"], D=libc["D"])
    assert settled(one, places(one.rows("fds", "--inode", text))) == expected
    assert settled(one, places(one.rows("fds", "--inode", libc["i"]))) >= expected
    assert one.run("fds", "--inode", f"0:999:{libc['i']}").status == 1


@pytest.mark.parametrize(
    "kind, names",
    [
        ("tun", r"/dev/net/tun"),
        ("bpf_map", r"anon_inode:bpf-map"),
        ("bpf-map", r"anon_inode:bpf-map"),
        ("ptmx,tty", r"/dev/ptmx|/dev/pts/\d+|/dev/(tty|console).*"),
    ],
)
def test_a_kind(one: Core, kind: str, names: str) -> None:
    """By the column ``kind``, and by what is told apart by file operations."""
    expected = {
        (process["pid"], str(entry["fd"]))
        for account in one.accounts.values()
        for process in account["processes"]
        for entry in process["fds"]
        if re.fullmatch(names, entry["name"] or "") and entry["access"] != "path"
    }
    found = one.rows("fds", "--kind", kind)
    assert len(expected) > 1
    assert places(found) >= expected
    assert [row["name"] for row in found if not re.fullmatch(names, row["name"])] == []


def test_a_port(one: Core) -> None:
    """In the network namespace of the tools; both ends of its connections."""
    checked = 0
    for port in ("22222", "23306"):
        expected = {
            (entry.pid, entry.fields["f"])
            for entry in lsof_entries(one)
            if entry.task == 0
            and entry.fields["t"] in ("IPv4", "IPv6")
            and any(end.endswith(f":{port}") for end in entry.fields["n"].split("->"))
        }
        assert expected
        assert places(one.rows("fds", f":{port}")) == expected
        # One of its addresses less.
        local = {p for p in expected if p in places(one.rows("fds", f"127.0.0.1:{port}"))}
        assert local
        checked += len(expected)
    assert checked > 5


def test_sorts_of_words(one: Core) -> None:
    """Words of one sort are alternatives; of each sort one has to fit."""
    rows = one.rows("fds")
    zoo = one.accounts["fd_zoo"]["processes"][0]
    other = one.accounts["tcp_echo"]["processes"][1]
    pids = {zoo["pid"], other["pid"]}
    both = one.rows("fds", str(zoo["pid"]), other["comm"], "--kind", "chr,reg", "--fd", "0-1,5-")
    assert both == [
        row
        for row in rows
        if row["pid"] in pids
        and row["kind"] in ("chr", "reg")
        and (row["fd"] in (0, 1) or row["fd"] >= 5)
    ]
    assert {row["pid"] for row in both} == pids
    assert one.rows("fds", "--pid", f"{zoo['pid']},{other['pid']}") == [
        row for row in rows if row["pid"] in pids
    ]
    assert one.rows("fds", "--command", other["comm"]) == one.rows("fds", other["comm"])
    null = one.rows("fds", "/dev/null", str(other["pid"]))
    assert null
    assert {(row["pid"], row["name"]) for row in null} == {(other["pid"], "/dev/null")}


def test_users(one: Core) -> None:
    """As /proc/PID/status has their effective IDs."""
    rows = one.rows("fds")
    by_uid: dict[str, set[int]] = collections.defaultdict(set)
    for directory in one.oracle.iterdir():
        if directory.name.isdecimal():
            lines = (directory / "status").read_text(errors="replace").splitlines()
            uids = next(line.split() for line in lines if line.startswith("Uid:"))
            by_uid[uids[2]].add(int(directory.name))
    for uid, pids in by_uid.items():
        wanted = [row for row in rows if row["pid"] in pids]
        found = one.rows("fds", "--user", uid)
        assert [row for row in found if ran_then(one, row["pid"])] == wanted
        assert {row["uid"] for row in found} <= {int(uid)}
    assert one.rows("fds", "--user", "root,4243") == one.rows("fds", "--user", "0")


def test_what_is_no_fd(one: Core) -> None:
    """cwd, root and exe as the links in procfs have them, of kernel threads too."""
    rows = one.rows("fds", "--fd", "cwd,rtd,txt")
    found = {(row["pid"], row["fd"]): row["name"] for row in rows if row["tid"] is None}
    seen = set()
    for directory in one.oracle.iterdir():
        if not directory.name.isdecimal() or int(directory.name) in one.ended:
            continue
        for name, fd in (("cwd", "cwd"), ("root", "rtd"), ("exe", "txt")):
            path = directory / name
            if path.is_symlink():
                key = (int(directory.name), fd)
                assert found[key] == os.fsdecode(os.readlink(os.fsencode(path)))  # noqa: PTH115
                seen.add(key)
    assert {key for key in found if ran_then(one, key[0])} == seen
    assert len(seen) > 250


def test_threads(one: Core) -> None:
    tasks = {
        (int(d.name), int(task.name))
        for d in one.oracle.iterdir()
        if d.name.isdecimal()
        for task in (d / "task").iterdir()
        # Of who has the table of its process there is no directory.
        if any((task if (task / "fdinfo").is_dir() else d).joinpath("fdinfo").iterdir())
    }
    rows = [r for r in one.rows("fds", "--threads") if ran_then(one, r["pid"])]
    assert {(row["pid"], row["tid"] or row["pid"]) for row in rows} == tasks
    assert len(tasks) > len({pid for pid, _ in tasks})
    shared = collections.defaultdict(set)
    for row in rows:
        shared[row["files"]].add(row["tid"])
    assert any(len(tids) > 1 for tids in shared.values())


def test_summary(one: Core) -> None:
    """Counts as the directory of fds has them, limits as /proc/PID/limits."""
    *rows, total = (
        json.loads(line) for line in one.run("fds", "--summary", "--json").out.splitlines()
    )
    kinds: dict[int, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    files = set()
    for row in one.rows("fds"):
        kinds[row["task"]][row["kind"]] += 1
        files.add((row["files"], row["fd"]))
    checked = 0
    for row in rows:
        if row["tid"] is not None or not ran_then(one, row["pid"]):
            continue
        directory = one.oracle / str(row["pid"])
        fds = [int(p.name) for p in (directory / "fdinfo").iterdir()]
        assert (row["fds"], row["highest"]) == (len(fds), max(fds))
        line = next(
            x
            for x in (directory / "limits").read_text().splitlines()
            if x.startswith("Max open files")
        )
        soft, hard = map(int, line.split()[3:5])
        assert (row["soft"], row["hard"]) == (soft, hard)
        assert row["used"] == len([fd for fd in fds if fd < soft]) / soft
        assert sum(row["kinds"].values()) == row["fds"]
        checked += 1
    assert checked > 50
    used = [row["used"] for row in rows]
    assert used == sorted(used, reverse=True)
    assert (total["command"], total["pid"], total["fds"]) == (None, None, len(files))
    only = one.run("fds", "--summary", "--json", "--kind", "pipe").out.splitlines()
    of_all = {row["pid"]: row for row in rows if row["tid"] is None}
    for each in map(json.loads, only[:-1]):
        assert each["kinds"] == {"pipe": of_all[each["pid"]]["kinds"]["pipe"]}
        # The limit is about all.
        if each["tid"] is None:
            assert each["used"] == of_all[each["pid"]]["used"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["999999"], ["no process 999999"]),
        (["nosuchcomm"], ["no process is called 'nosuchcomm'"]),
        (["--pid", "12x"], ["no process ID: '12x'"]),
        (["--command", "nosuchcomm"], ["no process is called"]),
        (["--kind", "sokc"], ["no such kind: 'sokc'", "did you mean 'sock'", "eventpoll"]),
        (["--user", "nosuchuser"], ["no user 'nosuchuser'", "user ID"]),
        (["--inode", "x"], ["no inode: 'x'"]),
        (["--inode", "1:2"], ["no inode: '1:2'"]),
        (["--fd", "2-1"], ["'2-1' ends before it begins"]),
        (["--fd", "cmd"], ["no fd: 'cmd'", "did you mean 'cwd'"]),
        ([":99999"], ["':99999'", "no port 99999"]),
        ([":nosuchservice"], ["':nosuchservice'"]),
        (["300.0.0.1:80"], ["no address: '300.0.0.1:80'"]),
        (["*:*"], ["--kind sock"]),
        (["--summary", "--all"], ["--summary counts fds"]),
        (["--lsof", "--output", "kind"], ["no such column: 'kind'"]),
    ],
)
def test_bad_input(one: Core, argv: list[str], words: list[str]) -> None:
    done = one.run("fds", *argv)
    assert (done.status, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert all(word in done.err for word in words), done.err


def test_a_thread(one: Core) -> None:
    threads = [
        process
        for account in one.accounts.values()
        for process in account["processes"]
        if process["tid"] != process["pid"]
    ]
    process = threads[0]
    done = one.run("fds", str(process["tid"]))
    assert (done.status, done.out) == (2, "")
    assert f"{process['tid']} is a thread of process {process['pid']} (" in done.err


@pytest.mark.parametrize(
    "argv", [["/no/such/file"], ["203.0.113.9:4711"], ["@nobody"], ["--inode", "0:1:1234567"]]
)
def test_nobody_holds_it(one: Core, argv: list[str]) -> None:
    done = one.run("fds", *argv, "--json")
    assert (done.status, done.out) == (1, "")
    assert done.err == f"drgn-sockets: nobody holds {argv[-1]}\n"


def test_a_user_without_processes(one: Core) -> None:
    done = one.run("fds", "--user", "4243", "--json")
    assert (done.status, done.out) == (1, "")
    assert done.err == "drgn-sockets: no such process of user 4243\n"
