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
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from drgn_sockets.records.parts import Part

# More would wait for each other's memory, and for the one that writes.
_MOST = 4
# Room in a pipe for the lines of a part, so that its process goes on with the next.
_PIPE = 1 << 20
# include/uapi/linux/fcntl.h; fcntl has it since Python 3.10.
_F_SETPIPE_SZ = 1031


def processors() -> int:
    """How many processes are worthwhile."""
    return min(len(os.sched_getaffinity(0)), _MOST)


def fan_out(parts: Sequence[Part], make: Callable[[Part], Any], processes: int) -> Iterator[Any]:
    """
    Make something of each of *parts*.

    :param make: Makes it, of what :mod:`marshal` can write.
    :param processes: How many work, this one among them.
    :return: Iterator of what was made, in the order of *parts*
    """
    worker = [
        0 if part.alone else (i if part.key is None else part.key) % processes
        for i, part in enumerate(parts)
    ]
    pipes: dict[int, tuple[int, BinaryIO]] = {}
    try:
        for n in sorted(set(worker) - {0}):
            mine = [part for part, w in zip(parts, worker) if w == n]
            pipes[n] = _start(mine, make, [pipe for _, pipe in pipes.values()])
        for part, n in zip(parts, worker):
            received = _receive(pipes[n][1]) if n in pipes else None
            if received is None:
                yield make(part)
            else:
                made, found = received
                part.take(found)
                yield made
    finally:
        for pid, pipe in pipes.values():
            # One that is still at it finds that nobody listens any more.
            pipe.close()
            os.waitpid(pid, 0)


def _start(
    parts: Sequence[Part], make: Callable[[Part], Any], others: Sequence[BinaryIO]
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
        with os.fdopen(write, "wb") as out:
            for part in parts:
                marshal.dump((make(part), part.found()), out)
                out.flush()
        status = 0
    finally:
        # Whatever it was: who started us reads it again and says so. Nothing of what is open
        # here, buffered output above all, is ours.
        os._exit(status)


def _receive(pipe: BinaryIO) -> tuple[Any, Any] | None:
    try:
        made, found = marshal.load(pipe)
    except (EOFError, ValueError, TypeError):
        return None
    return made, found
