# SPDX-License-Identifier: LGPL-2.1-or-later
"""Are jiffies converted as include/linux/jiffies.h and kernel/time/time.c do it?"""

from __future__ import annotations

from typing import Any

import pytest
from drgn import Object, ProgramFlags
from hypothesis import given
from hypothesis import strategies as st

from drgn_sockets.kernel.timekeeping import Clock, clock

from .fake_kernel import LITTLE, LITTLE_32, FakeKernel

HZ = pytest.mark.parametrize("hz", [100, 250, 300, 1000])
NSEC = 1_000_000_000
BOOT = 2**32  # INITIAL_JIFFIES is so much less 300 seconds.


def tick_nsec(hz: int) -> int:
    # TICK_NSEC: ((NSEC_PER_SEC + HZ/2)/HZ)
    return (NSEC + hz // 2) // hz


def made(hz: int, jiffies: int) -> tuple[FakeKernel, Clock]:
    k = FakeKernel()
    k.variable("jiffies", k.ulong, jiffies)
    k.variable("tick_nsec", k.ulong, tick_nsec(hz))
    return k, Clock(k.prog)


@HZ
def test_hz(hz: int) -> None:
    _, found = made(hz, 0)
    assert (found.hz, found.tick_nsec) == (hz, tick_nsec(hz))


@HZ
def test_hz_without_tick_nsec(hz: int) -> None:
    k = FakeKernel()
    clocksource = k.struct("clocksource", ("mult", k.u32), ("shift", k.u32))
    k.variable("jiffies", k.ulong, 0)
    # kernel/time/jiffies.c: TICK_NSEC << JIFFIES_SHIFT, which is 8, or 6 for less than 67 Hz.
    k.variable("clocksource_jiffies", clocksource, {"mult": tick_nsec(hz) << 8, "shift": 8})
    assert clock(k.prog).hz == hz
    assert clock(k.prog) is clock(k.prog)


@HZ
@given(j=st.integers(0, 2**31 - 1))
def test_durations(hz: int, j: int) -> None:
    _, found = made(hz, BOOT)
    if NSEC // 1000 % hz == 0:
        # jiffies_to_usecs(): (USEC_PER_SEC / HZ) * j; jiffies_to_msecs() with MSEC_PER_SEC.
        assert found.to_us(j) == 1_000_000 // hz * j
        assert found.to_ms(j) == 1000 // hz * j
    else:
        # (HZ_TO_USEC_MUL32 * j) >> HZ_TO_USEC_SHR32 is exact to one; so is the other, which
        # rounds up.
        assert j * 1_000_000 / hz - 1 <= found.to_us(j) <= j * 1_000_000 / hz
        assert j * 1000 / hz <= found.to_ms(j) < j * 1000 / hz + 1
    # jiffies_to_clock_t(), with USER_HZ 100.
    tick = tick_nsec(hz)
    expected = j // (hz // 100) if tick % 10_000_000 == 0 else j * tick // 10_000_000
    assert found.to_clock_t(j) == expected
    # jiffies_delta_to_clock_t()
    assert found.to_clock_t(-j) == 0


@HZ
def test_uptime(hz: int) -> None:
    # INITIAL_JIFFIES: ((unsigned long)(unsigned int) (-300*HZ))
    start = 2**32 - 300 * hz
    for seconds in (0, 1, 299, 300, 301, 100_000, 2**32):
        _, found = made(hz, start + seconds * hz)
        assert found.uptime_s() == seconds


@HZ
def test_timers_and_ages(hz: int) -> None:
    now = 2**32 + 5 * hz
    _, found = made(hz, now)
    assert found.until_s(now + 3 * hz) == 3
    assert found.until_s(now - hz) == -1
    assert found.until_s(now) == 0
    # tcp_jiffies32 is the low half, which wrapped five seconds ago.
    for ago in (0, 1, 4, 5, 6, 300):
        assert found.since_ms((now - ago * hz) & 0xFFFFFFFF) == ago * 1000
    # jiffies themselves wrap at 64 bits.
    _, found = made(hz, 2**64 - hz)
    assert found.until_s(hz) == 2
    _, found = made(hz, hz)
    assert found.until_s(2**64 - hz) == -2


class Live:
    """A program that is live: jiffies move on."""

    flags = ProgramFlags.IS_LIVE

    def __init__(self, k: FakeKernel) -> None:
        self._k = k

    def __getitem__(self, name: str) -> Object:
        return self._k.prog[name]


def test_a_core_stands_still_and_a_live_kernel_does_not() -> None:
    k = FakeKernel(LITTLE)
    address = k.variable("jiffies", k.ulong, 1000)
    k.variable("tick_nsec", k.ulong, tick_nsec(250))
    still = Clock(k.prog)
    live: Any = Live(k)
    moving = Clock(live)
    k.put(address, k.ulong, 2000)
    assert (still.jiffies, moving.jiffies) == (1000, 2000)
    assert moving.until_s(2250) == 1


def test_32_bits() -> None:
    k = FakeKernel(LITTLE_32)
    k.variable("jiffies", k.ulong, 2**32 - 300 * 250 + 250)
    k.variable("tick_nsec", k.ulong, tick_nsec(250))
    assert Clock(k.prog).uptime_s() == 1
