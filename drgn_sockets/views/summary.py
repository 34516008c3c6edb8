# SPDX-License-Identifier: LGPL-2.1-or-later
"""How many sockets a network namespace has, as ``ss -s`` prints it."""

from __future__ import annotations

from drgn_sockets.kernel.proto import tcp_established
from drgn_sockets.views.procfs.base import Looker
from drgn_sockets.views.procfs.sockstat import sockstat, sockstat6


def summary(at: Looker, net: int) -> str:
    """
    Get what iproute2's ``ss -s`` prints in a network namespace.

    :param net: ``struct net *``
    :raises FaultError: if a count cannot be read
    """
    counts = dict([*sockstat(at, net), *sockstat6(at, net)])
    tcp = counts["TCP"]

    def inuse(name: str) -> int:
        return counts.get(name, {}).get("inuse", 0)

    hashed = inuse("TCP") + inuse("TCP6")
    text = (
        f"Total: {counts['sockets']['used']}\n"
        f"TCP:   {tcp['alloc'] + tcp['tw']} (estab {tcp_established(at.net_object(net))}, "
        f"closed {tcp['alloc'] - (hashed - tcp['tw'])}, "
        f"orphaned {tcp['orphan']}, timewait {tcp['tw']})\n\n"
        "Transport Total     IP        IPv6\n"
    )
    inet = ("RAW", "UDP", "TCP")
    for name, parts in (*((name, (name,)) for name in inet), ("INET", inet), ("FRAG", ("FRAG",))):
        ip, ipv6 = (sum(inuse(part + six) for part in parts) for six in ("", "6"))
        text += f"{name}\t  {ip + ipv6:<9} {ip:<9} {ipv6:<9}\n"
    return text + "\n"
