# SPDX-License-Identifier: LGPL-2.1-or-later
"""What one command could not read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TextIO, Union

from drgn import FaultError

from drgn_sockets.kernel.lost import Lost, lost_by
from drgn_sockets.messages import tell

#: A loss: an entry of a walk, the error that a reader raised, or words.
Loss = Union[Lost, FaultError, str]

# A core that lacks a whole kind of memory would fill the terminal without this limit.
_LINES = 20


class Losses:
    """
    Collects what a command could not read.

    The command makes one and hands it to whatever reads. At the end, each loss is one line on
    standard error, and the exit status is 1 if there are any::

        losses = Losses()
        for task in sift(for_each_task(prog), losses.lose):
            ...
        losses.tell(sys.stderr)
        return TOLD if losses else OK
    """

    def __init__(self) -> None:
        # The lines, each once, in the order in which they came, and whether a line is a loss.
        self._lines: dict[str, bool] = {}

    def __bool__(self) -> bool:
        """Whether there is a loss."""
        return any(self._lines.values())

    def count(self) -> int:
        """The number of losses."""
        return sum(self._lines.values())

    def lose(self, loss: Loss, where: str = "") -> str:
        """
        Keep a loss.

        :param where: Where the value is missing, ``pid 105 fd 3``.
        :return: The loss in words, without *where*, for the ``error`` of a row
        """
        words = in_words(loss)
        self._lines[f"{where}: {words}" if where else words] = True
        return words

    def remark(self, text: str) -> None:
        """Add a line that is no loss: that the types of a module are not known, say."""
        self._lines.setdefault(text, False)

    def sent(self) -> dict[str, bool]:
        """What a worker process sends to the process that started it, for :meth:`take`."""
        return self._lines

    def take(self, sent: Mapping[str, bool]) -> None:
        """Add what a worker process lost."""
        self._lines.update(sent)

    def tell(self, out: TextIO) -> None:
        """Write the lines; if there are very many, the first ones and the number of the others."""
        lines = list(self._lines)
        more = len(lines) - _LINES
        for line in lines[:_LINES]:
            tell(line, out)
        if more > 0:
            tell(f"and {more} more that cannot be read", out)


def in_words(loss: Loss) -> str:
    """
    Put a loss into words.

    >>> in_words(FaultError("struct inode cannot be read", 0xFFFF888003A4B000))
    'struct inode at 0xffff888003a4b000 cannot be read'
    """
    return str(lost_by(loss)) if isinstance(loss, FaultError) else str(loss)
