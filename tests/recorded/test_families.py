# SPDX-License-Identifier: LGPL-2.1-or-later
"""The families beyond TCP, UDP, raw and unix: each against what procfs, ss and workloads say."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any

from drgn_sockets.records.reader import for_each_socket
from drgn_sockets.records.socket import SocketRecord
from tests import tables

from .machine import Core

PROCFS = "Families: lines of procfs"


def walked(core: Core, group: str) -> dict[int, Any]:
    """Sockets that the walk of a family finds without help of the file tables."""
    found: dict[int, Any] = {}
    for record in for_each_socket(core.prog, [group]):
        assert isinstance(record, SocketRecord), record
        assert record.group == group and record.sk not in found
        found[record.sk] = record
    return found


def lines_of(core: Core, file: str) -> Iterator[tuple[int, list[str]]]:
    """Lines of a file of ``/proc/net`` of all network namespaces, as words, without headings."""
    for place in sorted((core.oracle / "netns").iterdir()):
        path = place / "net" / file
        if path.exists():
            for line in path.read_text().splitlines()[1:]:
                yield int(place.name), line.split()


def end(text: str) -> tuple[str, int]:
    """An address and a port as ``/proc/net/icmp6`` writes them."""
    host, port = text.split(":")
    words = [int(host[i : i + 8], 16) for i in range(0, len(host), 8)]
    raw = struct.pack(f"={len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET6 if len(raw) == 16 else socket.AF_INET, raw), int(
        port, 16
    )


def test_ping_is_what_procfs_has(core: Core) -> None:
    ours = walked(core, "ping")
    theirs: dict[int, dict[str, Any]] = {}
    for file in ("icmp", "icmp6"):
        for netns, words in lines_of(core, file):
            # icmp6 shows IPv4 sockets as well, with what they have of an IPv6 address.
            is_v6 = file == "icmp6"
            row = {
                "netns": netns,
                "local": end(words[1]),
                "remote": end(words[2]),
                "state": int(words[3], 16),
                "uid": int(words[7]),
                "ino": int(words[9]),
                "refcnt": int(words[10]),
            }
            sk = int(words[11], 16)
            mine = ours.get(sk)
            if is_v6 and mine is not None and mine.family == socket.AF_INET:
                continue
            theirs[sk] = row
            tables.note(PROCFS, f"net/{file}", core.kernel, 1, int(mine is not None))
    assert theirs and ours.keys() == theirs.keys()
    for sk, row in theirs.items():
        mine = ours[sk]
        assert {
            "netns": mine.netns,
            "local": (mine.local_address, mine.local_port),
            "remote": (mine.remote_address, mine.remote_port),
            "state": mine.state,
            "uid": mine.uid,
            "ino": mine.ino,
            "refcnt": mine.sock.refcnt,
        } == row
    assert {(r.family, r.state) for r in ours.values()} == {
        (family, state) for family in (socket.AF_INET, socket.AF_INET6) for state in (1, 7)
    }


def test_ping_sockets_without_an_identifier(core: Core) -> None:
    """In no table: they are found through the file tables."""
    hashed = {row["sk"] for row in core.rows("ss", "-a") if row["netid"] in ("icmp", "icmp6")}
    hashed -= {f"{sk:#x}" for sk in walked(core, "ping")}
    rows = [row for row in core.rows("ss", "-a") if row["sk"] in hashed]
    inodes = {
        entry["inode"]
        for process in core.accounts["udp_raw"]["processes"]
        for entry in process["fds"]
        if entry.get("note") == "ping, no id"
    }
    assert inodes and {row["ino"] for row in rows} == inodes
    assert {(row["netid"], row["state"]) for row in rows} == {
        ("icmp", "UNCONN"),
        ("icmp6", "UNCONN"),
    }
