# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``ss -i``: connections of many kinds, of which ``TCP_INFO`` and iproute2's ``ss`` tell before and
after we do.
"""

from __future__ import annotations

import contextlib
import csv
import os
import re
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drgn import Object, Program

from tests.recorded.info_words import NEWER, member_names, words
from tests.recorded.ss_text import parse_ss

from . import truth
from .truth import ours, ours_json

_SYSCTL = Path("/proc/sys/net/ipv4")
_SOL_TLS = 282
_TLS_TX, _TLS_RX = 1, 2
_TCP_ULP = 31
_IPPROTO_MPTCP = 262
#: Of net/ipv4; those that there are.
_ALGORITHMS = (
    *("reno", "cubic", "bbr", "vegas", "yeah", "illinois", "westwood", "nv", "veno", "cdg"),
    *("bic", "dctcp", "highspeed", "htcp", "hybla", "lp", "scalable"),
)


@contextlib.contextmanager
def sysctl(**values: object) -> Iterator[None]:
    """Settings of the network namespace, for a while."""
    before = {name: (_SYSCTL / name).read_text() for name in values}
    try:
        for name, value in values.items():
            (_SYSCTL / name).write_text(str(value))
        yield
    finally:
        for name, value in before.items():
            (_SYSCTL / name).write_text(value)


class Scene:
    """Sockets by name, and what keeps them alive."""

    def __init__(self) -> None:
        self.named: dict[str, socket.socket] = {}
        self.kept: list[Any] = []

    def pair(
        self,
        name: str,
        *options: tuple[int, int, int | bytes],
        family: socket.AddressFamily = socket.AF_INET,
    ) -> tuple[socket.socket, socket.socket]:
        """A connection with options that are set before it is made, on both sides."""
        host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        listener = socket.socket(family, socket.SOCK_STREAM)
        client = socket.socket(family, socket.SOCK_STREAM)
        for sock in (listener, client):
            for option in options:
                sock.setsockopt(*option)
        listener.bind((host, 0))
        listener.listen(4)
        client.connect(listener.getsockname())
        server = listener.accept()[0]
        listener.close()
        self.named[name], self.named[name + " server"] = client, server
        return client, server


def send(source: socket.socket, to: socket.socket, size: int, *, seconds: float = 20) -> None:
    """Send so much, and read it at the other end."""
    source.setblocking(False)
    to.setblocking(False)
    data, got, end = bytes(65536), 0, time.monotonic() + seconds
    while got < size and time.monotonic() < end:
        with contextlib.suppress(BlockingIOError):
            size_left = size - got
            source.send(data[: min(len(data), size_left)])
        select.select([to], [], [], 0.05)
        with contextlib.suppress(BlockingIOError):
            got += len(to.recv(1 << 20))


def talk(client: socket.socket, server: socket.socket) -> None:
    """A question and an answer, some times."""
    for _ in range(5):
        send(client, server, 100)
        send(server, client, 300)


def fill(source: socket.socket) -> None:
    """Send until nothing more goes in."""
    source.setblocking(False)
    idle = 0
    while idle < 3:
        try:
            source.send(bytes(65536))
        except BlockingIOError:
            idle += 1
            time.sleep(0.1)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    made = Scene()
    for module in (*(f"tcp_{name}" for name in _ALGORITHMS), "tls", "sch_netem", "mptcp_diag"):
        truth.tool("modprobe", "-q", module, status=None)
    allowed = _SYSCTL / "tcp_allowed_congestion_control"
    allowed.write_text((_SYSCTL / "tcp_available_congestion_control").read_text())
    tcp = socket.IPPROTO_TCP

    talk(*made.pair("plain"))
    talk(*made.pair("six", family=socket.AF_INET6))
    talk(*made.pair("nodelay", (tcp, socket.TCP_NODELAY, 1)))
    talk(*made.pair("maxseg", (tcp, socket.TCP_MAXSEG, 600)))
    send(*made.pair("paced", (socket.SOL_SOCKET, 47, 10_000_000)), 300_000)  # SO_MAX_PACING_RATE
    for name in allowed.read_text().split():
        client, server = made.pair(name, (tcp, socket.TCP_CONGESTION, name.encode()))
        send(client, server, 400_000)
        talk(client, server)
    with sysctl(tcp_ecn=1):
        dctcp = (tcp, socket.TCP_CONGESTION, b"dctcp")
        client, server = made.pair("ecn", *([dctcp] if "dctcp" in made.named else []))
        send(client, server, 400_000)
        talk(client, server)
    with contextlib.suppress(OSError), sysctl(tcp_ecn=3):
        # Accurate ECN, where there is that.
        client, server = made.pair("accurate ecn")
        send(client, server, 400_000)
        talk(client, server)
    with sysctl(tcp_timestamps=0, tcp_window_scaling=0, tcp_sack=0):
        talk(*made.pair("no options"))
    fill(made.pair("full")[0])
    small = (socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
    fill(made.pair("full and small", small)[0])
    _lossy(made, small)
    _fast_open(made)
    _tls(made)
    _states(made)
    with contextlib.suppress(OSError):
        mptcp = [socket.socket(socket.AF_INET, socket.SOCK_STREAM, _IPPROTO_MPTCP) for _ in "ab"]
        mptcp[0].bind(("127.0.0.1", 0))
        mptcp[0].listen()
        mptcp[1].connect(mptcp[0].getsockname())
        mptcp.append(mptcp[0].accept()[0])
        made.kept += mptcp
        talk(mptcp[1], mptcp[2])
    # Delayed ACKs and what is sent again at once shall be over, and the SYN that nobody answers
    # has been sent again.
    time.sleep(2.5)
    yield made
    for sock in (*made.named.values(), *made.kept):
        sock.close()


def _lossy(made: Scene, small: tuple[int, int, int]) -> None:
    """Over a path with a delay, that loses and reorders."""
    pairs = [made.pair(f"lossy {i}") for i in range(3)]
    slow = made.pair("slow", small)
    if _netem("add", "delay", "10ms", "3ms", "loss", "8%", "duplicate", "3%", "reorder", "20%"):
        return
    try:
        for client, server in pairs:
            send(client, server, 3_000_000, seconds=6)
        send(*slow, 500_000, seconds=4)
        # Left as it is, with segments that are lost.
        unfinished, _ = made.pair("unfinished")
        unfinished.setblocking(False)
        _netem("change", "loss", "100%")
        unfinished.send(bytes(60_000))
        time.sleep(1.5)
    finally:
        truth.tool("tc", "qdisc", "del", "dev", "lo", "root")


def _netem(what: str, *how: str) -> int:
    """Make loopback a worse network; 0 if that works."""
    argv = ("tc", "qdisc", what, "dev", "lo", "root", "netem", *how)
    return truth.tool(*argv, status=None).returncode


def _fast_open(made: Scene) -> None:
    with sysctl(tcp_fastopen=3):
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
        made.named["fast open listener"] = listener
        for i in range(2):
            client = socket.socket()
            client.sendto(b"x" * 50, socket.MSG_FASTOPEN, listener.getsockname())
            made.named[f"fast open {i}"] = client
            made.named[f"fast open {i} server"] = listener.accept()[0]


def _tls(made: Scene) -> None:
    client, server = made.pair("tls")
    try:
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_ULP, b"tls")
        # TLS 1.2 and 1.3, AES-GCM-128: version, cipher, then IV, key, salt and sequence number.
        client.setsockopt(_SOL_TLS, _TLS_TX, struct.pack("HH", 0x0303, 51) + bytes(36))
        server.setsockopt(_SOL_TLS, _TLS_TX, struct.pack("HH", 0x0304, 51) + bytes(36))
        server.setsockopt(_SOL_TLS, _TLS_RX, struct.pack("HH", 0x0304, 51) + bytes(36))
    except OSError as e:
        print("no TLS in this kernel:", e)


def _states(made: Scene) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    made.named["listener"] = listener
    for i in range(2):
        # The first waits to be accepted, the next for an answer.
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(listener.getsockname())
        made.named[f"waiting {i}"] = client
    client, _ = made.pair("half closed")
    client.shutdown(socket.SHUT_WR)
    client, server = made.pair("timewait")
    del made.named["timewait"], made.named["timewait server"]
    client.close()
    time.sleep(0.1)
    server.close()
    made.named["never bound"] = socket.socket()


class Looks:
    """What the kernel and ss tell, then we, then they once more."""

    def __init__(self, prog: Program, made: Scene) -> None:
        self.prog = prog
        # So that all that is looked up once is.
        ours(prog, "ss -ta --output info")
        started = time.monotonic()
        before = _tcp_infos(prog, made), _ss()
        self.mine = {
            row["ino"]: row for row in ours_json(prog, "ss -ta --output +ino,cookie,info,ca_state")
        }
        lines = ours(prog, "ss -ta --csv --output cookie,info").splitlines()
        self.texts = {int(cookie): info for cookie, info in list(csv.reader(lines))[1:]}
        after = _tcp_infos(prog, made), _ss()
        #: No look was longer before the other.
        self.took_ms = 1000 * (time.monotonic() - started)
        #: Fields of TCP_INFO by socket, and words of ss by cookie; each twice.
        self.infos = {name: (info, after[0][name]) for name, info in before[0].items()}
        self.words = {c: (w, after[1][c]) for c, w in before[1].items() if c in after[1]}

    def between(self, key: str, value: float, one: float, other: float) -> bool:
        """Whether a value can be from between the looks."""
        if key.startswith("last"):
            # It counts from an earlier moment at one look, or at the other, if something came.
            return 0 <= value - one <= self.took_ms or 0 <= other - value <= self.took_ms
        if key == "total_rto_time_ms":
            # While it grows, it is to some tenths of a second.
            return one - 500 <= value <= other + 500
        return min(one, other) <= value <= max(one, other)

    def words_between(self, key: str, value: str, one: str, other: str) -> bool:
        """Whether the numbers in a word can be, and the rest is the same."""
        split = [re.split(r"([\d.]+)", text) for text in (value, one, other)]
        if split[0][::2] != split[1][::2] or split[0][::2] != split[2][::2]:
            return False
        numbers = [[float(n) for n in parts[1::2]] for parts in split]
        return all(self.between(key, *these) for these in zip(*numbers))


def _tcp_infos(prog: Program, made: Scene) -> dict[str, dict[str, int]]:
    type_ = prog.type("struct tcp_info")
    found = {}
    for name, sock in made.named.items():
        data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1024)
        info = Object.from_bytes_(prog, type_, data.ljust(type_.size or 0, b"\0"))
        found[name] = {m: getattr(info, m).value_() for m in member_names(type_)}
    return found


def _ss() -> dict[int, dict[str, str]]:
    """Words of ss -i, by cookie."""
    found = {}
    for row in parse_ss("".join("tcp " + line for line in _ss_lines())):
        assert row.cookie
        text = row.more.partition("skmem:(")[2].partition(")")[2]
        found[row.cookie] = words(text, _BASE)
    return found


def _ss_lines() -> list[str]:
    return truth.tool("ss", "-tainoemOH").stdout.splitlines(keepends=True)


_VERSION = re.search(r"iproute2-(\d+)\.(\d+)", truth.tool("ss", "-V").stdout)
assert _VERSION
# Hexadecimal until iproute2 6.8.
_BASE = 16 if (int(_VERSION[1]), int(_VERSION[2])) < (6, 8) else 10


@pytest.fixture(scope="module")
def looks(prog: Program, scene: Scene) -> Looks:
    return Looks(prog, scene)


def test_every_field_is_what_tcp_info_says(scene: Scene, looks: Looks) -> None:
    compared: Counter[str] = Counter()
    wrong = []
    for name, sock in scene.named.items():
        mine = looks.mine[os.fstat(sock.fileno()).st_ino]["info"]
        before, after = looks.infos[name]
        for key, value in mine.items():
            member = "tcpi_" + re.sub("_[um]s$", "", key)
            if member not in before:
                assert not isinstance(value, int), key
                continue
            if not looks.between(key, value, before[member], after[member]):
                wrong.append(f"{name}: {key} {value}, not {before[member]} to {after[member]}")
            compared[key] += before[member] not in (0, 0xFFFFFFFF, (1 << 64) - 1)
        if mine["state"] != 10:
            told = {"tcpi_" + re.sub("_[um]s$", "", key) for key in mine}
            silent = {"tcpi_fackets", "tcpi_last_ack_sent", "tcpi_options2"}
            assert before.keys() - told == silent & before.keys(), name
    assert not wrong, "\n".join(wrong)
    # What a test did not have is not tested.
    fields = {name for row in looks.mine.values() for name in row["info"] or ()}
    assert {key for key in fields if not compared[key]} <= NOT_MADE, compared


#: Fields that are 0 in every connection here, and those that are not of ``TCP_INFO``.
NOT_MADE = {
    *("congestion", "vegas", "dctcp", "bbr", "ulp", "tls", "mptcp", "fastopen_client_fail"),
    *("delivered_ce", "received_ce", "accecn_opt_seen", "accecn_fail_mode", "sndbuf_limited_us"),
    *(f"{what}_{how}_bytes" for what in ("received", "delivered") for how in ("e0", "e1", "ce")),
    *("rehash", "reord_seen", "total_rto_recoveries", "total_rto_time_ms", "probes", "sacked"),
}


def test_every_word_is_what_ss_says(scene: Scene, looks: Looks) -> None:
    seen: Counter[str] = Counter()
    wrong = []
    quiet = 0
    for cookie, (before, after) in looks.words.items():
        mine = words(looks.texts[cookie].removeprefix("-"))
        for theirs in (before, after):
            # Secrets.
            theirs.pop("md5keys:", None)
        mine = {key: value for key, value in mine.items() if key in before or key not in NEWER}
        _leave_out_what_modules_have(looks.prog, mine, before, after)
        # A workload may be at work: what it counts grows, but round trips go up and down.
        busy = any(before.get(key) != after.get(key) for key in ("segs_in:", "segs_out:"))
        quiet += not busy
        if busy:
            mine = {key: mine[key] for key in COUNTERS if key in mine}
        elif [*mine] not in ([*before], [*after]):
            wrong.append(f"{cookie:x}: {[*mine]}, not {[*before]}")
        seen.update(mine.keys())
        for key, value in mine.items():
            one, other = before.get(key), after.get(key)
            if value in (one, other):
                continue
            if one is None or other is None or not looks.words_between(key, value, one, other):
                wrong.append(f"{cookie:x}: {key}{value}, not {one} or {other}")
    assert not wrong, "\n".join(wrong)
    assert quiet >= len(scene.named) - 10
    print(*sorted(seen))
    expected = set(WORDS)
    if "nv" in scene.named:
        expected |= set(scene.named) & set(_ALGORITHMS)
    assert {word for word in expected if not seen[word]} == set(), sorted(seen)


# Not "busy:": it runs on while data is under way, and the clock is read after the structure. Of
# connections at rest it is compared.
COUNTERS = (
    *("bytes_sent:", "bytes_acked:", "bytes_received:", "segs_out:", "segs_in:"),
    *("data_segs_out:", "data_segs_in:", "delivered:"),
)
WORDS = (
    *("ts", "sack", "ecn", "ecnseen", "fastopen", "cubic", "wscale:", "rto:", "backoff:", "rtt:"),
    *("ato:", "mss:", "pmtu:", "rcvmss:", "advmss:", "cwnd:", "ssthresh:", "bytes_sent:"),
    *("bytes_retrans:", "bytes_acked:", "bytes_received:", "segs_out:", "segs_in:"),
    *("data_segs_out:", "data_segs_in:", "send ", "lastsnd:", "lastrcv:", "lastack:"),
    *("pacing_rate ", "delivery_rate ", "delivered:", "app_limited", "busy:", "rwnd_limited:"),
    *("unacked:", "retrans:", "lost:", "rcv_rtt:", "rcv_space:", "rcv_ssthresh:"),
    *("notsent:", "minrtt:", "rcv_ooopack:", "snd_wnd:"),
)


def _leave_out_what_modules_have(prog: Program, *all_words: dict[str, str]) -> None:
    # Before v5.11 modules have no BTF, and what they keep has no types then.
    for name, (tag, key) in _IN_MODULES.items():
        try:
            prog.type(f"struct {tag}")
        except LookupError:
            for found in all_words:
                if name in found:
                    found.pop(key, None)


_IN_MODULES = {
    "bbr": ("bbr", "bbr:"),
    "dctcp": ("dctcp", "dctcp:"),
    "vegas": ("vegas", "send "),
    "yeah": ("vegas", "send "),
    "illinois": ("illinois", "send "),
    "westwood": ("westwood", "send "),
    "veno": ("veno", "send "),
    "nv": ("tcpnv", "send "),
}


def test_what_was_asked_for_shows(prog: Program, scene: Scene, looks: Looks) -> None:
    """What the connections were made for is in what we print of them."""

    def text(name: str) -> str:
        return looks.texts[looks.mine[os.fstat(scene.named[name].fileno()).st_ino]["cookie"]]

    assert re.search(r"\bpacing_rate \d+bps/80000000bps", text("paced"))
    assert re.search(r"\bmss:\d{3} ", text("maxseg"))
    assert "wscale" not in text("no options") and not text("no options").startswith(("ts", "sack"))
    assert " rwnd_limited:" in text("full") and " notsent:" in text("full")
    assert text("listener").startswith("cubic cwnd:10 unacked:") and "sacked" not in text(
        "listener"
    )
    for name in set(scene.named) & set(_ALGORITHMS):
        assert name in text(name).split()[:3] or name == "dctcp", text(name)
    if "tls" in looks.mine[os.fstat(scene.named["tls"].fileno()).st_ino]["info"]:
        assert text("tls").partition(" tcp-ulp-")[2].startswith("tls version: 1.2 cipher: aes-gcm")
        assert text("tls server").endswith("version: 1.3 cipher: aes-gcm-128 rxconf: sw txconf: sw")
