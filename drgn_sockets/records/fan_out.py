# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Reading parts of a walk in several processes, and having what they made in order.

Reading kernel memory waits for nothing: it inflates pages, decodes and formats, and Python does
that on one processor. Forked processes have the program open and the types resolved, so each
does its parts and sends what came of them. Where one fails or is killed, its parts are done
here: what comes out does not depend on how many there are.
"""

from __future__ import annotations

import fcntl
import marshal
import os
from collections.abc import Callable, Generator, Sequence
from typing import Any, BinaryIO, TypeVar

T = TypeVar("T")


_KCORE = "/proc/kcore"
# More would wait for each other's memory, and for the one that writes.
_MOST = 4
# Room in a pipe for the lines of a part, so that its process goes on with the next.
_PIPE = 1 << 20
# include/uapi/linux/fcntl.h; fcntl has it since Python 3.10.
_F_SETPIPE_SZ = 1031


def processors() -> int:
    """How many processes are worthwhile."""
    return min(len(os.sched_getaffinity(0)), _MOST)


def fan_out(
    items: Sequence[T],
    make: Callable[[T], Any],
    processes: int,
    worker: Callable[[int, T], int] = lambda i, item: i,
) -> Generator[Any, None, None]:
    """
    Make something of each of *items*.

    :param make: Makes it, of what :mod:`marshal` can write.
    :param processes: How many work, this one among them.
    :param worker: Which of them is for an item, modulo *processes*; 0 is this one, which comes
        to an item when all before it are made.
    :return: Iterator of what was made, in the order of *items*
    """
    workers = [worker(i, item) % processes for i, item in enumerate(items)]
    pipes: dict[int, tuple[int, BinaryIO]] = {}
    try:
        for n in sorted(set(workers) - {0}):
            mine = [item for item, w in zip(items, workers) if w == n]
            pipes[n] = _start(mine, make, [pipe for _, pipe in pipes.values()])
        for item, n in zip(items, workers):
            made = _receive(pipes[n][1]) if n in pipes else None
            yield make(item) if made is None else made
    finally:
        for pid, pipe in pipes.values():
            # One that is still at it finds that nobody listens any more.
            pipe.close()
            os.waitpid(pid, 0)


def _start(
    items: Sequence[T], make: Callable[[T], Any], others: Sequence[BinaryIO]
) -> tuple[int, BinaryIO]:
    read, write = os.pipe()
    try:
        fcntl.fcntl(write, _F_SETPIPE_SZ, _PIPE)
    except OSError:
        # A limit of the system's; it works with less.
        pass
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, os.fdopen(read, "rb")
    status = 1
    try:
        os.close(read)
        for pipe in others:
            os.close(pipe.fileno())
        _open_kcore_anew()
        with os.fdopen(write, "wb") as out:
            for item in items:
                marshal.dump(make(item), out)
                out.flush()
        status = 0
    finally:
        # Whatever it was: who started us makes it again and says so. Nothing of what is open
        # here, buffered output above all, is ours.
        os._exit(status)


def _open_kcore_anew() -> None:
    # fs/proc/kcore.c copies through a page that belongs to the open file, and takes no lock: of
    # two processes that read at once from the same one, each may get what the other asked for.
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            if os.readlink(f"/proc/self/fd/{name}") != _KCORE:  # noqa: PTH115
                continue
        except FileNotFoundError:
            # That of the listing itself.
            continue
        fresh = os.open(_KCORE, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(fresh, int(name), inheritable=False)
        os.close(fresh)


def _receive(pipe: BinaryIO) -> Any:
    try:
        return marshal.load(pipe)
    except (EOFError, ValueError, TypeError):
        return None
