# SPDX-License-Identifier: LGPL-2.1-or-later
"""``check`` on a kernel that is busy: right when all is right, and only then."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drgn import Program

from drgn_sockets.check import compare
from drgn_sockets.check.compare import Comparison, Result, check_live, look_at_memory
from drgn_sockets.check.procfs import Look, ProcTree
from drgn_sockets.views.procfs import FILES, NetFile

from . import truth


@pytest.mark.parametrize("attempt", [1, pytest.param(2, marks=pytest.mark.ours)])
def test_everything_agrees_under_traffic(
    attempt: int, prog: Program, accounts: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 0, and no fd and no row left out that was there all the while."""
    for account in accounts.values():
        # The first of a workload, which stops only with all.
        for process in account["processes"][:1]:
            state = Path(f"/proc/{process['pid']}/stat").read_bytes().rsplit(b") ", 1)[1][:1]
            assert state != b"T", "a workload is frozen"
    fds, rows = truth.all_fds(), truth.net_rows()
    out = truth.cli(prog, "check").stdout
    # A fork has what we have.
    own = 16 + len(truth.links("self"))
    fds_later, rows_later = truth.all_fds(), truth.net_rows()
    found = truth.summary(out)
    with capsys.disabled():
        print(f"\n{out.splitlines()[-1]}")
    assert found["mismatches"] == 0
    # What was there before and after has been compared; beyond that, there is what came or
    # went meanwhile, and check's own process.
    assert len(fds & fds_later) <= found["PID/fd"] + found["moved"]
    assert found["PID/fd"] <= len(fds | fds_later) + own
    for name in truth.NET_FILES:
        low, high = rows[name] & rows_later[name], rows[name] | rows_later[name]
        compared = found.get(f"net/{name}", 0)
        assert len(low) - found["moved"] <= compared <= len(high) + 8, name
    assert found["fields"] > 5 * found["PID/fd"] * 0.8


@pytest.mark.ours
def test_one_flipped_digit_is_found_and_named(
    prog: Program, scene: truth.Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port that is off by one bit: exit status 1, and the row by name."""
    ino = scene.ino("tcp listener")
    right = type(FILES["tcp"]).lines

    def broken(self: NetFile, *args: Any) -> Iterator[bytes]:
        for line in right(self, *args):
            words = line.split()
            if len(words) > 9 and words[9] == str(ino).encode():
                remote = words[2].decode()
                other = f"{remote[:-1]}{int(remote[-1], 16) ^ 1:X}"
                line = line.replace(f" {remote} ".encode(), f" {other} ".encode())
            yield line

    monkeypatch.setattr(type(FILES["tcp"]), "lines", broken)
    # It stays wrong, however often it is looked at.
    monkeypatch.setattr(compare, "_TRIES", 2)
    done = truth.cli(prog, "check", status=1)
    port = scene.facts["listener"][1]
    told = [line for line in done.stdout.splitlines() if f"inode {ino}" in line]
    assert told and all("net/tcp" in line and f":{port:04X} " in line for line in told), done.stdout
    # It shows at a kernel address that is known (kptr_restrict=1) as one field, else as a row
    # too many and a row too few.
    assert truth.summary(done.stdout)["mismatches"] in (1, 2), done.stdout


#: Those that show addresses.
SOCKET_FILES = [file.name for file in FILES.values() if file.pointer]


def _compare(memory: compare.Memory, look: Look) -> Result:
    # Twice the same look, so that all that it says counts.
    return Comparison(None, live=True).compare(look, memory, look)


def _churn(work: Path) -> None:
    """Open, connect and close, until killed."""
    listener = socket.create_server(("127.0.0.1", 0))
    name = f"{os.getpid()}.{threading.get_native_id()}"
    for rounds in itertools.count():
        kept: list[Any] = [socket.create_connection(listener.getsockname())]
        kept.append(listener.accept()[0])
        kept[0].sendall(b"x" * (1 + rounds % 1000))
        for family in (socket.AF_INET, socket.AF_INET6):
            kept.append(socket.socket(family, socket.SOCK_DGRAM))
            kept[-1].bind(("", 0))
        kept += socket.socketpair()
        kept.append(socket.socket(socket.AF_UNIX))
        kept[-1].bind(f"{work}/{name}.{rounds}")
        with (work / "file").open("ab") as file:
            file.write(b"more")
        for sock in kept[rounds % 2 :]:
            sock.close()
        # Or check has no processor to run on.
        time.sleep(0.01)


# The oldest has other hash tables.
@pytest.mark.ours("5.10", "6.12")
def test_change_between_looks_is_not_a_mismatch(
    prog: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Processes open, connect and close all the while: check says moved, and 0."""

    def body(kept: list[Any]) -> dict[str, int]:
        other = truth.fork_too(lambda: _churn(tmp_path))
        threading.Thread(target=_churn, args=(tmp_path,), daemon=True).start()
        return {"other": other}

    with truth.process(body):
        done = truth.cli(prog, "check", "--moved")
    found = truth.summary(done.stdout)
    rounds = sum(1 for _ in tmp_path.glob("*.*"))
    with capsys.disabled():
        print(f"\n{rounds} rounds of opening and closing: {done.stdout.splitlines()[-1]}")
    assert found["mismatches"] == 0
    assert rounds > 50
    assert found["moved"] > 0


@pytest.mark.parametrize(
    "level", [pytest.param(0, marks=pytest.mark.ours), 1, pytest.param(2, marks=pytest.mark.ours)]
)
def test_kptr_restrict(level: int, prog: Program, kptr_restrict: Path) -> None:
    """Hashed, real or zeroed, addresses never make a mismatch; only real ones are compared."""
    kptr_restrict.write_text(f"{level}\n")
    result = check_live(prog)
    assert not result.mismatches
    sockets = sum(result.rows.get(f"net/{file}", 0) for file in SOCKET_FILES)
    assert sockets > 50
    assert result.addresses == (sockets if level == 1 else 0)


def test_names_that_go_on_like_a_row(scene: truth.Scene, prog: Program) -> None:
    """Newlines in names of files and sockets, and one that forges a row of /proc/net/unix."""
    text = Path("/proc/net/unix").read_bytes()
    assert b"\n0000000000000000: 00000002" in text
    result = check_live(prog)
    assert not result.mismatches
    table = result.rows
    assert table["net/unix"] >= len(truth.net_rows()["unix"]) - 1 - len(result.moved) - 8


def test_stopped_process_and_thread_tables(scene: truth.Scene, prog: Program) -> None:
    """A thread's own table is compared, whether the process runs or not."""
    os.kill(scene.pid, signal.SIGSTOP)
    try:
        memory = look_at_memory(prog)
        look = compare.look_at_procfs(ProcTree("/proc"), memory)
        tid = scene.facts["thread"]["tid"]
        assert look.fds[scene.pid, tid]
        look.fds = {key: table for key, table in look.fds.items() if key[0] == scene.pid}
        look.net, look.text, look.missing = {}, {}, []
        result = _compare(memory, look)
        assert not result.mismatches
        own = Path(f"/proc/{scene.pid}/task/{tid}/fd")
        assert result.rows["PID/task/TID/fd"] == len(list(own.iterdir()))
        assert result.rows["PID/fd"] == len(truth.links(scene.pid))
    finally:
        os.kill(scene.pid, signal.SIGCONT)
