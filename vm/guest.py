# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest: boots, runs commands, hands out files, and is ended on leaving the context."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import termios
import threading
import time
import tty
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Callable

from vm import agent, cache, initramfs, project, rootfs
from vm.errors import GuestError, GuestTimeoutError, VmError
from vm.kernels import Kernel
from vm.qemu import Disk, Qemu, choose_accel
from vm.qmp import Qmp, QmpError

#: A guest has to be up by then.
BOOT_SECONDS = 120.0
#: A guest that gives no sign of life for this long is hung.
SILENCE_SECONDS = 60.0
#: A workload has to be ready by then.
WORKLOAD_SECONDS = 300.0

#: Bytes of input that are sent before the command has read them.
AHEAD = 1 << 20

ACCOUNTS = "/run/drgn-sockets/workloads"
ORACLE = "/run/drgn-sockets/oracle"

Sink = Callable[[bytes], Any]


class Guest:
    """
    A kernel running in QEMU, as a context manager.

    :param kernel: what to boot
    :param memory: as QEMU's ``-m``
    :param accel: ``auto``, ``kvm`` or ``tcg``
    :param icount: let the guest's clock count instructions, 10^9 a second; *cpus* and *accel* are
        then one processor and TCG
    :param append: more kernel arguments
    :param arguments: more arguments of QEMU
    :param disks: more disks
    :param vmcoreinfo: have VMCOREINFO in dumps
    :param debug: have the vmlinux in the guest, where drgn looks for it
    :param qmp: path of a monitor socket to make for ``drgn --qemu``
    :param echo: file descriptor to copy the console to
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        memory: str = "1G",
        cpus: int = 2,
        accel: str = "auto",
        icount: bool = False,
        append: str = "",
        arguments: Sequence[str] = (),
        disks: Sequence[Disk] = (),
        vmcoreinfo: bool = True,
        debug: bool = False,
        qmp: Path | None = None,
        echo: int | None = None,
        boot_timeout: float = BOOT_SECONDS,
    ) -> None:
        self.kernel = kernel
        #: ``os.uname()`` of the guest, once it is up.
        self.uname: list[str] = []
        self._settings = {
            "memory": memory,
            "cpus": 1 if icount else cpus,
            "icount": icount,
            "append": append,
            "arguments": arguments,
            "vmcoreinfo": vmcoreinfo,
            "qmp": qmp.absolute() if qmp is not None else None,
            "echo": echo,
        }
        self._disks = disks
        self._accel = "tcg" if icount else accel
        self._debug = debug
        self._boot_timeout = boot_timeout * kernel.architecture.slowness
        self._frames = agent.Frames()
        self._qmp: Qmp | None = None
        self._qemu: Qemu | None = None
        # Reentrant: capture() and the like run commands of their own.
        self._lock = threading.RLock()

    def __enter__(self) -> Guest:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def qemu(self) -> Qemu:
        """The QEMU process."""
        if self._qemu is None:
            raise VmError("the guest is not running")
        return self._qemu

    @property
    def release(self) -> str:
        """The running kernel's release; empty until it is up."""
        return self.uname[2] if self.uname else ""

    @property
    def qmp(self) -> Qmp:
        """The QMP monitor."""
        if self._qmp is None:
            self._qmp = Qmp(self.qemu.monitor)
        return self._qmp

    def start(self) -> None:
        """
        Boot, and wait until the guest takes commands.

        :raises GuestError: if it is not up in time, or dies before
        """
        ram = initramfs.get(self.kernel)
        architecture = self.kernel.architecture
        accel = choose_accel(self._accel, architecture, self.kernel.vmlinuz, ram)
        disks = [Disk("root", str(rootfs.get(architecture)), scratch=True), *self._disks]
        modules = self.kernel.modules_image
        if modules is not None:
            disks.append(Disk("modules", str(modules)))
        if self._debug:
            disks.append(Disk("debug", str(self.kernel.debug_image)))
        # The project comes on a disk of its own in memory, so that no file can be left behind.
        with _memfd(project.pack()) as fd:
            disks.append(Disk("project", f"/proc/self/fd/{fd}"))
            self._qemu = Qemu(
                kernel=self.kernel.vmlinuz,
                initramfs=ram,
                architecture=architecture,
                disks=disks,
                pass_fds=[fd],
                accel=accel,
                **self._settings,  # type: ignore[arg-type]
            )
        try:
            deadline = time.monotonic() + self._boot_timeout
            late = f"the guest was not up within {self._boot_timeout:g} seconds ({accel})"
            for kind, payload in self._receive(deadline, late):
                if kind == agent.HELLO:
                    self.uname = json.loads(payload)
                    break
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the guest at once; it has nothing to save."""
        if self._qmp is not None:
            self._qmp.close()
            self._qmp = None
        if self._qemu is not None:
            self._qemu.close()
            self._qemu = None

    def console(self, lines: int = 20) -> str:
        """Get the last lines of the console."""
        return self.qemu.console.tail(lines)

    def _died(self) -> VmError:
        qemu = self.qemu
        with contextlib.suppress(subprocess.TimeoutExpired):
            qemu.process.wait(3)
        qemu.console.closed.wait(1)
        tail = qemu.console.tail()
        if qemu.console.panic is not None:
            return GuestError(f"the guest panicked: {qemu.console.panic}", tail)
        status = qemu.process.poll() or 0
        if status > 0:
            return VmError(f"QEMU failed: {qemu.complaint() or 'no message'}")
        if status < 0:
            why = f"signal {-status} ended QEMU: {qemu.complaint() or 'no message'}"
            return GuestError(why, tail)
        if "drgn-sockets: " in tail:
            return GuestError(tail.split("drgn-sockets: ")[-1].splitlines()[0], tail)
        return GuestError("the guest is gone", tail)

    def _registers(self) -> str:
        """Get a line for each processor with its registers, to find out where a guest hangs."""
        try:
            text = self.qmp.monitor("info registers -a")
        except QmpError as e:
            return f"(its processors cannot be asked: {e})"
        found = []
        for cpu in re.split(r"^CPU#", text, flags=re.MULTILINE)[1:]:
            words = re.findall(r"\b(?:RIP|RSP|RFL|CR3|HLT|PC|SP|PSTATE)=\w+", cpu)
            found.append(f"CPU {cpu.split()[0]}: {' '.join(words)}")
        return "\n".join(found)

    def _paused(self) -> bool:
        try:
            return not self.qmp.execute("query-status")["running"]
        except QmpError:
            return False

    def _receive(
        self, deadline: float | None, late: str, wake: Sequence[int] = ()
    ) -> Iterator[tuple[int, bytes]]:
        """
        Yield what the agent sends, and (-1, b"") whenever a *wake* descriptor is readable.

        :raises GuestTimeoutError: saying *late*, after the deadline
        :raises GuestError: if the guest panics, goes away, or falls silent
        """
        qemu = self.qemu
        heard = time.monotonic()
        while True:
            now = time.monotonic()
            if deadline is not None and now > deadline:
                # Before HELLO there is no command: the guest itself is late.
                kind = GuestTimeoutError if self.release else GuestError
                raise kind(late, qemu.console.tail())
            if qemu.console.panic is not None and now - qemu.console.panicked_at > 5:
                raise self._died()
            if now - heard > SILENCE_SECONDS and self.release:
                if not self._paused():
                    raise GuestError(
                        f"the guest hangs: no sign of life for {SILENCE_SECONDS:.0f} seconds",
                        f"{qemu.console.tail()}\n{self._registers()}",
                    )
                heard = now
            wait = 1.0 if deadline is None else min(1.0, max(0.0, deadline - now))
            port = qemu.agent.fileno()
            ready = select.select([port, *wake], [], [], wait)[0]
            if port in ready:
                heard = time.monotonic()
                try:
                    data = qemu.agent.recv(1 << 18)
                except ConnectionError:
                    data = b""
                if not data:
                    raise self._died()
                yield from self._frames.feed(data)
            if set(ready) & set(wake):
                yield -1, b""

    def _send(self, kind: int, payload: bytes = b"") -> None:
        try:
            self.qemu.agent.sendall(agent.frame(kind, payload))
        except OSError:
            raise self._died() from None

    def _request(
        self,
        request: Mapping[str, Any],
        sinks: Mapping[int, Sink],
        *,
        stdin: int | None = None,
        input: bytes | None = None,
        timeout: float | None = None,
    ) -> int:
        """Run a command, feeding it *input* or what comes from *stdin*; return its status."""
        what = " ".join(request["argv"])
        deadline = None if timeout is None else time.monotonic() + timeout
        late = f"`{what}` took longer than {timeout or 0:g} seconds"
        wake = [] if stdin is None else [stdin]
        ahead, ended = 0, False
        with self._lock:
            self._send(agent.RUN, json.dumps(request).encode())
            if stdin is None:
                # In a thread: without one, host and guest could wait for each other to read.
                feeder = threading.Thread(target=self._feed, args=(input or b"",), daemon=True)
                feeder.start()
            try:
                for kind, payload in self._receive(deadline, late, wake):
                    if kind in sinks:
                        sinks[kind](payload)
                    elif kind == agent.EXIT:
                        if stdin is None:
                            feeder.join()
                        return int(payload)
                    elif kind == -1 and stdin is not None:
                        data = os.read(stdin, 1 << 16)
                        self._send(agent.INPUT, data)
                        ahead += len(data)
                        ended = not data
                    elif kind == agent.TAKEN:
                        ahead -= int(payload)
                    # The guest holds in memory what the command has not read yet.
                    if stdin is not None:
                        wake[:] = [] if ended or ahead > AHEAD else [stdin]
            except BaseException as e:
                # A guest that is dead or hung cannot kill its command.
                if not isinstance(e, GuestError) or isinstance(e, GuestTimeoutError):
                    self._abandon()
                raise
        raise AssertionError("unreachable")

    def _feed(self, data: bytes) -> None:
        with contextlib.suppress(VmError):
            for at in range(0, len(data), 1 << 16):
                self._send(agent.INPUT, data[at : at + (1 << 16)])
            self._send(agent.INPUT)

    def _abandon(self) -> None:
        """Kill the command that runs, so that the guest can run others if it is alive."""
        with contextlib.suppress(VmError):
            self._send(agent.SIGNAL, str(int(signal.SIGKILL)).encode())
            for kind, _ in self._receive(time.monotonic() + 5, ""):
                if kind == agent.EXIT:
                    break

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes | None = None,
        stdin: int | None = None,
        stdout: IO[bytes] | None = None,
        stderr: IO[bytes] | None = None,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        check: bool = False,
    ) -> subprocess.CompletedProcess[bytes]:
        """
        Run a command in the guest, as root, in ``/src`` (the project's tree).

        :param stdin: a file descriptor to read its standard input from, not *input*
        :param stdout: write its output there as it comes, and do not collect it
        :param stderr: likewise
        :param check: raise :class:`subprocess.CalledProcessError` if it fails
        :return: as of :func:`subprocess.run`; killed by signal N is status 128 + N
        :raises GuestTimeoutError: if it takes longer than *timeout*; it is killed
        :raises GuestError: if the guest dies or hangs
        """
        kept: dict[int, bytearray] = {agent.OUT: bytearray(), agent.ERR: bytearray()}
        sinks: dict[int, Sink] = {k: b.extend for k, b in kept.items()}
        for kind, to in ((agent.OUT, stdout), (agent.ERR, stderr)):
            if to is not None:
                sinks[kind] = _writer(to)
        status = self._request(
            {"argv": list(argv), "env": dict(env or {}), "cwd": cwd},
            sinks,
            stdin=stdin,
            input=input,
            timeout=timeout,
        )
        done = subprocess.CompletedProcess(
            list(argv), status, bytes(kept[agent.OUT]), bytes(kept[agent.ERR])
        )
        if check:
            done.check_returncode()
        return done

    def shell(self, argv: Sequence[str] = ("/bin/bash", "-l")) -> int:
        """Give the user's terminal to a command in the guest until it ends."""
        stdin, stdout = sys.stdin.fileno(), sys.stdout.fileno()
        size = shutil.get_terminal_size()
        request = {
            "argv": list(argv),
            "env": {"TERM": os.environ.get("TERM", "linux")},
            "pty": [size.lines, size.columns],
        }

        def resized(*_: Any) -> None:
            raw = fcntl.ioctl(stdout, termios.TIOCGWINSZ, b"\0" * 8)
            self._send(agent.RESIZE, json.dumps(struct.unpack("4H", raw)[:2]).encode())

        before = termios.tcgetattr(stdin)
        old = signal.signal(signal.SIGWINCH, resized)
        try:
            tty.setraw(stdin)
            return self._request(request, {agent.OUT: lambda b: _write_all(stdout, b)}, stdin=stdin)
        finally:
            signal.signal(signal.SIGWINCH, old)
            termios.tcsetattr(stdin, termios.TCSADRAIN, before)

    def pull(self, source: str, to: Path) -> Path:
        """
        Copy a directory out of the guest; symbolic links keep their text.

        :param to: a directory to make (it must not be there)
        """
        to.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{to.name}.", dir=to.parent))
        try:
            with tempfile.TemporaryFile(dir=to.parent) as archive:
                self.run(["tar", "-C", source, "-c", "."], stdout=archive, timeout=300, check=True)
                archive.seek(0)
                with tarfile.open(fileobj=archive, mode="r:") as tar:
                    # An oracle's links are "socket:[123]" and "/dev/null": no filter
                    # that looks at where links point can let it through.
                    if hasattr(tarfile, "fully_trusted_filter"):
                        tar.extraction_filter = staticmethod(tarfile.fully_trusted_filter)
                    tar.extractall(part)
            part.chmod(0o755)
            part.rename(to)
        except subprocess.CalledProcessError as e:
            raise VmError(f"cannot copy {source}: {e.stderr.decode(errors='replace')}") from e
        finally:
            cache.remove(part)
        return to

    def start_workloads(self, names: Sequence[str]) -> None:
        """
        Start workloads, and wait until all of them are ready.

        :raises VmError: with what it said, if one fails
        """
        if names:
            argv = ["python3", "-m", "vm.workloads", "start", *names, "--account", ACCOUNTS]
            self._ours(argv, "starting the workloads")

    def freeze_workloads(self) -> None:
        """Stop the workloads' traffic, so that counters hold still."""
        argv = ["python3", "-m", "vm.workloads", "freeze", "--account", ACCOUNTS]
        self._ours(argv, "freezing the workloads")

    def capture_oracle(self, to: Path) -> Path:
        """Write what procfs and the tools say of the guest into a directory of the host."""
        argv = ["python3", "-m", "vm.oracle", ORACLE, "--account", ACCOUNTS, "--exclude-pid", "1"]
        self._ours(argv, "capturing the oracle")
        return self.pull(ORACLE, to)

    def _ours(self, argv: Sequence[str], what: str) -> None:
        told = io.BytesIO()
        try:
            timeout = WORKLOAD_SECONDS * self.kernel.architecture.slowness
            r = self.run(argv, stdout=told, timeout=timeout)
        except GuestError as e:
            # One line came for each workload that stands; the one after the last line failed.
            came = told.getvalue().decode(errors="replace").splitlines() or ["nothing"]
            raise type(e)(f"{e}; {what}, of which the last was: {came[-1]}", e.console) from e
        if r.returncode != 0:
            lines = (r.stderr or told.getvalue()).decode(errors="replace").strip().splitlines()
            raise VmError(f"{what} failed: {lines[-1] if lines else f'status {r.returncode}'}")


def _writer(to: IO[bytes]) -> Sink:
    def write(data: bytes) -> None:
        to.write(data)
        to.flush()

    return write


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


@contextlib.contextmanager
def _memfd(data: bytes) -> Iterator[int]:
    fd = os.memfd_create("drgn-sockets", 0)
    try:
        _write_all(fd, data)
        # The size of a disk is a number of sectors.
        os.ftruncate(fd, -(-len(data) // 4096) * 4096)
        yield fd
    finally:
        os.close(fd)
