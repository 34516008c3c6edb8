# SPDX-License-Identifier: LGPL-2.1-or-later
"""``ss`` against iproute2's, run in the same guest, and against the workloads' accounts."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from drgn_sockets.text import unescape

from .machine import Core, Row
from .ss_rows import ALL_OF_TCP, everything, pairs, still
from .ss_text import SsRow

STATES = {
    "ESTABLISHED": "ESTAB",
    "SYN_SENT": "SYN-SENT",
    "SYN_RECV": "SYN-RECV",
    "FIN_WAIT1": "FIN-WAIT-1",
    "FIN_WAIT2": "FIN-WAIT-2",
    "TIME_WAIT": "TIME-WAIT",
    "CLOSE": "UNCONN",
    "CLOSE_WAIT": "CLOSE-WAIT",
    "LAST_ACK": "LAST-ACK",
    "LISTEN": "LISTEN",
    "CLOSING": "CLOSING",
    "CONNECTED": "ESTAB",
    "UNCONNECTED": "UNCONN",
}


def problems(core: Core, compare: Any) -> None:
    found, _ = pairs(core)
    assert len(found) > 300
    wrong = [
        f"{theirs.netid} {theirs.local} {theirs.peer}: {text}"
        for theirs, mine in found
        for text in compare(theirs, mine)
    ]
    assert not wrong, "\n".join(wrong[:40])


def test_has_all_that_ss_has(core: Core) -> None:
    found, missing = pairs(core)
    # Only a timer may have ended one since.
    assert [row for row in missing if still(core, row)] == []
    assert {row.state for row in missing} <= {"TIME-WAIT", "FIN-WAIT-2", "SYN-RECV"}
    sks = [mine["sk"] for _, mine in found]
    assert len(sks) == len(set(sks))


def test_what_ss_does_not_have_is_accounted_for(core: Core) -> None:
    """Sockets never bound, of other families, of namespaces where ss was not run: no others."""
    found, _ = pairs(core)
    theirs = {mine["sk"] for _, mine in found}
    accounted = {
        (process["pid"], entry["fd"])
        for account in core.accounts.values()
        for process in account["processes"]
        for entry in process["fds"]
    }
    # Made anew since, since they last but a minute.
    recycled = {
        tuple(orphan["remote"][:2])
        for account in core.accounts.values()
        for orphan in account.get("orphans", [])
        if "recycled" in orphan
    }
    for row in everything(core):
        if row["sk"] in theirs or row["netid"] == "nl":
            continue
        if row["state"] == "FIN-WAIT-2" and (row["raddr"], row["rport"]) in recycled:
            continue
        if row["netid"] in ("tcp", "udp", "raw", "u_str", "u_dgr", "u_seq", "p_raw", "p_dgr"):
            tcp_unbound = row["netid"] in ("tcp", "udp") and row["state"] == "UNCONN"
            if row["family"] == "AF_UNIX" and not row["ino"]:
                # Not accepted: only /proc/net/unix has it.
                continue
            if row["netid"] == "raw" and row["state"] == "UNCONN" and not row["holders"]:
                # The kernel's own, by which it answers.
                continue
            elsewhere = row["netns"] not in core.tool_netns
            held = {(h["pid"], h["fd"]) for h in row["holders"]}
            excluded = {h["pid"] for h in row["holders"]} <= set(core.manifest["excluded"])
            assert tcp_unbound or elsewhere or (excluded and held), row
            assert held <= accounted or excluded


def test_state(core: Core) -> None:
    def compare(theirs: SsRow, mine: Row) -> Iterator[str]:
        if theirs.netid != mine["netid"]:
            yield f"netid {mine['netid']}"
        if theirs.state != mine["state"] and still(core, theirs):
            yield f"{mine['state']}, not {theirs.state}"

    problems(core, compare)


def test_queues(core: Core) -> None:
    def compare(theirs: SsRow, mine: Row) -> Iterator[str]:
        # To send again what nobody acknowledges changes no queue.
        if theirs.local in ALL_OF_TCP or theirs.state != mine["state"]:
            return
        if theirs.recv_q != mine["recv_q"]:
            yield f"recv_q {mine['recv_q']}, not {theirs.recv_q}"
        # ss takes the kernel's unsigned number for a signed one: a SYN that waits for data
        # (TCP_FASTOPEN_CONNECT) has sent less than nothing.
        if theirs.send_q % (1 << 32) != mine["send_q"]:
            yield f"send_q {mine['send_q']}, not {theirs.send_q}"

    problems(core, compare)
    found, _ = pairs(core)
    assert sum(1 for theirs, _ in found if theirs.recv_q) > 15
    assert sum(1 for theirs, _ in found if theirs.send_q) > 15


def ends(core: Core, netid: str) -> tuple[set[Any], set[Any]]:
    found, _ = pairs(core)
    chosen = [(t, m) for t, m in found if t.netid.startswith(netid)]
    assert chosen
    return (
        {(t.cookie, t.local, t.peer) for t, _ in chosen},
        {(t.cookie, m["local"], m["peer"]) for t, m in chosen},
    )


@pytest.mark.parametrize("netid", ["tcp", "udp", "raw"])
def test_addresses_are_written_as_ss_writes_them(core: Core, netid: str) -> None:
    theirs, mine = ends(core, netid)
    assert mine == theirs


def as_ss_names(text: str) -> str:
    """A name of ours as ss has it: raw, and each NUL an @."""
    if text in ("*", "@"):
        return text
    return os.fsdecode(unescape(text).replace(b"\0", b"@"))


def test_unix_names_and_peers(core: Core) -> None:
    found, _ = pairs(core)
    names = set()
    for theirs, mine in found:
        if not theirs.netid.startswith("u_"):
            continue
        local, _, ino = mine["local"].rpartition(" ")
        peer, _, peer_ino = mine["peer"].rpartition(" ")
        assert int(ino) == mine["ino"] == theirs.ino
        assert int(peer_ino) == mine["peer_ino"] == theirs.peer_ino, theirs
        assert as_ss_names(local) == theirs.local
        names.add(local)
        # Asked with -e, ss writes the name of the other end only if it can tell from a dump.
        if theirs.peer != "*":
            assert as_ss_names(peer) == theirs.peer
        file = re.search(r" ino:(\d+) dev:(\d+)/(\d+)", theirs.more)
        if file:
            assert (mine["file_ino"], mine["file_dev"]) == (int(file[1]), f"{file[2]}:{file[3]}")
        else:
            assert mine["file_ino"] is None
    assert len(names) > 20


def fell_back(core: Core) -> set[tuple[int, int]]:
    """
    (pid, fd) of SMC sockets, which fall back to TCP: the file leads to the TCP socket inside,
    and has the inode of the SMC socket.
    """
    return {
        (row[end]["pid"], row[end]["fd"])
        for account in core.accounts.values()
        for row in account.get("connections", [])
        for end in ("client", "server")
        if row.get("protocol") == "smc"
    }


def test_owner_inode_and_holders(core: Core) -> None:
    fallen = fell_back(core)
    threads = {p["pid"] for a in core.accounts.values() for p in a["processes"]}

    def compare(theirs: SsRow, mine: Row) -> Iterator[str]:
        if theirs.netid.startswith(("tcp", "udp", "raw")) and theirs.word("ino") is not None:
            if mine["ino"] != theirs.inode:
                yield f"ino {mine['ino']}, not {theirs.inode}"
            # ss leaves out root; timewait and request sockets have no owner.
            if (mine["uid"] or 0) != (theirs.number("uid") or 0):
                yield f"uid {mine['uid']}, not {theirs.word('uid')}"
        # Threads with tables of their own are beyond ss, which looks at /proc/PID/fd; and it
        # ends a name at its ")".
        users = sorted(
            (h["comm"].partition(")")[0], h["pid"], h["fd"])
            for h in mine["holders"]
            # ss knows by the inode who has a socket.
            if not h["tid"] and (h["pid"], h["fd"]) not in fallen
        )
        if users != sorted(theirs.users):
            yield f"holders {users}, not {theirs.users}"

    problems(core, compare)
    assert threads
    found, _ = pairs(core)
    assert max(len(theirs.users) for theirs, _ in found) >= 21


def test_uids_other_than_roots(core: Core) -> None:
    """Some workload must have one, or the comparison of owners compares nothing but 0."""
    uids = {row.number("uid") for row in core.ss_rows} - {None, 0}
    if not uids:
        assert {row["uid"] for row in everything(core)} <= {0, None}


def test_skmem(core: Core) -> None:
    def compare(theirs: SsRow, mine: Row) -> Iterator[str]:
        if theirs.skmem is not None and still(core, theirs) and mine["skmem"] != theirs.skmem:
            yield f"{mine['skmem']}, not {theirs.skmem}"

    problems(core, compare)


def test_timers(core: Core) -> None:
    found, _ = pairs(core)
    names = set()
    for theirs, mine in found:
        if not still(core, theirs):
            continue
        if theirs.timer is None:
            assert mine["timer"] is None, (theirs, mine["timer"])
            continue
        name, seconds, retrans = theirs.timer
        names.add(name)
        timer = mine["timer"]
        assert timer is not None, theirs
        # ss calls that of a request "on" as well.
        assert {"synack": "on"}.get(timer["name"], timer["name"]) == name
        if name != "timewait":
            assert timer["retrans"] == retrans
        # It ran on, and no longer than the tools and procfs took. The keeper renews TIME-WAIT;
        # ss cuts off seconds.
        if name != "timewait":
            assert -61 < seconds - timer["expires_s"] < core.tools_ran_s + 61
    assert "keepalive" in names


def test_timers_that_are_soon_due_are_there(core: Core) -> None:
    """Their time moved on, but what they wait for did not come."""
    found, _ = pairs(core)
    names = set()
    for theirs, mine in found:
        if theirs.timer and not still(core, theirs) and theirs.state != "TIME-WAIT":
            name, _, retrans = theirs.timer
            timer = mine["timer"]
            if timer is None or {"synack": "on"}.get(timer["name"], timer["name"]) != name:
                continue
            names.add(timer["name"])
            assert timer["retrans"] >= retrans
            assert timer["expires_s"] < 125
    assert names >= {"on", "persist", "synack"}


def inet(address: list[Any] | None) -> tuple[str, int] | None:
    return (address[0].partition("%")[0], address[1]) if address else None


def accounted_sockets(
    core: Core, workloads: tuple[str, ...] = ()
) -> Iterator[tuple[dict[str, Any], Row]]:
    """Each socket of the accounts' file tables, and ours with that holder."""
    by_holder: dict[tuple[int, int | None, int], Row] = {}
    for row in everything(core):
        for h in row["holders"]:
            # An MPTCP socket and its first subflow have the same inode, and the same holder.
            if row["netid"] == "mptcp" or (h["pid"], h["tid"], h["fd"]) not in by_holder:
                by_holder[h["pid"], h["tid"], h["fd"]] = row
    for name, account in core.accounts.items():
        if workloads and name not in workloads:
            # They went on to read and write when they had written their account.
            continue
        for process in account["processes"]:
            tid = process["tid"] if process["tid"] != process["pid"] else None
            if "shares_files_with" in process and tid is not None:
                continue
            for entry in process["fds"]:
                if entry["kind"] == "socket" and entry["access"] != "path":
                    yield entry, by_holder[process["pid"], tid, entry["fd"]]


def test_sockets_as_their_processes_see_them(core: Core) -> None:
    wrong = []
    count = 0
    fallen = fell_back(core)
    for entry, row in accounted_sockets(core):
        count += 1
        family = entry["family"] if not entry["family"].isdecimal() else int(entry["family"])
        expected: Row = {"ino": entry["inode"], "type": entry["type"], "netns": entry["netns"]}
        if isinstance(family, str):
            expected["family"] = family
        if any((h["pid"], h["fd"]) in fallen for h in row["holders"]):
            # This is the inode of the TCP socket.
            del expected["ino"]
        if "protocol" in entry and entry["family"] != "AF_UNIX":
            expected["protocol"] = entry["protocol"]
        if entry.get("cookie"):
            expected["cookie"] = entry["cookie"]
        inet_family = entry["family"] in ("AF_INET", "AF_INET6")
        # SCTP and MPTCP keep their state in a structure of their own; a datagram socket that
        # others are connected to is ESTAB to the kernel as well.
        if "state" in entry and row["netid"] in ("tcp", "u_str", "u_seq"):
            expected["state"] = STATES[entry["state"]]
        if inet_family and row["netid"] in ("tcp", "udp", "udpl"):
            for side, name in (("local", "laddr"), ("remote", "raddr")):
                end = inet(entry.get(side))
                if end is not None:
                    expected[name], expected[f"{name[0]}port"] = end
        if entry["family"] == "AF_UNIX" and "path" in entry:
            expected["path"] = entry["path"] or None
            if "peer_inode" in entry:
                expected["peer_ino"] = entry["peer_inode"]
            if "peer_path" in entry and row["peer_ino"]:
                expected["peer_path"] = entry["peer_path"] or None
            if "file_inode" in entry:
                expected["file_ino"] = entry["file_inode"]
                device = entry["file_dev"]
                expected["file_dev"] = f"{os.major(device)}:{os.minor(device)}"
        if row["netid"] == "tcp" and "pending" in entry:
            expected["recv_q"] = entry["pending"]
        if "backlog" in entry and row["netid"] in ("tcp", "u_str", "u_seq"):
            expected["send_q"] = entry["backlog"]
        wrong += [
            f"{entry['name']} fd {entry['fd']} {key}: {row[key]!r}, not {value!r}"
            for key, value in expected.items()
            if row[key] != value
        ]
    assert not wrong, "\n".join(wrong[:40])
    assert count > 400


def test_bytes_in_queues_as_ioctl_says(core: Core) -> None:
    """SIOCINQ and SIOCOUTQ; of datagram sockets SIOCINQ is the first datagram's size."""
    compared = 0
    for entry, row in accounted_sockets(core, ("tcp_states", "unix_zoo")):
        if row["netid"] == "tcp" and row["state"] not in ("LISTEN", "UNCONN"):
            if "inq" in entry and row["state"] == "ESTAB":
                assert row["recv_q"] == entry["inq"], entry
                compared += bool(entry["inq"])
            if "outq" in entry and row["state"] == "ESTAB" and row["timer"] is None:
                assert row["send_q"] == entry["outq"], entry
        elif row["netid"].startswith("u_") and "inq" in entry and row["state"] != "LISTEN":
            assert row["recv_q"] == entry["inq"], entry
            compared += bool(entry["inq"])
    assert compared > 5


def test_orphans(core: Core) -> None:
    """Sockets that no descriptor holds: requests, time-wait, and those closed in time."""
    rows = [row for row in everything(core) if row["netid"] == "tcp"]
    by_ends = {(row["laddr"], row["lport"], row["raddr"], row["rport"]): row for row in rows}
    states = set()
    for account in core.accounts.values():
        for orphan in account.get("orphans", []):
            if "recycled" in orphan:
                # Made again and again under several addresses, one of which stands.
                continue
            ends = (*orphan["local"][:2], *orphan["remote"][:2])
            row = by_ends.get(ends)
            if row is None:
                # 60 s after the freeze it is over; only those that are not renewed.
                assert orphan["kind"] == "timewait" and not orphan.get("renewed"), orphan
                continue
            state = orphan.get("substate") or orphan["state"]
            assert row["state"] == STATES[state], orphan
            assert (row["ino"], row["holders"]) == (0, [])
            if orphan["kind"] == "timewait":
                assert row["timer"]["name"] == "timewait"
                assert row["substate"] == {"TIME_WAIT": 6, "FIN_WAIT2": 5}[state]
            elif orphan["kind"] == "request":
                assert row["timer"]["name"] == "synack"
                listener = next(
                    r
                    for r in rows
                    for h in r["holders"]
                    if (h["pid"], h["fd"]) == (orphan["listener"]["pid"], orphan["listener"]["fd"])
                )
                assert f"{row['listener']:#x}" == listener["sk"]
            states.add((orphan["kind"], state))
    assert {kind for kind, _ in states} == {"request", "timewait", "full"}
    assert {state for _, state in states} >= {
        "SYN_RECV", "TIME_WAIT", "FIN_WAIT1", "FIN_WAIT2", "CLOSING", "LAST_ACK",
    }  # fmt: skip


def test_every_tcp_state_is_there(core: Core) -> None:
    seen = {(row["family"], row["state"]) for row in everything(core) if row["netid"] == "tcp"}
    for family in ("AF_INET", "AF_INET6"):
        assert {state for f, state in seen if f == family} == set(STATES.values()), family


def test_options_that_were_set(core: Core) -> None:
    simple = {
        "TCP_CONGESTION": "congestion",
        "TCP_USER_TIMEOUT": "user_timeout_ms",
        "TCP_NOTSENT_LOWAT": "notsent_lowat",
        "TCP_WINDOW_CLAMP": "window_clamp",
        "TCP_MAXSEG": "user_mss",
        "TCP_FASTOPEN": "fastopen_max_qlen",
        "IP_TOS": "tos",
        "IP_TTL": "ttl",
        "SO_MARK": "mark",
        "SO_PRIORITY": "priority",
        "SO_RCVBUF": "rcvbuf",
        "SO_SNDBUF": "sndbuf",
        "SO_REUSEADDR": "reuse",
        "SO_REUSEPORT": "reuseport",
        "SO_BINDTODEVICE": "ifname",
        "IPV6_V6ONLY": "ipv6only",
    }
    seen = set()
    for entry, row in accounted_sockets(core):
        for option, value in entry.get("options", {}).items():
            if option in simple:
                assert row[simple[option]] == value, (option, entry)
                seen.add(option)
            elif option in ("TCP_NODELAY", "TCP_CORK"):
                assert row["nonagle"] & {"TCP_NODELAY": 1, "TCP_CORK": 2}[option]
                seen.add(option)
            elif option == "TCP_KEEPIDLE":
                # Jiffies: 250 a second here.
                assert row["keepalive_time"] == value * 250
                assert row["keepalive_intvl"] == entry["options"]["TCP_KEEPINTVL"] * 250
                assert row["timer"]["name"] == "keepalive"
                seen.add(option)
    assert len(seen) >= 17


def test_other_families(core: Core) -> None:
    """What no walk of a hash table gives: seen because an fd holds it."""
    families = set()
    for entry, row in accounted_sockets(core, ("other_families",)):
        families.add(row["family"])
        number = getattr(socket, entry["family"], None)
        if number is not None or not entry["family"].isdecimal():
            assert row["family"] == entry["family"]
        assert row["type"] == entry["type"]
        assert row["protocol"] == entry["protocol"]
        assert int(row["sk"], 16) > 1 << 63
    assert families >= {"AF_NETLINK", "AF_PACKET", "AF_VSOCK"}


# What is selected.


def inodes(rows: list[Row]) -> set[tuple[str, str]]:
    return {(row["netid"], row["sk"]) for row in rows}


def theirs_in(core: Core, keep: Any) -> set[tuple[str, str]]:
    found, _ = pairs(core)
    return {(mine["netid"], mine["sk"]) for theirs, mine in found if keep(theirs)}


SELECT: dict[str, tuple[list[str], Any]] = {
    "tcp, as ss -t": (
        ["-t"],
        lambda r: r.netid == "tcp" and r.state not in ("LISTEN", "UNCONN", "TIME-WAIT", "SYN-RECV"),
    ),
    "tcp, all": (["-ta"], lambda r: r.netid == "tcp"),
    "tcp, listening": (["-tl"], lambda r: r.netid == "tcp" and r.state == "LISTEN"),
    "udp, listening": (["-ul"], lambda r: r.netid == "udp" and r.state == "UNCONN"),
    "raw, all": (["-wa"], lambda r: r.netid == "raw"),
    "unix, all": (["-xa"], lambda r: r.netid.startswith("u_")),
    # As ss: state CLOSE belongs to -l, which is for the sake of UDP.
    "unix, listening": (
        ["-xl"],
        lambda r: r.netid.startswith("u_") and r.state in ("LISTEN", "UNCONN"),
    ),
    "tcp and IPv4": (["-ta4"], lambda r: r.netid == "tcp" and "[" not in r.local + r.peer and "*:" not in r.local),  # noqa: E501
    "time-wait": (["-t", "state", "time-wait"], lambda r: r.state == "TIME-WAIT"),
    "syn-recv": (["-t", "state", "syn-recv"], lambda r: r.state == "SYN-RECV"),
    "fin-wait-2": (["-t", "state", "fin-wait-2"], lambda r: r.state == "FIN-WAIT-2"),
    "two states": (
        ["-t", "state", "closing", "state", "last-ack"],
        lambda r: r.state in ("CLOSING", "LAST-ACK"),
    ),
    "all but established": (
        ["-t", "exclude", "established"],
        lambda r: r.netid == "tcp" and r.state != "ESTAB",
    ),
    "synchronized": (
        ["-t", "state", "synchronized"],
        lambda r: r.netid == "tcp" and r.state not in ("LISTEN", "UNCONN", "SYN-SENT"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SELECT)
def test_selects_what_ss_selects(one: Core, what: str) -> None:
    argv, keep = SELECT[what]
    known = {(m["netid"], m["sk"]) for _, m in pairs(one)[0]}
    mine = inodes(one.rows("ss", *argv))
    expected = theirs_in(one, keep)
    assert expected
    # What ss knows and what timers cannot have changed since must be the same.
    moved = {
        (m["netid"], m["sk"])
        for t, m in pairs(one)[0]
        if not still(one, t) or t.state != m["state"]
    }
    assert (mine & known) - moved == expected - moved


def test_narrowed_by_port_pid_inode_address_and_netns(one: Core) -> None:
    rows = everything(one)
    account = one.accounts["tcp_echo"]["connections"][0]["client"]
    pid, fd = account["pid"], account["fd"]
    (row,) = [r for r in rows for h in r["holders"] if (h["pid"], h["fd"]) == (pid, fd)]

    def sks(*argv: str) -> set[str]:
        return {r["sk"] for r in one.rows("ss", *argv)}

    assert sks("--inode", str(row["ino"])) == {row["sk"]}
    assert sks("--addr", row["sk"]) == {row["sk"]}
    assert sks("-a", "--pid", str(pid)) == {
        r["sk"] for r in rows if any(h["pid"] == pid for h in r["holders"])
    }
    port = row["rport"]
    by_port = {
        r["sk"] for r in rows if r["netid"] in ("tcp", "udp", "udpl", "mptcp", "sctp")
        and port in (r["lport"], r["rport"])
    }  # fmt: skip
    assert row["sk"] in by_port
    assert sks("-a", "--port", str(port)) == by_port
    accounted: dict[int, set[int]] = {}
    for entry, _ in accounted_sockets(one, ("netns",)):
        accounted.setdefault(entry["netns"], set()).add(entry["inode"])
    assert len(accounted) >= 3
    for ino, wanted in accounted.items():
        chosen = one.rows("ss", "-a", "--netns", str(ino))
        assert {r["netns"] for r in chosen} == {ino}
        assert {r["ino"] for r in chosen} >= wanted
        assert {r["sk"] for r in chosen} == {r["sk"] for r in rows if r["netns"] == ino}


def test_usual_columns_are_those_of_ss(one: Core) -> None:
    head = one.run("ss", "-tan").out.splitlines()[0].split()
    assert head == ["NETID", "STATE", "RECV-Q", "SEND-Q", "LOCAL", "PEER"]
    # What comes after these is in the order of ss.
    details = one.run("ss", "-tanepomi").out.splitlines()[0].split()
    assert details == [*head, "HOLDERS", "TIMER", "EXT", "SKMEM", "INFO"]
    assert one.run("ss", "-tanQ").out.splitlines()[0].split() == [*head[:2], *head[4:]]


def test_listening_is_not_never_bound(one: Core) -> None:
    assert {row["state"] for row in one.rows("ss", "-tl")} == {"LISTEN"}
