# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Who holds the other ends of pipes, ptys, eventfds, message queues and unix sockets, against the
saved procfs and ss: lsfd of the guests has no column ENDPOINTS, and what follows is what that of
a newer one does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import tables

from .machine import Core, Row
from .ss_text import SsRow, parse_ss

O_PATH = 0o10000000
MODES = {os.O_RDONLY: b"r-", os.O_WRONLY: b"-w", os.O_RDWR: b"rw"}


class Held(NamedTuple):
    """An fd that procfs had."""

    pid: int
    tid: int | None
    comm: bytes
    fd: int
    link: bytes
    info: dict[str, str]

    @property
    def mode(self) -> bytes:
        return MODES[int(self.info["flags"], 8) & os.O_ACCMODE]

    @property
    def row(self) -> tuple[int, int | None, int]:
        return self.pid, self.tid, self.fd

    def written(self, mode: bytes) -> str:
        return os.fsdecode(b"%d,%b,%d%b" % (self.pid, self.comm, self.fd, mode))


def held(core: Core) -> list[Held]:
    """All of all processes, and of threads with a table of their own."""
    return list(_held(core))


def _held(core: Core) -> Iterator[Held]:
    for where in (*core.oracle.glob("[0-9]*"), *core.oracle.glob("[0-9]*/task/*")):
        tid = int(where.name) if where.parent.name == "task" else None
        pid = int(where.parents[1].name if tid else where.name)
        if pid in core.manifest["excluded"] or not (where / "fd").is_dir():
            continue
        comm = (where / "comm").read_bytes()[:-1]
        for path in (where / "fd").iterdir():
            link = os.readlink(os.fsencode(path))  # noqa: PTH115
            yield Held(pid, tid, comm, int(path.name), link, _info(where, path.name))


def _info(where: Path, fd: str) -> dict[str, str]:
    text = (where / "fdinfo" / fd).read_text()
    return {k: v.strip() for k, _, v in (line.partition(":") for line in text.splitlines())}


class Known(NamedTuple):
    """What an fd is an end of."""

    kind: str
    of: object
    side: str = ""


def known(item: Held, fifos: set[bytes], queues: set[bytes]) -> Known | None:
    """By what procfs had of it."""
    link = item.link
    if int(item.info["flags"], 8) & O_PATH:
        return None
    if link.startswith(b"pipe:["):
        return Known("pipe", link)
    if link == b"anon_inode:[eventfd]":
        return Known("eventfd", item.info["eventfd-id"])
    if link == b"/dev/ptmx":
        return Known("pty", item.info["tty-index"], "master")
    if re.fullmatch(rb"/dev/pts/\d+", link):
        return Known("pty", link[9:].decode(), "slave")
    if link in fifos:
        return Known("fifo", link)
    return Known("mqueue", link) if link in queues else None


def our_rows(core: Core) -> dict[tuple[int, int | None, int], Row]:
    return {(row["pid"], row["tid"], row["fd"]): row for row in core.rows("fds")}


def names(core: Core, kind: str) -> set[bytes]:
    """Of what the workloads opened, by kind."""
    processes = [p for account in core.accounts.values() for p in account.get("processes", ())]
    return {
        os.fsencode(entry["name"])
        for process in processes
        for entry in process["fds"]
        if entry["kind"] == kind and entry["name"]
    }


def test_as_procfs_has_them(elf: Core) -> None:
    rows = our_rows(elf)
    fifos = names(elf, "fifo")
    queues = {n for n in names(elf, "mqueue") if not n.startswith(b"/dev/")}
    ends: dict[tuple[str, object], list[tuple[Held, Known]]] = {}
    for item in held(elf):
        found = known(item, fifos, queues)
        if found is not None:
            ends.setdefault((found.kind, found.of), []).append((item, found))
    compared: dict[str, int] = {}
    with_another = set()
    for (kind, _), alike in ends.items():
        for item, this in alike:
            others = [
                other
                for other, that in sorted(alike, key=lambda pair: pair[0].row[::2])
                if other is not item and (not this.side or this.side != that.side)
            ]
            expected = [o.written(b"" if kind == "eventfd" else o.mode) for o in others]
            assert rows[item.row]["endpoints"] == expected, item
            compared[kind] = compared.get(kind, 0) + 1
            if expected:
                with_another.add(kind)
    assert {"pipe", "fifo", "eventfd", "pty"} <= compared.keys()
    assert compared.keys() - {"mqueue", "eventfd"} <= with_another
    for kind, count in sorted(compared.items()):
        tables.note("fds: ENDPOINTS", kind, elf.kernel, count, count)


def test_of_unix_sockets_as_ss_has_them(elf: Core) -> None:
    rows = our_rows(elf)
    sockets = {row.ino: row for row in ss_rows(elf) if row.netid.startswith("u_")}
    holders: dict[int, list[Held]] = {}
    for item in sorted(held(elf), key=lambda item: (item.pid, item.tid or 0, item.fd)):
        match = re.fullmatch(rb"socket:\[(\d+)\]", item.link)
        if match:
            holders.setdefault(int(match[1]), []).append(item)
    senders: dict[int, list[int]] = {}
    for ino, socket in sockets.items():
        senders.setdefault(socket.peer_ino, []).append(ino)
    compared = 0
    seen = set()
    for ino, socket in sockets.items():
        others = [socket.peer_ino] if socket.peer_ino else senders.get(ino, [])
        expected = [
            (h.row, h.written(_shutdown(sockets[o].more)))
            for o in others
            for h in holders.get(o, ())
            if o in sockets
        ]
        expected.sort(key=lambda pair: (pair[0][0], pair[0][1] or 0, pair[0][2]))
        for item in holders.get(ino, ()):
            assert rows[item.row]["endpoints"] == [text for _, text in expected], item
            compared += 1
            seen |= {text[-2:] for _, text in expected}
    assert compared > 100 and len(seen) > 1
    tables.note("fds: ENDPOINTS", "unix socket", elf.kernel, compared, compared)


def ss_rows(core: Core) -> Iterator[SsRow]:
    """Of all namespaces; in some there is nothing."""
    for netns in core.tool_netns:
        yield from parse_ss(core.tool("ss-lines", None if netns == core.home_netns else netns))


def _shutdown(more: str) -> bytes:
    [arrow] = {"<->", "-->", "<--", "---"} & set(more.split())
    return (b"r" if arrow[0] == "<" else b"-") + (b"w" if arrow[2] == ">" else b"-")


def kinds_row(core: Core, kind: str, access: str) -> Row:
    pid = core.accounts["fd_kinds"]["processes"][0]["pid"]
    rows: list[Row] = core.rows("fds")
    return next(r for r in rows if r["pid"] == pid and r["kind"] == kind and r["access"] == access)


@pytest.mark.parametrize(("kind", "access"), [("pipe", "r"), ("pipe", "w"), ("fifo", "r")])
def test_detail_has_those_who_read_what_it_writes(one: Core, kind: str, access: str) -> None:
    row = kinds_row(one, kind, access)
    mine = {"r": "w", "w": "r"}[access]
    wanted = []
    for end in row["endpoints"]:
        pid, comm, fd, mode = re.fullmatch(r"(\d+),(.*),(\d+)(..)", end).groups()  # type: ignore[union-attr]
        if mine in mode:
            wanted.append(f'("{comm}",pid={pid},fd={fd})')
    assert wanted
    assert row["detail"].partition(" ends=")[2] == ",".join(wanted)


def test_what_has_no_other_ends(one: Core) -> None:
    rows: list[Row] = one.rows("fds")
    for row in rows:
        is_one = row["endpoints"] is not None
        unix = row["kind"] == "sock" and (row["protoname"] or "").startswith("UNIX")
        pty = (row["fops"] == "ptmx_fops") or (row["name"] or "").startswith("/dev/pts/")
        queue = row["mqueue.messages"] is not None
        other = row["kind"] in ("pipe", "fifo", "eventfd") and row["access"] != "p"
        assert is_one == (unix or pty or queue or other), row


def test_one_process_is_shown_what_others_hold(one: Core) -> None:
    """The other ends are those of all processes, whichever are listed."""
    pid = one.accounts["fd_zoo"]["processes"][0]["pid"]
    whole: list[dict[str, Any]] = one.rows("fds")
    assert one.rows("fds", str(pid)) == [row for row in whole if row["pid"] == pid]
