# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The guest's first process: runs what the host asks for, and tells how it went.

It speaks frames over a virtio port: a type byte, a 32-bit length, a payload.

======= ========= =======================================================
type    direction payload
======= ========= =======================================================
HELLO   to host   JSON: the fields of ``os.uname()``
RUN     to guest  JSON: ``argv``, ``env``, ``cwd``, ``pty`` (rows, columns)
INPUT   to guest  bytes for standard input; no bytes mean end of file
SIGNAL  to guest  number of a signal for the command's process group
RESIZE  to guest  JSON: rows, columns
OUT     to host   bytes from standard output
ERR     to host   bytes from standard error
EXIT    to host   status, as a shell counts it (128 + signal)
BEAT    to host   nothing: a sign of life, every few seconds
TAKEN   to host   how many more bytes of INPUT the command took: limits what is sent
======= ========= =======================================================

One command runs at a time. What a command leaves running goes on, as it would after a
remote shell. The host's side is in :mod:`vm.guest`; this file runs on its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import signal
import struct
import sys
import termios
import time
from pathlib import Path
from typing import Any, NoReturn

PORT = "org.drgn-sockets.agent"
BEAT_SECONDS = 3.0

HELLO, RUN, INPUT, SIGNAL, RESIZE, OUT, ERR, EXIT, BEAT, TAKEN = range(10)

HEADER = struct.Struct("<BI")

ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "LOGNAME": "root",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "SHELL": "/bin/bash",
    "USER": "root",
}


def frame(kind: int, payload: bytes = b"") -> bytes:
    """Make a frame."""
    return HEADER.pack(kind, len(payload)) + payload


class Frames:
    """Collects bytes as they come, and gives out each frame once it is whole."""

    def __init__(self) -> None:
        self.buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Add bytes; return the frames they complete."""
        self.buffer += data
        whole = []
        at = 0
        while len(self.buffer) - at >= HEADER.size:
            kind, size = HEADER.unpack_from(self.buffer, at)
            if len(self.buffer) - at - HEADER.size < size:
                break
            at += HEADER.size
            whole.append((kind, bytes(self.buffer[at : at + size])))
            at += size
        del self.buffer[:at]
        return whole


def open_port() -> int:
    """Open our virtio port. Without udev, its name in /dev is only a number."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for p in Path("/sys/class/virtio-ports").glob("*/name"):
            if p.read_text().strip() == PORT:
                return os.open(f"/dev/{p.parent.name}", os.O_RDWR | os.O_CLOEXEC)
        time.sleep(0.05)
    sys.exit("drgn-sockets: no virtio port: this kernel needs CONFIG_VIRTIO_CONSOLE, or --modules")


class Command:
    """A command, its pipes or terminal, and what waits to go into it."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.pending = bytearray()
        self.input_ended = False
        size = request.get("pty")
        if size:
            master, slave = os.openpty()
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", *size, 0, 0))
            theirs = (slave, slave, slave)
            self.stdin: int | None = master
            self.outputs = {master: OUT}
        else:
            (in_r, in_w), (out_r, out_w), (err_r, err_w) = os.pipe(), os.pipe(), os.pipe()
            theirs = (in_r, out_w, err_w)
            self.stdin = in_w
            self.outputs = {out_r: OUT, err_r: ERR}
        for fd in {self.stdin, *self.outputs}:
            os.set_blocking(fd, False)
        self.pty = bool(size)
        self.pid = os.fork()
        if self.pid == 0:
            self._exec(request, theirs)
        for fd in set(theirs):
            os.close(fd)

    def _exec(self, request: dict[str, Any], fds: tuple[int, int, int]) -> NoReturn:
        try:
            os.setsid()
            for to, fd in enumerate(fds):
                os.dup2(fd, to)
            os.closerange(3, 64)
            if self.pty:
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            for s in (signal.SIGPIPE, signal.SIGCHLD):
                signal.signal(s, signal.SIG_DFL)
            env = {**ENVIRONMENT, **request.get("env", {})}
            os.environ["PATH"] = env["PATH"]
            os.chdir(request.get("cwd") or "/src")
            os.execvpe(request["argv"][0], request["argv"], env)
        except FileNotFoundError as e:
            os.write(2, f"{request['argv'][0]}: {e.strerror}\n".encode(errors="surrogateescape"))
            os._exit(127)
        except BaseException as e:
            os.write(2, f"{request['argv'][0]}: {e}\n".encode(errors="surrogateescape"))
            os._exit(126)

    def write(self, data: bytes) -> None:
        """Queue bytes for standard input; an empty *data* ends it."""
        if data:
            self.pending += data
        else:
            self.input_ended = True

    def flush(self) -> int:
        """Write what standard input takes now; return how much that is."""
        before = len(self.pending)
        if self.stdin is None:  # the command reads no more
            self.pending.clear()
            return before
        try:
            while self.pending:
                del self.pending[: os.write(self.stdin, self.pending[:65536])]
        except BlockingIOError:
            return before - len(self.pending)
        except OSError:
            self.pending.clear()
            self.input_ended = True
        if self.input_ended and not self.pty:
            os.close(self.stdin)
            self.stdin = None
        return before

    def kill(self, number: int) -> None:
        """Send a signal to the command and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def close(self) -> None:
        """Close our ends."""
        for fd in {self.stdin, *self.outputs} - {None}:
            os.close(fd)  # type: ignore[arg-type]


class Agent:
    """The loop between the port and the command that runs."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.frames = Frames()
        self.command: Command | None = None
        # SIGCHLD ends a select(): we are the parent of all orphans, too.
        self.wake, wake = os.pipe()
        for fd in (self.wake, wake):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def send(self, kind: int, payload: bytes = b"") -> None:
        """Send a frame, waiting for the host to take it."""
        left = memoryview(frame(kind, payload))
        while left:
            left = left[os.write(self.port, left) :]

    def serve(self) -> NoReturn:
        """Serve the host for ever."""
        self.send(HELLO, json.dumps(list(os.uname())).encode())
        beat = time.monotonic()
        while True:
            with selectors.PollSelector() as sel:
                sel.register(self.port, selectors.EVENT_READ)
                sel.register(self.wake, selectors.EVENT_READ)
                c = self.command
                if c is not None:
                    taken = c.flush()
                    if taken:
                        self.send(TAKEN, str(taken).encode())
                    for fd in {c.stdin, *c.outputs} - {None}:
                        events = selectors.EVENT_READ if fd in c.outputs else 0
                        if fd == c.stdin and c.pending:
                            events |= selectors.EVENT_WRITE
                        if events:
                            sel.register(fd, events)  # type: ignore[arg-type]
                ready = {key.fd for key, _ in sel.select(BEAT_SECONDS)}
            if self.port in ready:
                self.receive(os.read(self.port, 1 << 16))
            if c is not None:
                for fd in ready & set(c.outputs):
                    self.forward(c, fd)
            if self.wake in ready:
                with contextlib.suppress(BlockingIOError):
                    while os.read(self.wake, 4096):
                        pass
            self.reap()
            if time.monotonic() - beat >= BEAT_SECONDS:
                self.send(BEAT)
                beat = time.monotonic()

    def receive(self, data: bytes) -> None:
        """Do what the host asks for."""
        if not data:  # the host is gone, and QEMU soon will be
            time.sleep(1)
        for kind, payload in self.frames.feed(data):
            c = self.command
            if kind == RUN:
                self.command = Command(json.loads(payload))
            elif c is None:
                pass  # meant for a command that has just ended
            elif kind == INPUT:
                c.write(payload)
            elif kind == SIGNAL:
                c.kill(int(payload))
            elif kind == RESIZE and c.stdin is not None:
                rows, columns = json.loads(payload)
                fcntl.ioctl(c.stdin, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def forward(self, c: Command, fd: int) -> bool:
        """Send what a command wrote; return whether there can be more at once."""
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return False
        except OSError:  # a terminal whose other side is closed
            data = b""
        if data:
            self.send(c.outputs[fd], data)
            return True
        del c.outputs[fd]
        if fd != c.stdin:
            os.close(fd)
        return False

    def reap(self) -> None:
        """Wait for children that have ended: ours, and orphans of all processes."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            c = self.command
            if c is not None and pid == c.pid:
                # All that it wrote is in the pipes; what its children write later is not passed on.
                for fd in list(c.outputs):
                    while self.forward(c, fd):
                        pass
                c.close()
                self.command = None
                code = os.WEXITSTATUS(status)
                if os.WIFSIGNALED(status):
                    code = 128 + os.WTERMSIG(status)
                self.send(EXIT, str(code).encode())


if __name__ == "__main__":
    Agent(open_port()).serve()
