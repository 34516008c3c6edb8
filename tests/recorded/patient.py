# SPDX-License-Identifier: LGPL-2.1-or-later
"""A copy of a recorded core that can be damaged at one place, looked at, and mended."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from drgn import Object, Program, cast, offsetof
from drgn.helpers.linux.fs import fget
from drgn.helpers.linux.mm import follow_phys
from drgn.helpers.linux.pid import find_task

from drgn_sockets.cli import make_parser
from drgn_sockets.kernel.task import FileTable, Tasks
from drgn_sockets.target import open_target

from .machine import Core, Done, Row, run_on

UNMAPPED = 0xFFFF_FEFE_DEAD_0000


def sparse_copy(source: Path, target: Path) -> None:
    """Copy a core without the zeros, of which most of the guest's memory is."""
    size = 1 << 20
    zeros = bytes(size)
    with source.open("rb", buffering=0) as file, target.open("wb", buffering=0) as copy:
        while data := file.read(size):
            if data == zeros:
                copy.seek(len(data), os.SEEK_CUR)
            else:
                copy.write(data)
        copy.truncate(file.tell())


class Patient:
    """A copy of a core that can be damaged."""

    def __init__(self, core: Core, directory: Path) -> None:
        self.core = core
        self.path = directory / "core"
        sparse_copy(core.path, self.path)
        args = make_parser().parse_args(["-c", str(self.path), *core.symbols, "ss"])
        self.prog: Program = open_target(args)
        self.file = self.path.open("r+b", buffering=0)
        self.segments = list(self._segments())

    def _segments(self) -> Iterator[tuple[int, int, int]]:
        header = os.pread(self.file.fileno(), 64, 0)
        phoff, phentsize, phnum = (
            struct.unpack_from("<Q", header, 32)[0],
            *struct.unpack_from("<HH", header, 54),
        )
        for i in range(phnum):
            entry = os.pread(self.file.fileno(), 56, phoff + i * phentsize)
            kind, _, offset, _, paddr, filesz = struct.unpack_from("<IIQQQQ", entry)
            if kind == 1:
                yield paddr, filesz, offset

    def offset(self, address: int) -> int:
        """Where in the file the byte at a virtual address is."""
        physical = follow_phys(self.prog["init_mm"].address_of_(), address).value_()
        for start, size, offset in self.segments:
            if start <= physical < start + size:
                return int(offset + physical - start)
        raise AssertionError(f"{address:#x} is not in the core")

    @contextlib.contextmanager
    def damaged(self, *changes: tuple[int, bytes]) -> Iterator[None]:
        """With other bytes at some virtual addresses."""
        kept = []
        try:
            for address, data in changes:
                offset = self.offset(address)
                kept.append((offset, os.pread(self.file.fileno(), len(data), offset)))
                os.pwrite(self.file.fileno(), data, offset)
                assert self.prog.read(address, len(data)) == data
            yield
        finally:
            for offset, data in reversed(kept):
                os.pwrite(self.file.fileno(), data, offset)

    def run(self, *argv: str) -> Done:
        return run_on(self.prog, *argv)

    def rows(self, *argv: str) -> tuple[Done, list[Row]]:
        done = self.run(*argv, "--json")
        # Each line is whole, and JSON.
        assert not done.out or done.out.endswith("\n")
        return done, [json.loads(line) for line in done.out.splitlines()]


def word(value: int) -> bytes:
    return struct.pack("<Q", value)


def member(obj: Object, path: str) -> int:
    """Address of a member of what a pointer points to."""
    address: int = obj.value_() + offsetof(obj.type_.type, path)
    return address


def client(patient: Patient) -> tuple[int, int]:
    end = patient.core.accounts["tcp_echo"]["connections"][0]["client"]
    return end["pid"], end["fd"]


def file_at(patient: Patient, pid: int, fd: int) -> Object:
    return fget(find_task(patient.prog, pid), fd)


def sock_at(patient: Patient, pid: int, fd: int, type_: str) -> Object:
    socket = cast("struct socket *", file_at(patient, pid, fd).private_data)
    return cast(f"struct {type_} *", socket.sk)


def tables(patient: Patient, pid: int) -> list[FileTable]:
    return [table for table in Tasks(patient.prog, lambda lost: None).tables() if table.pid == pid]
