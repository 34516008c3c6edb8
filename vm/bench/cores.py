# SPDX-License-Identifier: LGPL-2.1-or-later
"""The cores that the bench measures on; each is made once, and cached."""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from vm import cache, dump, guest, kernels
from vm.bench import sparse
from vm.errors import VmError
from vm.kernels import Kernel

KERNEL = "6.1"

PAIRS = 20000
SMALL = PAIRS // 10
DOUBLE = PAIRS * 2

#: Size of the sparse cores.
SPARSE_BYTES = 100 << 30

#: procfs of 320,000 file descriptors, read by Python in a guest without KVM.
ORACLE_SECONDS = 1800


@dataclass(frozen=True)
class Cores:
    """Cores and procfs of a machine with that many pairs of sockets, of the same moment."""

    pairs: int
    kernel: Kernel
    where: Path

    def core(self, form: str) -> Path:
        """Get its core in a format: ``ELF`` or ``kdump``."""
        return self.where / f"core.{form.lower()}"

    @property
    def oracle(self) -> Path:
        """The directory with what procfs said."""
        return self.where / "oracle"

    @property
    def pid(self) -> int:
        """The process that has the sockets; a child of it shares them."""
        account = json.loads((self.oracle / "account" / "bench.json").read_text())
        pid = account["pid"]
        assert isinstance(pid, int)
        return pid


@functools.cache
def cores(pairs: int) -> Cores:
    """
    Get the bench's cores, recorded when first asked for.

    :raises VmError: if they cannot be made
    """
    kernel = kernels.get(KERNEL)
    source = Path(__file__).parent.parent / "workloads" / "bench.py"
    key = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    stem = f"{kernel.id}-bench:{pairs}"
    where = cache.root() / "bench" / f"{stem}@{key}"

    def make(part: Path) -> None:
        part.mkdir(parents=True)
        cache.note(f"making the cores with {8 * pairs} file descriptors: some minutes, once")
        _record(kernel, pairs, part)

    if not where.exists():
        cache.ensure(where, make)
        for old in where.parent.glob(f"{stem}@*"):
            if old != where:
                cache.remove(old)
    return Cores(pairs, kernel, where)


def _record(kernel: Kernel, pairs: int, to: Path) -> None:
    """
    Record a machine.

    Not with :func:`vm.dump.dump`: the oracle here is procfs only. Tools take minutes for so many
    sockets (``lsof +E`` compares each with each), and nothing uses their output.
    """
    memory = "1G" if pairs <= PAIRS else "2G"
    cache.need_space(to.parent, dump.memory_bytes(memory) * 3 // 2, "the bench's core")
    with guest.Guest(kernel, memory=memory) as machine:
        machine.start_workloads([f"bench:{pairs}"])
        machine.freeze_workloads()
        argv = ["python3", "-m", "vm.oracle", guest.ORACLE, "--account", guest.ACCOUNTS]
        argv += ["--exclude-pid", "1", "--tools", "none"]
        try:
            machine.run(argv, timeout=ORACLE_SECONDS, check=True)
        except subprocess.CalledProcessError as e:
            raise VmError(f"saving procfs failed: {e.stderr.decode(errors='replace')}") from e
        machine.pull(guest.ORACLE, to / "oracle")
        dump.save(machine, {"elf": to / "core.elf", "kdump": to / "core.kdump"})
    if pairs == PAIRS:
        unpack_tables(to / "oracle")


def unpack_tables(oracle: Path) -> None:
    """
    Lay out the file tables of an oracle as procfs does, for ``check``.

    Large tables come out of the guest packed: its file systems have too few inodes for a link and a
    file for each descriptor.
    """
    for packed in oracle.glob("*/fds.jsonl"):
        links, infos = packed.with_name("fd"), packed.with_name("fdinfo")
        links.mkdir()
        infos.mkdir()
        with packed.open() as lines:
            for line in lines:
                entry = json.loads(line)
                number = str(entry["fd"])
                (links / number).symlink_to(entry["link"])
                (infos / number).write_text(entry["fdinfo"])
        packed.unlink()


@functools.cache
def sparse_cores() -> tuple[Path, Path]:
    """
    Get an ELF and a kdump core of 100 GiB with the contents of the small machine.

    :raises VmError: if they cannot be made
    """
    small = cores(SMALL)
    source = Path(sparse.__file__).read_bytes()
    key = hashlib.sha256(f"{small.where.name} {SPARSE_BYTES}".encode() + source).hexdigest()[:12]
    where = small.where.with_name(f"sparse@{key}")

    def make(part: Path) -> None:
        part.mkdir(parents=True)
        sparse.sparse_elf(small.core("ELF"), part / "core.elf", SPARSE_BYTES)
        sparse.sparse_kdump(small.core("kdump"), part / "core.kdump", SPARSE_BYTES)

    if not where.exists():
        cache.ensure(where, make)
        for old in where.parent.glob("sparse@*"):
            if old != where:
                cache.remove(old)
    return where / "core.elf", where / "core.kdump"
