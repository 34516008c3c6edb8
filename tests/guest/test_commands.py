# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``fds``, ``ss``, ``peer`` and ``tcp`` on the running kernel, against the process that made
the sockets, procfs, ss, lsof and lsfd.
"""

from __future__ import annotations

import json
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from drgn import Program

from tests.recorded.ss_text import SsRow, parse_ss
from vm.workloads import syscalls

from . import truth
from .truth import Scene, ours, ours_json

_NEVER_BOUND = ("tcp never bound", "tcp6 never bound", "udp never bound")


@pytest.fixture(scope="module")
def fds(prog: Program, scene: Scene) -> dict[int, dict[str, Any]]:
    """What we say of the scene's own file table, by fd."""
    rows = ours_json(prog, f"fds {scene.pid} --output all")
    assert {row["pid"] for row in rows} == {scene.pid}
    return {row["fd"]: row for row in rows if row["tid"] is None}


def test_fds_against_the_process_itself(scene: Scene, fds: dict[int, dict[str, Any]]) -> None:
    """Kind, name, mode, close-on-exec, position, inode and device of every descriptor."""
    assert fds.keys() - {0, 1, 2, 3} == scene.fds.keys()
    for fd, said in scene.fds.items():
        for key, value in said.items():
            if value is not None:
                assert fds[fd][key] == value, (fd, key)
        assert fds[fd]["command"] == scene.comm
        assert fds[fd]["cloexec"] == said["mode"].endswith("c")
    same = [fds[scene.named[name]]["file"] for name in ("file", "dup", "reopened")]
    assert same[0] == same[1] != same[2]


def test_fds_against_procfs(scene: Scene, fds: dict[int, dict[str, Any]]) -> None:
    """Links, fdinfo and stat of every descriptor."""
    links = truth.links(scene.pid)
    assert links.keys() == fds.keys()
    for fd, link in links.items():
        info = truth.fdinfo(scene.pid, fd)
        row = fds[fd]
        assert os.fsencode(row["name"]) == link
        assert row["fdinfo_flags"] == info["flags"]
        assert str(row["pos"]) == info["pos"]
        assert str(row["mnt_id"]) == info["mnt_id"]
        status = Path(f"/proc/{scene.pid}/fd/{fd}").stat()
        assert row["ino"] == status.st_ino
        assert row["dev"] == f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
        if row["kind"] == "chr":
            assert row["rdev"] == f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def test_fds_against_lsof(scene: Scene, fds: dict[int, dict[str, Any]]) -> None:
    """Access, inode and type as lsof has them."""
    out = truth.tool("lsof", "-nP", "-w", "-a", "-p", str(scene.pid), "-d0-999", "-Ffati").stdout
    types = {"reg": "REG", "dir": "DIR", "chr": "CHR", "fifo": "FIFO", "pipe": "FIFO"}
    found = 0
    for chunk in re.split(r"^f", out, flags=re.MULTILINE)[1:]:
        values = {line[0]: line[1:] for line in ("f" + chunk).splitlines() if line}
        row = fds[int(values["f"])]
        found += 1
        if row["access"] != "p":
            assert values.get("a", "-") == row["access"]
        if row["kind"] in types:
            assert (values["t"], values.get("i")) == (types[row["kind"]], str(row["ino"]))
    assert found == len(fds)


def test_fds_against_lsfd(scene: Scene, fds: dict[int, dict[str, Any]]) -> None:
    """Position and inode as lsfd has them."""
    out = truth.tool("lsfd", "-J", "-p", str(scene.pid), "-o", "TID,FD,POS,INODE").stdout
    # Those without a number are its working directory, mapped files and the like.
    rows = [row for row in json.loads(out)["lsfd"] if row["fd"] is not None]
    assert {int(row["fd"]) for row in rows} == fds.keys()
    for row in rows:
        mine = fds[int(row["fd"])]
        assert (mine["pos"], mine["ino"]) == (int(row["pos"]), int(row["inode"]))


def test_thread_with_a_table_of_its_own(prog: Program, scene: Scene) -> None:
    """unshare(CLONE_FILES): what it closed and opened shows under its TID alone."""
    thread = scene.facts["thread"]
    rows = ours_json(prog, f"fds {scene.pid} --output all")
    own = {row["fd"]: row for row in rows if row["tid"] == thread["tid"]}
    links = truth.links(f"{scene.pid}/task/{thread['tid']}")
    assert {fd: os.fsencode(row["name"]) for fd, row in own.items()} == links
    assert thread["missing"] not in own
    assert own[thread["fd"]]["ino"] == thread["ino"]
    # So a socket that only the thread has is held by it; one of before by both.
    (row,) = ours_json(prog, f"ss --inode {thread['ino']} -p --output ino,holders")
    assert [(h["pid"], h["tid"], h["fd"]) for h in row["holders"]] == [
        (scene.pid, thread["tid"], thread["fd"])
    ]
    (row,) = ours_json(prog, f"ss --inode {scene.ino('udp')} -p --output ino,holders")
    fd = scene.named["udp"]
    assert {(h["pid"], h["tid"], h["fd"]) for h in row["holders"]} == {
        (scene.pid, None, fd),
        (scene.pid, thread["tid"], fd),
        (scene.pids["child"], None, fd),
    }


def _ss(*argv: str) -> dict[int, SsRow]:
    rows = parse_ss(truth.tool("ss", "-OnaepH", *argv).stdout)
    return {row.inode: row for row in rows if row.inode}


@pytest.fixture(scope="module")
def sockets(prog: Program, scene: Scene) -> dict[int, dict[str, Any]]:
    """What we say of every socket, by inode."""
    return {row["ino"]: row for row in ours_json(prog, "ss -tuxape --output all") if row["ino"]}


def test_ss_against_ss(scene: Scene, sockets: dict[int, dict[str, Any]]) -> None:
    """State, queues, both ends and holders of every socket of the scene that ss has."""
    theirs, mine = _ss("-tuxw"), sockets
    inos = {
        scene.ino(name): name
        for name, fd in scene.named.items()
        if "socket:" in scene.fds[fd]["name"]
    }
    missing = {name for ino, name in inos.items() if ino not in theirs}
    # Not hashed: ss cannot know them; "bound" and "refused" are in no table that it asks for
    # either. What ss prints of the forged name cannot be told from a row.
    assert missing - {"unix forged"} == {*_NEVER_BOUND, "tcp bound", "tcp refused"}
    assert inos.keys() <= mine.keys()
    compared = 0
    for ino, name in inos.items():
        if name in missing:
            continue
        row, other = mine[ino], theirs[ino]
        compared += 1
        assert (row["netid"], row["state"]) == (other.netid, other.state), name
        assert row["recv_q"] == other.recv_q, name
        if other.netid != "u_dgr":
            assert row["send_q"] == other.send_q, name
        if other.netid.startswith("u_"):
            assert row["peer_ino"] == other.peer_ino, name
        else:
            assert (row["local"], row["peer"]) == (other.local, other.peer), name
        # ss reads /proc/PID/fd, where a thread's own table is not.
        held = {(h["pid"], h["fd"]) for h in row["holders"] if h["tid"] is None}
        assert held == {(pid, fd) for _, pid, fd in other.users}, name
    assert compared >= 15


def test_never_bound_sockets(
    prog: Program, scene: Scene, sockets: dict[int, dict[str, Any]]
) -> None:
    """In fds and ss -a, held by whoever has them; in no file of /proc/net."""
    net = "".join(Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6", "udp", "udp6"))
    mine = sockets
    details = {
        row["fd"]: row["detail"] for row in ours_json(prog, f"fds {scene.pid}") if not row["tid"]
    }
    for name in _NEVER_BOUND:
        ino, fd = scene.ino(name), scene.named[name]
        assert f" {ino} " not in net
        assert mine[ino]["state"] == "UNCONN"
        assert mine[ino]["lport"] == mine[ino]["rport"] == 0
        assert (scene.pid, fd) in {(h["pid"], h["fd"]) for h in mine[ino]["holders"]}
        assert details[fd].endswith("never bound")
        (row,) = ours_json(prog, f"peer {scene.pid}:{fd}")
        assert row["note"] == "never bound or connected"
    connections = ours_json(prog, "ss -t --output ino")
    assert not {row["ino"] for row in connections} & {scene.ino(name) for name in _NEVER_BOUND}


def test_bound_and_refused_sockets(
    prog: Program, scene: Scene, sockets: dict[int, dict[str, Any]]
) -> None:
    """A port without a connection, and one whose connection was refused: what getsockname says."""
    for name in ("bound", "refused"):
        row = sockets[scene.ino(f"tcp {name}")]
        address, port = scene.facts[name]
        assert (row["state"], row["laddr"], row["lport"]) == ("UNCONN", address, port), name
        assert "never bound" not in ours(prog, f"peer {scene.pid}:{scene.named['tcp ' + name]}")


def _ends(prog: Program, what: str) -> dict[str, dict[str, Any]]:
    return {row["end"]: row for row in ours_json(prog, f"peer '{what}' --output +peer_ino,sk,path")}


def _held(row: dict[str, Any]) -> set[tuple[int, int]]:
    return {(h["pid"], h["fd"]) for h in row["holders"] if h["tid"] is None}


def test_peer_of_the_nameless_client(prog: Program, scene: Scene) -> None:
    """Held by parent and child, at three descriptors; the server's end, its path, its listener."""
    child = scene.pids["child"]
    client, server = scene.named["unix client"], scene.named["unix server"]
    found = _ends(prog, f"{scene.pid}:{client}")
    assert found.keys() == {"self", "peer", "listener"}
    assert _held(found["self"]) == {(scene.pid, client), (child, client), (child, 500)}
    assert found["self"]["path"] is None
    assert found["peer"]["ino"] == scene.ino("unix server") == found["self"]["peer_ino"]
    assert found["peer"]["path"] == found["listener"]["path"] == scene.facts["path"]
    assert found["listener"]["ino"] == scene.ino("unix listener")
    assert _held(found["peer"]) == {(scene.pid, server), (child, server)}
    assert found["listener"]["file_ino"] == Path(scene.facts["path"]).stat().st_ino
    # From any side, and by any name.
    for what in (
        str(scene.ino("unix server")),
        f"socket:[{scene.ino('unix server')}]",
        found["peer"]["sk"],
        f"{child}:{server}",
    ):
        there = _ends(prog, what)
        assert (there["self"]["ino"], there["peer"]["ino"]) == (
            scene.ino("unix server"),
            scene.ino("unix client"),
        )


def test_peer_of_others(prog: Program, scene: Scene) -> None:
    """A socketpair, a connection nobody accepted, TCP ends, an abstract name with a NUL."""
    child = scene.pids["child"]
    a, b = scene.named["pair a"], scene.named["pair b"]
    found = _ends(prog, f"{scene.pid}:{a}")
    assert found["peer"]["ino"] == scene.ino("pair b")
    assert _held(found["self"]) == {(scene.pid, a), (child, a)}
    # The child has closed this one.
    assert _held(found["peer"]) == {(scene.pid, b)}
    found = _ends(prog, f"{scene.pid}:{scene.named['unix pending']}")
    assert (found["peer"]["ino"], found["peer"]["note"]) == (0, "not accepted yet")
    assert found["listener"]["ino"] == scene.ino("unix listener")
    for one, other in (("client", "server"), ("dual client", "dual server")):
        for x, y in ((one, other), (other, one)):
            found = _ends(prog, f"{scene.pid}:{scene.named['tcp ' + x]}")
            assert found["peer"]["ino"] == scene.ino(f"tcp {y}")
    found = _ends(prog, f"{scene.pid}:{scene.named['tcp waiting']}")
    assert found["peer"]["ino"] == 0
    found = _ends(prog, "@of a @test")
    assert found["self"]["ino"] == scene.ino("unix abstract")
    # A path is that of the listener and of all that were accepted, or are still to be.
    rows = ours_json(prog, f"peer {scene.facts['path']} --output end,ino")
    assert {row["ino"] for row in rows if row["end"] == "self"} == {
        scene.ino("unix listener"),
        scene.ino("unix server"),
        0,
    }


def _tcp(prog: Program, what: str) -> dict[str, Any]:
    return {row["field"]: row["value"] for row in ours_json(prog, f"tcp {what}")}


def test_tcp_fields(prog: Program, scene: Scene) -> None:
    """The fields of a connection against what its process did, ss -i, and the other end."""
    client = _tcp(prog, f"{scene.pid}:{scene.named['tcp client']}")
    server = _tcp(prog, str(scene.ino("tcp server")))
    assert client["state_name"] == server["state_name"] == "ESTAB"
    address, port = scene.facts["client"]
    assert client["local"] == server["peer"] == f"{address}:{port}"
    assert client["netns"] == scene.facts["netns"]
    assert (server["recv_q"], client["send_q"]) == (777, 0)
    assert client["bytes_acked"] == 778  # and the SYN
    assert server["bytes_received"] == 777
    assert client["snd_nxt"] == server["rcv_nxt"]
    more = _ss("-tui")[scene.ino("tcp client")].more
    for ours_name, theirs in (
        ("snd_cwnd", "cwnd"),
        ("mss", "mss"),
        ("rcv_mss", "rcvmss"),
        ("advmss", "advmss"),
        ("bytes_sent", "bytes_sent"),
        ("segs_out", "segs_out"),
        ("segs_in", "segs_in"),
        ("rcv_ssthresh", "rcv_ssthresh"),
    ):
        value = re.search(rf"\b{theirs}:(\d+)", more)
        assert value and client[ours_name] == int(value[1]), ours_name
    rtt = re.search(r"\brtt:([\d.]+)/([\d.]+)", more)
    assert rtt and client["rtt_us"] == pytest.approx(float(rtt[1]) * 1000, abs=1)
    assert client["congestion"] in more.split()
    listener = _tcp(prog, f"{scene.pid}:{scene.named['tcp listener']}")
    assert (listener["state_name"], listener["recv_q"], listener["send_q"]) == ("LISTEN", 1, 3)


def test_accounts_of_the_workloads(prog: Program, accounts: dict[str, Any]) -> None:
    """Every descriptor that a workload has an account of, with traffic going on."""
    rows = ours_json(prog, "fds --output all")
    by_pid: dict[int, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_pid.setdefault(row["tid"] or row["pid"], {})[row["fd"]] = row
    compared = 0
    for name, account in accounts.items():
        for process in account["processes"]:
            table = by_pid.get(process["tid"], {})
            if process.get("steady", True) and not process.get("shares_files_with"):
                assert {e["fd"] for e in process["fds"]} == table.keys() or process.get(
                    "fd_ranges"
                ), (
                    name,
                    process["pid"],
                )
            for entry in process["fds"]:
                row = table[entry["fd"]]
                where = (name, process["pid"], entry)
                assert row["ino"] == entry["inode"], where
                assert row["cloexec"] == entry["cloexec"], where
                if entry["name"] is not None:
                    assert os.fsencode(row["name"]) == os.fsencode(entry["name"]), where
                compared += 1
    assert compared > 500


def test_socket_in_another_namespace(prog: Program) -> None:
    """Of a process in a namespace of its own: found, and told by its namespace."""

    def body(kept: list[Any]) -> dict[str, Any]:
        syscalls.libc("unshare", syscalls.CLONE_NEWNET)
        os.system("ip link set lo up")
        kept.append(socket.create_server(("127.0.0.1", 0)))
        return {
            "netns": Path("/proc/self/ns/net").stat().st_ino,
            "port": kept[0].getsockname()[1],
            "ino": os.fstat(kept[0].fileno()).st_ino,
        }

    with truth.process(body) as (pid, said):
        (row,) = ours_json(prog, f"ss -tl --netns {said['netns']} -p --output all")
        assert (row["ino"], row["lport"], row["netns"]) == (
            said["ino"],
            said["port"],
            said["netns"],
        )
        assert [h["pid"] for h in row["holders"]] == [pid]
        (row,) = ours_json(prog, f"ss -a --pid {pid} --output all")
        assert row["ino"] == said["ino"]


def test_the_shell_command_says_the_same(prog: Program, scene: Scene) -> None:
    """Once from a shell what the other tests have from the REPL's commands."""
    out = truth.shell("fds", str(scene.pid), "--json").stdout
    assert [json.loads(line) for line in out.splitlines()] == ours_json(prog, f"fds {scene.pid}")
