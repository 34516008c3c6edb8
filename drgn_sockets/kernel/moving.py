# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a live kernel changes while it is read.

What leads to a structure may be freed, and used again, between two reads. So a loss on a live
kernel counts only if it stands over :data:`LOOKS` looks, each from the root that leads to what is
lost: a task, a file table, a hash table. What was freed meanwhile is no damage. In the same way a
row is shown only if, after all of it was read, its root still leads to it.

Walks use :func:`stands`. Rows are read again by their batch, see
:meth:`~drgn_sockets.records.parts.Batch.moved`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from drgn import Program

from drgn_sockets.kernel.lost import Lost
from drgn_sockets.program import is_live

T = TypeVar("T")

#: How often a live kernel is looked at before a loss counts.
LOOKS = 3


def stands(
    prog: Program,
    look: Callable[[Callable[[Lost], object]], T],
    lose: Callable[[Lost], object],
) -> T:
    """
    Walk, and on a live kernel walk again if something was lost.

    :param look: The walk. It calls its argument with what it could not read.
    :param lose: Called with what could not be read in any of the looks.
    :return: What the last walk returned
    """
    lost: list[Lost] = []
    found = look(lost.append)
    for _ in range(LOOKS - 1 if is_live(prog) else 0):
        if not lost:
            break
        again: list[Lost] = []
        found = look(again.append)
        lost = [one for one in lost if one in again]
    for one in lost:
        lose(one)
    return found
