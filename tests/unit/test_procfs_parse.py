# SPDX-License-Identifier: LGPL-2.1-or-later
"""Are rows of procfs taken apart as the kernel put them together?"""

# The rows are made by the kernel's own format strings.
# ruff: noqa: UP031

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drgn_sockets.check.procfs import FdLook, ProcTree, parse_net, split_net

# net/ipv4/tcp_ipv4.c, net/ipv6/tcp_ipv6.c, net/ipv4/udp.c and net/unix/af_unix.c
TCP_HEADING = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid"
    "  timeout inode"
)
TCP6_HEADING = (
    "  sl  local_address                         remote_address                        "
    "st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
)
UDP_HEADING = (
    "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid"
    "  timeout inode ref pointer drops"
)
UNIX_HEADING = "Num       RefCount Protocol Flags    Type St Inode Path"


def full(sl: int, source: str, destination: str) -> str:
    """get_tcp4_sock(), get_tcp6_sock()"""
    return "%4d: %s:%04X %s:%04X %02X %08X:%08X %02X:%08X %08X %5u %8d %u %d %s %u %u %u %u %d" % (
        *(sl, source, 22, destination, 0xD431, 1, 0x1234, 7, 2, 0x1B5C, 3, 1000, 4, 21189, 5),
        *("ffff888001234500", 51, 10, 6, 10, -1),
    )


def small(sl: int, state: int, inode: int = 0) -> str:
    """get_timewait4_sock(), get_openreq4()"""
    return "%4d: %08X:%04X %08X:%04X %02X %08X:%08X %02X:%08X %08X %5d %8d %d %d %s" % (
        *(sl, 0x0100007F, 80, 0x0100007F, 0xFFFF, state, 0, 0, 3, 0x5DC, 0, 0, 0, inode, 3),
        "ffff8880aabbccdd",
    )


def udp(bucket: int, pointer: str = "ffff888001234500") -> str:
    """udp4_format_sock(); raw_sock_seq_show() is the same but for the width of the bucket."""
    return "%5d: %08X:%04X %08X:%04X %02X %08X:%08X %02X:%08X %08X %5u %8d %u %d %s %u" % (
        *(bucket, 0, 68, 0, 0, 7, 0, 0x300, 0, 0, 0, 101, 0, 999, 2, pointer, 12),
    )


def unix(
    inode: int, name: bytes | None = None, pointer: str = "ffff888001234500", type_: int = 1
) -> bytes:
    """unix_seq_show()"""
    row = "%s: %08X %08X %08X %04X %02X %5u" % (pointer, 2, 0, 0x10000, type_, 1, inode)
    return row.encode() + (b"" if name is None else b" " + name.replace(b"\0", b"@")) + b"\n"


def text(heading: str, *rows: str) -> bytes:
    # The fixed width of a row: %-149s or %-127s, and a newline.
    return "".join(f"{row:<149}\n" for row in (heading, *rows)).encode()


def test_tcp() -> None:
    rows = parse_net("tcp", text(TCP_HEADING, full(0, "0100007F", "0200000A"), small(123456, 6)))
    assert rows[0] == {
        "local_address": "0100007F:0016",
        "rem_address": "0200000A:D431",
        "st": "01",
        "tx_queue": "00001234",
        "rx_queue": "00000007",
        "tr": "02",
        "when": "00001B5C",
        "retrnsmt": "00000003",
        "uid": "1000",
        "timeout": "4",
        "inode": "21189",
        "ref": "5",
        "pointer": "ffff888001234500",
        "rto": "51",
        "ato": "10",
        "quick_pingpong": "6",
        "cwnd": "10",
        "ssthresh": "-1",
    }
    # Timewait and request sockets end with the pointer.
    assert list(rows[1]) == list(rows[0])[:13]
    assert (rows[1]["st"], rows[1]["tr"], rows[1]["pointer"]) == ("06", "03", "ffff8880aabbccdd")
    assert parse_net("tcp", text(TCP_HEADING, small(1, 3)))[0]["st"] == "03"


def test_tcp6() -> None:
    address = "00000000000000000000000001000000"
    (row,) = parse_net("tcp6", text(TCP6_HEADING, full(9, address, "0" * 32)))
    assert row["local_address"] == f"{address}:0016"
    assert row["rem_address"] == f"{'0' * 32}:D431"
    assert row["ssthresh"] == "-1"


@pytest.mark.parametrize("file", ["udp", "udp6", "udplite6", "raw", "raw6", "icmp", "icmp6"])
def test_udp_and_raw(file: str) -> None:
    first, second = parse_net(file, text(UDP_HEADING, udp(7), udp(1234567)))
    assert first == second
    assert (first["inode"], first["ref"], first["drops"]) == ("999", "2", "12")
    assert (first["uid"], first["rx_queue"]) == ("101", "00000300")


def test_sockstat() -> None:
    data = b"sockets: used 403\nTCP: inuse 102 orphan 8 tw 8 alloc 191 mem 1408\nRAW: inuse 6\n"
    used, tcp, raw = parse_net("sockstat", data)
    assert used == {"protocol": "sockets", "used": "403"}
    assert tcp == {
        **{"protocol": "TCP", "inuse": "102", "orphan": "8", "tw": "8"},
        **{"alloc": "191", "mem": "1408"},
    }
    assert raw == {"protocol": "RAW", "inuse": "6"}
    for bad in (b"", b"\n", b"TCP inuse 3\n", b"TCP: inuse\n", b"TCP: inuse 3 orphan\n"):
        if bad:
            with pytest.raises(ValueError):
                parse_net("sockstat6", bad)


def test_protocols() -> None:
    names = "protocol size sockets memory press maxhdr slab module cl co di ac io in de sh ss gs"
    # Since 6.5 there is no "sp".
    for flags in ("se re sp bi br ha uh gp em", "se re bi br ha uh gp em"):
        heading = f"{names} {flags}"
        words = ["TCPv6", "2560", "37", "1034", "no", "256", "yes", "kernel"]
        words += ["y"] * (len(heading.split()) - len(words))
        (row,) = parse_net("protocols", f"{heading}\n{' '.join(words)}\n".encode())
        assert row == dict(zip(heading.split(), words))
        for bad in ("", "x\ny\n", f"{heading}\n{' '.join(words[1:])}\n", f"{heading}\n\n"):
            with pytest.raises(ValueError):
                parse_net("protocols", bad.encode())


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("sockstat", b"TCP: inuse x\n"),
        ("tcp", text(TCP_HEADING, full(0, "0", "0").replace("00001B5C", "0000zzzz"))),
        ("raw", text(UDP_HEADING, udp(7)[:-2] + "many")),
    ],
)
def test_what_is_reckoned_with_is_a_number(file: str, data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_net(file, data)


def test_lines_as_they_stand() -> None:
    first, second = unix(1, b"a\nb"), unix(2, b"\0x")
    text_, rows = split_net("unix", unix_file(first, second))
    assert (text_.heading.decode(), text_.lines) == (UNIX_HEADING, [first, second])
    assert [row["Path"] for row in rows] == [" a\nb", " @x"]
    text_, _ = split_net("tcp", text(TCP_HEADING, full(0, "0", "0"), small(1, 6)))
    assert text_.heading.decode() == f"{TCP_HEADING:<149}"
    assert [len(line) for line in text_.lines] == [150, 150]


@pytest.mark.parametrize("file", ["tcp", "tcp6", "udp", "raw"])
def test_no_sockets(file: str) -> None:
    heading = TCP6_HEADING if file == "tcp6" else UDP_HEADING
    assert parse_net(file, text(heading)) == []
    assert parse_net("unix", f"{UNIX_HEADING}\n".encode()) == []


@pytest.mark.parametrize("pointer", ["0000000000000000", "00000000a1b2c3d4", "(null)"])
def test_hidden_pointers(pointer: str) -> None:
    assert parse_net("udp", text(UDP_HEADING, udp(7, pointer)))[0]["pointer"] == pointer
    (row,) = parse_net("unix", f"{UNIX_HEADING}\n".encode() + unix(5, b"/x", pointer))
    assert (row["pointer"], row["Path"]) == (pointer, " /x")


def unix_file(*rows: bytes) -> bytes:
    return f"{UNIX_HEADING}\n".encode() + b"".join(rows)


def test_unix() -> None:
    odd = bytes(set(range(1, 256)) - {10})
    names = [None, b"/run/x.sock", b"\0abstract", b"\0a\0b", b"", b" ", b"a b ", odd, b"\0"]
    data = unix_file(*(unix(i, name, type_=i % 5 + 1) for i, name in enumerate(names)))
    rows = parse_net("unix", data)
    assert [row["Inode"] for row in rows] == [str(i) for i in range(len(names))]
    assert [row["Type"] for row in rows] == [f"{i % 5 + 1:04X}" for i in range(len(names))]
    for row, name in zip(rows, names):
        expected = b"" if name is None else b" " + name.replace(b"\0", b"@")
        assert row["Path"].encode("latin-1") == expected
        assert (row["RefCount"], row["Flags"], row["St"]) == ("00000002", "00010000", "01")


FAKE = unix(666, b"/fake", "ffff888066666600")


@pytest.mark.parametrize(
    "name", [b"a\nb", b"\n", b"a\n\n\nb", b"a\n", b"\0x\ny", b"Num\nffff888066666600: 0"]
)
def test_unix_names_with_newlines(name: bytes) -> None:
    data = unix_file(unix(1, b"/one"), unix(2, name, "ffff888000000200"), unix(3, b"/three"))
    path = (b" " + name.replace(b"\0", b"@")).decode("latin-1")
    # Memory knows the name, by the address, or by the inode if addresses are hidden.
    for paths in ({"ffff888000000200": path}, {"2": path}):
        rows = parse_net("unix", data, paths)
        assert [(r["Inode"], r["Path"]) for r in rows] == [
            ("1", " /one"),
            ("2", path),
            ("3", " /three"),
        ]
    # Who does not know it takes what is no row for the rest of the name.
    rows = parse_net("unix", data)
    assert [r["Inode"] for r in rows] == ["1", "2", "3"]
    assert rows[1]["Path"] == path


def test_unix_names_that_hold_a_row() -> None:
    name = b"/real\n" + FAKE + b"end"
    data = unix_file(unix(2, name, "ffff888000000200"), unix(3, b"/three"))
    path = f" {name.decode()}"
    for hint in ("ffff888000000200", "2"):
        rows = parse_net("unix", data, {hint: path, "666": " /other"})
        assert [(r["Inode"], r["Path"]) for r in rows] == [("2", path), ("3", " /three")]
    # Nobody can tell without knowing the name.
    assert [r["Inode"] for r in parse_net("unix", data)] == ["2", "666", "3"]
    # What memory says and procfs does not is not taken from memory.
    rows = parse_net("unix", data, {"ffff888000000200": " /real\nand more", "3": " /thre"})
    assert (rows[0]["Path"], rows[-1]["Path"]) == (" /real", " /three")
    # Nor is a name that only begins like that.
    (row,) = parse_net("unix", unix_file(unix(4, b"/long\nname")), {"4": " /long"})
    assert row["Path"] == " /long\nname"


@pytest.mark.parametrize("file", ["tcp", "tcp6", "udp", "raw6", "unix"])
@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\n",
        b"garbage\n",
        b"\xff\xfe\n",
        b"Not Found\n" * 3,
        b"HEADING\nx\n",
        b"HEADING\n   0:\n",
        b"HEADING\n   0: 0100007F:0016 0200000A:D431 01\n",
        b"HEADING\n   0: 0100007F:0016 0200000A:D431 01 00000000 00:00000000 0 0\n",
        b"HEADING\n\xff\n",
        b"HEADING\nffff888001234500: 00000002 0000\n",
        b"HEADING\n\n",
    ],
)
def test_what_is_no_such_file(file: str, garbage: bytes) -> None:
    heading = {"unix": UNIX_HEADING, "tcp": TCP_HEADING, "tcp6": TCP6_HEADING}.get(
        file, UDP_HEADING
    )
    with pytest.raises(ValueError):
        parse_net(file, garbage.replace(b"HEADING", heading.encode()))


@given(st.integers(0, 200))
def test_truncated_rows(length: int) -> None:
    # Each beginning of a row is an error, or has all that every row has.
    whole = full(0, "0100007F", "0200000A")
    try:
        (row,) = parse_net("tcp", f"{TCP_HEADING}\n{whole[:length]}".encode())
    except ValueError:
        assert length < whole.index("ffff888") + 16
    else:
        assert length > whole.index("ffff888")
        assert list(row)[:13] == list(parse_net("tcp", text(TCP_HEADING, whole))[0])[:13]


def test_a_tree(tmp_path: Path) -> None:
    for pid in ("7", "10", "self", "x1"):
        (tmp_path / pid / "fd").mkdir(parents=True)
        (tmp_path / pid / "fdinfo").mkdir()
    (tmp_path / "uptime").write_text("12.34 5.00\n")
    fds = tmp_path / "7/fd"
    (fds / "0").symlink_to("/dev/null")
    (fds / "3").symlink_to("socket:[5]\nx")
    (tmp_path / "7/fdinfo/3").write_text(
        "pos:\t12\nflags:\t02004002\nmnt_id:\t9\nino:\t5\nscm_fds: 0\npos:\t13\n"
    )
    (tmp_path / "7/fdinfo/4").write_bytes(b"pos:\t1\n\xff\nflags 7\n")
    (tmp_path / "7/task/7").mkdir(parents=True)
    (tmp_path / "7/task/8").mkdir()
    for pid, words in (
        ("7", "(a) I 1) S 1 0 0 0 -1 69238880 0"),
        ("10", "(sh) S 1 0 0 0 -1 4194304 0"),
    ):
        (tmp_path / pid / "stat").write_text(f"{pid} {words} 0 0\n")
    tree = ProcTree(str(tmp_path))
    assert [tree.is_kthread(pid) for pid in (7, 10, 11)] == [True, False, False]
    assert tree.pids() == [7, 10]
    assert tree.own_tables(7) == [8]
    assert tree.own_tables(10) == []
    assert tree.uptime_s() == 12.34
    assert tree.fds("7") == {
        0: FdLook(b"/dev/null", None),
        3: FdLook(
            b"socket:[5]\nx",
            {"pos": "12", "flags": "02004002", "mnt_id": "9", "ino": "5"},
            (b"scm_fds: 0\n", b"pos:\t13\n"),
        ),
        4: FdLook(None, {"pos": "1"}, (b"\xff\n", b"flags 7\n")),
    }
    assert tree.fds("10") == {}
    assert tree.fds("11") is None
    assert tree.read("net/tcp") is None
    assert tree.read("7") is None
    for odd in ("", "\n", "soon\n"):
        (tmp_path / "uptime").write_text(odd)
        assert tree.uptime_s() is None
