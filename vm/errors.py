# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can go wrong, as one line for a person each."""

from __future__ import annotations


class VmError(Exception):
    """
    Something that stops us, with a message that says why and what to do.

    ``status`` is the exit status of ``python -m vm`` when this reaches it.
    """

    status = 2


class GoneError(VmError):
    """The mirror lists a package but does not have it (any more)."""


class GuestError(VmError):
    """The guest panicked, hung, or never came up; ``console`` holds its last lines."""

    status = 125

    def __init__(self, message: str, console: str = "") -> None:
        super().__init__(message)
        self.console = console


class GuestTimeoutError(GuestError):
    """A command in the guest took longer than it was given."""

    status = 124
