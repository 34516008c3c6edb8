# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process of which the task_struct is not in the core is another thing than no process."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from drgn import Program, sizeof

from drgn_sockets.cli import make_parser
from drgn_sockets.kernel.task import Tasks
from drgn_sockets.target import open_target

from .machine import Core, run_on
from .patient import Patient

PAGE = 4096
# Elf64_Phdr
ELF_PHDR = struct.Struct("<IIQQQQQQ")


class Cut(NamedTuple):
    """A core without the pages that the task_struct of a process is in."""

    prog: Program
    pid: int
    #: Another that is still there.
    other: int


def leave_out(path: Path, start: int, end: int) -> None:
    """Have an ELF core not say where some bytes of its file are."""
    with path.open("r+b") as file:
        header = bytearray(file.read(64))
        phoff, size, count = (
            struct.unpack_from("<Q", header, 32)[0],
            *struct.unpack_from("<HH", header, 54),
        )
        entries = []
        for i in range(count):
            file.seek(phoff + i * size)
            kind, flags, offset, vaddr, paddr, filesz, _, align = ELF_PHDR.unpack(
                file.read(ELF_PHDR.size)
            )
            pieces = [(offset, offset + filesz)]
            if kind == 1 and offset <= start < offset + filesz:
                pieces = [(offset, start), (end, offset + filesz)]
            for first, last in pieces:
                moved = first - offset
                places = first, vaddr + moved, paddr + moved, last - first, last - first
                entries.append(ELF_PHDR.pack(kind, flags, *places, align))
        struct.pack_into("<Q", header, 32, file.seek(0, os.SEEK_END))
        struct.pack_into("<H", header, 56, len(entries))
        file.write(b"".join(entries))
        file.seek(0)
        file.write(header)


@pytest.fixture(scope="module")
def cut(sample: Core, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cut]:
    patient = Patient(sample, tmp_path_factory.mktemp(f"cut-{sample.kernel}"))
    tasks = Tasks(patient.prog)
    pid = sample.accounts["fd_zoo"]["processes"][0]["pid"]
    address = tasks.by_tid[pid].address
    start = patient.offset(address) & -PAGE
    end = patient.offset(address + sizeof(patient.prog.type("struct task_struct"))) & -PAGE
    leave_out(patient.path, start, end + PAGE)
    args = ["-c", str(patient.path), *sample.symbols, "ss"]
    prog = open_target(make_parser().parse_args(args))
    yield Cut(prog, pid, sample.accounts["tcp_echo"]["processes"][0]["pid"])
    patient.path.unlink()


@pytest.mark.parametrize(
    "words",
    [
        ["procfs", "{pid}/stat"],
        ["procfs", "{pid}/fd"],
        ["procfs", "{pid}/task/{pid}/stat"],
        ["procfs", "{pid}/net/tcp"],
        ["fds", "{pid}"],
        ["fds", "--pid", "{pid}"],
        ["ss", "--pid", "{pid}"],
        ["peer", "{pid}:3"],
        ["ss", "-N", "{pid}"],
    ],
)
def test_it_is_told_apart(cut: Cut, words: list[str]) -> None:
    lost = run_on(cut.prog, *(word.format(pid=cut.pid) for word in words))
    assert lost.status == 2 and not lost.out
    last = lost.err.splitlines()[-1]
    assert f"process {cut.pid}" in last and "struct task_struct at 0x" in last
    none = run_on(cut.prog, *(word.format(pid=99999) for word in words))
    assert none.status == 2
    assert f"no process {99999}" in none.err or "nor a process" in none.err


def test_others_are_there(cut: Cut, sample: Core) -> None:
    path = f"{cut.other}/comm"
    assert run_on(cut.prog, "procfs", path).out == (sample.oracle / path).read_text()
    assert run_on(cut.prog, "fds", str(cut.other)).status != 2


def test_a_thread(cut: Cut, sample: Core) -> None:
    """By its process, whose task_struct is there."""
    done = run_on(cut.prog, "procfs", f"{cut.other}/task/{cut.pid}/stat")
    assert done.status == 2
    assert done.err.startswith(
        f"drgn-sockets: thread {cut.pid} of process {cut.other}: struct task_struct at "
    )
