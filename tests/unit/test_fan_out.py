# SPDX-License-Identifier: LGPL-2.1-or-later
"""Does the same come out, however many processes work and whatever becomes of them?"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from drgn_sockets.records.fan_out import fan_out, processors

ITEMS = list(range(23))
ME = os.getpid()


def no_children() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 40])
def test_in_order(processes: int) -> None:
    made = list(fan_out(ITEMS, lambda i: (i, "x" * i * 5000, os.getpid()), processes))
    assert [i for i, _, _ in made] == ITEMS
    assert all(len(text) == i * 5000 for i, text, _ in made)
    assert len({pid for _, _, pid in made}) == min(processes, len(ITEMS))
    assert no_children()


def test_who_does_what() -> None:
    made = list(fan_out(ITEMS, lambda i: os.getpid(), 3, lambda position, i: 0 if i > 9 else i))
    assert made[0] == made[3] == made[9] == ME
    assert set(made[10:]) == {ME}
    assert made[1] == made[4] == made[7] != made[2] == made[5] == made[8] != ME


@pytest.mark.parametrize(
    "value", ["\udc80\ud800 \x00", b"\xff\x00", [1 << 70, -1, None, (True, 2.5)]]
)
def test_what_is_sent_comes_out(value: Any) -> None:
    assert list(fan_out([0, 1], lambda i: value, 2)) == [value, value]


@pytest.mark.parametrize("end", ["killed", "raises", "exits", "cannot be sent"])
def test_a_process_that_does_not_finish(end: str) -> None:
    def make(i: int) -> Any:
        if os.getpid() != ME and i == 7:
            if end == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if end == "raises":
                raise RuntimeError
            if end == "exits":
                os._exit(3)
            return object()
        return i

    assert list(fan_out(ITEMS, make, 2)) == ITEMS
    assert no_children()


def test_what_fails_here_too(capfd: pytest.CaptureFixture[str]) -> None:
    def make(i: int) -> int:
        if i == 5:
            raise LookupError("five")
        return i

    made = fan_out(ITEMS, make, 4)
    assert [next(made) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(LookupError, match="five"):
        next(made)
    assert no_children()
    # Not a word from the others.
    assert capfd.readouterr() == ("", "")


def test_nobody_wants_the_rest() -> None:
    # As when output ends early (| head): the others must not go on for ever.
    began = time.monotonic()
    made = fan_out(range(100000), lambda i: "x" * 100000, 3)
    assert next(made)
    made.close()
    assert no_children()
    assert time.monotonic() - began < 30


def test_nothing_to_do() -> None:
    assert list(fan_out([], lambda i: i, 4)) == []
    assert 1 <= processors() <= 4
