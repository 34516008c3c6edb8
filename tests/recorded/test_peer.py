# SPDX-License-Identifier: LGPL-2.1-or-later
"""``peer`` against the workloads, who made both ends."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from typing import Any

from .machine import Core, Row

End = tuple[int, int]


def ask(core: Core, *what: str) -> list[Row]:
    done = core.run("peer", *what, "--json", "--output=all")
    assert done.status == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def ask_each(core: Core, *what: str) -> dict[str, list[Row]]:
    """Of many at once, the rows by what was asked for: one walk serves all."""
    found: dict[str, list[Row]] = {name: [] for name in what}
    for row in ask(core, *found):
        found[row["what"]].append(row)
    return found


def name_of(end: End) -> str:
    return f"{end[0]}:{end[1]}"


def ends_of(core: Core, pair: dict[str, Any], a: str, b: str) -> tuple[End, End]:
    return (pair[a]["pid"], pair[a]["fd"]), (pair[b]["pid"], pair[b]["fd"])


def holders(row: Row) -> set[End]:
    return {(h["pid"], h["fd"]) for h in row["holders"]}


@functools.lru_cache(None)
def entries_of(core: Core) -> dict[End, dict[str, Any]]:
    return {
        (process["pid"], entry["fd"]): entry
        for account in core.accounts.values()
        for process in account["processes"]
        if process["tid"] == process["pid"]
        for entry in process["fds"]
    }


def entry_of(core: Core, end: End) -> dict[str, Any]:
    return entries_of(core)[end]


def connections(core: Core) -> Iterator[tuple[End, End, dict[str, Any]]]:
    for account in core.accounts.values():
        for row in account.get("connections", []):
            if row.get("accepted", True) and row.get("client") and row.get("server"):
                yield (*ends_of(core, row, "client", "server"), row)


def test_both_ends_of_every_connection(elf: Core) -> None:
    """TCP on this machine (v4-mapped and over veth as well) and unix, from either side."""
    count = 0
    families = set()
    asked = ask_each(elf, *(name_of(e) for c, s, _ in connections(elf) for e in (c, s)))
    for client, server, row in connections(elf):
        entry = entry_of(elf, client)
        if row.get("protocol") == "tipc":
            # test_tipc.py asks for these: some are disconnected.
            continue
        if row.get("protocol") == "dccp":
            # Of these there is the generic part: nothing is said of another end.
            assert [r["end"] for r in asked[name_of(client)]] == ["self"]
            continue
        if entry["family"] == "AF_VSOCK" and elf.series == "5.10":
            # Its ends are in a structure of a module, and modules have no BTF before 5.11.
            continue
        one_way = not row.get("points_back", True)
        for mine, other in ((client, server), (server, client))[: 1 if one_way else 2]:
            found = asked[name_of(mine)]
            by_end = {r["end"]: r for r in found}
            assert mine in holders(by_end["self"])
            assert other in holders(by_end["peer"]), (row, found)
            if row.get("protocol") != "smc":
                # What SMC has fallen back to has an inode of its own, which no fd has.
                assert by_end["self"]["ino"] == entry_of(elf, mine)["inode"]
                assert by_end["peer"]["ino"] == entry_of(elf, other)["inode"]
            if by_end["self"]["netns"] != by_end["peer"]["netns"]:
                assert str(by_end["peer"]["netns"]) in by_end["peer"]["note"]
                families.add("veth")
            if one_way:
                # A datagram socket may send to one that sends to a third, or to nobody.
                note = by_end["peer"]["note"]
                assert note in ("does not point back", "not connected itself")
                families.add("one way")
            if entry["family"] == "AF_UNIX" and "listener" in row:
                listener = row["listener"]
                assert (listener["pid"], listener["fd"]) in holders(by_end["listener"])
        families.add(entry["family"])
        count += 1
    assert count > 30
    assert families >= {"AF_INET", "AF_INET6", "AF_UNIX", "veth", "one way"}
    assert ("AF_VSOCK" in families) == (elf.kernel != "5.10")


def test_nameless_client_held_by_parent_and_child(one: Core) -> None:
    (row,) = one.accounts["unix_fork"]["connections"]
    client, server = ends_of(one, row, "client", "server")
    child = (row["client_child"]["pid"], row["client_child"]["fd"])
    entry = entry_of(one, server)
    for what in (f"{client[0]}:{client[1]}", f"{child[0]}:{child[1]}"):
        by_end = {r["end"]: r for r in ask(one, what)}
        assert holders(by_end["self"]) == {client, child}
        assert by_end["self"]["path"] is None
        assert holders(by_end["peer"]) == {server}
        assert by_end["peer"]["path"] == row["path"]
        assert by_end["peer"]["file_ino"] == entry["file_inode"]
        device = entry["file_dev"]
        assert by_end["peer"]["file_dev"] == f"{os.major(device)}:{os.minor(device)}"


def test_pairs_of_unix_sockets(elf: Core) -> None:
    pairs = [(*ends_of(elf, row, "a", "b"), row) for row in elf.accounts["unix_zoo"]["pairs"]]
    asked = ask_each(elf, *(name_of(end) for a, b, _ in pairs for end in (a, b)))
    for a, b, row in pairs:
        for mine, other in ((a, b), (b, a)):
            by_end = {r["end"]: r for r in asked[name_of(mine)]}
            assert by_end["peer"]["ino"] == entry_of(elf, other)["inode"], row
            assert other in holders(by_end["peer"])
            assert by_end["peer"]["note"] is None


def test_peer_inodes(elf: Core) -> None:
    expected = {
        str(entry["inode"]): entry["peer_inode"]
        for entry in entries_of(elf).values()
        if entry.get("peer_inode")
    }
    assert len(expected) > 20
    for name, rows in ask_each(elf, *expected).items():
        by_end = {r["end"]: r for r in rows}
        assert by_end["peer"]["ino"] == expected[name]


def test_not_accepted_yet(one: Core) -> None:
    count = 0
    for name in ("unix_zoo",):
        for row in one.accounts[name]["connections"]:
            if row.get("accepted", True):
                continue
            client, listener = ends_of(one, row, "client", "listener")
            by_end = {r["end"]: r for r in ask(one, f"{client[0]}:{client[1]}")}
            assert (by_end["peer"]["ino"], by_end["peer"]["holders"]) == (0, [])
            assert by_end["peer"]["note"] == "not accepted yet"
            assert listener in holders(by_end["listener"])
            count += 1
    assert count


def test_every_way_to_name_a_socket(one: Core) -> None:
    (row,) = one.accounts["unix_fork"]["connections"]
    end = row["client"]
    by_fd = ask(one, f"{end['pid']}:{end['fd']}")
    ino = entry_of(one, (end["pid"], end["fd"]))["inode"]

    def same(*what: str) -> bool:
        return [{**r, "what": ""} for r in ask(one, *what)] == [{**r, "what": ""} for r in by_fd]

    assert same(str(ino))
    assert same(f"socket:[{ino}]")
    assert same(by_fd[0]["sk"])
    assert same(by_fd[0]["sk"][2:])
    # By path: the listener, and those that were accepted under its name.
    listener = row["listener"]
    by_path = ask(one, row["path"])
    selves = [r for r in by_path if r["end"] == "self"]
    assert {
        (listener["pid"], listener["fd"]),
        (row["server"]["pid"], row["server"]["fd"]),
    } == set().union(*map(holders, selves))


def test_by_abstract_name(one: Core) -> None:
    count = 0
    for process in one.accounts["unix_zoo"]["processes"]:
        for entry in process["fds"]:
            path = entry.get("path", "")
            if path[:1] == "\0" and "\0" not in path[1:]:
                selves = [r for r in ask(one, "@" + path[1:]) if r["end"] == "self"]
                assert (process["pid"], entry["fd"]) in set().union(*map(holders, selves))
                assert {r["path"] for r in selves} == {path}
                count += 1
    assert count > 3


def test_inode_of_the_file_is_not_that_of_the_socket(one: Core) -> None:
    sockets = {r["ino"] for r in one.rows("ss", "-a")}
    bound = [
        entry["file_inode"]
        for _, entry in one.fds(family="AF_UNIX")
        if entry.get("file_inode") and entry["file_inode"] not in sockets
    ]
    assert bound, "each inode of a file is that of a socket as well"
    done = one.run("peer", str(bound[0]))
    assert done.status == 2
    assert "socket file" in done.err
