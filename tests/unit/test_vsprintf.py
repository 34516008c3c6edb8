# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pointers, hashed as the kernel hashes them, and sums over processors."""

from __future__ import annotations

import struct

import pytest
from drgn import FaultError, Object, Platform

from drgn_sockets.kernel.percpu import per_cpu_sums, percpu_counter_sum, possible_cpus
from drgn_sockets.kernel.vsprintf import default_pointer, restricted_pointer, siphash_1u64

from .fake_kernel import BIG, LITTLE, LITTLE_32, FakeKernel

# From "SipHash: a fast short-input PRF" (Aumasson and Bernstein), and the vectors that come with
# its reference implementation: key 00 01 … 0f, input 00 01 … 07.
KEY = (0x0706050403020100, 0x0F0E0D0C0B0A0908)
POINTER = 0xFFFF888001234500


def test_siphash() -> None:
    assert siphash_1u64(0x0706050403020100, KEY) == 0x93F5F5799A932462


def kernel(
    restrict: int = 0, *, filled: bool | None = True, off: int | None = None, plain: bool = False
) -> FakeKernel:
    fake = FakeKernel()
    fake.symbol("kptr_restrict", fake.alloc(struct.pack("<i", restrict)))
    fake.symbol("ptr_key", fake.alloc(struct.pack("<QQ", *KEY)))
    if filled is not None:
        fake.symbol("filled_random_ptr_key", fake.alloc(bytes([filled])))
    if off is not None:
        fake.symbol("not_filled_random_ptr_key", fake.alloc(struct.pack("<i", off)))
    fake.symbol("no_hash_pointers", fake.alloc(bytes([plain])))
    return fake


def test_restrictions() -> None:
    hashed = f"{siphash_1u64(POINTER, KEY) & 0xFFFFFFFF:016x}"
    assert hashed.startswith("00000000") and len(hashed) == 16
    for fake, shown in (
        (kernel(0), hashed),
        (kernel(1), f"{POINTER:016x}"),
        (kernel(2), "0" * 16),
        (kernel(4), "0" * 16),
        (kernel(0, plain=True), f"{POINTER:016x}"),
        (kernel(2, plain=True), "0" * 16),
        # Early in boot there is no key yet.
        (kernel(0, filled=False), "(____ptrval____)"),
        (kernel(0, filled=None, off=1), "(____ptrval____)"),
        (kernel(0, filled=None, off=0), hashed),
    ):
        assert restricted_pointer(fake.prog)(POINTER) == shown


def test_what_is_no_address_is_not_hashed() -> None:
    show = default_pointer(kernel().prog)
    assert show(0) == "0" * 16
    assert show((1 << 64) - 2) == f"{(1 << 64) - 2:016x}"
    assert show(POINTER) != show(POINTER + 1)


def test_a_kernel_that_does_not_tell() -> None:
    fake = FakeKernel()
    assert restricted_pointer(fake.prog)(POINTER) == "(____ptrval____)"
    fake.symbol("kptr_restrict", 0xDEAD0000)
    with pytest.raises(FaultError):
        restricted_pointer(fake.prog)


@pytest.mark.parametrize("platform", [LITTLE, BIG, LITTLE_32])
def test_sums_over_processors(platform: Platform) -> None:
    fake = FakeKernel(platform)
    order = "<" if platform is not BIG else ">"
    # Of four possible ones the third is not.
    mask = fake.struct("cpumask", ("bits", fake.array(fake.ulong, 2)))
    fake.variable("__cpu_possible_mask", mask, {"bits": [0b1011, 0]})
    fake.variable("nr_cpu_ids", fake.u32, 4)
    base = fake.alloc(b"".join(struct.pack(f"{order}ii", 10 + i, -i) for i in range(4)))
    fake.variable(
        "__per_cpu_offset",
        fake.array(fake.ulong, 4),
        [8 * i if i != 2 else 1 << (8 * fake.word - 9) for i in range(4)],
    )
    assert list(possible_cpus(fake.prog)) == [0, 1, 3]
    assert per_cpu_sums(fake.prog, base, "i", 2) == [10 + 11 + 13, -4]
    assert per_cpu_sums(fake.prog, base + 4, "i") == [-4]
    counter = fake.struct("percpu_counter", ("count", fake.s64), ("counters", fake.ptr))
    address = fake.new(counter, {"count": 100, "counters": base})
    pointer = Object(fake.prog, fake.pointer(counter), address)
    assert percpu_counter_sum(pointer) == 134
    with pytest.raises(FaultError):
        per_cpu_sums(fake.prog, 0xDEAD0000, "i")
