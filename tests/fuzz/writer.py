# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writes BTF after Documentation/bpf/btf.rst, for the unit tests as well."""

from __future__ import annotations

import struct

from drgn_sockets.target.btf import BtfKind


class Writer:
    """Writes BTF; types have IDs from *first* on, in the order of writing."""

    def __init__(self, order: str = "<", first: int = 1, strings: int = 0) -> None:
        self.order = order
        self.types = b""
        self.strings = b"\0" if not strings else b""
        self.string_base = strings
        self.next = first

    def name(self, text: str | None) -> int:
        if text is None:
            return 0
        at = self.string_base + len(self.strings)
        self.strings += text.encode() + b"\0"
        return at

    def add(
        self,
        kind: BtfKind,
        name: str | None = None,
        size_or_type: int = 0,
        *words: int,
        vlen: int = 0,
        flag: bool = False,
    ) -> int:
        info = flag << 31 | kind << 24 | vlen
        values = (self.name(name), info, size_or_type, *words)
        self.types += struct.pack(f"{self.order}{len(values)}I", *values)
        self.next += 1
        return self.next - 1

    def data(self) -> bytes:
        header = struct.pack(
            f"{self.order}HBBIIIII",
            0xEB9F,
            1,
            0,
            24,
            0,
            len(self.types),
            len(self.types),
            len(self.strings),
        )
        return header + self.types + self.strings


def sample(order: str = "<") -> Writer:
    w = Writer(order)
    signed_int = w.add(BtfKind.INT, "int", 4, 1 << 24 | 32)
    unsigned = w.add(BtfKind.INT, "unsigned int", 4, 32)
    const = w.add(BtfKind.CONST, None, signed_int)
    pointer = w.add(BtfKind.PTR, None, const)
    array = w.add(BtfKind.ARRAY, None, 0, unsigned, unsigned, 3)
    union = w.add(
        BtfKind.UNION, None, 8, w.name("pointer"), pointer, 0, w.name("number"), unsigned, 0, vlen=2
    )
    w.add(
        BtfKind.STRUCT,
        "thing",
        32,
        w.name("low"),
        unsigned,
        3 << 24 | 0,
        w.name("high"),
        signed_int,
        5 << 24 | 3,
        w.name("words"),
        array,
        32,
        0,
        union,
        128,
        w.name("self"),
        w.next + 1,
        192,
        vlen=5,
        flag=True,
    )
    w.add(BtfKind.PTR, None, w.next - 1)
    w.add(BtfKind.TYPEDEF, "thing_t", w.next - 2)
    w.add(BtfKind.ENUM, "color", 4, w.name("RED"), 0, w.name("BLUE"), 0xFFFFFFFF, vlen=2, flag=True)
    w.add(BtfKind.ENUM64, "wide", 8, w.name("FAR"), 1, 2, vlen=1)
    w.add(BtfKind.FWD, "later", 0)
    proto = w.add(BtfKind.FUNC_PROTO, None, signed_int, w.name("x"), unsigned, 0, 0, vlen=2)
    w.add(BtfKind.FUNC, "call_it", proto)
    w.add(BtfKind.FLOAT, "double", 8)
    return w
