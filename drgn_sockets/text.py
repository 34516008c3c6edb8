# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Bytes out of the kernel as text that is safe to print, and that gives the bytes back.

A name may hold newlines, escape sequences and broken UTF-8. On a terminal, in a table and in
CSV what is not printable is written with a backslash, and so is the backslash itself.
"""

from __future__ import annotations

import functools
import re
import sys
from typing import Any

from drgn_sockets.kernel.lost import Lost
from drgn_sockets.messages import escape_character, printable

#: In the place of what cannot be read.
LOST = "?"

_LONG = {"n": b"\n", "r": b"\r", "t": b"\t", "\\": b"\\", '"': b'"'}
# A backslash with what follows it, also where that is none of these.
_ESCAPE = r"(?s)\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[^xuU]|)"


def escape(raw: bytes) -> str:
    r"""
    Printable text for *raw*: ``\n``, ``\r``, ``\t``, ``\\``, ``\xNN`` for other bytes,
    ``\uNNNN`` and ``\UNNNNNNNN`` for characters that do not print (:func:`unescape` undoes it).

    Spaces at either end, and a lone ``-``, which stands for nothing, are escaped as well.
    """
    if raw.isalnum() and raw.isascii():
        return raw.decode("ascii")
    text = raw.decode("utf-8", "surrogateescape")
    if not (text.isprintable() and "\\" not in text):
        text = "".join(c if c.isprintable() and c != "\\" else escape_character(c) for c in text)
    if text == "-":
        return "\\x2d"
    if text[:1] == " ":
        text = "\\x20" + text[1:]
    if text[-1:] == " ":
        text = text[:-1] + "\\x20"
    return text


def unescape(text: str) -> bytes:
    """
    The bytes that :func:`escape` made *text* of.

    :raises ValueError: if it did not
    """
    raw = bytearray()
    end = 0
    for match in re.finditer(_ESCAPE, text):
        raw += text[end : match.start()].encode("utf-8", "surrogateescape")
        end = match.end()
        kind, digits = match[0][1:2], match[0][2:]
        if kind == "x":
            raw.append(int(digits, 16))
        elif kind in _LONG:
            raw += _LONG[kind]
        elif digits and int(digits, 16) <= sys.maxunicode:
            raw += chr(int(digits, 16)).encode()
        else:
            raise ValueError(f"no such escape: {match[0]!r}")
    return bytes(raw + text[end:].encode("utf-8", "surrogateescape"))


# Commands and paths come again and again.
escaped = functools.lru_cache(1024)(escape)


def plain(value: Any) -> str:
    """A value as text."""
    if value is None:
        return "-"
    if isinstance(value, Lost):
        return LOST
    if isinstance(value, bytes):
        return escaped(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, (list, tuple)):
        return ",".join(map(plain, value)) or "-"
    if isinstance(value, dict):
        return " ".join(f"{k}={plain(v)}" for k, v in value.items()) or "-"
    return printable(str(value))
