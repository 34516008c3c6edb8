# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The kinds of files: one module each, with its structures, what lsfd has of it, and its lines in
``/proc/PID/fdinfo``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from drgn import Program

from drgn_sockets.kernel.dcache import symbol_name
from drgn_sockets.kernel.memory import UNREADABLE
from drgn_sockets.kernel.module import TYPES_OF_MODULES, module_symbol_name
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.views.kinds.base import Field, Kind

__all__ = ["KINDS", "Field", "Kind", "Known", "kind_of", "known_of", "told_apart"]


def _kinds() -> Iterator[Kind]:
    # pkgutil would bring "inspect".
    for path in sorted(Path(__path__[0]).glob("[a-z]*.py")):
        module = importlib.import_module(f"{__name__}.{path.stem}")
        for value in vars(module).values():
            if not isinstance(value, type) or not issubclass(value, Kind):
                continue
            if value.fops and value.__module__ == module.__name__:
                yield value()


#: All that are told apart by more than a name: whatever a module in here has.
KINDS: tuple[Kind, ...] = tuple(_kinds())

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
    return _BY_FOPS.get(symbol_name(prog, op) or module_symbol_name(prog, op))


def told_apart() -> dict[str, Callable[[FileRecord], bool]]:
    """By the names of kinds, whether a file is one of that kind."""
    return {kind.name: partial(_is, kind) for kind in KINDS}


def _is(kind: Kind, file: FileRecord) -> bool:
    return kind_of(file.prog, file.op) is kind and kind.is_one(file)


def known_of(file: FileRecord) -> Known | None:
    """What is known of a file beyond what all files have; remembered with the record."""
    if file.memo is None:
        file.memo = _known_of(file) or ()
    return file.memo or None


def _known_of(file: FileRecord) -> Known | None:
    kind = kind_of(file.prog, file.op)
    if kind is None or not kind.is_one(file):
        return None
    try:
        return Known(kind, kind.read(file))
    except LookupError as e:
        hint = f" {TYPES_OF_MODULES}" if "could not find 'struct " in str(e) else ""
        return Known(kind, None, f"{kind.name}: {e}{hint}", unknown=True)
    except UNREADABLE as e:
        return Known(kind, None, f"{kind.name}: {e}")
