# SPDX-License-Identifier: LGPL-2.1-or-later
"""The families beyond TCP, UDP, raw and unix: each against what procfs, ss and workloads say."""

from __future__ import annotations

import csv
import ipaddress
import re
import socket
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from drgn_sockets.records.families.sctp import SctpAssociationRecord, SctpRecord
from drgn_sockets.records.reader import for_each_socket
from drgn_sockets.records.socket import SocketRecord
from tests import tables

from .machine import Core, Row

PROCFS = "Families: lines of procfs"
SS = "Families: rows of ss, word by word"


def walked(core: Core, name: str) -> dict[int, Any]:
    """Sockets that the walk of a family finds without help of the file tables."""
    found: dict[int, Any] = {}
    for record in for_each_socket(core.prog, [name]):
        assert isinstance(record, SocketRecord), record
        assert record.family_name == name and record.sk not in found
        found[record.sk] = record
    return found


def lines_of(core: Core, file: str) -> Iterator[tuple[int, list[str]]]:
    """Lines of a file of ``/proc/net`` of all network namespaces, as words, without headings."""
    for place in sorted((core.oracle / "netns").iterdir()):
        path = place / "net" / file
        if path.exists():
            for line in path.read_text().splitlines()[1:]:
                yield int(place.name), line.split()


class Line(NamedTuple):
    """A row of ss of one family."""

    state: str
    recv_q: int
    send_q: int
    local: str
    peer: str
    #: pids and fds
    users: set[tuple[int, int]]
    #: ``ino:``, ``sk:`` and so on.
    words: dict[str, str]
    skmem: str
    #: What -i adds.
    info: list[str]


def ss_lines(text: str) -> list[Line]:
    """Rows of ``ss -aniemp`` of one family, of which some go on in a second line."""
    rows = []
    for row in text.replace("\n\t", " ").splitlines()[1:]:
        found = re.fullmatch(
            r"(?P<state>\S+|`- \S+) +(?P<recv>\d+) +(?P<send>\d+) +(?P<local>\S+) +(?P<peer>\S+) *"
            r"(?:users:\((?P<users>.*?)\)\)(?: |$))?(?P<words>.*?)(?:<-> )? *"
            r"(?:skmem:\((?P<skmem>.*?)\)(?P<info>.*))?",
            row,
        )
        assert found, row
        rows.append(
            Line(
                found["state"],
                int(found["recv"]),
                int(found["send"]),
                found["local"],
                found["peer"],
                {
                    (int(pid), int(fd))
                    for pid, fd in re.findall(r"pid=(\d+),fd=(\d+)", found["users"] or "")
                },
                dict(word.split(":", 1) for word in found["words"].split() if ":" in word),
                found["skmem"] or "",
                (found["info"] or "").split(),
            )
        )
    return rows


def tool(core: Core, family: str) -> Iterator[tuple[int, str]]:
    """What ss printed of a family in each network namespace where it was run, the most of it."""
    for netns in core.tool_netns:
        for name in (f"ss-full-{family}", f"ss-{family}"):
            try:
                text = core.tool(name, None if netns == core.home_netns else netns)
            except FileNotFoundError:
                continue
            yield netns, text
            break


def of_netid(core: Core, netid: str) -> list[Row]:
    return [row for row in core.rows("ss", "-a") if row["netid"] == netid]


def held_by(row: Row) -> set[tuple[int, int]]:
    return {(holder["pid"], holder["fd"]) for holder in row["holders"]}


def skmem(row: Row) -> str:
    """As ss writes it, which knows no negative numbers."""
    return ",".join(f"{name}{value & 0xFFFFFFFF}" for name, value in row["skmem"].items())


def hosts(words: Iterable[str]) -> list[str]:
    """IP addresses, written the one way."""
    return [str(ipaddress.ip_address(word)) for word in words]


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


def test_ping_sockets_without_an_identifier(one: Core) -> None:
    """In no table: they are found through the file tables."""
    hashed = {row["sk"] for row in one.rows("ss", "-a") if row["netid"] in ("icmp", "icmp6")}
    hashed -= {f"{sk:#x}" for sk in walked(one, "ping")}
    rows = [row for row in one.rows("ss", "-a") if row["sk"] in hashed]
    inodes = {
        entry["inode"]
        for process in one.accounts["udp_raw"]["processes"]
        for entry in process["fds"]
        if entry.get("note") == "ping, no id"
    }
    assert inodes and {row["ino"] for row in rows} == inodes
    assert {(row["netid"], row["state"]) for row in rows} == {
        ("icmp", "UNCONN"),
        ("icmp6", "UNCONN"),
    }


#: Words of ``ss -M -i`` that iproute2 6.1 does not know.
NEWER_MPTCP = re.compile(
    "(local_addr_used|local_addr_max|csum_enabled|retransmits|bytes_retrans|bytes_sent|"
    "bytes_received|bytes_acked|subflows_total|endp_laminar_max|endp_fullmesh_max|"
    "last_data_sent|last_data_recv|last_ack_recv):"
)


def infos(core: Core) -> dict[int, list[str]]:
    """Words of our -i by cookie."""
    done = core.run("ss", "-a", "--csv", "--output=cookie,info")
    assert done.status == 0, done.err
    rows = list(csv.reader(done.out.splitlines()))[1:]
    return {int(cookie): [] if info == "-" else info.split() for cookie, info in rows if cookie}


def test_mptcp_is_what_ss_has(core: Core) -> None:
    """Every word of every row, those that it does not know yet left out."""
    ours = {row["cookie"]: row for row in of_netid(core, "mptcp")}
    words = infos(core)
    seen = set()
    for netns, text in tool(core, "mptcp"):
        for line in ss_lines(text):
            cookie = int(line.words["sk"], 16)
            mine = ours[cookie]
            seen.add(cookie)
            assert (mine["state"], mine["recv_q"], mine["send_q"]) == line[:3]
            assert (mine["local"], mine["peer"]) == (line.local, line.peer)
            assert mine["ino"] == int(line.words["ino"]) and mine["netns"] == netns
            assert held_by(mine) == line.users
            assert skmem(mine) == line.skmem
            assert [w for w in words[cookie] if not NEWER_MPTCP.match(w)] == line.info
            tables.note(SS, "mptcp", core.kernel, 1, 1)
    home = {row["cookie"] for row in ours.values() if row["netns"] in core.tool_netns}
    assert {c for c in home if c and ours[c]["state"] != "UNCONN"} == seen
    if core.kernel != "5.10":
        assert {ours[cookie]["state"] for cookie in seen} >= {"LISTEN", "ESTAB"}


def test_mptcp_and_its_subflows_point_at_each_other(core: Core) -> None:
    everything = {row["sk"]: row for row in core.rows("ss", "-a")}
    subflows = [row for row in everything.values() if row["mptcp_sk"]]
    masters = of_netid(core, "mptcp")
    assert bool(subflows) == bool(masters) == (core.kernel != "5.10")
    for row in subflows:
        assert row["netid"] == "tcp" and row["ulp"] == "mptcp"
        master = everything[row["mptcp_sk"]]
        assert master["netid"] == "mptcp" and row["sk"] in master["subflows"]
        # The first of them has the inode of the MPTCP socket, as long as that has one.
        assert row["ino"] in (master["ino"], 0)
    # One that was not used yet has a TCP socket for later, which is in no table.
    used = [row for row in masters if row["state"] != "UNCONN"]
    assert {sk for row in used for sk in row["subflows"]} <= {row["sk"] for row in subflows}
    found = {sk for row in masters for sk in row["subflows"]}
    assert {row["sk"] for row in subflows} <= found


def test_mptcp_is_walked(core: Core) -> None:
    """All but those that were created and no more are found without the file tables."""
    found = {f"{sk:#x}" for sk in walked(core, "mptcp")}
    rows = of_netid(core, "mptcp")
    assert found == {row["sk"] for row in rows if row["state"] != "UNCONN"}


def vsock_lines(core: Core) -> Iterator[tuple[int, Line]]:
    for netns, text in tool(core, "vsock"):
        heading, _, rows = text.partition("\n")
        assert heading.startswith("Netid")
        for line in ss_lines(
            heading + "\n" + re.sub(r"^(?:v_\w+|[?]+) +", "", rows, flags=re.MULTILINE)
        ):
            yield netns, line


def test_vsock_is_what_ss_has(core: Core) -> None:
    rows = [row for row in core.rows("ss", "-a") if row["family"] == "AF_VSOCK"]
    ours: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        ours.setdefault((row["local"], row["peer"]), []).append(row)
    lines = list(vsock_lines(core))
    assert {line.state for _, line in lines} >= {"LISTEN", "ESTAB"}
    if core.series == "5.10":
        # Modules have no BTF before 5.11: of these there is what struct sock tells.
        theirs = sorted((line.state, sorted(line.users)) for _, line in lines if line.users)
        assert sorted((row["state"], sorted(held_by(row))) for row in rows) == theirs
        assert all(row["local"] == f"* {row['ino']}" for row in rows)
        return
    for netns, line in lines:
        # Of those that are bound to nothing there may be many.
        (row,) = (r for r in ours[line.local, line.peer] if held_by(r) == line.users)
        rows.remove(row)
        assert (row["state"], row["recv_q"], row["send_q"]) == line[:3]
        assert row["netns"] == netns
        tables.note(SS, "vsock", core.kernel, 1, 1)
    assert not rows


def test_vsock_is_walked(core: Core) -> None:
    rows = [row for row in core.rows("ss", "-a") if row["family"] == "AF_VSOCK"]
    found = {f"{sk:#x}" for sk in walked(core, "vsock")}
    assert found == (set() if core.series == "5.10" else {row["sk"] for row in rows})


def test_what_cannot_be_walked_is_told_once(core: Core) -> None:
    for argv in (("ss", "-a"), ("ss",), ("peer", "@nobody")):
        told = core.run(*argv).err.count("vsock sockets that are in no file table are not shown")
        assert told == (core.series == "5.10" and argv[0] == "ss"), argv
    assert "not shown" not in core.run("ss", "-txa").err


def test_vsock_in_file_tables(core: Core) -> None:
    """As the process knows its ends."""
    details = {
        (row["pid"], row["fd"]): row["detail"]
        for row in core.rows("fds", "--kind", "sock")
        if row["detail"] and row["detail"].startswith("v_")
    }
    for account in core.accounts.values():
        for process in account["processes"]:
            for entry in process["fds"]:
                if entry.get("family") != "AF_VSOCK":
                    continue
                text = details.pop((process["pid"], entry["fd"]))
                if core.kernel != "5.10" and entry["local"] is not None:
                    port = entry["local"][1]
                    assert f":{port}" in text or port == 0xFFFFFFFF, entry
    assert not details


def test_xdp_is_what_ss_has(core: Core) -> None:
    ours = {row["cookie"]: row for row in of_netid(core, "xdp")}
    count = 0
    for netns, text in tool(core, "xdp"):
        for line in ss_lines(text):
            row = ours[int(line.words["sk"], 16)]
            assert (row["state"], row["recv_q"], row["send_q"]) == line[:3]
            assert (row["local"], row["peer"]) == (line.local, line.peer)
            assert row["ino"] == int(line.words["ino"]) and row["netns"] == netns
            assert held_by(row) == line.users
            # It is the last of the row, and has spaces in it.
            for words in row["extended"].split(") "):
                assert words in text
            assert "stats(" in row["extended"]
            count += 1
            tables.note(SS, "xdp", core.kernel, 1, 1)
    # Debian's kernels before have no CONFIG_XDP_SOCKETS_DIAG.
    assert bool(count) == (core.series not in ("5.10", "6.1"))
    assert {f"{sk:#x}" for sk in walked(core, "xdp")} == {row["sk"] for row in ours.values()}
    entries = {
        entry["inode"]
        for account in core.accounts.values()
        for process in account["processes"]
        for entry in process["fds"]
        if entry.get("family") == "AF_XDP"
    }
    assert {row["ino"] for row in ours.values()} >= entries


def sctp_rows(core: Core) -> dict[tuple[bool, int, str], Row]:
    """By whether it is an association, cookie, and other end."""
    rows = [row for row in of_netid(core, "sctp") if row["cookie"]]
    found = {(row["assoc"] is not None, row["cookie"], row["peer"]): row for row in rows}
    assert len(found) == len(rows)
    return found


def test_sctp_is_what_ss_has(core: Core) -> None:
    """Sockets and, below them, their associations: every word."""
    ours = sctp_rows(core)
    done = core.run("ss", "-a", "--csv", "--output=netid,state,cookie,peer,info")
    words = {
        (state.startswith("`- "), int(cookie), peer): (state, info.split())
        for netid, state, cookie, peer, info in csv.reader(done.out.splitlines()[1:])
        if netid == "sctp"
    }
    seen = set()
    for netns, text in tool(core, "sctp"):
        has_info = "state:" in text
        for line in ss_lines(text):
            is_association = line.state.startswith("`- ")
            key = is_association, int(line.words["sk"], 16), line.peer
            seen.add(key)
            row = ours[key]
            state, info = words[key]
            assert state == line.state and row["state"] == line.state.split()[-1]
            assert (row["recv_q"], row["send_q"]) == line[1:3]
            # Of an IPv4 address of an IPv6 socket the kernel sends what an IPv6 one would be in.
            if is_association and core.series == "5.10":
                assert row["local"].split("%")[1] == line.local.split("%")[1]
            elif not (line.local.startswith("*%") and "." in row["laddr"]):
                assert row["local"] == line.local
            assert row["ino"] == int(line.words["ino"]) and row["netns"] == netns
            assert held_by(row) == line.users
            assert skmem(row) == line.skmem
            theirs = line.info
            if not has_info:
                info = [word for word in info if word.startswith(("locals:", "peers:"))]
            if core.series == "5.10":
                # The type of these is the module's, and modules have no BTF before 5.11.
                theirs = [word for word in theirs if not word.startswith("locals:")]
            assert info == theirs
            tables.note(SS, "sctp", core.kernel, 1, 1)
    # Bound and not listening, with no association: in no table that is dumped.
    asked = {netns for netns, _ in tool(core, "sctp")}
    for key, row in ours.items():
        assert key in seen or row["state"] == "UNCONN" or row["netns"] not in asked
    assert {(key[0], ours[key]["state"]) for key in seen} >= {
        *((False, "LISTEN"), (False, "ESTAB"), (True, "ESTAB"))
    }


def test_sctp_is_what_procfs_has(core: Core) -> None:
    ours = of_netid(core, "sctp")
    by_assoc = {row["assoc"]: row for row in ours if row["assoc"]}
    by_sk = {row["sk"]: row for row in ours if not row["assoc"]}
    listening = set()
    for netns, words in lines_of(core, "sctp/eps"):
        _, sk, type_, state, _, port, uid, ino = words[:8]
        row = by_sk[f"0x{sk}"]
        listening.add(row["sk"])
        assert row["netns"] == netns and row["sctp_type"] == int(type_)
        assert (state, row["state"]) == ("10", "LISTEN")
        assert (row["lport"], row["uid"], row["ino"]) == (int(port), int(uid), int(ino))
        if core.kernel != "5.10":
            assert sorted(row["locals"]) == sorted(hosts(words[8:]))
        tables.note(PROCFS, "net/sctp/eps", core.kernel, 1, 1)
    assert listening == {row["sk"] for row in by_sk.values() if row["state"] == "LISTEN"}
    associations = set()
    for netns, words in lines_of(core, "sctp/assocs"):
        row = by_assoc[f"0x{words[0]}"]
        associations.add(row["assoc"])
        assert row["netns"] == netns and row["sk"] == f"0x{words[1]}"
        ends = words.index("<->")
        numbers = [int(word) for word in words[2:13]]
        assert numbers == [
            *(row["sctp_type"], numbers[1], row["assoc_state"], 0, row["assoc_id"]),
            *(row["send_q"], row["recv_q"], row["uid"], row["ino"], row["lport"], row["rport"]),
        ]
        if core.kernel != "5.10":
            assert sorted(row["locals"]) == sorted(hosts(words[13:ends]))
        remote = [word for word in words[ends + 1 :] if "." in word or ":" in word]
        assert row["peers"] == hosts(word.lstrip("*") for word in remote)
        assert [row["raddr"]] == hosts(word[1:] for word in remote if word.startswith("*"))
        rest = [int(word) for word in words[ends + 1 + len(remote) :]]
        assert rest == [
            *(row["assoc_hbinterval"], row["instrms"], row["outstrms"], row["max_retrans"]),
            *(row["init_retries"], row["shutdown_retries"], row["rtx_data_chunks"]),
            *(row["wmem_alloc"], row["wmem_queued"], row["sndbuf"], row["rcvbuf"]),
        ]
        tables.note(PROCFS, "net/sctp/assocs", core.kernel, 1, 1)
    assert associations and associations == by_assoc.keys()


def test_sctp_is_walked(core: Core) -> None:
    """With its associations, also if no file table is looked into."""
    found: dict[str, set[str]] = {}
    for record in for_each_socket(core.prog, ["sctp"]):
        assert isinstance(record, SctpRecord)
        if not record.local_port:
            # One that the kernel answers by.
            continue
        associations = found.setdefault(f"{record.sk:#x}", set())
        if isinstance(record, SctpAssociationRecord):
            associations.add(f"{record.assoc.address:#x}")
    if core.series == "5.10":
        assert not found
        return
    rows = [row for row in of_netid(core, "sctp") if row["lport"]]
    assert found.keys() == {row["sk"] for row in rows}
    assert set().union(*found.values()) == {row["assoc"] for row in rows if row["assoc"]}


def test_sockets_that_the_kernel_answers_by(core: Core) -> None:
    """
    In no table and no file table: per namespace one each for IGMP joins, MLD, neighbours, resets
    over IPv6, and SCTP; per processor for ICMP, ICMPv6 and resets over IPv4.
    """
    rows = [
        row
        for row in core.rows("ss", "-a")
        if row["pprev"] == 0 and not row["holders"] and row["family"] in ("AF_INET", "AF_INET6")
    ]
    controls = [row for row in rows if row["netid"] in ("raw", "udp", "sctp") and row["ino"]]
    stat = (core.oracle / "stat").read_text()
    cpus = len(re.findall(r"^cpu\d+ ", stat, re.MULTILINE))
    # Before v5.18 those for ICMP were of a namespace.
    each = 2 * cpus if core.series == "5.10" else 0
    by_netns = Counter(row["netns"] for row in controls)
    kinds = Counter((row["netid"], row["family"], row["protocol"]) for row in controls)
    manifest_netns = {int(place.name) for place in (core.oracle / "netns").iterdir()}
    assert manifest_netns <= by_netns.keys()
    home = max(by_netns, key=lambda netns: by_netns[netns])
    has_sctp = int("sctp" in (core.oracle / "modules").read_text())
    # Two for multicast, one for MLD, one for neighbours, one for resets.
    common = 5 + has_sctp + each
    assert {n for netns, n in by_netns.items() if netns != home} == {common}
    assert by_netns[home] == common + (cpus if core.series == "5.10" else 3 * cpus)
    assert kinds[("raw", "AF_INET", 6)] == cpus
    assert kinds[("raw", "AF_INET6", 6)] == len(by_netns)
    # Each has an inode of its own.
    assert len({row["ino"] for row in controls}) == len(controls)
