# SPDX-License-Identifier: LGPL-2.1-or-later
"""BTF, build ID and symbols out of ELF files written by hand, sound and broken."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from drgn_sockets.errors import UserError
from drgn_sockets.target.btf_source import BtfFile
from drgn_sockets.target.elf import Elf
from tests.fuzz.writer import sample

from .elf_writer import NOTE, PROGBITS, STRTAB, SYMTAB, compressed, elf, note, symtab

BTF = sample().data()
ID = bytes(range(20))
TABLE, NAMES = symtab({"init_task": 0xFFFFFFFF82000000, "here": 16})
COMPRESSED = 1 << 11
WHOLE = elf(
    (".notes", NOTE, 2, note(ID), 0),
    (".BTF", PROGBITS, 2, BTF, 0),
    (".symtab", SYMTAB, 0, TABLE, 4),
    (".strtab", STRTAB, 0, NAMES, 0),
)


def written(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "vmlinux"
    path.write_bytes(data)
    return str(path)


def test_what_is_in_a_vmlinux(tmp_path: Path) -> None:
    file = Elf(written(tmp_path, WHOLE))
    assert file.section(".BTF") == BTF
    assert file.section(".nothing") is None
    assert file.build_id() == ID
    assert [(s.name, s.address, s.is_local) for s in file.symbols()] == [
        ("init_task", 0xFFFFFFFF82000000, False),
        ("here", 16, False),
    ]


def test_compressed(tmp_path: Path) -> None:
    data = elf((".BTF", PROGBITS, COMPRESSED, compressed(BTF), 0))
    assert BtfFile(written(tmp_path, data)).data == BTF
    for broken in (compressed(BTF)[:-9], compressed(BTF[:-1])[:8] + compressed(BTF)[8:24]):
        with pytest.raises(UserError, match="damaged or cut short"):
            BtfFile(written(tmp_path, elf((".BTF", PROGBITS, COMPRESSED, broken, 0))))
    other = b"\x02" + compressed(BTF)[1:]
    with pytest.raises(UserError, match="--decompress-debug-sections"):
        BtfFile(written(tmp_path, elf((".BTF", PROGBITS, COMPRESSED, other, 0))))


def test_a_bare_file(tmp_path: Path) -> None:
    file = BtfFile(written(tmp_path, BTF))
    assert (file.data, file.elf) == (BTF, None)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "has no BTF"),
        (b"hello", "has no BTF"),
        (b"\x7fELF", "not an ELF file of 64 bits"),
        (b"\x7fELF\x01\x01" + bytes(100), "not an ELF file of 64 bits"),
        (WHOLE[:40], "damaged or cut short"),
        (WHOLE[:-70], "damaged or cut short"),
        (elf((".notes", NOTE, 2, note(ID), 0)), "has no BTF: it is a vmlinux"),
        (elf((".BTF", PROGBITS, 2, b"nothing of the kind", 0)), "has no BTF"),
    ],
)
def test_no_btf(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(UserError, match=why):
        BtfFile(written(tmp_path, data))


def test_damage_is_one_line(tmp_path: Path) -> None:
    rng = random.Random(1)
    for _ in range(400):
        broken = bytearray(WHOLE)
        for _ in range(rng.randint(1, 4)):
            broken[rng.randrange(len(broken))] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
        try:
            file = Elf(written(tmp_path, bytes(broken[: rng.choice((len(broken), 300))])))
            file.section(".BTF")
            file.build_id()
            list(file.symbols())
        except UserError as e:
            assert "\n" not in str(e)
