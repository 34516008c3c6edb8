# SPDX-License-Identifier: LGPL-2.1-or-later
"""Errors; the message of each is one line for the user."""

from __future__ import annotations


class VmError(Exception):
    """
    An error whose message says what failed and what to do.

    ``status`` is the exit status of ``python -m vm`` when this reaches it.
    """

    status = 2


class GoneError(VmError):
    """The mirror lists a package that it does not have."""


class GuestError(VmError):
    """The guest panicked, hung, or did not come up. ``console`` has its last lines."""

    status = 125

    def __init__(self, message: str, console: str = "") -> None:
        super().__init__(message)
        self.console = console


class GuestTimeoutError(GuestError):
    """A command in the guest took longer than its timeout."""

    status = 124
