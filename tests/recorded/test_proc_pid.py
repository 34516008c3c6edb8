# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``procfs PID/…``: is it what the kernel wrote, to the byte?

Every file and link that was saved of every process and thread. What may differ is what names a
moment, and that is listed in views/procfs/pid/moments.py and nowhere else; of processes that are
stopped nothing may.
"""

from __future__ import annotations

import os
import re

import pytest

from drgn_sockets.text import escape
from drgn_sockets.views.procfs.pid import LINKS, PID_FILES
from drgn_sockets.views.procfs.pid.moments import (
    MOMENTS,
    STAT_FIELDS,
)
from tests import tables

from .machine import Core, Done
from .saved import differences, processes, threads, with_fds

TABLE = "procfs of processes"
#: What of a file is excepted, for the docs.
EXCEPTED = {
    file: ", ".join(name for m in MOMENTS if m.file == file for name in m.names)
    for file in PID_FILES
}


def printed(core: Core, *argv: str) -> tuple[Done, bytes]:
    done = core.run("procfs", *argv)
    return done, os.fsencode(done.out)


def good(core: Core, path: str) -> bytes:
    done, text = printed(core, path)
    assert (done.status, done.err) == (0, ""), path
    return text


def test_every_file_of_every_process(elf: Core) -> None:
    wrong = []
    stopped = 0
    for saved in (*processes(elf), *threads(elf)):
        stopped += saved.stopped
        for file in PID_FILES:
            if (saved.path / file).exists():
                theirs = (saved.path / file).read_bytes()
                bad = differences(saved, file, theirs, good(elf, f"{saved.name}/{file}"))
                wrong += bad
                tables.note(TABLE, file, elf.kernel, 1, not bad, excepted=EXCEPTED[file])
    assert not wrong, f"{len(wrong)}\n" + "\n".join(map(str, wrong[:20]))
    assert stopped > 30


def test_every_link(elf: Core) -> None:
    compared = dict.fromkeys((*LINKS, "ns"), 0)
    for saved in processes(elf):
        for name in LINKS:
            link = saved.path / name
            path = f"{saved.name}/{name}"
            if link.is_symlink():
                text = os.readlink(os.fsencode(link))  # noqa: PTH115
                assert good(elf, path) == text + b"\n"
                compared[name] += 1
                tables.note(TABLE, name, elf.kernel, 1, 1)
            else:
                done, _ = printed(elf, path)
                assert done.status == 2 and re.search("and has none$", done.err), done
        there = {p.name: os.readlink(os.fsencode(p)) for p in (saved.path / "ns").iterdir()}  # noqa: PTH115
        lines = good(elf, f"{saved.name}/ns").splitlines()
        assert dict(line.split(b" -> ") for line in lines) == {
            name.encode(): text for name, text in there.items()
        }
        for name, text in list(there.items())[::3]:
            assert good(elf, f"{saved.name}/ns/{name}") == text + b"\n"
        compared["ns"] += len(there)
        tables.note(TABLE, "ns", elf.kernel, len(there), len(there))
    assert min(compared.values()) > 50


def test_fd(elf: Core) -> None:
    tids = 0
    for name, fds in with_fds(elf):
        lines = good(elf, f"{name}/fd").splitlines()
        ours = dict(line.split(b" -> ", 1) for line in lines)
        assert ours.keys() >= {b"%d" % fd for fd in fds}, name
        assert [ours[b"%d" % fd] for fd in fds] == [os.fsencode(escape(t)) for t in fds.values()]
        # The others have a name that is too long for readlink.
        rest = (elf.oracle / name / "fd.json").exists()
        assert len(ours) == len(fds) or rest, name
        for fd, text in list(fds.items())[::7]:
            assert good(elf, f"/proc/{name}/fd/{fd}") == text + b"\n"
        tids += "task" in name
        tables.note(TABLE, "fd", elf.kernel, len(fds), len(fds))
    assert tids


def test_cmdline_is_there(one: Core) -> None:
    """Not one is empty that was not."""
    lines = [(s.path / "cmdline").read_bytes() for s in processes(one)]
    assert sum(map(bool, lines)) > 40 and sum(not line for line in lines) > 40


def test_what_is_excepted_exists() -> None:
    assert {name for m in MOMENTS if m.file == "stat" for name in m.names} < set(STAT_FIELDS)
    assert len(STAT_FIELDS) == 52
    assert {m.file for m in MOMENTS} <= set(PID_FILES)


def test_distilled(elf: Core) -> None:
    """All but memory of processes, which is none of its business."""
    from .conftest import opened

    distilled = opened(elf.kernel, "distilled")
    # One of each workload, and a thread of the kernel's.
    chosen = {account["processes"][0]["pid"] for account in elf.accounts.values()} | {2}
    some = [saved for saved in processes(elf) if int(saved.name) in chosen]
    assert len(some) > 15
    for saved in some:
        for what in ("stat", "status", "cgroup", "comm", "cwd", "root", "exe", "ns", "fd"):
            path = f"{saved.name}/{what}"
            assert printed(distilled, path) == printed(elf, path)
    pid = elf.accounts["fd_zoo"]["processes"][0]["pid"]
    done, text = printed(distilled, f"{pid}/cmdline")
    assert (done.status, text) == (1, b"")
    assert done.err.startswith(f"drgn-sockets: {pid}/cmdline: ") and done.err.count("\n") == 1
    assert done.err.endswith(": memory of processes is not in a distilled core\n")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("{pid}/wchan", ["not provided", "PID/{comm,cmdline,stat,status,cgroup,", "PID/fd/N"]),
        ("{pid}/statu", ["not provided", "did you mean '{pid}/status'?"]),
        ("{pid}/", ["not provided"]),
        ("{pid}/fd/x", ["not provided"]),
        ("{pid}/ns/nope", ["not provided"]),
        ("{pid}/fdinfo", ["not provided"]),
        ("{pid}/net", ["not provided"]),
        ("{pid}/fd/4000", ["process {pid} has no fd 4000; it has 0, 1, 2"]),
        ("{pid}/fdinfo/4000", ["process {pid} has no fd 4000"]),
        ("{pid}/task/1/fd", ["process {pid} has no thread 1; it has {pid}, {tid}"]),
        ("{pid}/task/99999/stat", ["process {pid} has no thread 99999"]),
        ("{tid}/fd", ["{tid} is a thread of process {pid}: {pid}/task/{tid}/fd"]),
        ("/proc/{tid}/stat", ["{tid} is a thread of process {pid}: {pid}/task/{tid}/stat"]),
        ("99999/stat", ["no process 99999"]),
        ("0/stat", ["no process 0"]),
        ("2/exe", ["2 is a thread of the kernel's, and has none"]),
        ("{zombie}/cwd", ["process {zombie} has exited (zombie), and has none"]),
        ("{zombie}/fd/0", ["process {zombie} has no fd 0; it has none"]),
        ("self/stat", ["has no 'self'"]),
        ("{pid}/stat --netns 1", ["is of no network namespace; leave out --netns"]),
        ("{pid}/a\x1bb", [r"{pid}/a\x1bb: not provided"]),
    ],
)
def test_mistakes(one: Core, path: str, words: list[str]) -> None:
    threads = {p["role"]: p for p in one.accounts["threads"]["processes"]}
    zombie = threads["zombie"]["pid"]
    pid, tid = (str(threads["thread with a table of its own"][key]) for key in ("pid", "tid"))
    assert {0, 1, 2} < {e["fd"] for e in threads["threads"]["fds"]}
    who = {"pid": pid, "tid": tid, "zombie": zombie}
    text = path.replace("{pid}", pid).replace("{tid}", tid).replace("{zombie}", str(zombie))
    done, out = printed(one, *text.split())
    assert (done.status, out) == (2, b""), done
    assert done.err.count("\n") == 1
    for word in words:
        for key, value in who.items():
            word = word.replace(f"{{{key}}}", str(value))
        assert word in done.err, done.err


def test_a_zombie_has_no_fds(one: Core) -> None:
    (zombie,) = (p["pid"] for p in one.accounts["threads"]["processes"] if p.get("zombie"))
    assert good(one, f"{zombie}/fd") == b""
    assert good(one, f"{zombie}/cmdline") == b""


def test_other_forms(one: Core) -> None:
    pid = one.accounts["fd_zoo"]["processes"][0]["pid"]
    (saved,) = (s for s in processes(one) if s.name == str(pid))
    rows = one.rows("procfs", f"{saved.name}/status", "net/udp")
    text = (saved.path / "status").read_bytes().decode()
    own = [row for row in rows if row["file"] == f"{saved.name}/status"]
    assert [row["line"] for row in own] == text.splitlines()
    assert {row["netns"] for row in own} == {None}
    assert {row["netns"] for row in rows} == {None, one.home_netns}
    (row,) = one.rows("procfs", f"{saved.name}/cmdline")
    assert row["line"].encode() == (saved.path / "cmdline").read_bytes()
