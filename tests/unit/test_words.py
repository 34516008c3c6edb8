# SPDX-License-Identifier: LGPL-2.1-or-later
"""What does a word of a user mean, as text and as an object of the REPL?"""

from __future__ import annotations

from typing import Any

import pytest
from drgn import Object
from hypothesis import given
from hypothesis import strategies as st

from drgn_sockets.errors import UserError
from drgn_sockets.query.words import (
    Abstract,
    Address,
    Descriptor,
    End,
    Inode,
    Name,
    Number,
    Path,
    Word,
    parse_address,
    parse_inode,
    parse_pid,
    parse_port,
    parse_word,
)

from .fake_kernel import FakeKernel

NOT_UTF8 = "\udcff\udcfe"


def meant(word: Word) -> tuple[Any, ...]:
    """Class and values of a word, without its text."""
    return type(word), *word[1:]


WORDS: list[tuple[str, tuple[Any, ...]]] = [
    # Descriptors.
    ("181:3", (Descriptor, 181, 3)),
    ("0:0", (Descriptor, 0, 0)),
    ("007:03", (Descriptor, 7, 3)),
    ("99999999999999999999:1", (Descriptor, 99999999999999999999, 1)),
    # Numbers and inodes.
    ("4711", (Number, 4711)),
    ("0", (Number, 0)),
    ("99999999999999999999999999", (Number, 99999999999999999999999999)),
    ("socket:[21189]", (Inode, 21189, None, True)),
    ("socket:[0]", (Inode, 0, None, True)),
    # Ends.
    (":22", (End, None, "22")),
    ("*:22", (End, None, "22")),
    (":ssh", (End, None, "ssh")),
    (":http-alt", (End, None, "http-alt")),
    (":99999", (End, None, "99999")),
    ("10.0.0.1:443", (End, "10.0.0.1", "443")),
    ("10.0.0.1:https", (End, "10.0.0.1", "https")),
    ("10.0.0.1:*", (End, "10.0.0.1", None)),
    ("[::1]:443", (End, "::1", "443")),
    ("[::ffff:10.0.0.1]:443", (End, "::ffff:10.0.0.1", "443")),
    ("[::]:*", (End, "::", None)),
    (":*", (End, None, None)),
    ("*:*", (End, None, None)),
    # What the commands refuse is known by its form.
    ("300.0.0.1:80", (End, "300.0.0.1", "80")),
    ("181:ssh", (End, "181", "ssh")),
    # Names of files and of sockets.
    ("/", (Path, b"/")),
    ("/run/x", (Path, b"/run/x")),
    ("./x", (Path, b"./x")),
    ("../x:22", (Path, b"../x:22")),
    ("/run/0x1", (Path, b"/run/0x1")),
    ("/run/" + NOT_UTF8, (Path, b"/run/\xff\xfe")),
    ("/x\ny", (Path, b"/x\ny")),
    ("@name", (Abstract, b"@name")),
    ("@", (Abstract, b"@")),
    ("@a@b", (Abstract, b"@a@b")),
    ("@a\0b", (Abstract, b"@a\0b")),
    ("@:22", (Abstract, b"@:22")),
    ("@" + NOT_UTF8, (Abstract, b"@\xff\xfe")),
    # Kernel addresses.
    ("0xffff888001234500", (Address, 0xFFFF888001234500, None)),
    ("0XFFFF888001234500", (Address, 0xFFFF888001234500, None)),
    ("ffff888001234500", (Address, 0xFFFF888001234500, None)),
    ("0x0", (Address, 0, None)),
    ("0x7f", (Address, 0x7F, None)),
    ("0000000000001234", (Address, 0x1234, None)),
    # Other names: nearly one of the above.
    ("", (Name, b"")),
    (" ", (Name, b" ")),
    ("sshd", (Name, b"sshd")),
    ("db server)(S 1", (Name, b"db server)(S 1")),
    (NOT_UTF8, (Name, b"\xff\xfe")),
    (".", (Name, b".")),
    (".x", (Name, b".x")),
    ("x/y", (Name, b"x/y")),
    (":", (Name, b":")),
    ("::", (Name, b"::")),
    ("::1", (Name, b"::1")),
    ("::1:22", (Name, b"::1:22")),
    (":::22", (Name, b":::22")),
    ("[::1]", (Name, b"[::1]")),
    ("[]:22", (Name, b"[]:22")),
    ("10.0.0.1", (Name, b"10.0.0.1")),
    ("10.0.0.1:", (Name, b"10.0.0.1:")),
    ("181:", (Name, b"181:")),
    ("181:-1", (Name, b"181:-1")),
    (":-1", (Name, b":-1")),
    (":22 ", (Name, b":22 ")),
    ("host:22", (Name, b"host:22")),
    ("-1", (Name, b"-1")),
    ("+1", (Name, b"+1")),
    ("1_000", (Name, b"1_000")),
    ("4711\n", (Name, b"4711\n")),
    (" 4711", (Name, b" 4711")),
    ("deadbeef", (Name, b"deadbeef")),
    ("0x", (Name, b"0x")),
    ("0xffff8880012345000", (Name, b"0xffff8880012345000")),
    ("ffff88800123450", (Name, b"ffff88800123450")),
    ("0xfffg", (Name, b"0xfffg")),
    (" 0x1", (Name, b" 0x1")),
    ("0x1\n", (Name, b"0x1\n")),
    ("-0x1", (Name, b"-0x1")),
    ("0x_1", (Name, b"0x_1")),
    ("\u0661" * 16, (Name, ("\u0661" * 16).encode())),
    ("\u0664:\u0661", (Name, "\u0664:\u0661".encode())),
    ("9" * 5000, (Name, b"9" * 5000)),
    ("9" * 5000 + ":1", (End, "9" * 5000, "1")),
    ("socket:[]", (Name, b"socket:[]")),
    ("socket:[1", (Name, b"socket:[1")),
    ("socket:[x]", (Name, b"socket:[x]")),
    ("Socket:[1]", (Name, b"Socket:[1]")),
    ("1]", (Name, b"1]")),
]


@pytest.mark.parametrize(("text", "expected"), WORDS, ids=[ascii(text)[:40] for text, _ in WORDS])
def test_words(text: str, expected: tuple[Any, ...]) -> None:
    word = parse_word(text)
    assert meant(word) == expected
    assert word.text == text
    assert parse_word(word) is word


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_every_text_is_a_word(text: str) -> None:
    """Or is refused: nothing else comes of text."""
    try:
        assert parse_word(text).text == text
    except UserError:
        assert "\0" in text


@pytest.mark.parametrize("text", ["/a\0b", "\ud800", "@\ud800", "/\ud800"])
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(UserError, match=r"^no (name|path): "):
        parse_word(text)


def test_a_number_as_an_inode() -> None:
    word = parse_word("4711")
    assert isinstance(word, Number)
    assert word.as_inode() == Inode("4711", 4711, None, True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4711", (Inode, 4711, None, False)),
        ("8:1:4711", (Inode, 4711, 8 << 20 | 1, False)),
        ("socket:[4711]", (Inode, 4711, None, True)),
    ],
)
def test_inodes(text: str, expected: tuple[Any, ...]) -> None:
    assert meant(parse_inode(text)) == expected


@pytest.mark.parametrize("text", ["", "x", "1:2", ":1", "1:2:", "-1", "0x10", "9" * 5000, "/x"])
def test_no_inodes(text: str) -> None:
    with pytest.raises(UserError, match=r"no inode: .* takes 4711 or MAJOR:MINOR:4711"):
        parse_inode(text)
    with pytest.raises(UserError, match=r"no inode: .* takes 4711 or socket:\[4711\]"):
        parse_inode(text, devices=False)


def test_inodes_without_devices() -> None:
    assert meant(parse_inode("4711", devices=False)) == (Inode, 4711, None, False)
    with pytest.raises(UserError, match="no inode"):
        parse_inode("8:1:4711", devices=False)


def test_other_options() -> None:
    assert meant(parse_pid("181")) == (Number, 181)
    assert meant(parse_port("22")) == (End, None, "22")
    assert meant(parse_port("ssh")) == (End, None, "ssh")
    assert meant(parse_address("0x7f")) == (Address, 0x7F, None)
    for text in ("", "x", "181:3", "-1", "0x7f"):
        with pytest.raises(UserError, match="no process ID"):
            parse_pid(text)
    for text in ("", "*", "1.2.3.4:22", ":22", "-1", " 22"):
        with pytest.raises(UserError, match="no port"):
            parse_port(text)
    for text in ("", "here", "4711", "181:3"):
        with pytest.raises(UserError, match="not a kernel address"):
            parse_address(text)


# Objects.


@pytest.fixture(scope="module")
def kernel() -> FakeKernel:
    kernel = FakeKernel()
    common = kernel.struct("sock_common", ("skc_state", kernel.u8))
    sock = kernel.struct("sock", ("__sk_common", common))
    inet_sock = kernel.struct("inet_sock", ("sk", sock))
    kernel.struct("unix_sock", ("sk", sock))
    kernel.struct("udp_sock", ("inet", inet_sock))
    kernel.struct("request_sock", ("__req_common", common))
    inode = kernel.struct("inode", ("i_ino", kernel.ulong))
    socket = kernel.struct("socket", ("sk", kernel.ptr))
    kernel.struct("socket_alloc", ("socket", socket), ("vfs_inode", inode))
    kernel.struct("file", ("f_inode", kernel.ptr))
    kernel.struct("task_struct", ("pid", kernel.s32))
    kernel.struct("dentry", ("d_inode", kernel.ptr))
    return kernel


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("sock", "struct sock"),
        ("sock_common", "struct sock"),
        ("udp_sock", "struct sock"),
        ("unix_sock", "struct sock"),
        ("request_sock", "struct sock"),
        ("socket", "struct socket"),
        ("socket_alloc", "struct socket"),
        ("file", "struct file"),
        ("inode", "struct inode"),
        ("task_struct", "struct task_struct"),
    ],
)
def test_objects(kernel: FakeKernel, tag: str, expected: str) -> None:
    prog = kernel.prog
    address = 0xFFFF888001234500
    type_ = prog.type(f"struct {tag}")
    wanted = (Address, address, expected)
    name = prog.typedef_type("name_of_it", type_)
    for pointed in (type_, name, prog.typedef_type("more", name)):
        assert meant(parse_word(Object(prog, pointed, address=address))) == wanted
        pointer = Object(prog, prog.pointer_type(pointed), address)
        assert meant(parse_word(pointer)) == wanted
    # It may be in memory that cannot be read, and is not read.
    assert kernel.reads == []
    assert parse_word(Object(prog, type_, address=address)).text == "0xffff888001234500"
    with pytest.raises(UserError, match="is NULL"):
        parse_word(Object(prog, prog.pointer_type(type_), 0))


def test_addresses_that_are_numbers(kernel: FakeKernel) -> None:
    prog = kernel.prog
    address = 0xFFFF888001234500
    wanted = (Address, address, None)
    assert meant(parse_word(address)) == wanted
    assert meant(parse_word(Object(prog, kernel.ulong, address))) == wanted
    assert meant(parse_word(Object(prog, kernel.ptr, address))) == wanted
    for wrong in (0, -1, 1 << 64, True):
        with pytest.raises(UserError, match="not a kernel address"):
            parse_word(wrong)


def test_objects_of_other_types(kernel: FakeKernel) -> None:
    prog = kernel.prog
    dentry = prog.type("struct dentry")
    others = [
        Object(prog, prog.pointer_type(dentry), 0xFFFF888001234500),
        Object(prog, dentry, address=0xFFFF888001234500),
        Object(prog, prog.pointer_type(kernel.char), 0xFFFF888001234500),
        Object(prog, kernel.bool, True),
        Object(prog, prog.array_type(kernel.u8, 4), address=0xFFFF888001234500),
    ]
    for other in others:
        with pytest.raises(UserError, match="does not name a socket, file or process") as e:
            parse_word(other)
        assert "struct task_struct" in str(e.value)
    with pytest.raises(UserError, match="has no address"):
        parse_word(Object(prog, "struct task_struct", {"pid": 1}))
    with pytest.raises(UserError, match="cannot be read"):
        parse_word(Object(prog, prog.pointer_type(dentry), address=0xFFFF888001234500))
