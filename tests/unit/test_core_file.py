# SPDX-License-Identifier: LGPL-2.1-or-later
"""Opening dumps in forms that the recorded ones do not have, and what is no dump."""

from __future__ import annotations

import functools
import io
import os
import re
import socket
import struct
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
from drgn import Architecture, Program

from drgn_sockets.cli import main
from drgn_sockets.demo import CORE
from drgn_sockets.target.core_file import CoreFile

from . import dumps
from .dumps import PAGE, as_qemu_writes, demo_kdump, note

_USED = "drgn-sockets: types from the kernel's own BTF, symbols from its kallsyms\n"


class Done(NamedTuple):
    status: int
    out: str
    err: str


def command(core: Path, *argv: str) -> Done:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main(["-c", str(core), "--types", "btf", *argv])
    return Done(status, out.getvalue(), err.getvalue())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "core"


@pytest.fixture(scope="module")
def sockets() -> str:
    """What a command prints of the demo's core as it is."""
    done = command(CORE, "ss", "-ta")
    assert (done.status, done.err) == (0, _USED) and done.out.count("\n") > 50
    return done.out


def refused(path: Path, *words: str) -> None:
    """Status 2, and one line that has the words."""
    done = command(path, "ss", "-ta")
    assert (done.status, done.out) == (2, ""), done.err
    assert done.err.startswith("drgn-sockets: ") and done.err.count("\n") == 1
    for word in (str(path), *words):
        assert word in done.err, done.err


@pytest.mark.parametrize("machine", [b"x86_64", b""])
def test_kdump_as_qemu_writes_it(path: Path, sockets: str, machine: bytes) -> None:
    path.write_bytes(as_qemu_writes(demo_kdump(machine)))
    assert command(path, "ss", "-ta") == (0, sockets, _USED)


def test_flattened_by_others(path: Path, sockets: str) -> None:
    # Records that overlap, which libkdumpfile reads.
    data = demo_kdump()
    pieces = [(at, data[at : at + 65000]) for at in range(0, len(data), 64000)]
    path.write_bytes(dumps.flatten([(0, bytes(4096)), *pieces]))
    assert command(path, "ss", "-ta") == (0, sockets, _USED)


@pytest.mark.parametrize("flat", [False, True])
def test_blocks_larger_than_pages(path: Path, sockets: str, flat: bool) -> None:
    # As QEMU writes arm64 guests: of 64 KiB there, which takes long here.
    data = dumps.with_large_blocks(8192)
    path.write_bytes(as_qemu_writes(data) if flat else data)
    assert command(path, "ss", "-ta") == (0, sockets, _USED)
    # status: LZO
    data = data[:0x1A8] + bytes([2]) + data[0x1A9:]
    path.write_bytes(as_qemu_writes(data) if flat else data)
    refused(path, "blocks of 8192 bytes", "kdump-zlib")


@pytest.mark.parametrize("flat", [False, True])
def test_architecture_is_the_machines(path: Path, flat: bool) -> None:
    # VMCOREINFO without what only one architecture has.
    data = demo_kdump(b"aarch64").replace(b"(init_top_pgt)", b"(other_top_pg)")
    path.write_bytes(as_qemu_writes(data) if flat else data)
    assert CoreFile(str(path)).architecture is Architecture.AARCH64


def test_architecture_is_that_of_vmcoreinfo(path: Path) -> None:
    path.write_bytes(demo_kdump(b"").replace(b"(init_top_pgt)", b"(other_top_pg)"))
    assert CoreFile(str(path)).architecture is None
    refused(path, "architecture")
    mark = b"NUMBER(kimage_voffset)"
    path.write_bytes(demo_kdump(b"").replace(b"\nSYMBOL(init_top_pgt)"[: len(mark)], b"\n" + mark))
    assert CoreFile(str(path)).architecture is Architecture.AARCH64


@functools.cache
def with_texts() -> dict[int, bytes]:
    """Pages of the demo's machine, and VMCOREINFO in memory in several places."""
    core = dumps.demo()
    text = core.vmcoreinfo.rstrip(b"\0")
    pages = dict(core.pages)
    top = core.max_mapnr
    pages[top] = text.ljust(PAGE, b"\0")
    # Above it, where the search begins: a text of another boot, texts that lost their end, and one
    # that is not all that its page has.
    names = re.search(rb"SYMBOL\(init_uts_ns\)=(\w+)", text)
    other = re.search(rb"SYMBOL\(swapper_pg_dir\)=(\w+)", text)
    assert names and other
    moved = text.replace(names[0], b"SYMBOL(init_uts_ns)=" + other[1])
    short = text[: text.index(b"SYMBOL(kallsyms_names)")]
    first = (top // 256 + 1) * 256
    pages[first] = b"x" * 100 + text.ljust(PAGE - 100, b"\0")
    for i, each in enumerate([short + b"x", text[:-1], moved, text[:200], b"OSRELEASE=\n"]):
        pages[first + 1 + i] = each.ljust(PAGE, b"\0")
    return pages


@functools.cache
def kdump_with_texts() -> bytes:
    """The same, kdump-compressed: that takes 2 s."""
    return dumps.kdump(with_texts())


# As QEMU writes them into a core.
_NOTES = note(b"CORE", 1, bytes(336)) + note(b"QEMU", 0, bytes(432))


@pytest.mark.parametrize(
    "make",
    [
        lambda: dumps.elf(with_texts(), _NOTES),
        kdump_with_texts,
        lambda: kdump_with_texts().replace(b"x86_64", bytes(6), 1),
        lambda: as_qemu_writes(kdump_with_texts()),
        lambda: dumps.flatten([(0, dumps.elf(with_texts(), _NOTES))]),
    ],
    ids=["elf", "kdump", "kdump of nothing", "flattened", "flattened elf"],
)
def test_vmcoreinfo_out_of_memory(path: Path, sockets: str, make: Callable[[], bytes]) -> None:
    path.write_bytes(make())
    done = command(path, "ss", "-ta")
    assert (done.status, done.out) == (0, sockets), done.err
    where = f"{dumps.demo().max_mapnr * PAGE:#x}"
    assert done.err.splitlines()[:-1] == [
        f"drgn-sockets: {path} has no note with VMCOREINFO; it was found in memory, at {where}"
    ]


@pytest.mark.parametrize("form", ["elf", "kdump", "flattened"])
def test_no_vmcoreinfo_at_all(path: Path, form: str) -> None:
    data = dumps.without_vmcoreinfo(CORE.read_bytes())
    path.write_bytes(
        {
            "elf": lambda: dumps.elf(dumps.demo().pages, _NOTES),
            "kdump": lambda: data,
            "flattened": lambda: as_qemu_writes(data),
        }[form]()
    )
    refused(path, "no VMCOREINFO", "--vmcoreinfo")
    given = path.with_name("vmcoreinfo")
    given.write_bytes(dumps.demo().vmcoreinfo)
    assert command(path, "--vmcoreinfo", str(given), "ss", "-ta").status == 0


def whole(form: str) -> bytes:
    core = dumps.demo()
    vmcoreinfo = note(b"VMCOREINFO", 0, core.vmcoreinfo)
    return {
        "kdump": lambda: CORE.read_bytes(),
        "flattened": lambda: as_qemu_writes(demo_kdump(b"x86_64")),
        "elf": lambda: dumps.elf(core.pages, vmcoreinfo),
        "flattened elf": lambda: dumps.flatten([(0, dumps.elf(core.pages, vmcoreinfo))]),
    }[form]()


@pytest.mark.parametrize("form", ["kdump", "flattened", "elf", "flattened elf"])
def test_cut_short(path: Path, form: str) -> None:
    data = whole(form)
    path.write_bytes(data)
    assert CoreFile(str(path)).missing is None
    seen = set()
    parts = [len(data) * 2 // 5, len(data) * 4 // 5]
    for size in [1, 16, 4096, 9000, *parts, len(data) - 5000, len(data) - 1]:
        path.write_bytes(data[:size])
        done = command(path, "ss", "-ta")
        assert done.status in (1, 2), (size, done.err)
        seen.add(done.status)
        if size < 4:
            refused(path, "not a core dump")
            continue
        first = next(line for line in done.err.splitlines() if "cut short" in line)
        assert f"{size:,}" in first and str(path) in first and "System.map" not in done.err
        if done.status == 2:
            refused(path)
            if form == "flattened elf" and size > 65536:
                assert "makedumpfile -R NEW <" in done.err
        elif "flattened" not in form:
            assert f"{size:,} of {len(data):,} bytes" in first
    assert 2 in seen
    # Only drgn 0.1 and newer lets us read the pages of a flattened file.
    can = form != "flattened elf" and hasattr(Program, "set_linux_kernel_custom")
    assert not can or 1 in seen


def test_ran_out_of_space(path: Path) -> None:
    data = bytearray(CORE.read_bytes())
    data[424] |= 8
    path.write_bytes(data)
    done = command(path, "ss", "-ta")
    assert done.status == 1 and "makedumpfile, which wrote it, ran out of space" in done.err


def header(kind: int = 4, bits: int = 64, big: bool = False, machine: int = 62) -> bytes:
    order = ">" if big else "<"
    ident = bytes((0x7F, 0x45, 0x4C, 0x46, bits // 32, 1 + big, 1)).ljust(16, b"\0")
    return ident + struct.pack(order + "HH", kind, machine) + bytes(4096)


def process_core() -> bytes:
    info = bytes(40) + b"sleep".ljust(16, b"\0") + bytes(80)
    return dumps.elf({}, note(b"CORE", 1, bytes(336)) + note(b"CORE", 3, info))


def split_kdump() -> bytes:
    data = bytearray(CORE.read_bytes())
    data[PAGE + 12 : PAGE + 16] = struct.pack("<i", 1)
    return bytes(data)


def kdump_header(machine: bytes, order: str, at: int) -> bytes:
    data = bytearray(b"KDUMP   " + struct.pack(order + "i", 6) + dumps.only(machine)).ljust(PAGE)
    data[at : at + 4] = struct.pack(order + "i", PAGE)
    return bytes(data) + bytes(PAGE)


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"", ["is empty"]),
        (os.urandom(9) + b"nothing known", ["is not a core dump", "ELF or kdump"]),
        (b"\x1f\x8b\x08" + bytes(99), ["gzip", "gunzip"]),
        (b"\xfd7zXZ\0" + bytes(99), ["xz", "unxz"]),
        (b"\x28\xb5\x2f\xfd" + bytes(99), ["zstd", "unzstd"]),
        (b"LibvirtQemudSave\x02" + bytes(99), ["virsh save", "virsh dump --memory-only"]),
        (b"QEVM\0\0\0\3" + bytes(99), ["migration", "dump-guest-memory"]),
        (b"QFI\xfb\0\0\0\3" + bytes(99), ["qcow2", "-loadvm"]),
        (b"\x7fVirtualBox SavedState V2.0\n", ["VirtualBox", "dumpvmcore"]),
        (b"\xd2\xbe\xd2\xbe\x08" + bytes(99), ["VMware", "vmss2core"]),
        (b"PAGEDU64" + bytes(99), ["Windows"]),
        (header(2), ["executable", "-s"]),
        (header(3), ["executable or a library", "-s"]),
        (header(1), ["module", "-s"]),
        (header(bits=32, machine=3), ["32-bit", "i386", "64-bit"]),
        (header(big=True, machine=22), ["big-endian", "s390"]),
        (header()[:40], ["cut short", "headers"]),
        (process_core(), ["a core of a process (sleep)", "drgn -c"]),
        (dumps.elf({}, b""), ["without memory"]),
        (split_kdump(), ["--split", "makedumpfile --reassemble"]),
        (kdump_header(b"s390x", ">", 428), ["big-endian", "s390x"]),
        (kdump_header(b"i686", "<", 416), ["32-bit", "i686"]),
        (b"KDUMP   " + bytes(20), ["headers"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_is_no_core(path: Path, contents: bytes, words: list[str]) -> None:
    path.write_bytes(contents)
    refused(path, *words)


def test_what_is_no_file(path: Path) -> None:
    os.mkfifo(path)
    refused(path, "pipe", "write it to a file")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        refused(path, "socket", "--qemu")
    refused(path.parent, "directory")
    refused(Path("/dev/null"), "character device")
    refused(path.parent / "none", "no such core")
