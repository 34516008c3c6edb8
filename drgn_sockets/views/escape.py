# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Bytes out of the kernel as text that is safe to print, and that gives the bytes back.

A name may hold newlines, escape sequences and broken UTF-8. On a terminal, in a table and in
CSV what is not printable is written with a backslash, and so is the backslash itself.
"""

from __future__ import annotations

_SHORT = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


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
        text = "".join(map(_escape_character, text))
    if text == "-":
        return "\\x2d"
    if text[:1] == " ":
        text = "\\x20" + text[1:]
    if text[-1:] == " ":
        text = text[:-1] + "\\x20"
    return text


def _escape_character(c: str) -> str:
    if c in _SHORT:
        return _SHORT[c]
    if c.isprintable():
        return c
    code = ord(c)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def unescape(text: str) -> bytes:
    """
    The bytes that :func:`escape` made *text* of.

    :raises ValueError: if it did not
    """
    raw = bytearray()
    i = 0
    long = {"n": b"\n", "r": b"\r", "t": b"\t", "\\": b"\\", '"': b'"'}
    digits = {"x": 2, "u": 4, "U": 8}
    while i < len(text):
        if text[i] != "\\":
            raw += text[i].encode("utf-8", "surrogateescape")
            i += 1
            continue
        kind = text[i + 1 : i + 2]
        if kind in long and kind:
            raw += long[kind]
            i += 2
        elif kind in digits and kind:
            end = i + 2 + digits[kind]
            code = int(text[i + 2 : end], 16)
            raw += bytes([code]) if kind == "x" else chr(code).encode()
            i = end
        else:
            raise ValueError(f"no such escape: {text[i : i + 2]!r}")
    return bytes(raw)
