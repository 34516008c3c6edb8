# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is escaped text safe to print, and does it give the bytes back?"""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given

from drgn_sockets.text import escape, unescape

from .odd_bytes import odd_bytes

ODD = odd_bytes(
    [b" ", b"-", b"\\", b'"', b"\n", b"\0", b"\x1b[2J", b"x41", b"u", b"\xc3", b"\xa9", b"@"], 64
)


@given(ODD)
def test_round_trip(raw: bytes) -> None:
    text = escape(raw)
    assert unescape(text) == raw
    assert text.isprintable()
    assert len(text.splitlines()) <= 1
    assert text.strip() == text
    # Nothing that a terminal acts on, or that no eye sees.
    assert not {unicodedata.category(c) for c in text} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    text.encode("utf-8")
    # Quoted, as holders are.
    assert unescape(text.replace('"', '\\"')) == raw


@given(ODD, ODD)
def test_different_bytes_differ(one: bytes, other: bytes) -> None:
    assert (escape(one) == escape(other)) == (one == other)


def test_every_byte_and_every_pair_with_a_backslash() -> None:
    for i in range(256):
        for raw in (bytes([i]), b"\\" + bytes([i]), bytes([i]) + b"\\", b"a%cb" % i):
            assert unescape(escape(raw)) == raw
            assert escape(raw).isprintable()


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", ""),
        (b"nginx", "nginx"),
        (b"/run/x.sock", "/run/x.sock"),
        ("gr\u00fc\u00df \u65e5\u672c".encode(), "gr\u00fc\u00df \u65e5\u672c"),
        (b"a\nb\r\t\\", "a\\nb\\r\\t\\\\"),
        (b"\0\x01\x1b[31m\x7f", "\\x00\\x01\\x1b[31m\\x7f"),
        # C1 controls are characters, and are not printed as such.
        ("\u009b".encode(), "\\u009b"),
        (b"\x9b", "\\x9b"),
        (b"\xff\xfe", "\\xff\\xfe"),
        # A character that was cut in two.
        ("\u65e5".encode()[:2], "\\xe6\\x97"),
        # Surrogates are no UTF-8.
        (b"\xed\xb2\x80", "\\xed\\xb2\\x80"),
        # Right-to-left override, zero-width space and joiner, a line separator, an odd space.
        ("a\u202egpj.exe".encode(), "a\\u202egpj.exe"),
        ("a\u2066b\u200bc\u200dd\ufeff".encode(), "a\\u2066b\\u200bc\\u200dd\\ufeff"),
        ("\u2028\u2029\u00a0\u3000".encode(), "\\u2028\\u2029\\u00a0\\u3000"),
        ("\U000e0041".encode(), "\\U000e0041"),
        (b"-", "\\x2d"),
        (b"--", "--"),
        (b"-a", "-a"),
        (b" ", "\\x20"),
        (b"  ", "\\x20\\x20"),
        (b" a b ", "\\x20a b\\x20"),
        (b"\\x41", "\\\\x41"),
    ],
)
def test_by_hand(raw: bytes, text: str) -> None:
    assert escape(raw) == text
    assert unescape(text) == raw


@pytest.mark.parametrize(
    "text",
    [
        "\\",
        "a\\",
        "\\q",
        "\\x",
        "\\x4",
        "\\xzz",
        "\\x+4",
        "\\x 4",
        "\\u12",
        "\\u12_4",
        "\\U0000004",
        "\\U00110000",
        "\\Uffffffff",
        "\\ud800",
    ],
)
def test_what_escape_did_not_make(text: str) -> None:
    with pytest.raises(ValueError):
        unescape(text)
