# SPDX-License-Identifier: LGPL-2.1-or-later
"""``fds`` against what the workloads, lsof and lsfd say of each file descriptor."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from typing import Any

import pytest

from .machine import Core, Row
from .open_files import before, has_no_leader, ran_then

O_CLOEXEC = 0o2000000

#: What an account calls a kind, and what fds does, where that differs.
KINDS = {
    "file": "reg",
    "char": "chr",
    "block": "blk",
    "socket": "sock",
    "symlink": "lnk",
    "mqueue": "reg",
    "secretmem": "reg",
    "bpf-token": "reg",
    "landlock": "landlock-ruleset",
}
ACCESS = {"r": "r", "w": "w", "rw": "u", "path": "p", "none": "-"}


def by_table(rows: list[Row]) -> dict[tuple[int, int | None], dict[int, Row]]:
    tables: dict[tuple[int, int | None], dict[int, Row]] = {}
    for row in rows:
        table = tables.setdefault((row["pid"], row["tid"]), {})
        assert row["fd"] not in table, f"fd {row['fd']} of {row['pid']} twice"
        table[row["fd"]] = row
    return tables


def accounted(core: Core) -> Iterator[tuple[dict[str, Any], tuple[int, int | None]]]:
    """Each task with a table of its own, and where fds shows it."""
    for account in core.accounts.values():
        for process in account["processes"]:
            if process.get("zombie") or "shares_files_with" in process:
                continue
            own = process["tid"] != process["pid"]
            yield process, (process["pid"], process["tid"] if own else None)


def test_exactly_the_fds_that_each_process_has(core: Core) -> None:
    tables = by_table(core.rows("fds"))
    seen = 0
    for process, where in accounted(core):
        fds = {entry["fd"] for entry in process["fds"]}
        if process.get("steady", True):
            assert tables[where].keys() == fds, where
        else:
            assert tables[where].keys() >= fds, where
        seen += len(fds)
        assert {row["command"] for row in tables[where].values()} == {process["comm"]}
    assert seen > 900


def test_what_is_behind_each_fd(core: Core) -> None:
    tables = by_table(core.rows("fds"))
    wrong: list[str] = []
    for process, where in accounted(core):
        for entry in process["fds"]:
            row = tables[where][entry["fd"]]
            kind = KINDS.get(entry["kind"], entry["kind"])
            if entry["kind"] == "file" and stat.S_ISSOCK(entry["mode"]):
                kind = "sockfile"
            flags = entry["raw_flags"] & ~O_CLOEXEC | (O_CLOEXEC if entry["cloexec"] else 0)
            expected: Row = {
                "kind": kind,
                "access": ACCESS[entry["access"]],
                "cloexec": entry["cloexec"],
                "mode": ACCESS[entry["access"]] + ("c" if entry["cloexec"] else ""),
                "fdinfo_flags": f"0{flags:o}",
                "dev": f"{os.major(entry['dev'])}:{os.minor(entry['dev'])}",
                "ino": entry["inode"],
            }
            if entry["name"] is not None:
                expected["name"] = entry["name"]
            # /dev/net/tun counts the bytes through it, and the keeper sends more.
            if entry["pos"] is not None and entry["name"] != "/dev/net/tun":
                expected["pos"] = entry["pos"]
            wrong += [
                f"{where} fd {entry['fd']} {key}: {row[key]!r}, not {value!r} ({entry['name']})"
                for key, value in expected.items()
                if row[key] != value
            ]
    assert not wrong, "\n".join(wrong)


def test_flags_have_their_names(core: Core) -> None:
    # open(2) flags that the workload's account names, in our words.
    tables = by_table(core.rows("fds"))
    for process, where in accounted(core):
        for entry in process["fds"]:
            flags = tables[where][entry["fd"]]["flags"]
            wanted = {flag.upper() for flag in entry["flags"]}
            wanted |= {"CLOEXEC"} if entry["cloexec"] else set()
            # LARGEFILE is set by the kernel for 64-bit programs, and no flag of theirs.
            assert set(flags) - {"LARGEFILE"} == wanted - {"LARGEFILE"}, (where, entry)


def test_dup_and_fork_share_a_file(core: Core) -> None:
    tables = by_table(core.rows("fds"))
    for account in core.accounts.values():
        groups: dict[str, set[str]] = {}
        for process in account["processes"]:
            if process.get("zombie") or "shares_files_with" in process:
                continue
            own = process["tid"] != process["pid"]
            table = tables[process["pid"], process["tid"] if own else None]
            for entry in process["fds"]:
                if "same_file" in entry:
                    file = table[entry["fd"]]["file"]
                    groups.setdefault(entry["same_file"], set()).add(file)
        for name, files in groups.items():
            assert len(files) == 1, f"{account['workload']}: {name}"
        distinct = [next(iter(files)) for files in groups.values()]
        assert len(distinct) == len(set(distinct))


def test_who_shares_a_table(core: Core) -> None:
    rows = core.rows("fds")
    tables = by_table(rows)
    of = {key: {row["files"] for row in table.values()} for key, table in tables.items()}
    shared = 0
    for account in core.accounts.values():
        for process in account["processes"]:
            other = process.get("shares_files_with")
            if other is None:
                continue
            if process["pid"] == process["tid"] and process["pid"] != other:
                # clone(CLONE_FILES) without CLONE_THREAD: two processes, one table.
                assert of[process["pid"], None] == of[other, None]
                assert tables[process["pid"], None].keys() == tables[other, None].keys()
                shared += 1
            else:
                # A thread that shares its process's table is no table of its own.
                assert (process["pid"], process["tid"]) not in tables
    assert shared == 2
    own = [process for process, (_, tid) in accounted(core) if tid is not None]
    assert {key for key in tables if key[1] is not None} == {(p["pid"], p["tid"]) for p in own}
    assert own


def test_zombies_and_kernel_threads(core: Core) -> None:
    pids = {row["pid"] for row in core.rows("fds")}
    tasks = [p for account in core.accounts.values() for p in account["processes"]]
    # Of who has exited threads may live on.
    living = {p["pid"] for p in tasks if not p.get("zombie")}
    zombies = {p["pid"] for p in tasks if p.get("zombie")} - living
    assert zombies
    for pid in zombies:
        assert pid not in pids
        done = core.run("fds", str(pid))
        assert done.status == 0
        assert "zombie" in done.err
    kernel_thread = 2
    assert (core.oracle / "2" / "comm").read_text() == "kthreadd\n"
    assert kernel_thread not in pids
    done = core.run("fds", "2", "--json")
    assert (done.status, done.out) == (0, "")


def test_a_high_fd(core: Core) -> None:
    high = [
        (where, entry["fd"])
        for process, where in accounted(core)
        for entry in process["fds"]
        if entry["fd"] > 1000
    ]
    assert max(fd for _, fd in high) >= 70000
    tables = by_table(core.rows("fds"))
    assert all(fd in tables[where] for where, fd in high)


def test_every_process_of_procfs(core: Core) -> None:
    """Also those that no account tells of: the same fds, and the same comm."""
    tables = by_table(core.rows("fds"))
    seen = set()
    for directory in core.oracle.iterdir():
        if not directory.name.isdecimal():
            continue
        pid = int(directory.name)
        seen.add(pid)
        saved = {int(p.name) for p in (directory / "fdinfo").iterdir()}
        table = tables.get((pid, None), {})
        assert table.keys() == saved
        comm = os.fsdecode((directory / "comm").read_bytes()[:-1])
        assert {row["command"] for row in table.values()} <= {comm}
    assert {pid for pid, _ in tables} - seen == {core.manifest["excluded"][0]}


def test_selected_by_pid_name_and_kind(one: Core) -> None:
    rows = one.rows("fds")
    pid = one.accounts["tcp_echo"]["processes"][1]["pid"]
    comm = one.accounts["tcp_echo"]["processes"][1]["comm"]
    wanted = [row for row in rows if row["pid"] == pid]
    assert wanted
    assert one.rows("fds", str(pid)) == wanted
    assert one.rows("fds", comm) == wanted
    odd = one.accounts["unix_zoo"]["processes"][0]
    assert {row["pid"] for row in one.rows("fds", odd["comm"])} == {odd["pid"]}
    kinds = one.rows("fds", "--kind", "pipe,eventfd")
    assert kinds == [row for row in rows if row["kind"] in ("pipe", "eventfd")]
    assert {row["kind"] for row in kinds} == {"pipe", "eventfd"}


def lsof_fields(core: Core) -> Iterator[dict[str, str]]:
    """
    Open files of ``lsof -F0``, with their process's pid.

    Where a thread has a table of its own, lsof lists every thread under the process's pid,
    without saying which it is: the first is the process.
    """
    pid = ""
    seen = set()
    for line in core.tool("lsof-fields").split("\0\n"):
        fields = {item[0]: item[1:] for item in line.split("\0") if item}
        if "p" in fields:
            pid = "" if fields["p"] in seen else fields["p"]
            if pid and ran_then(core, int(pid)) and has_no_leader(core.oracle, int(pid)):
                # It begins with a thread then.
                pid = ""
            seen.add(fields["p"])
        elif pid and fields.get("f", "").isdecimal():
            yield {**fields, "p": pid}


def test_as_lsof_says(core: Core) -> None:
    tables = by_table(core.rows("fds"))
    compared = 0
    excluded = set(core.manifest["excluded"])
    for entry in lsof_fields(core):
        pid = int(entry["p"])
        row = tables.get((pid, None), {}).get(int(entry["f"]))
        if pid in excluded or row is None:
            # lsof and what started it are gone by now.
            assert pid in excluded or not (core.oracle / str(pid)).exists(), entry
            continue
        flags = int(entry["G"].partition(";")[0], 16)
        assert int(row["fdinfo_flags"], 8) == flags, sorted(entry.items())
        # lsof has no letters for O_PATH and for access mode 3, and writes u.
        if entry["a"].strip() and row["access"] not in "-p":
            assert row["access"] == entry["a"], entry
        # lsof gives "sock" files their device, other sockets none.
        if "D" in entry:
            device = int(entry["D"], 16)
            assert row["dev"] == f"{os.major(device)}:{os.minor(device)}", entry
        if "i" in entry and entry["i"].isdecimal():
            if (row["kind"] != "sock" or entry["t"] in ("sock", "unix")) and row["kind"] != "pidfd":
                assert row["ino"] == int(entry["i"]), entry
            compared += 1
    assert compared > 500


def lsfd_rows(core: Core) -> list[Row]:
    found: list[Row] = json.loads(core.tool("lsfd-json"), strict=False)["lsfd"]
    return found


def test_as_lsfd_says(core: Core) -> None:
    tables = by_table(core.rows("fds"))
    kinds = {"REG": "reg", "DIR": "dir", "CHR": "chr", "BLK": "blk", "SOCK": "sock"}
    compared = 0
    for entry in lsfd_rows(core):
        if not entry["assoc"].isdecimal():
            continue
        row = tables.get((entry["pid"], None), {}).get(int(entry["assoc"]))
        if row is None:
            gone = not (core.oracle / str(entry["pid"])).exists()
            assert gone or entry["pid"] in core.manifest["excluded"], entry
            continue
        if entry["pid"] in core.manifest["excluded"]:
            continue
        # util-linux 2.38 takes files of one name for one; fstat (the account) does not.
        if before(core.oracle, entry).get("name") != entry["name"]:
            assert (row["dev"], row["ino"]) == (entry["dev"], entry["inode"]), entry
        if row["kind"] in ("chr", "blk"):
            assert row["rdev"] == entry["rdev"], entry
        else:
            assert row["rdev"] is None
        assert row["mnt_id"] == entry["mntid"], entry
        if entry["name"] and not entry["name"].startswith("/dev/net/tun"):
            assert row["pos"] == entry["pos"], entry
        if row["kind"] in kinds.values() and entry["type"] in kinds:
            assert row["kind"] == kinds[entry["type"]], entry
        compared += 1
    assert compared > 800


@pytest.mark.parametrize("column", ["name", "command"])
def test_table_and_csv_stay_in_line(one: Core, column: str) -> None:
    """Names with newlines and escape sequences: still a line each, and they come back."""
    import csv

    from drgn_sockets.text import unescape

    rows = one.rows("fds")
    assert any("\n" in (row[column] or "") for row in rows)
    lines = one.run("fds", "-H", "--output", "pid,fd,name,command").out.splitlines()
    assert len(lines) == len(rows)
    table = one.run("fds", "--csv", "--output", f"pid,fd,{column}").out
    assert "\x1b" not in table
    parsed = list(csv.reader(table.splitlines()))[1:]
    assert len(parsed) == len(rows)
    for cells, row in zip(parsed, rows):
        assert unescape(cells[2]) == os.fsencode(row[column])
