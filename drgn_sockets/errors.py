# SPDX-License-Identifier: LGPL-2.1-or-later
"""The errors that end a command with one line for the user."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """
    Something the user can mend: its text is one line that says what is wrong and what to do.

    The shell command prints it and exits with status 2; in the REPL it is the error of the
    command.

    :param message: The line; of a text of several, which libraries' messages may be, one is made.
    :param more: Lines that show the place, as they are.
    """

    def __init__(self, message: str, *more: str) -> None:
        super().__init__("\n".join([" ".join(message.splitlines()), *more]))


def nearest(name: str, names: Iterable[str]) -> str:
    """What to append to a message about a *name* that is none of *names*: the nearest of them."""
    # It is imported by nobody who makes no mistakes.
    import difflib

    known = {other.lower(): other for other in names}
    near = difflib.get_close_matches(name.lower(), known, 1)
    return f"; did you mean {known[near[0]]!r}?" if near else ""
