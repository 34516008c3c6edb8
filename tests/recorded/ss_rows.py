# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rows of ss beside ours of the same socket, and which of them time may have changed."""

from __future__ import annotations

from .machine import Core, Row
from .ss_text import SsRow

Pair = tuple[SsRow, Row]


#: Raw sockets of protocol 6.
ALL_OF_TCP = ("0.0.0.0:6", "*:6")


def everything(core: Core) -> list[Row]:
    return core.rows("ss", "-a")


def pairs(core: Core) -> tuple[list[Pair], list[SsRow]]:
    """
    Rows of ss with ours of the same socket, and those of which we have none.

    The cookie is what tells sockets apart: that ss has asked for it gave them one. A unix
    socket is known by its inode; those without, not accepted yet, ss does not show.
    """
    ours = everything(core)
    by_cookie = {row["cookie"]: row for row in ours if row["cookie"]}
    by_inode = {row["ino"]: row for row in ours if row["ino"] and row["family"] == "AF_UNIX"}
    found, missing = [], []
    for theirs in core.ss_rows:
        mine: Row | None
        if theirs.netid.startswith("u_"):
            mine = by_inode.get(theirs.ino)
        else:
            assert theirs.cookie
            mine = by_cookie.get(theirs.cookie)
        if mine is None:
            missing.append(theirs)
        else:
            if mine["netid"] == "raw":
                # ss writes the protocol's name for a raw socket, where it has one.
                assert theirs.netid in ("tcp", "udp", "icmp", "icmp6", "raw", "ospf", "???", "ip")
                theirs = theirs._replace(netid="raw")
            found.append((theirs, mine))
    return found, missing


def still(core: Core, row: SsRow) -> bool:
    """Whether no timer can have changed a socket since the tools ran."""
    if row.local in ALL_OF_TCP:
        # A raw socket gets a copy of what TCP sends again,
        return False
    # and the other end gets what this one sends again.
    return not any(
        other.timer is not None and other.timer[1] <= core.tools_ran_s
        for other in core.ss_by_ends.get(frozenset((row.local, row.peer)), [row])
    )
