# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The one way to say that something cannot be read.

A function that reads one thing raises ``FaultError``. A walk over many yields a :class:`Lost` in
the place of each entry that it could not read, and goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Callable, TypeVar

from drgn import FaultError

from drgn_sockets.named_tuple import NamedTuple

T = TypeVar("T")


class Lost(NamedTuple):
    """
    An entry of a walk that could not be read, or the rest of a list after a broken link.

    >>> str(Lost("struct file", 0xffff888003a4b000, "no memory there"))
    'struct file at 0xffff888003a4b000 cannot be read: no memory there'
    """

    #: C type or list: ``struct file``, ``list of mounts``.
    what: str
    #: Where it should be.
    address: int
    #: Why, if more is known than that the address cannot be read.
    why: str = ""

    def __str__(self) -> str:
        text = f"{self.what} at {self.address:#x} cannot be read"
        return f"{text}: {self.why}" if self.why else text


def sift(entries: Iterable[T | Lost], lose: Callable[[Lost], object]) -> Iterator[T]:
    """
    Iterate over the entries of a walk that could be read.

    :param lose: Called with each of the others.
    """
    for entry in entries:
        if isinstance(entry, Lost):
            lose(entry)
        else:
            yield entry


def lost_by(error: FaultError, what: str) -> Lost:
    """Make an entry of a walk of the error that a reader raised."""
    return Lost(what, error.address, error.message)


def as_fault(lost: Lost) -> FaultError:
    """Make of a lost entry the error of a reader."""
    return FaultError(lost.why or f"{lost.what} cannot be read", lost.address)


def unbroken(entries: Iterable[T | Lost]) -> Iterator[T]:
    """
    Iterate over the entries of a walk that must be whole.

    :raises FaultError: at the first entry that could not be read
    """
    for entry in entries:
        if isinstance(entry, Lost):
            raise as_fault(entry)
        yield entry


def untold(lost: Lost) -> None:
    """Pass to :func:`sift` where what is lost is not told of."""
