# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a walk leaves out and its records cannot say: told once a command, on standard error."""

from __future__ import annotations

from drgn import Program

_KEY = "drgn_sockets.notes"


def note(prog: Program, text: str) -> None:
    """Have *text* told."""
    prog.cache.setdefault(_KEY, {})[text] = None


def take_notes(prog: Program) -> list[str]:
    """What is to be told, each once, and from now on no more."""
    return list(prog.cache.pop(_KEY, ()))
