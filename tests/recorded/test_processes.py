# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What commands say of the workload ``processes``, against what it says of itself: users,
namespaces, terminals, tracers, names, limits, shared tables, and memory that is mapped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from drgn_sockets.views.procfs.pid.moments import KHUGEPAGED, stat_fields, status_lines

from .machine import Core, Row
from .open_files import lsof_entries

WORK = "/tmp/drgn-sockets/processes"
#: Kernels without file_user_inode(): of what is mapped of an overlay they tell the device and
#: inode of the file below it.
BELOW = ("5.10", "6.1")
#: What a process says of itself.
Account = dict[str, Any]


def processes(core: Core, **has: Any) -> Iterator[Account]:
    """Those of the workload that have these members."""
    for process in core.accounts["processes"]["processes"]:
        if has.items() <= process.items():
            yield process


def with_detail(core: Core, *names: str) -> list[tuple[Account, dict[str, Any]]]:
    """Those that say all of this of themselves."""
    found = [(p, p["detail"]) for p in processes(core) if {*names} <= p.get("detail", {}).keys()]
    assert found, names
    return found


def text(core: Core, process: Account, file: str) -> bytes:
    """A file of a task as ``procfs`` prints it."""
    place = str(process["pid"])
    if process["tid"] != process["pid"]:
        place += f"/task/{process['tid']}"
    done = core.run("procfs", f"{place}/{file}")
    assert (done.status, done.err) == (0, ""), process
    return os.fsencode(done.out)


def status(core: Core, process: Account) -> dict[str, str]:
    return {key: os.fsdecode(v) for key, v in status_lines(text(core, process, "status")).items()}


def stat(core: Core, process: Account) -> dict[str, bytes]:
    return stat_fields(text(core, process, "stat"))


def named(core: Core, role: str) -> Account:
    (found,) = processes(core, role=role)
    return found


# Who they are.


def test_users(elf: Core) -> None:
    checked = 0
    for process, detail in with_detail(elf, "uid"):
        lines = status(elf, process)
        assert lines["Uid"].split() == [str(uid) for uid in detail["uid"]]
        if "groups" in detail:
            assert lines["Gid"].split() == [str(gid) for gid in detail["gid"]]
            assert lines["Groups"].split() == [str(gid) for gid in detail["groups"]]
        for name, bits in detail.get("caps", {}).items():
            assert int(lines[f"Cap{name}"], 16) == bits
        checked += 1
    assert checked > 5


def test_fds_of_users(elf: Core) -> None:
    """The effective user of a process counts; a thread's own is not its process's."""
    by_user: dict[int, set[int]] = {}
    for process, detail in with_detail(elf, "uid"):
        if process["pid"] == process["tid"]:
            by_user.setdefault(detail["uid"][1], set()).add(process["pid"])
    assert len(by_user) > 3
    for uid, pids in by_user.items():
        rows = elf.rows("fds", "--user", str(uid))
        assert {row["pid"] for row in rows} == pids
        assert {row["uid"] for row in rows} == {uid}
    # Its real one, and those of the saved and the file system ID, have none.
    real, _, saved, _ = named(elf, "proc-user")["detail"]["uid"]
    done = elf.run("fds", "--user", f"{real},{saved}", "--json")
    assert (done.status, done.out) == (1, "")
    # Sockets are made with the ID for files.
    entry = named(elf, "proc-user")
    sockets = {e["inode"] for e in entry["fds"] if e["kind"] == "socket"}
    owners = {r["uid"] for r in elf.rows("ss", "-tuxa") if r["ino"] in sockets}
    assert owners == {entry["detail"]["uid"][3]}


def test_namespaces(elf: Core) -> None:
    deepest = 0
    for process, detail in with_detail(elf, "nspid"):
        lines = status(elf, process)
        assert list(map(int, lines["NSpid"].split())) == detail["nspid"]
        assert list(map(int, lines["NStgid"].split())) == detail["nspid"]
        deepest = max(deepest, len(detail["nspid"]))
    assert deepest == 3
    init = named(elf, "ns-init")
    outside = named(elf, "proc-namespaces")
    ours = dict(line.split(b" -> ") for line in text(elf, init, "ns").splitlines())
    theirs = dict(line.split(b" -> ") for line in text(elf, outside, "ns").splitlines())
    same = {name for name, link in ours.items() if theirs[name] == link}
    # Who makes a namespace for processes or times stays outside.
    assert same == {b"user", b"uts", b"ipc", b"cgroup", b"mnt", b"net", b"time_for_children"}
    assert ours[b"pid"] == theirs[b"pid_for_children"] != theirs[b"pid"]
    assert ours[b"time"] == theirs[b"time_for_children"] != theirs[b"time"]


def test_pidfds(elf: Core) -> None:
    """As they are called in the initial namespace, and in those further in."""
    checked = set()
    rows = {(row["pid"], row["fd"]): row for row in elf.rows("fds")}
    for process in processes(elf):
        for entry in process["fds"]:
            if entry["kind"] != "pidfd":
                continue
            row, detail = rows[process["pid"], entry["fd"]], entry["detail"]
            assert row["pidfd.pid"] == detail["pid"]
            if "nspid" in detail:
                assert row["pidfd.nspid"] == detail["nspid"]
            checked.add((process["role"], detail["pid"]))
    assert len(checked) > 5


def test_terminal(elf: Core) -> None:
    leader = named(elf, "tty-leader")
    slave = next(e for e in leader["fds"] if e["name"] == leader["detail"]["tty"])
    rows = {(row["pid"], row["fd"]): row for row in elf.rows("fds", str(leader["pid"]))}
    major, minor = map(int, rows[leader["pid"], slave["fd"]]["rdev"].split(":"))
    for process, detail in with_detail(elf, "tty"):
        fields = stat(elf, process)
        device = int(fields["tty_nr"])
        assert (device >> 8 & 0xFFF, device & 0xFF | device >> 12 & 0xFFF00) == (major, minor)
        assert int(fields["session"]) == detail["session"] == leader["pid"]
        assert int(fields["pgrp"]) == detail["pgrp"]
        assert int(fields["tpgid"]) == leader["detail"]["foreground"]


def test_states(elf: Core) -> None:
    seen = set()
    for process, detail in with_detail(elf, "state"):
        assert stat(elf, process)["state"].decode() == detail["state"]
        assert status(elf, process)["State"].startswith(f"{detail['state']} (")
        seen.add(detail["state"])
    assert seen == {"T", "t", "Z"}
    for process, detail in with_detail(elf, "tracer"):
        assert status(elf, process)["TracerPid"] == str(detail["tracer"])


def test_who_has_no_leader(elf: Core) -> None:
    """The fds are those of the thread that lives on; the process itself has none."""
    leader, survivor = named(elf, "proc-headless"), named(elf, "thread whose leader has exited")
    pid, tid = leader["pid"], survivor["tid"]
    rows = elf.rows("fds", str(pid))
    assert {(row["pid"], row["tid"], row["command"]) for row in rows} == {(pid, tid, "survivor")}
    assert {row["fd"] for row in rows} == {entry["fd"] for entry in survivor["fds"]}
    assert text(elf, leader, "fd") == b""
    assert len(text(elf, survivor, "fd").splitlines()) == len(survivor["fds"])
    done = elf.run("procfs", f"{pid}/fd/0")
    assert done.status == 2 and f"process {pid} has no fd 0" in done.err
    done = elf.run("fds", str(tid))
    assert done.status == 2 and f"{tid} is a thread of process {pid}" in done.err
    found = elf.rows("fds", f"{WORK}/headless")
    assert {(row["pid"], row["tid"]) for row in found} == {(pid, tid)}
    # What it executes and has mapped is in use all the same.
    theirs = {
        (e.fields["f"], e.fields["n"])
        for e in lsof_entries(elf)
        if e.pid == pid and not e.fields["f"].isdecimal()
    }
    ours = {
        (row["fd"], row["name"])
        for row in elf.rows("fds", str(pid), "--all")
        if not isinstance(row["fd"], int)
    }
    assert ours == theirs and {fd for fd, _ in ours} >= {"cwd", "rtd", "txt", "mem"}


def test_zombies(elf: Core) -> None:
    zombies = list(processes(elf, zombie=True, role="zombie"))
    assert len(zombies) >= 2
    for process in zombies:
        done = elf.run("fds", str(process["pid"]), "--json")
        assert (done.status, done.out) == (0, "") and "zombie" in done.err
        detail = process.get("detail", {})
        if "cgroup" in detail:
            assert detail["cgroup"] in os.fsdecode(text(elf, process, "cgroup"))


# What they are called.


def test_names(elf: Core) -> None:
    odd = list(processes(elf, role="proc-comm"))
    assert len(odd) == 6
    for process in odd:
        comm = os.fsencode(process["comm"])
        assert text(elf, process, "comm") == comm + b"\n"
        assert stat(elf, process)["comm"] == comm
        line = text(elf, process, "status").split(b"\n")[0]
        assert line == b"Name:\t" + comm.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
        rows = elf.rows("fds", "--command", process["comm"])
        assert {row["pid"] for row in rows} == {process["pid"]}
        assert {row["command"] for row in rows} == {process["comm"]}
        table = elf.run("fds", "--pid", str(process["pid"]), "-H").out
        assert len(table.splitlines()) == len(rows) and "\x1b" not in table
    done = elf.run("fds", "longer than fifteen bytes")
    assert done.status == 2 and "15 bytes" in done.err


def test_command_lines(elf: Core) -> None:
    lengths = set()
    for process, detail in with_detail(elf, "cmdline"):
        assert text(elf, process, "cmdline") == os.fsencode(detail["cmdline"])
        lengths.add(len(detail["cmdline"]))
    assert 0 in lengths and max(lengths) > 8192


# What they have.


def test_shared_table(elf: Core) -> None:
    """One table in two processes is shown for both, and counts once in the total."""
    (sharer,) = processes(elf, role="same table")
    owner = next(p for p in processes(elf) if p["pid"] == sharer["shares_files_with"])
    rows = elf.rows("fds", str(owner["pid"]), str(sharer["pid"]))
    by_pid: dict[int, dict[int, Row]] = {}
    for row in rows:
        by_pid.setdefault(row["pid"], {})[row["fd"]] = row
    fds = {entry["fd"] for entry in owner["fds"]}
    assert by_pid.keys() == {owner["pid"], sharer["pid"]}
    assert by_pid[owner["pid"]].keys() == by_pid[sharer["pid"]].keys() == fds
    assert len({row["files"] for row in rows}) == 1
    *each, total = summaries(elf, str(owner["pid"]), str(sharer["pid"]))
    assert [row["fds"] for row in each] == [len(fds)] * 2
    assert total["fds"] == len(fds)
    # Both hold what is in it.
    listener = next(e for e in owner["fds"] if e.get("state") == "LISTEN")
    (row,) = (r for r in elf.rows("ss", "-tl") if r["ino"] == listener["inode"])
    assert {(h["pid"], h["fd"]) for h in row["holders"]} == {
        (pid, listener["fd"]) for pid in by_pid
    }


def summaries(core: Core, *argv: str) -> list[Row]:
    done = core.run("fds", *argv, "--summary", "--json")
    assert (done.status, done.err) == (0, "")
    return [json.loads(line) for line in done.out.splitlines()]


def test_limits(elf: Core) -> None:
    rows = {row["pid"]: row for row in summaries(elf) if row["tid"] is None}
    order = [row["pid"] for row in summaries(elf)]
    used = {}
    for process, detail in with_detail(elf, "limit"):
        row, fds = rows[process["pid"]], [entry["fd"] for entry in process["fds"]]
        assert [row["soft"], row["hard"]] == detail["limit"]
        assert (row["fds"], row["highest"]) == (len(fds), max(fds))
        assert row["used"] == sum(fd < row["soft"] for fd in fds) / row["soft"]
        used[process["comm"]] = row["used"]
    assert used["proc-full"] == 1 and used["proc-near"] == 60 / 64
    assert used["proc-sparse"] < 0.01 < used["proc-lowered"] < 1
    # Who can open nothing any more comes first.
    assert order[0] == named(elf, "proc-full")["pid"]


def test_directories_and_programs(elf: Core) -> None:
    rows = elf.rows("fds", "--fd", "cwd,rtd,txt")
    found = {(row["pid"], row["fd"]): row for row in rows if row["tid"] is None}
    programs = 0
    for process in processes(elf):
        if process["pid"] != process["tid"] or process.get("zombie"):
            continue
        pid, detail = process["pid"], process.get("detail", {})
        if "cwd" in process:
            assert found[pid, "cwd"]["name"] == process["cwd"]
        assert found[pid, "rtd"]["name"] == process.get("root", "/")
        if "exe" in detail:
            row = found[pid, "txt"]
            assert row["name"] == detail["exe"]
            assert row["deleted"] == detail["exe"].endswith(" (deleted)")
            if "exe_inode" in detail:
                dev = f"{os.major(detail['exe_dev'])}:{os.minor(detail['exe_dev'])}"
                assert (row["dev"], row["ino"]) == (dev, detail["exe_inode"])
            programs += 1
    assert programs >= 6
    # Also by the path that it had.
    paths = {p["pid"]: d["exe"].replace(" (deleted)", "") for p, d in with_detail(elf, "exe")}
    by_path = {(r["pid"], r["fd"]) for r in elf.rows("fds", *sorted(set(paths.values())))}
    assert {(pid, "txt") for pid in paths} <= by_path


def test_mapped(elf: Core) -> None:
    """Each is found by its path, and is DEL where it has none any more; no fd holds it."""
    checked = 0
    wanted_paths: set[str] = set()
    seen: set[tuple[int, str, int, str]] = set()
    for process, detail in with_detail(elf, "mapped"):
        rows = elf.rows("fds", str(process["pid"]), "--all")
        each = elf.rows("fds", str(process["pid"]), "--maps")
        known = process["role"] != "proc-overlay" or elf.series not in BELOW
        for wanted in detail["mapped"]:
            name = wanted["name"]
            deleted = name.endswith(" (deleted)")
            (row,) = (
                row
                for row in rows
                if row["name"] == name
                and row["fd"] in ("mem", "DEL")
                and row["maplen"] * 4096 == wanted["size"]
                and (not known or row["ino"] == wanted.get("inode", row["ino"]))
            )
            assert row["fd"] == ("DEL" if deleted else "mem")
            assert row["deleted"] is deleted
            assert row["pos"] == wanted["offset"]
            assert row["assoc"] == ("shm" if wanted["shared"] else "mem")
            if "dev" in wanted and known:
                assert row["dev"] == f"{os.major(wanted['dev'])}:{os.minor(wanted['dev'])}"
            same = [m for m in each if m["ino"] == row["ino"] and m["name"] == name]
            pages = sum(m["maplen"] or 0 for m in same)
            assert pages * 4096 == wanted["size"]
            path = name[: -len(" (deleted)")] if deleted else name
            wanted_paths.add(path)
            seen.add((process["pid"], row["fd"], row["ino"], name))
            checked += 1
    assert checked >= 12
    # Each by its path.
    found = elf.rows("fds", *sorted(wanted_paths))
    assert seen <= {(r["pid"], r["fd"], r["ino"], r["name"]) for r in found}
    assert {r["name"].removesuffix(" (deleted)") for r in found} == wanted_paths


def test_a_thread_of_another_user(elf: Core) -> None:
    (thread,) = processes(elf, role="thread of another user")
    rows = elf.rows("fds", "--threads", "--all", "--pid", str(thread["pid"]))
    own = [row for row in rows if row["tid"] == thread["tid"]]
    assert {row["name"] for row in own if row["fd"] == "cwd"} == {thread["cwd"]}
    assert {row["uid"] for row in own} == set(thread["detail"]["uid"])
    assert {row["command"] for row in own} == {thread["comm"]}


# What status tells.


def test_scheduling(elf: Core) -> None:
    policies = set()
    for process, detail in with_detail(elf, "policy"):
        fields = stat(elf, process)
        assert int(fields["policy"]) == detail["policy"]
        assert int(fields["nice"]) == detail["nice"]
        assert int(fields["rt_priority"]) == detail.get("rt_priority", 0)
        if "cpus" in detail:
            assert status(elf, process)["Cpus_allowed_list"] == ",".join(map(str, detail["cpus"]))
        policies.add(detail["policy"])
    assert policies == {0, 1, 2, 3, 5, 6}


def test_seccomp(elf: Core) -> None:
    for process, detail in with_detail(elf, "seccomp"):
        lines = status(elf, process)
        assert lines["Seccomp"] == str(detail["seccomp"])
        assert lines["NoNewPrivs"] == str(detail.get("no_new_privs", 0))
        assert lines["Seccomp_filters"] == str(detail.get("filters", 0))
        if "no_new_privs" in detail:
            assert lines["THP_enabled"] == "0"


def test_signals(elf: Core) -> None:
    ((process, detail),) = with_detail(elf, "pending")
    lines = status(elf, process)

    def signals(name: str) -> list[int]:
        bits = int(lines[name], 16)
        return [number for number in range(1, 65) if bits >> number - 1 & 1]

    assert signals("SigPnd") == detail["pending"]
    assert signals("ShdPnd") == detail["shared_pending"]
    assert signals("SigBlk") == detail["blocked"]
    assert lines["Umask"] == f"{detail['umask']:04o}"
    assert int(lines["VmLck"].split()[0]) * 1024 == detail["locked"]


@pytest.mark.parametrize("file", ["stat", "status", "cmdline", "comm", "cgroup"])
def test_to_the_byte(elf: Core, file: str) -> None:
    """Of who is stopped there is nothing that moves, but by khugepaged."""

    def still(data: bytes) -> object:
        if file not in ("stat", "status"):
            return data
        fields = stat_fields(data) if file == "stat" else status_lines(data)
        return [(name, value) for name, value in fields.items() if name not in KHUGEPAGED]

    compared = 0
    for process in processes(elf):
        saved = elf.oracle / str(process["pid"])
        state = stat_fields((saved / "stat").read_bytes())["state"]
        if process["pid"] == process["tid"] and state in b"TtZ":
            assert still(text(elf, process, file)) == still((saved / file).read_bytes()), process
            compared += 1
    assert compared > 40
