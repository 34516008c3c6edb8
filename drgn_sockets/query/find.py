# SPDX-License-Identifier: LGPL-2.1-or-later
"""Finding the sockets that a user means: by address, PID:FD, inode, or unix path."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from drgn import FaultError, Program

from drgn_sockets.errors import UserError
from drgn_sockets.kernel.fdtable import open_fds
from drgn_sockets.kernel.file import File, socket_file_ops
from drgn_sockets.kernel.memory import distilled_by
from drgn_sockets.kernel.sock import TCP_LISTEN, Sock, SockCommon, is_sock
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.kernel.task import Tasks
from drgn_sockets.query.select import task_of
from drgn_sockets.records.families.unix import UnixRecord
from drgn_sockets.records.holders import Holders
from drgn_sockets.records.losses import Losses
from drgn_sockets.records.reader import SocketReader, for_each_socket, readable
from drgn_sockets.records.socket import AnySocket


class _Socket(Struct):
    C_TYPE = "struct socket"
    sk = Int("sk")


def sk_at(prog: Program, address: int) -> int:
    """
    The ``struct sock *`` that *address* is, or that a ``struct socket`` or ``struct file``
    there leads to.

    :raises UserError: if it is none of these
    """
    if is_sock(prog, address):
        return address
    file = File.layout(prog).try_read(address)
    socket = file.private_data if file and file.op == socket_file_ops(prog) else address
    found = _Socket.layout(prog).try_read(socket)
    if found is not None and found.sk and is_sock(prog, found.sk):
        sk = Sock.layout(prog).try_read(found.sk)
        if sk is not None and sk.socket == socket:
            return found.sk
    readable = SockCommon.layout(prog).try_read(address) is not None
    why = (
        "what is there is no struct sock, socket or file of one"
        if readable
        else "there is no memory that can be read"
    )
    if distilled_by(prog) is not None:
        why += " in this distilled core, which has only what the commands read"
    raise UserError(f"{address:#x} is not a socket: {why}")


def parse_address(text: str) -> int | None:
    """A kernel address: ``0x…``, or 16 hexadecimal digits as ``%p`` prints them."""
    if re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}", text):
        return int(text, 16)
    # Sixteen decimal digits are an inode nowhere.
    if re.fullmatch(r"[0-9a-fA-F]{16}", text):
        return int(text, 16)
    return None


class Finder:
    """
    Finds sockets by what users know of them.

    :param losses: Takes what cannot be read.
    """

    def __init__(self, prog: Program, losses: Losses | None = None) -> None:
        self._prog = prog
        self.losses = Losses() if losses is None else losses
        self.tasks = Tasks(prog, self.losses.lose)
        self.holders = Holders(prog, self.tasks.tables(), losses=self.losses)
        self.reader = SocketReader(prog, self.holders, self.losses)

    def find(self, what: str) -> list[AnySocket]:
        """
        The sockets that *what* names.

        :param what: A kernel address (of a ``sock``, ``socket`` or ``file``), ``PID:FD``, an
            inode (``21189`` or ``socket:[21189]``), or the name of a unix socket: a path, or
            ``@`` and an abstract name.
        :raises UserError: if there is none
        """
        address = parse_address(what)
        if address is not None:
            return [self.reader.read(sk_at(self._prog, address))]
        match = re.fullmatch(r"([0-9]+):([0-9]+)", what)
        if match:
            return [self.reader.read(self._sk_of_fd(int(match[1]), int(match[2])))]
        match = re.fullmatch(r"(?:socket:\[)?([0-9]+)\]?", what)
        if match:
            return self.by_inode(int(match[1]))
        return self._by_name(os.fsencode(what))

    def _sk_of_fd(self, pid: int, fd: int) -> int:
        task = self.tasks.by_tid.get(pid) or task_of(self._prog, pid)
        if not task.files:
            raise UserError(f"process {pid} has exited and holds no file descriptors")
        try:
            for slot in open_fds(self._prog, task.files):
                if slot.fd == fd:
                    break
            else:
                raise UserError(f"process {pid} has no fd {fd}; fds {pid} lists those it has")
        except FaultError as e:
            raise UserError(f"the file table of process {pid} cannot be read: {e}") from None
        file = File.layout(self._prog).try_read(slot.file)
        if file is None:
            raise UserError(f"fd {fd} of process {pid}: its struct file cannot be read")
        if file.op != socket_file_ops(self._prog):
            raise UserError(f"fd {fd} of process {pid} is not a socket; fds {pid} says what it is")
        return sk_at(self._prog, file.private_data)

    def by_inode(self, ino: int) -> list[AnySocket]:
        """
        The socket with inode *ino*.

        :raises UserError: if there is none
        """
        walk = for_each_socket(self._prog, holders=self.holders, losses=self.losses)
        for record in readable(walk, self.losses):
            if ino and record.ino == ino:
                return [record]
        hint = ""
        bound = [r for r in self._unix() if (r.socket_file() or (0, 0))[0] == ino != 0]
        if bound:
            # Those that were accepted have the file of their listener.
            owner = max(bound, key=lambda r: r.state == TCP_LISTEN)
            hint = (
                f"; it is the inode of the socket file of socket:[{owner.ino}], "
                "which is another number"
            )
        raise UserError(f"no socket has inode {ino}{hint}; ss -a lists all")

    def _unix(self) -> Iterable[UnixRecord]:
        for record in for_each_socket(self._prog, ["unix"], self.holders, self.losses):
            if isinstance(record, UnixRecord):
                yield record

    def _by_name(self, name: bytes) -> list[AnySocket]:
        wanted = b"\0" + name[1:] if name[:1] == b"@" else name
        found: list[AnySocket] = [r for r in self._unix() if r.name == wanted]
        if not found and b"@" in wanted[1:] and name[:1] == b"@":
            # ss and procfs write the NULs within an abstract name as "@" as well.
            found = [r for r in self._unix() if r.name and r.name.replace(b"\0", b"@") == name]
        if not found:
            raise UserError(
                f"no unix socket is called {os.fsdecode(name)!r} (names are as they were bound; "
                "ss -xa lists all)"
            )
        return found
