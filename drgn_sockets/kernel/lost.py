# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The one way to say that something cannot be read.

A function that reads one thing raises ``FaultError``. A walk over many yields a :class:`Lost` in
the place of each entry that it could not read, and goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Callable, NamedTuple, NoReturn, TypeVar

from drgn import FaultError

S = TypeVar("S")
T = TypeVar("T")

#: Follows the name of what was to be read in the message of an error.
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
        text = f"{self.what} at {self.address:#x}{CANNOT_BE_READ}"
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
    Get a value that may be a :class:`Lost`.

    :raises FaultError: if it is one
    """
    if isinstance(value, Lost):
        raise as_fault(value)
    return value


def all_there(values: Sequence[T | Lost]) -> Sequence[T]:
    """
    Get a column of values, each of which may be a :class:`Lost`.

    :raises FaultError: if one of them is
    """
    if Lost in set(map(type, values)):
        for value in values:
            there(value)
    return values  # type: ignore[return-value]


def or_lost(read: Callable[[S], T], of: S) -> T | Lost:
    """Call *read* with *of*; return a :class:`Lost` if it raises ``FaultError``."""
    try:
        return read(of)
    except FaultError as e:
        return lost_by(e)


def raise_lost(lost: Sequence[Lost]) -> None:
    """
    Raise an error for lost entries, after the entries that could be read have been used.

    :raises FaultError: if there is a lost entry
    """
    if lost:
        more = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
        error = as_fault(lost[0])
        raise FaultError(error.message + more, error.address)


def lost_in(value: object) -> Iterator[Lost]:
    """Find each :class:`Lost` in a record, in its lists, and in the records in these."""
    if isinstance(value, Lost):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from lost_in(item)


def lost_by(error: FaultError, what: str = "memory") -> Lost:
    """
    Make a :class:`Lost` from the error that a reader raised.

    :param what: What was to be read, for errors that do not say it; those of :meth:`Layout.read()
        <drgn_sockets.kernel.structs.Layout.read>` and its like do.
    """
    name, told, why = error.message.partition(CANNOT_BE_READ)
    if told:
        return Lost(name, error.address, why.removeprefix(": "))
    return Lost(what, error.address, error.message)


def as_fault(lost: Lost) -> FaultError:
    """Make the error of a reader from a lost entry."""
    why = f": {lost.why}" if lost.why else ""
    return FaultError(lost.what + CANNOT_BE_READ + why, lost.address)


def unbroken(entries: Iterable[T | Lost]) -> Iterator[T]:
    """
    Iterate over the entries of a walk that must be whole.

    :raises FaultError: at the first entry that could not be read
    """
    return map(there, entries)


def refuse(lost: Lost) -> NoReturn:
    """
    Raise the error for a lost entry: for a caller that needs a walk to be whole.

    :raises FaultError: always
    """
    raise as_fault(lost)


def present(entries: Iterable[T | Lost]) -> Iterator[T]:
    """Iterate over the entries that could be read, where the others are told in another place."""
    return (entry for entry in entries if not isinstance(entry, Lost))


def unreadable(what: str, address: int) -> FaultError:
    """Make the error of a reader: *what* at *address* cannot be read."""
    return FaultError(what + CANNOT_BE_READ, address)
