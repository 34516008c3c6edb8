# SPDX-License-Identifier: LGPL-2.1-or-later
"""The commands: one file each."""

from __future__ import annotations

from drgn_sockets.commands.base import Command
from drgn_sockets.commands.check import Check
from drgn_sockets.commands.distill import Distill
from drgn_sockets.commands.fds import Fds
from drgn_sockets.commands.peer import Peer
from drgn_sockets.commands.ss import Ss
from drgn_sockets.commands.tcp import Tcp

_READERS: tuple[Command, ...] = (Fds(), Ss(), Peer(), Tcp(), Check())

COMMANDS: tuple[Command, ...] = (*_READERS, Distill(_READERS))
