# SPDX-License-Identifier: LGPL-2.1-or-later
"""The same core in two formats, and two ways to read the same structure."""

from __future__ import annotations

from typing import Any

import pytest
from drgn import Object, TypeKind, offsetof

from drgn_sockets.kernel.dcache import Dentry
from drgn_sockets.kernel.fdtable import Fdtable, FilesStruct
from drgn_sockets.kernel.file import File, Inode
from drgn_sockets.kernel.sock import Sock, SockCommon, SocketAlloc
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.kernel.task import Task
from drgn_sockets.records.inet import RawSock, UdpSock
from drgn_sockets.records.tcp import TcpRequestSock, TcpSock, TcpTimewaitSock
from drgn_sockets.records.unix import UnixSock

from .machine import Core

COMMANDS = (
    ("fds",),
    ("fds", "--output", "all", "--json"),
    ("ss", "-a", "--output", "all", "--json"),
    ("ss", "-anepom"),
    ("ss", "-tan", "--csv", "--output", "all"),
)


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_both_formats_give_the_same(both: tuple[Core, Core], argv: tuple[str, ...]) -> None:
    elf, kdump = (core.run(*argv) for core in both)
    assert elf == kdump
    assert len(elf.out.splitlines()) > 100


def test_peer_and_tcp_of_both_formats(both: tuple[Core, Core]) -> None:
    elf, other = both
    rows = elf.rows("ss", "-a")[::3]
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


def plainly(obj: Object, path: str) -> Object:
    """A member the plain way, of a value that was read whole."""
    for name in path.split("."):
        name, _, index = name.partition("[")
        obj = obj.member_(name)
        if index:
            obj = obj[int(index[:-1])]
    return obj


def compare(core: Core, cls: type[Struct], address: int) -> int:
    layout = cls.layout(core.prog)
    (_, fast), *_ = layout.read_many([address])
    assert fast is not None
    count = 0
    places = type(fast).places
    whole: dict[str, Object] = {}
    for name, member in cls.members().items():
        if name not in places:
            continue
        if member.c_type not in whole:
            pointer = core.prog.pointer_type(core.prog.type(member.c_type))
            whole[member.c_type] = Object(core.prog, pointer, address)[0].read_()
        plain = plainly(whole[member.c_type], places[name].path)
        value = getattr(fast, name)
        if member.as_bytes and member._convert is None:
            assert value == plain.to_bytes_(), (cls, name)
        elif type(member).__name__ in ("Int", "OptInt"):
            type_ = plain.type_
            while type_.kind == TypeKind.TYPEDEF:
                type_ = type_.type
            expected = plain.value_()
            # Pointers and unsigned bit-fields alike.
            assert value == expected, (cls, name, value, expected)
        elif type(member).__name__ == "BigEndian":
            assert value == int.from_bytes(plain.to_bytes_(), "big"), (cls, name)
        count += 1
    return count


@pytest.mark.parametrize("cls", SOCKETS, ids=lambda c: c.__name__)
def test_fast_reader_agrees_with_the_plain_way(elf: Core, cls: type[Struct]) -> None:
    keep = SOCKETS[cls]
    rows = [row for row in elf.rows("ss", "-a") if keep(row)]
    assert rows
    members = 0
    for row in rows[:40]:
        members += compare(elf, cls, int(row["sk"], 16))
    assert members > 5 * min(len(rows), 40)


def test_fast_reader_of_files_and_tasks(elf: Core) -> None:
    rows = elf.rows("fds")
    for row in rows[::25]:
        file = int(row["file"], 16)
        compare(elf, File, file)
        obj = Object(elf.prog, "struct file *", file)
        compare(elf, Inode, obj.f_inode.value_())
        compare(elf, Dentry, obj.f_path.dentry.value_())
        compare(elf, Task, int(row["task"], 16))
        files = int(row["files"], 16)
        compare(elf, FilesStruct, files)
        compare(elf, Fdtable, Object(elf.prog, "struct files_struct *", files).fdt.value_())
        if row["kind"] == "sock":
            compare(elf, SocketAlloc, obj.f_inode.value_() - inode_at(elf))


def inode_at(core: Core) -> int:
    return int(offsetof(core.prog.type("struct socket_alloc"), "vfs_inode"))


def test_there_is_something_to_compare() -> None:
    assert any(isinstance(member, Int) for member in TcpSock.members().values())
    assert len(TcpSock.members()) > 80
