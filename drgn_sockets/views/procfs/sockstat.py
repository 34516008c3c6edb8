# SPDX-License-Identifier: LGPL-2.1-or-later
"""``/proc/net/{sockstat,sockstat6}``: numbers of sockets, and the memory that they use."""

from __future__ import annotations

from collections.abc import Iterator

from drgn_sockets.records.sockstat import sockstat, sockstat6
from drgn_sockets.views.procfs.base import Looker, NetFile


class SockstatFile(NetFile):
    """A file with a line for each protocol; each line has names for its own columns."""

    columns = ("protocol", "used", "inuse", "orphan", "tw", "alloc", "mem", "memory")
    key = ("protocol",)

    def lines(self, at: Looker, net: int) -> Iterator[bytes]:
        rows = sockstat6 if self.name.endswith("6") else sockstat
        for name, counts in rows(at.net_object(net)):
            words = (f"{what} {count}" for what, count in counts.items())
            yield f"{name}: {' '.join(words)}\n".encode("ascii")
