# SPDX-License-Identifier: LGPL-2.1-or-later
"""``/proc/PID/fdinfo/N``."""

from __future__ import annotations

from collections.abc import Iterator

from drgn import FaultError, Program

from drgn_sockets.kernel.lost import Lost, raise_lost, sift, unreadable
from drgn_sockets.records.fd import FdRecord
from drgn_sockets.records.kinds import known_of
from drgn_sockets.records.kinds.base import shows_fdinfo
from drgn_sockets.records.locks import lock_line, locks_of


def has_ino(prog: Program) -> bool:
    """
    Whether fdinfo has a line ``ino:``.

    Linux kernel commit 3845f256a8b5 ("procfs/dmabuf: add inode number to /proc/*/fdinfo") (in
    v5.14) changed no type; in the same version commit 2f064a59a11f ("sched: Change
    task_struct::state") did.
    """
    return bool(prog.type("struct task_struct").has_member("__state"))


def fdinfo(record: FdRecord) -> Iterator[bytes]:
    """
    Make the lines of the file, as ``seq_show()`` in fs/proc/fd.c writes them.

    :raises FaultError: if a structure that they are made of cannot be read
    :raises LookupError: if the kernel's types lack those of this kind of file
    """
    file = record.file
    if file is None or record.flags is None:
        raise unreadable("struct file", record.address)
    yield b"pos:\t%d\n" % file.pos
    yield b"flags:\t0%o\n" % record.flags
    yield b"mnt_id:\t%d\n" % file.mnt_id
    if has_ino(file.prog):
        if file.ino is None:
            raise unreadable("struct inode", file.file.inode)
        yield b"ino:\t%d\n" % file.ino
    yield from own_lines(record)


def own_lines(record: FdRecord) -> Iterator[bytes]:
    """
    Make the lines after those that every fd has: locks, and the lines of its kind.

    :raises FaultError: if a structure that they are made of cannot be read
    :raises LookupError: if the kernel's types lack those of this kind of file
    """
    file = record.file
    if file is None:
        raise unreadable("struct file", record.address)
    lost: list[Lost] = []
    for number, lock in enumerate(sift(locks_of(record), lost.append), 1):
        yield b"lock:\t%d: %b\n" % (number, lock_line(lock, file.dev or 0, file.ino or 0))
    known = known_of(file)
    if known is not None and known.error is None:
        yield from known.kind.fdinfo(file, known.it)
    elif not shows_fdinfo(file):
        pass
    elif known is None:
        raise LookupError(f"{file.fops}: the lines of this kind of file are not known")
    elif known.unknown:
        raise LookupError(known.error)
    else:
        raise_lost(file.lost)
        raise FaultError(known.error, file.private_data)
    raise_lost(lost)
