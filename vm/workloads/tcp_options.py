# SPDX-License-Identifier: LGPL-2.1-or-later
"""
TCP sockets with all that sock_diag reports: options, algorithms, owners, layers.

Each congestion control algorithm with data exchanged; TLS in the kernel; keys; sockets of another
user, of another control group, and of a control group that is removed; IPv4 addresses in IPv6
sockets, for a listener, requests and connections that are not accepted.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path
from typing import Any

from . import syscalls
from .process import Process

V4, V6 = socket.AF_INET, socket.AF_INET6
STREAM = socket.SOCK_STREAM
TCP, IP, IPV6, SOL = socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.SOL_SOCKET
LO: dict[int, str] = {V4: "127.0.0.1", V6: "::1"}
SOL_TLS, TLS_TX, TLS_RX = 282, 1, 2
TCP_ULP, TCP_MD5SIG, TCP_MD5SIG_EXT, TCP_AO_ADD_KEY = 31, 14, 32, 38
ALGORITHMS = (
    *("bbr", "bic", "cdg", "dctcp", "highspeed", "htcp", "hybla", "illinois", "lp", "nv"),
    *("scalable", "vegas", "veno", "westwood", "yeah"),
)
CGROUP = Path("/sys/fs/cgroup")
#: A user that no other process here has.
UID = 4242
CLASSID = 0x00D50007


def _new(me: Process, family: int = V4, **facts: Any) -> socket.socket:
    return me.hold(socket.socket(family, STREAM), **facts)


def _listener(me: Process, family: int = V4, address: str = "", **facts: Any) -> socket.socket:
    sock = _new(me, family, backlog=5, **facts)
    sock.bind((address or LO[family], 0))
    sock.listen(5)
    return sock


def _accept(
    me: Process, client: socket.socket, listener: socket.socket, **row: Any
) -> socket.socket:
    server = me.hold(listener.accept()[0])
    me.add(
        "connections",
        client=me.end(client),
        server=me.end(server),
        listener=me.end(listener),
        **row,
    )
    return server


def _exchange(client: socket.socket, server: socket.socket) -> None:
    """Send some data each way, so that the kernel has measured round trips."""
    for sender, receiver in ((client, server), (server, client)):
        for _ in range(20):
            sender.sendall(b"e" * 5000)
            left = 5000
            while left:
                left -= len(receiver.recv(left))


def _algorithms(me: Process) -> None:
    me.modprobe(*(f"tcp_{name}" for name in ALGORITHMS))
    available = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    for name in {*ALGORITHMS} - {*available}:
        me.skip(f"congestion control {name}", "this kernel does not have it")
    for family in (V4, V6):
        for name in available:
            # Set before connecting: DCTCP takes ECN, which is negotiated in the SYN.
            options = {"TCP_CONGESTION": name}
            listener = socket.socket(family, STREAM)
            client = socket.socket(family, STREAM)
            for sock in (listener, client):
                sock.setsockopt(TCP, socket.TCP_CONGESTION, name.encode())
            listener.bind((LO[family], 0))
            listener.listen(1)
            client.connect(listener.getsockname())
            me.hold(client, options=options)
            server = me.hold(listener.accept()[0], options=options)
            listener.close()
            me.add("connections", client=me.end(client), server=me.end(server), congestion=name)
            _exchange(client, server)


def _values(me: Process) -> None:
    """Options whose value is a number, on a connection and on a socket that is only bound."""
    options = (
        ("SO_PRIORITY", SOL, 12, 6),
        ("SO_MARK", SOL, 36, 0xBEEF),
        ("SO_MAX_PACING_RATE", SOL, 47, 12500000),
        ("SO_INCOMING_CPU", SOL, 49, 0),
        ("SO_ZEROCOPY", SOL, 60, 1),
        ("SO_DONTROUTE", SOL, 5, 1),
        ("SO_BROADCAST", SOL, 6, 1),
        ("SO_TIMESTAMP", SOL, 29, 1),
        ("SO_BUSY_POLL", SOL, 46, 50),
        ("TCP_SYNCNT", TCP, 7, 9),
        ("TCP_LINGER2", TCP, 8, 33),
        ("TCP_QUICKACK", TCP, 12, 0),
        ("TCP_THIN_LINEAR_TIMEOUTS", TCP, 16, 1),
        ("TCP_SAVE_SYN", TCP, 27, 1),
        ("TCP_INQ", TCP, 36, 1),
        ("TCP_TX_DELAY", TCP, 37, 1000),
        ("IP_TOS", IP, 1, 0xB8),
        ("IP_TTL", IP, 2, 7),
        ("IP_RECVERR", IP, 11, 1),
        ("IP_FREEBIND", IP, 15, 1),
        ("IP_TRANSPARENT", IP, 19, 1),
        ("IP_MINTTL", IP, 21, 3),
        ("IP_MTU_DISCOVER", IP, 10, 2),
        ("IP_BIND_ADDRESS_NO_PORT", IP, 24, 1),
        ("IP_RECVERR_RFC4884", IP, 26, 1),
        ("IP_MULTICAST_LOOP", IP, 34, 0),
        ("IP_MULTICAST_ALL", IP, 49, 0),
        ("IP_LOCAL_PORT_RANGE", IP, 51, 40000 | 40100 << 16),
    )
    six = (
        ("IPV6_TCLASS", IPV6, 67, 0x48),
        ("IPV6_UNICAST_HOPS", IPV6, 16, 77),
        ("IPV6_RECVERR", IPV6, 25, 1),
        ("IPV6_FREEBIND", IPV6, 78, 1),
        ("IPV6_TRANSPARENT", IPV6, 75, 1),
        ("IPV6_MULTICAST_LOOP", IPV6, 19, 0),
        ("IPV6_MULTICAST_ALL", IPV6, 29, 0),
        ("IPV6_MINHOPCOUNT", IPV6, 73, 2),
        ("IPV6_AUTOFLOWLABEL", IPV6, 70, 0),
        ("IPV6_DONTFRAG", IPV6, 62, 1),
        ("IPV6_RECVERR_RFC4884", IPV6, 31, 1),
    )
    for family, rows in ((V4, options), (V6, six)):
        listener = _listener(me, family)
        for name, level, option, value in rows:
            bound = _new(me, family, note=f"bound, with {name}")
            bound.bind((LO[family], 0))
            client = _new(me, family, note=f"connected, with {name}")
            client.connect(listener.getsockname())
            _accept(me, client, listener)
            for sock in (bound, client):
                try:
                    sock.setsockopt(level, option, struct.pack("=I", value))
                    me.note(sock, options={name: sock.getsockopt(level, option)})
                except OSError as error:
                    me.skip(f"{name} of TCP", error)
    tos = _listener(me, options={"IP_TOS": 0x68})
    tos.setsockopt(IP, socket.IP_TOS, 0x68)
    tclass = _listener(me, V6, options={"IPV6_TCLASS": 0x88, "IP_TOS": 0x20})
    tclass.setsockopt(IPV6, 67, 0x88)
    tclass.setsockopt(IP, socket.IP_TOS, 0x20)
    only = _new(me, V6, backlog=5, options={"IPV6_V6ONLY": 1})
    only.setsockopt(IPV6, socket.IPV6_V6ONLY, 1)
    only.bind(("::", 0))
    only.listen(5)


def _places(me: Process) -> None:
    """Options about the addresses that a socket may be bound to."""
    free = _new(me, note="bound to an address that is not ours", options={"IP_FREEBIND": 1})
    free.setsockopt(IP, 15, 1)
    free.bind(("203.0.113.9", 4433))
    clear = _new(me, backlog=2, note="transparent", options={"IP_TRANSPARENT": 1})
    clear.setsockopt(IP, 19, 1)
    clear.bind(("198.51.100.7", 8443))
    clear.listen(2)
    late = _new(me, note="an address without a port", options={"IP_BIND_ADDRESS_NO_PORT": 1})
    late.setsockopt(IP, 24, 1)
    late.bind(("127.0.0.5", 0))
    for address in ("::", "::ffff:127.0.0.6", "::1"):
        _new(me, V6, note="bound only").bind((address, 0))
    for family in (V4, V6):
        shared = [_new(me, family, note="bound only, one port", options={"SO_REUSEADDR": 1})]
        shared[0].setsockopt(SOL, socket.SO_REUSEADDR, 1)
        shared[0].bind((LO[family], 0))
        shared.append(_new(me, family, note="bound only, one port", options={"SO_REUSEADDR": 1}))
        shared[1].setsockopt(SOL, socket.SO_REUSEADDR, 1)
        shared[1].bind(shared[0].getsockname())
    device = _new(me, note="bound to a device only", options={"SO_BINDTODEVICE": "lo"})
    device.setsockopt(SOL, socket.SO_BINDTODEVICE, b"lo\0")


def _mapped(me: Process) -> None:
    """An IPv6 listener of IPv4 clients: accepted, not accepted, and half open."""
    listener = _listener(me, V6, "::")
    port = listener.getsockname()[1]
    client = _new(me, V4)
    client.connect(("127.0.0.1", port))
    _accept(me, client, listener)
    client = _new(me, V6, note="an IPv6 socket, connected to an IPv4 address")
    client.connect(("::ffff:127.0.0.1", port))
    _accept(me, client, listener)
    waiting = _listener(me, V6, "::", pending=2)
    for number in range(2):
        client = _new(me, V4, note="its peer is not accepted")
        client.connect(("127.0.0.3", waiting.getsockname()[1]))
        client.send(b"m" * number)
        me.add("connections", client=me.end(client), listener=me.end(waiting), accepted=False)
    full = _new(me, backlog=0, pending=1, note="its backlog is full")
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    client = _new(me, note="its peer is not accepted")
    client.connect(full.getsockname())
    me.add("connections", client=me.end(client), listener=me.end(full), accepted=False)
    for family, address in ((V4, "127.0.0.1"), (V6, "::1")):
        half = _new(me, V6, backlog=5, options={"TCP_DEFER_ACCEPT": 600})
        half.setsockopt(TCP, socket.TCP_DEFER_ACCEPT, 600)
        half.bind(("::", 0))
        half.listen(5)
        port = half.getsockname()[1]
        client = _new(me, family, note="its server's side is a request socket")
        client.connect((address, port))
        prefix = "::ffff:" if family == V4 else ""
        ends = (address, client.getsockname()[0]), (port, client.getsockname()[1])
        local, remote = ([prefix + host, number] for host, number in zip(*ends))
        me.add(
            "orphans",
            state="SYN_RECV",
            kind="request",
            family="AF_INET6",
            made=time.time(),
            local=local,
            remote=remote,
            listener=me.end(half),
        )


def _fast_open(me: Process) -> None:
    listener = _listener(me, options={"TCP_FASTOPEN": 7})
    listener.setsockopt(TCP, socket.TCP_FASTOPEN, 7)
    client = _new(me, note="its SYN waits for data", options={"TCP_FASTOPEN_CONNECT": 1})
    client.setsockopt(TCP, 30, 1)
    no_cookie = 34
    client.setsockopt(TCP, no_cookie, 1)
    client.connect(listener.getsockname())


def _md5(me: Process) -> None:
    """Signed segments; the second listener has a key for a network."""
    key = b"a key of the test's"
    for option, prefix in ((TCP_MD5SIG, 0), (TCP_MD5SIG_EXT, 8)):
        host = "127.0.0.0" if prefix else "127.0.0.1"
        address = struct.pack("=HH4s120x", V4, 0, socket.inet_aton(host))
        value = struct.pack("=128sBBHi80s", address, 1 if prefix else 0, prefix, len(key), 0, key)
        name = "TCP_MD5SIG_EXT" if prefix else "TCP_MD5SIG"
        listener = _listener(me, note=name)
        listener.setsockopt(TCP, option, value)
        client = _new(me, note=name)
        client.setsockopt(TCP, option, value)
        client.settimeout(10)
        client.connect(listener.getsockname())
        client.settimeout(None)
        _accept(me, client, listener, signed=name)


def _authentication(me: Process) -> None:
    """TCP-AO, if the kernel has it."""
    key = b"another key of the test's"
    address = struct.pack("=HH4s120x", V4, 0, socket.inet_aton("127.0.0.1"))
    value = struct.pack(
        "=128s64siIHBBBBBB80s",
        address,
        b"hmac(sha1)",
        *(0, 0, 0),
        *(32, 100, 100, 0, 0, len(key)),
        key,
    )
    listener = _listener(me, note="TCP-AO")
    listener.setsockopt(TCP, TCP_AO_ADD_KEY, value)
    client = _new(me, note="TCP-AO")
    client.setsockopt(TCP, TCP_AO_ADD_KEY, value)
    client.settimeout(10)
    client.connect(listener.getsockname())
    client.settimeout(None)
    _accept(me, client, listener, signed="TCP-AO")


#: Name, version, cipher, sizes of iv, key, salt: struct tls12_crypto_info_*.
_CIPHERS = (
    ("TLS 1.2, AES-GCM-128", 0x303, 51, 8, 16, 4),
    ("TLS 1.3, AES-GCM-128", 0x304, 51, 8, 16, 4),
    ("TLS 1.2, AES-GCM-256", 0x303, 52, 8, 32, 4),
    ("TLS 1.3, CHACHA20-POLY1305", 0x304, 54, 12, 32, 0),
)


def _tls(me: Process) -> None:
    listener = _listener(me)

    def pair(note: str, **row: Any) -> tuple[socket.socket, socket.socket]:
        client = _new(me, note=note)
        client.connect(listener.getsockname())
        server = _accept(me, client, listener, **row)
        me.note(server, note=note)
        for sock in (client, server):
            sock.setsockopt(TCP, TCP_ULP, b"tls")
        return client, server

    pair("TLS, without keys")
    for name, version, cipher, iv, key, salt in _CIPHERS:
        client, server = pair(name, tls=name)
        sizes = (iv, key, salt)
        keys = [struct.pack("=HH", version, cipher) + bytes([n] * sum(sizes)) for n in (1, 2)]
        there, back = (text + bytes(8) for text in keys)
        try:
            for sock, sends, receives in ((client, there, back), (server, back, there)):
                sock.setsockopt(SOL_TLS, TLS_TX, sends)
                sock.setsockopt(SOL_TLS, TLS_RX, receives)
        except OSError as error:
            me.skip(name, error)
            continue
        _exchange(client, server)
        client.send(b"unread" * 10)
    client, _ = pair("TLS, sending only", tls="sends")
    client.setsockopt(SOL_TLS, TLS_TX, struct.pack("=HH36x", 0x303, 51))


def _other_user(me: Process) -> None:
    # The owner of a socket is the user that made it.
    os.seteuid(UID)
    try:
        listener = _listener(me, note=f"of user {UID}", options={"uid": UID})
        client = _new(me, V4, note=f"of user {UID}", options={"uid": UID})
        client.connect(listener.getsockname())
        waiting = _new(me, V6, note=f"of user {UID}", options={"uid": UID})
        waiting.bind(("::1", 0))
        a, b = (me.hold(sock, options={"uid": UID}) for sock in socket.socketpair())
    finally:
        os.seteuid(0)
    me.add("pairs", a=me.end(a), b=me.end(b), how="socketpair", uid=UID)
    _accept(me, client, listener)


def _some_sockets(me: Process, **facts: Any) -> None:
    listener = _listener(me, V4, **facts)
    client = _new(me, V4, **facts)
    client.connect(listener.getsockname())
    me.note(_accept(me, client, listener), **facts)
    udp = me.hold(socket.socket(V6, socket.SOCK_DGRAM), **facts)
    udp.bind(("::1", 0))
    named = me.hold(socket.socket(socket.AF_UNIX, STREAM), **facts)
    named.bind(f"\0ds-{me.role}")
    me.hold(socket.socket(V4, socket.SOCK_RAW, 252), **facts)


def _cgroups(me: Process) -> None:
    """Sockets of another control group, and of one that is removed."""
    if not (CGROUP / "cgroup.procs").exists():
        raise OSError(2, "no cgroup2 at /sys/fs/cgroup")
    home = Path("/proc/self/cgroup").read_text().partition("0::")[2].splitlines()[0]
    for name in (f"ds-{me.pid}/inner group", f"ds-{me.pid}-gone"):
        path = CGROUP / name
        path.mkdir(parents=True)
        me.cleanup.setdefault("cgroups", []).append(str(path))
        inode = path.stat().st_ino

        def body(child: Process, path: Path = path, name: str = name, inode: int = inode) -> None:
            child.drop_all_but()
            (path / "cgroup.procs").write_text(str(child.pid))
            _some_sockets(child, options={"cgroup": f"/{name}", "cgroup_id": inode})
            if name.endswith("gone"):
                (CGROUP / home.lstrip("/") / "cgroup.procs").write_text(str(child.pid))

        me.spawn("tcp-gone" if name.endswith("gone") else "tcp-cgroup", body).finish()
    (CGROUP / f"ds-{me.pid}-gone").rmdir()
    me.cleanup["cgroups"].append(str(CGROUP / f"ds-{me.pid}"))


def _class_id(me: Process) -> None:
    """A process with a class for its packets (cgroup v1, in a mount namespace of its own)."""

    def body(child: Process) -> None:
        child.drop_all_but()
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(b"", b"/", b"", syscalls.MS_REC | syscalls.MS_PRIVATE)
        place = child.work / "net_cls"
        place.mkdir()
        try:
            syscalls.mount(b"ds", os.fsencode(place), b"cgroup", 0, b"net_cls")
        except OSError as error:
            child.skip("net_cls", error)
            return
        inner = place / f"ds-{child.pid}"
        inner.mkdir()
        (inner / "net_cls.classid").write_text(str(CLASSID))
        (inner / "cgroup.procs").write_text(str(child.pid))
        _some_sockets(child, options={"classid": CLASSID})

    me.spawn("tcp-class", body).finish()


def run(me: Process) -> None:
    me.modprobe("tls")
    _algorithms(me)
    _values(me)
    _places(me)
    _mapped(me)
    _other_user(me)
    for what, part in (
        ("TCP Fast Open", _fast_open),
        ("TCP_MD5SIG", _md5),
        ("TCP-AO", _authentication),
        ("TLS", _tls),
        ("control groups", _cgroups),
        # Last: before 5.15 a socket has a class or a control group, and no more control groups
        # once there is a class (8520e224f547, "bpf, cgroups: Fix cgroup v2 fallback on v1/v2
        # mixed mode").
        ("net_cls", _class_id),
    ):
        me.attempt(what, lambda part=part: part(me))  # type: ignore[misc]
