# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to VMCOREINFO and to kallsyms: an answer or one clear line, and never a traceback."""

from __future__ import annotations

import gc
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from drgn import Program

from drgn_sockets import cli
from drgn_sockets.demo import CORE
from drgn_sockets.target import open as opening

# Values that a number of VMCOREINFO is not.
_VALUES = [b"", b"0", b"-1", b"zz", b"f" * 16, b"f" * 40, b"0x10", b" 12", b"\xff\xfe", b"1_0"]


@pytest.fixture(autouse=True)
def no_programs_are_left() -> Iterator[None]:
    """Collect the program of a test, which cycles keep: the command line turns that off."""
    yield
    gc.enable()
    gc.collect()


@pytest.fixture(scope="module")
def vmcoreinfo() -> bytes:
    """That of the demo's core."""
    prog = Program()
    prog.set_core_dump(str(CORE))
    found: bytes = prog["VMCOREINFO"].string_()
    return found


def damaged(text: bytes, rnd: random.Random) -> bytes:
    lines = text.split(b"\n")
    for _ in range(rnd.choice([1, 1, 2, 5])):
        i = rnd.randrange(len(lines))
        name, _, value = lines[i].partition(b"=")
        at = rnd.randrange(len(lines[i]) + 1)
        lines[i] = rnd.choice(
            [
                lines[i][:at],
                name + b"=" + rnd.choice(_VALUES),
                name + b"=-" + value,
                b"",
                lines[i][:at] + bytes((rnd.choice([0xFF, 0x1B, 0x80, 0x20]),)) + lines[i][at + 1 :],
                lines[i] * 2,
                lines[i].replace(b"0", b""),
            ]
        )
    return b"\n".join(lines)


def held_to(status: int, err: str) -> None:
    """What each command has to do, whatever it reads."""
    lines = err.splitlines()
    assert status in (0, 1, 2)
    assert all(line.startswith("drgn-sockets: ") and line.isprintable() for line in lines), err
    assert status != 2 or 1 <= len(lines) <= 2, err


@pytest.mark.parametrize("seed", range(40))
def test_vmcoreinfo(
    seed: int, vmcoreinfo: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "vmcoreinfo"
    path.write_bytes(damaged(vmcoreinfo, random.Random(seed)))
    status = cli.main(["-c", str(CORE), "--vmcoreinfo", str(path), "fds", "1"])
    held_to(status, capsys.readouterr().err)


@pytest.mark.parametrize("name", ["OSRELEASE", "PAGESIZE", "SYMBOL(swapper_pg_dir)"])
def test_what_vmcoreinfo_cannot_do_without(
    name: str, vmcoreinfo: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "vmcoreinfo"
    pattern = rb"^" + re.escape(name.encode()) + rb"=.*$"
    text = re.sub(pattern, b"", vmcoreinfo, flags=re.MULTILINE)
    assert text != vmcoreinfo
    path.write_bytes(text)
    assert cli.main(["-c", str(CORE), "--vmcoreinfo", str(path), "fds", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "VMCOREINFO given for" in line and name.strip("SYMBOL()") in line


class Overlaid:
    """The demo's core, with other bytes in some tables of kallsyms."""

    def __init__(self, vmcoreinfo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        at = {
            name: int(value, 16)
            for name, value in re.findall(
                r"^SYMBOL\(kallsyms_(\w+)\)=(\w+)$", vmcoreinfo.decode(), re.MULTILINE
            )
        }
        prog = Program()
        prog.set_core_dump(str(CORE))
        number = prog.read_u32(at["num_syms"])
        sizes = {
            "names": at["token_table"] - at["names"],
            "token_table": at["token_index"] - at["token_table"],
            "token_index": 512,
            "num_syms": 4,
            "offsets": 4 * number,
        }
        self.tables = {name: bytearray(prog.read(at[name], size)) for name, size in sizes.items()}
        set_program: Callable[..., Program] = opening._set_program

        def overlaid(*args: object) -> Program:
            prog = set_program(*args)
            for name, data in self.tables.items():

                def read(
                    address: int, count: int, offset: int, physical: bool, data: bytearray = data
                ) -> bytes:
                    return bytes(data[offset : offset + count])

                prog.add_memory_segment(at[name], len(data), read)
            return prog

        monkeypatch.setattr(opening, "_set_program", overlaid)


@pytest.mark.parametrize("seed", range(25))
def test_kallsyms(
    seed: int,
    vmcoreinfo: bytes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rnd = random.Random(seed)
    core = Overlaid(vmcoreinfo, monkeypatch)
    data = core.tables[rnd.choice(sorted(core.tables))]
    for _ in range(rnd.choice([1, 5, 100])):
        data[rnd.randrange(len(data))] = rnd.choice([0xFF, 0x80, 0, 0xC3, rnd.randrange(256)])
    held_to(cli.main(["-c", str(CORE), "fds", "1"]), capsys.readouterr().err)
