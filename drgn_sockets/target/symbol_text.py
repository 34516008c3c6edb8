# SPDX-License-Identifier: LGPL-2.1-or-later
"""Finding single symbols in ``/proc/kallsyms`` or a System.map, without parsing the whole text."""

from __future__ import annotations

from typing import NamedTuple


class OddTextError(Exception):
    """A line is not a symbol, or out of order; a reader of the whole text may cope with it."""


class Line(NamedTuple):
    """A line, and the address of the next symbol."""

    address: int
    #: The letter of nm(1).
    kind: str
    name: bytes
    #: ``None`` for the last line.
    following: int | None


class SymbolText:
    """Lines of address, type and name, in the order of addresses."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        # The symbols of modules come last; their lines end with the module's name. They are left
        # out.
        module = text.find(b"\t[")
        self._end = text.rfind(b"\n", 0, module if module >= 0 else None) + 1

    def count(self) -> int:
        """How many lines there are."""
        return self._text.count(b"\n", 0, self._end)

    def _parse(self, at: int) -> tuple[int, str, bytes, int]:
        """Address, type and name of the line at *at*, and where the next line begins."""
        end = self._text.find(b"\n", at, self._end)
        fields = self._text[at:end].split(b" ")
        if end < 0 or len(fields) != 3 or len(fields[1]) != 1 or not fields[2]:
            raise OddTextError(f"no symbol at {at}")
        try:
            return int(fields[0], 16), fields[1].decode("ascii"), fields[2], end + 1
        except ValueError:
            raise OddTextError(f"no symbol at {at}") from None

    def _line(self, at: int) -> Line:
        address, kind, name, after = self._parse(at)
        if at and self._parse(self._text.rfind(b"\n", 0, at - 1) + 1)[0] > address:
            raise OddTextError("addresses do not ascend")
        following = self._parse(after)[0] if after < self._end else None
        if following is not None and following < address:
            raise OddTextError("addresses do not ascend")
        return Line(address, kind, name, following)

    def find(self, name: str) -> Line | None:
        """
        The first line with a name; ``None`` if there is none.

        :raises OddTextError: if that line is not a symbol, or is out of order
        """
        at = self._text.find(b" " + name.encode() + b"\n", 0, self._end)
        return None if at < 0 else self._line(self._text.rfind(b"\n", 0, at) + 1)

    def _last_at(self, address: int) -> int | None:
        """Where the last line begins whose address is not above *address*."""
        # Lines begin at low and at high; high may also be the end of the text. The line that is
        # sought begins at low or after it, and before high.
        low, high = 0, self._end
        if not high or self._parse(0)[0] > address:
            return None
        while True:
            middle = self._text.rfind(b"\n", low, (low + high) // 2) + 1
            if middle <= low:
                middle = self._parse(low)[3]
                if middle >= high:
                    return low
            if self._parse(middle)[0] <= address:
                low = middle
            else:
                high = middle

    def find_at(self, address: int) -> Line | None:
        """
        The last line whose address is not above *address*; ``None`` if there is none.

        :raises OddTextError: if a line on the way is not a symbol, or is out of order
        """
        at = self._last_at(address)
        return None if at is None else self._line(at)

    def has(self, name: bytes, address: int) -> bool:
        """
        Whether a symbol of that name is at an address.

        :raises OddTextError: if a line on the way is not a symbol
        """
        at = self._last_at(address)
        while at is not None:
            line = self._parse(at)
            if line[0] != address:
                break
            if line[2] == name:
                return True
            at = self._text.rfind(b"\n", 0, at - 1) + 1 if at else None
        return False
