# SPDX-License-Identifier: LGPL-2.1-or-later
"""Are details written as ss writes them? What is expected is out of iproute2's misc/ss.c."""

from __future__ import annotations

from typing import Any

import pytest

from drgn_sockets.kernel.cgroup import CgroupPath
from drgn_sockets.records import socket as socket_records
from drgn_sockets.records.families.unix import UnixRecord, UnixSock
from drgn_sockets.records.holder import SocketInode
from drgn_sockets.records.socket import SocketRecord, Timer, cgroup_text
from drgn_sockets.views.extended import extended_text, timer_text

from .fake_kernel import decoded
from .fake_sockets import KERNEL, UDP, inet

# As print_ms_timer() has it since iproute2 commit 3e807112
# ("ss: fix expired time format of timer").
TIMES = [
    (0, ""),
    (-3, ""),
    (0.004, "004ms"),
    (0.2, "200ms"),
    (0.9996, "1sec"),
    (1, "1sec"),
    (4.276, "4.276sec"),
    (9.999, "9.999sec"),
    (10.5, "10sec"),
    (44, "44sec"),
    (59.999, "59sec"),
    (60, "1min"),
    (61.5, "1min1sec"),
    (599, "9min59sec"),
    (600, "10min"),
    (659, "10min"),
    (7199.9, "119min"),
]


@pytest.mark.parametrize(("seconds", "text"), TIMES)
def test_times(seconds: float, text: str) -> None:
    assert timer_text(Timer("keepalive", seconds, 0, 3)) == f"timer:(keepalive,{text},3)"


def test_timers() -> None:
    assert timer_text(None) is None
    # The kernel sends SYN-ACKs again by a timer of its own; sock_diag calls it 1.
    assert timer_text(Timer("synack", 1, 0, 2)) == "timer:(on,1sec,2)"
    assert timer_text(Timer("timewait", 59, 0, 0)) == "timer:(timewait,59sec,0)"


def cgroup(path: bytes, *, removed: bool = False) -> CgroupPath:
    found = CgroupPath(path)
    found.id, found.removed = 0x1234, removed
    return found


def test_cgroups() -> None:
    assert cgroup_text(None) is None
    assert cgroup_text(cgroup(b"/")) == "cgroup:/"
    assert cgroup_text(cgroup(b"/a.slice/b\n")) == "cgroup:/a.slice/b\\n"
    assert cgroup_text(cgroup(b"/a.slice", removed=True)) == "cgroup:unreachable:1234"


@pytest.fixture(autouse=True)
def everybody_in_a_cgroup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        socket_records,
        "sock_cgroup_path",
        lambda prog, sk: cgroup(b"/x") if hasattr(sk, "shutdown") else None,
    )
    known = {("sock_i_uid",): 0xFFFFFFFF81000000}
    monkeypatch.setitem(KERNEL.prog.cache, "drgn_sockets.kernel.symbols.symbol_address", known)


def sock(local: str, remote: str = "", *, uid: int | None = None, **members: Any) -> SocketRecord:
    usual = {"cookie": 0x1F, "mark": 0, "shutdown": 0, "ipv6only": 0}
    record = inet(local, 22, remote, 4711 if remote else 0, **{**usual, **members})
    record.inode = None if uid is None else SocketInode(123, uid)
    return record


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (sock("127.0.0.1", uid=0), "ino:123 sk:1f cgroup:/x <->"),
        (sock("127.0.0.1", uid=1000), "uid:1000 ino:123 sk:1f cgroup:/x <->"),
        # An orphan.
        (sock("127.0.0.1", "127.0.0.2", shutdown=3), "ino:0 sk:1f cgroup:/x ---"),
        (sock("127.0.0.1", "127.0.0.2", shutdown=1, uid=0), "ino:123 sk:1f cgroup:/x -->"),
        (sock("127.0.0.1", "127.0.0.2", shutdown=2, uid=0), "ino:123 sk:1f cgroup:/x <--"),
        (sock("127.0.0.1", mark=19, uid=0), "ino:123 sk:1f fwmark:0x13 cgroup:/x <->"),
        # Of IPv6 sockets that are not connected.
        (sock("::", uid=0), "ino:123 sk:1f cgroup:/x v6only:0 <->"),
        (sock("::", uid=0, ipv6only=1), "ino:123 sk:1f cgroup:/x v6only:1 <->"),
        (sock("::1", "::1", uid=0), "ino:123 sk:1f cgroup:/x <->"),
        (sock("::", uid=0, kind=UDP, num=0), "ino:123 sk:1f cgroup:/x v6only:0 <->"),
    ],
)
def test_inet(record: SocketRecord, words: str) -> None:
    assert extended_text(record) == f"{words} addr:{record.sk:#x} netns:1"


def test_unix(monkeypatch: pytest.MonkeyPatch) -> None:
    def unix(state: int, shutdown: int) -> UnixRecord:
        values = {"family": 1, "type": 1, "protocol": 0, "state": state, "shutdown": shutdown}
        return UnixRecord(KERNEL.prog, decoded(UnixSock, **values), 1)

    monkeypatch.setattr(UnixRecord, "socket_file", lambda self: None)
    assert extended_text(unix(1, 0)).startswith("<-> addr:")
    assert extended_text(unix(1, 3)).startswith("--- addr:")
    monkeypatch.setattr(UnixRecord, "socket_file", lambda self: (5, 25))
    assert extended_text(unix(1, 0)).startswith("<-> ino:5 dev:0/25 addr:")
    monkeypatch.setattr(UnixRecord, "socket_file", lambda self: (5, 254 << 20 | 1))
    monkeypatch.setattr(UnixRecord, "pending", lambda self: [77, 0])
    assert extended_text(unix(10, 0)).startswith("<-> ino:5 dev:254/1 peers: 77 0 addr:")
