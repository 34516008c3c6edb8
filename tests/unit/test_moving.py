# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a live kernel changes while it is read: is damage told, and nothing else?"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Callable, NamedTuple

import pytest
from drgn import FaultError, ProgramFlags

from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.moving import LOOKS, stands
from drgn_sockets.records.columns import Column
from drgn_sockets.records.losses import Losses
from drgn_sockets.records.parts import Batch
from drgn_sockets.views.columns import rows_maker


class _Live:
    flags = ProgramFlags.IS_LIVE


class _Core:
    flags = ProgramFlags(0)


def _walk(looks: list[list[Lost]]) -> Callable[[Callable[[Lost], object]], int]:
    def look(lose: Callable[[Lost], object]) -> int:
        for lost in looks.pop(0):
            lose(lost)
        return len(looks)

    return look


ONE, OTHER = Lost("struct file", 1), Lost("struct file", 2)


@pytest.mark.parametrize(
    ("looks", "told", "left"),
    [
        ([[]], [], 0),
        ([[ONE], []], [], 0),
        # Another loss in each look is movement.
        ([[ONE], [OTHER], [ONE]], [], 1),
        ([[ONE, OTHER], [ONE], [ONE, OTHER]], [ONE], 0),
    ],
)
def test_a_loss_counts_that_stands(looks: Any, told: Any, left: int) -> None:
    lost: list[Lost] = []
    prog: Any = _Live
    assert stands(prog, _walk(looks), lost.append) == left
    assert lost == told


def test_a_core_is_looked_at_once() -> None:
    lost: list[Lost] = []
    prog: Any = _Core
    assert stands(prog, _walk([[ONE], []]), lost.append) == 1
    assert lost == [ONE]


class _Row(NamedTuple):
    name: str
    bad: bool = False
    error: str | None = None

    @property
    def where(self) -> str:
        return self.name


class _Moving(Batch):
    """
    Rows, and what they are in later looks.

    :param looks: By name of a row: what it is at each look, ``None`` if it is gone. It has moved
        when the next look is something else.
    """

    def __init__(self, names: Sequence[str], looks: dict[str, list[_Row | None]], at: int) -> None:
        super().__init__([looks[name][at] for name in names])
        self._names, self._looks, self._at = names, looks, at

    @property
    def is_live(self) -> bool:
        return True

    def moved(self) -> Collection[int]:
        nexts = ((i, self._looks[name][self._at + 1]) for i, name in enumerate(self._names))
        return [i for i, row in nexts if row != self._records[i]]

    def again(self, indices: Sequence[int]) -> Iterator[tuple[Batch, Sequence[int]]]:
        at = self._at + 1
        there = [i for i in indices if self._looks[self._names[i]][at] is not None]
        yield _Moving([self._names[i] for i in there], self._looks, at), there


def _name(row: _Row) -> str:
    if row.bad:
        raise FaultError("struct inode cannot be read", 0x1000)
    return row.name


def _shown(passes: Callable[[Any], bool] | None = None, **looks: list[_Row | None]) -> Any:
    losses = Losses()
    make = rows_maker([Column("name", "", _name)], losses)
    batch = _Moving(list(looks), looks, 0)
    batch.passes = passes
    return [cell for (cell,) in make(batch)], list(losses.sent())


def test_rows_that_move_are_read_again_and_damage_is_told() -> None:
    still: list[_Row | None] = [_Row("still")] * 4
    assert _shown(a=still) == (["still"], [])
    # Freed, or used for something else, after it was read.
    assert _shown(a=still, b=[_Row("old"), None], c=still) == (["still", "still"], [])
    new: list[_Row | None] = [_Row("old"), _Row("new"), _Row("new")]
    assert _shown(a=new, b=still) == (["new", "still"], [])
    # It never rests: nothing of it is sure.
    assert LOOKS == 3
    restless: list[_Row | None] = [_Row(str(i)) for i in range(4)]
    assert _shown(a=restless, b=still) == (["still"], [])
    # What cannot be read of a structure that is gone is no damage; what stands is.
    gone: list[_Row | None] = [_Row("a", bad=True), None]
    assert _shown(a=gone, b=still) == (["still"], [])
    bad: list[_Row | None] = [_Row("a", bad=True)] * 4
    told = ["a: struct inode at 0x1000 cannot be read"]
    assert _shown(a=bad, b=still) == (["?", "still"], told)
    own: list[_Row | None] = [_Row("a", error="struct file is bad")] * 4
    assert _shown(a=own) == (["a"], ["a: struct file is bad"])
    # Readable at the second look.
    healed: list[_Row | None] = [_Row("a", bad=True), _Row("a"), _Row("a")]
    assert _shown(a=healed) == (["a"], [])


def test_what_is_read_again_is_chosen_again() -> None:
    new: list[_Row | None] = [_Row("old"), _Row("new"), _Row("new")]
    assert _shown(lambda row: row.name == "old", a=new) == ([], [])
