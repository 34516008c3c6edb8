# SPDX-License-Identifier: LGPL-2.1-or-later
"""The errors that end a command with one line for the user."""

from __future__ import annotations

from collections.abc import Iterable

import drgn

#: What drgn raises for data that contradict themselves; before 0.3 it had no error for that.
BAD_DATA: type[Exception] = getattr(drgn, "BadDataError", Exception)


class UserError(Exception):
    """
    An error that the user can mend: its text is one line that says what is wrong and what to do.

    The shell command prints it and exits with status 2; in the REPL it is the error of the
    command.

    :param message: The line. Newlines in it, which messages of libraries may have, become spaces.
    :param more: Further lines, printed as they are, which show the place of a mistake.
    """

    def __init__(self, message: str, *more: str) -> None:
        super().__init__("\n".join([" ".join(message.splitlines()), *more]))


def nearest(name: str, names: Iterable[str]) -> str:
    """
    Get what to append to a message about a *name* that does not exist: the nearest of *names*.

    >>> nearest("listning", ["listening", "closed"])
    "; did you mean 'listening'?"
    """
    # Imported only where there is a mistake.
    import difflib

    known = {other.lower(): other for other in names}
    near = difflib.get_close_matches(name.lower(), known, 1)
    return f"; did you mean {known[near[0]]!r}?" if near else ""
