# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``core-info`` makes of headers, whole and damaged, and of bits of the kernel's."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path

import pytest
from drgn import Architecture, FindObjectFlags, Object, Platform, Program

from drgn_sockets import cli
from drgn_sockets.demo import CORE
from drgn_sockets.kernel.machine import taints
from drgn_sockets.target.file_facts import file_facts
from drgn_sockets.target.kdump import write_kdump


def kdump(pages: dict[int, bytes], level: int) -> bytearray:
    file = io.BytesIO()
    write_kdump(
        file,
        pages,
        page_size=4096,
        byte_order="<",
        utsname=[b"Linux", b"name", b"6.1", b"#1", b"x86_64", b""],
        vmcoreinfo=b"OSRELEASE=6.1\n",
    )
    data = bytearray(file.getvalue())
    # struct kdump_sub_header.dump_level
    data[4096 + 8 : 4096 + 12] = struct.pack("<i", level)
    return data


@pytest.mark.parametrize(
    ("level", "words"),
    [
        (0, "0"),
        (1, "1 (without zero pages)"),
        (31, "31 (without zero, cache, private cache, user, free pages)"),
    ],
)
def test_dump_level(tmp_path: Path, level: int, words: str) -> None:
    path = tmp_path / "core"
    path.write_bytes(kdump({1: b"x" * 4096, 70000: b"y" * 4096}, level))
    facts = file_facts(str(path))
    assert facts is not None
    assert (facts.format, facts.dump_level) == ("kdump, zlib", words)
    assert (facts.memory, facts.in_file) == (8192, 8192)
    assert facts.damage is None and facts.written


def test_pages_that_are_left_out(tmp_path: Path) -> None:
    data = kdump(dict.fromkeys(range(1, 9), b"x" * 4096), 31)
    blocks = struct.unpack_from("<i", data, 8 + 4 + 390 + 6 + 16 + 8)[0]
    second = (1 + blocks) * 4096 + 4096
    assert data[second] == 0xFE
    data[second] = 0x0E
    path = tmp_path / "core"
    path.write_bytes(data)
    facts = file_facts(str(path))
    assert facts is not None and (facts.memory, facts.in_file) == (8 * 4096, 4 * 4096)


@pytest.mark.parametrize("seed", range(15))
def test_damaged_headers(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It always says something, and never has a traceback."""
    rnd = random.Random(seed)
    data = bytearray(CORE.read_bytes())
    if seed % 3 == 0:
        del data[rnd.choice([9, 100, 500, 4100, 9000, len(data) // 2, len(data) - 10]) :]
    else:
        for _ in range(rnd.choice([1, 4, 30])):
            data[rnd.randrange(8, 4096 + 200)] = rnd.randrange(256)
    path = tmp_path / "core"
    path.write_bytes(data)
    status = cli.main(["-c", str(path), "core-info"])
    out, err = capsys.readouterr()
    assert status in (0, 1)
    assert out.startswith(f"file: {path}\nformat: kdump")
    assert "missing: " in out
    for line in (out + err).splitlines():
        assert line.isprintable() and "Traceback" not in line


def test_taints() -> None:
    prog = Program(Platform(Architecture.X86_64))
    value = struct.pack("<Q", 1 << 12 | 1 << 7 | 1 << 63)
    prog.add_memory_segment(0x1000, 8, lambda address, count, offset, physical: value)
    mask = Object(prog, prog.int_type("unsigned long", 8, False), address=0x1000)

    def find(prog: Program, name: str, flags: FindObjectFlags, file: str | None) -> Object | None:
        return mask if name == "tainted_mask" else None

    prog.register_object_finder("test", find, enable_index=0)
    assert taints(prog) == ["D died: oops or BUG", "O out-of-tree module", "bit 63"]
