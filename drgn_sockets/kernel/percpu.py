# SPDX-License-Identifier: LGPL-2.1-or-later
"""Per-CPU variables."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from drgn import FaultError, Object, Program, sizeof

from drgn_sockets.kernel.lost import CANNOT_BE_READ
from drgn_sockets.program import byte_order


def possible_cpus(prog: Program) -> Iterator[int]:
    """
    The processors that there may be, as ``for_each_possible_cpu()``.

    :raises FaultError: if that cannot be read
    """
    mask = prog["__cpu_possible_mask"].bits
    count = 8 * sizeof(mask)
    try:
        count = min(prog["nr_cpu_ids"].value_(), count)
    except LookupError:
        # CONFIG_FORCE_NR_CPUS=y: the number that the kernel was built for.
        pass
    word = 8 * mask.type_.type.size
    found = False
    for first in range(0, count, word):
        bits = mask[first // word].value_()
        found = found or bits != 0
        yield from (first + i for i in range(min(word, count - first)) if bits >> i & 1)
    if not found:
        raise FaultError(f"__cpu_possible_mask{CANNOT_BE_READ}: it is empty", mask.address_)


def per_cpu_addresses(prog: Program, address: int) -> list[int]:
    """
    Get the address of a per-CPU variable on each processor.

    :param address: ``__percpu`` pointer, or address of the symbol
    :raises FaultError: if that cannot be read
    """
    try:
        offsets = prog["__per_cpu_offset"]
    except LookupError:
        # CONFIG_SMP=n
        return [address]
    return [(address + offsets[cpu].value_()) & (1 << 64) - 1 for cpu in possible_cpus(prog)]


def per_cpu_sums(prog: Program, address: int, code: str, count: int = 1) -> list[int]:
    """
    Sum up the elements of a per-CPU array over all processors.

    :param code: Type of an element of the array, as in :mod:`struct`
    :param count: Length of the array
    :raises FaultError: if it cannot be read
    """
    form = struct.Struct(f"{byte_order(prog)}{count}{code}")
    rows = [form.unpack(prog.read(a, form.size)) for a in per_cpu_addresses(prog, address)]
    return [sum(column) for column in zip(*rows)]


def percpu_counter_sum(fbc: Object) -> int:
    """
    The exact value of a counter, as ``percpu_counter_sum()``.

    :param fbc: ``struct percpu_counter *``
    :raises FaultError: if it cannot be read
    """
    # When a processor goes offline, its part is added to the count.
    (rest,) = per_cpu_sums(fbc.prog_, fbc.counters.value_(), "i")
    return int(fbc.count.value_()) + rest
