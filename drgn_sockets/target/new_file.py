# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Writing a file or a directory that gets its name when it is complete.

Only a regular file is replaced. What a symbolic link leads to is replaced, and the link stays: as
root, a file renamed over ``/dev/stdout`` would take the link away from the whole machine.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

from drgn_sockets.errors import UserError

# What a file system without files that have no name says, or a kernel without O_TMPFILE.
_NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})


def check_writable(path: Path) -> Path:
    """
    Check that *path* can be written, before much is read.

    :return: The path of the file that is to be made or replaced: where *path*, if it is a symbolic
        link, leads to
    :raises UserError: if it cannot be written
    """
    try:
        real = path.resolve()
    except (OSError, RuntimeError):
        real = path
    if real.is_symlink():
        raise UserError(f"cannot write {path}: it is a link that leads to itself")
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a regular file; give another with -o")
    if path.is_file() and (not real.is_file() or not path.samefile(real)):
        # /dev/fd/3 of a file that was removed.
        raise UserError(f"{path} is a file without a name; give another with -o")
    if real.is_file() and any(_is_open_as(real, fd) for fd in (1, 2)):
        raise UserError(f"{path} is where the messages of this command go; give another with -o")
    if not real.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no directory {real.parent}")
    if not os.access(real.parent, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {path}: no permission to write in {real.parent}")
    return real


def _is_open_as(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False


@contextlib.contextmanager
def written_beside(path: Path) -> Iterator[BinaryIO]:
    """
    A file that gets its name when it is complete, and does not remain if it never is.

    :param path: As :func:`check_writable` returned it
    :raises UserError: if the file cannot be written
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_unwinding())
        stack.callback(beside.unlink, missing_ok=True)
        try:
            fd, has_name = _open_new(beside)
            file = cast(BinaryIO, os.fdopen(fd, "w+b"))
            stack.callback(_close, file)
            yield file
            file.flush()
            os.fsync(fd)
            if not has_name:
                # linkat() replaces no file, so the file has this name for a moment.
                os.link(f"/proc/self/fd/{fd}", beside, src_dir_fd=fd, follow_symlinks=True)
            beside.replace(path)
        except OSError as e:
            raise UserError(f"cannot write {path}: {e.strerror or e}") from None


def _open_new(beside: Path) -> tuple[int, bool]:
    """
    Open a new file, if possible one without a name: nothing is left of it if we are killed.

    :return: The fd, and whether the file has a name
    """
    # The file holds kernel addresses, so only its owner may read it, as with makedumpfile.
    flags, mode = os.O_RDWR | os.O_CLOEXEC, 0o600
    if Path("/proc/self/fd").is_dir():
        try:
            return os.open(beside.parent, flags | os.O_TMPFILE, mode), False
        except OSError as e:
            if e.errno not in _NO_TMPFILE:
                raise
    return os.open(beside, flags | os.O_CREAT | os.O_EXCL, mode), True


@contextlib.contextmanager
def directory_beside(path: Path) -> Iterator[Path]:
    """
    A directory that gets its name when it is complete, and is removed if it never is.

    :raises UserError: if *path* exists and is not an empty directory, or cannot be written
    """
    try:
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise UserError(f"{path} is not a directory; give another with -o")
        if path.exists() and any(path.iterdir()):
            raise UserError(f"{path} is there, and not empty; give another with -o")
        if path.is_mount():
            raise UserError(f"{path} is a mount point; give a directory in it with -o")
    except OSError as e:
        raise UserError(f"cannot write {path}: {e.strerror or e}") from None
    path = path.absolute()
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_unwinding())
        try:
            # The directory holds kernel addresses too, so only its owner may read it.
            beside.mkdir(mode=0o700)
            stack.callback(shutil.rmtree, beside, ignore_errors=True)
            yield beside
            beside.rename(path)
        except OSError as e:
            raise UserError(f"cannot write {path}: {e.strerror or e}") from None


def _close(file: BinaryIO) -> None:
    # Closing writes what is buffered, and would report a full disk a second time.
    with contextlib.suppress(OSError):
        file.close()


@contextlib.contextmanager
def _unwinding() -> Iterator[None]:
    """Have signals raise :exc:`SystemExit`, so that cleanups run before they end the process."""

    def end(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    plain = [s for s in signals if signal.getsignal(s) is signal.SIG_DFL]
    for s in plain:
        signal.signal(s, end)
    try:
        yield
    finally:
        for s in plain:
            signal.signal(s, signal.SIG_DFL)
