# SPDX-License-Identifier: LGPL-2.1-or-later
"""Clocks of the kernel: jiffies, and the timekeeper."""

from __future__ import annotations

from collections.abc import Iterable

from drgn import FaultError, Program, sizeof

from drgn_sockets.kernel.lost import Lost, as_fault, unreadable
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.program import is_live, once_per_program

_NSEC_PER_SEC = 1_000_000_000
# CONFIG_HZ is from 24 (arch/mips) to 1200 (arch/alpha).
_MIN_TICK_NSEC = _NSEC_PER_SEC // 1300
_MAX_TICK_NSEC = _NSEC_PER_SEC // 20
# include/asm-generic/param.h: the unit of times in procfs.
USER_HZ = 100

# include/uapi/linux/time.h
CLOCK_REALTIME = 0
CLOCK_MONOTONIC = 1
CLOCK_BOOTTIME = 7
CLOCK_REALTIME_ALARM = 8
CLOCK_BOOTTIME_ALARM = 9


class Clock:
    """The kernel's clock as its sockets use it: jiffies."""

    def __init__(self, prog: Program) -> None:
        self._jiffies = prog["jiffies"]
        self._live = is_live(prog)
        try:
            self._now: int = self._jiffies.value_()
        except FaultError as e:
            raise unreadable("jiffies", e.address) from None
        #: Length of a jiffy in ns. CONFIG_HZ itself is nowhere in a kernel without IKCONFIG.
        self.tick_nsec = _tick_nsec(prog)
        #: Jiffies per second.
        self.hz = round(_NSEC_PER_SEC / self.tick_nsec)

    @property
    def jiffies(self) -> int:
        """``jiffies`` now, or when a core was taken."""
        if self._live:
            self._now = self._jiffies.value_()
        return self._now

    def uptime_s(self) -> float:
        """Seconds since boot."""
        # include/linux/jiffies.h: jiffies begin at INITIAL_JIFFIES, 5 minutes before they
        # would wrap at 32 bits.
        return ((self.jiffies - (-300 * self.hz & 0xFFFFFFFF)) & 0xFFFFFFFFFFFFFFFF) / self.hz

    def to_us(self, jiffies: int) -> int:
        """``jiffies_to_usecs()``."""
        return jiffies * 1_000_000 // self.hz

    def to_ms(self, jiffies: int) -> int:
        """``jiffies_to_msecs()``."""
        return -(-jiffies * 1000 // self.hz)

    def since_ms(self, jiffies32: int) -> int:
        """Milliseconds since a moment kept as 32 bits of jiffies (``tcp_jiffies32``)."""
        return self.to_ms((self.jiffies - jiffies32) & 0xFFFFFFFF)

    def all_to_us(self, jiffies: Iterable[int]) -> list[int]:
        """:meth:`to_us` of each."""
        tick, rest = divmod(1_000_000, self.hz)
        return list(map(self.to_us, jiffies)) if rest else [value * tick for value in jiffies]

    def all_since_ms(self, jiffies32: Iterable[int]) -> list[int]:
        """:meth:`since_ms` of each, at the same moment."""
        now = self.jiffies
        tick, rest = divmod(1000, self.hz)
        if rest:
            return [self.to_ms(now - moment & 0xFFFFFFFF) for moment in jiffies32]
        return [(now - moment & 0xFFFFFFFF) * tick for moment in jiffies32]

    def until_s(self, expires: int) -> float:
        """Seconds until a timer expires; negative if it is late."""
        delta = (expires - self.jiffies) & 0xFFFFFFFFFFFFFFFF
        if delta >> 63:
            delta -= 1 << 64
        return delta / self.hz

    def to_clock_t(self, jiffies: int) -> int:
        """``jiffies_delta_to_clock_t()``: in 1/100 s, and not below 0."""
        return max(0, jiffies) * self.tick_nsec // (_NSEC_PER_SEC // USER_HZ)


def _tick_nsec(prog: Program) -> int:
    try:
        variable = prog["tick_nsec"]
        tick: int = variable.value_()
    except FaultError as e:
        raise unreadable("tick_nsec", e.address) from None
    except LookupError:
        # kernel/time/jiffies.c: .mult = TICK_NSEC << JIFFIES_SHIFT
        variable = prog["clocksource_jiffies"]
        shift = variable.shift.value_()
        tick = variable.mult.value_() >> min(shift, 32)
    if not _MIN_TICK_NSEC <= tick <= _MAX_TICK_NSEC:
        why = f"{tick} ns is no length of a jiffy"
        raise as_fault(Lost("tick_nsec", variable.address_, why))
    return tick


@once_per_program
def clock(prog: Program) -> Clock:
    """The clock of *prog*."""
    return Clock(prog)


class _Timekeeper(Struct):
    C_TYPE = "struct timekeeper"

    base = Int("tkr_mono.base")
    xtime_nsec = Int("tkr_mono.xtime_nsec")
    shift = Int("tkr_mono.shift")
    offs_real = Int("offs_real")
    offs_boot = Int("offs_boot")


def ktime_get(prog: Program, clockid: int = CLOCK_MONOTONIC) -> int:
    """
    Get the time of a kernel's clock at its last tick, ns, as ``ktime_get_coarse()``.

    The processor's counter, which has gone on since then, is not in memory.

    :param clockid: ``CLOCK_*``
    :raises FaultError: if it cannot be read
    :raises LookupError: if it is not found
    """
    tk = _Timekeeper.layout(prog).read(_timekeeper(prog))
    now = tk.base + (tk.xtime_nsec >> min(tk.shift, 64))
    if clockid in (CLOCK_REALTIME, CLOCK_REALTIME_ALARM):
        now += tk.offs_real
    elif clockid in (CLOCK_BOOTTIME, CLOCK_BOOTTIME_ALARM):
        now += tk.offs_boot
    return now


def _timekeeper(prog: Program) -> int:
    """Address of the ``struct timekeeper``."""
    # Linux kernel commit 22c62b9a84b8 ("timekeeping: Introduce auxiliary timekeepers") (in v6.17)
    # made tk_core the first of an array.
    try:
        return prog["timekeeper_data"][0].timekeeper.address_of_().value_()  # type: ignore[no-any-return]
    except LookupError:
        pass
    # The structure around the timekeeper mostly has no name; it begins with a seqcount.
    align = 8
    seqcount = -(-sizeof(prog.type("seqcount_raw_spinlock_t")) // align) * align
    return prog.symbol("tk_core").address + seqcount  # type: ignore[no-any-return]
