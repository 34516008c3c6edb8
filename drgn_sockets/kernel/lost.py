# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The one way to say that something cannot be read.

A function that reads one thing raises ``FaultError``. A walk over many yields a :class:`Lost` in
the place of each entry that it could not read, and goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Callable, NamedTuple, TypeVar

from drgn import FaultError

S = TypeVar("S")
T = TypeVar("T")

#: Ends the message of an error whose beginning is what was to be read.
CANNOT_BE_READ = " cannot be read"


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


def there(value: T | Lost) -> T:
    """
    Get a value that was kept as what an entry of a walk is.

    :raises FaultError: if it could not be read
    """
    if isinstance(value, Lost):
        raise as_fault(value)
    return value


def all_there(values: Sequence[T | Lost]) -> Sequence[T]:
    """
    Get a column of such values.

    :raises FaultError: if one could not be read
    """
    if Lost in set(map(type, values)):
        for value in values:
            there(value)
    return values  # type: ignore[return-value]


def or_lost(read: Callable[[S], T], of: S) -> T | Lost:
    """Get what *read* returns of an entry of a walk, or what it could not read."""
    try:
        return read(of)
    except FaultError as e:
        return lost_by(e)


def raise_lost(lost: Sequence[Lost]) -> None:
    """
    Raise the error of what is lost, after all that could be read has been used.

    :raises FaultError: if something is
    """
    if lost:
        more = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
        error = as_fault(lost[0])
        raise FaultError(error.message + more, error.address)


def lost_in(value: object) -> Iterator[Lost]:
    """Find what is lost in a record: it may be in its lists, and in records in these."""
    if isinstance(value, Lost):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from lost_in(item)


def lost_by(error: FaultError, what: str = "memory") -> Lost:
    """
    Make an entry of a walk of the error that a reader raised.

    :param what: What was to be read; :meth:`Layout.read()
        <drgn_sockets.kernel.structs.Layout.read>` and its like say it themselves.
    """
    name, told, why = error.message.partition(CANNOT_BE_READ)
    if told:
        return Lost(name, error.address, why.removeprefix(": "))
    return Lost(what, error.address, error.message)


def as_fault(lost: Lost) -> FaultError:
    """Make of a lost entry the error of a reader."""
    why = f": {lost.why}" if lost.why else ""
    return FaultError(lost.what + CANNOT_BE_READ + why, lost.address)


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


def unreadable(what: str, address: int) -> FaultError:
    """Make the error of a reader: *what* at *address* cannot be read."""
    return FaultError(what + CANNOT_BE_READ, address)
