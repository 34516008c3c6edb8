# SPDX-License-Identifier: LGPL-2.1-or-later
"""``check`` on a kernel that is busy: right when all is right, and only then."""

from __future__ import annotations

import contextlib
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
from drgn_sockets.check.procfs import Look, ProcTree, parse_net
from drgn_sockets.views.procfs import FILES, NetFile
from vm.workloads import syscalls

from . import truth


@pytest.mark.parametrize("attempt", [1, 2, 3])
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


#: Those of one namespace's own sockets: others count memory and such of the whole machine.
SOCKET_FILES = [file.name for file in FILES.values() if file.pointer]


@contextlib.contextmanager
def _quiet() -> Iterator[tuple[int, dict[str, Any]]]:
    """A process in a network namespace where nothing moves."""

    def body(kept: list[Any]) -> dict[str, Any]:
        syscalls.libc("unshare", syscalls.CLONE_NEWNET)
        os.system("ip link set lo up")
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            listener = socket.socket(family)
            listener.bind((host, 0))
            listener.listen(5)
            client = socket.create_connection(listener.getsockname()[:2])
            server = listener.accept()[0]
            client.sendall(b"x" * 333)
            udp = socket.socket(family, socket.SOCK_DGRAM)
            udp.bind((host, 0))
            udp.sendto(b"x" * 99, udp.getsockname())
            lite = None
            # 7.2 has it no more.
            with contextlib.suppress(OSError):
                lite = socket.socket(family, socket.SOCK_DGRAM, socket.IPPROTO_UDPLITE)
                lite.bind((host, 0))
            raw = socket.socket(family, socket.SOCK_RAW, 201)
            kept += [listener, client, server, udp, lite, raw]
            for sock in (listener, client, udp):
                os.fchown(sock.fileno(), 1234, 1234)
        kept += socket.socketpair()
        named = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        named.bind(b"\0quiet")
        kept += [named, os.open("/etc/passwd", os.O_RDONLY)]
        os.lseek(kept[-1], 42, os.SEEK_SET)
        sockets = sum(isinstance(file, socket.socket) for file in kept)
        return {"netns": Path("/proc/self/ns/net").stat().st_ino, "sockets": sockets}

    with truth.process(body) as (pid, report):
        # A timer that is done with holds its socket until the time that it was set to.
        time.sleep(1)
        yield pid, report


def _copy_proc(pid: int, to: Path) -> None:
    """What of procfs one process has to do with."""
    here = Path(f"/proc/{pid}")
    (to / str(pid) / "net").mkdir(parents=True)
    for name in SOCKET_FILES:
        with contextlib.suppress(FileNotFoundError):
            (to / str(pid) / "net" / name).write_bytes((here / "net" / name).read_bytes())
    for kind in ("fd", "fdinfo"):
        (to / str(pid) / kind).mkdir()
    for fd, link in truth.links(pid).items():
        (to / str(pid) / "fd" / str(fd)).symlink_to(os.fsdecode(link))
        (to / str(pid) / "fdinfo" / str(fd)).write_bytes((here / "fdinfo" / str(fd)).read_bytes())


@pytest.mark.ours
def test_saved_tree_with_one_byte_changed(prog: Program, tmp_path: Path) -> None:
    """The same by --procfs: exact as it was saved, and one byte is one line."""
    with _quiet() as (pid, _):
        _copy_proc(pid, tmp_path / "proc")
        good = truth.cli(prog, "check", "--procfs", str(tmp_path / "proc"))
        assert truth.summary(good.stdout)["rows"] > 15
        file = tmp_path / "proc" / str(pid) / "net/udp"
        text = file.read_text()
        before = text.splitlines()[1].split()
        file.write_text(text.replace(f" {before[9]} ", f" {int(before[9]) ^ 1} ", 1))
        bad = truth.cli(prog, "check", "--procfs", str(tmp_path / "proc"), status=1)
        assert f"inode {before[9]}" in bad.stdout or f"inode {int(before[9]) ^ 1}" in bad.stdout
        assert truth.summary(bad.stdout)["mismatches"] in (1, 2)


def _compare(memory: compare.Memory, look: Look) -> Result:
    # Twice the same look, so that all that it says counts.
    return Comparison(None, live=True).compare(look, memory, look)


@pytest.mark.ours
def test_every_column_of_every_row_is_compared(prog: Program, tmp_path: Path) -> None:
    """Change any value of any row that procfs gives: there is a mismatch, at that row."""
    with _quiet() as (pid, report):
        netns = report["netns"]
        memory = look_at_memory(prog)
        texts = {f: ProcTree("/proc").read(f"{pid}/net/{f}") for f in SOCKET_FILES}
        rows = {f: parse_net(f, text) for f, text in texts.items() if text is not None}
        look = Look(net={(netns, file): found for file, found in rows.items()})
        assert not _compare(memory, look).mismatches
        # Of netlink the kernel has sockets in every namespace.
        made = [row for file, found in rows.items() if file != "netlink" for row in found]
        assert len(made) == report["sockets"] >= 13
        changed = 0
        for file, found in rows.items():
            for i, row in enumerate(found):
                for column, value in row.items():
                    # A time is not changed: it moves by itself. Addresses may be hashed.
                    address = FILES[file].pointer
                    if column == "when" or (column == address and not value.startswith("ff")):
                        continue
                    other = value[:-1] + ("1" if value[-1:] != "1" else "2")
                    bad = [dict(r) for r in found]
                    bad[i][column] = other
                    told = _compare(memory, Look(net={(netns, file): bad})).mismatches
                    assert told, (file, column, value, other)
                    # As its own address is wrong, it and a socket that was not listed.
                    assert len(told) <= 2, told
                    assert all(m.where == f"net/{file} of netns {netns}" for m in told)
                    assert any(m.field == column for m in told) or len(told) == 2
                    changed += 1
            if found:
                fewer = Look(net={(netns, file): found[1:]})
                assert [(m.procfs, m.memory) for m in _compare(memory, fewer).mismatches] == [
                    ("not there", "there")
                ]
                more = Look(net={(netns, file): [*found, found[0]]})
                assert [m.memory for m in _compare(memory, more).mismatches] == ["not found"]
        assert changed > 150


@pytest.mark.ours
def test_every_field_of_every_fd_is_compared(prog: Program) -> None:
    """The same of /proc/PID/fd and fdinfo."""
    with _quiet() as (pid, _):
        memory = look_at_memory(prog)
        table = ProcTree("/proc").fds(str(pid))
        assert table
        assert not _compare(memory, Look(fds={(pid, None): table})).mismatches
        for fd, said in table.items():
            assert said.info and said.name
            for column, value in said.info.items():
                info = {**said.info, column: value[:-1] + ("1" if value[-1] != "1" else "2")}
                bad = {**table, fd: said._replace(info=info)}
                told = _compare(memory, Look(fds={(pid, None): bad})).mismatches
                assert [(m.where, m.row, m.field) for m in told] == [(f"{pid}/fd", str(fd), column)]
            bad = {**table, fd: said._replace(name=said.name + b"x")}
            told = _compare(memory, Look(fds={(pid, None): bad})).mismatches
            assert [(m.row, m.field) for m in told] == [(str(fd), "name")]
            fewer = {n: s for n, s in table.items() if n != fd}
            told = _compare(memory, Look(fds={(pid, None): fewer})).mismatches
            assert [(m.row, m.procfs) for m in told] == [(str(fd), "not there")]
            told = _compare(memory, Look(fds={(pid, None): {**table, 4000: said}})).mismatches
            assert [(m.row, m.memory) for m in told] == [("4000", "not found")]


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
