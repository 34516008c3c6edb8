# SPDX-License-Identifier: LGPL-2.1-or-later
"""Messages to people, without characters that a terminal would act on."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

_SHORT = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escape_character(c: str) -> str:
    """A character that does not print, or a backslash, as an escape that prints."""
    if c in _SHORT:
        return _SHORT[c]
    code = ord(c)
    if 0xDC80 <= code <= 0xDCFF:
        # A byte that was not UTF-8 (surrogateescape).
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def printable(text: str, keep: str = "") -> str:
    r"""
    *text* on one line, with escapes in the place of characters that do not print.

    A text in which all characters print stays as it is, backslashes included, so that a name that
    was escaped before is not escaped again.

    >>> printable("cannot open \x1b[2J\n")
    'cannot open \\x1b[2J\\n'

    :param keep: Characters that stay: the newlines of a text of several lines, say.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else escape_character(c) for c in text)


def tell(text: str, out: TextIO | None = None) -> None:
    """
    Write a message as one line.

    :param out: Where to; by default standard error.
    """
    print(f"drgn-sockets: {printable(text)}", file=out or sys.stderr)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def log_to_stderr(level: str) -> None:
    """Have drgn's messages of at least *level* written to standard error, a line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("drgn-sockets: %(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=level.upper())
