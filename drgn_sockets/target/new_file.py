# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writing a file or a directory under a temporary name, and renaming it when it is complete."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

from drgn_sockets.errors import UserError


def check_writable(path: Path) -> None:
    """
    Check that *path* can be written, before much is read.

    :raises UserError: if it cannot
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a regular file; give another with -o")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no directory {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {path}: no permission to write in {path.parent}")


@contextlib.contextmanager
def written_beside(path: Path) -> Iterator[BinaryIO]:
    """
    A file that gets its name when it is complete, and is removed if it never is.

    :raises UserError: if the file cannot be written
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_unwinding())
        stack.callback(beside.unlink, missing_ok=True)
        try:
            # The file holds kernel addresses, so only its owner may read it, as with makedumpfile.
            file = cast(BinaryIO, open(beside, "x+b", opener=_private))  # noqa: SIM115
            stack.callback(_close, file)
            yield file
            file.flush()
            os.fsync(file.fileno())
            beside.replace(path)
        except OSError as e:
            raise UserError(f"cannot write {path}: {e.strerror or e}") from None


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


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


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
