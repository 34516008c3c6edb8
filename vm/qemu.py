# SPDX-License-Identifier: LGPL-2.1-or-later
"""A QEMU process: its command line, its console, and how it is ended."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import dataclasses
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from vm import agent, arch, cache, host
from vm.errors import VmError

#: Where KVM works, a guest says something in a tenth of this time.
PROBE_SECONDS = 5.0

# Before QEMU's commit deba78709ae8 ("accel/tcg: Always lock pages before translation") (in 8.1) a
# processor could go on executing code that another one had just patched. Kernels patch themselves
# whenever a static key changes: one boot in 40 died of an int3 that was gone by then, or hung.
PATCHING_WORKS = 8, 1

APPEND = "panic=-1"

PANIC = re.compile(rb"Kernel panic - not syncing: ([^\r\n]*)")


@dataclasses.dataclass(frozen=True)
class Machine:
    """What QEMU is told for an architecture."""

    binary: str
    #: The kernel's name of the serial port.
    console: str
    #: The processor under TCG.
    processor: str
    options: tuple[str, ...] = ()


MACHINES = {
    # QEMU 7.2's TCG gets the flags of cmpxchg16b wrong, and SLUB double-faults on it.
    arch.AMD64: Machine("qemu-system-x86_64", "ttyS0", "max,-cx16"),
    # A processor of many clouds. It has no pointer authentication, which TCG takes long for.
    arch.ARM64: Machine(
        *("qemu-system-aarch64", "ttyAMA0", "neoverse-n1"), ("-machine", "virt,gic-version=3")
    ),
}

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _processors(accel: str, binary: str, processor: str = "max", icount: bool = False) -> list[str]:
    """Get the arguments that say how the guest's processors run."""
    if icount:
        # Each instruction takes a nanosecond, and a processor that sleeps skips to its next timer.
        counting = ["-icount", "shift=0,sleep=off"]
        return ["-accel", "tcg,thread=single", *counting, "-cpu", processor]
    if accel == "kvm":
        return ["-accel", "kvm", "-cpu", "host"]
    told = host.call([binary, "--version"], "asking QEMU for its version").decode()
    version = re.search(r"version (\d+)\.(\d+)", told)
    works = version is not None and (int(version[1]), int(version[2])) >= PATCHING_WORKS
    return ["-accel", f"tcg,thread={'multi' if works else 'single'}", "-cpu", processor]


@dataclasses.dataclass(frozen=True)
class Disk:
    """A raw disk of the guest. The file behind it is changed only if *keep* says so."""

    serial: str
    path: str
    #: Let the guest write; what it writes is thrown away.
    scratch: bool = False
    #: Let the guest write into the file.
    keep: bool = False


class Console:
    """Reads the serial console: keeps the last lines, and notices a panic."""

    def __init__(self, fd: int, echo: int | None = None) -> None:
        self.lines: collections.deque[bytes] = collections.deque([b""], maxlen=60)
        self.panic: str | None = None
        self.panicked_at = 0.0
        self.said_linux = threading.Event()
        self.closed = threading.Event()
        self._fd = fd
        self._echo = echo
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while data := os.read(self._fd, 1 << 16):
            if self._echo is not None:
                os.write(self._echo, data)
            first, *more = data.replace(b"\r", b"").split(b"\n")
            self.lines[-1] += first
            for line in more:
                self._look(self.lines[-1])
                self.lines.append(line)
        self._look(self.lines[-1])
        self.closed.set()

    def _look(self, line: bytes) -> None:
        if b"Linux version" in line:
            self.said_linux.set()
        if self.panic is None and (m := PANIC.search(line)):
            self.panicked_at = time.monotonic()
            self.panic = m[1].decode(errors="replace")

    def tail(self, count: int = 20) -> str:
        """Get the last lines, without escape sequences; control characters are escaped."""
        # SeaBIOS clears the screen, which would clear the user's terminal as well.
        text = b"\n".join(list(self.lines)).decode(errors="replace")
        text = re.sub(r"\x1b(?:\[[0-9;?=]*[A-Za-z]|c)", "", text)
        text = "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)
        return "\n".join([line for line in text.splitlines() if line.strip()][-count:])


class Qemu:
    """
    A running QEMU.

    :param architecture: the one of the kernel
    :param accel: ``kvm`` or ``tcg``
    :param icount: let the guest's clock count instructions: 10^9 of them are a second. Takes one
        processor and TCG.
    :param vmcoreinfo: have the device by which the guest's kernel tells where its VMCOREINFO is
    :param arguments: more of QEMU's arguments; of an option given twice, QEMU takes the last
    :param qmp: where another program (drgn) is to find a monitor, as a socket's path
    :param echo: file descriptor to copy the console to
    """

    def __init__(
        self,
        *,
        kernel: Path,
        initramfs: Path,
        architecture: arch.Architecture = arch.AMD64,
        disks: Sequence[Disk] = (),
        pass_fds: Sequence[int] = (),
        memory: str = "1G",
        cpus: int = 2,
        accel: str = "tcg",
        icount: bool = False,
        append: str = "",
        arguments: Sequence[str] = (),
        vmcoreinfo: bool = True,
        qmp: Path | None = None,
        echo: int | None = None,
    ) -> None:
        if icount and (cpus != 1 or accel != "tcg"):
            raise VmError("instructions are counted with one processor, and under TCG only")
        self.machine = MACHINES[architecture]
        binary = host.program(self.machine.binary)
        argv = [binary, *self.machine.options, "-nodefaults", "-no-user-config", "-display", "none"]
        argv += ["-no-reboot", "-m", memory, "-smp", str(cpus)]
        argv += _processors(accel, binary, self.machine.processor, icount)
        argv += ["-kernel", str(kernel), "-initrd", str(initramfs)]
        argv += ["-append", f"console={self.machine.console} {APPEND} {append}".strip()]
        if vmcoreinfo:
            # With the guest's qemu_fw_cfg, this brings VMCOREINFO into dumps.
            argv += ["-device", "vmcoreinfo"]
        argv += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
        for d in disks:
            drive = f"if=none,id={d.serial},format=raw,file.locking=off,file.filename="
            drive += d.path.replace(",", ",,")
            if d.keep:
                drive += ",cache=unsafe"
            else:
                # QEMU keeps a snapshot in a temporary file without a name.
                drive += ",snapshot=on,cache=unsafe" if d.scratch else ",readonly=on"
            argv += ["-drive", drive]
            argv += ["-device", f"virtio-blk-pci,drive={d.serial},serial={d.serial}"]
        # Socket pairs have no names: there is nothing to clean up, and nobody else can connect.
        self.agent, agent_end = socket.socketpair()
        self.monitor, monitor_end = socket.socketpair()
        argv += ["-chardev", f"socket,id=agent,fd={agent_end.fileno()}"]
        argv += ["-device", "virtio-serial-pci"]
        argv += ["-device", f"virtserialport,chardev=agent,name={agent.PORT}"]
        argv += ["-chardev", f"socket,id=qmp,fd={monitor_end.fileno()}", "-mon", "qmp,mode=control"]
        argv += arguments
        self.qmp = qmp
        if qmp is not None:
            if len(os.fsencode(qmp)) > 107:
                raise VmError(f"{qmp} is too long for a socket's name (107 bytes)")
            if qmp.exists() and not qmp.is_socket():
                raise VmError(f"{qmp} is there already, and no socket")
            path = str(qmp).replace(",", ",,")
            argv += ["-chardev", f"socket,id=user,path={path},server=on,wait=off"]
            argv += ["-mon", "user,mode=control"]
        try:
            with agent_end, monitor_end:
                self.process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=[agent_end.fileno(), monitor_end.fileno(), *pass_fds],
                    # Ctrl-C must reach this process only, which then ends QEMU.
                    start_new_session=True,
                    preexec_fn=_die_with_parent,
                )
        except BaseException:
            self.agent.close()
            self.monitor.close()
            raise
        assert self.process.stdout is not None and self.process.stderr is not None
        self.console = Console(self.process.stdout.fileno(), echo)
        self.messages = Console(self.process.stderr.fileno())

    def complaint(self) -> str:
        """Get the last lines that QEMU wrote to its standard error."""
        self.messages.closed.wait(1)
        return self.messages.tail(2).replace(f"{self.machine.binary}: ", "")

    def close(self) -> None:
        """End QEMU, whatever its state."""
        self.agent.close()
        self.monitor.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for console, pipe in (
            (self.console, self.process.stdout),
            (self.messages, self.process.stderr),
        ):
            console.closed.wait(2)
            if pipe is not None:
                pipe.close()
        if self.qmp is not None:
            with contextlib.suppress(OSError):
                self.qmp.unlink()


def kvm_works(kernel: Path, initramfs: Path) -> bool:
    """
    Find out whether a guest really runs under KVM here; asked once per boot of the host.

    ``/dev/kvm`` that opens proves nothing: in a nested guest it can be there and hang.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    answer = cache.root() / "kvm" / boot

    def probe(part: Path) -> None:
        for old in answer.parent.glob("*-*"):
            cache.remove(old)
        cache.note("trying KVM, once")
        qemu = Qemu(kernel=kernel, initramfs=initramfs, memory="512M", cpus=1, accel="kvm")
        try:
            end = time.monotonic() + PROBE_SECONDS
            while time.monotonic() < end and not qemu.console.said_linux.wait(0.1):
                if qemu.process.poll() is not None:
                    break
            works = qemu.console.said_linux.is_set()
        finally:
            qemu.close()
        cache.note("KVM works" if works else "KVM does not run a guest here: using TCG")
        part.write_text("yes\n" if works else "no\n")

    return cache.ensure(answer, probe).read_text() == "yes\n"


def choose_accel(wish: str, architecture: arch.Architecture, kernel: Path, initramfs: Path) -> str:
    """Turn ``auto`` into ``kvm`` or ``tcg``."""
    if wish != "auto":
        return wish
    if not architecture.here:
        return "tcg"
    return "kvm" if kvm_works(kernel, initramfs) else "tcg"
