# SPDX-License-Identifier: LGPL-2.1-or-later
"""TIPC sockets: against ``ss --tipc``, and what the workload says of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from drgn_sockets.records.families.tipc import TipcRecord
from drgn_sockets.records.reader import SocketReader, for_each_socket
from tests import tables

from .machine import Core, Row

TABLE = "Families: rows of ss, word by word"

_STATES = {
    "OPEN": "UNCONN",
    "LISTEN": "LISTEN",
    "ESTABLISHED": "ESTAB",
    "CONNECTING": "SYN-SENT",
    "DISCONNECTING": "CLOSE-WAIT",
}
_LINE = re.compile(
    r"(?P<state>\S+) +(?P<recv_q>\d+) +(?P<send_q>\d+) +(?P<local>\S+) +(?P<peer>\S+) +"
    r"(?:uid:(?P<uid>\d+) )?ino:(?P<ino>\d+) sk:(?P<cookie>[0-9a-f]+)"
    r"(?: users:\((?P<users>.*?)\)\))?(?P<info>.*)"
)
_COLUMNS = (
    "netid,state,recv_q,send_q,local,peer,ino,uid,cookie,netns,holders,info,sk,"
    "tipc_names,tipc_via,tipc_destination,tipc_importance,tipc_member"
)
_IMPORTANCE = ("low", "medium", "high", "critical")


@pytest.fixture
def tipc(elf: Core) -> Core:
    """A core whose types tell of TIPC."""
    if elf.series == "5.10":
        pytest.skip("modules have no BTF before 5.11: test_without_types")
    return elf


def rows_of(core: Core, *argv: str) -> list[Row]:
    return core.rows("ss", "-a", "--tipc", "--output", _COLUMNS, *argv)


def held_by(row: Row) -> set[tuple[int, int]]:
    return {(holder["pid"], holder["fd"]) for holder in row["holders"]}


def by_holder(core: Core) -> dict[tuple[int, int], Row]:
    return {holder: row for row in rows_of(core) for holder in held_by(row)}


def entries(core: Core) -> Iterator[tuple[tuple[int, int], Any]]:
    """Every TIPC socket of the workload, by process and fd."""
    for process, entry in core.fds("tipc", family="AF_TIPC"):
        yield (process["pid"], entry["fd"]), entry


def words(info: dict[str, Any]) -> str:
    """``ss --tipcinfo``, of which the spaces are not compared."""
    found = [f"type:{info['type']}", f"cong:{info['cong']}", f"drop:{info['drop']}"]
    found += ["publ"] if info["publ"] else []
    found += ["via", "{%d,%d}" % tuple(info["via"])] if info.get("via") else []  # noqa: UP031
    return " ".join(found)


def test_ss(tipc: Core) -> None:
    """Each row of ss is one of ours. ss lacks a socket for each message that was full."""
    rows = {(row["netns"], row["local"]): row for row in rows_of(tipc)}
    count = 0
    for netns in tipc.tool_netns:
        home = netns == tipc.home_netns
        theirs = set()
        for line in tipc.tool("ss-tipcinfo", None if home else netns).splitlines()[1:]:
            match = _LINE.fullmatch(line)
            assert match, line
            row = rows[netns, match["local"]]
            theirs.add(match["local"])
            said = (row["state"], row["peer"], row["recv_q"], row["send_q"])
            queues = (int(match["recv_q"]), int(match["send_q"]))
            assert said == (match["state"], match["peer"], *queues), line
            assert (row["ino"], row["cookie"]) == (int(match["ino"]), int(match["cookie"], 16))
            assert row["uid"] == int(match["uid"] or 0)
            users = re.findall(r"pid=(\d+),fd=(\d+)", match["users"] or "")
            assert held_by(row) == {(int(pid), int(fd)) for pid, fd in users}
            assert words(row["info"]).split() == match["info"].split(), line
            count += 1
        missing = {local for where, local in rows if where == netns} - theirs
        assert len(missing) <= 1, missing
    assert count >= 110
    tables.note(TABLE, "tipc", tipc.kernel, count, count)


def test_words(tipc: Core) -> None:
    """As text: what ``-i`` shows of others, and in the order of ss."""
    heading, *lines = tipc.run("ss", "-a", "--tipc", "--tipcinfo").out.splitlines()
    assert heading.split()[-1] == "INFO"
    theirs = {line.split()[3]: line for line in tipc.tool("ss-tipcinfo").splitlines()[1:]}
    seen = 0
    for line in lines:
        cells = line.split()
        if cells[4] in theirs:
            info = theirs[cells[4]].partition(" type:")[2].split()
            assert cells[6:] == [f"type:{info[0]}", *info[1:]]
            seen += 1
    assert seen >= 50


def test_netids(tipc: Core) -> None:
    rows = {(row["ino"], row["local"]): row["netid"] for row in rows_of(tipc)}
    seen = set()
    for line in tipc.tool("ss-tipc-netid").splitlines()[1:]:
        if line.startswith("ti_"):
            netid, _, _, _, local, *_ = line.split()
            ino = int(line.partition(" ino:")[2].split()[0])
            assert rows[ino, local] == netid
            seen.add(netid)
    assert seen == {"ti_st", "ti_dg", "ti_rd", "ti_sq"}


def test_account(tipc: Core) -> None:
    """Every socket of the workload, at its fd."""
    rows = by_holder(tipc)
    seen = set()
    for holder, entry in entries(tipc):
        row = rows[holder]
        assert row["state"] == _STATES[entry["state"]]
        assert (row["ino"], row["netns"]) == (entry["inode"], entry["netns"])
        for end, name in (("local", "local"), ("peer", "remote")):
            told = entry[name]
            assert row[end] == (f"{told[1]}:{told[2]}" if told else "-"), entry
        # Events about members of a group come when they come; test_ss has their number.
        assert row["recv_q"] == entry["messages"] or (
            "group" in entry and row["recv_q"] > entry["messages"]
        )
        assert row["info"]["type"] == entry["type"].removeprefix("SOCK_")
        assert row["info"]["drop"] == entry.get("drops", 0)
        assert [list(name.values()) for name in row["tipc_names"]] == entry["names"]
        via = entry.get("via") if entry["state"] == "ESTABLISHED" else None
        assert row["tipc_via"] == via
        member = row["tipc_member"]
        assert member == (
            {n: entry["group"][n] for n in ("type", "instance", "scope")}
            | {"members": member["members"]}
            if "group" in entry
            else None
        )
        destination = None
        if "destination" in entry:
            kind, first, second, *_ = entry["destination"]
            names = ("type", "instance") if kind == 2 else ("node", "port")
            destination = dict(zip(names, (first, second)))
        if entry.get("note") != "socketpair":
            assert row["tipc_destination"] == destination
        importance = entry.get("options", {}).get("TIPC_IMPORTANCE", 0)
        assert row["tipc_importance"] == _IMPORTANCE[importance]
        seen |= {row["state"], row["info"]["cong"], *entry}
    assert seen >= {*_STATES.values(), "conn", "group", "destination", "via", "options", "drops"}


def test_other_ends(tipc: Core) -> None:
    """Both ways, of each type, in either namespace."""
    records: dict[tuple[int, int], TipcRecord] = {}
    found = SocketReader(tipc.prog)
    rows = by_holder(tipc)
    for record in for_each_socket(tipc.prog, ["tipc"]):
        assert isinstance(record, TipcRecord)
        records[record.netns, record.sock.tipc_port] = record
    account = tipc.accounts["tipc"]
    ends = [(c["client"], c["server"]) for c in account["connections"]]
    ends += [(pair["a"], pair["b"]) for pair in account["pairs"]]
    types = set()
    for one, other in ends:
        for mine, theirs in ((one, other), (other, one)):
            row, expected = (rows[end["pid"], end["fd"]] for end in (mine, theirs))
            record = records[row["netns"], int(row["local"].split(":")[1])]
            peer = found.peer(record)
            if record.is_connected:
                assert peer is not None and f"{peer.sk:#x}" == expected["sk"]
                types.add((row["netid"], row["netns"]))
            else:
                assert peer is None
    assert len(types) == 8
    # And as the command has it.
    client, server = ends[0]
    told = tipc.rows("peer", f"{client['pid']}:{client['fd']}", "--output", "end,holders,note")
    assert [row["end"] for row in told] == ["self", "peer"]
    assert (server["pid"], server["fd"]) in held_by(told[1])


def test_topology_server(tipc: Core) -> None:
    """The kernel's own socket, one in each namespace, which no process holds."""
    own = [row for row in rows_of(tipc) if not row["holders"]]
    assert len({row["netns"] for row in own}) == len(own) >= len(tipc.tool_netns)
    for row in own:
        assert row["state"] == "LISTEN"
        assert row["tipc_names"][0] == {"type": 1, "lower": 1, "upper": 1, "scope": 3}


def test_without_types(elf: Core) -> None:
    """Of a module that has no BTF there is the generic part, and no more is claimed."""
    if elf.kernel != "5.10":
        pytest.skip("modules have BTF")
    rows = by_holder(elf)
    done = elf.run("ss", "-a", "--tipc")
    assert "tipc sockets that are in no file table are not shown" in done.err
    for holder, entry in entries(elf):
        row = rows[holder]
        assert (row["state"], row["ino"]) == (_STATES[entry["state"]], entry["inode"])
        assert row["tipc_names"] is None and row["local"] == f"* {entry['inode']}"
