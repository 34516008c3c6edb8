# SPDX-License-Identifier: LGPL-2.1-or-later
"""Locks of files: fs/locks.c."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from drgn import Program, offsetof

from drgn_sockets.kernel.lists import list_for_each_entry
from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.structs import Int, Struct

# include/linux/filelock.h (before v6.3 include/linux/fs.h)
FL_POSIX = 0x1
FL_FLOCK = 0x2
FL_DELEG = 0x4
FL_ACCESS = 0x8
FL_LEASE = 0x20
FL_DOWNGRADE_PENDING = 0x100
FL_UNLOCK_PENDING = 0x200
FL_OFDLCK = 0x400
FL_LAYOUT = 0x800

# include/uapi/asm-generic/fcntl.h
F_RDLCK = 0
F_WRLCK = 1
F_UNLCK = 2
_OFFSET_MAX = (1 << 63) - 1

_MAX_LOCKS = 1 << 20
_LISTS = ("flc_flock", "flc_posix", "flc_lease")


class _LockedInode(Struct):
    C_TYPE = "struct inode"

    flctx = Int("i_flctx")


class _FileLock(Struct):
    # A struct file_lease begins like a struct file_lock since Linux kernel commits a69ce85ec9af
    # ("filelock: split common fields into struct file_lock_core") and c69ff4071935 ("filelock:
    # split leases out of struct file_lock") (in v6.9).
    C_TYPE = "struct file_lock"

    next = Int("c.flc_list.next", "fl_list.next")
    flags = Int("c.flc_flags", "fl_flags")
    type = Int("c.flc_type", "fl_type")
    pid = Int("c.flc_pid", "fl_pid")
    owner = Int("c.flc_owner", "fl_owner")
    file = Int("c.flc_file", "fl_file")


class _Range(Struct):
    C_TYPE = "struct file_lock"

    start = Int("fl_start")
    end = Int("fl_end")


class FileLock(NamedTuple):
    """A lock that is held."""

    #: ``FL_*``.
    flags: int
    #: ``F_RDLCK`` or ``F_WRLCK``; for a lease that is being broken, the type that it will have.
    type: int
    #: PID of the owner in the initial PID namespace; -1 for a lock that an open file owns.
    pid: int
    #: First byte.
    start: int = 0
    #: Last byte, ``None`` for the end of the file.
    end: int | None = None

    @property
    def is_lease(self) -> bool:
        """Whether it is a lease, a delegation or a layout."""
        return bool(self.flags & (FL_LEASE | FL_DELEG | FL_LAYOUT))

    @property
    def is_breaking(self) -> bool:
        """Whether somebody waits for the holder of a lease, as ``lease_breaking()``."""
        return bool(self.flags & (FL_UNLOCK_PENDING | FL_DOWNGRADE_PENDING))


def fd_locks(prog: Program, inode: int, file: int, files: int) -> Iterator[FileLock | Lost]:
    """
    Iterate over the locks that are held through a file descriptor, as ``show_fd_locks()``.

    :param inode: ``struct inode *`` of the file
    :param file: ``struct file *``
    :param files: ``struct files_struct *`` that the fd is in
    :return: Iterator of the locks. A ``Lost`` stands for any lock on the file that cannot be read:
        its holder is not known.
    :raises FaultError: if the inode cannot be read
    """
    for lock in _inode_locks(prog, inode):
        if isinstance(lock, Lost):
            yield lock
        elif lock.file == file and lock.owner in (files, file):
            yield _lock(prog, lock)


def inode_locks(prog: Program, inode: int) -> Iterator[FileLock | Lost]:
    """
    Iterate over all locks and leases on a file, whoever holds them.

    :param inode: ``struct inode *``
    :return: Iterator of the locks. A ``Lost`` stands for one that cannot be read.
    :raises FaultError: if the inode cannot be read
    """
    for lock in _inode_locks(prog, inode):
        yield lock if isinstance(lock, Lost) else _lock(prog, lock)


def _inode_locks(prog: Program, inode: int) -> Iterator[_FileLock | Lost]:
    context = _LockedInode.layout(prog).read(inode).flctx
    if not context:
        return
    type_ = prog.type("struct file_lock_context")
    layout = _FileLock.layout(prog)
    for name in _LISTS:
        yield from list_for_each_entry(layout, context + offsetof(type_, name), "next", _MAX_LOCKS)


def _lock(prog: Program, lock: _FileLock) -> FileLock:
    flags, type_ = lock.flags, lock.type
    # locks_translate_pid()
    # The PID is signed, as it is since v6.3: PIDs of other machines are below 0.
    pid = -1 if flags & FL_OFDLCK else (lock.pid & 0xFFFFFFFF ^ 1 << 31) - (1 << 31)
    if flags & FL_POSIX:
        bounds = _Range.layout(prog).read(lock.address)
        end = None if bounds.end == _OFFSET_MAX else bounds.end
        return FileLock(flags, type_, pid, bounds.start, end)
    found = FileLock(flags, type_, pid)
    if found.is_lease:
        # target_leasetype()
        if flags & FL_UNLOCK_PENDING:
            return found._replace(type=F_UNLCK)
        if flags & FL_DOWNGRADE_PENDING:
            return found._replace(type=F_RDLCK)
    return found
