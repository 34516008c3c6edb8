# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parts of a long walk, which different processes may read at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


class Part:
    """
    A part of a walk: some thousand records, read when they are iterated over.

    :param read: Reads the records.
    :param key: Parts with the same key share most of what they read.
    :param alone: It needs what the parts before it found: it is read when these are done.
    """

    def __init__(
        self, read: Callable[[], Iterator[Any]], key: int | None = None, *, alone: bool = False
    ) -> None:
        self._read = read
        self.key = key
        self.alone = alone

    def records(self) -> Iterator[Any]:
        """Read its records."""
        return self._read()

    def found(self) -> Any:
        """What later parts need of it, as :mod:`marshal` can write it."""

    def take(self, found: Any) -> None:
        """Take what it found in another process."""
