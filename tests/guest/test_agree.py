# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fast reader and the plain way, on the running kernel."""

from __future__ import annotations

import json
import os
import resource
import socket
from typing import Any

import pytest
from drgn import Object, Program

from drgn_sockets.kernel.file import File, Inode
from drgn_sockets.kernel.sock import Sock
from drgn_sockets.kernel.structs import Struct
from drgn_sockets.records.families.raw import RawSock
from drgn_sockets.records.families.tcp import TcpSock
from drgn_sockets.records.families.udp import UdpSock
from drgn_sockets.records.families.unix import UnixSock
from tests.recorded.agree import compare

from .truth import Scene, ours_json, shell

# A socket that sends something again while it is looked at differs: it is looked at anew.
_TRIES = 4

STRUCTS: dict[str, type[Struct]] = {
    "tcp": TcpSock,
    "udp": UdpSock,
    "raw": RawSock,
    "u_str": UnixSock,
    "u_dgr": UnixSock,
    "u_seq": UnixSock,
}


def agreed(prog: Program, cls: type[Struct], address: int) -> int:
    for _ in range(_TRIES - 1):
        try:
            return compare(prog, cls, [address])
        except AssertionError:
            continue
    return compare(prog, cls, [address])


def test_sockets_against_the_plain_way(prog: Program, scene: Scene) -> None:
    rows: list[dict[str, Any]] = ours_json(prog, f"ss -a --pid {scene.pid} --output netid,sk")
    seen: dict[str, int] = {}
    for row in rows:
        cls = STRUCTS.get(row["netid"], Sock)
        assert agreed(prog, cls, int(row["sk"], 16)) > 20
        seen[row["netid"]] = seen.get(row["netid"], 0) + 1
    assert seen.keys() >= {"tcp", "udp", "u_str", "u_dgr"}
    assert sum(seen.values()) >= 10


def test_files_against_the_plain_way(prog: Program, scene: Scene) -> None:
    rows = ours_json(prog, f"fds {scene.pid} --output all")
    files = {int(row["file"], 16) for row in rows}
    inodes = {Object(prog, "struct file *", file).f_inode.value_() for file in files}
    for cls, addresses in ((File, files), (Inode, inodes)):
        assert sum(agreed(prog, cls, address) for address in addresses) >= 5 * len(addresses)


@pytest.mark.ours
def test_several_processes_read_the_running_kernel() -> None:
    # Reads of one open /proc/kcore disturb each other; a socket that was read wrongly is not
    # among ours.
    resource.setrlimit(resource.RLIMIT_NOFILE, (20_000, 20_000))
    pairs = [socket.socketpair() for _ in range(5000)]
    try:
        inodes = {os.fstat(end.fileno()).st_ino for pair in pairs for end in pair}
        fds = {end.fileno() for pair in pairs for end in pair}
        for _ in range(2):
            found = shell("--jobs", "3", "ss", "-xa", "--json", "--output", "ino,holders").stdout
            rows = [json.loads(line) for line in found.splitlines()]
            mine = {h["fd"] for row in rows for h in row["holders"] if h["pid"] == os.getpid()}
            assert inodes <= {row["ino"] for row in rows}
            assert fds <= mine
            listed = shell("--jobs", "3", "fds", str(os.getpid()), "--json").stdout
            names = {json.loads(line)["name"] for line in listed.splitlines()}
            assert {f"socket:[{ino}]" for ino in inodes} <= names
    finally:
        for pair in pairs:
            for end in pair:
                end.close()
