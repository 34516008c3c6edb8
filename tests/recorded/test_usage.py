# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a user can get wrong: status 2, one line that says what and why, no traceback."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .machine import ROOT, Core, one_line, spawn


def test_no_such_core(one: Core, tmp_path: Path) -> None:
    missing = str(tmp_path / "none")
    one_line(spawn("-c", missing, "ss"), "no such core", missing)
    one_line(spawn("-c", str(tmp_path), "ss"), "is a directory")
    one_line(spawn("-c", str(one.path), "-s", missing, "ss"), missing)
    one_line(spawn("-c", str(one.path), "-s", str(tmp_path), "ss"), str(tmp_path))


@pytest.mark.parametrize(
    "contents",
    [b"", b"hello\n" * 1000, b"\x7fELF", b"\x7fELF\x02\x01\x01" + bytes(4096), b"KDUMP   ",
     b"KDUMP   " + bytes(8192), b"makedumpfile" + bytes(8192), os.urandom(1 << 16)],
    ids=["empty", "text", "4 bytes of ELF", "ELF header of zeros", "8 bytes of kdump",
         "kdump header of zeros", "flattened", "noise"],
)  # fmt: skip
def test_not_a_core(one: Core, tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "core"
    path.write_bytes(contents)
    one_line(spawn("-c", str(path), *one.symbols, "ss"), str(path))


def test_an_executable_is_not_a_core(strangers: tuple[Core, Core]) -> None:
    one_line(spawn("-c", sys.executable, "ss"))
    vmlinux = str(strangers[0].vmlinux)
    one_line(spawn("-c", vmlinux, "ss"), vmlinux)


def test_core_that_may_not_be_read(one: Core, tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(b"")
    path.chmod(0)
    if os.geteuid():
        one_line(spawn("-c", str(path), "ss"), "Permission denied")
        return
    # Root may read all: ask as nobody, who can still read Python and us.
    code = (
        "import contextlib, io, os, sys; sys.path[:0] = [%r]; import drgn_sockets.cli as c\n"
        # What it takes is imported as it goes, and may be root's.
        "with contextlib.redirect_stderr(io.StringIO()): c.main(['-c', '/nonexistent', 'ss'])\n"
        "os.setgid(65534); os.setuid(65534); sys.exit(c.main(['-c', %r, 'ss']))"
    )
    (tmp_path / "core").rename("/tmp/drgn-sockets-test-core")
    try:
        done = subprocess.run(
            [sys.executable, "-c", code % (str(ROOT), "/tmp/drgn-sockets-test-core")],
            capture_output=True,
            check=False,
            timeout=60,
        )
    finally:
        Path("/tmp/drgn-sockets-test-core").unlink()
    one_line(done, "Permission denied")


def test_vmlinux_of_another_kernel(strangers: tuple[Core, Core]) -> None:
    one, other = strangers
    for core in (one, other):
        strange = other if core is one else one
        for path in (core.path, core.path.with_name("core.kdump")):
            done = spawn("-c", str(path), "-s", str(strange.vmlinux), "ss")
            one_line(done, "not of the kernel looked at")


def test_no_debugging_symbols(one: Core, tmp_path: Path) -> None:
    env = {**os.environ, "DEBUGINFOD_URLS": "", "HOME": "/none"}
    done = spawn("-c", str(one.path), "--types", "dwarf", "ss", env=env)
    one_line(done, "debugging symbols")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["fds", "99999"], ["no process 99999"]),
        (["fds", "no-such-comm"], ["no process is called"]),
        (["ss", "--pid", "99999"], ["no process 99999"]),
        (["ss", "--pid", "x"], ["--pid"]),
        (["ss", "--netns", "99999"], ["no network namespace 99999", "there are 402653"]),
        (["ss", "--output", "nonsense"], ["no such column", "nonsense"]),
        (["ss", "--output", "stat"], ["did you mean 'state'"]),
        (["ss", "--output", ""], ["no such column"]),
        (["ss", "--output", "ino,"], ["no such column"]),
        (["ss", "--json", "--csv"], ["not allowed with"]),
        (["ss", "--nonsense"], ["unrecognized"]),
        (["peer"], ["WHAT"]),
        (["peer", "99999:3"], ["no process 99999"]),
        (["peer", "/no/such/path"], ["no unix socket is called"]),
        (["peer", "@no-such-name"], ["no unix socket is called"]),
        (["peer", ""], ["no unix socket is called"]),
        (["peer", "99999999"], ["no socket has inode"]),
        (["peer", "0"], ["no socket has inode"]),
        (["peer", "socket:[99999999]"], ["no socket has inode"]),
        (["peer", "99999999999999999999999999"], ["no socket has inode"]),
        (["peer", "99999999999999999999:1"], ["no process"]),
        (["peer", "/x\ny"], ["no unix socket is called"]),
        (["tcp", "@ds-hub"], []),
        (["nonsense"], ["nonsense"]),
        ([], ["COMMAND"]),
        (["check", "--procfs", "/no/such"], ["no such directory"]),
    ],
    ids=lambda value: " ".join(value)[:40].replace("\n", " ") if value else "",
)
def test_bad_arguments(one: Core, argv: list[str], words: list[str]) -> None:
    done = one.run(*argv)
    assert done.status == 2
    assert done.out == ""
    assert done.err.count("\n") == 1, done.err
    for word in words:
        assert word in done.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["state", "nonsense"], ["no such state", "nonsense"]),
        (["state", "listning"], ["did you mean 'listening'?"]),
        (["state"], ["expected a state"]),
        (["dport", "=", ":"], ["expected a port"]),
        (["-ta", "( sport = :22"], ["never closed"]),
    ],
)
def test_bad_filters(one: Core, argv: list[str], words: list[str]) -> None:
    """A line that says what is wrong, and two that show where."""
    done = one.run("ss", *argv)
    assert (done.status, done.out) == (2, "")
    first, shown, caret = done.err.splitlines()
    assert first.startswith("drgn-sockets: filter: ")
    assert [word for word in words if word not in first] == []
    assert shown == "  " + " ".join(word for word in argv if word[0] != "-")
    assert caret.strip() == "^" and 2 < len(caret) <= len(shown)


def test_bad_arguments_as_a_process(one: Core) -> None:
    one_line(one.spawn("fds", "99999"), "no process 99999")
    one_line(one.spawn("ss", "--output", "nonsense"), "no such column")
    one_line(one.spawn("peer", "/x\ny"), "no unix socket is called")


@pytest.mark.parametrize("command", ["peer", "tcp", "ss --addr"])
@pytest.mark.parametrize(
    "address",
    ["0x0", "0x1", "0x7f0000000000", "0x8000000000000000", "0xffffffffffffffff",
     "0xfffffffffffffff0", "ffff888000000001", "0xffff800000000000", "init_task", "init_net",
     "socket_file_ops"],
)  # fmt: skip
def test_address_of_no_socket(one: Core, command: str, address: str) -> None:
    if address.startswith(("init", "socket")):
        address = f"{one.prog.symbol(address).address:#x}"
    done = one.run(*command.split(), address)
    assert done.status == 2, done
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert re.search(r"is not a socket|not a kernel address", done.err), done.err


def test_address_near_a_socket(one: Core) -> None:
    """A few bytes off, or in another structure: not a socket, and it says so."""
    end = one.accounts["tcp_echo"]["connections"][0]["client"]
    (entry,) = (e for p, e in one.fds("tcp_echo") if (p["pid"], e["fd"]) == (end["pid"], end["fd"]))
    (row,) = (r for r in one.rows("ss", "-ta") if r["ino"] == entry["inode"])
    sk = int(row["sk"], 16)
    for wrong in (sk + 8, sk - 8, sk + 1, sk + 64):
        done = one.run("peer", f"{wrong:#x}")
        assert done.status == 2, (hex(wrong), done.out)
    # Those that lead to it are as good: struct socket and struct file.
    for right in (row["socket"], int(file_of(one, row), 16)):
        done = one.run("tcp", f"{right:#x}", "--json")
        assert done.status == 0, done.err
        fields = {f["field"]: f["value"] for f in map(json.loads, done.out.splitlines())}
        assert fields["sk"] == row["sk"]


def file_of(core: Core, row: dict[str, object]) -> str:
    found: str = next(r["file"] for r in core.rows("fds") if r["sk"] == row["sk"])
    return found


def test_fd_that_is_not_there_or_no_socket(one: Core) -> None:
    account = one.accounts["tcp_echo"]["processes"][1]
    pid = account["pid"]
    for what, words in (
        (f"{pid}:999", "no fd 999"),
        (f"{pid}:0", "not a socket"),
        ("2:0", "no fd 0"),
    ):
        for command in ("peer", "tcp"):
            done = one.run(command, what)
            assert (done.status, done.out) == (2, "")
            assert words in done.err and done.err.count("\n") == 1
    zombie = next(p["pid"] for p in one.accounts["threads"]["processes"] if p.get("zombie"))
    one_line(one.run("peer", f"{zombie}:0"), "exited")


def test_thread_instead_of_process(one: Core) -> None:
    process = next(p for p in one.accounts["database"]["processes"] if p["tid"] != p["pid"])
    one_line(one.run("fds", str(process["tid"])), "thread of process", str(process["pid"]))


def test_not_a_tcp_socket(one: Core) -> None:
    listener = one.accounts["unix_fork"]["connections"][0]["listener"]
    one_line(one.run("tcp", f"{listener['pid']}:{listener['fd']}"), "not a TCP socket")


def test_one_wrong_of_several_prints_nothing(one: Core) -> None:
    end = one.accounts["tcp_echo"]["connections"][0]["client"]
    good = f"{end['pid']}:{end['fd']}"
    for command in ("peer", "tcp"):
        one_line(one.run(command, good, "99999:1", "--json"), "no process 99999")


@pytest.mark.parametrize("command", ["fds", "ss -a", "fds --json", "ss -a --csv --output all"])
def test_nobody_reads_on(one: Core, command: str) -> None:
    """| head -1"""
    read, write = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-m", "drgn_sockets", *one.target, *command.split()],
        cwd=ROOT,
        stdout=write,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(write)
        assert os.read(read, 1)
        os.close(read)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, one.stderr(err)) == (0, b"")


@pytest.mark.parametrize("command", ["fds", "ss -a --json", "fds --output help", "--help"])
def test_closed_before_the_first_byte(one: Core, command: str) -> None:
    read, write = os.pipe()
    os.close(read)
    done = one.spawn(*command.split(), stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("command", ["fds", "ss -a", "ss --json -a", "fds --output help"])
def test_full_disk(one: Core, command: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = one.spawn(*command.split(), stdout=full)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"No space left" in done.stderr


@pytest.mark.parametrize("command", ["fds", "ss -a --json", "fds --json --output all"])
def test_a_disk_that_fills_up(one: Core, tmp_path: Path, command: str) -> None:
    """What is there by then stays: whole lines."""
    whole = one.run(*command.split()).out.encode()
    for limit in (len(whole) // 3, 20_000, 1):
        file = tmp_path / "out"
        with file.open("wb") as out:
            done = one.spawn(
                *command.split(),
                stdout=out,
                preexec_fn=lambda limit=limit: resource.setrlimit(
                    resource.RLIMIT_FSIZE, (limit, limit)
                ),
            )
        assert done.returncode == 2
        assert done.stderr.count(b"\n") == 1 and b"File too large" in done.stderr
        text = file.read_bytes()
        assert len(text) <= limit
        assert whole.startswith(text)
        assert not text or text.endswith(b"\n")
        longest = max(map(len, whole.splitlines(keepends=True)))
        assert len(text) + longest >= limit
        if "--json" in command:
            assert all(map(json.loads, text.splitlines()))


@pytest.mark.parametrize("jobs", ["1", "3"])
@pytest.mark.parametrize("command", ["fds --json", "ss -a --json"])
def test_a_core_that_ends_half_way(
    one: Core, tmp_path: Path, command: str, jobs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is cut, or written over, while it is read."""
    copy = tmp_path / "core"
    shutil.copyfile(one.path, copy)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "drgn_sockets", "-c", str(copy), *one.symbols),
            *("--jobs", jobs, *command.split(), "--output", "all"),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    with process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        # Nobody has read on: it waits for room in the pipe.
        os.truncate(copy, copy.stat().st_size // 100)
        out, err = process.communicate(timeout=120)
    assert process.returncode in (0, 1, 2)
    assert b"Traceback" not in err
    rows = [json.loads(line) for line in (first + out).splitlines()]
    assert rows
    if process.returncode == 2:
        # What was lost until then, and why it ended.
        lines = one.stderr(err).splitlines()
        assert all(line.startswith(b"drgn-sockets: ") for line in lines)
        assert lines[-1].startswith(b"drgn-sockets: cannot go on: ")
    elif process.returncode == 1:
        assert any(row["error"] for row in rows if "error" in row) or err


def test_no_standard_output_at_all(one: Core) -> None:
    shell = shutil.which("sh")
    assert shell
    argv = [sys.executable, "-m", "drgn_sockets", *one.target, "ss", "-t"]
    done = subprocess.run(
        [shell, "-c", 'exec "$@" >&-', "sh", *argv],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    assert b"Traceback" not in done.stderr
    assert done.returncode in (0, 2)


def test_ascii_terminal(one: Core) -> None:
    """Names that are not ASCII, where the locale has nothing else."""
    env = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    for command in ("fds", "ss -xa", "ss -xa --csv", "ss -xa --json"):
        done = one.spawn(*command.split(), env=env)
        assert (done.returncode, done.stderr) == (0, b""), command
        lines = done.stdout.decode("ascii").splitlines()
        utf8 = one.run(*command.split())
        assert len(lines) == len(utf8.out.splitlines())
        if command.endswith("--json"):
            assert [json.loads(line) for line in lines] == [
                json.loads(line) for line in utf8.out.splitlines()
            ]
