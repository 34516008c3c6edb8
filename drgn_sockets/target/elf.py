# SPDX-License-Identifier: LGPL-2.1-or-later
"""A small ELF reader, to take BTF and symbols from a vmlinux without DWARF."""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from drgn_sockets.errors import UserError

MAGIC = b"\x7fELF"

_SHT_SYMTAB = 2
_SHT_NOTE = 7
_SHT_NOBITS = 8
_SHF_COMPRESSED = 1 << 11
_ELFCOMPRESS_ZLIB = 1
_NT_GNU_BUILD_ID = 3
_SHN_UNDEF = 0
_STT_FUNC = 2
# STT_NOTYPE, STT_OBJECT, STT_FUNC; the other types name sections and files.
_STT_SYMBOLS = (0, 1, _STT_FUNC)
_STB_LOCAL = 0
# A kernel's BTF and tables of symbols are far below this.
_MAX_SECTION = 1 << 28


class Section(NamedTuple):
    """A section header."""

    name: str
    type: int
    flags: int
    offset: int
    size: int
    link: int


class ElfSymbol(NamedTuple):
    """A symbol of the table."""

    name: str
    address: int
    size: int
    is_function: bool
    is_local: bool


class Elf:
    """
    An ELF file of 64 bits.

    :raises UserError: if the file cannot be read, or is not such a file
    """

    def __init__(self, path: str) -> None:
        #: The path as it was given.
        self.path = path
        try:
            with open(path, "rb") as f:
                self._data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as e:
            raise UserError(f"cannot read {path}: {getattr(e, 'strerror', None) or e}") from None
        ident = self._data[:6]
        if ident[:4] != MAGIC or len(ident) < 6 or ident[4] != 2 or ident[5] not in (1, 2):
            raise UserError(f"{path} is not an ELF file of 64 bits")
        self._order = "<" if ident[5] == 1 else ">"
        self._sections = list(self._read_sections())

    def _unpack(self, layout: str, offset: int) -> tuple[int, ...]:
        try:
            return struct.unpack_from(self._order + layout, self._data, offset)
        except (struct.error, OverflowError):
            raise self._broken() from None

    def _broken(self) -> UserError:
        return UserError(f"{self.path} is an ELF file that is damaged or cut short")

    def _bytes(self, offset: int, size: int) -> bytes:
        data = self._data[offset : offset + size]
        if len(data) != size or size > _MAX_SECTION:
            raise self._broken()
        return data

    def _read_sections(self) -> Iterator[Section]:
        (table,) = self._unpack("Q", 40)
        entry, count, names_index = self._unpack("3H", 58)
        if entry != 64 or table + entry * count > len(self._data):
            raise self._broken()
        headers = [self._unpack("2I4Q2I2Q", table + i * entry) for i in range(count)]
        if names_index >= len(headers):
            return
        names = self._bytes(headers[names_index][4], headers[names_index][5])
        for name, kind, flags, _, offset, size, link, *_ in headers:
            end = names.find(b"\0", name)
            text = names[name : end if end >= 0 else name].decode("ascii", "replace")
            yield Section(text, kind, flags, offset, size, link)

    def section(self, name: str) -> bytes | None:
        """
        The contents of a section; ``None`` if there is no section of that name.

        :raises UserError: if the section is damaged, or is compressed with something but zlib
        """
        for section in self._sections:
            if section.name == name and section.type != _SHT_NOBITS and section.size:
                return self._contents(section)
        return None

    def _contents(self, section: Section) -> bytes:
        data = self._bytes(section.offset, section.size)
        if not section.flags & _SHF_COMPRESSED:
            return data
        kind, _, size, _ = self._unpack("2I2Q", section.offset)
        if kind != _ELFCOMPRESS_ZLIB:
            raise UserError(
                f"{section.name} in {self.path} is compressed with something else than zlib: "
                "undo that with objcopy --decompress-debug-sections"
            )
        try:
            plain = zlib.decompressobj().decompress(data[24:], min(size, _MAX_SECTION) + 1)
        except zlib.error:
            plain = b""
        if len(plain) != size:
            raise self._broken()
        return plain

    def build_id(self) -> bytes | None:
        """The GNU build ID."""
        for section in self._sections:
            if section.type != _SHT_NOTE:
                continue
            notes, at = self._bytes(section.offset, section.size), 0
            while at + 12 <= len(notes):
                name_size, size, kind = struct.unpack_from(f"{self._order}3I", notes, at)
                name_at = at + 12
                at = name_at + (name_size + 3 & ~3)
                if kind == _NT_GNU_BUILD_ID and notes[name_at : name_at + name_size] == b"GNU\0":
                    return notes[at : at + size]
                at += size + 3 & ~3
        return None

    def symbols(self) -> Iterator[ElfSymbol]:
        """Symbols of ``.symtab``."""
        for section in self._sections:
            if section.type != _SHT_SYMTAB or section.link >= len(self._sections):
                continue
            names = self._contents(self._sections[section.link])
            table = self._contents(section)
            table = table[: len(table) // 24 * 24]
            for name, info, _, index, address, size in struct.iter_unpack(
                f"{self._order}IBBHQQ", table
            ):
                if name and info & 0xF in _STT_SYMBOLS and index != _SHN_UNDEF:
                    end = names.find(b"\0", name)
                    text = names[name : max(end, name)].decode("ascii", "replace")
                    is_function = info & 0xF == _STT_FUNC
                    yield ElfSymbol(text, address, size, is_function, info >> 4 == _STB_LOCAL)
