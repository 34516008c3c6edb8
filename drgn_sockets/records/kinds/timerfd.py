# SPDX-License-Identifier: LGPL-2.1-or-later
"""timerfd: fs/timerfd.c."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import NamedTuple

from drgn_sockets.kernel import timekeeping
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind

_NSEC_PER_SEC = 1_000_000_000

_CLOCKS = {
    timekeeping.CLOCK_REALTIME: "realtime",
    timekeeping.CLOCK_MONOTONIC: "monotonic",
    timekeeping.CLOCK_BOOTTIME: "boottime",
    timekeeping.CLOCK_REALTIME_ALARM: "realtime-alarm",
    timekeeping.CLOCK_BOOTTIME_ALARM: "boottime-alarm",
}
_ALARMS = (timekeeping.CLOCK_REALTIME_ALARM, timekeeping.CLOCK_BOOTTIME_ALARM)


class TimerfdCtx(Struct):
    """``struct timerfd_ctx``."""

    C_TYPE = "struct timerfd_ctx"

    clockid = Int("clockid", help="CLOCK_*")
    timer_expires = Int("t.tmr.node.expires", help="by the clock of its base, ns")
    timer_base = Int("t.tmr.base", help="struct hrtimer_clock_base *")
    alarm_expires = Int("t.alarm.node.expires", help="the same of an alarm, by its clock")
    interval = Int("tintv", help="ns")
    ticks = Int("ticks", help="how often it expired since the last read()")
    settime_flags = Int("settime_flags", help="TFD_* flags of timerfd_settime()")


class _ClockBase(Struct):
    C_TYPE = "struct hrtimer_clock_base"

    clockid = Int("clockid")


class Timer(NamedTuple):
    """A timer, and the time that is left until it expires."""

    ctx: TimerfdCtx
    remaining_ns: int

    @property
    def clockid(self) -> str:
        return _CLOCKS.get(self.ctx.clockid, "unknown")


class Timerfd(Kind):
    """timerfd."""

    name = "timerfd"
    fops = ("timerfd_fops",)
    fields = (
        Field("clockid", "clock of a timerfd", attrgetter("clockid")),
        Field(
            "remaining",
            "time until a timerfd expires, at the last tick of the clock, s",
            lambda it: it.remaining_ns / _NSEC_PER_SEC,
        ),
        Field("interval", "interval of a timerfd, s", lambda it: it.ctx.interval / _NSEC_PER_SEC),
        Field("ticks", "how often a timerfd expired unread", attrgetter("ctx.ticks")),
        Field("flags", "TFD_* flags of timerfd_settime()", lambda it: it.ctx.settime_flags),
    )

    def read(self, file: FileRecord) -> Timer:
        ctx = TimerfdCtx.layout(file.prog).read(file.private_data)
        if ctx.clockid in _ALARMS:
            clockid, expires = ctx.clockid, ctx.alarm_expires
        else:
            # The base may have another clock than the timer: a relative time of CLOCK_REALTIME
            # expires by CLOCK_MONOTONIC, which nobody sets.
            clockid = _ClockBase.layout(file.prog).read(ctx.timer_base).clockid
            expires = ctx.timer_expires
        return Timer(ctx, max(0, expires - timekeeping.ktime_get(file.prog, clockid)))

    def fdinfo(self, file: FileRecord, it: Timer) -> Iterator[bytes]:
        """``timerfd_show()``"""
        yield b"clockid: %d\n" % it.ctx.clockid
        yield b"ticks: %d\n" % it.ctx.ticks
        yield b"settime flags: 0%o\n" % it.ctx.settime_flags
        yield b"it_value: (%d, %d)\n" % divmod(it.remaining_ns, _NSEC_PER_SEC)
        yield b"it_interval: (%d, %d)\n" % divmod(it.ctx.interval, _NSEC_PER_SEC)

    def words(self, it: Timer) -> str:
        words = [f"clockid={it.clockid}"]
        for name, value in (("remaining", it.remaining_ns), ("interval", it.ctx.interval)):
            if value:
                words.append("{}={}.{:09}".format(name, *divmod(value, _NSEC_PER_SEC)))
        return " ".join(words)
