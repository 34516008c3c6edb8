# SPDX-License-Identifier: LGPL-2.1-or-later
"""Locks on files: ``struct file_lock_context``."""

from __future__ import annotations

from collections.abc import Iterator

from drgn import FaultError, Program, offsetof

from drgn_sockets.kernel.structs import Int, Struct

# Those of a file that is locked in small pieces.
_MAX_LOCKS = 1 << 16

# include/uapi/asm-generic/fcntl.h
F_RDLCK = 0
F_WRLCK = 1
F_UNLCK = 2
# include/linux/limits.h: OFFSET_MAX
OFFSET_MAX = (1 << 63) - 1


class _Inode(Struct):
    C_TYPE = "struct inode"

    context = Int("i_flctx", help="struct file_lock_context *")


class _Context(Struct):
    C_TYPE = "struct file_lock_context"

    flock = Int("flc_flock.next", help="struct list_head, flock() locks")
    posix = Int("flc_posix.next", help="struct list_head, fcntl() locks")
    lease = Int("flc_lease.next", help="struct list_head, leases")


class FileLock(Struct):
    """``struct file_lock``, of which a lease has only the beginning."""

    C_TYPE = "struct file_lock"

    # Linux kernel commit 69baf75d0fc3 ("filelock: split common fields into struct
    # file_lock_core") (in v6.9)
    next = Int("c.flc_list.next", "fl_list.next", help="struct list_head *")
    type = Int("c.flc_type", "fl_type", help="F_RDLCK or F_WRLCK")
    pid = Int("c.flc_pid", "fl_pid", help="process that took it, -1 for one of an open file")
    file = Int("c.flc_file", "fl_file", help="struct file *")
    start = Int("fl_start", help="first byte")
    end = Int("fl_end", help="last byte, OFFSET_MAX for the end of the file")


def file_locks(prog: Program, inode: int) -> Iterator[FileLock]:
    """
    Locks on a file that somebody holds: of ``flock()`` and ``fcntl()``.

    :param inode: ``struct inode *`` as an integer
    :raises FaultError: if one cannot be read
    """
    context = _Inode.layout(prog).read(inode).context
    if not context:
        return
    lists = _Context.layout(prog).read(context)
    layout = FileLock.layout(prog)
    type_ = prog.type("struct file_lock")
    offset = offsetof(type_, "c.flc_list" if type_.has_member("c") else "fl_list")
    heads = {context + _Context.layout(prog).cls.places[name].offset for name in ("flock", "posix")}
    seen: set[int] = set()
    for node in (lists.flock, lists.posix):
        while node not in heads:
            if node in seen or len(seen) > _MAX_LOCKS:
                raise FaultError("locks form a loop", node)
            seen.add(node)
            lock = layout.read(node - offset)
            yield lock
            node = lock.next
