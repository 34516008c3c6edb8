# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is damaged: small BTF that is sound, of every kind there is and of real kernels."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from drgn_sockets.errors import UserError
from drgn_sockets.target.btf import Btf, BtfKind
from drgn_sockets.target.btf_source import own_btf
from vm import cache

from .writer import Writer, sample

#: BTF, and for a module's that of its kernel.
Seed = tuple[bytes, "bytes | None"]

_ROOT = Path(__file__).resolve().parents[2]
# Small, and together of most kinds; bit-fields, unions without names, arrays of arrays.
_REAL = (
    *("list_head", "callback_head", "kref", "hlist_nulls_node", "upid", "path", "timespec64"),
    *("tcp_sack_block", "inet_timewait_sock", "sk_buff_list", "iphdr", "tcphdr", "qstr", "bio_vec"),
)


def with_layout() -> bytes:
    """A header with a layout, and a kind that only this tells the size of."""
    w = Writer()
    w.add(BtfKind.INT, "int", 4, 1 << 24 | 32)
    newer = struct.pack("<4I", 0, 21 << 24 | 1, 0, 1)
    types = w.types + newer
    w.types = b""
    w.add(BtfKind.TYPEDEF, "after", 1)
    types += w.types
    layout = bytes(4 * 21) + bytes((0, 4, 0, 0))
    strings = len(types)
    offsets = (0, len(types), strings, len(w.strings), strings + len(w.strings), len(layout))
    return struct.pack("<HBBI6I", 0xEB9F, 1, 0, 32, *offsets) + types + w.strings + layout


def every_kind() -> bytes:
    """Kinds that :func:`sample` lacks: variables, sections, tags, old bit-fields, nesting."""
    w = Writer()
    number = w.add(BtfKind.INT, "unsigned long", 8, 64)
    narrow = w.add(BtfKind.INT, "unsigned int", 4, 3 << 16 | 5)
    alias = w.add(BtfKind.TYPEDEF, "u5", narrow)
    user = w.add(BtfKind.TYPE_TAG, "user", number)
    w.add(BtfKind.PTR, None, user)
    bits, rest = w.name("bits"), w.name("rest")
    w.add(BtfKind.STRUCT, "old", 16, bits, alias, 0, rest, number, 64, vlen=2)
    variable = w.add(BtfKind.VAR, "counter", number, 1)
    w.add(BtfKind.DATASEC, ".data..percpu", 8, variable, 0, 8, vlen=1)
    w.add(BtfKind.DECL_TAG, "kfunc", variable, 0xFFFFFFFF)
    inner = w.add(BtfKind.STRUCT, None, 8, w.name("a"), number, 0, vlen=1)
    matrix = w.add(BtfKind.ARRAY, None, 0, inner, narrow, 4)
    w.add(BtfKind.STRUCT, "outer", 40, 0, inner, 0, w.name("matrix"), matrix, 64, vlen=2)
    proto = w.add(BtfKind.FUNC_PROTO, None, 0, w.name("callback"), w.next + 1, vlen=1)
    w.add(BtfKind.PTR, None, proto)
    w.add(BtfKind.ENUM, "mode", 4, w.name("NONE"), 0xFFFFFFFF, w.name("SOME"), 1, vlen=2)
    w.add(BtfKind.FWD, "elsewhere", 0, flag=True)
    w.add(BtfKind.RESTRICT, None, w.next - 3)
    w.add(BtfKind.VOLATILE, None, number)
    return w.data()


def module() -> Seed:
    """A module's on that of its kernel."""
    base = sample()
    w = Writer(first=base.next, strings=len(base.strings))
    own = w.add(BtfKind.STRUCT, "extra", 40, w.name("t"), 7, 0, w.name("n"), 1, 256, vlen=2)
    w.add(BtfKind.PTR, None, own)
    w.add(BtfKind.FWD, "thing", 0)
    w.add(BtfKind.ENUM, "local", 4, w.name("HERE"), 1, vlen=1)
    return w.data(), base.data()


def shrink(btf: Btf, names: tuple[str, ...]) -> bytes:
    """Some structures of a kernel's BTF with all that is in them; what they point to is cut."""
    w = Writer()
    ids: dict[int, int] = {0: 0}

    def put(type_id: int, pointed: bool = False) -> int:
        kind = btf.kind(type_id)
        if type_id in ids:
            return ids[type_id]
        name = btf.name(type_id)
        if kind == BtfKind.PTR:
            new = w.add(kind, None, put(btf.size_or_type(type_id), True))
        elif kind in (BtfKind.STRUCT, BtfKind.UNION) and pointed and name:
            return w.add(BtfKind.FWD, name, 0, flag=kind == BtfKind.UNION)
        elif kind in (BtfKind.STRUCT, BtfKind.UNION):
            words: list[int] = []
            for m in btf.members(type_id):
                offset = m.bit_size << 24 | m.bit_offset
                words += w.name(m.name), put(m.type_id), offset
            size, flag = btf.size_or_type(type_id), btf.kind_flag(type_id)
            new = w.add(kind, name, size, *words, vlen=len(words) // 3, flag=flag)
        elif kind == BtfKind.INT:
            flags, shift, bits = btf.int_encoding(type_id)
            encoding = flags << 24 | shift << 16 | bits
            new = w.add(kind, name, btf.size_or_type(type_id), encoding)
        elif kind == BtfKind.ARRAY:
            element, length = btf.array(type_id)
            item = put(element)
            new = w.add(kind, None, 0, item, item, length)
        elif kind in (
            BtfKind.TYPEDEF,
            BtfKind.CONST,
            BtfKind.VOLATILE,
            BtfKind.RESTRICT,
            BtfKind.TYPE_TAG,
        ):
            new = w.add(kind, name, put(btf.size_or_type(type_id), pointed))
        else:
            # Functions and enums are in what is written by hand.
            new = w.add(BtfKind.FWD, name or "nothing", 0)
        ids[type_id] = new
        return new

    for name in names:
        found = btf.find(name, frozenset({BtfKind.STRUCT}))
        if found is not None:
            put(found)
    return w.data()


def _cores() -> Iterator[Path]:
    yield _ROOT / "drgn_sockets" / "demo" / "core.kdump"
    yield from sorted((cache.root() / "dumps").glob("*-standard-*/core.kdump"))


def real() -> Iterator[bytes]:
    """Of the kernels whose cores are on this machine."""
    from drgn import FaultError, Program, host_platform

    from drgn_sockets.target.symbols import load_symbols

    for path in _cores():
        if path.is_file():
            prog = Program(host_platform)
            try:
                prog.set_core_dump(path)
                prog.register_symbol_finder("fuzz", load_symbols(prog, None)[0], enable_index=0)
                yield shrink(Btf(own_btf(prog)), _REAL)
            except (OSError, ValueError, FaultError, UserError):
                # Too old to tell of its symbols, say.
                continue


def seeds() -> list[Seed]:
    """Everything that is damaged."""
    by_hand = (sample().data(), sample(">").data(), every_kind(), with_layout())
    return [
        *((data, None) for data in by_hand),
        module(),
        *((data, None) for data in islice(real(), 2)),
    ]
