# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The commands: one file each, and a line each in :mod:`drgn_sockets.commands.registry`.

A command is imported when it is called.
"""

from __future__ import annotations

import functools
from importlib import import_module
from typing import TYPE_CHECKING

from drgn_sockets.commands.registry import REGISTRY, entry_of

if TYPE_CHECKING:
    from drgn_sockets.commands.base import Command


@functools.lru_cache(None)
def command(name: str) -> Command:
    """
    Get a command, importing its module.

    :raises KeyError: if there is no command of that name
    """
    module, _, cls = entry_of(name).place.partition(":")
    made: Command = getattr(import_module(module), cls)()
    return made


def all_commands() -> list[Command]:
    """Get all commands, importing their modules."""
    return [command(entry.name) for entry in REGISTRY]
