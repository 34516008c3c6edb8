# SPDX-License-Identifier: LGPL-2.1-or-later
"""
:class:`typing.NamedTuple` at a third of its price.

That one compiles the type of every field, which nobody asks for at run time; of all the tuples
that a command begins with, this took longer than to read its arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["NamedTuple"]

if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from collections import namedtuple

    class _Maker(type):
        def __new__(mcs, name, bases, body):
            if not bases:
                return super().__new__(mcs, name, bases, body)
            fields = body["__annotations__"]
            defaults = [body.pop(field) for field in fields if field in body]
            made = namedtuple(name, fields, defaults=defaults, module=body["__module__"])
            for key, value in body.items():
                setattr(made, key, value)
            return made

    class NamedTuple(metaclass=_Maker):
        """To be derived from as :class:`typing.NamedTuple` is."""
