# SPDX-License-Identifier: LGPL-2.1-or-later
"""Symbols out of tables made as scripts/kallsyms.c makes them: what drgn's own loader finds."""

from __future__ import annotations

import functools
import random
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
from drgn import Architecture, FaultError, Platform, PlatformFlags, Program, Symbol
from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms

from drgn_sockets.errors import UserError
from drgn_sockets.target.btf_types import NAME
from drgn_sockets.target.kallsyms import Kallsyms, OddKallsymsError, read_kallsyms
from drgn_sockets.target.symbols import load_symbols
from tests.unit.versions import needs_0_1, needs_0_3

pytestmark = needs_0_1

BASE = 0xFFFFFFFF81000000
TABLE = 0xFFFFFFFF82000000
LONG = "x" + "".join(random.Random(7).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=220))
LITTLE = Platform(Architecture.X86_64, PlatformFlags.IS_64_BIT | PlatformFlags.IS_LITTLE_ENDIAN)
BIG = Platform(Architecture.PPC64, PlatformFlags.IS_64_BIT)


class Layout(NamedTuple):
    """What differs between kernels."""

    release: str
    encoding: str
    # What lies where, with VMCOREINFO's names.
    order: str
    platform: Platform = LITTLE


# Those of 6.0; 6.1, with lengths of two bytes; 6.2, with an order of names; 6.4, with another of
# the tables; 7.0, with no base.
NEW = "num_syms names markers token_table token_index offsets"
OLD = "offsets relative_base num_syms names markers token_table token_index"
LAYOUTS = {
    "6.0": Layout("6.0.1", "percpu", OLD),
    "6.1": Layout("6.1.0-9-amd64", "percpu", OLD),
    "6.2": Layout("6.2.0", "relative", OLD.replace("markers", "markers seqs")),
    "6.12": Layout(
        "6.12",
        "percpu",
        "num_syms names markers token_table token_index offsets relative_base seqs",
    ),
    "7.0": Layout("7.0", "place", f"{NEW} seqs"),
    "big": Layout("6.1", "relative", OLD, BIG),
    "7.0 big": Layout(
        "7.0", "place", "num_syms names markers token_table token_index offsets", BIG
    ),
}


def made_up(encoding: str) -> list[tuple[int, str]]:
    """(Address, type and name) of symbols, in the order of addresses."""
    rnd = random.Random(5)
    words = ["tcp", "unix", "sock", "init", "net", "file", "pid", "table", "alloc", "__pfx"]
    names = ["D__start_BTF", "D__stop_BTF", "Dinit_net", "dsame", "Tsame", "bsame", "t" + LONG]
    for _ in range(1300):
        name = "_".join(rnd.choices(words, k=rnd.randint(1, 4)))
        names.append(rnd.choice("TtDdBbRrAWV") + rnd.choice(["", "__", "x"]) + name)
    rnd.shuffle(names)
    found, address = [], BASE
    for name in ["T_stext", *names]:
        found.append((address, name))
        # Some are at the same place, and one is larger than sizes are told.
        address += rnd.choice([0, 1, 8, 64, 4096, 0x20000])
    if encoding == "percpu":
        found = [(0, "A__per_cpu_start"), (0, "Dfixed_percpu_data"), (4096, "Dcpu_tss"), *found]
    return found


@functools.lru_cache(None)
def compressed(*names: bytes) -> tuple[Sequence[bytes], list[bytes]]:
    """Names in codes, and what the codes stand for: the algorithm of scripts/kallsyms.c."""
    tokens = [bytes((i,)) if any(i in name for name in names) else b"" for i in range(256)]
    for code in range(255, -1, -1):
        if tokens[code]:
            continue
        pairs = Counter(pair for name in names for pair in zip(name, name[1:]))
        (first, second), count = pairs.most_common(1)[0]
        if count < 2:
            break
        tokens[code] = tokens[first] + tokens[second]
        names = tuple(name.replace(bytes((first, second)), bytes((code,))) for name in names)
    return names, tokens


class Machine:
    """A program whose memory is such a table."""

    def __init__(self, layout: Layout) -> None:
        self.symbols = made_up(layout.encoding)
        order = "<" if layout.platform == LITTLE else ">"
        count = len(self.symbols)
        coded, tokens = compressed(*(name.encode() for _, name in self.symbols))
        names = b""
        #: Where each name begins.
        self.begins: list[int] = []
        for code in coded:
            self.begins.append(len(names))
            long = len(code) >= 128 and layout.release != "6.0.1"
            size = bytes((len(code) & 0x7F | 0x80, len(code) >> 7) if long else (len(code),))
            names += size + code
        parts = {
            "num_syms": struct.pack(f"{order}I", count),
            "names": names,
            "markers": struct.pack(f"{order}{len(self.begins[::256])}I", *self.begins[::256]),
            "token_table": b"".join(token + b"\0" for token in tokens),
            "token_index": struct.pack(
                f"{order}256H",
                *(sum(len(token) + 1 for token in tokens[:i]) for i in range(256)),
            ),
            "relative_base": struct.pack(f"{order}Q", BASE),
            "seqs": bytes(3 * count),
            "offsets": bytes(4 * count),
        }
        #: Where each part is.
        self.at: dict[str, int] = {}
        address = TABLE
        for part in layout.order.split():
            self.at[part] = address
            address += len(parts[part]) + 7 & ~7
        offsets = []
        for i, (value, _) in enumerate(self.symbols):
            if layout.encoding == "place":
                value -= self.at["offsets"] + 4 * i
            elif layout.encoding == "relative" or value < BASE:
                value -= BASE if layout.encoding == "relative" else 0
            else:
                value = BASE - 1 - value
            offsets.append(value)
        parts["offsets"] = struct.pack(f"{order}{count}i", *offsets)
        #: All of it.
        self.data = bytearray(address - TABLE)
        for part, start in self.at.items():
            self.data[start - TABLE : start - TABLE + len(parts[part])] = parts[part]
        lines = [
            f"OSRELEASE={layout.release}",
            "PAGESIZE=4096",
            "NUMBER(phys_base)=0",
            f"SYMBOL(_stext)={BASE:x}",
        ]
        lines += [f"SYMBOL(kallsyms_{p})={a:x}" for p, a in self.at.items()]
        lines += ["KERNELOFFSET=0", f"SYMBOL(swapper_pg_dir)={TABLE:x}", f"SYMBOL(_stext)={BASE:x}"]
        self.vmcoreinfo = "".join(f"{line}\n" for line in lines)
        self.prog = Program(layout.platform)
        self.prog.set_linux_kernel_custom(self.vmcoreinfo, False)
        # The plugin's would look for BTF where these symbols say.
        finders = self.prog.enabled_type_finders()
        self.prog.set_enabled_type_finders([name for name in finders if name != NAME])
        self.prog.add_memory_segment(TABLE, len(self.data), self._read)

    def _read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        return bytes(self.data[offset : offset + count])

    def quick(self) -> Kallsyms:
        return Kallsyms(self.prog, self.vmcoreinfo)


def one(symbols: list[Symbol]) -> Symbol | None:
    return symbols[0] if symbols else None


@needs_0_3
@pytest.mark.parametrize("kernel", LAYOUTS)
def test_as_drgn_has_them(kernel: str) -> None:
    machine = Machine(LAYOUTS[kernel])
    prog, quick, whole = machine.prog, machine.quick(), load_vmlinux_kallsyms(machine.prog)
    assert len(whole(prog, None, None, False)) == quick.count == len(machine.symbols)
    names = {name[1:] for _, name in machine.symbols}
    for name in {*sorted(names - {LONG})[::3]} | {
        "",
        "x",
        "tcp",
        "nothing",
        "init_ne",
        "init_nett",
        "Dinit_net",
    }:
        found = whole(prog, name, None, True)
        assert quick.find(name) == one(found), name
        assert bool(found) == (name in names)
    for address, _ in machine.symbols:
        for near in (address - 1, address, address + 1, address + 0x10000):
            if near >= 0:
                assert quick.find_at(near) == one(whole(prog, None, near, True)), hex(near)


def test_what_is_asked_of_drgn() -> None:
    machine = Machine(LAYOUTS["6.1"])
    prog, whole = machine.prog, load_vmlinux_kallsyms(machine.prog)
    with pytest.raises(OddKallsymsError):
        machine.quick().find(LONG)
    find, source = load_symbols(prog, None)
    assert source == "its kallsyms"
    assert len(find(prog, "same", None, True)) == 1
    for args in ((LONG, None, True), ("same", None, False), (None, None, False)):
        assert list(find(prog, *args)) == whole(prog, *args)
        assert find(prog, *args)
    assert list(find(prog, "init_net", None, True)) == whole(prog, "init_net", None, True)


def test_hole_in_the_names() -> None:
    machine = Machine(LAYOUTS["6.12"])
    # Amid a block that is not looked at before a name leads there.
    start = machine.at["names"] - TABLE + machine.begins[256] + 16
    assert machine.begins[512] - machine.begins[256] > 1024
    machine.data[start : start + 800] = bytes(800)
    assert read_kallsyms(machine.prog, machine.vmcoreinfo) is None
    # Nor can drgn use it, and that is one line.
    with pytest.raises(UserError, match="kallsyms"):
        load_symbols(machine.prog, None)


@pytest.mark.parametrize("seed", range(40))
def test_damage(seed: int) -> None:
    """Nothing but an answer or none comes of it, soon."""
    rnd = random.Random(seed)
    machine = Machine(LAYOUTS[rnd.choice(sorted(LAYOUTS))])
    start = rnd.choice(sorted(machine.at.values())) - TABLE
    for _ in range(rnd.choice([1, 3, 50])):
        at = min(start + int(rnd.expovariate(1 / 200)), len(machine.data) - 1)
        machine.data[at] = rnd.choice([0, 0xFF, 0x80, rnd.randrange(256)])
    quick = read_kallsyms(machine.prog, machine.vmcoreinfo)
    if quick is not None:
        for address, name in machine.symbols[::7]:
            asks: tuple[Callable[[], Symbol | None], ...] = (
                functools.partial(quick.find, name[1:]),
                functools.partial(quick.find_at, address),
            )
            for ask in asks:
                try:
                    found = ask()
                except OddKallsymsError:
                    continue
                assert found is None or isinstance(found, Symbol)


@pytest.mark.parametrize("missing", ["token_index", "num_syms", "offsets", "names"])
def test_cut_short(missing: str) -> None:
    machine = Machine(LAYOUTS["6.1"])
    text = machine.vmcoreinfo.replace(f"kallsyms_{missing}", "kallsyms_nothing")
    assert read_kallsyms(machine.prog, text) is None
    prog = Program(LITTLE)
    lines = machine.vmcoreinfo
    prog.set_linux_kernel_custom(lines, False)

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        if offset + count > machine.at[missing] - TABLE:
            raise FaultError("not there", address)
        return bytes(machine.data[offset : offset + count])

    prog.add_memory_segment(TABLE, len(machine.data), read)
    assert read_kallsyms(prog, lines) is None
