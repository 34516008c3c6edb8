# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Is what we make of memory what sock_diag sent, to the byte? And does ``check --diag`` see it where
it is not?

What there is to compare is counted here, in the saved replies.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from drgn import FaultError, Object

from drgn_sockets.check import diag, sock_diag
from drgn_sockets.check.sock_diag import Reply
from drgn_sockets.records.families.tcp import TcpSockRecord
from drgn_sockets.records.reader import for_each_socket
from drgn_sockets.views.diag import KINDS, diag_of, inet
from drgn_sockets.views.diag.forms import Structure, declared, of_type
from tests import tables

from .conftest import opened
from .machine import Core, Done, series_of

TABLE = "sock_diag attributes"
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET = 1, 2, 10, 16, 17
AF_VSOCK, AF_XDP = 40, 44
IPPROTO_SCTP = 132
#: ``sizeof`` what a message begins with, and where the cookie is in it, by linux/*_diag.h.
HEADERS = {
    **dict.fromkeys((AF_INET, AF_INET6), (72, 44)),
    AF_UNIX: (16, 8),
    AF_NETLINK: (28, 20),
    AF_PACKET: (16, 8),
    AF_VSOCK: (32, 24),
    AF_XDP: (16, 8),
}
INET_DIAG_PAD = 14


def saved(core: Core) -> dict[int, list[Reply]]:
    """The replies of each network namespace."""
    files = sorted(core.oracle.glob("netns/*/diag"))
    if not files:
        text = f"NOTHING IS TESTED on {core.kernel}: nothing was saved of sock_diag"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    return {int(file.parent.name): sock_diag.load(file) for file in files}


def is_known(core: Core, reply: Reply) -> bool:
    return diag_of(core.prog).kind_of_reply(reply.family, reply.protocol) is not None


def cookie(reply: Reply) -> bytes:
    """
    That of the socket: of netlink sockets that have joined a group there are two replies. Others
    of one socket are of its associations (SCTP).
    """
    if reply.protocol == IPPROTO_SCTP:
        return reply.message
    at = HEADERS[reply.family][1]
    return reply.message[at : at + 8]


def attributes(reply: Reply) -> Iterator[tuple[int, int, bytes]]:
    """Number, place in the message, and payload of each attribute."""
    data, at = reply.message, HEADERS[reply.family][0]
    while at < len(data):
        length, number = struct.unpack_from("=HH", data, at)
        if not (reply.family in (AF_INET, AF_INET6) and number & 0x3FFF == INET_DIAG_PAD):
            yield number & 0x3FFF, at + 4, data[at + 4 : at + length]
        at += length + 3 & ~3


def ours(reply: Reply, number: int) -> str:
    """Name of an attribute."""
    (kind,) = (k for k in KINDS if reply.family in k.families and reply.protocol in k.protocols)
    return next(a.name for a in kind.attributes if a.number == number)


def header_name(reply: Reply) -> str:
    (kind,) = (k for k in KINDS if reply.family in k.families and reply.protocol in k.protocols)
    return kind.header.removeprefix("struct ")


def check(core: Core, where: Path | str, *options: str) -> tuple[Done, list[dict[str, Any]]]:
    done = core.run("check", "--diag", str(where), "--json", *options)
    return done, [json.loads(line) for line in done.out.splitlines()]


def excepted(name: str) -> str:
    """What of an attribute names a moment."""
    forms = [a.form for kind in KINDS for a in kind.attributes if a.name == name]
    forms = forms or [f"struct {name}"]
    return ", ".join(member for type_, member in diag.MOMENTS if type_ in forms)


def test_everything_is_compared_and_equal(core: Core) -> None:
    replies = [
        r
        for some in saved(core).values()
        for r in {cookie(r): r for r in some if is_known(core, r)}.values()
    ]
    expected = Counter(header_name(r) for r in replies)
    expected.update(ours(r, number) for r in replies for number, _, _ in attributes(r))

    done, found = check(core, core.oracle, "--moved")
    assert done.status == 0, [row for row in found if not may_move(row)]
    assert [row for row in found if not may_move(row)] == []
    match = re.search(
        r"^(\d+) sockets, (\d+) attributes compared, (\d+) equal; (\d+) moved between looks; "
        r"0 mismatches$",
        done.err,
        re.MULTILINE,
    )
    assert match, done.err
    sockets, compared, equal, moved = map(int, match.groups())
    assert compared == equal and moved == len(found)
    gone = sum(row["field"] is None for row in found)
    assert sockets + gone == len(replies)

    _, counts = check(core, core.oracle, "--attributes")
    moving = Counter(
        _attribute(row)
        for row in {json.dumps({**r, "field": _attribute(r)}): r for r in found}.values()
    )
    left_out = Counter(re.findall(r"^not compared: (\w+_DIAG_\w+): ", done.err, re.MULTILINE))
    by_name = {row["attribute"]: row for row in counts}
    assert set(expected) <= set(by_name)
    for name, row in by_name.items():
        assert row["compared"] == row["equal"], row
        # A socket that is gone takes its attributes with it.
        missing = expected[name] - row["compared"]
        assert 0 <= missing <= moving[name] + gone or left_out[name], (name, missing)
        note = excepted(name)
        tables.note(TABLE, name, core.kernel, row["compared"], row["equal"], excepted=note)


def _attribute(row: dict[str, Any]) -> str:
    """The attribute that a row is about."""
    field = row["field"] or ""
    name = str(field).split(".")[0]
    return name if re.match(r"[A-Z]+_DIAG_", name) else "inet_diag_msg"


def may_move(row: dict[str, Any]) -> bool:
    """
    Whether a row may have changed while nobody did anything: a timer of a TCP socket fired, a
    socket with a full queue dropped its copy of what that sent, or (NETLINK_SOCK_DIAG is 4) it is
    the socket that asked, or was asked.
    """
    if row["where"].startswith("netlink ") and row["row"].startswith("protocol 4 "):
        return True
    field = str(row["field"])
    # SCTP sends heartbeats.
    beats = field.endswith(("packets", "ctrlchunks", "_srtt", "_rto"))
    return row["where"].startswith("tcp ") or field.endswith(".DROPS") or beats


@pytest.fixture
def tree(one: Core, tmp_path: Path) -> Path:
    """A copy of what was saved, to be changed."""
    saved(one)
    for file in one.oracle.glob("netns/*/diag"):
        target = tmp_path / file.relative_to(one.oracle)
        target.parent.mkdir(parents=True)
        shutil.copy(file, target)
    shutil.copy(one.oracle / "uptime", tmp_path / "uptime")
    return tmp_path


def home(core: Core, tree: Path) -> Path:
    """The file with the most replies."""
    return max(tree.glob("netns/*/diag"), key=lambda file: file.stat().st_size)


def quiet(replies: Sequence[Reply]) -> set[int]:
    """Those of which no timer may explain what differs: their own, or one of the other end's."""

    def ends(message: bytes) -> tuple[bytes, bytes]:
        # struct inet_diag_sockid: ports and addresses.
        return message[4:6] + message[8:24], message[6:8] + message[24:40]

    inet = {i: r.message for i, r in enumerate(replies) if r.family in (AF_INET, AF_INET6)}
    # idiag_timer
    waiting = {ends(message) for message in inet.values() if message[2]}
    loud = {i for i, m in inet.items() if m[2] or ends(m)[::-1] in waiting}
    return set(range(len(replies))) - loud


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    return data[:at] + bytes((data[at] ^ 1 << bit,)) + data[at + 1 :]


def test_a_bit_of_each_attribute_is_seen(one: Core, tree: Path) -> None:
    """All at once, each in another message: and each is named."""
    path = home(one, tree)
    replies = sock_diag.load(path)
    expected: dict[str, int] = {}
    for i in sorted(quiet(replies)):
        reply = replies[i]
        if not is_known(one, reply):
            continue
        for number, at, payload in attributes(reply):
            name = ours(reply, number)
            if payload and name not in expected:
                # The first byte of a structure, the last of a text.
                expected[name] = i
                replies[i] = reply._replace(message=flipped(reply.message, at))
                break
    # Some are only in messages of which another attribute was changed.
    assert len(expected) > 15
    sock_diag.save(replies, path)
    done, found = check(one, tree)
    assert done.status == 1
    # By its other end an association is known: with another one it is another.
    named = {re.split(r"[.\[]", row["field"] or "INET_DIAG_PEERS")[0] for row in found}
    assert named == set(expected)


def test_a_bit_of_each_member_is_seen(one: Core, tree: Path) -> None:
    """Every member of ``struct tcp_info`` but moments, and of the header."""
    path = home(one, tree)
    replies = sock_diag.load(path)
    made = diag_of(one.prog)
    for c_type in ("struct inet_diag_msg", "struct tcp_info"):
        form = made.structure(c_type)
        i, at = next(
            (i, at)
            for i in sorted(quiet(replies))
            if (reply := replies[i]).family == AF_INET and reply.protocol == 6
            for number, at, payload in attributes(reply)
            if number == 2 and reply.message[1] == 1 and payload
        )
        data = bytearray(replies[i].message)
        start = 0 if c_type.endswith("msg") else at
        moments = {member for type_, member in diag.MOMENTS if type_ == c_type}
        # By its cookie it would be another, and a timer that is due explains a lot.
        expected = set(form.names) - moments - {"idiag_cookie", "idiag_timer"}
        for place in form.places:
            if place.path in expected:
                low = place.shift // 8 if place.mask else 0
                data[start + place.offset + low] ^= 1 << place.shift % 8
        changed = [*replies[:i], replies[i]._replace(message=bytes(data)), *replies[i + 1 :]]
        sock_diag.save(changed, path)
        done, found = check(one, tree)
        prefix = "" if start == 0 else "INET_DIAG_INFO."
        assert done.status == 1
        assert {row["field"] for row in found} == {prefix + name for name in expected}


@pytest.mark.parametrize("seconds", [20, -20])
def test_a_moment_that_is_off_is_seen(one: Core, tree: Path, seconds: int) -> None:
    """One age of a message that is not of the moment that the others are of."""
    path = home(one, tree)
    replies = sock_diag.load(path)
    form = diag_of(one.prog).structure("struct tcp_info")
    place = next(p for p in form.places if p.path == "tcpi_last_data_recv")
    for i in sorted(quiet(replies)):
        reply = replies[i]
        if reply.family == AF_INET and reply.protocol == 6 and reply.message[1] == 1:
            at = next(at for number, at, _ in attributes(reply) if number == 2) + place.offset
            (value,) = struct.unpack_from("=I", reply.message, at)
            if value > 20_000:
                off = struct.pack("=I", value + 1000 * seconds)
                message = reply.message[:at] + off + reply.message[at + 4 :]
                replies[i] = reply._replace(message=message)
                break
    sock_diag.save(replies, path)
    done, found = check(one, tree)
    assert done.status == 1
    assert [row["field"] for row in found] == ["INET_DIAG_INFO.tcpi_last_data_recv"]


def test_what_is_missing_or_too_much_is_seen(one: Core, tree: Path) -> None:
    path = home(one, tree)
    replies = sock_diag.load(path)
    some = [
        i
        for i in sorted(quiet(replies))
        if replies[i].family == AF_INET and replies[i].protocol == 6
    ]
    gone, strange, longer, shorter = some[:4]
    cookie = HEADERS[AF_INET][1]
    changed = list(replies)
    changed[strange] = replies[strange]._replace(
        message=flipped(replies[strange].message, cookie + 7)
    )
    extra = struct.pack("=HHI", 8, 60, 7)
    changed[longer] = replies[longer]._replace(message=replies[longer].message + extra)
    number, at, payload = next(attributes(replies[shorter]))
    end = at + len(payload) + 3 & ~3
    without = replies[shorter].message[: at - 4] + replies[shorter].message[end:]
    changed[shorter] = replies[shorter]._replace(message=without)
    del changed[gone]
    sock_diag.save(changed, path)
    done, found = check(one, tree)
    assert done.status == 1
    told = sorted((row["field"] or "", row["sock_diag"], row["memory"]) for row in found)
    name = ours(replies[shorter], number)
    assert told[:3] == [
        # The one that is gone, and the one that has another cookie, twice.
        ("", "not there", "there"),
        ("", "not there", "there"),
        ("", "there", "not found"),
    ]
    assert told[3:] == [(name, "not sent", told[3][2]), ("attribute 60", "07000000", "not known")]


def test_what_is_not_answered_is_told(one: Core, tree: Path) -> None:
    """As on a machine without ``unix_diag``: its sockets are in memory, and no mismatch."""
    path = home(one, tree)
    replies, unanswered = sock_diag.load_all(path)
    unanswered.append(sock_diag.Unanswered(AF_UNIX, 0, 2))
    sock_diag.save([r for r in replies if r.family != AF_UNIX], path, unanswered)
    done = one.run("check", "--diag", str(tree))
    assert done.status == 0, done.out
    line = f"not compared: unix of netns {path.parent.name}: sock_diag does not answer: "
    assert done.out.count(line) == 1


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", "No such file"),
        ("empty", "not saved replies"),
        ("cut", "its end is missing"),
        ("header", "72 bytes|bytes, not"),
        ("attribute", "an attribute cannot have"),
        ("elsewhere", "has no saved replies"),
        ("another", "of another machine"),
    ],
)
def test_bad_input_is_one_line(one: Core, tree: Path, how: str, says: str) -> None:
    path = home(one, tree)
    replies = sock_diag.load(path)
    where = path
    if how == "missing":
        where = tree / "nothing"
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif how == "header":
        sock_diag.save([replies[0]._replace(message=replies[0].message[:40])], path)
    elif how == "attribute":
        broken = replies[0].message[:72] + b"\xff\xff\x08\x00" + replies[0].message[76:]
        sock_diag.save([replies[0]._replace(message=broken)], path)
    elif how == "elsewhere":
        where = tree / "netns" / path.parent.name / "sub"
        where.mkdir()
    else:
        cookie = HEADERS[AF_INET][1]
        inet_only = [r for r in replies if r.family == AF_INET and is_known(one, r)]
        sock_diag.save(
            [r._replace(message=flipped(r.message, cookie + 7)) for r in inet_only], path
        )
    done = one.run("check", "--diag", str(where))
    assert (done.status, done.out) == (2, "")
    assert re.search(says, done.err), done.err
    assert len(done.err.splitlines()) == 1


def test_without_replies_it_says_what_it_wants(one: Core) -> None:
    done = one.run("check", "--diag")
    assert done.status == 2 and "--diag FILE_OR_DIR" in done.err
    done = one.run("check", "--attributes", "--procfs", str(one.oracle))
    assert done.status == 2 and "--attributes goes with --diag" in done.err


def test_what_is_declared_is_what_the_kernel_has(elf: Core) -> None:
    """Each structure of linux/*_diag.h that is declared here, against the kernel's own types."""
    compared = 0
    order = diag_of(elf.prog).order
    for kind in KINDS:
        for c_type, text in kind.types.items():
            theirs = of_type(elf.prog, c_type)
            if theirs is None:
                # Of a module without BTF, or that the kernel lacks (CONFIG_XDP_SOCKETS_DIAG).
                no_xdp = elf.series == "6.1" and "xdp_diag" in c_type
                assert elf.series == "5.10" or no_xdp, c_type
                continue
            mine = declared(order, text)
            assert (mine.size, _layout(mine)) == (theirs.size, _layout(theirs)), c_type
            compared += 1
    assert compared > (5 if elf.kernel != "5.10" else 1)


def _layout(form: Structure) -> list[tuple[str, int, int, int, int]]:
    return [(p.path, p.offset, p.size, p.shift, p.mask) for p in form.places]


def test_names_are_those_of_the_kernel(kernel: str) -> None:
    """Numbers of attributes, by the enumerators that a kernel's BTF has."""
    core = opened(kernel, "elf", "btf")
    known = 0
    for kind in KINDS:
        for attribute in kind.attributes:
            try:
                assert core.prog.constant(attribute.name).value_() == attribute.number
            except LookupError:
                # As above.
                no_xdp = series_of(kernel) == "6.1" and attribute.name.startswith("XDP_")
                assert kernel == "5.10" or no_xdp, attribute.name
            else:
                known += 1
    assert known > 20 or kernel == "5.10"


def test_every_member_of_tcp_info_is_told(elf: Core) -> None:
    """But those that no kernel fills."""
    never = {"tcpi_fackets", "tcpi_last_ack_sent", "tcpi_options2"}
    names = set(diag_of(elf.prog).structure("struct tcp_info").names)
    assert names - never <= set(inet.TCPI.values())


def test_a_distilled_core_has_no_keys(one: Core) -> None:
    """Those of TCP_MD5SIG, which sock_diag tells; nor is anything said of them."""
    whole, small = one, opened(one.kernel, "distilled")
    keys = whole.prog.type("struct tcp_md5sig_key")
    offset = keys.member("node").offset
    places = []
    for record in for_each_socket(whole.prog, ["tcp"]):
        if isinstance(record, TcpSockRecord) and record.sock.md5sig_info:
            info = Object(whole.prog, "struct tcp_md5sig_info *", record.sock.md5sig_info)
            head = info.head.first.value_()
            places.append(head - offset)
    assert places, "no socket has a key"
    for place in places:
        secret = whole.prog.read(place + keys.member("key").offset, 19)
        assert secret == b"a key of the test's"
        with contextlib.suppress(FaultError):
            assert secret not in small.prog.read(place, keys.size)
    saved(whole)
    done = small.run("check", "--diag", str(small.oracle))
    assert done.status == 0 and "not compared: INET_DIAG_MD5SIG: keys are not read here" in done.out
