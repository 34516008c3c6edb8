# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names of enumerators, as a kernel's types have them."""

from __future__ import annotations

from drgn import Program

from drgn_sockets.program import once_per_program


@once_per_program
def enum_names(prog: Program, tag: str, prefix: str) -> dict[int, str]:
    """
    The names of the enumerators of ``enum tag`` that begin with *prefix*, by value, in small
    letters and without the prefix. If several have one value, the first name is used.

    >>> enum_names(prog, "bpf_map_type", "BPF_MAP_TYPE_")[1]
    'hash'
    """
    names: dict[int, str] = {}
    try:
        enumerators = prog.type(f"enum {tag}").enumerators or ()
    except LookupError:
        enumerators = ()
    for enumerator in enumerators:
        if enumerator.name.startswith(prefix):
            name = enumerator.name[len(prefix) :].lower()
            names.setdefault(enumerator.value, name.replace("_deprecated", ""))
    return names
