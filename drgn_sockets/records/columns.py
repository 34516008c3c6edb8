# SPDX-License-Identifier: LGPL-2.1-or-later
"""Columns: the values of a record that a command can show, declared once for all output forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, NamedTuple


class Column(NamedTuple):
    """
    A column of a command's output.

    A value is ``None`` for nothing, an ``int``, ``float``, ``bool`` or ``str``, ``bytes`` for
    text that the kernel keeps as bytes, or a list or dict of these. *get*, *text* and *texts*
    raise ``FaultError`` if the value cannot be read; a list may have a ``Lost`` in the place of
    an item.
    """

    #: The name in ``--output`` and JSON; the table's heading is the same in capitals.
    name: str
    #: One line for people, with the unit if there is one.
    help: str
    get: Callable[[Any], Any]
    #: Shown unless ``--output`` says otherwise.
    default: bool = False
    #: Makes a table's text of a record, ``None`` for nothing. Without it, the table shows the
    #: value by :func:`~drgn_sockets.text.plain`.
    text: Callable[[Any], str | None] | None = None
    #: Whether a table aligns it to the right, as for numbers.
    right: bool = False
    #: Whether every value is an ``int``, ``None``, or a ``str`` that needs no escaping, so that a
    #: table shows it as it is. Columns that are shown very often set this.
    simple: bool = False
    #: Makes the texts of a batch of records at once, equal to what *text* makes of each record;
    #: returns ``None`` for a batch that it does not support. Columns that are shown very often
    #: have it.
    texts: Callable[[Any], Sequence[Any] | None] | None = None
    #: Classes of the records that have this column; for others it is empty.
    of: type | tuple[type, ...] = object

    def value(self, record: Any) -> Any:
        """The value for *record*."""
        return self.get(record) if isinstance(record, self.of) else None
