# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which columns a user asks for with ``--output``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from drgn_sockets.errors import UserError, nearest
from drgn_sockets.records.columns import Column


def choose(columns: Sequence[Column], output: str | None, shown: Iterable[str]) -> list[Column]:
    """
    Get the columns that ``--output`` asks for.

    :param columns: All columns.
    :param output: ``A,B`` for these alone, ``+A,B`` for these besides the usual ones, ``all``
        for all, or ``None`` for the usual ones.
    :param shown: Names of the usual columns.
    :raises UserError: if *output* has a name that no column has
    """
    by_name = {column.name: column for column in columns}
    usual = [by_name[name] for name in shown]
    if output is None:
        return usual
    if output == "all":
        return list(columns)
    chosen = usual if output.startswith("+") else []
    for name in output.lstrip("+").split(","):
        key = name.strip().lower().replace("-", "_")
        if key not in by_name:
            near = nearest(key, by_name)
            raise UserError(f"no such column: {name!r}{near} (--output help lists them)")
        if by_name[key] not in chosen:
            chosen.append(by_name[key])
    return chosen
