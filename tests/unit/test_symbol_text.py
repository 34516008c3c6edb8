# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lines of /proc/kallsyms and of a System.map, against reading all of them."""

from __future__ import annotations

import contextlib
import random

import pytest

from drgn_sockets.target.symbol_text import OddTextError, SymbolText

MODULES = b"ffffffffc0000000 t tcp_sendmsg\t[mod]\nffffffffc0000010 t only_there\t[mod]\n"


def made_up(seed: int, count: int) -> list[tuple[int, str, str]]:
    rnd = random.Random(seed)
    found, address = [], rnd.choice([0, 0xFFFFFFFF81000000])
    for i in range(count):
        name = rnd.choice([f"tcp_{i}", f"_tcp_{i}", "same", f"t{i % 5}"])
        found.append((address, rnd.choice("tTdDbB"), name))
        address += rnd.choice([0, 0, 1, 16, 4096])
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 7, 400])
@pytest.mark.parametrize("more", [b"", MODULES], ids=["map", "modules"])
def test_as_all_lines_say(count: int, more: bytes) -> None:
    lines = made_up(count, count)
    data = "".join(f"{a:016x} {kind} {name}\n" for a, kind, name in lines).encode() + more
    text = SymbolText(data)
    assert text.count() == count
    following = [line[0] for line in lines[1:]] + [None]
    known = [(a, k, n.encode(), f) for (a, k, n), f in zip(lines, following)]
    for name in {name for _, _, name in lines}:
        assert text.find(name) == next(line for line in known if line[2] == name.encode())
    for name in ("nothing", "tcp_sendmsg", "only_there", "", "cp_1", "tcp_", f"{lines[0][0]:x}"):
        assert text.find(name) is None
    for start in {line[0] for line in lines}:
        for address in {start - 1, start, start + 1, start + 5000}:
            expected = [line for line in known if line[0] <= address]
            assert text.find_at(address) == (expected[-1] if expected else None), hex(address)
            names = {line[2] for line in known if line[0] == address}
            assert all(text.has(name, address) for name in names)
            assert not text.has(b"nothing", address)
            assert text.has(b"same", address) == (b"same" in names)


@pytest.mark.parametrize("data", [b"", b"no symbols here", MODULES])
def test_no_lines(data: bytes) -> None:
    text = SymbolText(data)
    assert text.count() == 0
    assert text.find("init_task") is None
    assert text.find_at(5) is None


@pytest.mark.parametrize(
    "data", [b"\n", b"no symbols here\n", b"12 T\n", b"12 T a b\n", b"x T a\n"]
)
def test_other_lines(data: bytes) -> None:
    with pytest.raises(OddTextError, match="no symbol"):
        SymbolText(data).find_at(5)


@pytest.mark.parametrize("seed", range(60))
def test_damage(seed: int) -> None:
    rnd = random.Random(seed)
    lines = made_up(seed, 50)
    data = bytearray("".join(f"{a:x} {k} {n}\n" for a, k, n in lines).encode())
    for _ in range(rnd.choice([1, 5, 30])):
        data[rnd.randrange(len(data))] = rnd.choice(b"\n \0f0\t[\xff")
    text = SymbolText(bytes(data))
    for address, _, name in lines:
        with contextlib.suppress(OddTextError):
            text.find(name)
        with contextlib.suppress(OddTextError):
            text.find_at(address)
        with contextlib.suppress(OddTextError):
            text.has(name.encode(), address)


def test_not_in_order() -> None:
    data = b"0000000000000010 T b\n0000000000000008 T a\n0000000000000018 T c\n"
    for name in "ab":
        with pytest.raises(OddTextError, match="ascend"):
            SymbolText(data).find(name)
    assert SymbolText(data).find("c") == (0x18, "T", b"c", None)
