# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is a result remembered for its program and arguments, and as long as it holds?"""

from __future__ import annotations

from typing import Any

import pytest
from drgn import Program, ProgramFlags

from drgn_sockets.program import (
    forget,
    is_live,
    is_running_kernel,
    once_per_program,
    once_per_second,
)


class LiveProgram:
    """A program that says that it is live."""

    def __init__(self, flags: ProgramFlags = ProgramFlags.IS_LIVE) -> None:
        self.flags = flags
        self.cache: dict[Any, Any] = {}


calls: list[tuple[Any, ...]] = []


@once_per_program
def looked_up(prog: Program, *args: int) -> int | None:
    calls.append(args)
    if args == (13,):
        raise LookupError
    return None if args == (0,) else sum(args)


@once_per_second
def read(prog: Program, number: int) -> int:
    calls.append((number,))
    return number + len(calls)


@pytest.fixture(autouse=True)
def no_calls() -> None:
    calls.clear()


def test_once_for_each_program_and_arguments() -> None:
    one, another = Program(), Program()
    for _ in range(2):
        assert looked_up(one, 1, 2) == 3
        assert looked_up(one, 0) is None
        assert looked_up(one) == 0
    assert calls == [(1, 2), (0,), ()]
    assert looked_up(another, 1, 2) == 3
    assert len(calls) == 4
    forget(one, looked_up)
    assert looked_up(one) == 0
    assert len(calls) == 5


def test_an_error_is_not_remembered() -> None:
    prog = Program()
    for _ in range(2):
        with pytest.raises(LookupError):
            looked_up(prog, 13)
    assert calls == [(13,), (13,)]


def test_a_live_kernel_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    live: Any = LiveProgram()
    core = Program()
    assert (read(live, 1), read(live, 1), read(live, 2)) == (2, 2, 4)
    assert (read(core, 1), read(core, 1)) == (4, 4)
    now += 1.5
    assert (read(live, 1), read(core, 1)) == (5, 4)
    forget(core, read)
    assert read(core, 1) == 6


def test_which_machine_it_is() -> None:
    live: Any = LiveProgram()
    assert is_live(live) and not is_running_kernel(live)
    here: Any = LiveProgram(ProgramFlags.IS_LIVE | ProgramFlags.IS_LOCAL)
    assert is_live(here) and is_running_kernel(here)
    assert not is_live(Program()) and not is_running_kernel(Program())
