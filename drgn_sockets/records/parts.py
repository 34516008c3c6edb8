# SPDX-License-Identifier: LGPL-2.1-or-later
"""Batches of records, and parts of a long walk, which different processes may read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any


class Batch:
    """
    Records of one class that were read together.

    A derived class may have their values as columns, and make records only when asked.
    """

    def __init__(self, records: Sequence[Any]) -> None:
        self._records = records

    @property
    def cls(self) -> type:
        """Class of the records."""
        return type(self._records[0]) if self._records else object

    def __len__(self) -> int:
        return len(self._records)

    def records(self) -> Sequence[Any]:
        """The records."""
        return self._records

    def errors(self) -> int:
        """How many of them could not be read."""
        return sum(getattr(record, "error", None) is not None for record in self._records)

    def select(self, indices: Sequence[int]) -> Batch:
        """Some of them."""
        return Batch([self._records[i] for i in indices])


class Part:
    """
    A part of a walk: some thousand records, read when they are iterated over.

    :param read: Reads the records.
    :param key: Parts with the same key share most of what they read.
    :param alone: It needs what the parts before it found: it is read when these are done.
    """

    def __init__(
        self, read: Callable[[], Iterator[Batch]], key: int | None = None, *, alone: bool = False
    ) -> None:
        self._read = read
        self.key = key
        self.alone = alone

    def batches(self) -> Iterator[Batch]:
        """Read its records."""
        return self._read()

    def records(self) -> Iterator[Any]:
        """The same, one by one."""
        for batch in self.batches():
            yield from batch.records()

    def found(self) -> Any:
        """What later parts need of it, as :mod:`marshal` can write it."""

    def take(self, found: Any) -> None:
        """Take what it found in another process."""
