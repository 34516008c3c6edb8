# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The least that a tool on drgn must do to list fds and sockets: it reads each file table, struct
file, struct socket and struct sock once, in the order of addresses, and takes only the pointer to
the next one. It prints their numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from drgn import Program, get_default_prog, offsetof, sizeof
from drgn.helpers.linux.pid import for_each_task


def follow(prog: Program, addresses: Iterable[int], c_type: str, member: str) -> set[int]:
    """Read each structure once, and get a pointer from it."""
    type_ = prog.type(c_type)
    size, at = sizeof(type_), offsetof(type_, member)
    found = set()
    for address in sorted(addresses):
        (pointer,) = struct.unpack_from("=Q", prog.read(address, size), at)
        found.add(pointer)
    return found - {0}


def main(prog: Program) -> None:
    all_files = {task.files.value_() for task in for_each_task(prog)} - {0}
    slots: list[int] = []
    type_ = prog.type("struct fdtable")
    size, max_fds, fd = sizeof(type_), offsetof(type_, "max_fds"), offsetof(type_, "fd")
    for address in sorted(follow(prog, all_files, "struct files_struct", "fdt")):
        data = prog.read(address, size)
        (count,) = struct.unpack_from("=I", data, max_fds)
        (array,) = struct.unpack_from("=Q", data, fd)
        slots += [p for p in struct.unpack(f"={count}Q", prog.read(array, 8 * count)) if p]
    socket_ops = prog.symbol("socket_file_ops").address
    type_ = prog.type("struct file")
    size, f_op = sizeof(type_), offsetof(type_, "f_op")
    private_data = offsetof(type_, "private_data")
    sockets = set()
    for address in sorted(set(slots)):
        data = prog.read(address, size)
        if struct.unpack_from("=Q", data, f_op)[0] == socket_ops:
            sockets.add(struct.unpack_from("=Q", data, private_data)[0])
    sks = follow(prog, sockets, "struct socket", "sk")
    follow(prog, sks, "struct sock", "sk_socket")
    print(f"{len(slots)} fds, {len(set(slots))} files, {len(sks)} socks")


main(get_default_prog())
