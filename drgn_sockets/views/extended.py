# SPDX-License-Identifier: LGPL-2.1-or-later
"""What options of ``ss`` show of a socket, in its words and their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drgn_sockets.kernel.file import major, minor
from drgn_sockets.kernel.sock import AF_INET6, TCP_CLOSE, TCP_LISTEN, Sock, sock_cgroup_classid
from drgn_sockets.records.families.inet import InetRecord, InetSock, Ipv6Pinfo
from drgn_sockets.records.families.unix import UnixRecord
from drgn_sockets.records.socket import SocketRecord, Timer
from drgn_sockets.text import escaped

if TYPE_CHECKING:
    from drgn_sockets.kernel.cgroup import CgroupPath

# include/net/sock.h: RCV_SHUTDOWN, SEND_SHUTDOWN
_RCV_SHUTDOWN, _SEND_SHUTDOWN = 1, 2
# In these states sock_diag tells of IPV6_V6ONLY.
_UNCONNECTED = frozenset({TCP_LISTEN, TCP_CLOSE})

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
    # As below: not imported for those who do not ask for it.
    from drgn_sockets.records.families.netlink import NetlinkRecord

    if isinstance(record, UnixRecord):
        words = _unix(record)
    elif isinstance(record, NetlinkRecord):
        words = [record.extended_words()]
    else:
        words = _details(record)
        if isinstance(record, InetRecord):
            words += _inet(record)
        words.append(record.extended_words())
    words += [f"addr:{record.sk:#x}", f"netns:{record.netns}"]
    return " ".join(filter(None, words))


def _details(record: SocketRecord) -> list[str]:
    """``sock_details_print()``"""
    uid = record.told_uid
    words = [f"uid:{uid}"] if uid else []
    words += [f"ino:{record.ino}", f"sk:{record.sock.cookie:x}"]
    if not isinstance(record, InetRecord):
        # Of other families sock_diag does not tell the rest.
        return words
    mark = getattr(record.sock, "mark", 0)
    if mark:
        words.append(f"fwmark:{mark:#x}")
    cgroup = cgroup_text(cgroup_path(record))
    if cgroup is not None:
        words.append(cgroup)
    return words


def cgroup_path(record: SocketRecord) -> CgroupPath | None:
    """Path of its cgroup, of version 2."""
    from drgn_sockets.kernel.cgroup import sock_cgroup_path

    return sock_cgroup_path(record.prog, record.sock)


def cgroup_text(path: CgroupPath | None) -> str | None:
    """``cgroup:/system.slice``, or as ss writes it of one that has been removed."""
    if path is None:
        return None
    return f"cgroup:unreachable:{path.id:x}" if path.removed else f"cgroup:{escaped(path)}"


def _inet(record: InetRecord) -> list[str]:
    sock = record.sock
    if not isinstance(sock, Sock):
        return []
    words = []
    if record.family == AF_INET6 and sock.state in _UNCONNECTED:
        words.append(f"v6only:{sock.ipv6only}")
    words.append(_directions(sock.shutdown))
    return words


def _directions(shutdown: int) -> str:
    """``<->``, with a ``-`` in the place of what has been shut down."""
    receives = "-" if shutdown & _RCV_SHUTDOWN else "<"
    sends = "-" if shutdown & _SEND_SHUTDOWN else ">"
    return f"{receives}-{sends}"


def tos_values(record: InetRecord) -> dict[str, int] | None:
    """What ``ss --tos`` shows; ``None`` of what is no full socket."""
    sock = record.sock
    if not isinstance(sock, InetSock):
        return None
    values = {"tos": sock.tos}
    if sock.family == AF_INET6:
        pinet6 = Ipv6Pinfo.layout(record.prog).try_read(sock.pinet6 or 0)
        if pinet6 is not None:
            values["tclass"] = pinet6.tclass
    # As inet_diag_msg_attrs_fill() has it.
    values["class_id"] = sock_cgroup_classid(record.prog, sock) or sock.priority
    return values


def tos_text(record: InetRecord) -> str | None:
    """``tos:0x10 tclass:0 class_id:0``"""
    values = tos_values(record)
    if values is None:
        return None
    # As "%#x": a 0 is just that.
    return " ".join(
        f"{name}:{value:#x}" if value else f"{name}:0" for name, value in values.items()
    )


# In the order of ss, which has a name of its own for one.
_OPTIONS = {
    name: {"bind_address_no_port": "bind_addr_no_port"}.get(name, name)
    for name in (
        *("recverr", "is_icsk", "freebind", "hdrincl", "mc_loop", "transparent", "mc_all"),
        *("nodefrag", "bind_address_no_port", "recverr_rfc4884", "defer_connect"),
    )
}


def inet_options(record: InetRecord) -> list[str] | None:
    """What ``ss --inet-sockopt`` shows; ``None`` of what is no full socket."""
    sock = record.sock
    if not isinstance(sock, InetSock):
        return None
    return [name for member, name in _OPTIONS.items() if getattr(sock, member)]


def inet_options_text(record: InetRecord) -> str | None:
    """``inet-sockopt: ( is_icsk mc_loop)``, with the spaces of ss."""
    options = inet_options(record)
    return None if options is None else f"inet-sockopt: ({''.join(f' {o}' for o in options)})"


def _unix(record: UnixRecord) -> list[str]:
    words = [_directions(record.sock.shutdown)]
    file = record.socket_file()
    if file is not None:
        words.append(f"ino:{file[0]} dev:{major(file[1])}/{minor(file[1])}")
    if record.state == TCP_LISTEN:
        words.append("peers:")
        words += map(str, record.pending())
    return words
