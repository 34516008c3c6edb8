# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Sockets that the kernel made for itself, and no process holds: tunnels over UDP.

``kernel_sockets`` of the account has family, protocol and port of each, and what made it. The
devices are up, but have neither IPv6 nor a route, so that they send nothing.
"""

from __future__ import annotations

from pathlib import Path

from .process import Process

#: Name, what ``ip link add`` makes, families and port of its sockets.
TUNNELS = (
    ("ds-vxlan", "type vxlan external dstport 4789", ("AF_INET", "AF_INET6"), 4789),
    ("ds-vxlan4", "type vxlan id 7 remote 127.0.0.9 dstport 4790 dev lo", ("AF_INET",), 4790),
    ("ds-vxlan6", "type vxlan id 7 remote ::1 dstport 4791 dev lo", ("AF_INET6",), 4791),
    ("ds-geneve", "type geneve external dstport 6081", ("AF_INET", "AF_INET6"), 6081),
    ("ds-wg", "type wireguard", ("AF_INET", "AF_INET6"), 0),
)


def _ports(name: str) -> set[int]:
    return {
        int(line.split()[1].rpartition(":")[2], 16)
        for line in Path(f"/proc/thread-self/net/{name}").read_text().splitlines()[1:]
    }


def add(me: Process, name: str, kind: str, families: tuple[str, ...], port: int) -> None:
    """Make the device of a tunnel, and enter the sockets that this made."""
    me.modprobe(kind.split()[1])
    before = _ports("udp")
    me.ip(f"link add {name} {kind}")
    Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    me.ip(f"link set {name} up")
    if not port:
        # The kernel chose the port.
        (port,) = _ports("udp") - before
    for family in families:
        me.add(
            "kernel_sockets",
            family=family,
            protocol="udp",
            port=port,
            netns=me.netns,
            made_by=kind.split()[1],
        )


def _l2tp(me: Process) -> None:
    me.modprobe("l2tp_core", "l2tp_netlink", "l2tp_eth", "l2tp_ip")
    ends = "encap udp local 127.0.0.1 remote 127.0.0.41 udp_sport 1701 udp_dport 1702"
    me.ip(f"l2tp add tunnel tunnel_id 7 peer_tunnel_id 8 {ends}")
    me.add(
        "kernel_sockets",
        family="AF_INET",
        protocol="udp",
        port=1701,
        netns=me.netns,
        made_by="l2tp",
    )


def run(me: Process) -> None:
    for name, kind, families, port in TUNNELS:
        me.attempt(
            kind.split()[1],
            lambda row=(name, kind, families, port): add(me, *row),  # type: ignore[misc]
        )
    me.attempt("l2tp", lambda: _l2tp(me))
