# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writes ELF files: section headers and what is in the sections."""

from __future__ import annotations

import struct
import zlib

NOTE, SYMTAB, STRTAB, PROGBITS = 7, 2, 3, 1


def note(build_id: bytes) -> bytes:
    """A GNU build ID."""
    return struct.pack("<3I", 4, len(build_id), 3) + b"GNU\0" + build_id


def symtab(symbols: dict[str, int]) -> tuple[bytes, bytes]:
    """A table of global objects, and its strings."""
    table, names = bytearray(24), bytearray(1)
    for name, address in symbols.items():
        table += struct.pack("<IBBHQQ", len(names), 1 << 4 | 1, 0, 1, address, 8)
        names += name.encode() + b"\0"
    return bytes(table), bytes(names)


def compressed(data: bytes) -> bytes:
    """As a section with ``SHF_COMPRESSED`` has it."""
    return struct.pack("<IIQQ", 1, 0, len(data), 1) + zlib.compress(data)


def elf(*sections: tuple[str, int, int, bytes, int]) -> bytes:
    """An ELF file of (name, type, flags, contents, link); the first has index 1."""
    names, body = b"\0", b""
    headers = [struct.pack("<2I4Q2I2Q", *([0] * 10))]
    for name, kind, flags, data, link in (*sections, (".shstrtab", STRTAB, 0, b"", 0)):
        at = len(names)
        names += name.encode() + b"\0"
        contents = names if name == ".shstrtab" else data
        headers.append(
            struct.pack(
                "<2I4Q2I2Q", at, kind, flags, 0, 64 + len(body), len(contents), link, 0, 1, 0
            )
        )
        body += contents
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    table = 64 + len(body)
    rest = struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, len(headers), len(headers) - 1
    )
    return ident + rest + body + b"".join(headers)
