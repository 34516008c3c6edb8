# SPDX-License-Identifier: LGPL-2.1-or-later
"""What options of ``ss`` show of a socket, in its words and their order."""

from __future__ import annotations

from drgn_sockets.records.socket import SocketRecord, Timer

# What it takes for a timer that runs and is no other.
_TIMERS = {"synack": "on"}
_LONG_MINUTES = 9
_LONG_S = 9


def timer_text(timer: Timer | None) -> str | None:
    """``timer:(keepalive,44sec,0)``, as ``ss -o`` writes it."""
    if timer is None:
        return None
    name = _TIMERS.get(timer.name, timer.name)
    return f"timer:({name},{_duration(timer.expires_s)},{timer.retrans})"


def _duration(seconds: float) -> str:
    """A time as ``print_ms_timer()`` of ss has it; nothing if it is over."""
    ms = max(round(seconds * 1000), 0)
    whole, ms = divmod(ms, 1000)
    minutes, whole = divmod(whole, 60)
    if minutes > _LONG_MINUTES:
        return f"{minutes}min"
    text = f"{minutes}min" if minutes else ""
    if whole > _LONG_S or minutes:
        ms = 0
    if whole and ms:
        # Before iproute2 6.11 "4.276ms", of what is seconds.
        return f"{text}{whole}.{ms:03}sec"
    return text + (f"{whole}sec" if whole else "") + (f"{ms:03}ms" if ms else "")


def extended_text(record: SocketRecord) -> str:
    """
    What ``ss -e`` writes of a socket, but for its timer; after that ``addr:``, the address of the
    ``struct sock``, and ``netns:``, the inode of its network namespace.
    """
    words = [*record.detail_words(), record.extended_words()]
    words += [f"addr:{record.sk:#x}", f"netns:{record.netns}"]
    return " ".join(filter(None, words))
