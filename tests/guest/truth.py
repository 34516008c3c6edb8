# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The truth, from elsewhere: processes that say what they opened, procfs, and the usual tools.

Nothing in here looks at kernel memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import io
import json
import os
import re
import runpy
import select
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

import drgn
from drgn import Program
from drgn.commands import run_command

import drgn_sockets.cli
import drgn_sockets.plugin
from vm.workloads import syscalls

NET_FILES = ("tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "unix")


def shell(*argv: str, status: int | None = 0, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run ``drgn-sockets`` as a user does: it takes some 8 s to start in a guest."""
    return tool("drgn-sockets", *argv, status=status, **kwargs)


def forked(
    argv: Sequence[str], body: Callable[[], int], status: int = 0, stdout: int | None = None
) -> subprocess.CompletedProcess[str]:
    """
    Run *body* as a process of its own that is a fork of ours, with all that we have imported.

    :param argv: What it is to find in ``sys.argv``.
    :param stdout: A file descriptor to be its standard output.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            ended = 1
            try:
                with open(os.devnull) as null:  # noqa: PTH123
                    os.dup2(null.fileno(), 0)
                os.dup2(out.fileno() if stdout is None else stdout, 1)
                os.dup2(err.fileno(), 2)
                sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
                sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
                sys.argv = list(argv)
                signal.alarm(300)
                ended = body()
                sys.stdout.flush()
            except SystemExit as e:
                ended = int(e.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                for stream in (sys.stdout, sys.stderr):
                    with contextlib.suppress(OSError):
                        stream.flush()
                os._exit(ended)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="surrogateescape"))
    done = subprocess.CompletedProcess(list(argv), ended, *texts)
    assert ended == status, done
    return done


def cli(
    prog: Program | None,
    *argv: str,
    status: int = 0,
    stdout: int | None = None,
    before: Callable[[], object] = lambda: None,
) -> subprocess.CompletedProcess[str]:
    """
    Run all of ``drgn-sockets`` but its start.

    :param prog: The kernel, opened; without, it is for :func:`cli.main` to open what it shall.
    :param before: Called in the new process first.
    """

    def body() -> int:
        before()
        if prog is not None:
            vars(drgn_sockets.cli)["open_target"] = lambda args: prog
        return drgn_sockets.cli.main()

    return forked(["drgn-sockets", *argv], body, status, stdout)


def script(
    prog: Program, path: Path, *argv: str, status: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a script as ``drgn -k SCRIPT`` does, without the wait for its start."""

    def body() -> int:
        drgn.set_default_prog(prog)
        runpy.run_path(str(path), {"prog": prog}, "__main__")
        return 0

    return forked([str(path), *argv], body, status)


def tool(*argv: str, status: int | None = 0, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run a program; *status* is what it has to end with."""
    done = subprocess.run(
        argv,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=300,
        **{"stdin": subprocess.DEVNULL, **kwargs},
    )
    if status is not None:
        assert done.returncode == status, (argv, done.returncode, done.stdout, done.stderr)
    return done


def ours(prog: Program, line: str) -> str:
    """Output of a command in this process, as the REPL runs it."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        run_command(prog, line)
    return out.getvalue()


def ours_json(prog: Program, line: str) -> list[dict[str, Any]]:
    """The same, of ``--json``."""
    return [json.loads(row) for row in ours(prog, f"{line} --json").splitlines()]


# procfs.


def links(pid: int | str) -> dict[int, bytes]:
    """``ls -l /proc/PID/fd``."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(os.fsencode(f"/proc/{pid}/fd/{name}"))  # noqa: PTH115
    return found


def fdinfo(pid: int | str, fd: int) -> dict[str, str]:
    """The first lines of ``fdinfo``."""
    text = Path(f"/proc/{pid}/fdinfo/{fd}").read_text(errors="surrogateescape")
    return dict(re.findall(r"^(pos|flags|mnt_id|ino):\t(.*)$", text, re.MULTILINE))


def all_fds() -> set[tuple[int, int, bytes]]:
    """Every (pid, fd, link) that procfs shows now."""
    found = set()
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with contextlib.suppress(OSError):
                found |= {(int(path.name), fd, link) for fd, link in links(path.name).items()}
    return found


def net_rows() -> dict[str, set[tuple[str, ...]]]:
    """Sockets in the files of ``net/``, of every network namespace that a process is in."""
    seen: set[str] = set()
    found: dict[str, set[tuple[str, ...]]] = {name: set() for name in NET_FILES}
    for path in Path("/proc").iterdir():
        if not path.name.isdecimal():
            continue
        try:
            netns = os.readlink(path / "ns/net")  # noqa: PTH115
            if netns in seen:
                continue
            files = [f for f in NET_FILES if (path / "net" / f).exists()]
            texts = {f: (path / "net" / f).read_bytes() for f in files}
        except OSError:
            continue
        seen.add(netns)
        for name, text in texts.items():
            for line in text.decode("latin-1").split("\n")[1:]:
                words = line.split()
                if name == "unix" and re.match(r"[0-9a-f]{16}: [0-9A-F]{8} ", line):
                    found[name].add((netns, words[0], words[6]))
                elif name != "unix" and words:
                    found[name].add((netns, words[1], words[2], words[9], words[11]))
    return found


# Processes of our own.


@contextlib.contextmanager
def process(body: Callable[[list[Any]], Any]) -> Iterator[tuple[int, Any]]:
    """
    Fork a process that has nothing but what *body* opens, standard streams, and fd 3.

    :param body: Takes a list to keep things alive in; what it returns (JSON) is yielded with
        the PID once it has. The process, and those it forked, stay until the block ends.
    """
    up, down = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            syscalls.libc("prctl", syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            # Garbage of the parent must not be collected here: it may have files in it, which
            # would close descriptors by numbers that are others' now.
            gc.disable()
            # Up to 63 is room for what body() opens.
            os.dup2(up[1], 64, inheritable=False)
            os.dup2(down[0], 3, inheritable=False)
            for fd in (4, *range(65, 4096)):
                with contextlib.suppress(OSError):
                    os.close(fd)
            os.closerange(4, 64)
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1):
                os.dup2(null, fd)
            os.close(null)
            kept: list[Any] = []
            report = body(kept)
            if report is not None:
                data = json.dumps(report).encode()
                while data:
                    data = data[os.write(64, data) :]
                os.close(64)
            os.read(3, 1)
        except BaseException:
            # sys.stderr is a file of pytest's, which is closed here.
            os.write(2, traceback.format_exc().encode())
            os._exit(1)
        finally:
            os._exit(0)
    os.close(up[1])
    os.close(down[0])
    try:
        chunks = []
        while chunk := os.read(up[0], 1 << 16):
            chunks.append(chunk)
        text = b"".join(chunks)
        assert text, f"the process said nothing, and {_ending(pid)}"
        yield pid, json.loads(text)
    finally:
        os.close(up[0])
        os.close(down[1])
        with contextlib.suppress(ChildProcessError):  # _ending() has waited for it.
            os.waitpid(pid, 0)


def _ending(pid: int) -> str:
    """How a child ended, waiting for it."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


def fork_too(body: Callable[[], None] = lambda: None) -> int:
    """Within *body* of :func:`process`: fork once more, for as long as that lasts."""
    pid = os.fork()
    if pid == 0:
        try:
            syscalls.libc("prctl", syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            os.close(64)
            body()
            os.read(3, 1)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(0)
    return pid


def set_comm(name: bytes) -> None:
    """Set the command name of this process."""
    syscalls.libc("prctl", syscalls.PR_SET_NAME, ctypes.c_char_p(name), 0, 0, 0)


_MODES = {os.O_RDONLY: "r", os.O_WRONLY: "w", os.O_RDWR: "u"}


def describe_fd(fd: int, kind: str, name: str | None = None) -> dict[str, Any]:
    """What this process knows of its own descriptor, by system calls on it."""
    status = os.fstat(fd)
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    cloexec = bool(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC)
    access = "p" if flags & os.O_PATH else _MODES[flags & os.O_ACCMODE]
    try:
        position: int | None = os.lseek(fd, 0, os.SEEK_CUR)
    except OSError:
        position = None
    if stat.S_ISSOCK(status.st_mode) and name is None:
        name = f"socket:[{status.st_ino}]"
    if stat.S_ISFIFO(status.st_mode) and name is None:
        name = f"pipe:[{status.st_ino}]"
    return {
        "kind": kind,
        "name": name,
        "mode": access + "c" * cloexec,
        "pos": position,
        "ino": status.st_ino,
        "dev": f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}",
    }


@dataclass
class Scene:
    """A process with one of each."""

    pid: int
    #: What it calls itself.
    comm: str
    #: What it says of its descriptors; all of them, but for 0 to 3.
    fds: dict[int, dict[str, Any]]
    #: Descriptors by name.
    named: dict[str, int]
    #: PIDs by name.
    pids: dict[str, int]
    #: More facts.
    facts: dict[str, Any] = field(default_factory=dict)

    def ino(self, name: str) -> int:
        """Inode of a descriptor."""
        return int(self.fds[self.named[name]]["ino"])


NASTY = "two\nlines \x1b[31m\udcff \\"
#: A path that goes on like the next row of /proc/net/unix does.
FORGED = "x\n0000000000000000: 00000002 00000000 00010000 0001 01  4242 forged"


def _scene(work: Path, kept: list[Any]) -> dict[str, Any]:
    set_comm(b"one of each")
    fds: dict[int, dict[str, Any]] = {}
    named: dict[str, int] = {}
    pids: dict[str, int] = {}

    def hold(name: str, file: Any, kind: str, link: str | None = None) -> Any:
        kept.append(file)
        fd = file if isinstance(file, int) else file.fileno()
        named[name] = fd
        fds[fd] = describe_fd(fd, kind, link)
        return file

    (work / "file").write_bytes(bytes(1000))
    file = os.open(work / "file", os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    os.lseek(file, 321, os.SEEK_SET)
    hold("file", file, "reg", str(work / "file"))
    # dup() shares the position, not close-on-exec; another open() has one of its own.
    hold("dup", os.dup2(file, 900, inheritable=True), "reg", str(work / "file"))
    hold("reopened", os.open(work / "file", os.O_WRONLY), "reg", str(work / "file"))
    nasty = os.fsencode(work) + b"/" + os.fsencode(NASTY)
    hold("nasty", os.open(nasty, os.O_CREAT | os.O_RDONLY), "reg", os.fsdecode(nasty))
    hold("gone", os.open(work / "gone", os.O_CREAT | os.O_RDWR), "reg", f"{work}/gone (deleted)")
    (work / "gone").unlink()
    hold("dir", os.open(work, os.O_RDONLY | os.O_DIRECTORY), "dir", str(work))
    hold("path", os.open(work / "file", os.O_PATH), "reg", str(work / "file"))
    hold("null", os.open("/dev/null", os.O_WRONLY), "chr", "/dev/null")
    os.mkfifo(work / "fifo")
    hold("fifo", os.open(work / "fifo", os.O_RDWR), "fifo", str(work / "fifo"))
    for end, fd in zip(("pipe r", "pipe w"), os.pipe()):
        hold(end, fd, "pipe")
    hold("memfd", os.memfd_create("a name"), "memfd", "/memfd:a name (deleted)")
    hold("eventpoll", select.epoll(), "eventpoll", "anon_inode:[eventpoll]")
    if sys.version_info >= (3, 10):
        hold("eventfd", os.eventfd(7), "eventfd", "anon_inode:[eventfd]")
    hold(
        "netns",
        os.open("/proc/self/ns/net", os.O_RDONLY),
        "ns",
        str(Path("/proc/self/ns/net").readlink()),
    )

    listener = hold("tcp listener", socket.create_server(("127.0.0.1", 0), backlog=3), "sock")
    client = hold("tcp client", socket.create_connection(listener.getsockname()), "sock")
    server = hold("tcp server", listener.accept()[0], "sock")
    client.sendall(b"x" * 777)
    select.select([server], [], [])
    waiting = hold("tcp waiting", socket.create_connection(listener.getsockname()), "sock")
    six = hold("tcp6 listener", socket.socket(socket.AF_INET6, socket.SOCK_STREAM), "sock")
    six.bind(("::", 0))
    six.listen(9)
    dual = hold("tcp dual client", socket.socket(), "sock")
    dual.connect(("127.0.0.1", six.getsockname()[1]))
    hold("tcp dual server", six.accept()[0], "sock")
    bound = hold("tcp bound", socket.socket(), "sock")
    bound.bind(("127.0.0.1", 0))
    refused = hold("tcp refused", socket.socket(), "sock")
    with contextlib.suppress(ConnectionRefusedError):
        refused.connect(bound.getsockname())
    hold("tcp never bound", socket.socket(), "sock")
    hold("tcp6 never bound", socket.socket(socket.AF_INET6), "sock")
    hold("udp never bound", socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "sock")
    udp = hold("udp", socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "sock")
    udp.bind(("127.0.0.1", 0))

    unix = hold("unix listener", socket.socket(socket.AF_UNIX), "sock")
    unix.bind(str(work / "socket"))
    unix.listen(5)
    nameless = hold("unix client", socket.socket(socket.AF_UNIX), "sock")
    nameless.connect(str(work / "socket"))
    hold("unix server", unix.accept()[0], "sock")
    pending = hold("unix pending", socket.socket(socket.AF_UNIX), "sock")
    pending.connect(str(work / "socket"))
    for end, sock in zip(("pair a", "pair b"), socket.socketpair()):
        hold(end, sock, "sock")
    abstract = hold("unix abstract", socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), "sock")
    abstract.bind(b"\0of a \0test")
    os.chdir(work)
    for name, path in (("unix nasty", NASTY + ".s"), ("unix forged", FORGED)):
        sock = hold(name, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), "sock")
        sock.bind(os.fsencode(path))

    # A child that holds the nameless client, at another number as well, and one end of the
    # pair alone: the parent keeps the other.
    ready = os.pipe()

    def child() -> None:
        set_comm(b"a child")
        os.dup2(nameless.fileno(), 500)
        os.close(named["pair b"])
        os.write(ready[1], b".")

    pids["child"] = fork_too(child)
    os.read(ready[0], 1)
    os.close(ready[0])
    os.close(ready[1])

    # A thread with a table of its own, in which it then opens and closes.
    lead = threading.Event()
    thread: dict[str, Any] = {}

    def unshared() -> None:
        syscalls.libc("unshare", syscalls.CLONE_FILES)
        os.close(64)
        own = socket.socket()
        own.bind(("127.0.0.1", 0))
        kept.append(own)
        os.close(named["null"])
        thread.update(tid=threading.get_native_id(), ino=os.fstat(own.fileno()).st_ino)
        thread.update(fd=own.fileno(), missing=named["null"])
        lead.set()
        with contextlib.suppress(OSError):
            os.read(3, 1)
        os._exit(0)

    threading.Thread(target=unshared, daemon=True).start()
    lead.wait()
    return {
        "fds": fds,
        "named": named,
        "pids": pids,
        "facts": {
            "thread": thread,
            "listener": listener.getsockname(),
            "client": client.getsockname(),
            "waiting": waiting.getsockname(),
            "six": six.getsockname()[:2],
            "dual": dual.getsockname(),
            "bound": bound.getsockname(),
            "refused": refused.getsockname(),
            "udp": udp.getsockname(),
            "path": str(work / "socket"),
            "work": str(work),
            "netns": Path("/proc/self/ns/net").stat().st_ino,
        },
    }


@contextlib.contextmanager
def scene(work: Path) -> Iterator[Scene]:
    """Make a :class:`Scene` in directory *work*."""
    with process(lambda kept: _scene(work, kept)) as (pid, report):
        yield Scene(
            pid,
            "one of each",
            {int(fd): said for fd, said in report["fds"].items()},
            report["named"],
            report["pids"],
            report["facts"],
        )


def summary(out: str) -> dict[str, int]:
    """The numbers that ``check`` ends with, by what they count."""
    found = {name: int(n) for name, n in re.findall(r"^(\S+) +(\d+) rows compared$", out, re.M)}
    last = re.search(
        r"^(\d+) rows, (\d+) fields compared, (\d+) rows by their kernel address; "
        r"(\d+) moved between looks; (\d+) mismatches$",
        out,
        re.MULTILINE,
    )
    assert last, out
    names = ("rows", "fields", "addresses", "moved", "mismatches")
    return found | dict(zip(names, map(int, last.groups())))
