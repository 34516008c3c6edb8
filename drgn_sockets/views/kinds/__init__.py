# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The kinds of files: one module each, with its structures, what lsfd has of it, and its lines in
``/proc/PID/fdinfo``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from drgn import Program

from drgn_sockets.kernel.dcache import symbol_name
from drgn_sockets.kernel.memory import UNREADABLE
from drgn_sockets.kernel.module import find_module, module_symbol
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.views.kinds.base import Field, Kind
from drgn_sockets.views.kinds.eventfd import Eventfd
from drgn_sockets.views.kinds.eventpoll import Eventpoll
from drgn_sockets.views.kinds.fanotify import Fanotify
from drgn_sockets.views.kinds.inotify import Inotify
from drgn_sockets.views.kinds.pidfd import Pidfd
from drgn_sockets.views.kinds.signalfd import Signalfd
from drgn_sockets.views.kinds.sock import Sock
from drgn_sockets.views.kinds.timerfd import Timerfd
from drgn_sockets.views.kinds.tty import Ptmx, Tty
from drgn_sockets.views.kinds.tun import Tun
from drgn_sockets.views.kinds.userfaultfd import Userfaultfd

__all__ = ["KINDS", "Field", "Kind", "Known", "kind_of", "known_of"]

#: All that are told apart by more than a name.
KINDS: tuple[Kind, ...] = (
    Eventfd(),
    Eventpoll(),
    Fanotify(),
    Inotify(),
    Pidfd(),
    Ptmx(),
    Signalfd(),
    Sock(),
    Timerfd(),
    Tty(),
    Tun(),
    Userfaultfd(),
)

_BY_FOPS = {name: kind for kind in KINDS for name in kind.fops}


class Known(NamedTuple):
    """What is known of a file of some kind."""

    kind: Kind
    #: What its :meth:`Kind.read` gave, ``None`` if that cannot be read.
    it: Any
    #: What cannot be read, or ``None``.
    error: str | None = None
    #: Whether that is so since types or symbols are not known.
    unknown: bool = False


def kind_of(prog: Program, op: int) -> Kind | None:
    """
    The kind of the files that have some file operations, ``None`` for others.

    :param op: ``const struct file_operations *``
    """
    return _BY_FOPS.get(symbol_name(prog, op) or _of_modules(prog).get(op, ""))


def _of_modules(prog: Program) -> dict[int, str]:
    """Symbols of the file operations that modules have, by their addresses."""
    found: dict[int, str] | None = prog.cache.get("drgn_sockets.module_fops")
    if found is None:
        found = {}
        for kind in KINDS:
            module = find_module(prog, kind.module) if kind.module else None
            if module is None:
                continue
            for name in kind.fops:
                try:
                    found[module_symbol(prog, module, name)] = name
                except LookupError:
                    continue
        prog.cache["drgn_sockets.module_fops"] = found
    return found


def known_of(file: FileRecord) -> Known | None:
    """What is known of a file beyond what all files have; remembered with the record."""
    if file.memo is None:
        file.memo = _known_of(file) or ()
    return file.memo or None


def _known_of(file: FileRecord) -> Known | None:
    kind = kind_of(file.prog, file.op)
    if kind is None:
        return None
    try:
        return Known(kind, kind.read(file))
    except (LookupError, *UNREADABLE) as e:
        return Known(kind, None, f"{kind.name}: {e}", isinstance(e, LookupError))
