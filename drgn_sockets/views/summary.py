# SPDX-License-Identifier: LGPL-2.1-or-later
"""How many sockets a network namespace has, as ``ss -s`` prints it."""

from __future__ import annotations

from drgn_sockets.records.sockstat import SocketCounts


def summary(found: SocketCounts) -> str:
    """Get what iproute2's ``ss -s`` prints in a network namespace."""
    counts = found.counts
    tcp = counts["TCP"]

    def inuse(name: str) -> int:
        return counts.get(name, {}).get("inuse", 0)

    hashed = inuse("TCP") + inuse("TCP6")
    text = (
        f"Total: {counts['sockets']['used']}\n"
        f"TCP:   {tcp['alloc'] + tcp['tw']} (estab {found.established}, "
        f"closed {tcp['alloc'] - (hashed - tcp['tw'])}, "
        f"orphaned {tcp['orphan']}, timewait {tcp['tw']})\n\n"
        "Transport Total     IP        IPv6\n"
    )
    inet = ("RAW", "UDP", "TCP")
    for name, parts in (*((name, (name,)) for name in inet), ("INET", inet), ("FRAG", ("FRAG",))):
        ip, ipv6 = (sum(inuse(part + six) for part in parts) for six in ("", "6"))
        text += f"{name}\t  {ip + ipv6:<9} {ip:<9} {ipv6:<9}\n"
    return text + "\n"
