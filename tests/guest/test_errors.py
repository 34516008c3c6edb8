# SPDX-License-Identifier: LGPL-2.1-or-later
"""What goes wrong for users: one line, on standard error, and status 2."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from drgn import Program

from drgn_sockets import cli

from . import truth
from .truth import Scene

pytestmark = pytest.mark.ours


def _one_line(out: str, err: str) -> str:
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("drgn-sockets: ")
    return line


class _Here:
    """The shell's command in this process, on a kernel that is opened already."""

    def __init__(
        self, prog: Program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(cli, "open_target", lambda args: prog)
        self._capsys = capsys

    def run(self, *argv: str, status: int) -> tuple[str, str]:
        try:
            ended = cli.main(argv)
        except SystemExit as e:  # argparse
            ended = int(e.code or 0)
        out, err = self._capsys.readouterr()
        assert ended == status, (out, err)
        return out, err


@pytest.fixture
def here(
    prog: Program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> _Here:
    """For what goes wrong once the kernel is open."""
    return _Here(prog, monkeypatch, capsys)


def test_not_root() -> None:
    """Nobody may read /proc/kcore, and is told whom to ask."""

    def be_nobody() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

    done = truth.cli(None, "fds", before=be_nobody, status=2)
    line = _one_line(done.stdout, done.stderr)
    assert "no permission to read /proc/kcore" in line and "root" in line


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["fds", "4194305"], "no process 4194305"),
        (["fds", "nobody's name"], 'no process is called "nobody\'s name"'),
        (["peer", "1:99999"], "process 1 has no fd 99999"),
        (["peer", "1:0"], "is not a socket"),
        (["peer", "999999999"], "no socket has inode 999999999"),
        (["peer", "/no/such/path"], "/no/such/path"),
        (["tcp", "0xffffffffffffffff"], "is not a socket"),
        (["tcp", "0x0"], "is not a socket"),
        (["ss", "--netns", "99999"], "no network namespace 99999"),
        (["ss", "--addr", "here"], "not a kernel address"),
        (["ss", "--pid", "4194305"], "no process 4194305"),
        (["check", "--procfs", "/etc"], "not laid out as /proc is"),
        (["fds", "--output", "nam"], "did you mean 'name'?"),
        (["no-such-command"], "no-such-command"),
    ],
)
def test_mistakes(here: _Here, argv: list[str], says: str) -> None:
    """Each has a line of its own."""
    assert says in _one_line(*here.run(*argv, status=2))


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["-s", "/etc/passwd", "fds"], "is not an ELF file"),
        (["-c", "/etc/passwd", "fds"], "/etc/passwd is not a core"),
        (["--qemu", "/no/such/socket", "fds"], "cannot reach QEMU at /no/such/socket"),
    ],
)
def test_no_such_target(argv: list[str], says: str) -> None:
    """The same of what cannot be opened."""
    done = truth.cli(None, *argv, status=2)
    assert says in _one_line(done.stdout, done.stderr)


def test_socket_of_another_kind(here: _Here, scene: Scene) -> None:
    """tcp of a unix socket: says what it is, and which command to take."""
    fd = scene.named["unix client"]
    line = _one_line(*here.run("tcp", f"{scene.pid}:{fd}", status=2))
    assert "is not a TCP socket: u_str" in line


def test_inode_of_a_socket_file(here: _Here, scene: Scene) -> None:
    """The inode that stat shows for a path is not the socket's, and the error says so."""
    ino = Path(scene.facts["path"]).stat().st_ino
    line = _one_line(*here.run("peer", str(ino), status=2))
    assert f"socket:[{scene.ino('unix listener')}]" in line


def test_thread_id_is_not_a_process(here: _Here, scene: Scene) -> None:
    """fds TID names the process to ask about."""
    line = _one_line(*here.run("fds", str(scene.facts["thread"]["tid"]), status=2))
    assert f"is a thread of process {scene.pid}" in line


def test_zombie(here: _Here) -> None:
    """A process that has exited holds nothing: said, and status 0."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    try:
        time.sleep(0.2)
        out, err = here.run("fds", str(pid), status=0)
        assert "has exited (zombie)" in err
        assert len(out.splitlines()) <= 1
    finally:
        os.waitpid(pid, 0)


def test_reader_who_has_enough(prog: Program) -> None:
    """| head: quiet."""
    with subprocess.Popen(["head", "-2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as head:
        assert head.stdin and head.stdout
        done = truth.cli(prog, "ss", "-a", stdout=head.stdin.fileno(), before=head.stdin.close)
        head.stdin.close()
        assert len(head.stdout.read().splitlines()) == 2
    assert done.stderr == ""


def test_full_disk(prog: Program) -> None:
    """Output that cannot be written is an error, not silence."""
    with Path("/dev/full").open("wb") as full:
        done = truth.cli(prog, "ss", "-a", stdout=full.fileno(), status=2)
    assert "No space left" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_interrupt() -> None:
    """Ctrl-C: no traceback, and the status that a shell expects."""
    script = "import sys, drgn_sockets.cli as c; sys.argv[1:] = ['check']; sys.exit(c.main())"
    argv = [sys.executable, "-c", script]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as p:
        while b"/proc/kcore" not in truth.links(p.pid).values():
            time.sleep(0.1)
        time.sleep(1)
        p.send_signal(signal.SIGINT)
        assert p.stderr
        # It may have said by then where types are from.
        lines = p.stderr.read().splitlines()
        assert all(line.startswith(b"drgn-sockets: types from") for line in lines), lines
        assert len(lines) <= 1
    # A shell makes 130 of that.
    assert p.returncode == -signal.SIGINT
