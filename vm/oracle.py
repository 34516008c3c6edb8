# SPDX-License-Identifier: LGPL-2.1-or-later
# Paths are bytes here, or relative to open directories; pathlib can do neither.
# ruff: noqa: PTH100, PTH103, PTH108, PTH116, PTH120, PTH123, PTH202, PTH208, PTH211
"""
Save what procfs and the usual tools say of a machine, to be compared with later.

``python3 -m vm.oracle DIR`` fills DIR with a tree laid out as ``/proc``:

* ``DIR/PID/``: comm, cmdline, stat, status, cgroup, limits, mountinfo and other files;
  ``fdinfo/*``; and ``cwd``, ``root``, ``exe``, ``ns/*`` and ``fd/*`` as symbolic links with the
  same text, byte for byte. A text that no symbolic link can have is an entry in
  ``DIR/PID/fd.json`` (``{"57": {"error": "ENAMETOOLONG"}}``, or ``{"link": TEXT}``, made by
  ``os.fsdecode``). A process with more than 10,000 descriptors (``--pack-above``) has
  ``DIR/PID/fds.jsonl`` instead of fd, fd.json and fdinfo, since most file systems do not have
  inodes for so many files: each line is ``{"fd": N, "link": TEXT, "fdinfo": TEXT}``, or has
  "error".
* ``DIR/PID/task/TID/``: comm; for threads with a file table of their own also fd, fdinfo,
  status and stat.
* ``DIR/netns/INODE/net/``: ``/proc/net`` of each network namespace. ``DIR/PID/net`` and
  ``DIR/net`` are symbolic links into it. ``DIR/netns/INODE/diag`` has the replies of sock_diag
  there, as :mod:`drgn_sockets.check.sock_diag` saves them.
* ``DIR/sys``, ``DIR/uptime``, ``DIR/version``, ...: which machine this was.
* ``DIR/tools/``: output of ss, lsof, lsfd, netstat, ip and tipc; ``DIR/tools/netns-INODE/`` for
  the namespaces other than ours.
* ``DIR/manifest.json``: when and where it was made, what was left out and why, and the command
  line of each tool.

The tools run first. procfs is read last, shortly before the machine is stopped. Before ss, which
prints timers, and again before sock_diag, the workloads' keepers renew the sockets that last only
a minute. sock_diag is asked just before ``/proc/net`` is read: its own sockets are closed by then,
and each socket has got a cookie.

The tree leaves out the program itself, its children, and the processes of ``--exclude-pid``; the
tools see them. It is no error if a process ends while it is read.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from drgn_sockets.check import sock_diag

from .workloads import control, syscalls

PID_FILES = (
    "comm",
    "cmdline",
    "stat",
    "status",
    "cgroup",
    "limits",
    "mountinfo",
    "statm",
    "oom_score_adj",
    "loginuid",
    "sessionid",
    "setgroups",
    "uid_map",
)
PID_LINKS = ("cwd", "root", "exe")
TASK_FILES = ("comm", "status", "stat")
NET_FILES = (
    "tcp",
    "tcp6",
    "udp",
    "udp6",
    "udplite",
    "udplite6",
    "raw",
    "raw6",
    "icmp",
    "icmp6",
    "unix",
    "netlink",
    "packet",
    "sockstat",
    "sockstat6",
    "protocols",
    "snmp",
    "snmp6",
    "netstat",
    "dev",
    "if_inet6",
    "route",
    "ipv6_route",
    "ptype",
    "igmp",
    "igmp6",
    "mcfilter",
    "mcfilter6",
    "arp",
    "fib_trie",
    "vsock",
    "pfkey",
    "can/stats",
    "sctp/eps",
    "sctp/assocs",
    "softnet_stat",
)
#: Those of them that have times in them. They are read just before ``DIR/uptime``.
MOMENTS = ("tcp", "tcp6")
SYSTEM_FILES = (
    "version", "cmdline", "stat", "meminfo", "modules", "filesystems", "mounts", "devices",
    "sys/kernel/osrelease", "sys/kernel/hostname", "sys/kernel/random/boot_id",
    "sys/kernel/pid_max", "sys/kernel/kptr_restrict", "sys/kernel/tainted", "sys/fs/file-nr",
    "sys/fs/file-max", "sys/fs/nr_open", "sys/net/ipv4/tcp_rmem", "sys/net/ipv4/tcp_wmem",
    "sys/net/ipv4/tcp_congestion_control", "sys/net/core/somaxconn",
)  # fmt: skip
#: ``ss-full-*`` is all that ss prints of a family, to be compared word by word.
SS = {
    "ss-all": "-aniemop -tuwx0",
    "ss-lines": "-aniempoO -tuwx0",
    "ss-aniemop": "-aniemop",
    "ss-aniemopO": "-aniemopO",
    "ss-tcp": "-taniemoO --tos --cgroup",
    "ss-unix-extended": "-xanempO",
    "ss-netlink": "-f netlink -anpe",
    "ss-packet": "-0anpemi",
    "ss-vsock": "--vsock -anp",
    "ss-mptcp": "-M -aniemp",
    "ss-xdp": "--xdp -anpe",
    "ss-tipc": "-aniempO --tipc",
    "ss-tipcinfo": "-aniempO --tipc --tipcinfo",
    # Two lines a socket; and with the Netid, which ss prints only for several families.
    "ss-tipcinfo-lines": "-ap --tipc --tipcinfo",
    "ss-tipc-netid": "-anep --tipc --xdp",
    "ss-summary": "-s",
    **{
        f"ss-full-{name}": f"{which} -aniemopO --tos --cgroup"
        for name, which in (
            *(("tcp", "-t"), ("udp", "-u"), ("raw", "-w"), ("unix", "-x"), ("packet", "-0")),
            *(("netlink", "-f netlink"), ("vsock", "--vsock"), ("xdp", "--xdp")),
            *(("mptcp", "-M"), ("sctp", "-S"), ("dccp", "-d"), ("tipc", "--tipc")),
        )
    },
}
IP = {"ip-link": "-d -j link", "ip-addr": "-d -j addr", "ip-route": "-j route show table all"}
#: ss does not print the names of TIPC sockets; tipc does.
TIPC = {"tipc-sockets": "socket list", "tipc-names": "nametable show"}
ELSEWHERE = {
    "netstat": "netstat -anpeo",
    "lsof-fields": "lsof -nP -F0pPgRcuftaDiklnoSsTG",
}
QUICK = ("ss-lines", "ss-unix-extended", "ss-netlink", "lsof-fields", "lsfd", "netstat", "ip-addr")
#: What runs in each further network namespace.
THERE = (
    *("ss-all", "ss-lines", "ss-aniemop", "ss-aniemopO", "ss-unix-extended", "ss-netlink"),
    *("ss-full-mptcp", "ss-summary", "ip-addr", "ip-link"),
    *("ss-tipc", "ss-tipcinfo", *TIPC),
)
SYMLINK_MAX = 4095
SIOCGSKNS = 0x894C
#: Errors of a process that has ended.
GONE = (errno.ENOENT, errno.ESRCH)


def read_at(directory: int | None, name: bytes | str) -> bytes:
    """Read a whole file without asking for its size, which procfs does not know."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        first = os.read(fd, 1 << 16)
        if len(first) < 512:
            # Most files are short (fdinfo): one read is enough.
            return first
        parts = [first]
        while parts[-1]:
            parts.append(os.read(fd, 1 << 20))
        return b"".join(parts)
    finally:
        os.close(fd)


class CannotWriteError(Exception):
    """The copy cannot be written; not an OSError, which would mean that a process has ended."""


@contextlib.contextmanager
def writing(name: bytes | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        text = os.fsdecode(name)
        raise CannotWriteError(f"cannot write {text}: {error.strerror}") from error


def write_at(directory: int | None, name: bytes | str, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, 0o644, dir_fd=directory)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
    except OSError as error:
        with writing(name):
            raise error


def symlink_at(directory: int | None, name: bytes | str, text: bytes | str) -> None:
    try:
        os.symlink(text, name, dir_fd=directory)
    except OSError as error:
        with writing(name):
            raise error


@contextlib.contextmanager
def directory(name: bytes | str, parent: int | None = None, make: bool = False) -> Iterator[int]:
    """Open a directory; with *make*, make it first."""
    if make:
        with writing(name), contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=parent)
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


def error_name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error.errno))


def numbers(fd: int) -> list[int]:
    """The entries of a directory that are numbers, in order."""
    return sorted(int(name) for name in os.listdir(fd) if name.isdigit())


class Oracle:
    """One run: its source, its target, and what it has found."""

    def __init__(self, proc: str, target: str, options: argparse.Namespace) -> None:
        self.proc = proc
        self.target = target
        self.options = options
        self.exclude = {os.getpid(), *options.exclude_pid}
        self.errors: dict[str, list[str]] = {}
        self.netns_of: dict[int, int] = {}
        #: By inode: a path that opens it, where it was seen, and the processes in it.
        self.netns: dict[int, dict[str, Any]] = {}
        self.tools: list[dict[str, Any]] = []
        self.counts = {"pids": 0, "fds": 0, "threads_with_own_table": 0}
        #: Processes whose descriptors are in fds.jsonl.
        self.packed: list[str] = []
        self._sockets_seen: set[bytes] = set()

    def error(self, where: object, what: str, error: OSError) -> None:
        self.errors.setdefault(str(where), []).append(f"{what}: {error_name(error)}")

    # Network namespaces.

    def pids(self) -> list[int]:
        with directory(self.proc) as proc:
            return [pid for pid in numbers(proc) if pid not in self.exclude]

    def add_netns(self, path: str, seen: str, pid: int | None = None) -> None:
        try:
            inode = os.stat(path).st_ino
        except OSError as error:
            if error.errno not in GONE:
                self.error(pid or path, "ns/net", error)
            return
        entry = self.netns.setdefault(inode, {"path": path, "seen": seen, "pids": []})
        if pid:
            self.netns_of[pid] = inode
            entry["pids"].append(pid)

    def find_netns(self) -> None:
        self.add_netns(f"{self.proc}/self/ns/net", "the oracle")
        for pid in self.pids():
            self.add_netns(f"{self.proc}/{pid}/ns/net", f"process {pid}", pid)

    def renew(self) -> None:
        """Have the workloads' keepers renew the sockets that last only a minute."""
        if self.options.account:
            control.renew(Path(self.options.account))

    def save_diag(self) -> None:
        """Ask sock_diag in each network namespace."""
        try:
            # Imported here, once for all children.
            from pyroute2 import DiagSocket  # noqa: F401
        except ImportError as error:
            self.errors["diag"] = [str(error)]
            return
        for inode, entry in self.netns.items():
            os.makedirs(f"{self.target}/netns/{inode}", exist_ok=True)
            self._inside(entry, functools.partial(save_diag, f"{self.target}/netns/{inode}/diag"))

    def save_net(self) -> None:
        """Read ``/proc/net`` of each network namespace."""
        for files in (tuple(name for name in NET_FILES if name not in MOMENTS), MOMENTS):
            # Our own namespace last: it has most of the sockets.
            for inode, entry in reversed(list(self.netns.items())):
                path = f"{self.target}/netns/{inode}/net"
                os.makedirs(path, exist_ok=True)
                self._inside(entry, functools.partial(self._copy_net, path, files))
        write_at(None, f"{self.target}/uptime", read_at(None, f"{self.proc}/uptime"))
        home = os.stat(f"{self.proc}/self/ns/net").st_ino
        os.symlink(f"netns/{home}/net", f"{self.target}/net")

    def _inside(self, entry: dict[str, Any], action: Callable[[], None]) -> None:
        """Call *action* in a child process that has joined a network namespace."""
        sys.stdout.flush()
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            if status:
                entry["error"] = f"reading its /proc/net failed ({status})"
            return
        code = 1
        try:
            fd = entry.get("fd")
            if fd is None:
                fd = os.open(entry["path"], os.O_RDONLY | os.O_CLOEXEC)
            if os.fstat(fd).st_ino != os.stat("/proc/self/ns/net").st_ino:
                syscalls.setns(fd, syscalls.CLONE_NEWNET)
            action()
            code = 0
        except (OSError, CannotWriteError) as error:
            print(f"oracle: {entry['path']}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)

    def _copy_net(self, path: str, files: Iterable[str]) -> None:
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                data = read_at(None, f"{self.proc}/self/net/{name}")
                os.makedirs(os.path.dirname(f"{path}/{name}"), exist_ok=True)
                write_at(None, f"{path}/{name}", data)

    # Processes.

    def save_processes(self) -> None:
        with directory(self.proc) as proc, directory(self.target) as target:
            for pid in self.pids():
                try:
                    with directory(str(pid), proc) as source:
                        os.stat("stat", dir_fd=source)
                        with directory(str(pid), target, make=True) as into:
                            self._save_process(pid, source, into)
                            self.counts["pids"] += 1
                except OSError as error:
                    self.error(pid, "process", error)

    def _save_process(self, pid: int, source: int, into: int) -> None:
        files = (*PID_FILES, "maps") if self.options.maps else PID_FILES
        self._files(pid, files, source, into)
        for name in PID_LINKS:
            self._link(pid, name, source, into)
        try:
            with directory("ns", source) as ns, directory("ns", into, make=True) as copy:
                for name in os.listdir(ns):
                    self._link(pid, name, ns, copy)
        except OSError as error:
            self.error(pid, "ns", error)
        self._descriptors(pid, str(pid), source, into)
        self._tasks(pid, source, into)
        if pid not in self.netns_of:
            self.add_netns(f"{self.proc}/{pid}/ns/net", f"process {pid}", pid)
        if pid in self.netns_of:
            symlink_at(into, "net", f"../netns/{self.netns_of[pid]}/net")

    def _files(self, who: object, names: Iterable[str], source: int, into: int) -> None:
        for name in names:
            try:
                data = read_at(source, name)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    self.error(who, name, error)
                continue
            write_at(into, name, data)

    def _link(self, who: object, name: str, source: int, into: int) -> None:
        try:
            text = os.readlink(os.fsencode(name), dir_fd=source)
            symlink_at(into, os.fsencode(name), text)
        except OSError as error:
            # Kernel threads have no exe, and some have no cwd.
            if error.errno not in GONE:
                self.error(who, name, error)

    def _tasks(self, pid: int, source: int, into: int) -> None:
        try:
            with directory("task", source) as tasks, directory("task", into, make=True) as copy:
                for tid in numbers(tasks):
                    with (
                        directory(str(tid), tasks) as task,
                        directory(str(tid), copy, make=True) as out,
                    ):
                        self._task(pid, tid, task, out)
        except OSError as error:
            if error.errno not in GONE:
                self.error(pid, "task", error)

    def _task(self, pid: int, tid: int, source: int, into: int) -> None:
        if tid == pid or self._same_table(pid, tid):
            self._files(f"{pid}/{tid}", ("comm",), source, into)
            return
        self.counts["threads_with_own_table"] += 1
        self._files(f"{pid}/{tid}", TASK_FILES, source, into)
        self._descriptors(pid, f"{pid}/task/{tid}", source, into)

    def _same_table(self, pid: int, tid: int) -> bool:
        try:
            return syscalls.kcmp_files(pid, tid)
        except OSError:
            # Without CONFIG_KCMP, or if the thread has ended, its table is saved as well.
            return False

    # Descriptors. There are many, so each system call matters.

    def _descriptors(self, pid: int, who: str, source: int, into: int) -> None:
        try:
            with directory("fd", source) as fds:
                listed = numbers(fds)
                with contextlib.ExitStack() as stack:
                    infos = None
                    if self.options.fdinfo:
                        infos = stack.enter_context(directory("fdinfo", source))
                    if len(listed) > self.options.pack_above:
                        self.packed.append(who)
                        self._packed(who, listed, fds, infos, into)
                    else:
                        self._unpacked(who, listed, fds, infos, into)
                self.counts["fds"] += len(listed)
        except OSError as error:
            if error.errno not in GONE:
                self.error(who, "fd", error)

    def _unpacked(
        self, who: str, listed: list[int], fds: int, infos: int | None, into: int
    ) -> None:
        odd: dict[str, dict[str, str]] = {}
        with directory("fd", into, make=True) as copy:
            for fd in listed:
                name = b"%d" % fd
                try:
                    text = os.readlink(name, dir_fd=fds)
                except OSError as error:
                    odd[str(fd)] = {"error": error_name(error)}
                    continue
                self._look(who, fd, text)
                if text and len(text) <= SYMLINK_MAX:
                    symlink_at(copy, name, text)
                else:
                    odd[str(fd)] = {"link": os.fsdecode(text)}
        if odd:
            write_at(into, "fd.json", json.dumps(odd, indent=1).encode() + b"\n")
        if infos is None:
            return
        with directory("fdinfo", into, make=True) as copy:
            for fd in listed:
                name = b"%d" % fd
                try:
                    data = read_at(infos, name)
                except OSError as error:
                    self.error(who, f"fdinfo/{fd}", error)
                    continue
                write_at(copy, name, data)

    def _packed(self, who: str, listed: list[int], fds: int, infos: int | None, into: int) -> None:
        lines = []
        for fd in listed:
            name = b"%d" % fd
            row: dict[str, Any] = {"fd": fd}
            try:
                text = os.readlink(name, dir_fd=fds)
                row["link"] = os.fsdecode(text)
                self._look(who, fd, text)
                if infos is not None:
                    row["fdinfo"] = os.fsdecode(read_at(infos, name))
            except OSError as error:
                row["error"] = error_name(error)
            lines.append(json.dumps(row))
        write_at(into, "fds.jsonl", "".join(line + "\n" for line in lines).encode())

    def _look(self, who: str, fd: int, text: bytes) -> None:
        """Note network namespaces that no process is in, but a descriptor keeps."""
        if text.startswith(b"net:["):
            self.add_netns(f"{self.proc}/{who}/fd/{fd}", f"fd {fd} of {who}")
        elif self.options.socket_netns and text.startswith(b"socket:["):
            if text in self._sockets_seen:
                return
            self._sockets_seen.add(text)
            self._ask_socket(int(who.rpartition("/")[2]), fd)

    def _ask_socket(self, pid: int, fd: int) -> None:
        try:
            process = os.pidfd_open(pid)
        except (OSError, AttributeError):
            return
        try:
            sock = syscalls.syscall("pidfd_getfd", process, fd, 0)
            try:
                ns = fcntl.ioctl(sock, SIOCGSKNS)
            finally:
                os.close(sock)
            inode = os.fstat(ns).st_ino
            if inode in self.netns:
                os.close(ns)
            else:
                # There is no path to it, so it stays open until its /proc/net is read.
                seen = f"socket fd {fd} of {pid}"
                self.netns[inode] = {"path": seen, "seen": seen, "pids": [], "fd": ns}
        except OSError as error:
            self.errors.setdefault(str(pid), []).append(f"SIOCGSKNS: {error_name(error)}")
        finally:
            os.close(process)

    # The machine, and the tools.

    def save_system(self) -> None:
        for name in SYSTEM_FILES:
            try:
                data = read_at(None, f"{self.proc}/{name}")
            except OSError:
                continue
            os.makedirs(os.path.dirname(f"{self.target}/{name}"), exist_ok=True)
            write_at(None, f"{self.target}/{name}", data)

    def run_tools(self) -> None:
        """Run all tools here, and those of THERE in each further network namespace."""
        if self.options.tools == "none":
            return
        here = os.stat(f"{self.proc}/self/ns/net").st_ino
        commands = {name: line.split() for name, line in ELSEWHERE.items()}
        columns = lsfd_columns()
        if columns:
            commands["lsfd"] = ["lsfd", "--raw", "-o", columns]
            commands["lsfd-json"] = ["lsfd", "--json", "-o", columns]
        commands.update({name: ["ip", *args.split()] for name, args in IP.items()})
        commands.update({name: ["tipc", *args.split()] for name, args in TIPC.items()})
        self._run_all(commands, f"{self.target}/tools", None)
        self.renew()
        commands.update({name: ["ss", *args.split()] for name, args in SS.items()})
        self._run_all({name: commands[name] for name in SS}, f"{self.target}/tools", None)
        for inode, entry in self.netns.items():
            if inode != here:
                few = {name: commands[name] for name in THERE}
                self._run_all(few, f"{self.target}/tools/netns-{inode}", entry["path"])

    def _run_all(self, commands: dict[str, list[str]], path: str, netns: str | None) -> None:
        os.makedirs(path, exist_ok=True)
        for name, command in commands.items():
            if self.options.tools == "quick" and name not in QUICK:
                continue
            tool = find_tool(command[0])
            if not tool:
                self.tools.append({"name": name, "argv": command, "error": "not installed"})
                continue
            argv = [tool, *command[1:]]
            if netns:
                argv = [find_tool("nsenter") or "nsenter", f"--net={netns}", *argv]
            self._run(name, argv, f"{path}/{name}")

    def _run(self, name: str, argv: list[str], path: str) -> None:
        started = time.monotonic()
        row: dict[str, Any] = {
            "name": name,
            "argv": argv,
            "file": os.path.relpath(path, self.target),
        }
        try:
            with open(path, "wb") as output, open(f"{path}.err", "wb") as errors:
                done = subprocess.run(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=errors,
                    timeout=self.options.tool_timeout,
                    check=False,
                    env={**os.environ, "LC_ALL": "C"},
                )
            row["status"] = done.returncode
        except subprocess.TimeoutExpired:
            row["error"] = f"took longer than {self.options.tool_timeout:g} s"
        except OSError as error:
            row["error"] = str(error)
        if os.path.getsize(f"{path}.err") == 0:
            os.unlink(f"{path}.err")
        row["seconds"] = round(time.monotonic() - started, 3)
        self.tools.append(row)

    def manifest(self, started: float, seconds: dict[str, float]) -> dict[str, Any]:
        return {
            "time": started,
            "finished": time.time(),
            "seconds": seconds,
            "uptime_s": float(read_at(None, f"{self.proc}/uptime").split()[0]),
            "kernel": os.uname().release,
            "machine": os.uname().machine,
            "excluded": sorted(self.exclude),
            "account": self.options.account,
            "layout": {"packed": self.packed, "fdinfo": self.options.fdinfo},
            "counts": self.counts,
            "netns": {
                str(inode): {key: value for key, value in entry.items() if key != "fd"}
                for inode, entry in self.netns.items()
            },
            "files": {
                "pid": [*PID_FILES, *PID_LINKS],
                "net": list(NET_FILES),
                "system": list(SYSTEM_FILES),
            },
            "errors": self.errors,
            "tools": self.tools,
        }


def save_diag(path: str) -> None:
    """Save what sock_diag says of the network namespace that the caller is in."""
    unanswered: list[sock_diag.Unanswered] = []
    sock_diag.save(sock_diag.ask(unanswered=unanswered), path, unanswered)


def find_tool(name: str) -> str | None:
    return shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")


def lsfd_columns() -> str:
    """Get all columns that this lsfd has, with commas between them; empty without lsfd."""
    tool = find_tool("lsfd")
    if not tool:
        return ""
    text = subprocess.run(
        [tool, "--help"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=60,
        check=False,
    ).stdout.decode()
    if "columns:" not in text:
        # Newer versions have an option of their own for that.
        text = (
            "columns:\n"
            + subprocess.run(
                [tool, "--list-columns"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=60,
                check=False,
            ).stdout.decode()
        )
    words = [line.split()[0] for line in text.partition("columns:")[2].splitlines() if line.split()]
    return ",".join(word for word in words if word.isupper() or ("." in word and word[0].isupper()))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="vm.oracle", description="Save what procfs and the usual tools say, laid out as /proc."
    )
    result.add_argument("target", metavar="DIR", help="where to; must be new or empty")
    result.add_argument("--account", metavar="DIR", help="accounts to copy to DIR/account")
    result.add_argument(
        "--exclude-pid",
        type=int,
        nargs="+",
        default=[],
        action="extend",
        metavar="PID",
        help="processes to leave out",
    )
    result.add_argument("--tools", choices=("all", "quick", "none"), default="all")
    result.add_argument("--tool-timeout", type=float, default=120, metavar="S")
    result.add_argument("--no-fdinfo", dest="fdinfo", action="store_false")
    result.add_argument(
        "--pack-above",
        type=int,
        default=10000,
        metavar="N",
        help="tables of more descriptors go into one file each (default %(default)s)",
    )
    result.add_argument("--maps", action="store_true", help="save /proc/PID/maps, too")
    result.add_argument(
        "--socket-netns",
        action="store_true",
        help="ask each socket for its network namespace, to find those that "
        "only sockets keep (takes a system call or six for each)",
    )
    return result


def collect(options: argparse.Namespace, proc: str = "/proc") -> dict[str, Any]:
    """Fill the directory, and return the manifest that was written."""
    target = os.path.abspath(options.target)
    os.makedirs(target, exist_ok=True)
    if os.listdir(target):
        raise FileExistsError(errno.ENOTEMPTY, f"{target} is not empty")
    oracle = Oracle(proc, target, options)
    started = time.time()
    seconds: dict[str, float] = {}

    def step(name: str, action: Any) -> None:
        before = time.monotonic()
        action()
        seconds[name] = round(time.monotonic() - before, 3)

    if options.account:
        shutil.copytree(options.account, f"{target}/account")
    step("netns", oracle.find_netns)
    step("tools", oracle.run_tools)
    step("system", oracle.save_system)
    step("processes", oracle.save_processes)
    step("renew", oracle.renew)
    step("diag", oracle.save_diag)
    step("net", oracle.save_net)
    manifest = oracle.manifest(started, seconds)
    Path(target, "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def main() -> int:
    options = parser().parse_args()
    try:
        manifest = collect(options)
    except (OSError, CannotWriteError, control.WorkloadFailed) as error:
        print(f"vm.oracle: {error}", file=sys.stderr)
        return 2
    counts = manifest["counts"]
    print(
        f"{counts['pids']} processes, {counts['fds']} fds, {len(manifest['netns'])} network "
        f"namespaces in {sum(manifest['seconds'].values()):.1f} s: {options.target}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
