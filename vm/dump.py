# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Cores of a guest with known contents, each with an oracle: what procfs and tools said.

The order matters. The workloads come to rest, the oracle is captured and brought out,
the machine is stopped, and only then dumped: core and oracle speak of the same state.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from drgn_sockets.check import sock_diag
from vm import cache, kernels, rootfs
from vm.arch import AMD64, Architecture
from vm.errors import GuestError, VmError
from vm.guest import Guest
from vm.kernels import Kernel
from vm.qmp import QmpError

#: Format: what QEMU calls it, and whether segments have virtual addresses, by the page tables of
#: the processors.
FORMATS = {"elf": ("elf", False), "kdump": ("kdump-zlib", False), "paging": ("elf", True)}

DUMP_SECONDS = 600


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A recorded machine: cores of the same moment, and the oracle of that moment."""

    #: The kernel that was booted.
    source: Kernel
    elf: Path | None
    kdump: Path | None
    oracle: Path | None
    paging: Path | None = None

    @property
    def kernel(self) -> str:
        """The kernel's series, or ``custom``."""
        return self.source.name

    @property
    def release(self) -> str:
        """``uname -r``"""
        return self.source.release

    @property
    def vmlinux(self) -> Path | None:
        """The vmlinux, fetched when first asked for; ``None`` for an own kernel without one."""
        return self.source.vmlinux if self.source.has_debug else None

    @property
    def system_map(self) -> Path | None:
        """
        The System.map; ``None`` if the core does without: VMCOREINFO has kallsyms (6.0 and later),
        and kallsyms has variables.
        """
        core = self.elf or self.kdump or self.paging
        if core is None or (tells_kallsyms(core) and self.source.lists_variables):
            return None
        return self.source.system_map

    def json(self) -> str:
        """Get the paths as a JSON object."""
        cores = tuple(FORMATS)
        names = ("kernel", "release", *cores, "oracle", "vmlinux", "system_map")
        fields = {name: getattr(self, name) for name in names}
        return json.dumps({k: None if v is None else str(v) for k, v in fields.items()})


def tells_kallsyms(core: Path) -> bool:
    """
    Tell whether the VMCOREINFO of a core has kallsyms.

    Since Linux commit 5fd8fea935a1 ("vmcoreinfo: include kallsyms symbols") (in v6.0).
    """
    with core.open("rb") as f:
        # In both formats, VMCOREINFO is near the start.
        return b"\nSYMBOL(kallsyms_names)=" in f.read(1 << 18)


def memory_bytes(memory: str) -> int:
    """
    Read a size as QEMU's ``-m`` does.

    :raises VmError: if it is not one
    """
    m = re.fullmatch(r"(\d+)([KMGT]?)i?B?", memory, re.IGNORECASE)
    if not m:
        raise VmError(f"--memory {memory}: give a number with M or G, such as 1G")
    return int(m[1]) << {"": 20, "K": 10, "M": 20, "G": 30, "T": 40}[m[2].upper()]


def save(guest: Guest, files: Mapping[str, Path]) -> None:
    """
    Stop a guest and dump its memory, in each format of *files*; it stays stopped.

    The files are as QEMU writes them. A file gets its name only when it is complete.

    :raises VmError: if one cannot be written
    """
    guest.qmp.execute("stop")
    for kind, path in files.items():
        part = path.with_name(f".{path.name}.part")
        try:
            _save(guest, kind, part)
            # QEMU makes it readable for its owner only.
            umask = os.umask(0o022)
            os.umask(umask)
            part.chmod(0o644 & ~umask)
            part.replace(path)
        except OSError as e:
            raise VmError(f"cannot write {path}: {e.strerror}") from e
        finally:
            cache.remove(part)


def _save(guest: Guest, kind: str, to: Path) -> None:
    to.unlink(missing_ok=True)
    format_, paging = FORMATS[kind]
    try:
        guest.qmp.execute(
            "dump-guest-memory",
            timeout=DUMP_SECONDS,
            paging=paging,
            protocol=f"file:{to}",
            format=format_,
        )
    except QmpError as e:
        free = shutil.disk_usage(to.parent).free >> 20
        raise VmError(f"cannot dump to {to.parent} ({free} MiB free): {e}") from e


def dump(
    files: Mapping[str, Path],
    *,
    kernel: Kernel | None = None,
    workloads: Sequence[str] = ("standard",),
    oracle: Path | None = None,
    memory: str = "1G",
    **settings: Any,
) -> Recorded:
    """
    Boot a kernel, start workloads, capture the oracle, stop, dump.

    :param files: format, of :data:`FORMATS`, to file
    :param kernel: 6.1 if not given
    :param oracle: directory to make for the oracle; none is captured without
    :param settings: for :class:`vm.guest.Guest`
    :raises VmError: if any of it fails; nothing half-written stays
    """
    if kernel is None:
        kernel = kernels.get()
    files = {kind: Path(path).absolute() for kind, path in files.items()}
    room: dict[int, int] = {}
    for kind, path in files.items():
        if not path.parent.is_dir():
            raise VmError(f"{path.parent} is not a directory")
        # The size of a kdump depends on its contents; half of memory is more than was ever seen.
        size = memory_bytes(memory) // (2 if kind == "kdump" else 1)
        device = path.parent.stat().st_dev
        room[device] = room.get(device, 0) + size
        cache.need_space(path.parent, room[device], "the dump")
    if oracle is not None and oracle.exists():
        if oracle.is_dir() and not (oracle / "net").exists() and any(oracle.iterdir()):
            raise VmError(f"{oracle} is there already, and not an oracle: choose another --oracle")
        cache.remove(oracle)
    try:
        with Guest(kernel, memory=memory, **settings) as guest:
            guest.start_workloads(workloads)
            if oracle is not None:
                guest.freeze_workloads()
                guest.capture_oracle(oracle)
            save(guest, files)
    except BaseException:
        if oracle is not None:
            cache.remove(oracle)
        raise
    return Recorded(kernel, oracle=oracle, **{kind: files.get(kind) for kind in FORMATS})


def hash_of_sources(*more: str, architecture: Architecture = AMD64) -> str:
    """
    Hash all sources in vm/ that decide what a recording holds.

    :param more: names of other ones that decide it
    :param architecture: of the guest
    """
    here = Path(__file__).parent
    digest = hashlib.sha256(rootfs.key(architecture).encode())
    own = ("agent.py", "dump.py", "guest.py", "initramfs.py", "oracle.py", "qemu.py")
    for p in sorted([*(here / "workloads").rglob("*.py"), *(here / n for n in (*own, *more))]):
        if p.exists():
            digest.update(str(p.relative_to(here)).encode() + b"\0" + p.read_bytes() + b"\0")
    digest.update(repr(sock_diag.REQUESTS).encode())
    return digest.hexdigest()


def cached(
    kernel: str | Kernel = kernels.DEFAULT,
    workloads: str = "standard",
    formats: Sequence[str] = ("elf", "kdump"),
    memory: str = "1G",
    **settings: Any,
) -> Recorded:
    """
    Get a recorded machine from the cache; it is recorded when first asked for.

    A change of the kernel, of a workload, of the oracle or of the guest makes a new recording. The
    one before it stays in the cache, for checkouts without that change; older ones are removed.

    :param workloads: names, with commas
    :param settings: for :class:`vm.guest.Guest`
    """
    k = kernels.get(kernel) if isinstance(kernel, str) else kernel
    kinds = sorted(set(formats))
    names = [w for w in workloads.split(",") if w]
    words = json.dumps(
        [
            k.id,
            names,
            kinds,
            memory,
            hash_of_sources(architecture=k.architecture),
            sorted(settings.items()),
        ]
    )
    # Recordings that this one replaces have the same name up to the hash.
    stem = "-".join([k.id, *names, *kinds, memory])
    where = cache.root() / "dumps" / f"{stem}@{hashlib.sha256(words.encode()).hexdigest()[:12]}"

    def make(part: Path) -> None:
        part.mkdir(parents=True)
        cache.note(f"recording {k.release} with {workloads}")
        files = {kind: part / f"core.{kind}" for kind in kinds}
        dump(
            files,
            kernel=k,
            workloads=names,
            oracle=part / "oracle",
            memory=memory,
            **settings,
        )

    if not where.exists():
        cache.ensure(where, make)
        cache.prune(where, f"{stem}@*")
    files = {kind: where / f"core.{kind}" if kind in kinds else None for kind in FORMATS}
    return Recorded(k, oracle=where / "oracle", **files)


@contextlib.contextmanager
def held(
    qmp: Path,
    *,
    kernel: Kernel | None = None,
    workloads: Sequence[str] = ("standard",),
    oracle: Path | None = None,
    **settings: Any,
) -> Iterator[Guest]:
    """
    Keep a guest with workloads, and a QMP monitor at *qmp*.

    The guest goes on running; with an *oracle*, its workloads are stopped (``SIGSTOP``).
    """
    if oracle is not None and oracle.exists():
        raise VmError(f"{oracle} is there already: remove it, or choose another --oracle")
    with Guest(kernel or kernels.get(), qmp=qmp, **settings) as guest:
        guest.start_workloads(workloads)
        if oracle is not None:
            guest.freeze_workloads()
            guest.capture_oracle(oracle)
        yield guest


def wait_for_end(guest: Guest, stop: threading.Event) -> None:
    """
    Wait until *stop* is set.

    :raises GuestError: if the guest ends before that
    """
    while not stop.wait(0.5):
        if guest.qemu.process.poll() is not None:
            raise GuestError("the guest is gone", guest.console())
