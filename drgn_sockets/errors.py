# SPDX-License-Identifier: LGPL-2.1-or-later
"""The errors that end a command with one line for the user."""

from __future__ import annotations


class UserError(Exception):
    """
    Something the user can mend: its text is one line that says what is wrong and what to do.

    The shell command prints it and exits with status 2; in the REPL it is the error of the
    command.
    """
