# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernels that do not say of themselves what is needed, and files that say it of others."""

from __future__ import annotations

import random
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drgn import FaultError

from drgn_sockets import cli
from drgn_sockets.target import open as opening
from drgn_sockets.target import open_core
from drgn_sockets.target.btf_source import own_btf
from drgn_sockets.target.symbols import build_id, read_map, vmcoreinfo
from tests.unit.elf_writer import NOTE, PROGBITS, STRTAB, SYMTAB, elf, note, symtab

from .conftest import opened
from .machine import Core, one_line, spawn

SPAN = 1 << 28


@pytest.fixture(params=("5.10", "7.2"))
def kernel(request: pytest.FixtureRequest) -> str:
    """The oldest and the newest."""
    return str(request.param)


@pytest.fixture
def with_btf(kernel: str) -> Core:
    """A core with BTF."""
    return opened(kernel, "elf", "btf")


class Patched:
    """A core of which a range of virtual memory reads otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, core: Core) -> None:
        self._core = core
        self._open_core = open_core.open_core
        self._monkeypatch = monkeypatch

    def run(
        self, address: int, data: bytes | None, capsys: pytest.CaptureFixture[str]
    ) -> tuple[int, list[str]]:
        """Status of ``fds 1`` and its errors, with *data*, or nothing, at *address*."""

        def read(at: int, count: int, offset: int, physical: bool) -> bytes:
            if data is None:
                raise FaultError("not in the core", at)
            return data[offset : offset + count]

        def opened_core(*args: Any) -> Any:
            prog, file = self._open_core(*args)
            prog.add_memory_segment(address, len(data or bytes(4096)), read)
            return prog, file

        self._monkeypatch.setattr(opening, "open_core", opened_core)
        argv = ["-c", str(self._core.path), "--types", "btf", *self._core.system_map, "fds", "1"]
        capsys.readouterr()
        status = cli.main(argv)
        return status, capsys.readouterr().err.splitlines()


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch, with_btf: Core) -> Patched:
    return Patched(monkeypatch, with_btf)


def where(core: Core) -> tuple[int, bytes]:
    data = own_btf(core.prog)
    return core.prog.symbol("__start_BTF").address, data


def test_btf_that_is_cut_short(
    patched: Patched, with_btf: Core, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pages that are not in the core read as zeros."""
    address, data = where(with_btf)
    for keep in (0, 16, 24, 4096, len(data) // 2, len(data) - 4096):
        status, err = patched.run(address, data[:keep].ljust(len(data), b"\0"), capsys)
        assert status == 2 and len(err) == 1, err
        assert "BTF cannot be used" in err[0] and "vmlinux with -s" in err[0]


def test_btf_that_cannot_be_read(
    patched: Patched, with_btf: Core, capsys: pytest.CaptureFixture[str]
) -> None:
    address, _ = where(with_btf)
    status, err = patched.run(address, None, capsys)
    assert status == 2 and len(err) == 1, err
    assert "BTF cannot be read" in err[0] and "--btf" in err[0]


def test_btf_with_damage(
    patched: Patched, with_btf: Core, capsys: pytest.CaptureFixture[str]
) -> None:
    """It works, with rows that say what cannot be read, or is one line."""
    address, data = where(with_btf)
    rng = random.Random(with_btf.kernel)
    offset = struct.unpack_from("<I", data, 4)[0]
    for _ in range(12):
        broken = bytearray(data)
        for _ in range(rng.choice((1, 20, 4000))):
            at = rng.randrange(offset, len(broken)) & ~3
            broken[at : at + 4] = struct.pack("<I", rng.choice((0, 1, rng.getrandbits(32))))
        status, err = patched.run(address, bytes(broken), capsys)
        assert status in (0, 1, 2)
        assert all(line.startswith("drgn-sockets: ") for line in err), err
        assert status != 2 or "BTF" in err[-1] or "cannot go on" in err[-1], err


def test_no_kallsyms_and_no_system_map(with_btf: Core, tmp_path: Path) -> None:
    text = tmp_path / "vmcoreinfo"
    text.write_text(re.sub(r"SYMBOL\(kallsyms_.*\n", "", vmcoreinfo(with_btf.prog)))
    done = spawn("-c", str(with_btf.path), "--vmcoreinfo", str(text), "--types=btf", "fds")
    one_line(done, "kallsyms", "--system-map", "-s")


def lines_of(core: Core) -> list[str]:
    return Path(core.system_map[1]).read_text().splitlines()


def with_map(core: Core, path: Path, lines: list[str]) -> object:
    path.write_text("\n".join(lines) + "\n")
    return spawn("-c", str(core.path), "--types=btf", "--system-map", str(path), "fds", "1")


def moved(lines: list[str], *names: str) -> list[str]:
    """With some symbols elsewhere."""
    found = []
    for line in lines:
        address, kind, name = line.split()
        if name in names:
            address = f"{int(address, 16) + 0x40:016x}"
        found.append(f"{address} {kind} {name}")
    assert found != lines
    return found


def test_a_kernel_without_btf(old: Core, tmp_path: Path) -> None:
    lines = [line for line in lines_of(old) if not line.endswith("_BTF")]
    assert len(lines) == len(lines_of(old)) - 2
    one_line(with_map(old, tmp_path / "map", lines), "has no BTF", "vmlinux with -s")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "names",
    [("init_uts_ns",), ("prb",), ("linux_banner",), ("init_task",), ("init_task", "linux_banner")],
    ids=" ".join,
)
def test_a_system_map_of_the_same_version(old: Core, tmp_path: Path, names: tuple[str]) -> None:
    """And of another build, in which little has moved."""
    done = with_map(old, tmp_path / "map", moved(lines_of(old), *names))
    one_line(done, "of another build", str(tmp_path / "map"))  # type: ignore[arg-type]


# Lines that only /proc/kallsyms has.
MODULES = (
    "ffffffffc0201000 t init_task\t[virtio]",
    "ffffffffc0300000 t bpf_prog_6deef7357e7b4530\t[bpf]",
)


def as_proc_kallsyms(core: Core, boot: int) -> list[str]:
    """
    Lines of ``/proc/kallsyms``: those of a System.map, moved by KASLR.

    tests/guest/test_errors.py uses one that a kernel wrote.

    :param boot: How far another boot of this kernel is from this one
    """
    found = re.search(r"^KERNELOFFSET=(.*)$", vmcoreinfo(core.prog), re.MULTILINE)
    assert found
    offset = int(found[1], 16) + boot
    lines = []
    for line in lines_of(core):
        address, kind, name = line.split()
        # Those of processors have offsets for addresses, which KASLR leaves alone.
        moved = int(address, 16) + (offset if len(address.lstrip("0")) == 16 else 0)
        lines.append(f"{moved:016x} {kind} {name}")
    return [*lines, *MODULES]


@pytest.mark.parametrize("boot", [0, 0x1000000, -0x600000], ids=["same", "higher", "lower"])
def test_a_copy_of_proc_kallsyms(old: Core, tmp_path: Path, boot: int) -> None:
    plain = spawn(*old.target, "ss", "-a", "--json", "--output=all")
    path = tmp_path / "kallsyms"
    path.write_text("\n".join(as_proc_kallsyms(old, boot)) + "\n")
    target = ("-c", str(old.path), "--types=btf", "--system-map", str(path))
    done = spawn(*target, "ss", "-a", "--json", "--output=all")
    assert done.stdout == plain.stdout and done.returncode == 0
    assert done.stdout.count(b"\n") > 100
    assert f", symbols from {path}\n".encode() in done.stderr


@pytest.mark.parametrize("name", ["init_uts_ns", "linux_banner", "init_task"])
def test_a_copy_of_the_kallsyms_of_another_build(old: Core, tmp_path: Path, name: str) -> None:
    *lines, _, _ = as_proc_kallsyms(old, 0x200000)
    done = with_map(old, tmp_path / "kallsyms", moved(lines, name))
    one_line(done, "of another build", str(tmp_path / "kallsyms"))  # type: ignore[arg-type]


def test_a_copy_of_the_kallsyms_of_another_kernel(one: Core, old: Core, tmp_path: Path) -> None:
    done = with_map(one, tmp_path / "kallsyms", as_proc_kallsyms(old, 0))
    one_line(done, "of another build", str(tmp_path / "kallsyms"))  # type: ignore[arg-type]


def test_a_copy_of_proc_kallsyms_without_privilege(old: Core, tmp_path: Path) -> None:
    lines = [f"{0:016x} {line[17:]}" for line in as_proc_kallsyms(old, 0)]
    done = with_map(old, tmp_path / "kallsyms", lines)
    one_line(done, "has no addresses", "without privilege", "as root")  # type: ignore[arg-type]


def test_a_system_map_where_none_is_needed(one: Core, old: Core, tmp_path: Path) -> None:
    """It is used, and held against the kernel."""
    path = tmp_path / "System.map"
    shutil.copyfile(old.system_map[1], path)
    done = spawn("-c", str(one.path), "--types=btf", "--system-map", str(path), "fds", "1")
    one_line(done, "is of another build", str(path))


@pytest.mark.kernels("6.1")
def test_a_system_map_beside_dwarf(tmp_path: Path) -> None:
    dwarf = opened("6.1", "elf", "dwarf")
    done = spawn(*dwarf.target, "--system-map", str(tmp_path / "none"), "fds", "1")
    assert done.returncode == 0
    assert done.stderr.endswith(f"; {tmp_path / 'none'} is not needed\n".encode())
    assert done.stderr.count(b"\n") == 1


def btf_files(core: Core, tmp_path: Path) -> Iterator[Path]:
    """The kernel's BTF, bare and in a vmlinux without DWARF."""
    data = own_btf(core.prog)
    bare = tmp_path / "btf"
    bare.write_bytes(data)
    yield bare
    vmlinux = tmp_path / "vmlinux"
    ident = build_id(core.prog)
    assert ident
    sections = [(".notes", NOTE, 2, note(ident), 0), (".BTF", PROGBITS, 2, data, 0)]
    if core.system_map:
        symbols = {s.name: s.address for s in read_map(core.system_map[1])}
        table, strings = symtab(symbols)
        sections += [(".symtab", SYMTAB, 0, table, 4), (".strtab", STRTAB, 0, strings, 0)]
    vmlinux.write_bytes(elf(*sections))
    yield vmlinux


def test_btf_from_a_file(with_btf: Core, tmp_path: Path) -> None:
    bare, vmlinux = btf_files(with_btf, tmp_path)
    plain = spawn("-c", str(with_btf.path), "--types=btf", *with_btf.system_map, "fds", "--json")
    for words in (["--btf", str(bare), *with_btf.system_map], ["--btf", str(vmlinux)],
                  ["-s", str(vmlinux)], ["--types=btf", "-s", str(vmlinux)]):  # fmt: skip
        done = spawn("-c", str(with_btf.path), *words, "fds", "--json")
        assert done.stderr.startswith(
            b"drgn-sockets: types from the BTF of " + str(tmp_path).encode()
        )
        assert done.stderr.count(b"\n") == 1
        assert (done.stdout, done.returncode) == (plain.stdout, plain.returncode)


def test_btf_of_another_build(old: Core, one: Core, tmp_path: Path) -> None:
    bare, vmlinux = btf_files(old, tmp_path)
    for path in (bare, vmlinux):
        done = spawn("-c", str(one.path), "--btf", str(path), "fds")
        one_line(done, "is of another build", str(path))
    one_line(spawn("-c", str(one.path), "-s", str(vmlinux), "fds"), "not of the kernel looked at")
    # A byte is enough.
    data = bytearray(own_btf(one.prog))
    data[-2] ^= 1
    bare.write_bytes(data)
    one_line(spawn("-c", str(one.path), "--btf", str(bare), "fds"), "is of another build")


def test_btf_files_that_are_none(one: Core, tmp_path: Path) -> None:
    target = ["-c", str(one.path)]
    one_line(spawn(*target, "--btf", str(tmp_path / "none"), "fds"), "cannot read", "none")
    one_line(spawn(*target, "--btf", str(tmp_path), "fds"), "cannot read", str(tmp_path))
    one_line(spawn(*target, "--btf", str(one.path), "fds"), "has no BTF", str(one.path))
    one_line(spawn(*target, "--btf", __file__, "fds"), "has no BTF")
    one_line(spawn(*target, "--btf", "x", "-s", "y", "fds"), "--btf and -s contradict")
    one_line(spawn(*target, "--btf", "x", "--types", "dwarf", "fds"), "--btf and --types dwarf")
