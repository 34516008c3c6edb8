# SPDX-License-Identifier: LGPL-2.1-or-later
"""Columns: what a command can show of a record, declared once for every form of output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, NamedTuple


class Column(NamedTuple):
    """
    A column of a command's output.

    Its value is ``None`` for nothing, an ``int``, ``float``, ``bool`` or ``str``, ``bytes``
    for what the kernel keeps as bytes, or a list or dict of these. *get*, *text* and *texts* raise
    ``FaultError`` for what cannot be read; a list may have a ``Lost`` in the place of an item.
    """

    #: As ``--output`` and JSON have it; the table's heading is the same in capitals.
    name: str
    #: One line for people, with the unit if there is one.
    help: str
    get: Callable[[Any], Any]
    #: Shown unless ``--output`` says otherwise.
    default: bool = False
    #: How a table shows a record's value, if not as :func:`~drgn_sockets.text.plain` does: the
    #: text, or ``None`` for nothing.
    text: Callable[[Any], str | None] | None = None
    #: Numbers stand at the right edge of a table's column.
    right: bool = False
    #: Its values are ``int``, ``None``, or a ``str`` with nothing in it to escape: a table has
    #: them as they are. Columns that are shown very often say so.
    simple: bool = False
    #: The texts of a batch of records at once, which must be what *text* makes of each; ``None``
    #: for a batch that it does not know. It is for columns that are shown very often.
    texts: Callable[[Any], Sequence[Any] | None] | None = None
    #: Classes of records that have it; others have nothing there.
    of: type | tuple[type, ...] = object

    def value(self, record: Any) -> Any:
        """Its value for *record*."""
        return self.get(record) if isinstance(record, self.of) else None
