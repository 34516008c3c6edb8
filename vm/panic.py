# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Cores of guests that really crashed, as their crash kernel wrote them.

The guest reserves memory for a crash kernel (``crashkernel=``) and loads one with kexec-tools. When
workloads and oracle stand, it panics. The crash kernel runs makedumpfile from a small initramfs,
and writes the core to a disk of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vm import cache, dump, foreign, host, initramfs, kernels
from vm.arch import AMD64
from vm.errors import GuestError, VmError
from vm.guest import Guest
from vm.kernels import Kernel
from vm.qemu import Disk

#: What a distribution's kdump runs, and two other words for what the crash kernel does.
DEFAULT = "-l -d 31"
ELF = "elf"
COPY = "copy"

RESERVED = "crashkernel=256M"
#: The crash kernel has to be done by then.
DUMP_SECONDS = 300.0

_DISK = "dump"
_PLACE = "run/crash"
_INIT = """
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
	d=$(disk dump) && break
	sleep 0.5
done
[ "$d" ] || give_up "the crash kernel has no disk to dump to"
mount -t ext4 "$d" /root || give_up "the crash kernel cannot mount its disk"
# makedumpfile has a temporary file.
mkdir /tmp
{command} > /root/messages 2>&1
status=$?
umount /root
echo "drgn-sockets: dumped, status $status"
poweroff -f
"""
# A crash kernel has one processor, and devices whose driver did not say good-bye.
_APPEND = "console=ttyS0 panic=-1 nr_cpus=1 irqpoll reset_devices"
_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")


@dataclasses.dataclass(frozen=True)
class Crashed:
    """A machine that crashed, and what was said of it just before."""

    source: Kernel
    core: Path
    oracle: Path | None

    def json(self) -> str:
        """Get the paths as a JSON object."""
        return json.dumps(
            {
                "kernel": self.source.name,
                "release": self.source.release,
                "core": str(self.core),
                "oracle": str(self.oracle) if self.oracle else None,
            }
        )


def command(how: str) -> str:
    """
    Get the command line of the crash kernel.

    :param how: options of makedumpfile; or ``elf``, or ``copy`` for a plain copy of
        ``/proc/vmcore``
    """
    if how == COPY:
        return "cp /proc/vmcore /root/core"
    options = ["-E", "-d", "31"] if how == ELF else shlex.split(how)
    words = ["makedumpfile", "--message-level", "4", *options]
    return f"{shlex.join(words)} /proc/vmcore /root/core"


def _crash_initramfs(kernel: Kernel, how: str) -> bytes:
    more = {} if how == COPY else foreign.MAKEDUMPFILE.files()
    init = initramfs.PRELUDE + _INIT.replace("{command}", command(how))
    busybox = initramfs.static_busybox()
    return initramfs.pack(kernel.modules, busybox, init, more, modules=_MODULES)


def _load(guest: Guest, kernel: Kernel, how: str) -> None:
    """Load the crash kernel."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        files = foreign.KEXEC.files()
        files["vmlinuz"] = kernel.vmlinuz.read_bytes()
        files["initrd"] = _crash_initramfs(kernel, how)
        for name, data in files.items():
            info = tarfile.TarInfo(f"{_PLACE}/{name}")
            info.mode, info.size = 0o755, len(data)
            archive.addfile(info, io.BytesIO(data))
    argv = [foreign.LOADER, "--library-path", foreign.LIBRARIES, "bin/kexec"]
    argv += ["-p", "vmlinuz", "--initrd=initrd", f"--append={_APPEND}"]
    script = f"tar -x -C / && cd /{_PLACE} && {shlex.join(argv)} && rm -r /{_PLACE}"
    done = guest.run(["sh", "-c", script], input=packed.getvalue(), timeout=120)
    if done.returncode:
        told = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise VmError(f"cannot load the crash kernel: {told[-1]}")


def _crash(guest: Guest) -> None:
    """Let the guest panic, and wait until its crash kernel has switched it off."""
    qemu = guest.qemu
    # The panic is what is wanted; how the crash kernel ends is looked at below.
    with contextlib.suppress(GuestError):
        guest.run(["sh", "-c", "echo c > /proc/sysrq-trigger"], timeout=60)
    if qemu.console.panic is None:
        raise GuestError("the guest did not panic", qemu.console.tail())
    try:
        qemu.process.wait(DUMP_SECONDS)
    except subprocess.TimeoutExpired:
        late = f"the crash kernel took longer than {DUMP_SECONDS:g} seconds"
        raise GuestError(late, qemu.console.tail()) from None
    qemu.console.closed.wait(5)


def _debugfs(disk: Path, request: str) -> bytes:
    return host.call([host.program("debugfs"), "-R", request, str(disk)], "reading the dump's disk")


def save(
    core: Path,
    *,
    how: str = DEFAULT,
    kernel: Kernel,
    workloads: Sequence[str] = ("standard",),
    oracle: Path | None = None,
    memory: str = "1G",
    append: str = "",
    **settings: Any,
) -> Crashed:
    """
    Boot a kernel, start workloads, capture the oracle, and panic.

    :param core: file to write
    :param how: what the crash kernel does, see :func:`command`
    :param oracle: directory to make for the oracle; none is captured without
    :param settings: for :class:`vm.guest.Guest`
    :raises VmError: if any of it fails; nothing half-written stays
    """
    if kernel.architecture is not AMD64:
        name = kernel.architecture.name
        raise VmError(f"{kernel.release} is of {name}: crash kernels are made of amd64 only")
    core = core.absolute()
    size = dump.memory_bytes(memory) + (256 << 20)
    cache.need_space(core.parent, 2 * size, "the dump")
    if oracle is not None and oracle.exists():
        raise VmError(f"{oracle} is there already: remove it, or choose another --oracle")
    with tempfile.TemporaryDirectory(prefix=f".{core.name}.", dir=core.parent) as place:
        disk = Path(place) / "disk.img"
        empty = Path(place) / "empty"
        empty.mkdir()
        kernels.make_image(disk, empty, extra=size)
        disks = [Disk(_DISK, str(disk), keep=True)]
        append = f"{RESERVED} {append}".strip()
        try:
            with Guest(kernel, memory=memory, append=append, disks=disks, **settings) as guest:
                _load(guest, kernel, how)
                guest.start_workloads(workloads)
                if oracle is not None:
                    guest.freeze_workloads()
                    guest.capture_oracle(oracle)
                _crash(guest)
                told = guest.qemu.console.tail()
            if "drgn-sockets: dumped, status 0" not in told:
                with contextlib.suppress(VmError):
                    told += "\n" + _debugfs(disk, "cat /messages").decode(errors="replace")
                raise GuestError("the crash kernel wrote no core", told)
            part = Path(place) / "core"
            _debugfs(disk, f"dump /core {part}")
            part.chmod(0o644)
            part.replace(core)
        except BaseException:
            if oracle is not None:
                cache.remove(oracle)
            raise
    return Crashed(kernel, core, oracle)


def cached(
    kernel: str | Kernel = kernels.DEFAULT,
    how: str = DEFAULT,
    workloads: str = "standard",
    memory: str = "1G",
    **settings: Any,
) -> Crashed:
    """
    Get a machine that crashed from the cache; it is made when first asked for.

    What makes it anew is what makes a recording anew, see :func:`vm.dump.cached`.

    :param workloads: names, with commas
    :param settings: for :class:`vm.guest.Guest`
    """
    k = kernels.get(kernel) if isinstance(kernel, str) else kernel
    names = [w for w in workloads.split(",") if w]
    sources = dump.hash_of_sources("panic.py", "foreign.py")
    words = json.dumps([k.id, names, how, memory, sources, sorted(settings.items())])
    stem = "-".join(["crash", k.id, *names, how.replace(" ", ""), memory])
    where = cache.root() / "dumps" / f"{stem}@{hashlib.sha256(words.encode()).hexdigest()[:12]}"

    def make(part: Path) -> None:
        part.mkdir(parents=True)
        cache.note(f"crashing {k.release} with {workloads}")
        options = {"kernel": k, "workloads": names, "memory": memory, **settings}
        save(part / "core", how=how, oracle=part / "oracle", **options)

    if not where.exists():
        cache.ensure(where, make)
        cache.prune(where, f"{stem}@*")
    return Crashed(k, where / "core", where / "oracle")
