# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is remembered of a :class:`drgn.Program`, and which machine a program is of."""

from __future__ import annotations

import functools
import math
import time
from typing import Any, Callable, TypeVar, cast

from drgn import PlatformFlags, Program, ProgramFlags

F = TypeVar("F", bound=Callable[..., Any])

#: Key in ``prog.cache`` of a core with segments that are longer in memory than in the file: so
#: makedumpfile -E leaves out pages. They read as zeros, whether they were zero or are of a kind
#: that was left out.
HOLES = "drgn_sockets.holes"

# How long what was read of a live kernel is taken for what there is.
_LIVE_S = 1.0


def is_live(prog: Program) -> bool:
    """Whether memory of *prog* changes while it is read."""
    return bool(prog.flags & ProgramFlags.IS_LIVE)


def is_running_kernel(prog: Program) -> bool:
    """Whether *prog* is the kernel that this process runs on: that of ``/proc/kcore``."""
    running = ProgramFlags.IS_LIVE | ProgramFlags.IS_LOCAL
    return bool(prog.flags & running == running)


def _key(function: Callable[..., Any]) -> str:
    """Where in ``prog.cache`` the results of a function are: by its arguments."""
    return f"{function.__module__}.{function.__qualname__}"


def once_per_program(function: F) -> F:
    """
    Remember what a function of a program, and of arguments that can be hashed, returns.

    An error that the function raises is not remembered.

    >>> @once_per_program
    ... def page_size(prog: Program) -> int:
    ...     print("looking it up")
    ...     return prog["PAGE_SIZE"].value_()
    >>> page_size(prog), page_size(prog)
    looking it up
    (4096, 4096)
    """
    key = _key(function)

    @functools.wraps(function)
    def remembering(prog: Program, *args: Any) -> Any:
        try:
            return prog.cache[key][args]
        except KeyError:
            pass
        found = function(prog, *args)
        prog.cache.setdefault(key, {})[args] = found
        return found

    return cast(F, remembering)


def once_per_second(function: F) -> F:
    """
    Remember what a function reads: of a core as :func:`once_per_program`, of a live program for a
    second.
    """
    key = _key(function)

    @functools.wraps(function)
    def remembering(prog: Program, *args: Any) -> Any:
        until, known = prog.cache.get(key, (-math.inf, {}))
        if until < time.monotonic():
            known = {}
            prog.cache[key] = (time.monotonic() + _LIVE_S if is_live(prog) else math.inf, known)
        if args not in known:
            known[args] = function(prog, *args)
        return known[args]

    return cast(F, remembering)


def forget(prog: Program, function: Callable[..., Any]) -> None:
    """Have a remembering function read anew."""
    prog.cache.pop(_key(function), None)


@once_per_program
def byte_order(prog: Program) -> str:
    """``"<"`` or ``">"``, as :mod:`struct` wants it; ``"<"`` for a program without a platform."""
    platform = prog.platform
    return "<" if platform is None or platform.flags & PlatformFlags.IS_LITTLE_ENDIAN else ">"
