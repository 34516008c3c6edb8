# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Finding single symbols in a kernel's kallsyms, if VMCOREINFO tells where that is.

drgn makes an index of all symbols, some 150,000, and a command wants ten of them. This module
compresses the name that is wanted, and searches the table for the result; the table is never
decompressed as a whole.

scripts/kallsyms.c puts the type of a symbol in front of its name, and stores both as a string of
codes. Each code stands for a character or for a token. kallsyms.c makes the tokens one after the
other, from code 255 down: a token is the pair of codes that is the most frequent at that time, and
its code then replaces the pair everywhere. So the text of a token, compressed with the tokens made
before it, gives the pair of the token; and replacing pair after pair compresses a name.
"""

from __future__ import annotations

import bisect
import struct
import sys
from array import array
from collections.abc import Sequence
from typing import Callable

from drgn import FaultError, PlatformFlags, Program, Symbol, SymbolBinding, SymbolKind

from drgn_sockets.program import byte_order

# A kernel has some 150,000 symbols, whose names take a dozen bytes each.
_MAX_SYMBOLS = 1 << 22
_MAX_NAMES = 1 << 26
_MAX_TOKEN = 512
# kallsyms_markers tells where the name of every 256th symbol begins.
_BLOCK = 256
# drgn's limit. kallsyms has no sizes: a symbol is taken to reach to the next one, and is given no
# size if a gap this large follows it.
_MAX_SIZE = 0x10000
_MASK = (1 << 64) - 1
# So many names of a block are compressed again, to check that the kernel compresses as this does.
_SAMPLE = 8
# Types of symbols that a kernel has, see nm(1).
_TYPES = b"AaBbCcDdGgIiRrSsTtuVvWw"
# A search for this many bytes or more finds few places.
_SELECTIVE = 2
# Compressed names of 128 bytes or more have a two-byte length; they are not searched for here.
_LONG = 0x80


class OddKallsymsError(Exception):
    """The table cannot be used here; drgn may know better."""


class Kallsyms:
    """
    The table of a kernel's symbols.

    :param vmcoreinfo: Text of VMCOREINFO, which tells where the table is.
    :raises OddKallsymsError: if VMCOREINFO does not tell, or the table is not as expected
    :raises FaultError: if the table cannot be read
    """

    def __init__(self, prog: Program, vmcoreinfo: str) -> None:
        at: dict[str, int] = {}
        for line in vmcoreinfo.splitlines():
            name, equals, value = line.partition(")=")
            if equals and name.startswith(("SYMBOL(kallsyms_", "SYMBOL(_stext")):
                at[name[len("SYMBOL(") :]] = int(value, 16)
        platform = prog.platform
        assert platform is not None
        self._order = byte_order(prog)
        try:
            names, table = at["kallsyms_names"], at["kallsyms_token_table"]
            index, number = at["kallsyms_token_index"], at["kallsyms_num_syms"]
            offsets, stext = at["kallsyms_offsets"], at["_stext"]
        except KeyError as e:
            raise OddKallsymsError(f"VMCOREINFO lacks {e}") from None
        if not platform.flags & PlatformFlags.IS_64_BIT or "kallsyms_addresses" in at:
            raise OddKallsymsError("addresses are absolute")
        #: How many symbols there are.
        self.count: int = prog.read_u32(number)
        if not _BLOCK < self.count < _MAX_SYMBOLS or not 0 < table - names < _MAX_NAMES:
            raise OddKallsymsError(f"{self.count} symbols in {table - names} bytes")
        self._names: bytes = prog.read(names, table - names)
        self._tokens = self._read_tokens(prog, table, index)
        self._pairs = self._find_pairs()
        self._markers = self._find_markers(names)
        self._names = self._names[: self._end]
        if bytes(2 * _BLOCK) in self._names:
            # No name is this long, so the zeros are a page that was not dumped.
            raise OddKallsymsError("names have a hole")
        self._check_sample()
        self._offsets: array[int] = array("i", prog.read(offsets, 4 * self.count))
        if (self._order == "<") != (sys.byteorder == "little"):
            self._offsets.byteswap()
        relative = at.get("kallsyms_relative_base")
        base = prog.read_u64(relative) if relative else 0
        self._address = self._find_encoding(offsets, base if relative else None, stext)

    def _read_tokens(self, prog: Program, table: int, index: int) -> list[bytes]:
        starts = struct.unpack(f"{self._order}256H", prog.read(index, 512))
        last = max(starts)
        text: bytes = prog.read(table, last) + prog.read_c_string(table + last, max_size=_MAX_TOKEN)
        text += b"\0"
        return [text[start : text.index(0, start)] for start in starts]

    def _find_pairs(self) -> list[tuple[bytes, bytes]]:
        """The pair of codes that each token replaces, and the token's code; oldest token first."""
        tokens = self._tokens
        single = {token[0]: code for code, token in enumerate(tokens) if len(token) == 1}
        self._codes = bytes(single.get(i, 0) for i in range(256))
        self._known = frozenset(single)
        # Characters that stand for types, and the codes of these characters.
        self._letters = self._known.intersection(_TYPES)
        self._types = [single[char] for char in sorted(self._letters)]
        # First characters of tokens by their second ones: such a token may begin a coded name, and
        # hold the type and the first character of the name.
        self._starts: dict[int, set[int]] = {}
        pairs: list[tuple[bytes, bytes]] = []
        for code in range(255, -1, -1):
            token = tokens[code]
            if len(token) < 2:
                continue
            self._starts.setdefault(token[1], set()).add(token[0])
            pair = token.translate(self._codes)
            if len(pair) > 2:
                for other, made in pairs:
                    pair = pair.replace(other, made)
            if len(pair) != 2 or not self._known.issuperset(token):
                raise OddKallsymsError(f"token {code} is no pair of others")
            pairs.append((pair, bytes((code,))))
        return pairs

    def _compress(self, text: bytes) -> bytes:
        coded = text.translate(self._codes)
        for pair, code in self._pairs:
            coded = coded.replace(pair, code)
        return coded

    def _next(self, at: int, long: bool) -> int:
        names = self._names
        size = names[at]
        # Linux kernel commit 73bbb94466fd ("kallsyms: support "big" kernel symbols") (in v6.1)
        # gave lengths of 128 and more a second byte.
        if long and size & 0x80:
            at += 1
            size = size & 0x7F | names[at] << 7
        return at + 1 + size

    def _find_markers(self, names: int) -> Sequence[int]:
        """kallsyms_markers: where every 256th name begins. The table follows the names."""
        for long in (True, False):
            at = 0
            try:
                for _ in range(_BLOCK):
                    at = self._next(at, long)
            except IndexError:
                continue
            place = self._names.find(struct.pack(f"{self._order}2I", 0, at), at)
            count = -(-self.count // _BLOCK)
            data = self._names[place : place + 4 * count]
            if place < 0 or (names + place) % 4 or len(data) < 4 * count:
                continue
            markers = struct.unpack(f"{self._order}{count}I", data)
            if markers[-1] < place and all(a < b for a, b in zip(markers, markers[1:])):
                self._long, self._end = long, place
                return markers
        raise OddKallsymsError("kallsyms_markers is not to be found")

    def _block(self, number: int) -> list[int]:
        """Where the names of a block begin, and where the last one ends."""
        count = min(_BLOCK, self.count - number * _BLOCK)
        last = number + 1 == len(self._markers)
        for long in (self._long, not self._long):
            at = self._markers[number]
            starts = [at]
            try:
                for _ in range(count):
                    at = self._next(at, long)
                    starts.append(at)
            except IndexError:
                continue
            # The table that follows the last name is aligned.
            if 0 <= self._end - at < 8 if last else at == self._markers[number + 1]:
                # Until now no name was so long that the form of lengths mattered.
                self._long = long
                return starts
        raise OddKallsymsError(f"names {number * _BLOCK} and on do not end where others begin")

    def _coded(self, start: int, end: int) -> bytes:
        two = self._long and self._names[start] & 0x80
        return self._names[start + (2 if two else 1) : end]

    def _text(self, coded: bytes) -> bytes:
        tokens = self._tokens
        return b"".join([tokens[code] for code in coded])

    def _check_sample(self) -> None:
        for number in {0, len(self._markers) // 2, len(self._markers) - 1}:
            starts = self._block(number)[: _SAMPLE + 1]
            for start, end in zip(starts, starts[1:]):
                coded = self._coded(start, end)
                if not coded or self._compress(self._text(coded)) != coded:
                    raise OddKallsymsError("names are compressed in another way")

    def _find_encoding(self, place: int, base: int | None, stext: int) -> Callable[[int], int]:
        """Find the function from number to address of a symbol, in the way that drgn does."""
        offsets = self._offsets

        start: int = base or 0

        def relative(i: int) -> int:
            return start + (offsets[i] & 0xFFFFFFFF) & _MASK

        # CONFIG_KALLSYMS_ABSOLUTE_PERCPU, until Linux kernel commit 01157ddc58dc ("kallsyms:
        # Remove KALLSYMS_ABSOLUTE_PERCPU") (in v6.15).
        def absolute_percpu(i: int) -> int:
            offset = offsets[i]
            return offset if offset >= 0 else start - 1 - offset & _MASK

        # Since Linux kernel commit a081b5789255 ("kallsyms: Get rid of kallsyms relative base")
        # (in v7.0).
        def place_relative(i: int) -> int:
            return place + 4 * i + offsets[i] & _MASK

        i = self._number(b"_stext")
        if i is not None:
            for encoding in (relative, absolute_percpu, place_relative):
                if encoding(i) == stext and (encoding is not absolute_percpu or base is not None):
                    return encoding
        raise OddKallsymsError("addresses are not as they are known to be")

    def _number_at(self, start: int) -> int | None:
        """The number of the symbol whose name begins at *start*; ``None`` if no name does."""
        block = bisect.bisect_right(self._markers, start) - 1
        starts = self._block(block)
        i = bisect.bisect_left(starts, start)
        return block * _BLOCK + i if i < len(starts) - 1 and starts[i] == start else None

    def _number(self, name: bytes) -> int | None:
        """The number of the first symbol of that name; ``None`` if there is none."""
        if not name or not self._known.issuperset(name):
            return None
        coded = self._compress(name)
        if len(coded) + 1 >= _LONG:
            raise OddKallsymsError("it is too long a name")
        # Forms that the name may have in the table, each with its length in front. In the first
        # ones the type has a code of its own. In the others a token holds the type and the
        # beginning of the name, so that other pairs were made of the rest.
        forms = [bytes((len(coded) + 1,)) + bytes((kind,)) + coded for kind in self._types]
        for kind in self._letters.intersection(self._starts.get(name[0], ())):
            whole = self._compress(bytes((kind,)) + name)
            if whole[1:] != coded:
                forms.append(bytes((len(whole),)) + whole)
        # One search for the tail that all forms share finds them all. At least two bytes come
        # before it, the length and the code with the type.
        tail = coded
        for form in forms:
            while not form.endswith(tail, 2):
                tail = tail[1:]
        if len(tail) < _SELECTIVE:
            found = (self._search(form, {form}) for form in forms)
            return min((number for number in found if number is not None), default=None)
        return self._search(tail, set(forms))

    def _search(self, tail: bytes, forms: set[bytes]) -> int | None:
        """The number of the first symbol whose name has one of *forms*, which end with *tail*."""
        names = self._names
        sizes = {len(form) - len(tail) for form in forms}
        at = names.find(tail)
        while at >= 0:
            for size in sizes:
                if size <= at and names[at - size : at + len(tail)] in forms:
                    number = self._number_at(at - size)
                    if number is not None:
                        return number
            at = names.find(tail, at + 1)
        return None

    def _symbol(self, number: int) -> Symbol:
        block, i = divmod(number, _BLOCK)
        starts = self._block(block)
        text = self._text(self._coded(starts[i], starts[i + 1]))
        address = self._address(number)
        if not text.isascii() or not text[1:].decode("ascii").isprintable():
            raise OddKallsymsError(f"the name of symbol {number} is none")
        following = self._address(number + 1) if number + 1 < self.count else None
        if (number and self._address(number - 1) > address) or (following or address) < address:
            raise OddKallsymsError("addresses do not ascend")
        return kallsyms_symbol(text[1:], chr(text[0]), address, following)

    def find(self, name: str) -> Symbol | None:
        """
        The first symbol of that name; ``None`` if there is none.

        :raises OddKallsymsError: if this class cannot tell
        """
        number = self._number(name.encode())
        return None if number is None else self._symbol(number)

    def find_at(self, address: int) -> Symbol | None:
        """
        The symbol that an address lies in; ``None`` if there is none.

        :raises OddKallsymsError: if this class cannot tell
        """
        low, high = 0, self.count
        while low < high:
            middle = (low + high) // 2
            if self._address(middle) <= address:
                low = middle + 1
            else:
                high = middle
        if not low:
            return None
        symbol = self._symbol(low - 1)
        return symbol if address < symbol.address + symbol.size else None


def _binding_kind(letter: str) -> tuple[SymbolBinding, SymbolKind]:
    # As drgn's symbol_from_kallsyms() does; see nm(1) for the letters.
    lower = letter.lower()
    if letter == "u":
        binding = SymbolBinding.UNIQUE
    elif lower in "vw":
        binding = SymbolBinding.WEAK
    else:
        binding = SymbolBinding.GLOBAL if letter.isupper() else SymbolBinding.UNKNOWN
    if lower in "bcdgrv":
        return binding, SymbolKind.OBJECT
    return binding, SymbolKind.FUNC if lower == "t" else SymbolKind.UNKNOWN


def kallsyms_symbol(name: bytes, letter: str, address: int, following: int | None) -> Symbol:
    """
    A symbol as drgn makes it from kallsyms.

    :param letter: Type of the symbol, see nm(1).
    :param following: Address of the next symbol; ``None`` for the last one.
    """
    size = (following or address) - address
    return Symbol(
        name.decode("ascii", "backslashreplace"),
        address,
        size if size < _MAX_SIZE else 0,
        *_binding_kind(letter),
    )


def read_kallsyms(prog: Program, vmcoreinfo: str) -> Kallsyms | None:
    """The kernel's table of symbols; ``None`` if :class:`Kallsyms` cannot use it."""
    try:
        return Kallsyms(prog, vmcoreinfo)
    except (OddKallsymsError, FaultError, ValueError, IndexError, OverflowError):
        return None
