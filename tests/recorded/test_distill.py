# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A distilled core: is it small, does every command say the same on it as on the whole one, and
is nothing in it that is nobody's business?
"""

from __future__ import annotations

import json
import mmap
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from drgn import Program
from drgn.helpers.linux.module import for_each_module

from drgn_sockets import demo
from drgn_sockets.cli import make_parser
from drgn_sockets.target import open_target
from vm.kdump_pages import Kdump

from .conftest import opened
from .machine import Core, run_on, spawn

#: Bytes that types and symbols of the kernel take, and each open file with what leads to it.
BASE, EACH = 3500 << 10, 1000


class Distilled:
    """What ``distill`` makes of a core, and says of that."""

    def __init__(self, core: Core, path: Path, *options: str) -> None:
        self.path = path
        done = spawn(*core.target, "distill", "-o", str(path), "--json", *options)
        assert done.returncode == 0, done.stderr
        self.said: dict[str, Any] = json.loads(done.stdout)
        self.prog: Program = open_target(make_parser().parse_args(["-c", str(path), "ss"]))


@pytest.fixture(scope="module")
def made(one: Core, tmp_path_factory: pytest.TempPathFactory) -> Distilled:
    return Distilled(one, tmp_path_factory.mktemp("distilled") / "core.kdump")


@pytest.fixture
def distilled(elf: Core) -> Core:
    """The distilled core of each kernel, made once for all tests."""
    return opened(elf.kernel, "distilled")


@pytest.mark.parametrize("format_", ["kdump", "distilled"])
def test_of_another_format_it_is_the_same(
    one: Core, made: Distilled, format_: str, tmp_path: Path
) -> None:
    first = Kdump(made.path)
    again = Kdump(Distilled(opened(one.kernel, format_), tmp_path / "again").path)
    assert again.pages == first.pages
    assert again.vmcoreinfo == first.vmcoreinfo


def test_it_is_small(elf: Core, distilled: Core) -> None:
    size = distilled.path.stat().st_size
    print(f"{elf.kernel}: {size / 1e6:.1f} MB")
    # Types of modules are compressed to a third. Those of 6.18 are four times as large as those of
    # 7.2. Before 5.11, modules have none.
    modules = for_each_module(elf.prog)
    types = [m.btf_data_size.value_() for m in modules if m.type_.type.has_member("btf_data_size")]
    assert size <= BASE + sum(types) // 3 + EACH * len(elf.rows("fds"))


def test_what_it_says(made: Distilled) -> None:
    assert made.said["size"] == made.path.stat().st_size
    assert made.said["pages"] == len(Kdump(made.path).pages)
    assert made.path.stat().st_mode & 0o777 == 0o600


#: All that is read, which differs by kernel.
ALL = (
    ("fds", "--maps", "--json", "--output", "all"),
    ("fds", "--all", "--threads"),
    ("ss", "-a", "--output", "all", "--json"),
    ("ss", "-tuwxape", "-om"),
)
#: Ways to ask for parts of it, which is ours.
PARTS = (
    ("fds", "--output", "all"),
    ("fds", "--csv"),
    ("fds", "--lsof", "--json"),
    ("fds", "--summary", "--output", "all"),
    ("fds", "/dev/null", ":22222", "--inode", "4711"),
    ("ss",),
    ("ss", "-xlp"),
    ("ss", "-6", "-a"),
    ("ss", "-t", "state", "time-wait", "--output", "all"),
)


@pytest.mark.parametrize("argv", ALL, ids=" ".join)
def test_tables_are_the_same(elf: Core, distilled: Core, argv: tuple[str, ...]) -> None:
    whole = elf.run(*argv)
    assert whole.out.count("\n") > 2
    assert distilled.run(*argv) == whole


@pytest.mark.parametrize("argv", PARTS, ids=" ".join)
def test_parts_are_the_same(one: Core, made: Distilled, argv: tuple[str, ...]) -> None:
    whole = one.run(*argv)
    assert whole.out.count("\n") > 2
    assert run_on(made.prog, *argv) == whole


def test_check_is_the_same(elf: Core, distilled: Core) -> None:
    argv = ("check", "--procfs", str(elf.oracle), "--moved")
    whole = elf.run(*argv)
    assert whole.status == 0 and whole.out.splitlines()[-1].endswith(" 0 mismatches")
    assert run_on(distilled.prog, *argv) == whole


def test_sockets_are_the_same(elf: Core, distilled: Core) -> None:
    """By every name that one has: its address, that of its file, PID:FD, inode."""
    sockets = elf.rows("ss", "-a")
    files = [row for row in elf.rows("fds") if row["kind"] == "sock"]
    assert len(sockets) > 200 and len(files) > 200
    # One of each kind in each state.
    names = list({(row["netid"], row["state"]): row["sk"] for row in sockets}.values())
    assert len(names) > 30
    ends = elf.accounts["unix_fork"]["connections"] + elf.accounts["tcp_echo"]["connections"]
    for row in ends:
        pid, fd = row["client"]["pid"], row["client"]["fd"]
        (file,) = (f for f in files if (f["pid"], f["tid"], f["fd"]) == (pid, None, fd))
        names += [file["file"], f"{pid}:{fd}", str(file["ino"])]
    tcp = [row["sk"] for row in sockets if row["netid"] == "tcp"]
    for argv, lines in (
        (("peer", *names, "--output", "all", "--json"), len(names)),
        (("tcp", *tcp, "--json", "--output", "all"), len(tcp) * 20),
    ):
        whole = elf.run(*argv)
        assert whole.status == 0 and whole.out.count("\n") > lines
        assert run_on(distilled.prog, *argv) == whole
    for pid in {row["client"]["pid"] for row in ends}:
        ss = ("ss", "-a", "--pid", str(pid))
        assert run_on(distilled.prog, *ss) == elf.run(*ss)


def test_names_are_the_same(elf: Core, distilled: Core) -> None:
    for name in ("/tmp/drgn-sockets/unix_fork/test.sock", "/no/such", "@nonesuch", "0", "1:99"):
        argv = ("peer", name)
        assert run_on(distilled.prog, *argv) == elf.run(*argv)


def test_nothing_else_is_in_it(elf: Core, distilled: Core) -> None:
    """Every byte is the machine's, or zero; and most of what lies around is zero."""
    kdump = Kdump(distilled.path)
    page_size = 4096
    foreign = zeroed = 0
    for frame, page in kdump.pages.items():
        whole = elf.prog.read(frame * page_size, page_size, physical=True)
        if page != whole:
            foreign += sum(1 for a, b in zip(page, whole) if a != b and a)
            zeroed += sum(1 for a, b in zip(page, whole) if a != b)
    assert foreign == 0
    # What is left out of the pages that it has, beside the pages that it has not.
    assert zeroed > 1 << 19
    assert kdump.utsname[0] == b"Linux" and kdump.utsname[4] == b"x86_64"


def test_no_secret_is_in_it(elf: Core, distilled: Core, tmp_path: Path) -> None:
    """
    Texts that a program had in memory, in a file, in a pipe, and in queues of sockets: with
    ``--with-payload`` those in sockets are there, which shows that they would be found.
    """
    secrets = elf.accounts["payload"]["secrets"]
    queued = [s for s in secrets if s["queued"]]
    assert len(queued) >= 10 and {s["place"] for s in secrets} >= {"memory", "file", "pipe"}
    memory = Kdump(distilled.path)
    assert [s["place"] for s in secrets if memory.holds(s["token"].encode())] == []
    payload = Distilled(elf, tmp_path / "with", "--with-payload")
    memory = Kdump(payload.path)
    found = {s["place"] for s in secrets if memory.holds(s["token"].encode())}
    assert found == {s["place"] for s in queued}
    argv = ("ss", "-a", "--output", "all")
    assert run_on(payload.prog, *argv) == elf.run(*argv)


def test_secrets_are_in_memory(one: Core) -> None:
    """At that moment they are: the whole core has them all."""
    secrets = one.accounts["payload"]["secrets"]
    with one.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        missing = [s["place"] for s in secrets if data.find(s["token"].encode()) < 0]
    assert missing == []


def test_no_secret_is_in_the_demo() -> None:
    memory = Kdump(demo.CORE)
    with demo.unpacked_oracle() as oracle:
        account = json.loads((oracle / "account" / "payload.json").read_text())
    assert len(account["secrets"]) >= 12
    assert [s["place"] for s in account["secrets"] if memory.holds(s["token"].encode())] == []


SCRIPT = """
from stat import S_ISSOCK
from drgn.helpers.linux import *
tasks = list(for_each_task())
files = [(fd, file) for task in tasks for fd, file in for_each_file(task)]
print(prog["init_task"].comm.string_().decode(), len(tasks), len(files), len(list(for_each_net())))
for fd, file in files:
    if not S_ISSOCK(file.f_inode.i_mode.value_()):
        print(fd, d_path(file.f_path))
"""


def test_drgn_opens_it(elf: Core, distilled: Core, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    drgn = str(Path(sys.executable).with_name("drgn"))
    words = []
    # 5.10 has no other way to its symbols in drgn; nor does it need one when it is distilled.
    env = {**os.environ, "DRGN_SOCKETS_SYSTEM_MAP": "".join(elf.system_map[1:])}
    for path, environ in ((distilled.path, os.environ), (elf.path, env)):
        done = subprocess.run(
            [drgn, "-q", "-c", str(path), str(script)],
            capture_output=True,
            env=environ,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        words.append(done.stdout)
    assert words[0] == words[1]
    assert words[0].startswith("swapper/0 ") and words[0].count("b'/") > 100


def test_what_it_does_not_hold_is_said(elf: Core, distilled: Core) -> None:
    init_task = elf.prog["init_task"].address_of_().value_()
    # Next to what it holds, on the same page, and on a page that it has not.
    for address in (init_task + 16, elf.prog.symbol("_stext").address):
        done = run_on(distilled.prog, "peer", hex(address))
        assert done.status == 2
        assert "distilled core, which has only what the commands read" in done.err
        assert done.err.count("\n") == 1


def _limit() -> None:
    # A full disk, for one process.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


def test_full_disk(one: Core, tmp_path: Path) -> None:
    there = tmp_path / "core"
    for before in (None, b"precious"):
        if before is not None:
            there.write_bytes(before)
        done = spawn(*one.target, "distill", "-o", str(there), preexec_fn=_limit)
        assert done.returncode == 2, done.stderr
        last = done.stderr.decode().splitlines()[-1]
        assert last == f"drgn-sockets: cannot write {there}: File too large"
        assert b"Traceback" not in done.stderr
        assert [p.read_bytes() for p in tmp_path.iterdir()] == ([before] if before else [])


def test_killed_while_it_writes(one: Core, tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        there = tmp_path / "core"
        there.write_bytes(b"precious")
        argv = [sys.executable, "-m", "drgn_sockets", *one.target, "distill", "-o", str(there)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            deadline = time.monotonic() + 60
            while not _writes_into(process.pid, tmp_path) and time.monotonic() < deadline:
                time.sleep(0.001)
            process.send_signal(number)
            process.wait(60)
            assert process.stderr is not None and b"Traceback" not in process.stderr.read()
        assert process.returncode in (-number, 128 + number)
        assert there.read_bytes() == b"precious"
        # Nobody can clean up after SIGKILL: the file has no name before it is complete.
        assert list(tmp_path.iterdir()) == [there]


def _writes_into(pid: int, directory: Path) -> bool:
    """Whether a process has a file open in a directory."""
    try:
        links = [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return any(link.startswith(f"{directory}/") for link in links)


def test_bad_output(one: Core, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.symlink_to(one.path)
    fifo, loop = tmp_path / "fifo", tmp_path / "loop"
    os.mkfifo(fifo)
    loop.symlink_to(loop)
    before = one.path.stat()
    for file, words in (
        (str(one.path), "is the core that is read"),
        (str(copy), "is the core that is read"),
        (str(tmp_path), "is not a regular file"),
        ("/dev/null", "is not a regular file"),
        (str(fifo), "is not a regular file"),
        (str(loop), "cannot write"),
        (str(tmp_path / "none" / "core"), "there is no directory"),
        ("", ""),
    ):
        done = spawn(*one.target, "distill", "-o", file)
        assert done.returncode == 2, (file, done.stderr)
        assert words in done.stderr.decode().splitlines()[-1]
        assert b"Traceback" not in done.stderr and done.stdout == b""
    assert one.path.stat() == before
    assert stat.S_ISFIFO(fifo.stat().st_mode) and loop.is_symlink()
    done = spawn(*one.target, "distill")
    assert done.returncode == 2 and b"-o" in done.stderr
    # Standard output is a file: /dev/stdout leads to it. It is neither of them that is replaced.
    leads_to = Path("/dev/stdout").readlink()
    out = tmp_path / "out"
    with out.open("wb") as stdout:
        done = spawn(*one.target, "distill", "-o", "/dev/stdout", stdout=stdout)
        assert done.returncode == 2 and b"is where the messages of this command go" in done.stderr
        assert out.stat().st_ino == os.fstat(stdout.fileno()).st_ino and not out.read_bytes()
    assert Path("/dev/stdout").readlink() == leads_to


def test_through_a_link(one: Core, tmp_path: Path) -> None:
    """The file that it leads to is replaced, and the link stays."""
    link, there = tmp_path / "link", tmp_path / "elsewhere" / "core"
    there.parent.mkdir()
    there.write_bytes(b"old")
    link.symlink_to("elsewhere/core")
    done = spawn(*one.target, "distill", "-o", str(link))
    assert done.returncode == 0, done.stderr
    assert str(link.readlink()) == "elsewhere/core" and Kdump(there).pages
    assert list(there.parent.iterdir()) == [there]


def test_a_damaged_one(one: Core, tmp_path: Path) -> None:
    """Cut short anywhere, or with noise in it: one line, or rows that say so, and no more."""
    whole = tmp_path / "whole"
    assert spawn(*one.target, "distill", "-o", str(whole)).returncode == 0
    rows = spawn("-c", str(whole), "ss", "-a").stdout
    data = whole.read_bytes()
    broken = tmp_path / "broken"
    for size in (0, 100, 4096, 8192, 40_000, len(data) // 4, len(data) // 2, len(data) - 5000):
        broken.write_bytes(data[:size])
        done = spawn("-c", str(broken), "ss", "-a")
        # What is missing at the end may be other commands'.
        said = done.returncode in (1, 2) or done.stdout == rows
        assert said, size
        assert b"Traceback" not in done.stderr
        if done.returncode == 2:
            assert re.match(rb"drgn-sockets: ", done.stderr.splitlines()[-1])


def test_there_is_room_beside(one: Core, tmp_path: Path) -> None:
    """A file that is there is replaced by a whole one."""
    there = tmp_path / "core"
    there.write_bytes(b"old")
    assert spawn(*one.target, "distill", "-o", str(there)).returncode == 0
    assert [p.name for p in tmp_path.iterdir()] == ["core"]
    assert Kdump(there).pages
    shutil.rmtree(tmp_path)
