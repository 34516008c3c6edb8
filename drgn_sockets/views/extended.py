# SPDX-License-Identifier: LGPL-2.1-or-later
"""Words that the options ``-o`` and ``-e`` of ss show, in its order."""

from __future__ import annotations

from drgn_sockets.records.socket import SocketRecord, Timer

# Timers that ss shows by another name.
_TIMERS = {"synack": "on"}
_LONG_MINUTES = 9
_LONG_S = 9


def timer_text(timer: Timer | None) -> str | None:
    """Get ``timer:(keepalive,44sec,0)``, as ``ss -o`` writes it."""
    if timer is None:
        return None
    name = _TIMERS.get(timer.name, timer.name)
    return f"timer:({name},{_duration(timer.expires_s)},{timer.retrans})"


def _duration(seconds: float) -> str:
    """``print_ms_timer()`` of ss; empty if the time is over."""
    ms = max(round(seconds * 1000), 0)
    whole, ms = divmod(ms, 1000)
    minutes, whole = divmod(whole, 60)
    if minutes > _LONG_MINUTES:
        return f"{minutes}min"
    text = f"{minutes}min" if minutes else ""
    if whole > _LONG_S or minutes:
        ms = 0
    if whole and ms:
        # ss before iproute2 6.11 prints "4.276ms" for these seconds.
        return f"{text}{whole}.{ms:03}sec"
    return text + (f"{whole}sec" if whole else "") + (f"{ms:03}ms" if ms else "")


def extended_text(record: SocketRecord) -> str:
    """
    Get the words of ``ss -e``, but for the timer; then ``addr:``, the address of the
    ``struct sock``, and ``netns:``, the inode of the network namespace.
    """
    words = [*record.detail_words(), record.extended_words()]
    words += [f"addr:{record.sk:#x}", f"netns:{record.netns}"]
    return " ".join(filter(None, words))
