# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Compare an account with procfs of this machine.

Accounts are not made from procfs, so the two check each other: where they differ, one of them is
wrong, and tests that rely on it would fail without a reason.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Any

from .account import Account, ProcessAccount, problems
from .process import TCP_STATES


def _links(process: ProcessAccount) -> dict[int, str | None]:
    path = Path(f"/proc/{process['pid']}/task/{process['tid']}/fd")
    found: dict[int, str | None] = {}
    for entry in path.iterdir():
        try:
            found[int(entry.name)] = os.fsdecode(os.readlink(os.fsencode(entry)))  # noqa: PTH115
        except OSError:
            # The path is longer than a page.
            found[int(entry.name)] = None
    return found


def _position(process: ProcessAccount, fd: int) -> tuple[int, int]:
    """The position and flags that fdinfo gives."""
    path = Path(f"/proc/{process['pid']}/task/{process['tid']}/fdinfo/{fd}")
    lines = dict(line.split(":", 1) for line in path.read_text(errors="replace").splitlines()[:2])
    return int(lines["pos"]), int(lines["flags"], 8)


def _process(process: ProcessAccount) -> list[str]:
    where = f"{process['role']} ({process['pid']}/{process['tid']})"
    found = []
    comm = Path(f"/proc/{process['pid']}/task/{process['tid']}/comm").read_bytes()[:-1]
    if os.fsencode(process["comm"]) != comm:
        found.append(f"{where}: comm {process['comm']!a}, but {comm!r}")
    if process.get("zombie") or "shares_files_with" in process or "fd_ranges" in process:
        return found
    links = _links(process)
    wanted = {entry["fd"]: entry for entry in process["fds"]}
    if process.get("steady", True):
        extra = {fd: links[fd] for fd in links.keys() - wanted.keys()}
        if extra:
            found.append(f"{where}: also open are {extra!a}")
    for fd, entry in wanted.items():
        if fd not in links:
            found.append(f"{where} fd {fd}: not open")
            continue
        if entry["name"] is not None and entry["name"] != links[fd]:
            found.append(f"{where} fd {fd}: name {entry['name']!a}, but {links[fd]!a}")
        pos, flags = _position(process, fd)
        if entry["pos"] is not None and entry["pos"] != pos and fd > 2:
            found.append(f"{where} fd {fd}: position {entry['pos']}, but {pos}")
        if (entry["raw_flags"] | (os.O_CLOEXEC if entry["cloexec"] else 0)) != flags:
            found.append(f"{where} fd {fd}: flags {entry['raw_flags']:o}, but {flags:o}")
    return found


def _address(text: str) -> tuple[str, int]:
    """An address as /proc/net/tcp and tcp6 have it: words in host byte order."""
    address, _, port = text.partition(":")
    words = [int(address[i : i + 8], 16) for i in range(0, len(address), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return socket.inet_ntop(family, packed), int(port, 16)


def _tcp_rows(pid: int) -> list[tuple[tuple[str, int], tuple[str, int], str, int]]:
    rows = []
    for name in ("tcp", "tcp6"):
        path = Path(f"/proc/{pid}/net/{name}")
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            parts = line.split()
            state = TCP_STATES[int(parts[3], 16)]
            rows.append((_address(parts[1]), _address(parts[2]), state, int(parts[9])))
    return rows


def _tcp(account: Account) -> list[str]:
    """Compare TCP states: of sockets that descriptors hold, and of those that none holds."""
    found = []
    rows: dict[int, list[Any]] = {}
    for process in account["processes"]:
        rows.setdefault(process["netns"], _tcp_rows(process["pid"]))
    states = {row[3]: row[2] for table in rows.values() for row in table}
    for process in account["processes"]:
        for entry in process["fds"]:
            state = states.get(entry["inode"])
            if not state:
                continue
            # An MPTCP socket's inode is also that of its first subflow, a TCP socket.
            if entry.get("protocol") == socket.IPPROTO_TCP and entry.get("state") != state:
                found.append(
                    f"{process['pid']} fd {entry['fd']}: {entry.get('state')}, but {state}"
                )
    home = rows.get(account["processes"][0]["netns"], [])
    for orphan in account.get("orphans", []):
        places = [tuple(place[:2]) for place in orphan.get("locals", [orphan.get("local")])]
        remote = tuple(orphan["remote"][:2])
        state = orphan.get("substate", orphan["state"])
        if not any(row[0] in places and row[1] == remote and row[2] == state for row in home):
            seen = {row[2] for row in home if row[0] in places and row[1] == remote}
            found.append(f"no {state} with {remote}, but {seen or 'nothing'}")
    return found


def _kernel_sockets(account: Account) -> list[str]:
    """Compare ports of sockets that the kernel made for itself."""
    inside = {process["netns"]: process["pid"] for process in account["processes"]}
    found = []
    for row in account.get("kernel_sockets", []):
        name = row["protocol"] + ("6" if row["family"] == "AF_INET6" else "")
        text = Path(f"/proc/{inside[row['netns']]}/net/{name}").read_text()
        ports = {int(line.split()[1].rpartition(":")[2], 16) for line in text.splitlines()[1:]}
        if row["port"] not in ports:
            found.append(f"no {name} port {row['port']}, which {row['made_by']} opened")
    return found


def disagreements(account: Account) -> list[str]:
    """List all differences between an account and procfs."""
    found = problems(dict(account))
    for process in account["processes"]:
        try:
            found += _process(process)
        except FileNotFoundError:
            found.append(f"{process['role']} ({process['pid']}): gone")
    return found + _tcp(account) + _kernel_sockets(account)
