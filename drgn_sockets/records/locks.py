# SPDX-License-Identifier: LGPL-2.1-or-later
"""Locks that are held through file descriptors."""

from __future__ import annotations

from drgn_sockets.kernel import locks
from drgn_sockets.kernel.file import major, minor
from drgn_sockets.kernel.locks import FileLock, fd_locks
from drgn_sockets.kernel.lost import Lost, unbroken
from drgn_sockets.records.fd import FdRecord

# fs/locks.c, up to Linux kernel commit 90f7d7a0d0d6 ("locks: remove LOCK_MAND flock lock support")
# (in v5.16); include/uapi/asm-generic/fcntl.h
_LOCK_MAND = 32
_LOCK_READ = 64
_LOCK_WRITE = 128
_MAND_TYPES = {0: b"NONE ", _LOCK_READ: b"READ ", _LOCK_WRITE: b"WRITE"}

_TYPES = {locks.F_RDLCK: b"READ", locks.F_WRLCK: b"WRITE"}


def locks_of(record: FdRecord) -> list[FileLock | Lost]:
    """
    The locks that are held through a file descriptor.

    :return: The locks. A ``Lost`` stands for unreadable locks on the file, whoever holds them.
    :raises FaultError: if none can be read
    """
    file = record.file
    if file is None or not file.file.inode:
        return []
    return list(fd_locks(file.prog, file.file.inode, file.address, record.table.files))


def lock_words(lock: FileLock) -> str:
    """A lock in few words: kind, type, bytes."""
    kind = "lease"
    if lock.flags & locks.FL_POSIX:
        kind = "ofd" if lock.flags & locks.FL_OFDLCK else "posix"
    elif lock.flags & locks.FL_FLOCK:
        kind = "flock"
    elif not lock.is_lease:
        kind = "unknown"
    words = [kind, _TYPES.get(lock.type, b"UNLCK").decode().lower()]
    if lock.is_lease and lock.is_breaking:
        words.append("breaking")
    if lock.start or lock.end is not None:
        words.append(f"{lock.start}-{'' if lock.end is None else lock.end}")
    return " ".join(words)


def lock_line(lock: FileLock, dev: int, ino: int) -> bytes:
    """
    What ``lock_get_status()`` writes of a lock, after its number.

    A mandatory lock (up to v5.14, on a file system mounted with ``mand``) is shown as advisory.

    :param dev: Device of the file system, as the kernel's ``dev_t``
    """
    end = b"EOF" if lock.end is None else b"%d" % lock.end
    return b"%b %b %d %02x:%02x:%d %d %b" % (
        _kind(lock),
        _type(lock),
        lock.pid,
        major(dev),
        minor(dev),
        ino,
        lock.start,
        end,
    )


def _kind(lock: FileLock) -> bytes:
    if lock.flags & locks.FL_POSIX:
        if lock.flags & locks.FL_ACCESS:
            return b"ACCESS ADVISORY "
        return (b"OFDLCK" if lock.flags & locks.FL_OFDLCK else b"POSIX ") + b" ADVISORY "
    if lock.flags & locks.FL_FLOCK:
        return b"FLOCK  MSNFS    " if lock.type & _LOCK_MAND else b"FLOCK  ADVISORY "
    if lock.is_lease:
        kind = b"DELEG  " if lock.flags & locks.FL_DELEG else b"LEASE  "
        return kind + (b"BREAKING " if lock.is_breaking else b"ACTIVE   ")
    return b"UNKNOWN UNKNOWN "


def _type(lock: FileLock) -> bytes:
    if lock.type & _LOCK_MAND:
        return _MAND_TYPES.get(lock.type & (_LOCK_READ | _LOCK_WRITE), b"RW   ")
    return _TYPES.get(lock.type, b"UNLCK")


def lock_letter(r: FdRecord) -> str:
    """
    Get the letter of a lock that the process holds: ``R`` or ``W`` if it is on the whole file,
    ``r`` or ``w`` if it is on a part, or an empty string.
    """
    file = r.opened
    if file is None or file.inode is None or file.sk:
        return ""
    for lock in unbroken(locks.inode_locks(file.prog, file.file.inode)):
        if lock.pid == r.table.pid and not lock.is_lease:
            whole = lock.start == 0 and lock.end is None
            letter = "w" if lock.type == locks.F_WRLCK else "r"
            return letter.upper() if whole else letter
    return ""
    return ""
