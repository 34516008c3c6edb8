# SPDX-License-Identifier: LGPL-2.1-or-later
"""The cache directory: an entry is complete, or does not exist."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

from vm.errors import VmError


def root() -> Path:
    """Get the cache's directory, ``$XDG_CACHE_HOME/drgn-sockets``."""
    # The XDG specification says to ignore a relative path.
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        base = Path.home() / ".cache"
    return base / "drgn-sockets"


def note(text: str) -> None:
    """Tell the user, on standard error, about something that takes a while."""
    print(f"vm: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def locked(path: Path, what: str | None = None) -> Iterator[None]:
    """
    Hold the lock of cache entry *path*. It is released when the process ends, however it ends.

    :param what: what another holder of the lock does, for the message; makes *path* if not given
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(f"waiting for another process that {what or f'makes {path.name}'}")
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def remove(path: Path) -> None:
    """Remove a file or a tree, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def prune(path: Path, pattern: str, keep: int = 2) -> None:
    """
    Remove older entries that *path* replaces. *path* itself stays.

    A checkout with other sources may still use the entry that was made before it.

    :param pattern: of names of such entries in the same directory
    :param keep: how many to leave, *path* included
    """

    def made(entry: Path) -> float:
        # Another process may remove it meanwhile.
        with contextlib.suppress(FileNotFoundError):
            return entry.stat().st_mtime
        return 0

    others = [p for p in path.parent.glob(pattern) if p != path and not p.name.startswith(".")]
    others.sort(key=made, reverse=True)
    for old in others[keep - 1 :]:
        remove(old)


def sync(path: Path) -> None:
    """Bring the file system that holds *path* to disk."""
    # One syncfs() is much cheaper than an fsync() for each of 2,000 modules.
    fd = os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), "syncfs", str(path))
    finally:
        os.close(fd)


def ensure(path: Path, make: Callable[[Path], None]) -> Path:
    """
    Get cache entry *path*, making it first if it is not there.

    :param make: called with the path of a sibling to make (a file or a directory).
        It gets its name when *make* has returned and all data is on disk.
    """
    if path.exists():
        return path
    with locked(path):
        if path.exists():
            return path
        part = path.with_name(f".{path.name}.part")
        remove(part)  # left by a killed process: we hold the lock, so no other process is making it
        try:
            make(part)
            sync(part)
            part.rename(path)
        except OSError as e:
            remove(part)
            if e.errno in (errno.ENOSPC, errno.EDQUOT):
                raise VmError(
                    f"no space left in {path.parent}: free some, or set XDG_CACHE_HOME"
                ) from e
            raise
        except BaseException:
            remove(part)
            raise
    return path


def need_space(where: Path, size: int, what: str) -> None:
    """
    Check that *size* bytes are free, before long work that would fail at its end otherwise.

    :raises VmError: if the file system of *where* has less
    """
    while not where.exists():
        where = where.parent
    free = shutil.disk_usage(where).free
    if free < size:
        raise VmError(
            f"{what} needs {size >> 20} MiB but {where} has {free >> 20} MiB free: "
            "free some, or choose another place (-o, --oracle, XDG_CACHE_HOME)"
        )
