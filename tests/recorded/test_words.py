# SPDX-License-Identifier: LGPL-2.1-or-later
"""Does each word find in each command the sockets and files that the workloads' accounts say?"""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from drgn import Object

from drgn_sockets.errors import UserError
from drgn_sockets.query.find import Finder

from .machine import Core, Row

Place = tuple[int, int]


def accounted(core: Core) -> dict[Place, dict[str, Any]]:
    """What the workloads say of their fds, those of threads with a table of their own aside."""
    return {
        (process["pid"], entry["fd"]): entry
        for account in core.accounts.values()
        for process in account["processes"]
        if process["tid"] == process["pid"]
        for entry in process["fds"]
    }


def at_port(core: Core, port: int, address: str | None = None) -> dict[Place, dict[str, Any]]:
    """
    Their TCP and UDP sockets with a port, or an address and port, at one end. A connection that
    was refused tells getsockname() the port that it had, and has none.
    """
    return {
        place: entry
        for place, entry in accounted(core).items()
        if entry.get("type") in ("SOCK_STREAM", "SOCK_DGRAM")
        and (entry["type"], entry.get("state")) != ("SOCK_STREAM", "CLOSE")
        and entry.get("family") in ("AF_INET", "AF_INET6")
        and any(
            end and end[1] == port and address in (None, end[0])
            for end in (entry.get("local"), entry.get("remote"))
        )
    }


def echo(core: Core) -> tuple[Place, Place, Place]:
    """Client, server and listener of a TCP connection."""
    (row,) = core.accounts["tcp_echo"]["connections"]
    client, server, listener = (
        (row[end]["pid"], row[end]["fd"]) for end in ("client", "server", "listener")
    )
    return client, server, listener


def places(rows: list[Row]) -> set[Place]:
    return {(row["pid"], row["fd"]) for row in rows}


def peers(core: Core, word: str) -> list[Row]:
    done = core.run("peer", word, "--json", "--output=all")
    assert (done.status, done.err) == (0, "")
    return [json.loads(line) for line in done.out.splitlines()]


def tcps(core: Core, word: str) -> list[dict[str, Any]]:
    """Fields of each socket that ``tcp`` shows."""
    done = core.run("tcp", word, "--json")
    assert (done.status, done.err) == (0, "")
    found: list[dict[str, Any]] = []
    for row in map(json.loads, done.out.splitlines()):
        if row["field"] == "sk":
            found.append({})
        found[-1][row["field"]] = row["value"]
    return found


def sk_of(core: Core, place: Place) -> str:
    (row,) = [
        row for row in core.rows("fds") if (row["pid"], row["fd"]) == place and not row["tid"]
    ]
    sk: str = row["sk"]
    return sk


def test_a_port(one: Core) -> None:
    """Each socket of it once, in every command."""
    expected = at_port(one, 22222)
    inodes = sorted(entry["inode"] for entry in expected.values())
    assert len(inodes) == 3
    assert places(one.rows("fds", ":22222")) == set(expected)
    assert sorted(row["ino"] for row in tcps(one, ":22222")) == inodes
    assert sorted(row["ino"] for row in peers(one, ":22222")) == inodes
    assert sorted(row["ino"] for row in one.rows("ss", "-a", "--port", "22222")) == inodes
    # The connection is shown by one of its ends, with the other one.
    assert sorted(row["end"] for row in peers(one, ":22222")) == ["peer", "self", "self"]
    for same in ("*:22222", "127.0.0.1:22222"):
        assert places(one.rows("fds", same)) == set(expected)
        assert [row["sk"] for row in tcps(one, same)] == [row["sk"] for row in tcps(one, ":22222")]
        assert [row["sk"] for row in peers(one, same)] == [
            row["sk"] for row in peers(one, ":22222")
        ]


def test_an_address_and_port(one: Core) -> None:
    client, server, _ = echo(one)
    entry = accounted(one)[client]
    address, port = entry["local"]
    word = f"{address}:{port}"
    expected = at_port(one, port, address)
    assert set(expected) >= {client, server}
    assert places(one.rows("fds", word)) == set(expected)
    inodes = {kind: set[int]() for kind in ("SOCK_STREAM", "SOCK_DGRAM")}
    for found in expected.values():
        inodes[found["type"]].add(found["inode"])
    assert {row["ino"] for row in tcps(one, word)} == inodes["SOCK_STREAM"]
    assert {row["ino"] for row in peers(one, word)} >= set().union(*inodes.values())
    for wrong in (f"127.0.0.2:{port}", f"[::1]:{port}"):
        assert one.run("fds", wrong).status == 1
        for command in ("peer", "tcp"):
            done = one.run(command, wrong)
            assert (done.status, done.out) == (2, "")
            assert done.err == f"drgn-sockets: no socket is at '{wrong}'; ss -a lists all\n"


def test_ports_of_every_account(one: Core) -> None:
    """Of whichever address family; sockets that no process has may be there as well."""
    ports = {
        end[1]
        for entry in accounted(one).values()
        if entry.get("family") in ("AF_INET", "AF_INET6")
        for end in (entry.get("local"), entry.get("remote"))
        if end and end[1]
    }
    ports = {port for port in ports if at_port(one, port)}
    assert len(ports) > 10
    for port in sorted(ports)[:: max(len(ports) // 12, 1)]:
        expected = at_port(one, port)
        assert places(one.rows("fds", f":{port}")) >= set(expected)
        shown = peers(one, f":{port}")
        assert {row["ino"] for row in shown} >= {entry["inode"] for entry in expected.values()}
        selves = [row["sk"] for row in shown if row["end"] == "self"]
        assert len(selves) == len(set(selves))


def test_a_descriptor(one: Core) -> None:
    client, _, _ = echo(one)
    entry = accounted(one)[client]
    word = f"{client[0]}:{client[1]}"
    (row,) = one.rows("fds", word)
    assert (row["pid"], row["fd"], row["name"]) == (*client, f"socket:[{entry['inode']}]")
    assert [row["ino"] for row in tcps(one, word)] == [entry["inode"]]
    assert peers(one, word)[0]["ino"] == entry["inode"]
    # Of any file; others of that number are not meant.
    zoo = one.accounts["fd_zoo"]["processes"][0]
    for entry in zoo["fds"]:
        (row,) = one.rows("fds", f"{zoo['pid']}:{entry['fd']}")
        assert (row["pid"], row["fd"]) == (zoo["pid"], entry["fd"])
    # Words of one sort are alternatives.
    assert places(one.rows("fds", word, f"{zoo['pid']}:0", ":22222")) == {
        *at_port(one, 22222),
        client,
        (zoo["pid"], 0),
    }


def test_descriptors_that_are_none(one: Core) -> None:
    client, _, _ = echo(one)
    zombie = next(p["pid"] for p in one.accounts["threads"]["processes"] if p.get("zombie"))
    for word, message in (
        (f"{client[0]}:999", f"process {client[0]} has no fd 999; fds {client[0]} lists"),
        ("99999:3", "no process 99999"),
        (f"{zombie}:0", f"process {zombie} has exited"),
    ):
        for command in ("fds", "peer", "tcp"):
            done = one.run(command, word)
            assert (done.status, done.out) == (2, "")
            assert message in done.err and done.err.count("\n") == 1


def test_an_inode(one: Core) -> None:
    client, _, _ = echo(one)
    ino = accounted(one)[client]["inode"]
    assert places(one.rows("fds", f"socket:[{ino}]")) == {client}
    assert {row["ino"] for row in one.rows("fds", f"socket:[{ino}]")} == {ino}
    sk = sk_of(one, client)
    for word in (str(ino), f"socket:[{ino}]"):
        assert [row["sk"] for row in tcps(one, word)] == [sk]
        assert peers(one, word)[0]["sk"] == sk
        assert {row["sk"] for row in one.rows("ss", "-a", "--inode", word)} == {sk}


def test_files_that_have_the_inode_of_a_socket(one: Core) -> None:
    """``socket:[N]`` is a socket, whatever else has the number in its file system."""
    inos = {row["ino"] for row in one.rows("fds") if row["kind"] == "sock"}
    others = {row["ino"] for row in one.rows("fds") if row["kind"] != "sock"} & inos
    for ino in sorted(others):
        assert {row["kind"] for row in one.rows("fds", f"socket:[{ino}]")} == {"sock"}


def test_addresses(one: Core) -> None:
    """Of all that a socket consists of, and of its process."""
    client, _, _ = echo(one)
    (row,) = one.rows("fds", f"{client[0]}:{client[1]}")
    prog = one.prog
    file = Object(prog, "struct file *", int(row["file"], 16))
    sock = Object(prog, "struct sock *", int(row["sk"], 16))
    socket, inode, task = (
        sock.sk_socket,
        file.f_inode,
        Object(prog, "struct task_struct *", int(row["task"], 16)),
    )
    for part in (file, sock, socket, inode):
        word = f"{part.value_():#x}"
        assert places(one.rows("fds", word)) == {client}
        assert places(one.rows("fds", word[2:])) == {client}
        assert [row["sk"] for row in tcps(one, word)] == [f"{sock.value_():#x}"]
        assert peers(one, word)[0]["sk"] == f"{sock.value_():#x}"
        assert {r["sk"] for r in one.rows("ss", "--addr", word)} == {f"{sock.value_():#x}"}
    word = f"{task.value_():#x}"
    assert one.rows("fds", word) == one.rows("fds", str(client[0]))
    for command in ("peer", "tcp", "ss --addr"):
        done = one.run(*command.split(), word)
        assert (done.status, done.out) == (2, "")
        assert f"it is the task_struct of process {client[0]}: fds {client[0]}" in done.err
    null = next(row for row in one.rows("fds", "/dev/null") if isinstance(row["fd"], int))
    assert {row["file"] for row in one.rows("fds", null["file"])} == {null["file"]}
    inode = Object(prog, "struct file *", int(null["file"], 16)).f_inode
    of_inode = one.rows("fds", f"{inode.value_():#x}")
    assert places(of_inode) >= {(null["pid"], null["fd"])}
    assert {row["name"] for row in of_inode} == {"/dev/null"}
    done = one.run("fds", "0xffff800000000000")
    assert (done.status, done.err) == (1, "drgn-sockets: nobody holds 0xffff800000000000\n")


def test_objects_of_the_repl(one: Core) -> None:
    """As their addresses; of a typed pointer, nothing else is taken for it."""
    client, _, _ = echo(one)
    (row,) = one.rows("fds", f"{client[0]}:{client[1]}")
    prog = one.prog
    sk = int(row["sk"], 16)
    sock = Object(prog, "struct sock *", sk)
    file = Object(prog, "struct file *", int(row["file"], 16))
    finder = Finder(prog)
    things = [sock, sock[0], file, sock.sk_socket, file.f_inode, sk, prog_int(one, sk)]
    with contextlib.suppress(LookupError):
        things.append(Object(prog, "struct tcp_sock *", sk))
    for thing in things:
        assert [found.sk for found in finder.find(thing)] == [sk]
    for wrong in (
        Object(prog, "struct file *", sk),
        Object(prog, "struct sock *", file.value_()),
        Object(prog, "struct task_struct *", int(row["task"], 16)),
    ):
        with pytest.raises(UserError, match="is not a socket"):
            finder.find(wrong)
    with pytest.raises(UserError, match="does not name"):
        finder.find(prog["init_net"])


def prog_int(core: Core, value: int) -> Object:
    return Object(core.prog, "unsigned long", value)


def test_a_number(one: Core) -> None:
    """It is a process ID for fds, an inode for peer and tcp, and errors say so."""
    ino = next(
        ino
        for entry in accounted(one).values()
        if (ino := entry["inode"])
        and entry.get("family") == "AF_UNIX"
        and not (one.oracle / str(ino)).is_dir()
    )
    done = one.run("fds", str(ino))
    assert done.status == 2
    assert f"no process {ino}; peer {ino} takes it for an inode" in done.err
    assert peers(one, str(ino))[0]["ino"] == ino
    inos = {row["ino"] for row in one.rows("ss", "-a")}
    pid = next(p for p in {place[0] for place in accounted(one)} if p not in inos)
    assert {row["pid"] for row in one.rows("fds", str(pid))} == {pid}
    for command in ("peer", "tcp"):
        done = one.run(command, str(pid))
        assert (done.status, done.out) == (2, "")
        assert f"no socket has inode {pid}" in done.err
        assert f"fds {pid} takes it for a process ID" in done.err or "socket file" in done.err


def test_names(one: Core) -> None:
    """Of unix sockets, in fds and peer; a command's name names no socket."""
    path = one.accounts["unix_fork"]["connections"][0]["path"]
    sockets = {
        place: entry["inode"]
        for place, entry in accounted(one).items()
        if entry.get("path") == path
    }
    assert len(sockets) > 1
    assert places(one.rows("fds", path)) == set(sockets)
    named = {row["ino"] for row in peers(one, path) if row["end"] != "peer"}
    assert named == set(sockets.values())
    comm = one.accounts["tcp_echo"]["processes"][1]["comm"]
    done = one.run("peer", comm)
    assert (done.status, done.out) == (2, "")
    assert f"no unix socket is called {comm!r}; a process is: fds {comm}" in done.err


@pytest.mark.parametrize("word", ["*:*", ":*", "300.0.0.1:80", "181:ssh", ":99999", ":nosuch"])
@pytest.mark.parametrize("command", ["fds", "peer", "tcp"])
def test_ends_that_are_none(one: Core, command: str, word: str) -> None:
    done = one.run(command, word)
    assert (done.status, done.out) == (2, "")
    assert done.err.count("\n") == 1 and repr(word) in done.err


@pytest.mark.parametrize("word", ["::", ":", "0x", "[::1]:", "9" * 5000, "\udcff", "socket:[]"])
@pytest.mark.parametrize("command", ["fds", "peer", "tcp"])
def test_hostile_words(one: Core, command: str, word: str) -> None:
    """They are names, which nobody has."""
    done = one.run(command, word)
    assert (done.status, done.out) == (2, "")
    assert done.err.count("\n") == 1 and "is called" in done.err


def test_strange_names_of_processes(one: Core) -> None:
    """Some are empty or blank, as the accounts say."""
    names = {
        process["comm"]: process["pid"]
        for account in one.accounts.values()
        for process in account["processes"]
        if process["tid"] == process["pid"] and process["fds"]
    }
    strange = {comm: pid for comm, pid in names.items() if not comm.replace("-", "").isalnum()}
    assert len(strange) > 2
    for comm, pid in strange.items():
        assert pid in {row["pid"] for row in one.rows("fds", comm)}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--inode", "x"], ["no inode: 'x'", "socket:[4711]"]),
        (["--inode", "8:1:2"], ["no inode: '8:1:2'"]),
        (["--port", "x y"], ["no port: 'x y'"]),
        (["--port", "99999"], ["no port 99999"]),
        (["--port", "*"], ["no port: '*'"]),
        (["--pid", "1:2"], ["no process ID: '1:2'", "--pid"]),
        (["--addr", "1:2"], ["not a kernel address: '1:2'"]),
    ],
)
def test_options_of_ss(one: Core, argv: list[str], words: list[str]) -> None:
    done = one.run("ss", *argv)
    assert (done.status, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert [word for word in words if word not in done.err] == []


def test_options_of_ss_add_up(one: Core) -> None:
    client, server, _ = echo(one)
    sk = sk_of(one, client)
    assert [r["sk"] for r in one.rows("ss", "--addr", sk, "--pid", str(client[0]))] == [sk]
    assert one.rows("ss", "--addr", sk, "--pid", str(server[0])) == []
    assert [r["sk"] for r in one.rows("ss", "--addr", sk, "--port", "22222")] == [sk]
    assert one.rows("ss", "--addr", sk, "--port", "22") == []
