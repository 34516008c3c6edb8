# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names of enumerators, as a kernel's types have them."""

from __future__ import annotations

from drgn import Program


def enum_names(prog: Program, tag: str, prefix: str) -> dict[int, str]:
    """
    The enumerators of ``enum tag`` that begin with *prefix*, by value: without that, in small
    letters. Of several with one value the first. Remembered per program.
    """
    key = ("drgn_sockets.enum", tag, prefix)
    names: dict[int, str] | None = prog.cache.get(key)
    if names is None:
        names = {}
        try:
            enumerators = prog.type(f"enum {tag}").enumerators or ()
        except LookupError:
            enumerators = ()
        for enumerator in enumerators:
            if enumerator.name.startswith(prefix):
                name = enumerator.name[len(prefix) :].lower()
                names.setdefault(enumerator.value, name.replace("_deprecated", ""))
        prog.cache[key] = names
    return names
