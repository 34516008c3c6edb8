# SPDX-License-Identifier: LGPL-2.1-or-later
"""The same core in two formats, and two ways to read the same structure."""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from drgn import Object, offsetof

from drgn_sockets.commands.fds import Fds
from drgn_sockets.commands.ss_member_columns import COLUMNS
from drgn_sockets.kernel.dcache import Dentry
from drgn_sockets.kernel.fdtable import Fdtable, FilesStruct
from drgn_sockets.kernel.file import File, Inode
from drgn_sockets.kernel.sock import Sock, SockCommon, SocketAlloc
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.kernel.task import Task, Tasks
from drgn_sockets.records import fd, holders, reader
from drgn_sockets.records.columns import Column
from drgn_sockets.records.families import FAMILY_NAMES
from drgn_sockets.records.families.inet import InetRecord
from drgn_sockets.records.families.raw import RawRecord, RawSock
from drgn_sockets.records.families.tcp import (
    TcpRequestSock,
    TcpSock,
    TcpSockRecord,
    TcpTimewaitSock,
)
from drgn_sockets.records.families.udp import UdpRecord, UdpSock
from drgn_sockets.records.families.unix import UnixRecord, UnixSock
from drgn_sockets.records.fd import FdBatch, FdReader
from drgn_sockets.records.holders import Holders
from drgn_sockets.records.parts import Batch
from drgn_sockets.records.reader import SocketBatch, socket_parts
from drgn_sockets.records.socket import Derived, SocketRecord
from drgn_sockets.views.procfs import FILES
from drgn_sockets.views.sockets import describe, descriptions

from .agree import compare
from .machine import Core

COMMANDS = (
    ("fds",),
    ("fds", "--output", "all", "--json"),
    ("ss", "-a", "--output", "all", "--json"),
    ("ss", "-anepom"),
    ("ss", "-tan", "--csv", "--output", "all"),
)


PROCFS = ("procfs", *(f"net/{name}" for name in FILES if "udplite" not in name))


@pytest.mark.parametrize("argv", (*COMMANDS, PROCFS), ids=" ".join)
def test_both_formats_give_the_same(both: tuple[Core, Core], argv: tuple[str, ...]) -> None:
    elf, kdump = (core.run(*argv) for core in both)
    assert elf == kdump
    assert len(elf.out.splitlines()) > 100


def test_peer_and_tcp_of_both_formats(both: tuple[Core, Core]) -> None:
    elf, other = both
    rows = elf.rows("ss", "-a")[::9]
    tcp = [row["sk"] for row in rows if row["netid"] == "tcp"]
    for argv in (("peer", *(row["sk"] for row in rows), "--output=all"), ("tcp", *tcp)):
        mine = elf.run(*argv, "--json")
        assert mine.status == 0
        assert mine == other.run(*argv, "--json")


SOCKETS: dict[type[Struct], Any] = {
    TcpSock: lambda r: r["netid"] == "tcp" and r["rto"] is not None,
    TcpTimewaitSock: lambda r: r["substate"] is not None,
    TcpRequestSock: lambda r: r["num_timeout"] is not None,
    UdpSock: lambda r: r["netid"] in ("udp", "udpl"),
    RawSock: lambda r: r["netid"] == "raw",
    UnixSock: lambda r: r["family"] == "AF_UNIX",
    Sock: lambda r: r["family"] in ("AF_NETLINK", "AF_PACKET", "AF_VSOCK"),
    SockCommon: lambda r: r["netid"] == "tcp",
}


@pytest.mark.parametrize("cls", SOCKETS, ids=lambda c: c.__name__)
def test_fast_reader_agrees_with_the_plain_way(elf: Core, cls: type[Struct]) -> None:
    keep = SOCKETS[cls]
    addresses = {int(row["sk"], 16) for row in elf.rows("ss", "-a") if keep(row)}
    assert addresses
    assert compare(elf.prog, cls, addresses) > 5 * len(addresses)


def test_fast_reader_of_files_and_tasks(elf: Core) -> None:
    rows = elf.rows("fds")
    prog = elf.prog
    files = {
        int(row["file"], 16): Object(prog, "struct file *", int(row["file"], 16)) for row in rows
    }
    tables = {int(row["files"], 16) for row in rows}
    addresses: dict[type[Struct], set[int]] = {
        File: set(files),
        Inode: {obj.f_inode.value_() for obj in files.values()},
        Dentry: {obj.f_path.dentry.value_() for obj in files.values()},
        Task: {int(row["task"], 16) for row in rows},
        FilesStruct: tables,
        Fdtable: {Object(prog, "struct files_struct *", table).fdt.value_() for table in tables},
        SocketAlloc: {
            files[int(row["file"], 16)].f_inode.value_() - inode_at(elf)
            for row in rows
            if row["kind"] == "sock"
        },
    }
    for cls, some in addresses.items():
        assert compare(prog, cls, some) >= len(some) > 10, cls


def batches(core: Core) -> dict[str, tuple[Sequence[Column], list[Batch]]]:
    found = Holders(core.prog)
    sockets = [b for part in socket_parts(core.prog, FAMILY_NAMES, found) for b in part.batches()]
    fds_reader = FdReader(core.prog, descriptions)
    fds = [b for part in fds_reader.parts(Tasks(core.prog).tables()) for b in part.batches()]
    return {"ss": (COLUMNS, sockets), "fds": (Fds().columns, fds)}


def test_columns_of_a_batch_are_those_of_its_records(one: Core) -> None:
    # What is made of a whole column at once, and what of a record.
    for name, (columns, found) in batches(one).items():
        compared: Counter[str] = Counter()
        for column in columns:
            if column.texts is None:
                continue
            text = column.text or column.get
            for batch in found:
                texts = column.texts(batch) if issubclass(batch.cls, column.of) else None
                if texts is None:
                    continue
                each = [text(record) for record in batch.records()]
                assert list(map(str, texts)) == ["-" if t is None else str(t) for t in each]
                compared[column.name] += len(each)
        assert len(compared) >= 7, name
        assert min(compared.values()) > 200, compared


def test_fds_of_a_batch_that_cannot_be_read(one: Core) -> None:
    _, found = batches(one)["fds"]
    (batch,) = (b for b in found if isinstance(b, FdBatch) and len(b) == max(map(len, found)))
    lost = copy.copy(batch.files[1])
    assert lost is not None
    lost.error, lost.inode = "inode cannot be read", None
    files = [None, lost, *batch.files[2:]]
    fds = batch.fds, batch.addresses, batch.cloexec
    broken = FdBatch(batch.table, *fds, files, batch.reader)
    assert broken.errors() == 2
    for column in Fds().columns:
        if column.texts is not None:
            text = column.text or column.get
            each = [text(record) for record in broken.records()]
            texts = column.texts(broken)
            assert texts is not None
            assert list(map(str, texts)) == ["-" if t is None else str(t) for t in each]


def test_descriptions_of_a_batch_are_those_of_its_records(one: Core) -> None:
    _, found = batches(one)["ss"]
    made = [text for batch in found for text in descriptions(batch)]
    assert made == [describe(record) for batch in found for record in batch.records()]
    assert len(set(made)) > 200


@pytest.mark.parametrize("cls", [RawRecord, InetRecord, UnixRecord, TcpSockRecord, UdpRecord])
def test_derived_columns_are_those_of_records(elf: Core, cls: type[SocketRecord]) -> None:
    _, found = batches(elf)["ss"]
    names = [name for name in dir(cls) if isinstance(getattr(cls, name), Derived)]
    assert len(names) >= 6
    for batch in found:
        if isinstance(batch, SocketBatch) and batch.cls is cls:
            for name in names:
                column = batch.column(name)
                assert list(column) == [getattr(record, name) for record in batch.records()], name
            assert batch.inos == [record.ino for record in batch.records()]


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_any_number_of_processes(
    one: Core, argv: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = one.run("--jobs", "1", *argv)
    # Small parts, so that there are many.
    monkeypatch.setattr(reader, "_FIRST_PART", 16)
    monkeypatch.setattr(reader, "_PART", 16)
    monkeypatch.setattr(fd, "_BATCH", 64)
    monkeypatch.setattr(holders, "_PART", 16)
    forked: list[int] = []

    def fork(really: Callable[[], int] = os.fork) -> int:
        forked.append(1)
        return really()

    monkeypatch.setattr(os, "fork", fork)
    several = one.run("--jobs", "3", *argv)
    assert sorted(alone.out.split()) == sorted(several.out.split())
    assert alone.out.splitlines()[0].split() == several.out.splitlines()[0].split()
    assert (alone.status, alone.err) == (several.status, several.err)
    assert forked
    assert len(alone.out.splitlines()) > 100


def inode_at(core: Core) -> int:
    return int(offsetof(core.prog.type("struct socket_alloc"), "vfs_inode"))


def test_there_is_something_to_compare() -> None:
    assert any(isinstance(member, Int) for member in TcpSock.members().values())
    assert len(TcpSock.members()) > 80
