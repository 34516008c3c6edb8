# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Every family, in every state that it has: made by a workload, and found in the core.

What is expected is what the workloads said of what they made. A state that a kernel cannot be
brought to is in an account's ``skipped``; nothing else may be missing.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from .machine import Core, Row

V4, V6 = "AF_INET", "AF_INET6"
#: Our names of the states that accounts name as the kernel does.
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
}


class Made(NamedTuple):
    """A socket that a workload made and holds."""

    workload: str
    pid: int
    entry: dict[str, Any]
    #: What it is in the lists of the account: client, server, listener, waiting (a client that
    #: nobody accepted), never_bound.
    roles: frozenset[str]
    #: As the list names it.
    transport: str

    @property
    def family(self) -> str:
        return str(self.entry["family"])

    @property
    def type(self) -> str:
        return str(self.entry["type"])


Pick = Callable[[Made], bool]


class Case(NamedTuple):
    """A state of a family: how accounts tell of it, and what a row then says."""

    #: One of these.
    netids: tuple[str, ...]
    #: Regular expression.
    state: str
    pick: Pick
    #: Regular expression of what accounts call it where a kernel lacks it.
    skipped: str = "(?!)"


# The workloads that stay as they were when they gave their account.
_MOVING = ("tcp_echo", "unix_fork", "database", "bench")


def roles(account: dict[str, Any]) -> dict[tuple[int, int], tuple[set[str], str]]:
    found: dict[tuple[int, int], tuple[set[str], str]] = {}

    def add(end: dict[str, int], role: str, transport: str = "") -> None:
        names, old = found.get((end["pid"], end["fd"]), (set(), ""))
        found[end["pid"], end["fd"]] = ({*names, role}, transport or old)

    for row in account.get("connections", []):
        transport = row.get("protocol", "")
        for end in ("client", "server", "listener"):
            if row.get(end):
                add(row[end], end, transport)
        if row.get("accepted") is False:
            add(row["client"], "waiting", transport)
    for row in account.get("never_bound", []):
        add(row, "never_bound")
    for row in account.get("pairs", []):
        add(row["a"], "pair")
        add(row["b"], "pair")
    return found


def made(core: Core) -> Iterator[Made]:
    for name, account in core.accounts.items():
        known = roles(account)
        for process in account["processes"]:
            if (
                name in _MOVING
                or "shares_files_with" in process
                or process["tid"] != process["pid"]
            ):
                continue
            for entry in process["fds"]:
                if entry["kind"] == "socket" and entry["access"] != "path":
                    names, transport = known.get((process["pid"], entry["fd"]), (set(), ""))
                    yield Made(name, process["pid"], entry, frozenset(names), transport)


def skipped(core: Core, pattern: str) -> bool:
    return any(
        re.search(pattern, row["what"])
        for account in core.accounts.values()
        for row in account["skipped"]
    )


def rows_by_holder(core: Core) -> dict[tuple[int, int], Row]:
    found: dict[tuple[int, int], Row] = {}
    for row in core.rows("ss", "-a"):
        for holder in row["holders"]:
            # The first subflow of an MPTCP socket has the same holders, and the associations of
            # an SCTP socket are rows of their own.
            if holder["tid"] is None and not row["mptcp_sk"] and not row["assoc"]:
                found[holder["pid"], holder["fd"]] = row
    return found


def both(*picks: Pick) -> Pick:
    return lambda m: all(pick(m) for pick in picks)


def neither(*picks: Pick) -> Pick:
    return lambda m: not any(pick(m) for pick in picks)


def noted(pattern: str) -> Pick:
    return lambda m: bool(re.search(pattern, m.entry.get("note", "")))


def is_(role: str) -> Pick:
    return lambda m: role in m.roles


def of(family: str, type_: str = "", protocol: int | None = None) -> Pick:
    return lambda m: (
        m.family == family and type_ in ("", m.type) and protocol in (None, m.entry.get("protocol"))
    )


def says(state: str) -> Pick:
    return lambda m: m.entry.get("state") == state


def has(member: str) -> Pick:
    return lambda m: bool(m.entry.get(member))


def bound(m: Made) -> bool:
    local = m.entry.get("local")
    return bool(local and local[1])


connected = has("remote")
STREAM, DGRAM, SEQPACKET, RAW = "SOCK_STREAM", "SOCK_DGRAM", "SOCK_SEQPACKET", "SOCK_RAW"


def _inet(family: str) -> Iterator[tuple[str, Case]]:
    tcp = both(of(family, STREAM, 6), lambda m: m.transport in ("", "tcp"))
    for theirs, ours in STATES.items():
        if theirs != "TIME_WAIT":
            yield f"TCP {theirs}", Case(("tcp",), ours, both(tcp, says(theirs)))
    for word, pick in (
        ("bound, not listening", noted("^bound only")),
        ("created, never used", is_("never_bound")),
        ("refused", noted("^refused")),
        ("reset", noted("^reset")),
    ):
        yield f"TCP {word}", Case(("tcp",), "UNCONN", both(tcp, says("CLOSE"), pick))
    yield "TCP not accepted", Case(("tcp",), "ESTAB", both(tcp, is_("waiting")))
    for word, netid, protocol in (("UDP", "udp", 17), ("UDP-Lite", "udpl", 136)):
        all_ = of(family, DGRAM, protocol)
        bound_ = both(all_, bound, neither(connected))
        yield f"{word} bound", Case((netid,), "UNCONN", bound_, word)
        yield f"{word} connected", Case((netid,), "ESTAB", both(all_, connected), word)
        never = both(all_, is_("never_bound"))
        yield f"{word} created, never used", Case((netid,), "UNCONN", never, word)
    # getpeername wants a port, which ping and raw sockets do not have.
    ping = of(family, DGRAM, 1 if family == V4 else 58)
    netids = ("icmp" if family == V4 else "icmp6",)
    for word, state, pick in (
        ("bound", "UNCONN", noted("^ping, bound$")),
        ("connected", "ESTAB", noted("^ping, .*connected")),
        ("without an identifier", "UNCONN", noted("^ping, no id")),
    ):
        yield f"ping {word}", Case(netids, state, both(ping, pick), "ping")
    raw = of(family, RAW)
    linked = noted("connected|shutdown")
    yield "raw", Case(("raw",), "UNCONN", both(raw, neither(linked)))
    yield "raw connected", Case(("raw",), "ESTAB", both(raw, linked))
    yield from _transport("MPTCP", "mptcp", of(family, STREAM, 262), noted("fell back|shutdown"))
    # A client's is PARTOPEN, which has no name here, until the other end has sent something.
    yield from _transport("DCCP", "dccp", of(family, "SOCK_DCCP", 33))
    one = of(family, STREAM, 132)
    yield from _transport("SCTP", "sctp", one, noted("peeled"))
    many = both(of(family, SEQPACKET, 132), noted("one to many"))
    for word, state, pick in (
        ("listener", "LISTEN", both(many, has("backlog"))),
        # The associations have states; the socket has none.
        ("client", "UNCONN|ESTAB", both(many, neither(has("backlog")))),
        ("peeled off", "ESTAB", both(of(family, "", 132), noted("peeled"))),
    ):
        yield f"SCTP one to many, {word}", Case(("sctp",), state, pick, "SCTP")


def _transport(
    word: str, netid: str, all_: Pick, but: Pick = lambda _: False, skipped: str = ""
) -> Iterator[tuple[str, Case]]:
    """The states that each of ``transports`` has."""
    up = "ESTAB|13|14" if netid == "dccp" else "ESTAB"
    for role, state in (("listener", "LISTEN"), ("client", up), ("server", up), ("waiting", up)):
        case = Case((netid,), state, both(all_, is_(role), neither(but)), skipped or word)
        yield f"{word} {role}", case
    for name, pick in (
        ("bound", noted("^bound only")),
        ("created, never used", is_("never_bound")),
    ):
        yield f"{word} {name}", Case((netid,), "UNCONN", both(all_, pick), skipped or word)


def _unix() -> Iterator[tuple[str, Case]]:
    for type_, netid in ((STREAM, "u_str"), (DGRAM, "u_dgr"), (SEQPACKET, "u_seq")):
        all_ = of("AF_UNIX", type_)
        # A datagram socket that others are connected to is connected to the kernel, too; since
        # 83301b5367a9 ("af_unix: Set TCP_ESTABLISHED for datagram sockets too", in v5.15), before
        # which none was.
        idle, up = ("UNCONN|ESTAB",) * 2 if type_ == DGRAM else ("UNCONN", "ESTAB")
        for word, state, pick in (
            ("listening", "LISTEN", says("LISTEN")),
            ("connected", up, says("CONNECTED")),
            ("not connected", idle, says("UNCONNECTED")),
            ("created, never used", "UNCONN", is_("never_bound")),
            ("not accepted", "ESTAB", is_("waiting")),
        ):
            if type_ != DGRAM or word not in ("listening", "not accepted"):
                yield f"unix {type_} {word}", Case((netid,), state, both(all_, pick))


def _netlink_and_packet() -> Iterator[tuple[str, Case]]:
    for word, pick in (
        ("bound", lambda m: bool(m.entry["local"][0])),
        ("created, never used", is_("never_bound")),
        ("with groups", noted("group")),
        ("connected", lambda m: any(m.entry["remote"])),
        ("with messages", has("datagrams")),
        ("in a dump", noted("dump")),
    ):
        yield f"netlink {word}", Case(("nl",), "UNCONN", both(of("AF_NETLINK"), pick))
    for type_, netid in ((RAW, "p_raw"), (DGRAM, "p_dgr")):
        all_ = of("AF_PACKET", type_)
        yield f"packet {type_} bound", Case((netid,), "UNCONN", both(all_, _on_device))
        yield f"packet {type_} not bound", Case((netid,), "UNCONN", both(all_, neither(_on_device)))
    for word in ("TPACKET_V1", "TPACKET_V2", "TPACKET_V3", "fanout", "memberships", "filter"):
        case = Case(("p_raw", "p_dgr"), "UNCONN", both(of("AF_PACKET"), noted(word)))
        yield f"packet with {word}", case


def _on_device(m: Made) -> bool:
    return bool(m.entry["local"][0])


def _others() -> Iterator[tuple[str, Case]]:
    for type_, netid, what in ((STREAM, "v_str", "vsock"), (SEQPACKET, "v_seq", "vsock seqpacket")):
        all_ = of("AF_VSOCK", type_)
        yield from _transport(f"vsock {type_}", netid, all_, noted("shutdown"), what)
    for word, pattern in (
        ("bound", "^bound"),
        ("with memory, not bound", "^memory"),
        ("with rings, without memory", "^rings"),
        ("sharing memory", "^shares"),
    ):
        yield f"XDP {word}", Case(("xdp",), "UNCONN", both(of("44"), noted(pattern)), "AF_XDP")
    never = both(of("44"), is_("never_bound"))
    yield "XDP created, never used", Case(("xdp",), "UNCONN", never, "AF_XDP")
    for role in ("listener", "never_bound"):
        yield f"SMC {role}", Case(("smc_str",), ".+", both(of("43"), is_(role)), "SMC")
    fell_back = both(lambda m: m.transport == "smc", neither(is_("listener")))
    yield "SMC that fell back to TCP", Case(("tcp",), "ESTAB", fell_back, "SMC")
    for type_, netid in (
        *((STREAM, "ti_st"), (SEQPACKET, "ti_sq")),
        *(("SOCK_RDM", "ti_rd"), (DGRAM, "ti_dg")),
    ):
        yield f"TIPC {type_}", Case((netid,), ".+", of("AF_TIPC", type_), "TIPC")
    for word, netids, pattern, what in (
        ("SCTP with several addresses", ("sctp",), "two addresses", "SCTP"),
        ("MPTCP over several subflows", ("mptcp",), "three subflows", "MPTCP"),
        ("MPTCP that fell back to TCP", ("mptcp", "tcp"), "MPTCP fell back", "MPTCP"),
        ("TLS over TCP", ("tcp",), "^TLS", "TLS"),
    ):
        yield word, Case(netids, "ESTAB|LISTEN", noted(pattern), what)


CASES = {
    **{f"{word} {family}": case for family in (V4, V6) for word, case in _inet(family)},
    **dict(_unix()),
    **dict(_netlink_and_packet()),
    **dict(_others()),
}


def family_name(text: str) -> str:
    try:
        return socket.AddressFamily(int(text)).name if text.isdecimal() else text
    except ValueError:
        return {"43": "AF_SMC", "44": "AF_XDP"}.get(text, text)


@pytest.mark.parametrize("name", CASES)
def test_state_held_by_a_descriptor(elf: Core, name: str) -> None:
    case = CASES[name]
    found = [m for m in made(elf) if case.pick(m)]
    if not found:
        assert skipped(elf, case.skipped), f"no workload made it, and none said why: {name}"
        pytest.skip(f"{elf.kernel} does not have it")
    rows = rows_by_holder(elf)
    for m in found:
        row = rows[m.pid, m.entry["fd"]]
        assert row["netid"] in case.netids, m
        assert re.fullmatch(case.state or ".+", row["state"]), (m, row["state"])
        assert row["netns"] == m.entry["netns"], m
        assert row["type"] == m.type, m
        if m.transport != "smc":
            assert row["ino"] == m.entry["inode"], m
        if case.netids[0] not in ("mptcp", "smc_str"):
            assert row["family"] == family_name(m.family), m
        if m.family in (V4, V6) and case.netids[0] in ("tcp", "udp", "udpl", "mptcp", "dccp"):
            for end, letter in (("local", "l"), ("remote", "r")):
                if m.entry.get(end):
                    host, port = m.entry[end][:2]
                    assert (row[f"{letter}addr"], row[f"{letter}port"]) == (host, port), m


# What no table of file descriptors shows.

MAPPED = "IPv4 in AF_INET6"
ORPHANS = [
    (kind, state, family)
    for kind, state, families in (
        ("request", "SYN_RECV", (V4, V6, MAPPED)),
        ("timewait", "TIME_WAIT", (V4, V6, MAPPED)),
        ("timewait", "FIN_WAIT2", (V4, V6)),
        *(("full", s, (V4, V6)) for s in ("FIN_WAIT1", "FIN_WAIT2", "CLOSING", "LAST_ACK")),
    )
    for family in families
]


def family_of(orphan: dict[str, Any]) -> str:
    return MAPPED if "::ffff:" in orphan["remote"][0] else str(orphan["family"])


@pytest.mark.parametrize(("kind", "state", "family"), ORPHANS)
def test_tcp_without_a_descriptor(elf: Core, kind: str, state: str, family: str) -> None:
    rows = {
        (row["laddr"], row["lport"], row["raddr"], row["rport"]): row
        for row in elf.rows("ss", "-a")
        if row["netid"] == "tcp" and not row["holders"]
    }
    wanted = (kind, state, family)
    made_ = [
        orphan
        for account in elf.accounts.values()
        for orphan in account.get("orphans", [])
        if (orphan["kind"], orphan.get("substate", orphan["state"]), family_of(orphan)) == wanted
    ]
    assert made_, "no workload makes it"
    for orphan in made_:
        places = orphan.get("locals") or [orphan["local"]]
        found = [rows.get((*place[:2], *orphan["remote"][:2])) for place in places]
        standing = [row for row in found if row]
        assert standing, orphan
        for row in standing:
            # Time-wait sockets are shown in the state that they wait in.
            assert row["state"] in (STATES[state], STATES[orphan["state"]]), orphan
            assert row["ino"] == 0 and row["holders"] == [], orphan


def not_accepted(core: Core) -> dict[str, list[tuple[Made, Made]]]:
    """Clients and listeners of connections that nobody has accepted, by family and type."""
    by_end = {(m.pid, m.entry["fd"]): m for m in made(core)}
    found: dict[str, list[tuple[Made, Made]]] = {}
    for account in core.accounts.values():
        for row in account.get("connections", []):
            if row.get("accepted") is False:
                client, listener = (
                    by_end[row[end]["pid"], row[end]["fd"]] for end in ("client", "listener")
                )
                word = client.transport or ("unix" if client.family == "AF_UNIX" else "tcp")
                if word in ("unix", "vsock"):
                    word += f" {client.type}"
                elif client.family != listener.family:
                    word += " of IPv4 in AF_INET6"
                else:
                    word += f" {client.family}"
                found.setdefault(word, []).append((client, listener))
    return found


NOT_ACCEPTED = {
    **{f"tcp {family}": "(?!)" for family in (V4, V6, "of IPv4 in AF_INET6")},
    **{f"unix {kind}": "(?!)" for kind in ("SOCK_STREAM", "SOCK_SEQPACKET")},
    **{
        f"{word} {family}": word.upper()
        # DCCP has but its generic part: sockets that a process holds.
        for word in ("mptcp", "sctp")
        for family in (V4, V6)
    },
    "vsock SOCK_STREAM": "vsock",
    "vsock SOCK_SEQPACKET": "vsock seqpacket",
}


@pytest.mark.parametrize("word", NOT_ACCEPTED)
def test_not_accepted_yet(elf: Core, word: str) -> None:
    pairs = not_accepted(elf).get(word, [])
    if not pairs:
        assert skipped(elf, NOT_ACCEPTED[word]), "no workload made it, and none said why"
        pytest.skip(f"{elf.kernel} does not have it")
    without_types(elf, word)
    rows = elf.rows("ss", "-a")
    held = rows_by_holder(elf)
    for client, listener in pairs:
        mine = held[client.pid, client.entry["fd"]]
        its = held[listener.pid, listener.entry["fd"]]
        # An SCTP association that nobody has accepted is the listener's.
        owners = its["holders"] if word.startswith("sctp") else []
        others = [row for row in rows if row["netid"] == mine["netid"] and row["holders"] == owners]
        if word.startswith("unix"):
            (other,) = (row for row in others if row["sk"] == mine["peer"] or is_peer(row, mine))
            assert other["peer_ino"] == mine["ino"] and other["path"] == its["path"]
            assert other["local"].endswith(" 0")
        elif word.startswith("vsock"):
            (other,) = (row for row in others if row["peer"].rpartition(":")[2] == port(mine))
        else:
            prefix = "::ffff:" if its["family"] == V6 and mine["family"] == V4 else ""
            ends = (prefix + mine["raddr"], mine["rport"], prefix + mine["laddr"], mine["lport"])
            (other,) = (
                row
                for row in others
                if (row["laddr"], row["lport"], row["raddr"], row["rport"]) == ends
            )
        assert other["state"] in (mine["state"], "ESTAB"), other
        assert other["netns"] == mine["netns"]
        assert its["state"] == "LISTEN"
        if word.startswith("tcp") or word.startswith("unix"):
            assert other["ino"] == 0
            assert its["recv_q"] == listener.entry["pending"], listener


def without_types(core: Core, word: str) -> None:
    """BTF of modules is there since 36e68442d1af ("bpf: Load and verify ...", in v5.11)."""
    if core.series == "5.10" and core.types == "btf" and word.startswith("vsock"):
        pytest.skip("the types of this family are a module's, and 5.10 has no BTF of modules")


def port(row: Row) -> str:
    return str(row["local"].rpartition(":")[2])


def is_peer(row: Row, other: Row) -> bool:
    return bool(row["peer_ino"] and row["peer_ino"] == other["ino"] and not row["ino"])


def test_sockets_of_the_kernel(elf: Core) -> None:
    """Tunnels open UDP sockets, which no process holds."""
    rows = elf.rows("ss", "-a")
    makers = set()
    for account in elf.accounts.values():
        for made_ in account.get("kernel_sockets", []):
            makers.add(made_["made_by"])
            (row,) = (
                row
                for row in rows
                if (row["netid"], row["family"], row["lport"], row["netns"])
                == (made_["protocol"], made_["family"], made_["port"], made_["netns"])
            )
            assert row["state"] == ("ESTAB" if made_["made_by"] == "l2tp" else "UNCONN"), made_
            assert row["holders"] == []
    assert makers == {"vxlan", "geneve", "wireguard", "l2tp"}


def test_sockets_in_flight(elf: Core) -> None:
    """Only a message that nobody has received holds them."""
    rows = {row["ino"]: row for row in elf.rows("ss", "-a") if row["ino"]}
    count = 0
    for account in elf.accounts.values():
        for row in account.get("in_flight", []):
            for inode in row["inodes"]:
                count += 1
                assert rows[inode]["ino"] == inode
                assert row.get("how") or rows[inode]["netid"] in ("u_str", "u_dgr", "tcp")
    assert count >= 3


def test_namespaces_without_a_process(elf: Core) -> None:
    """One is kept by sockets only: they are found, and so are they as that namespace's."""
    lone = {
        row["netns"]
        for account in elf.accounts.values()
        for row in account.get("namespaces", [])
        if row["kept_by"] == "sockets"
    }
    assert len(lone) == 1
    rows = [row for row in elf.rows("ss", "-a") if row["netns"] in lone]
    assert {("tcp", 8090), ("udp", 8091)} <= {(row["netid"], row["lport"]) for row in rows}


def ends(row: Row) -> tuple[Any, ...]:
    return row["laddr"], row["lport"], row["raddr"], row["rport"]


def test_each_connection_has_two_ends_that_name_each_other(elf: Core) -> None:
    held = rows_by_holder(elf)
    seen = set()
    for name, account in elf.accounts.items():
        if name in _MOVING:
            continue
        for row in account.get("connections", []):
            if not row.get("server") or row.get("points_back") is False:
                continue
            client, server = (held[row[end]["pid"], row[end]["fd"]] for end in ("client", "server"))
            transport = row.get("protocol", "tcp")
            seen.add(transport)
            if transport in ("vsock", "tipc"):
                if transport == "vsock" and (elf.kernel, elf.types) != ("5.10", "btf"):
                    assert port(client) == server["peer"].rpartition(":")[2], row
                    assert port(server) == client["peer"].rpartition(":")[2], row
                continue
            here, port_here, there, port_there = ends(client)
            mapped = {f"::ffff:{here}", here}, {f"::ffff:{there}", there}
            assert (port_there, port_here) == (server["lport"], server["rport"]), row
            if transport != "sctp":
                assert server["raddr"] in mapped[0] and server["laddr"] in mapped[1], row
    wanted = {"tcp", "mptcp", "sctp", "dccp", "vsock", "smc", "tipc"}
    for word in wanted - seen:
        assert skipped(elf, f"^{word.upper()}$"), word


def test_odd_names(elf: Core) -> None:
    """Names of unix sockets, whatever bytes they are of, as getsockname gave them."""
    held = rows_by_holder(elf)
    names = set()
    for m in made(elf):
        if m.family == "AF_UNIX" and m.workload == "unix_zoo":
            row = held[m.pid, m.entry["fd"]]
            assert row["path"] == (m.entry["path"] or None), m
            names.add(m.entry["path"])
    for byte in ("\n", "'", '"', "\x1b", "\udcff", "*", "   ", "@", "\\", "\t", " (deleted)"):
        assert any(byte in name for name in names), repr(byte)
    assert any(name.startswith("\0") and "\0" in name[1:] for name in names), "a NUL within"
    assert any(len(name.encode(errors="surrogateescape")) == 108 for name in names)
