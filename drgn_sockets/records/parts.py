# SPDX-License-Identifier: LGPL-2.1-or-later
"""Batches of records, and parts of a long walk. Different processes may read different parts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from drgn_sockets.kernel.moving import LOOKS


class Batch:
    """
    Records of one class that were read together.

    A derived class may keep their values as columns and make records when they are asked for.
    """

    #: Tells whether a record is to be shown; ``None`` if all are.
    passes: Callable[[Any], bool] | None = None

    def __init__(self, records: Sequence[Any]) -> None:
        self._records = records

    @property
    def cls(self) -> type:
        """The class of the records."""
        return type(self._records[0]) if self._records else object

    def __len__(self) -> int:
        return len(self._records)

    def records(self) -> Sequence[Any]:
        """The records."""
        return self._records

    def errors(self) -> int:
        """The number of records that could not be read."""
        return sum(getattr(record, "error", None) is not None for record in self._records)

    @property
    def is_live(self) -> bool:
        """Whether it is of a live kernel, and can read its records again."""
        return False

    @property
    def looks(self) -> int:
        """How often its records may be read, until they stand."""
        return LOOKS if self.is_live else 1

    def moved(self) -> Collection[int]:
        """
        Which records are no longer what was read, after all that is shown of them was read.

        On a live kernel this reads again what leads to them: file tables, and the pointers from
        a file to its inode and from a socket to its inode.

        :return: Their indices
        """
        return ()

    def again(self, indices: Sequence[int]) -> Iterator[tuple[Batch, Sequence[int]]]:
        """
        Read records of a live kernel again, from what leads to them.

        :return: Iterator of batches, each with the index in this batch of each of its records. What
            nothing leads to any more is in none of them.
        """
        return iter(())

    def select(self, indices: Sequence[int]) -> Batch:
        """A batch of the records at *indices*."""
        return Batch([self._records[i] for i in indices])


class Part:
    """
    A part of a walk: some thousand records, which are read when they are iterated over.

    :param read: Reads the records.
    :param key: Parts with the same key share most of what they read.
    :param alone: Read this part after all parts before it, because it needs what they found.
    """

    def __init__(
        self, read: Callable[[], Iterator[Batch]], key: int | None = None, *, alone: bool = False
    ) -> None:
        self._read = read
        self.key = key
        self.alone = alone

    def batches(self) -> Iterator[Batch]:
        """Read the records, in batches."""
        return self._read()

    def records(self) -> Iterator[Any]:
        """Read the records one by one."""
        for batch in self.batches():
            yield from batch.records()

    def found(self) -> Any:
        """What this part found for later parts, as a value that :mod:`marshal` can write."""

    def take(self, found: Any) -> None:
        """Keep what :meth:`found` returned in the process that read this part."""
