# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Reads the parts of a walk in several processes and returns the results in order.

Reading kernel memory is work for the processor: it inflates pages, decodes and formats, and Python
does that on one processor. A forked process has the program open and the types resolved; it reads
its parts and sends the results. If a process fails or is killed, this process reads the parts
again, so the results do not depend on the number of processes.
"""

from __future__ import annotations

import fcntl
import marshal
import os
from collections.abc import Callable, Generator, Sequence
from typing import Any, BinaryIO, TypeVar

T = TypeVar("T")


_KCORE = "/proc/kcore"
# More processes would wait for memory, and for the process that writes the output.
_MOST = 4
# A pipe has room for the lines of a part, so that a process can start with its next part.
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
    Call a function with each of *items*, in several processes.

    :param make: The function; it returns what :mod:`marshal` can write.
    :param processes: The number of processes, this one included.
    :param worker: Returns the number of the process for an item, which is taken modulo
        *processes*. Process 0 is this one: it makes an item once the items before it are made.
    :return: Iterator of the results, in the order of *items*
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
            # Closing the pipe ends a process that is still writing to it.
            pipe.close()
            os.waitpid(pid, 0)


def _start(
    items: Sequence[T], make: Callable[[T], Any], others: Sequence[BinaryIO]
) -> tuple[int, BinaryIO]:
    read, write = os.pipe()
    try:
        fcntl.fcntl(write, _F_SETPIPE_SZ, _PIPE)
    except OSError:
        # The system's limit for pipes is lower. A smaller pipe works, too.
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
        # After any error, the parent makes the items again and reports the error. _exit() leaves
        # the parent's open files alone, above all its buffered output.
        os._exit(status)


def _open_kcore_anew() -> None:
    # fs/proc/kcore.c copies through a page that belongs to the open file, without a lock. If two
    # processes read from the same open file at once, each may get the data of the other.
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            if os.readlink(f"/proc/self/fd/{name}") != _KCORE:  # noqa: PTH115
                continue
        except FileNotFoundError:
            # This fd was the one of listdir() itself.
            continue
        fresh = os.open(_KCORE, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(fresh, int(name), inheritable=False)
        os.close(fresh)


def _receive(pipe: BinaryIO) -> Any:
    try:
        return marshal.load(pipe)
    except (EOFError, ValueError, TypeError):
        return None
