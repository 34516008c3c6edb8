# SPDX-License-Identifier: LGPL-2.1-or-later
"""Do filters choose the sockets that iproute2's ``ss`` chooses with the same words?"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from drgn import Program

from drgn_sockets.commands.ss import Ss, _Wanted
from drgn_sockets.records.families.netlink import NetlinkRecord
from drgn_sockets.records.families.unix import UnixRecord
from drgn_sockets.records.holders import Holders
from drgn_sockets.records.reader import for_each_socket
from drgn_sockets.records.socket import SocketRecord

from . import truth

# What a filter means is not a kernel's; some hundred of them take a while.
pytestmark = pytest.mark.ours("6.12")

CGROUP = Path("/sys/fs/cgroup/ds filter")
NETNS = "ds filter"

Key = tuple[str, int, int]

#: Options and filter, as words of a shell.
INET = [
    "-ta",
    "-tl",
    "-t",
    "-u",
    "-ua",
    "-wa",
    "-t4a",
    "-t6a",
    "-tu",
    "-a -f inet6",
    "-a -A tcp,udp",
    "-A tcp",
    "-a -A 'inet,!udp'",
    "-t state established",
    "-t state syn-recv",
    "-t state time-wait",
    "-t state bucket",
    "-t state big",
    "-ta exclude listening exclude time-wait",
    "-t state synchronized exclude established",
    "-tu state closed state close-wait",
    "-ta sport = :8080",
    "-ta sport :8080",
    "-ta 'sport = :8080'",
    "-tua sport = :8081",
    "-ta dport = :8080",
    "-ta dport gt :50000",
    "-ta dport '>=' :8080 and dport '<=' :22222",
    "-ta sport != :8080",
    "-ta sport '<' :1024",
    "-ta sport ne :22222 sport ge :20000",
    "-ta not sport = :8080",
    "-ta '!' sport = :8080 and not dport = :8080",
    "-tua src 127.0.0.1",
    "-tua src 127/8",
    "-tua dst 127.0.0.0/8",
    "-tua src inet:127.0.0.1",
    "-tua not src inet:127.0.0.1",
    "-tua src '[::1]'",
    "-tua src '[::ffff:127.0.0.1]'",
    "-tua src '[::]'",
    "-tua src inet6:'[::]'",
    "-tua src 0.0.0.0",
    "-tua src 0/0",
    "-tua src '*'",
    "-tua dst fd77::/16 or dst 10.0.0.0/8",
    "-tua dst '[fe80::/10]'",
    "-tua src '[::1]:8080' or src 127.0.0.1:8080",
    "-4 -a src localhost",
    "-tua src :22222",
    # From left to right.
    "-ta sport = :8080 or sport = :22222 and dport = :8080",
    "-ta sport = :8080 or '(' sport = :22222 and dport = :8080 ')'",
    "-ta '( sport = :8080 or dst 127.0.0.1 ) and not sport = :22222'",
    "-ta sport = :22222 or sport = :8080 dst 127.0.0.1",
    "-ta dev lo",
    "-ta dev = 1",
    "-ta dev != lo",
    "-ta fwmark = 0x13",
    "-ta fwmark = 0x3/0xf",
    "-ta fwmark != 0/0x10",
    "-ta fwmark = 0",
    f"-ta cgroup = {CGROUP.as_posix()!r}".replace("ds filter", "ds\\ filter"),
    f"-ta cgroup != {CGROUP.as_posix()!r}".replace("ds filter", "ds\\ filter"),
    "-tua autobound",
    "-ua autobound and src 127.0.0.1",
    "-wa sport = :58 or sport = :1",
    "-wa sport = :254",
]
UNIX = [
    "-x",
    "-xa",
    "-xl",
    "-a -f unix",
    "-a -A unix_stream",
    "-a -A u_dgr,u_seq",
    "-x state listening",
    "-xa exclude established",
    "-xa src '*unix*'",
    "-xa src '*UNIX_ZOO*'",
    "-xa src unix:/tmp/drgn-sockets/unix_fork/'*'",
    "-a src unix:/tmp/drgn-sockets/unix_fork/'*'",
    "-a not src unix:/tmp/drgn-sockets/unix_fork/'*'",
    "-xa src '@*'",
    "-xa src '@ds-[a-m]*' or src '/tmp/*'",
    "-xa src '[^/]*'",
    "-xa src '@??????' and autobound",
    "-xa autobound",
    "-xa not autobound",
]
OTHERS = [
    "-0",
    "-0 -a",
    "-A packet_raw",
    "-a -A packet",
    "-0 src ip",
    "-0 src ip:lo",
    "-a src 'link:*:lo'",
    "-a src link:arp or src link:IP",
    "-0 sport = :lo",
    "-0 dev lo",
    "-0 dev != lo",
    "-0 not autobound",
    "-f netlink",
    "-a -A netlink",
    "-f netlink src rtnl",
    "-f netlink src rtnl:kernel",
    "-a src netlink:genl or src netlink:uevent",
    "-f netlink sport = :kernel",
    "-f netlink sport != :0",
    "-f netlink sport gt :0",
    "-f netlink autobound",
    "-f netlink not src 0",
    "-0 -f netlink state closed",
]


@pytest.fixture(scope="module", autouse=True)
def sockets() -> Iterator[None]:
    """What the workloads have not: marks, a cgroup, names and devices."""
    with contextlib.ExitStack() as stack:

        def made(*kind: int) -> socket.socket:
            return stack.enter_context(socket.socket(*kind))

        def listening(family: int, host: str) -> socket.socket:
            listener = made(family, socket.SOCK_STREAM)
            listener.bind((host, 0))
            listener.listen(3)
            return listener

        for mark in (0x13, 0x3, 0x23):
            marked = listening(socket.AF_INET, "127.0.0.1")
            marked.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        for family in (socket.AF_INET, socket.AF_INET6):
            bound = made(family, socket.SOCK_STREAM)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
            bound.listen(1)
            # The kernel chooses their ports.
            made(family, socket.SOCK_DGRAM).connect(("localhost", 9))
            # A user chooses one of those that it might.
            chosen = made(family, socket.SOCK_DGRAM)
            chosen.bind(("localhost", 40001))
        procs = CGROUP / "cgroup.procs"
        CGROUP.mkdir()
        procs.write_text("0")
        inside = listening(socket.AF_INET6, "::")
        stack.enter_context(socket.create_connection(("127.0.0.1", inside.getsockname()[1])))
        (CGROUP.parent / "cgroup.procs").write_text("0")
        made(socket.AF_UNIX, socket.SOCK_DGRAM).bind("")
        made(socket.AF_UNIX, socket.SOCK_DGRAM)
        yield
    CGROUP.rmdir()


# Where all that is shown is in one state, or of one kind, ss leaves that out. A name may have a
# newline in it.
_UNIX_REST = r"(?:[A-Z][A-Z0-9-]+ +)?\d+ +\d+ +\S.*? (\d+) +\S.*? \d+ +(?:<->|-->|<--|---)"
_UNIX_ROW = re.compile(rf"^u_\w+ +{_UNIX_REST}", re.MULTILINE | re.DOTALL)
_UNIX_ROW_ALONE = re.compile(rf"^(?:u_\w+ +)?{_UNIX_REST}", re.MULTILINE | re.DOTALL)


_NETLINK_ROW = re.compile(r"^(?:nl +)?(?:UNCONN +)?\d+ +\d+ +(\d+):(-?\d+) +\S+ +sk=", re.MULTILINE)


def theirs(words: str) -> set[Key]:
    """Unix sockets by their inodes, netlink by protocol and port, others by their cookies."""
    out = truth.tool("ss", "-OnHe", *shlex.split(words)).stdout
    cookies = {("cookie", int(cookie, 16), 0) for cookie in re.findall(r" sk:([0-9a-f]+)\b", out)}
    netlink = {("netlink", int(number), int(port)) for number, port in _NETLINK_ROW.findall(out)}
    # Rows of others would be searched to the end of all.
    alone = words.startswith("-x") or "unix" in words or "u_" in words
    row = _UNIX_ROW_ALONE if alone else _UNIX_ROW
    return cookies | netlink | {("unix", int(ino), 0) for ino in row.findall(out)}


def key(record: SocketRecord) -> Key:
    if isinstance(record, UnixRecord):
        return "unix", record.ino, 0
    if isinstance(record, NetlinkRecord):
        portid = record.sock.portid
        return "netlink", record.protocol, portid - (portid >> 31 << 32)
    return "cookie", record.sock.cookie, 0


class Look(NamedTuple):
    """What there was at a moment."""

    #: Sockets that ss knows of at all, before and after: not UDP-Lite, nor what is in no table.
    known: set[Key]
    #: What it chooses, by its words.
    theirs: dict[str, set[Key]]
    #: Ours.
    records: list[SocketRecord]

    def told(self, keys: set[Key]) -> list[str]:
        """Which sockets those are, for whoever has to look."""
        return [
            f"{key(r)} {type(r).__name__} {r.state} {r.family} {r.local_end()} {r.remote_end()}"
            for r in self.records
            if key(r) in keys
        ]


ALL = [*INET, *UNIX, *OTHERS]
#: Where iproute2's ss does not what it is asked for, and why.
ERRS = {
    "-tua src localhost": "it asks the kernel for the first address, as often as there are some",
    "-tua not src 0/0": "the kernel chooses all of IPv6, and ss, which looks again, none of them",
    "-a -A p_dgr": "it shows packet sockets of all types",
}


@pytest.fixture(scope="module")
def look(prog: Program, sockets: None) -> Look:
    # Whom ss has not shown has no cookie.
    known = theirs("-a -A all")
    chosen = {words: theirs(words) for words in [*ALL, *ERRS]}
    records = [r for r in for_each_socket(prog, holders=Holders(prog)) if r.error is None]
    known &= theirs("-a -A all")
    assert len(known) > 300
    ours = [r for r in records if isinstance(r, SocketRecord) and key(r) in known]
    return Look(known, {words: keys & known for words, keys in chosen.items()}, ours)


def chosen(prog: Program, look: Look, words: str) -> set[Key]:
    """As the command does it."""
    parser = argparse.ArgumentParser()
    Ss().configure(parser)
    argv = ["-N", str(os.getpid()), *shlex.split(words)]
    wanted = _Wanted(prog, parser.parse_intermixed_args(argv))
    names = wanted.tables.family_names()
    return {
        key(record)
        for record in look.records
        if record.family_name in names and all(test(record) for test in wanted.tests)
    }


@pytest.mark.parametrize("words", ALL)
def test_chooses_what_ss_chooses(prog: Program, look: Look, words: str) -> None:
    mine = chosen(prog, look, words)
    assert look.told(mine - look.theirs[words]) == []
    assert look.told(look.theirs[words] - mine) == []


@pytest.mark.parametrize("words", ERRS)
def test_ss_errs(prog: Program, look: Look, words: str) -> None:
    assert chosen(prog, look, words) != look.theirs[words]


def test_ours_in_place_of_these(prog: Program, look: Look) -> None:
    def ours(words: str) -> set[Key]:
        return chosen(prog, look, words)

    assert ours("-tua src localhost") == ours("-tua src 127.0.0.1 or src '[::1]'")
    all_, ipv4 = ours("-tua"), ours("-tua src 0/0")
    assert ipv4 == look.theirs["-tua src 0/0"]
    assert ours("-tua not src 0/0") == all_ - ipv4
    assert ours("-a -A p_dgr") == look.theirs["-a -A packet"] - ours("-a -A p_raw")
    assert 0 < len(ours("-a -A p_dgr")) < len(ours("-a -A p_raw"))


def test_filters_choose_some(look: Look) -> None:
    """Most of them, or there was nothing to compare."""
    some = [words for words in ALL if 0 < len(look.theirs[words]) < len(look.known)]
    assert len(some) > len(ALL) * 2 / 3, sorted(set(ALL) - set(some))


@pytest.mark.parametrize("words", ["-ta sport = :8080", "-x src '*unix*'"])
def test_the_command(prog: Program, look: Look, words: str) -> None:
    rows = truth.ours_json(prog, f"ss -N {os.getpid()} --output family,ino,cookie {words}")
    unix = {("unix", row["ino"], 0) for row in rows if row["family"] == "AF_UNIX"}
    inet = {("cookie", row["cookie"], 0) for row in rows if row["family"] != "AF_UNIX"}
    assert (unix | inet) & look.known == theirs(words) & look.known


def test_names_of_namespaces(prog: Program, tmp_path: Path) -> None:
    subprocess.run(["ip", "netns", "add", NETNS], check=True)
    try:
        inode = (Path("/run/netns") / NETNS).stat().st_ino
        made = truth.ours(prog, f"ss -a -N '{NETNS}' --output netns,netid -H")
        assert set(made.split()[::2]) <= {str(inode)}
        for name in (NETNS, str(inode)):
            assert truth.ours(prog, f"ss -a -N '{name}' -H --output sk") == truth.ours(
                prog, f"ss -a --netns {inode} -H --output sk"
            )
        done = truth.cli(prog, "ss", "-N", "ds fliter", status=2)
        assert f"{NETNS} ({inode})" in done.stderr
        assert f"did you mean {NETNS!r}?" in done.stderr
        assert done.stderr.count("\n") == 1
    finally:
        subprocess.run(["ip", "netns", "delete", NETNS], check=True)
