# SPDX-License-Identifier: LGPL-2.1-or-later
"""vm.kdump: putting a flattened dump together."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from vm import kdump
from vm.errors import VmError

UNAME = ["Linux", "host", "6.1.0", "#1 SMP", "x86_64"]


def flat(*records: tuple[int, bytes], end: bool = True) -> bytes:
    out = kdump.FLAT_HEADER.pack(kdump.FLAT_SIGNATURE, 1, 1).ljust(kdump.FLAT_HEADER_SIZE, b"\0")
    for offset, data in records:
        out += kdump.FLAT_DATA.pack(offset, len(data)) + data
    return out + (kdump.FLAT_DATA.pack(-1, -1) if end else b"")


def unflatten(data: bytes) -> bytes:
    to = io.BytesIO()
    kdump.unflatten(io.BytesIO(data), to)
    return to.getvalue()


def test_records_go_to_their_offsets() -> None:
    assert unflatten(flat((8, b"later"), (0, b"first"))) == b"first\0\0\0later"


def test_a_later_record_overwrites() -> None:
    assert unflatten(flat((0, b"header??"), (6, b"!!"))) == b"header!!"


def test_records_larger_than_a_chunk() -> None:
    data = bytes(range(256)) * (kdump.CHUNK // 100)
    assert unflatten(flat((0, data))) == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"KDUMP   ".ljust(8192, b"\0"),
        flat((0, b"abc"), end=False),
        flat((0, b"abc"))[: kdump.FLAT_HEADER_SIZE + 17],
        flat((-2, b"abc")),
    ],
    ids=["empty", "not flattened", "no end", "cut short", "bad offset"],
)
def test_damaged(data: bytes) -> None:
    with pytest.raises(VmError):
        unflatten(data)


def test_utsname_is_filled_in_whole(tmp_path: Path) -> None:
    # As QEMU 7.2 writes it: the machine, and nothing else.
    header = bytearray(4096)
    header[:12] = b"KDUMP   \x06\0\0\0"
    header[272:278] = b"x86_64"
    source = tmp_path / "flat"
    source.write_bytes(flat((0, bytes(header))))
    kdump.reassemble(source, tmp_path / "whole", UNAME)
    whole = (tmp_path / "whole").read_bytes()
    fields = [whole[12 + 65 * i : 12 + 65 * (i + 1)].rstrip(b"\0").decode() for i in range(6)]
    assert fields == [*UNAME, ""]
    assert whole[:12] + whole[12 + 6 * 65 :] == bytes(header[:12] + header[12 + 6 * 65 :])


def test_utsname_that_is_there_stays() -> None:
    dump = io.BytesIO(b"KDUMP   \x06\0\0\0" + b"Theirs".ljust(390, b"\0") + b"rest")
    before = dump.getvalue()
    kdump.fill_utsname(dump, UNAME)
    assert dump.getvalue() == before


def test_long_names_keep_their_terminator() -> None:
    dump = io.BytesIO(b"KDUMP   \x06\0\0\0".ljust(1000, b"\0"))
    kdump.fill_utsname(dump, ["Linux", "n" * 100, "r", "v", "m"])
    assert dump.getvalue()[12 + 65 : 12 + 2 * 65] == b"n" * 64 + b"\0"
    assert len(dump.getvalue()) == 1000
